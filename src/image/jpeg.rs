//! JPEG through libjpeg-turbo's code (mozjpeg), whose pixels equal those of the reference. Header,
//! orientation and limits are checked here first. `decode` catches the unwinding of libjpeg's fatal
//! errors.

use std::cell::Cell;
use std::io::{self, BufRead, Read};

use mozjpeg::decompress::DecompressStarted;
use mozjpeg::{ColorSpace, Decompress};

use super::decode::Decoded;
use super::exif::Orientation;
use super::{ImageError, ImageFormat, ImageLimits, RgbImage};

const FORMAT: ImageFormat = ImageFormat::Jpeg;

/// The most scans. A progressive file of a few kilobytes can hold thousands of empty scans, each a
/// pass over the whole image. Encoders write about ten.
const MOST_SCANS: usize = 500;

/// Decodes a JPEG.
pub(super) fn decode(bytes: &[u8], limits: &ImageLimits) -> Result<Decoded, ImageError> {
    let header = Header::read(bytes)?;
    limits.check_pixels(FORMAT, header.width, header.height)?;
    header.check_kind(bytes)?;
    let is_exhausted = Cell::new(false);
    let decoder = Decompress::builder()
        .from_reader(Watched { rest: bytes, is_exhausted: &is_exhausted })
        .map_err(|error| ImageError::undecodable(FORMAT, error))?;
    if decoder.size() != (header.width as usize, header.height as usize) {
        return Err(ImageError::undecodable(FORMAT, "the file has two headers of different sizes"));
    }
    let samples = if header.components == 4 { cmyk_samples(decoder) } else { rgb_samples(decoder) };
    // libjpeg fills missing rows with grey. A file without its end marker may still have all of
    // them.
    if is_exhausted.get() {
        return Err(ImageError::Truncated { format: FORMAT });
    }
    let samples = samples.map_err(|error| ImageError::undecodable(FORMAT, error))?;
    let rgb = RgbImage::from_raw(header.width, header.height, samples)
        .ok_or_else(|| ImageError::undecodable(FORMAT, "the decoder returned too few samples"))?;
    Ok(Decoded { rgb, orientation: header.orientation })
}

type Decoder<'a> = Decompress<Watched<'a>>;

fn rgb_samples(decoder: Decoder<'_>) -> io::Result<Vec<u8>> {
    decoder.rgb()?.read_scanlines::<u8>()
}

/// Converts row by row, so that the four channels are never in memory as a whole.
fn cmyk_samples(decoder: Decoder<'_>) -> io::Result<Vec<u8>> {
    let mut decoder: DecompressStarted<_> = decoder.to_colorspace(ColorSpace::JCS_CMYK)?;
    let mut row = vec![[0u8; 4]; decoder.width()];
    let mut rgb = Vec::with_capacity(decoder.width() * decoder.height() * 3);
    for _ in 0..decoder.height() {
        decoder.read_scanlines_into(&mut row)?;
        rgb.extend(row.iter().flat_map(|&inverted| cmyk_to_rgb(inverted.map(|ink| 255 - ink))));
    }
    Ok(rgb)
}

/// Converts a pixel with Pillow's integer arithmetic.
fn cmyk_to_rgb([c, m, y, k]: [u8; 4]) -> [u8; 3] {
    let white = 255 - i32::from(k);
    [c, m, y].map(|ink| {
        let product = i32::from(ink) * white + 128;
        let shade = (product + (product >> 8)) >> 8;
        u8::try_from((white - shade).max(0)).unwrap_or(u8::MAX)
    })
}

/// The bytes of the file, and whether libjpeg read past their end.
struct Watched<'a> {
    rest: &'a [u8],
    is_exhausted: &'a Cell<bool>,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.rest.read(buffer)
    }
}

impl BufRead for Watched<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.rest.is_empty() {
            self.is_exhausted.set(true);
        }
        Ok(self.rest)
    }

    fn consume(&mut self, count: usize) {
        self.rest.consume(count);
    }
}

/// The header: the markers before the first scan.
struct Header {
    width: u32,
    height: u32,
    components: u8,
    precision: u8,
    is_arithmetic: bool,
    orientation: Orientation,
}

