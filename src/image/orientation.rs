//! Turns an image upright by its EXIF orientation.

use super::RgbImage;
use super::exif::Orientation;

/// Applies an orientation. Orientation 1 returns the image itself.
pub(super) fn upright(rgb: RgbImage, orientation: Orientation) -> RgbImage {
    let (width, height) = rgb.dimensions();
    let Some(walk) = Walk::new(orientation, width as usize, height as usize) else {
        return rgb;
    };
    let (out_width, out_height) = if walk.swaps_axes { (height, width) } else { (width, height) };
    let turned = walk.collect(&rgb, out_width as usize, out_height as usize);
    RgbImage::from_raw(out_width, out_height, turned).expect("a turned image has as many pixels as before")
}

/// The position of an upright pixel in the stored image: `start + x * step_x + y * step_y`.
struct Walk {
    start: usize,
    step_x: isize,
    step_y: isize,
    swaps_axes: bool,
}

impl Walk {
    fn new(orientation: Orientation, width: usize, height: usize) -> Option<Self> {
        let row = width.cast_signed();
        let top_right = width - 1;
        let bottom_left = (height - 1) * width;
        let bottom_right = height * width - 1;
        let (start, step_x, step_y, swaps_axes) = match orientation.number() {
            2 => (top_right, -1, row, false),
            3 => (bottom_right, -1, -row, false),
            4 => (bottom_left, 1, -row, false),
            5 => (0, row, 1, true),
            6 => (bottom_left, -row, 1, true),
            7 => (bottom_right, -row, -1, true),
            8 => (top_right, row, -1, true),
            _ => return None,
        };
        Some(Self { start, step_x, step_y, swaps_axes })
    }

    fn collect(&self, rgb: &RgbImage, out_width: usize, out_height: usize) -> Vec<u8> {
        let (pixels, _) = rgb.as_raw().as_chunks::<3>();
        let mut turned = Vec::with_capacity(pixels.len() * 3);
        for y in 0..out_height {
            let mut at = self.start.wrapping_add_signed(self.step_y * y.cast_signed());
            for _ in 0..out_width {
                turned.extend_from_slice(&pixels[at]);
                at = at.wrapping_add_signed(self.step_x);
            }
        }
        turned
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 3 x 2 pixels, numbered 0 1 2 / 3 4 5.
    fn numbered() -> RgbImage {
        RgbImage::from_raw(3, 2, (0..6u8).flat_map(|number| [number; 3]).collect()).unwrap()
    }

    fn turned(number: u64) -> ((u32, u32), Vec<u8>) {
        let image = upright(numbered(), Orientation::from_number(number));
        (image.dimensions(), image.pixels().map(|pixel| pixel[0]).collect())
    }

    #[test]
    fn each_orientation_moves_the_pixels_as_the_standard_says() {
        assert_eq!(turned(1), ((3, 2), vec![0, 1, 2, 3, 4, 5]));
        assert_eq!(turned(2), ((3, 2), vec![2, 1, 0, 5, 4, 3]));
        assert_eq!(turned(3), ((3, 2), vec![5, 4, 3, 2, 1, 0]));
        assert_eq!(turned(4), ((3, 2), vec![3, 4, 5, 0, 1, 2]));
        assert_eq!(turned(5), ((2, 3), vec![0, 3, 1, 4, 2, 5]));
        assert_eq!(turned(6), ((2, 3), vec![3, 0, 4, 1, 5, 2]));
        assert_eq!(turned(7), ((2, 3), vec![5, 2, 4, 1, 3, 0]));
        assert_eq!(turned(8), ((2, 3), vec![2, 5, 1, 4, 0, 3]));
    }
}
