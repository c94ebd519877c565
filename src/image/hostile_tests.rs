//! Broken and malicious files: each must give an answer or an error, quickly, and never end the
//! process.

use std::path::Path;

use super::{ImageError, ImageFormat, ImageLimits, decode};

/// Small enough that a lie about the size is refused, large enough for every fixture.
const LIMITS: ImageLimits = ImageLimits { max_bytes: 1 << 20, max_pixels: 1 << 16 };

fn fixtures() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension != "py" && extension != "md"))
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(path).unwrap()))
        .collect();
    files.sort();
    assert!(files.len() > 50);
    files
}

fn fixture(name: &str) -> Vec<u8> {
    fixtures().into_iter().find(|(file, _)| file == name).unwrap().1
}

/// A small generator, so that a failure can be repeated (xorshift, Marsaglia 2003).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

/// A file gives an error, or an image within the limits whose pixels are all there.
fn assert_is_whole_or_an_error(file: &[u8]) {
    if let Ok(image) = decode(file, &LIMITS) {
        let pixels = u64::from(image.width()) * u64::from(image.height());
        assert!((1..=LIMITS.max_pixels).contains(&pixels), "{} x {}", image.width(), image.height());
        assert_eq!(image.as_raw().len() as u64, 3 * pixels);
    }
}

#[test]
fn fixtures_cut_anywhere_give_an_error_or_a_whole_image() {
    for (_, bytes) in fixtures() {
        let step = bytes.len().div_ceil(150);
        for length in (0..bytes.len()).step_by(step).chain(bytes.len().saturating_sub(40)..bytes.len()) {
            assert_is_whole_or_an_error(&bytes[..length]);
        }
    }
}

#[test]
fn fixtures_with_flipped_bytes_give_an_error_or_a_whole_image() {
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    for (_, bytes) in fixtures() {
        for _ in 0..120 {
            let mut broken = bytes.clone();
            for _ in 0..=random.below(4) {
                // Half of the flips hit the header, where the interesting lies are told.
                let end = if random.below(2) == 0 { broken.len().min(200) } else { broken.len() };
                broken[random.below(end)] = random.below(256) as u8;
            }
            assert_is_whole_or_an_error(&broken);
        }
    }
}

#[test]
fn half_of_a_file_is_an_error_in_every_format() {
    for (name, bytes) in fixtures() {
        if name.contains("animated") || name.contains("one-pixel") {
            continue; // the first frame may be whole
        }
        assert!(decode(&bytes[..bytes.len() / 2], &LIMITS).is_err(), "{name}");
    }
}

#[test]
fn a_jpeg_cut_in_its_last_scan_is_truncated_rather_than_grey() {
    for name in ["jpeg-420.jpg", "jpeg-progressive-420.jpg", "jpeg-grey.jpg", "jpeg-cmyk.jpg"] {
        let bytes = fixture(name);
        let error = decode(&bytes[..bytes.len() - 12], &LIMITS).unwrap_err();
        assert!(matches!(error, ImageError::Truncated { format: ImageFormat::Jpeg }), "{name}: {error:?}");
    }
}

#[test]
fn a_fatal_error_of_libjpeg_is_an_error_value() {
    let mut bytes = fixture("jpeg-420.jpg");
    let tables = bytes.windows(2).position(|pair| pair == [0xFF, 0xC4]).unwrap();
    bytes[tables + 5] = 0xFF; // a Huffman table with 255 codes of one bit
    let error = decode(&bytes, &LIMITS).unwrap_err();
    assert!(matches!(error, ImageError::Undecodable { .. }), "{error:?}");
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("libjpeg"), "{error:?}");
}

#[test]
fn a_declared_size_beyond_the_limit_is_refused_from_the_header() {
    let sides = |at_width: usize, at_height: usize, bytes: [u8; 4]| (at_width, at_height, bytes);
    let be = 30_000u32.to_be_bytes();
    let le = 30_000u32.to_le_bytes();
    let cases = [("png-rgb.png", sides(16, 20, be)), ("bmp-24.bmp", sides(18, 22, le))];
    for (name, (width, height, side)) in cases {
        let mut bytes = fixture(name);
        bytes[width..width + 4].copy_from_slice(&side);
        bytes[height..height + 4].copy_from_slice(&side);
        let error = decode(&bytes, &ImageLimits::default()).unwrap_err();
        assert!(matches!(error, ImageError::TooManyPixels { width: 30_000, height: 30_000, .. }), "{name}: {error:?}");
    }
    let mut gif = fixture("gif.gif");
    gif[6..10].copy_from_slice(&[0x30, 0x75, 0x30, 0x75]);
    assert!(matches!(decode(&gif, &ImageLimits::default()), Err(ImageError::TooManyPixels { .. })));
    let mut jpeg = fixture("jpeg-420.jpg");
    let frame = jpeg.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0x75, 0x30, 0x75, 0x30]);
    assert!(matches!(decode(&jpeg, &ImageLimits::default()), Err(ImageError::TooManyPixels { .. })));
    let tiny = ImageLimits { max_pixels: 100, ..LIMITS };
    for name in ["webp-lossy.webp", "webp-lossless.webp", "webp-animated.webp", "tiff-rgb.tif", "tiff-rgb-lzw.tif"] {
        assert!(matches!(decode(&fixture(name), &tiny), Err(ImageError::TooManyPixels { .. })), "{name}");
    }
}

#[test]
fn zero_sides_are_refused() {
    let mut png = fixture("png-rgb.png");
    png[16..20].copy_from_slice(&[0; 4]);
    assert!(matches!(decode(&png, &LIMITS), Err(ImageError::NoPixels { .. })));
    let mut jpeg = fixture("jpeg-420.jpg");
    let frame = jpeg.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap();
    jpeg[frame + 5..frame + 7].copy_from_slice(&[0; 2]);
    assert!(matches!(decode(&jpeg, &LIMITS), Err(ImageError::NoPixels { .. })));
    let mut gif = fixture("gif.gif");
    gif[6..8].copy_from_slice(&[0; 2]);
    assert!(matches!(decode(&gif, &LIMITS), Err(ImageError::NoPixels { .. })));
}

#[test]
fn a_wrong_png_checksum_is_an_error_and_bytes_after_the_end_are_not() {
    let mut bytes = fixture("png-rgb.png");
    bytes.extend_from_slice(b"trailing bytes");
    assert!(decode(&bytes, &LIMITS).is_ok());
    bytes[29] ^= 1; // the checksum of IHDR
    assert!(decode(&bytes, &LIMITS).is_err());
}

#[test]
fn tiff_kinds_that_would_decode_to_other_pixels_are_refused_by_name() {
    let cases = [(262u16, 3u16, "palette"), (262, 5, "cmyk"), (262, 6, "ycbcr"), (259, 7, "jpeg")];
    for (tag, value, word) in cases {
        let mut bytes = fixture("tiff-rgb.tif");
        let entry = [tag.to_le_bytes(), [3, 0]].concat();
        let at = bytes.windows(4).position(|window| window == entry).unwrap();
        bytes[at + 8..at + 10].copy_from_slice(&value.to_le_bytes());
        let error = decode(&bytes, &LIMITS).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[test]
fn a_jpeg_with_thousands_of_scans_is_refused() {
    let mut bytes = fixture("jpeg-progressive-420.jpg");
    for _ in 0..5_000 {
        bytes.extend_from_slice(&[0xFF, 0xDA]);
    }
    let error = decode(&bytes, &LIMITS).unwrap_err();
    assert!(matches!(error, ImageError::Unsupported { .. }), "{error:?}");
}
