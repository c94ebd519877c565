//! Preprocessing from file to `pixel_values`, with the numbers of one bundle.

use ndarray::Array3;

use super::normalize::Normalizer;
use super::{ImageError, ImageLimits, RgbImage, decode, resize};
use crate::bundle::ImageManifest;

/// Normalized pixels `[3, height, width]`.
pub type PixelValues = Array3<f32>;

/// The `image` part of a bundle's manifest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PreprocessorConfig {
    /// Height of `pixel_values`.
    pub height: u32,
    /// Width of `pixel_values`.
    pub width: u32,
    /// Mean of red, green and blue, for samples between 0 and 1.
    pub mean: [f64; 3],
    /// Standard deviation of red, green and blue, for samples between 0 and 1.
    pub std: [f64; 3],
}

impl From<&ImageManifest> for PreprocessorConfig {
    fn from(manifest: &ImageManifest) -> Self {
        Self { height: manifest.height, width: manifest.width, mean: manifest.mean, std: manifest.std }
    }
}

/// Turns image files into `pixel_values`. Holds a small table and no other state, so threads can
/// share it.
pub struct Preprocessor {
    height: u32,
    width: u32,
    normalizer: Normalizer,
    limits: ImageLimits,
}

/// The largest side. The input of the graph has a few hundred pixels a side; more means a broken
/// manifest.
const LARGEST_SIDE: u32 = 1 << 14;

impl Preprocessor {
    /// Makes the preprocessor of a bundle.
    ///
    /// # Errors
    /// [`ImageError::Config`] if a side is zero or absurd, a deviation is not positive, or a number
    /// is not finite.
    pub fn new(config: &PreprocessorConfig, limits: ImageLimits) -> Result<Self, ImageError> {
        let PreprocessorConfig { height, width, mean, std } = *config;
        if !(1..=LARGEST_SIDE).contains(&height) || !(1..=LARGEST_SIDE).contains(&width) {
            return Err(ImageError::Config(format!("a size of {width} x {height}")));
        }
        if !mean.iter().all(|mean| mean.is_finite()) {
            return Err(ImageError::Config(format!("the mean {mean:?}")));
        }
        if !std.iter().all(|&std| std.is_finite() && std as f32 > 0.0) {
            return Err(ImageError::Config(format!("the deviation {std:?}")));
        }
        Ok(Self { height, width, normalizer: Normalizer::new(mean, std), limits })
    }

    /// Turns an image file into `pixel_values` `[3, height, width]`.
    ///
    /// # Errors
    /// [`ImageError`] for every file that is not an image, or not one that can be used.
    pub fn preprocess(&self, bytes: &[u8]) -> Result<PixelValues, ImageError> {
        self.normalize(&decode(bytes, &self.limits)?)
    }

    /// Resizes and normalizes a decoded, upright image to `[3, height, width]`.
    ///
    /// # Errors
    /// [`ImageError::TooTall`] or [`ImageError::NoPixels`].
    pub fn normalize(&self, rgb: &RgbImage) -> Result<PixelValues, ImageError> {
        self.check_height(rgb)?;
        let resized = resize::resize(rgb, self.width, self.height);
        let planes = self.normalizer.planes(&resized);
        let shape = (3, self.height as usize, self.width as usize);
        Ok(Array3::from_shape_vec(shape, planes).expect("the resize returns the size it was asked for"))
    }

    /// Checks the height. The first pass of the resize changes only the width, so 1 x 178,956,970
    /// pixels would take 120 GB after it.
    fn check_height(&self, rgb: &RgbImage) -> Result<(), ImageError> {
        let limit = (self.limits.max_pixels / u64::from(self.width)).max(1);
        if u64::from(rgb.height()) > limit {
            return Err(ImageError::TooTall { height: rgb.height(), limit });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: PreprocessorConfig = PreprocessorConfig { height: 4, width: 6, mean: [0.5; 3], std: [0.25; 3] };

    fn refused(config: &PreprocessorConfig) -> String {
        Preprocessor::new(config, ImageLimits::default()).err().unwrap().to_string()
    }

    #[test]
    fn pixel_values_are_channel_height_width() {
        let preprocessor = Preprocessor::new(&CONFIG, ImageLimits::default()).unwrap();
        let values = preprocessor.normalize(&RgbImage::from_pixel(9, 2, ::image::Rgb([255, 0, 255]))).unwrap();
        assert_eq!(values.dim(), (3, 4, 6));
        assert!(values.iter().enumerate().all(|(at, &value)| value == if at / 24 == 1 { -2.0 } else { 2.0 }));
    }

    #[test]
    fn a_manifest_that_makes_no_sense_is_refused() {
        assert!(refused(&PreprocessorConfig { width: 0, ..CONFIG }).contains("a size of 0 x 4"));
        assert!(refused(&PreprocessorConfig { std: [1.0, 0.0, 1.0], ..CONFIG }).contains("the deviation"));
        assert!(refused(&PreprocessorConfig { mean: [f64::NAN; 3], ..CONFIG }).contains("the mean"));
    }

    #[test]
    fn an_image_too_tall_for_the_first_pass_is_refused() {
        let limits = ImageLimits { max_pixels: 600, ..ImageLimits::default() };
        let preprocessor = Preprocessor::new(&CONFIG, limits).unwrap();
        assert!(preprocessor.normalize(&RgbImage::new(1, 100)).is_ok());
        let error = preprocessor.normalize(&RgbImage::new(1, 101)).unwrap_err();
        assert!(matches!(error, ImageError::TooTall { height: 101, limit: 100 }));
    }
}
