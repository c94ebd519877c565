//! WebP, after a check of its chunks: the decoder trusts the length of a chunk before it reads the
//! chunk.

use std::io::Cursor;

use ::image::codecs::webp::WebPDecoder;

use super::decode::Decoded;
use super::raster;
use super::rgb::{StoredGrey, to_rgb};
use super::{ImageError, ImageFormat, ImageLimits};

const FORMAT: ImageFormat = ImageFormat::WebP;

/// Decodes a WebP, or the first frame of an animated one.
pub(super) fn decode(bytes: &[u8], limits: &ImageLimits) -> Result<Decoded, ImageError> {
    check_chunks(bytes)?;
    let decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(|error| ImageError::from_decoder(FORMAT, error))?;
    let (decoded, orientation) = raster::read(FORMAT, decoder, limits)?;
    Ok(Decoded { rgb: to_rgb(FORMAT, decoded, StoredGrey::Alone)?, orientation })
}

/// Checks that every chunk lies within the file, as libwebp does.
fn check_chunks(bytes: &[u8]) -> Result<(), ImageError> {
    let truncated = || ImageError::Truncated { format: FORMAT };
    let declared = length_at(bytes, 4).ok_or_else(truncated)?;
    let mut chunks = bytes.get(8..).and_then(|body| body.get(..declared)).ok_or_else(truncated)?;
    chunks = chunks.get(4..).ok_or_else(truncated)?; // the name WEBP
    while chunks.len() >= 8 {
        let length = length_at(chunks, 4).ok_or_else(truncated)?;
        let body = chunks.get(8..).filter(|body| body.len() >= length).ok_or_else(truncated)?;
        let padded = length + (length & 1);
        chunks = body.get(padded..).unwrap_or_default();
    }
    Ok(())
}

fn length_at(bytes: &[u8], at: usize) -> Option<usize> {
    let length = bytes.get(at..)?.first_chunk::<4>()?;
    usize::try_from(u32::from_le_bytes(*length)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_that_claims_more_than_the_file_holds_is_refused_before_decoding() {
        let mut bytes = b"RIFF\x10\0\0\0WEBPEXIF\xFF\xFF\xFF\x7F".to_vec();
        bytes.extend_from_slice(&[0; 4]);
        let error = check_chunks(&bytes).unwrap_err();
        assert!(matches!(error, ImageError::Truncated { .. }));
    }
}
