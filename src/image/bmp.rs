//! Windows bitmaps. Widens samples of 5 and 6 bits like Pillow, from which the decoder differs.

use std::io::Cursor;

use ::image::codecs::bmp::BmpDecoder;

use super::decode::Decoded;
use super::raster;
use super::rgb::{StoredGrey, to_rgb};
use super::{ImageError, ImageFormat, ImageLimits, RgbImage};

const FORMAT: ImageFormat = ImageFormat::Bmp;

/// Decodes a Windows bitmap.
pub(super) fn decode(bytes: &[u8], limits: &ImageLimits) -> Result<Decoded, ImageError> {
    let decoder = BmpDecoder::new(Cursor::new(bytes)).map_err(|error| ImageError::from_decoder(FORMAT, error))?;
    let (decoded, orientation) = raster::read(FORMAT, decoder, limits)?;
    let mut rgb = to_rgb(FORMAT, decoded, StoredGrey::Alone)?;
    if let Some(bits) = narrow_channels(bytes)? {
        widen(&mut rgb, bits);
    }
    Ok(Decoded { rgb, orientation })
}

/// Returns the bits of red, green and blue in a 16-bit bitmap; `None` for any other depth.
fn narrow_channels(bytes: &[u8]) -> Result<Option<[u32; 3]>, ImageError> {
    // File header (14), size of the information header (4), sides and planes (10), depth (2),
    // compression (4), then five numbers, then the masks if the compression is 3.
    let number = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk::<4>()?));
    let (Some(40..), Some(planes_and_depth), Some(compression)) = (number(14), number(26), number(30)) else {
        return Ok(None);
    };
    if planes_and_depth >> 16 != 16 {
        return Ok(None);
    }
    match (compression, number(54), number(58), number(62)) {
        (0, ..) | (3, Some(0x7C00), Some(0x03E0), Some(0x001F)) => Ok(Some([5, 5, 5])),
        (3, Some(0xF800), Some(0x07E0), Some(0x001F)) => Ok(Some([5, 6, 5])),
        _ => Err(ImageError::unsupported(FORMAT, "an unusual layout of 16-bit pixels")),
    }
}

/// Widens a sample like Pillow, which truncates. The decoder rounded `value * 255 / most`, so its
/// upper bits are the value.
fn widen(rgb: &mut RgbImage, bits: [u32; 3]) {
    for pixel in rgb.pixels_mut() {
        for (sample, bits) in pixel.0.iter_mut().zip(bits) {
            let value = u32::from(*sample) >> (8 - bits);
            *sample = u8::try_from(value * 255 / ((1 << bits) - 1)).unwrap_or(u8::MAX);
        }
    }
}
