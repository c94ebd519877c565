//! BLIP-2 in the paper's names: vision encoder, Q-Former, decoder and its KV cache, as sessions over a bundle.
//!
//! Implements the traits of `engine`. Knows tensor shapes; knows nothing of queues, requests or sampling.

mod decoder;
mod kv_cache;
mod qformer;
mod vision_encoder;

pub use self::decoder::Decoder;
pub use self::kv_cache::KvCache;
pub use self::qformer::QFormer;
pub use self::vision_encoder::VisionEncoder;

use std::num::NonZeroUsize;
use std::time::Instant;

use crate::bundle::{Bundle, Target};
use crate::engine::{EncodedImage, ImageEncoder, ImagePrefix, ModelError};
use crate::image::PixelValues;
use crate::runtime::{Runtime, RuntimeError};

/// How much cache the decoder gets.
#[derive(Debug, Clone, Copy)]
pub struct CacheSize {
    /// Rows decoded together.
    pub slots: NonZeroUsize,
    /// Positions of a row, image prefix included; the model's own limit when `None`.
    pub max_len: Option<NonZeroUsize>,
}

/// The two halves of a model, each to be owned by its worker.
#[derive(Debug)]
pub struct Blip2 {
    /// Pixels to image prefix.
    pub image: ImageStage,
    /// Prompt to logits.
    pub decoder: Decoder,
}

impl Blip2 {
    /// Opens the three graphs and holds them to the manifest. Does not hash files: see [`Bundle::check_files`].
    ///
    /// # Errors
    /// [`RuntimeError`] when a graph does not load or has another signature.
    pub fn open(runtime: &Runtime, bundle: &Bundle, cache: CacheSize) -> Result<Self, RuntimeError> {
        let target = bundle.manifest().target;
        if target != Target::Cpu {
            let what = format!("the bundle was exported for target {target:?}, this build runs the cpu provider");
            return Err(RuntimeError::Unsupported { what });
        }
        Ok(Self {
            image: ImageStage {
                vision_encoder: VisionEncoder::open(runtime, bundle)?,
                qformer: QFormer::open(runtime, bundle)?,
            },
            decoder: Decoder::open(runtime, bundle, cache)?,
        })
    }
}

/// Vision encoder and Q-Former, one after the other.
#[derive(Debug)]
pub struct ImageStage {
    vision_encoder: VisionEncoder,
    qformer: QFormer,
}

impl ImageEncoder for ImageStage {
    fn encode(&mut self, pixel_values: &PixelValues) -> Result<EncodedImage, ModelError> {
        let started = Instant::now();
        let image_embeds = self.vision_encoder.run(pixel_values)?;
        let seen = Instant::now();
        let image_prefix = self.qformer.run(image_embeds)?;
        Ok(EncodedImage {
            prefix: ImagePrefix::new(image_prefix),
            vision_encoder: seen - started,
            qformer: seen.elapsed(),
        })
    }
}

impl From<RuntimeError> for ModelError {
    fn from(error: RuntimeError) -> Self {
        Self::new(error)
    }
}
