//! PNG, and the reader for all formats of the `image` crate: limits from the header, then pixels,
//! then RGB.

use std::io::Cursor;

use ::image::codecs::png::PngDecoder;
use ::image::{DynamicImage, ImageDecoder};

use super::decode::Decoded;
use super::exif::Orientation;
use super::rgb::{StoredGrey, to_rgb};
use super::{ImageError, ImageFormat, ImageLimits};

/// Decodes a PNG, or the default image of an animated one.
pub(super) fn decode_png(bytes: &[u8], limits: &ImageLimits) -> Result<Decoded, ImageError> {
    let format = ImageFormat::Png;
    // Signature (8), length and name of IHDR (8), width (4), height (4), bit depth (1), colour type
    // (1).
    let Some(header) = bytes.first_chunk::<26>() else {
        return Err(ImageError::Truncated { format });
    };
    let side = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    limits.check_pixels(format, side(16), side(20))?;
    let grey = if header[25] == 0 { StoredGrey::Alone } else { StoredGrey::WithAlpha };
    let decoder = PngDecoder::with_limits(Cursor::new(bytes), limits.for_decoder())
        .map_err(|error| ImageError::from_decoder(format, error))?;
    let (decoded, orientation) = read(format, decoder, limits)?;
    Ok(Decoded { rgb: to_rgb(format, decoded, grey)?, orientation })
}

/// Checks the size that the decoder read from the header, then reads metadata and pixels.
pub(super) fn read(
    format: ImageFormat,
    mut decoder: impl ImageDecoder,
    limits: &ImageLimits,
) -> Result<(DynamicImage, Orientation), ImageError> {
    let (width, height) = decoder.dimensions();
    limits.check_pixels(format, width, height)?;
    decoder.set_limits(limits.for_decoder()).map_err(|error| ImageError::from_decoder(format, error))?;
    // Unreadable metadata means no orientation.
    let exif = decoder.exif_metadata().ok().flatten();
    let xmp = decoder.xmp_metadata().ok().flatten();
    let orientation = Orientation::from_metadata(exif.as_deref(), xmp.as_deref());
    let decoded = DynamicImage::from_decoder(decoder).map_err(|error| ImageError::from_decoder(format, error))?;
    Ok((decoded, orientation))
}
