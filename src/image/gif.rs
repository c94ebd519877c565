//! GIF: the first frame on its canvas. Around a frame that is smaller than the canvas the decoder
//! leaves black, whereas Pillow fills with the transparent colour of the palette, or else its first
//! colour. So the position of the frame is read here.

use std::io::Cursor;

use ::image::codecs::gif::GifDecoder;

use super::decode::Decoded;
use super::raster;
use super::rgb::{StoredGrey, to_rgb};
use super::{ImageError, ImageFormat, ImageLimits, RgbImage};

const FORMAT: ImageFormat = ImageFormat::Gif;

/// Decodes the first frame of a GIF.
pub(super) fn decode(bytes: &[u8], limits: &ImageLimits) -> Result<Decoded, ImageError> {
    let frame = FirstFrame::find(bytes).ok_or(ImageError::Truncated { format: FORMAT })?;
    limits.check_pixels(FORMAT, frame.canvas.0, frame.canvas.1)?;
    if !frame.lies_on_canvas() {
        return Err(ImageError::unsupported(FORMAT, "a frame that is larger than its canvas"));
    }
    let decoder = GifDecoder::new(Cursor::new(bytes)).map_err(|error| ImageError::from_decoder(FORMAT, error))?;
    let (decoded, orientation) = raster::read(FORMAT, decoder, limits)?;
    let mut rgb = to_rgb(FORMAT, decoded, StoredGrey::Alone)?;
    frame.fill_around(&mut rgb);
    Ok(Decoded { rgb, orientation })
}

/// The position of the first frame, and the colour of the canvas around it.
struct FirstFrame {
    canvas: (u32, u32),
    left: u32,
    top: u32,
    width: u32,
    height: u32,
    around: [u8; 3],
}

impl FirstFrame {
    /// Reads from the header to the first image descriptor. `None` if the file ends before it.
    fn find(bytes: &[u8]) -> Option<Self> {
        let mut blocks = Blocks { rest: bytes.get(6..)? };
        let screen = *blocks.take(7)?.first_chunk::<7>()?;
        let global = blocks.colour_table(screen[4])?;
        let mut transparent = 0;
        loop {
            match blocks.take(1)?[0] {
                b'!' => transparent = blocks.transparent_index()?.unwrap_or(transparent),
                b',' => break,
                _ => return None,
            }
        }
        let descriptor = *blocks.take(9)?.first_chunk::<9>()?;
        let local = blocks.colour_table(descriptor[8])?;
        let palette = if local.is_empty() { global } else { local };
        let side = |low: u8, high: u8| u32::from(u16::from_le_bytes([low, high]));
        Some(Self {
            canvas: (side(screen[0], screen[1]), side(screen[2], screen[3])),
            left: side(descriptor[0], descriptor[1]),
            top: side(descriptor[2], descriptor[3]),
            width: side(descriptor[4], descriptor[5]),
            height: side(descriptor[6], descriptor[7]),
            around: palette.as_chunks::<3>().0.get(usize::from(transparent)).copied().unwrap_or_default(),
        })
    }

    fn lies_on_canvas(&self) -> bool {
        self.left + self.width <= self.canvas.0 && self.top + self.height <= self.canvas.1
    }

    fn fill_around(&self, rgb: &mut RgbImage) {
        if (self.width, self.height) == self.canvas {
            return;
        }
        let columns = self.left..self.left + self.width;
        let rows = self.top..self.top + self.height;
        for (x, y, pixel) in rgb.enumerate_pixels_mut() {
            if !(columns.contains(&x) && rows.contains(&y)) {
                pixel.0 = self.around;
            }
        }
    }
}

/// The blocks of a GIF that have not been read yet.
struct Blocks<'a> {
    rest: &'a [u8],
}

impl<'a> Blocks<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    /// Returns the colour table that the flags of a screen or image descriptor announce; empty if
    /// there is none.
    fn colour_table(&mut self, flags: u8) -> Option<&'a [u8]> {
        let colours = if flags & 0x80 == 0 { 0 } else { 2 << (flags & 7) };
        self.take(colours * 3)
    }

    /// Reads an extension. Returns the transparent index, if it is a graphic control extension that
    /// sets one.
    fn transparent_index(&mut self) -> Option<Option<u8>> {
        let is_graphic_control = self.take(1)?[0] == 0xF9;
        let mut index = None;
        loop {
            let length = usize::from(self.take(1)?[0]);
            match (length, self.take(length)?) {
                (0, _) => return Some(index),
                (_, &[flags, _, _, transparent, ..]) if is_graphic_control && flags & 1 == 1 => {
                    index = Some(transparent);
                }
                _ => {}
            }
        }
    }
}