impl Header {
    fn read(bytes: &[u8]) -> Result<Self, ImageError> {
        let mut exif = Vec::new();
        let mut xmp = None;
        let mut frame = None;
        for segment in Segments::new(bytes) {
            let Segment { marker, body } = segment?;
            match marker {
                0xE1 if body.starts_with(EXIF) => exif.extend_from_slice(&body[EXIF.len()..]),
                0xE1 if body.starts_with(XMP) => xmp = Some(&body[XMP.len()..]),
                // Start of frame: C0 to CF without DHT (C4), JPG (C8) and DAC (CC).
                0xC0..=0xCF if !matches!(marker, 0xC4 | 0xC8 | 0xCC) => frame = Some((marker, body)),
                _ => {}
            }
        }
        let (marker, body) = frame.ok_or_else(|| ImageError::undecodable(FORMAT, "no frame before the first scan"))?;
        let &[precision, height_1, height_0, width_1, width_0, components, ..] = body else {
            return Err(ImageError::Truncated { format: FORMAT });
        };
        Ok(Self {
            width: u32::from(u16::from_be_bytes([width_1, width_0])),
            height: u32::from(u16::from_be_bytes([height_1, height_0])),
            components,
            precision,
            is_arithmetic: marker > 0xC8,
            orientation: Orientation::from_metadata(Some(&exif), xmp),
        })
    }

    /// Rejects features that libjpeg would reject with a message of its own, and files of excessive
    /// cost.
    fn check_kind(&self, bytes: &[u8]) -> Result<(), ImageError> {
        let feature = match self {
            Self { precision: 8, components: 1 | 3 | 4, is_arithmetic: false, .. } => None,
            Self { is_arithmetic: true, .. } => Some("arithmetic coding".to_owned()),
            Self { precision: 8, components, .. } => Some(format!("{components} colour channels")),
            Self { precision, .. } => Some(format!("{precision}-bit samples")),
        };
        let feature = feature.or_else(|| {
            let scans = bytes.windows(2).filter(|pair| *pair == [0xFF, 0xDA]).count();
            (scans > MOST_SCANS).then(|| format!("{scans} scans"))
        });
        match feature {
            Some(feature) => Err(ImageError::unsupported(FORMAT, feature)),
            None => Ok(()),
        }
    }
}

const EXIF: &[u8] = b"Exif\0\0";
const XMP: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";

struct Segment<'a> {
    marker: u8,
    body: &'a [u8],
}

/// The marker segments before the first scan.
struct Segments<'a> {
    rest: &'a [u8],
}

impl<'a> Segments<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes.get(2..).unwrap_or_default() }
    }

    /// Returns the next marker. Skips bytes between markers, as libjpeg does.
    fn marker(&mut self) -> Option<u8> {
        loop {
            let start = self.rest.iter().position(|&byte| byte == 0xFF)?;
            let after = self.rest[start..].iter().position(|&byte| byte != 0xFF)?;
            let marker = self.rest[start + after];
            self.rest = &self.rest[start + after + 1..];
            // Stuffed zero, TEM, restart markers and SOI stand alone.
            if !matches!(marker, 0x00 | 0x01 | 0xD0..=0xD8) {
                return Some(marker);
            }
        }
    }

    fn body(&mut self) -> Option<&'a [u8]> {
        let length = usize::from(u16::from_be_bytes(*self.rest.first_chunk::<2>()?));
        let body = self.rest.get(2..length)?;
        self.rest = &self.rest[length..];
        Some(body)
    }
}

impl<'a> Iterator for Segments<'a> {
    type Item = Result<Segment<'a>, ImageError>;

    fn next(&mut self) -> Option<Self::Item> {
        let segment = match self.marker() {
            Some(0xDA) => return None,
            Some(marker) if marker != 0xD9 => self.body().map(|body| Segment { marker, body }),
            _ => None,
        };
        Some(segment.ok_or(ImageError::Truncated { format: FORMAT }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cmyk_corners_and_a_middle_tone_follow_pillow() {
        assert_eq!(cmyk_to_rgb([0, 0, 0, 0]), [255, 255, 255]);
        assert_eq!(cmyk_to_rgb([0, 0, 0, 255]), [0, 0, 0]);
        assert_eq!(cmyk_to_rgb([255, 0, 128, 0]), [0, 255, 127]);
        assert_eq!(cmyk_to_rgb([10, 200, 77, 99]), [150, 34, 109]);
    }

    #[test]
    fn a_header_without_a_frame_is_refused() {
        assert!(matches!(Header::read(&[0xFF, 0xD8, 0xFF, 0xD9]), Err(ImageError::Truncated { .. })));
        assert!(matches!(Header::read(&[0xFF, 0xD8, 0xFF, 0xDA]), Err(ImageError::Undecodable { .. })));
    }
}
