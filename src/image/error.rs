//! What can be wrong with an image, for callers that answer a client. A message never holds bytes of the image.

use std::error::Error;
use std::fmt;
use std::io::ErrorKind;

/// A container format, told by its first bytes.
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

/// Why bytes did not become `pixel_values`.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// There are no bytes at all.
    #[error("the image is empty, send the bytes of an image file")]
    Empty,
    /// The file is larger than the limit.
    #[error("the image file has {bytes} bytes, the limit is {limit}")]
    TooManyBytes {
        /// Size of the file.
        bytes: usize,
        /// The limit in force.
        limit: usize,
    },
    /// The header declares more pixels than the limit; nothing was allocated for them.
    #[error("the image has {width} x {height} pixels, more than the limit of {limit}, send a smaller one")]
    TooManyPixels {
        /// Declared width.
        width: u32,
        /// Declared height.
        height: u32,
        /// The limit in force.
        limit: u64,
    },
    /// So tall that the image between the two passes of the resize would exceed the pixel limit.
    #[error("the image is {height} pixels tall, more than the {limit} that can be resized, send a smaller one")]
    TooTall {
        /// Height after orientation.
        height: u32,
        /// The largest height that the pixel limit allows.
        limit: u64,
    },
    /// Width or height is zero.
    #[error("the {format} image has no pixels, its width or height is zero")]
    NoPixels {
        /// The format told by the first bytes.
        format: ImageFormat,
    },
    /// The first bytes belong to no format that is read here.
    #[error("the image format is not known, send jpeg, png, webp, gif, bmp or tiff")]
    UnknownFormat,
    /// The file is intact as far as can be told, but of a kind that is not read here.
    #[error("this {format} image holds {feature}, which is not supported, convert it to 8-bit rgb")]
    Unsupported {
        /// The format told by the first bytes.
        format: ImageFormat,
        /// What is not supported.
        feature: String,
    },
    /// The file ends before the image does.
    #[error("the {format} image is truncated, send the whole file")]
    Truncated {
        /// The format told by the first bytes.
        format: ImageFormat,
    },
    /// The decoder refused the file.
    #[error("the {format} image cannot be decoded, send an intact file")]
    Undecodable {
        /// The format told by the first bytes.
        format: ImageFormat,
        /// What the decoder said; for logs.
        source: Box<dyn Error + Send + Sync>,
    },
    /// Size, mean or deviation of a bundle make no sense.
    #[error("image preprocessing cannot use {0}, check the manifest of the bundle")]
    Config(String),
}

impl ImageError {
    /// The decoder's own words as the source of an [`ImageError::Undecodable`].
    pub(super) fn undecodable(format: ImageFormat, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Undecodable { format, source: source.into() }
    }

    /// A kind of file that is refused on purpose.
    pub(super) fn unsupported(format: ImageFormat, feature: impl Into<String>) -> Self {
        Self::Unsupported { format, feature: feature.into() }
    }

    /// An error of the `image` crate.
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

/// The kind of an unsupported feature in our words: the crate's message may quote the file.
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

/// Whether an error, or one that it wraps, is the end of the data.
fn says_unexpected_end(error: &(dyn Error + 'static)) -> bool {
    std::iter::successors(Some(error), |&error| error.source()).any(|error| {
        error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::UnexpectedEof)
    })
}
