//! Images: the bytes of a file become `pixel_values`, bit for bit as transformers makes them.
//!
//! `bytes -> RGB, upright [height, width, 3] -> resized [H, W, 3] -> pixel_values [3, H, W]`
//!
//! Used by `engine` (the image worker) and by the command line. This module is pure: it opens no file and reads no
//! clock, environment or global. Size, mean and deviation come from the bundle's manifest, limits from the settings.
//!
//! Nothing that is sent as an image ends the process: sizes are checked from the header before memory is taken for
//! pixels, and a decoder that unwinds (libjpeg reports its fatal errors so) is caught and becomes an [`ImageError`].
//! That needs `panic = "unwind"`.

mod bmp;
mod decode;
mod error;
mod exif;
mod gif;
mod jpeg;
mod limits;
mod normalize;
mod orientation;
mod preprocessor;
mod raster;
mod resize;
mod rgb;
mod tiff;
mod webp;

pub use ::image::RgbImage;
pub use decode::decode;
pub(crate) use decode::{MAGIC_BYTES, format_of};
pub use error::{ImageError, ImageFormat};
pub use limits::ImageLimits;
pub use preprocessor::{PixelValues, Preprocessor, PreprocessorConfig};

#[cfg(test)]
mod fixture_tests;
#[cfg(test)]
mod hostile_tests;
