//! Decodes a file to upright RGB: detects the format by its first bytes, decodes within limits,
//! applies the EXIF orientation. Never trusts a media type or a file name.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::exif::Orientation;
use super::{ImageError, ImageFormat, ImageLimits, RgbImage, bmp, gif, jpeg, orientation, raster, tiff, webp};

/// A decoded image as stored in the file, and its orientation.
pub(super) struct Decoded {
    pub(super) rgb: RgbImage,
    pub(super) orientation: Orientation,
}

/// Decodes an image as `transformers.image_utils.load_image` does: EXIF orientation applied, alpha
/// dropped without compositing, ICC profile and gamma ignored, the first frame of an animation.
///
/// # Errors
/// Every variant of [`ImageError`] except `TooTall` and `Config`.
pub fn decode(bytes: &[u8], limits: &ImageLimits) -> Result<RgbImage, ImageError> {
    limits.check_bytes(bytes.len())?;
    let format = format_of(bytes).ok_or(ImageError::UnknownFormat)?;
    let decoded = contained(format, || decode_as(format, bytes, limits))?;
    Ok(orientation::upright(decoded.rgb, decoded.orientation))
}

fn decode_as(format: ImageFormat, bytes: &[u8], limits: &ImageLimits) -> Result<Decoded, ImageError> {
    match format {
        ImageFormat::Jpeg => jpeg::decode(bytes, limits),
        ImageFormat::Png => raster::decode_png(bytes, limits),
        ImageFormat::WebP => webp::decode(bytes, limits),
        ImageFormat::Gif => gif::decode(bytes, limits),
        ImageFormat::Bmp => bmp::decode(bytes, limits),
        ImageFormat::Tiff => tiff::decode(bytes, limits),
    }
}

/// The length of the longest signature of a format: `RIFF....WEBP`.
pub(crate) const MAGIC_BYTES: usize = 12;

/// Returns the format by the first bytes.
pub(crate) fn format_of(bytes: &[u8]) -> Option<ImageFormat> {
    match bytes {
        [0xFF, 0xD8, 0xFF, ..] => Some(ImageFormat::Jpeg),
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1A, b'\n', ..] => Some(ImageFormat::Png),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some(ImageFormat::WebP),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some(ImageFormat::Gif),
        [b'B', b'M', ..] => Some(ImageFormat::Bmp),
        [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => Some(ImageFormat::Tiff),
        _ => None,
    }
}

/// Runs a decoder, and catches its unwinding. libjpeg's fatal errors unwind with a payload and no
/// panic message. A panic of another decoder would be a bug of that decoder, which a hostile file
/// must not turn into a crash.
fn contained<T>(format: ImageFormat, decode: impl FnOnce() -> Result<T, ImageError>) -> Result<T, ImageError> {
    // The closure holds only shared references, so no half-changed state is visible afterwards.
    catch_unwind(AssertUnwindSafe(decode))
        .unwrap_or_else(|payload| Err(ImageError::undecodable(format, words_of(payload.as_ref()))))
}

/// The message of a decoder that unwound.
fn words_of(payload: &(dyn Any + Send)) -> String {
    payload.downcast_ref::<String>().cloned().unwrap_or_else(|| "the decoder gave up".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_bytes_are_refused_as_empty() {
        assert!(matches!(decode(b"", &ImageLimits::default()), Err(ImageError::Empty)));
    }

    #[test]
    fn more_bytes_than_the_limit_are_refused() {
        let limits = ImageLimits { max_bytes: 3, ..ImageLimits::default() };
        assert!(matches!(decode(b"GIF89a", &limits), Err(ImageError::TooManyBytes { bytes: 6, limit: 3 })));
    }

    #[test]
    fn text_and_svg_are_no_known_format() {
        for bytes in [&b"hello"[..], b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"\0\0\0\0", b"R"] {
            assert!(matches!(decode(bytes, &ImageLimits::default()), Err(ImageError::UnknownFormat)));
        }
    }

    #[test]
    fn a_decoder_that_unwinds_becomes_an_error() {
        let error = contained::<()>(ImageFormat::Jpeg, || std::panic::resume_unwind(Box::new(String::from("gave up"))))
            .unwrap_err();
        assert_eq!(error.to_string(), "the jpeg image cannot be decoded; send an intact file");
        assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "gave up");
    }
}
