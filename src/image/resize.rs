//! torchvision's bicubic resize with antialiasing, bit for bit.

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};

use super::RgbImage;

/// Resizes to `[height, width, 3]` bytes. Like the reference, it does not keep the aspect ratio.
///
/// Two calls, width first: in one call the library goes height first, and a fifth of the bytes
/// differ. Its weights have at most 21 bits where torchvision's have 22, which can show only when
/// shrinking more than 128-fold.
pub(super) fn resize(rgb: &RgbImage, width: u32, height: u32) -> Vec<u8> {
    let source = ImageRef::new(rgb.width(), rgb.height(), rgb.as_raw(), PixelType::U8x3)
        .expect("an RGB image holds three bytes a pixel");
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom)).use_alpha(false);
    let mut resizer = Resizer::new();
    let mut narrow = Image::new(width, rgb.height(), PixelType::U8x3);
    resizer.resize(&source, &mut narrow, &options).expect("both images have the same pixel type");
    let mut small = Image::new(width, height, PixelType::U8x3);
    resizer.resize(&narrow, &mut small, &options).expect("both images have the same pixel type");
    small.into_vec()
}
