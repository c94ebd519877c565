//! The limits on the size of an image. They come from the settings; the decoders check them.

use super::{ImageError, ImageFormat};

/// Limits on one image, checked before its pixels are allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageLimits {
    /// The most bytes of a file.
    pub max_bytes: usize,
    /// The most pixels that a header may declare.
    pub max_pixels: u64,
}

impl ImageLimits {
    /// 100 MiB.
    pub const DEFAULT_MAX_BYTES: usize = 100 * 1024 * 1024;
    /// The size at which Pillow rejects an image as a decompression bomb.
    pub const DEFAULT_MAX_PIXELS: u64 = 178_956_970;

    /// Checks the size of the file.
    pub(super) fn check_bytes(&self, bytes: usize) -> Result<(), ImageError> {
        if bytes == 0 {
            return Err(ImageError::Empty);
        }
        if bytes > self.max_bytes {
            return Err(ImageError::TooManyBytes { bytes, limit: self.max_bytes });
        }
        Ok(())
    }

    /// Checks the size that a header declares.
    pub(super) fn check_pixels(&self, format: ImageFormat, width: u32, height: u32) -> Result<(), ImageError> {
        if width == 0 || height == 0 {
            return Err(ImageError::NoPixels { format });
        }
        if u64::from(width) * u64::from(height) > self.max_pixels {
            return Err(ImageError::TooManyPixels { width, height, limit: self.max_pixels });
        }
        Ok(())
    }

    /// Returns the same limits for the `image` crate: 8 bytes a pixel, twice, because some decoders
    /// keep a copy.
    pub(super) fn for_decoder(&self) -> ::image::Limits {
        let mut limits = ::image::Limits::no_limits();
        limits.max_alloc = Some(self.max_pixels.saturating_mul(16).saturating_add(1 << 20));
        limits
    }
}

impl Default for ImageLimits {
    fn default() -> Self {
        Self { max_bytes: Self::DEFAULT_MAX_BYTES, max_pixels: Self::DEFAULT_MAX_PIXELS }
    }
}
