//! TIFF, after a check of its tags: rejects by name the features that would decode to other pixels
//! than the reference's.

use std::io::Cursor;

use ::image::codecs::tiff::TiffDecoder;
use ::image::{DynamicImage, Rgba};

use super::decode::Decoded;
use super::exif::{Ifd, Orientation};
use super::raster;
use super::rgb::{StoredGrey, to_rgb};
use super::{ImageError, ImageFormat, ImageLimits};

const FORMAT: ImageFormat = ImageFormat::Tiff;

// Tags of the TIFF 6.0 specification.
const WIDTH: u16 = 256;
const HEIGHT: u16 = 257;
const COMPRESSION: u16 = 259;
const PHOTOMETRIC: u16 = 262;
const ORIENTATION: u16 = 274;
const EXTRA_SAMPLES: u16 = 338;

/// Decodes the first page of a TIFF.
pub(super) fn decode(bytes: &[u8], limits: &ImageLimits) -> Result<Decoded, ImageError> {
    let tags = tags_of(bytes)?;
    check_tags(&tags, limits)?;
    let decoder = TiffDecoder::new(Cursor::new(bytes)).map_err(|error| ImageError::from_decoder(FORMAT, error))?;
    let (mut decoded, xmp_orientation) = raster::read(FORMAT, decoder, limits)?;
    if tags.numbers(EXTRA_SAMPLES).is_some_and(|samples| samples.first() == Some(&1)) {
        divide_by_alpha(&mut decoded);
    }
    let orientation = tags.number(ORIENTATION).map_or(xmp_orientation, Orientation::from_number);
    Ok(Decoded { rgb: to_rgb(FORMAT, decoded, StoredGrey::WithAlpha)?, orientation })
}

fn tags_of(bytes: &[u8]) -> Result<Ifd<'_>, ImageError> {
    if bytes[2] == 43 || bytes[3] == 43 {
        return Err(ImageError::unsupported(FORMAT, "the BigTIFF layout"));
    }
    Ifd::first_of(bytes).ok_or(ImageError::Truncated { format: FORMAT })
}

fn check_tags(tags: &Ifd<'_>, limits: &ImageLimits) -> Result<(), ImageError> {
    if let (Some(width), Some(height)) = (tags.number(WIDTH), tags.number(HEIGHT)) {
        let side = |length: u64| u32::try_from(length).unwrap_or(u32::MAX);
        limits.check_pixels(FORMAT, side(width), side(height))?;
    }
    let colours = match tags.number(PHOTOMETRIC) {
        Some(0..=2) | None => None,
        Some(3) => Some("palette colours"),
        Some(5) => Some("cmyk colours"),
        Some(6) => Some("ycbcr colours"),
        Some(8..=10) => Some("lab colours"),
        Some(_) => Some("an unusual colour space"),
    };
    // None, LZW, Deflate (two numbers) and PackBits lose nothing, so every decoder gives the same
    // pixels.
    let compression = match tags.number(COMPRESSION) {
        Some(1 | 5 | 8 | 32773 | 32946) | None => None,
        Some(6 | 7) => Some("jpeg compression"),
        Some(2..=4) => Some("fax compression"),
        Some(_) => Some("an unusual compression"),
    };
    match colours.or(compression) {
        Some(feature) => Err(ImageError::unsupported(FORMAT, feature)),
        None => Ok(()),
    }
}

/// Undoes premultiplication like Pillow's unpacker, which leaves 16-bit images unchanged.
fn divide_by_alpha(decoded: &mut DynamicImage) {
    let DynamicImage::ImageRgba8(rgba) = decoded else {
        return;
    };
    for Rgba([colour @ .., alpha]) in rgba.pixels_mut() {
        for sample in colour {
            let divided = (u16::from(*sample) * 255).checked_div(u16::from(*alpha)).unwrap_or(0);
            *sample = u8::try_from(divided).unwrap_or(u8::MAX);
        }
    }
}
