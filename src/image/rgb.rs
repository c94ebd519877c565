//! Converts decoded samples to 8-bit RGB like Pillow's `convert("RGB")`, for every format but JPEG.
//! `to_rgb8` of the `image` crate rounds 16-bit samples, where Pillow truncates or saturates them.

use ::image::DynamicImage;

use super::{ImageError, ImageFormat, RgbImage};

/// The colour type of a grey file. Pillow treats 16-bit grey differently with and without an alpha
/// channel, and the decoder turns a transparent colour into an alpha channel, so the type in the
/// file decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StoredGrey {
    /// Grey alone, perhaps with a transparent colour.
    Alone,
    /// Grey with an alpha channel.
    WithAlpha,
}

/// Converts a decoded image to 8-bit RGB.
pub(super) fn to_rgb(format: ImageFormat, decoded: DynamicImage, grey: StoredGrey) -> Result<RgbImage, ImageError> {
    let width = decoded.width();
    let height = decoded.height();
    let samples = match decoded {
        DynamicImage::ImageRgb8(rgb) => return Ok(rgb),
        DynamicImage::ImageRgba8(rgba) => colours(rgba.as_raw(), 4, |sample| sample),
        DynamicImage::ImageLuma8(luma) => greys(luma.as_raw(), 1, |sample| sample),
        DynamicImage::ImageLumaA8(luma) => greys(luma.as_raw(), 2, |sample| sample),
        DynamicImage::ImageLuma16(luma) => greys(luma.as_raw(), 1, saturated),
        DynamicImage::ImageLumaA16(luma) if grey == StoredGrey::Alone => greys(luma.as_raw(), 2, saturated),
        DynamicImage::ImageLumaA16(luma) => greys(luma.as_raw(), 2, high_byte),
        DynamicImage::ImageRgb16(rgb) => colours(rgb.as_raw(), 3, high_byte),
        DynamicImage::ImageRgba16(rgba) => colours(rgba.as_raw(), 4, high_byte),
        _ => return Err(ImageError::unsupported(format, "floating-point samples")),
    };
    RgbImage::from_raw(width, height, samples)
        .ok_or_else(|| ImageError::undecodable(format, "the decoder returned too few samples"))
}

/// Saturates 16-bit grey like Pillow, which turns nearly everything white.
fn saturated(sample: u16) -> u8 {
    u8::try_from(sample).unwrap_or(u8::MAX)
}

fn high_byte(sample: u16) -> u8 {
    (sample >> 8) as u8
}

/// Takes the first three of `channels` samples of each pixel.
fn colours<T: Copy>(samples: &[T], channels: usize, to_byte: impl Fn(T) -> u8) -> Vec<u8> {
    let mut rgb = Vec::with_capacity(samples.len() / channels * 3);
    for pixel in samples.chunks_exact(channels) {
        rgb.extend_from_slice(&[to_byte(pixel[0]), to_byte(pixel[1]), to_byte(pixel[2])]);
    }
    rgb
}

/// Repeats the first of `channels` samples of each pixel three times.
fn greys<T: Copy>(samples: &[T], channels: usize, to_byte: impl Fn(T) -> u8) -> Vec<u8> {
    let mut rgb = Vec::with_capacity(samples.len() / channels * 3);
    for pixel in samples.chunks_exact(channels) {
        rgb.extend_from_slice(&[to_byte(pixel[0]); 3]);
    }
    rgb
}

#[cfg(test)]
mod tests {
    use ::image::{ImageBuffer, LumaA, Rgb};

    use super::*;

    fn bytes(decoded: DynamicImage, grey: StoredGrey) -> Vec<u8> {
        to_rgb(ImageFormat::Png, decoded, grey).unwrap().into_raw()
    }

    #[test]
    fn sixteen_bit_colour_keeps_the_high_byte_without_rounding() {
        let image = ImageBuffer::from_pixel(1, 1, Rgb([0x12FFu16, 0xFFFF, 0x00FF]));
        assert_eq!(bytes(image.into(), StoredGrey::Alone), [0x12, 0xFF, 0x00]);
    }

    #[test]
    fn sixteen_bit_grey_saturates_unless_the_file_stores_alpha() {
        let image = ImageBuffer::from_pixel(1, 1, LumaA([0x12FFu16, 0]));
        assert_eq!(bytes(image.clone().into(), StoredGrey::Alone), [255; 3]);
        assert_eq!(bytes(image.into(), StoredGrey::WithAlpha), [0x12; 3]);
    }

    #[test]
    fn floating_point_samples_are_refused() {
        let image = DynamicImage::ImageRgb32F(ImageBuffer::new(1, 1));
        assert!(matches!(to_rgb(ImageFormat::Tiff, image, StoredGrey::Alone), Err(ImageError::Unsupported { .. })));
    }
}
