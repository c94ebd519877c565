//! From settings to a running engine: find the bundle, check it, open the graphs, start the workers, replay the goldens.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use crate::bundle::{Bundle, BundleError, Manifest};
use crate::engine::{Engine, Frontend, GoldenError, StepDecoder as _, replay};
use crate::image::{ImageError, Preprocessor, PreprocessorConfig};
use crate::memory::{MemoryNeeds, MemoryPlan, MemoryShortage, available_bytes};
use crate::model::{Blip2, CacheSize};
use crate::runtime::{Runtime, RuntimeError};
use crate::settings::RuntimeSettings;
use crate::text::{SpecialIds, TextError, Tokenizer};

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error("the bundle's image settings cannot be used: {0}")]
    Image(#[from] ImageError),
    #[error("the bundle's tokenizer cannot be used: {0}")]
    Text(#[from] TextError),
    #[error(transparent)]
    Memory(#[from] MemoryShortage),
    #[error("cannot start a worker thread: {0}")]
    Thread(#[from] std::io::Error),
    #[error("{0}; this machine does not answer as the reference does, so it must not serve this bundle")]
    Golden(#[from] Box<GoldenError>),
}

/// What an engine is made of.
pub(super) struct Opened {
    pub(super) bundle: Bundle,
    pub(super) plan: MemoryPlan,
    pub(super) runtime: Runtime,
    pub(super) frontend: Frontend,
    pub(super) model: Blip2,
}

/// Opens the bundle and starts the engine.
pub(super) fn load(settings: &RuntimeSettings) -> Result<(Bundle, Engine), LoadError> {
    let Opened { bundle, frontend, model, .. } = open(settings)?;
    let engine = Engine::start(frontend, model.image, model.decoder, settings.engine)?;
    Ok((bundle, engine))
}

/// Opens the bundle. No answer comes from a file whose hash was not compared.
pub(super) fn open(settings: &RuntimeSettings) -> Result<Opened, LoadError> {
    let started = Instant::now();
    let bundle = Bundle::open(&settings.model)?;
    let manifest = bundle.manifest();
    Blip2::check_supported(manifest)?;
    let plan = plan_memory(settings, manifest)?;
    tracing::info!("memory: {plan}");
    bundle.check_small_files()?;
    let frontend = frontend(settings, &bundle)?;
    let runtime = Runtime::load(&settings.ort_library, settings.threads)?;
    let bytes = manifest.bytes();
    tracing::info!(bundle = %manifest.name, bytes, "small files are whole; opening the graphs and hashing their weights");

    let data_check = bundle.check_data_files_in_background()?;
    let cache =
        CacheSize { slots: plan.slots, max_len: settings.max_len, kv_tokens: NonZeroUsize::new(plan.kv_tokens) };
    let model = Blip2::open(&runtime, &bundle, cache);
    // First the check: when a file is damaged, its hash says it better than ONNX Runtime, which may have failed too.
    let checked = data_check.join()?;
    let model = model?;

    let limits = model.decoder.limits();
    tracing::info!(
        bundle = %manifest.name,
        precision = %manifest.precision.decoder,
        provider = %settings.provider,
        threads = settings.threads,
        slots = limits.slots,
        kv_tokens = limits.kv_tokens,
        max_len = limits.max_len,
        queue_rows = settings.engine.queue_rows,
        timeout_s = settings.engine.timeout.as_secs_f64(),
        bytes,
        check_ms = checked.as_millis(),
        load_ms = started.elapsed().as_millis(),
        "model loaded"
    );
    Ok(Opened { bundle, plan, runtime, frontend, model })
}

/// Shares out the memory that there is before anything is loaded.
fn plan_memory(settings: &RuntimeSettings, manifest: &Manifest) -> Result<MemoryPlan, MemoryShortage> {
    let (decoder, engine) = (&manifest.decoder, &settings.engine);
    let limit = NonZeroUsize::new(decoder.max_positions).unwrap_or(NonZeroUsize::MIN);
    let max_len = settings.max_len.map_or(limit, |asked| asked.min(limit));
    let slots = settings.slots.map_or(MemoryNeeds::DEFAULT_SLOTS, NonZeroUsize::get);
    MemoryNeeds {
        available: available_bytes(),
        weights: manifest.bytes(),
        working: working_bytes(manifest, slots, max_len.get()),
        encoded_pictures: engine.image_cache_bytes.saturating_add(engine.stored_image_bytes) as u64,
        kv_prefix_cache: engine.kv_prefix_cache_bytes as u64,
        position_bytes: decoder.position_bytes() as u64,
        max_len,
        slots: settings.slots,
        kv_tokens: settings.kv_tokens,
    }
    .plan()
}

/// What comes on top of weights, caches and rows: fitted to what an int8 bundle of opt-2.7b's dimensions took on the CPU, 267
/// MiB at most where this says 278 (benches/results).
fn working_bytes(manifest: &Manifest, slots: usize, max_len: usize) -> u64 {
    const PIECE: usize = 64; // positions of a prompt in one run
    let (vision, decoder) = (&manifest.vision_encoder, &manifest.decoder);
    let program = 64 << 20;
    let rearranged_weights = manifest.bytes() / 32;
    let activations = 128 * (vision.num_tokens * vision.hidden_size + PIECE * decoder.hidden_size);
    let attention = 4 * decoder.num_heads * PIECE * max_len;
    let logits = 16 * slots.saturating_mul(decoder.vocab_size);
    program + rearranged_weights + (activations + attention).saturating_add(logits) as u64
}

/// How many golden answers came out right, of how many that the bundle holds.
pub(super) struct Replayed {
    pub(super) right: usize,
    pub(super) of: usize,
}

/// Replays the golden answers, shortest first, and says so when there are none. With a budget no further one begins
/// once it is spent, so that the time until a large model is ready does not grow with their number; one always runs.
pub(super) fn replay_goldens(
    bundle: &Bundle,
    engine: &Engine,
    budget: Option<Duration>,
) -> Result<Replayed, LoadError> {
    let mut cases = bundle.golden_cases()?;
    cases.sort_by_key(|case| case.token_ids.len());
    if cases.is_empty() {
        tracing::warn!(
            "the bundle holds no golden answers, so nothing shows that this machine answers rightly; run `blip2_export verify`"
        );
    }
    let started = Instant::now();
    let mut right = 0;
    for case in &cases {
        if right > 0 && budget.is_some_and(|budget| started.elapsed() > budget) {
            break;
        }
        replay(engine, case).map_err(Box::new)?;
        right += 1;
    }
    Ok(Replayed { right, of: cases.len() })
}

fn frontend(settings: &RuntimeSettings, bundle: &Bundle) -> Result<Frontend, LoadError> {
    let manifest = bundle.manifest();
    Ok(Frontend {
        preprocessor: preprocessor(manifest, settings)?,
        tokenizer: Tokenizer::from_bytes(&bundle.read(&manifest.tokenizer.file)?, special_ids(manifest))?.into(),
        defaults: manifest.generation,
    })
}

fn preprocessor(manifest: &Manifest, settings: &RuntimeSettings) -> Result<Preprocessor, ImageError> {
    let image = &manifest.image;
    let config = PreprocessorConfig { height: image.height, width: image.width, mean: image.mean, std: image.std };
    Preprocessor::new(&config, settings.image)
}

fn special_ids(manifest: &Manifest) -> SpecialIds {
    let tokenizer = &manifest.tokenizer;
    SpecialIds {
        bos_token_id: tokenizer.bos_token_id,
        eos_token_id: tokenizer.eos_token_id,
        pad_token_id: tokenizer.pad_token_id,
        image_token_id: tokenizer.image_token_id,
    }
}
