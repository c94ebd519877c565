//! The errors of images. Their messages are sent to clients, and never hold bytes of the image.

use std::error::Error;
use std::fmt;
use std::io::ErrorKind;

/// A file format, detected by the first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ImageFormat {
    /// JPEG: baseline or progressive, grey, RGB or CMYK.
    Jpeg,
    /// PNG, every colour type and depth.
    Png,
    /// WebP: lossy, lossless, with alpha, animated.
    WebP,
    /// GIF, of which the first frame is used.
    Gif,
    /// Windows bitmap.
    Bmp,
    /// TIFF: grey and RGB, uncompressed, LZW, Deflate or PackBits.
    Tiff,
}

impl fmt::Display for ImageFormat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Jpeg => "jpeg",
            Self::Png => "png",
            Self::WebP => "webp",
            Self::Gif => "gif",
            Self::Bmp => "bmp",
            Self::Tiff => "tiff",
        })
    }
}

/// An error in place of `pixel_values`.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file is empty.
    #[error("the image is empty; send the bytes of an image file")]
    Empty,
    /// The file is larger than the limit.
    #[error("the image file has {bytes} bytes, more than the limit of {limit}; send a smaller one")]
    TooManyBytes {
        /// Size of the file.
        bytes: usize,
        /// The limit in force.
        limit: usize,
    },
    /// The header declares more pixels than the limit. They were not allocated.
    #[error("the image has {width} x {height} pixels, more than the limit of {limit}; send a smaller one")]
    TooManyPixels {
        /// Declared width.
        width: u32,
        /// Declared height.
        height: u32,
        /// The limit in force.
        limit: u64,
    },
    /// The image is so tall that it would exceed the pixel limit between the two passes of the
    /// resize.
    #[error("the image is {height} pixels tall, more than the {limit} that can be resized; send a smaller one")]
    TooTall {
        /// Height after orientation.
        height: u32,
        /// The greatest height within the pixel limit.
        limit: u64,
    },
    /// Width or height is zero.
    #[error("the {format} image has no pixels, its width or height is zero")]
    NoPixels {
        /// The format of the file.
        format: ImageFormat,
    },
    /// The first bytes are not those of a supported format.
    #[error("the image format is not known; send jpeg, png, webp, gif, bmp or tiff")]
    UnknownFormat,
    /// The file has a feature that is not supported.
    #[error("this {format} image holds {feature}, which is not supported; convert it to 8-bit rgb")]
    Unsupported {
        /// The format of the file.
        format: ImageFormat,
        /// The feature.
        feature: String,
    },
    /// The file ends before the image does.
    #[error("the {format} image is truncated; send the whole file")]
    Truncated {
        /// The format of the file.
        format: ImageFormat,
    },
    /// The decoder rejected the file.
    #[error("the {format} image cannot be decoded; send an intact file")]
    Undecodable {
        /// The format of the file.
        format: ImageFormat,
        /// The error of the decoder, for logs.
        source: Box<dyn Error + Send + Sync>,
    },
    /// Size, mean or deviation of the bundle are out of range.
    #[error("image preprocessing cannot use {0}; check the manifest of the bundle")]
    Config(String),
}

impl ImageError {
    /// Makes an [`ImageError::Undecodable`] with the decoder's message as its source.
    pub(super) fn undecodable(format: ImageFormat, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Undecodable { format, source: source.into() }
    }

    /// Makes an [`ImageError::Unsupported`].
    pub(super) fn unsupported(format: ImageFormat, feature: impl Into<String>) -> Self {
        Self::Unsupported { format, feature: feature.into() }
    }

    /// Converts an error of the `image` crate.
    pub(super) fn from_decoder(format: ImageFormat, error: ::image::ImageError) -> Self {
        match error {
            ::image::ImageError::Unsupported(error) => Self::unsupported(format, error.kind_in_words()),
            // This variant hides the error it wraps from `source`.
            ::image::ImageError::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => {
                Self::Truncated { format }
            }
            error if says_unexpected_end(&error) => Self::Truncated { format },
            error => Self::undecodable(format, error),
        }
    }
}

/// Returns the name of an unsupported feature. The crate's own message may quote the file.
trait KindInWords {
    fn kind_in_words(&self) -> &'static str;
}

impl KindInWords for ::image::error::UnsupportedError {
    fn kind_in_words(&self) -> &'static str {
        match self.kind() {
            ::image::error::UnsupportedErrorKind::Color(_) => "an unusual colour type",
            _ => "an unusual feature",
        }
    }
}

/// Returns whether an error, or one that it wraps, is the end of the data.
fn says_unexpected_end(error: &(dyn Error + 'static)) -> bool {
    std::iter::successors(Some(error), |&error| error.source()).any(|error| {
        error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::UnexpectedEof)
    })
}
