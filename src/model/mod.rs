//! BLIP-2 on ONNX Runtime: vision encoder, Q-Former, decoder and its KV cache, as sessions over a
//! bundle.
//!
//! Implements the traits of `engine`. Knows tensor shapes; knows nothing of queues, requests or
//! sampling.

mod decoder;
mod devices;
mod kv_cache;
mod qformer;
mod vision_encoder;

pub use self::decoder::Decoder;
pub use self::devices::{Devices, GpuSettings};
pub use self::kv_cache::KvCache;
pub use self::qformer::QFormer;
pub use self::vision_encoder::VisionEncoder;

use std::num::NonZeroUsize;
use std::panic::resume_unwind;
use std::thread;
use std::time::Instant;

use crate::bundle::Bundle;
use crate::engine::{EmbeddedImage, EncodedImage, ImageEncoder, ModelError, PromptPiece, StepDecoder as _};
use crate::image::PixelValues;
use crate::runtime::{Buffer, Runtime, RuntimeError};

/// The most prompts that a warm-up feeds in one run: as many as images are encoded ahead of the
/// decoder.
const PROMPTS: usize = 4;

/// The size of the KV cache.
#[derive(Debug, Clone, Copy)]
pub struct CacheSize {
    /// Rows decoded together.
    pub slots: NonZeroUsize,
    /// The most positions of a row, with the image prefix; `None` for the limit of the model.
    pub max_len: Option<NonZeroUsize>,
    /// The most positions of all rows together; `None` for those of all slots.
    pub kv_tokens: Option<NonZeroUsize>,
}

/// The two halves of a model, one for each worker.
#[derive(Debug)]
pub struct Blip2 {
    /// Turns pixels into image prefixes.
    pub image: ImageStage,
    /// Turns prompts into logits.
    pub decoder: Decoder,
}

impl Blip2 {
    /// Opens the three graphs, and checks them against the manifest. Does not hash files: see
    /// [`Bundle::check_small_files`].
    ///
    /// # Errors
    /// [`RuntimeError`] when a graph is not supported, does not load, or has another signature.
    pub fn open(runtime: &Runtime, bundle: &Bundle, cache: CacheSize, devices: &Devices) -> Result<Self, RuntimeError> {
        if devices.providers.need_tensorrt() {
            // TensorRT searches for the fastest kernels in memory that the cache takes afterwards.
            let image = ImageStage::open(runtime, bundle, devices)?;
            return Ok(Self { image, decoder: Decoder::open(runtime, bundle, cache, devices)? });
        }
        // ONNX Runtime prepacks the weights of a graph on one thread. The decoder's take as long as
        // all others together.
        let (image, decoder) = thread::scope(|scope| {
            let decoder = scope.spawn(|| Decoder::open(runtime, bundle, cache, devices));
            let image = ImageStage::open(runtime, bundle, devices);
            (image, decoder.join().unwrap_or_else(|panic| resume_unwind(panic)))
        });
        Ok(Self { image: image?, decoder: decoder? })
    }

    /// Runs every stage once in each size that matters. On a GPU the first run loads kernels, and
    /// TensorRT builds its engines, which takes minutes. No request should wait for that.
    ///
    /// # Errors
    /// [`ModelError`] when a run fails.
    pub fn warm_up(&mut self) -> Result<(), ModelError> {
        let image = self.image.blank();
        let mut encoded = self.image.encode(&[&image])?;
        self.image.encode(&vec![&image; self.image.images_at_once()])?;
        if let Some(EncodedImage { prefix: image, .. }) = encoded.pop() {
            let limits = self.decoder.limits();
            let input_ids = [0; 2];
            let positions = 0..limits.prefix_len + input_ids.len();
            let piece = PromptPiece { image: &image, input_ids: &input_ids, positions };
            for prompts in [limits.slots.min(PROMPTS), 1] {
                self.decoder.prefill(0, &vec![piece.clone(); prompts])?;
            }
            for rows in [1, limits.slots] {
                self.decoder.decode(&vec![0; rows])?;
            }
        }
        Ok(())
    }
}

/// Vision encoder and Q-Former.
#[derive(Debug)]
pub struct ImageStage {
    vision_encoder: VisionEncoder,
    qformer: QFormer,
    /// The `image_embeds` of a run, which one stage writes and the other reads. On the GPU, if both
    /// stages are.
    image_embeds: Buffer,
    images_at_once: usize,
}

impl ImageStage {
    fn open(runtime: &Runtime, bundle: &Bundle, devices: &Devices) -> Result<Self, RuntimeError> {
        let vision_encoder = VisionEncoder::open(runtime, bundle, devices)?;
        let qformer = QFormer::open(runtime, bundle, devices, &devices.decoder()?.place())?;
        let images_at_once = devices.images_at_once();
        let place = vision_encoder.place().between(qformer.place());
        let image_embeds = Buffer::new(&place, images_at_once * vision_encoder.output_bytes())?;
        Ok(Self { vision_encoder, qformer, image_embeds, images_at_once })
    }

    /// Returns an empty image of the right size.
    fn blank(&self) -> PixelValues {
        let [channels, height, width] = self.vision_encoder.input_shape();
        PixelValues::zeros((channels, height, width))
    }
}

impl ImageEncoder for ImageStage {
    fn images_at_once(&self) -> usize {
        self.images_at_once
    }

    fn encode(&mut self, images: &[&PixelValues]) -> Result<Vec<EncodedImage>, ModelError> {
        let started = Instant::now();
        self.vision_encoder.run(images, &mut self.image_embeds)?;
        let seen = Instant::now();
        let prefixes = self.qformer.run(&self.image_embeds, images.len())?;
        let vision_encoder = seen - started;
        let qformer = seen.elapsed();
        Ok(prefixes.into_iter().map(|prefix| EncodedImage { prefix, vision_encoder, qformer }).collect())
    }

    fn embed(&mut self, pixel_values: &PixelValues) -> Result<EmbeddedImage, ModelError> {
        let started = Instant::now();
        self.vision_encoder.run(&[pixel_values], &mut self.image_embeds)?;
        let seen = Instant::now();
        let query_output = self.qformer.embed(&self.image_embeds)?;
        Ok(EmbeddedImage { query_output, vision_encoder: seen - started, qformer: seen.elapsed() })
    }
}

impl From<RuntimeError> for ModelError {
    fn from(error: RuntimeError) -> Self {
        Self::new(error)
    }
}
