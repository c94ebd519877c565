//! Normalization of bytes through a table, with the values of transformers.

/// `table[channel][byte]` is `(byte - mean * 255) / (std * 255)`, every step in f32.
pub(super) struct Normalizer {
    table: [[f32; 256]; 3],
}

impl Normalizer {
    /// Makes the table for the mean and deviation of each channel, both for samples between 0 and
    /// 1.
    pub(super) fn new(mean: [f64; 3], std: [f64; 3]) -> Self {
        let table = std::array::from_fn(|channel| {
            let mean = mean[channel] as f32 * 255.0;
            let std = std[channel] as f32 * 255.0;
            std::array::from_fn(|byte| (byte as f32 - mean) / std)
        });
        Self { table }
    }

    /// Normalizes `[height, width, 3]` bytes to `[3, height, width]` floats.
    pub(super) fn planes(&self, rgb: &[u8]) -> Vec<f32> {
        let (pixels, _) = rgb.as_chunks::<3>();
        let mut planes = Vec::with_capacity(pixels.len() * 3);
        for (channel, table) in self.table.iter().enumerate() {
            planes.extend(pixels.iter().map(|pixel| table[usize::from(pixel[channel])]));
        }
        planes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_become_planes_and_each_has_its_own_table() {
        let normalizer = Normalizer::new([0.0, 0.5, 1.0], [1.0, 0.5, 1.0 / 255.0]);
        let planes = normalizer.planes(&[0, 255, 255, 255, 0, 254]);
        assert_eq!(planes, [0.0, 1.0, 1.0, -1.0, 0.0, -1.0]);
    }
}
