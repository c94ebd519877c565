//! Images: turns files into `pixel_values`, bit for bit like transformers.
//!
//! `bytes -> RGB, upright [height, width, 3] -> resized [H, W, 3] -> pixel_values [3, H, W]`
//!
//! Pure: opens no file, and reads no clock, environment or global. Size, mean and deviation come
//! from the bundle's manifest, limits from the settings. The engine calls it on its preprocessing
//! threads.
//!
//! No file can end the process. Sizes are checked from the header before pixels are allocated. The
//! unwinding of a decoder, by which libjpeg reports fatal errors, is caught and becomes an
//! [`ImageError`]. That needs `panic = "unwind"`.

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
