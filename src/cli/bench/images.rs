//! Images to ask about: stripes of random colours, the same in every run of the benchmark, and no two alike within one.

use std::io::Cursor;
use std::sync::Arc;

use ::image::{ExtendedColorType, ImageFormat, write_buffer_with_format};
use rand::rngs::ChaCha8Rng;
use rand::{Rng as _, SeedableRng as _};

const WIDTH: u32 = 640;
const HEIGHT: u32 = 480;

/// Makes one image after the other.
#[derive(Debug, Default)]
pub(super) struct Images {
    made: u64,
}

impl Images {
    /// The next image, as a BMP file.
    pub(super) fn make(&mut self) -> Arc<[u8]> {
        let mut random = ChaCha8Rng::seed_from_u64(self.made);
        self.made += 1;
        let mut row = [0; 3 * WIDTH as usize];
        random.fill_bytes(&mut row);
        let (pixels, mut file) = (row.repeat(HEIGHT as usize), Cursor::new(Vec::new()));
        write_buffer_with_format(&mut file, &pixels, WIDTH, HEIGHT, ExtendedColorType::Rgb8, ImageFormat::Bmp)
            .expect("memory can be written to");
        file.into_inner().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_images_are_alike_and_every_run_has_the_same() {
        let three = || {
            let mut images = Images::default();
            [0; 3].map(|_| images.make())
        };
        let [first, second, third] = three();
        assert!(first != second && second != third && first != third);
        assert_eq!(three(), [first, second, third]);
    }
}
