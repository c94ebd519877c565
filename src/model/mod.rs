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
use std::panic::resume_unwind;
use std::thread;
use std::time::Instant;

use crate::bundle::{Bundle, KvDtype, Manifest, Target};
use crate::engine::{EmbeddedImage, EncodedImage, ImageEncoder, ImagePrefix, ModelError};
use crate::image::PixelValues;
use crate::runtime::{Runtime, RuntimeError};

/// How much cache the decoder gets.
#[derive(Debug, Clone, Copy)]
pub struct CacheSize {
    /// Rows decoded together.
    pub slots: NonZeroUsize,
    /// Positions of a row, image prefix included; the model's own limit when `None`.
    pub max_len: Option<NonZeroUsize>,
    /// Positions of all rows together; as many as the slots hold when `None`.
    pub kv_tokens: Option<NonZeroUsize>,
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
    /// Whether this build can run such a bundle at all. Needs no file but the manifest, so it can be asked first.
    ///
    /// # Errors
    /// [`RuntimeError::Unsupported`].
    pub fn check_supported(manifest: &Manifest) -> Result<(), RuntimeError> {
        let (target, kv_dtype) = (manifest.target, manifest.decoder.kv_dtype);
        if target != Target::Cpu {
            let what = format!("the bundle was exported for target {target}, this build runs the cpu provider only");
            return Err(RuntimeError::Unsupported { what });
        }
        if kv_dtype != KvDtype::Float32 {
            let what = format!("the decoder's kv_dtype is {kv_dtype}, the cpu provider binds float32");
            return Err(RuntimeError::Unsupported { what });
        }
        Ok(())
    }

    /// Opens the three graphs and holds them to the manifest. Does not hash files: see [`Bundle::check_small_files`].
    ///
    /// # Errors
    /// [`RuntimeError`] when a graph is not supported, does not load or has another signature.
    pub fn open(runtime: &Runtime, bundle: &Bundle, cache: CacheSize) -> Result<Self, RuntimeError> {
        Self::check_supported(bundle.manifest())?;
        // ONNX Runtime rearranges the weights of a graph on one thread. The decoder's take as long as all others.
        let (image, decoder) = thread::scope(|scope| {
            let decoder = scope.spawn(|| Decoder::open(runtime, bundle, cache));
            let image = ImageStage::open(runtime, bundle);
            (image, decoder.join().unwrap_or_else(|panic| resume_unwind(panic)))
        });
        Ok(Self { image: image?, decoder: decoder? })
    }
}

/// Vision encoder and Q-Former, one after the other.
#[derive(Debug)]
pub struct ImageStage {
    vision_encoder: VisionEncoder,
    qformer: QFormer,
}

impl ImageStage {
    fn open(runtime: &Runtime, bundle: &Bundle) -> Result<Self, RuntimeError> {
        Ok(Self { vision_encoder: VisionEncoder::open(runtime, bundle)?, qformer: QFormer::open(runtime, bundle)? })
    }
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

    fn embed(&mut self, pixel_values: &PixelValues) -> Result<EmbeddedImage, ModelError> {
        let started = Instant::now();
        let image_embeds = self.vision_encoder.run(pixel_values)?;
        let seen = Instant::now();
        let query_output = self.qformer.embed(image_embeds)?;
        Ok(EmbeddedImage { query_output, vision_encoder: seen - started, qformer: seen.elapsed() })
    }
}

impl From<RuntimeError> for ModelError {
    fn from(error: RuntimeError) -> Self {
        Self::new(error)
    }
}
