//! From settings to a running engine: find the bundle, check it, open the graphs, start the workers, replay the goldens.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use super::memory_plan::plan_memory;
use super::opened_gpu::OpenedGpu;
use crate::bundle::{Bundle, BundleError, Manifest, Target};
use crate::engine::{Engine, Frontend, GoldenError, ModelError, StepDecoder as _, replay};
use crate::image::{ImageError, Preprocessor, PreprocessorConfig};
use crate::memory::{MemoryPlan, MemoryShortage};
use crate::model::{Blip2, CacheSize, Devices};
use crate::runtime::{Providers, Runtime, RuntimeError};
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
    #[error("the model does not run: {0}")]
    WarmUp(#[from] ModelError),
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
    let providers = Providers::choose(settings.providers, manifest)?;
    if providers == Providers::CPU && manifest.target != Target::Cpu {
        tracing::warn!("the bundle was exported for {}; on the CPU its f16 layers are slow", manifest.target);
    }
    let gpu = if providers.need_gpu() { Some(OpenedGpu::open(settings, providers)?) } else { None };
    let plan = plan_memory(settings, manifest, providers, gpu.as_ref().map(|gpu| gpu.bytes))?;
    tracing::info!("memory: {plan}");
    bundle.check_small_files()?;
    let frontend = frontend(settings, &bundle)?;
    let runtime = Runtime::load(&settings.ort_library, &settings.cpu)?;
    let gpu = gpu.map(|gpu| gpu.settings(settings, manifest, &plan, &runtime)).transpose()?;
    let devices = Devices { providers, gpu };
    let bytes = manifest.bytes();
    tracing::info!(bundle = %manifest.name, bytes, "small files are whole; opening the graphs and hashing their weights");

    let data_check = bundle.check_data_files_in_background()?;
    let cache =
        CacheSize { slots: plan.slots, max_len: settings.max_len, kv_tokens: NonZeroUsize::new(plan.kv_tokens) };
    let model = Blip2::open(&runtime, &bundle, cache, &devices);
    // First the check: when a file is damaged, its hash says it better than ONNX Runtime, which may have failed too.
    let checked = data_check.join()?;
    let mut model = model?;
    if providers.need_gpu() {
        warm_up(&mut model, providers)?;
    }

    let limits = model.decoder.limits();
    tracing::info!(
        bundle = %manifest.name,
        precision = %manifest.precision.decoder,
        provider = %providers,
        threads = settings.cpu.threads,
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

/// Before anyone asks: see [`Blip2::warm_up`].
fn warm_up(model: &mut Blip2, providers: Providers) -> Result<(), ModelError> {
    let started = Instant::now();
    if providers.need_tensorrt() {
        tracing::info!("TensorRT takes its engines from the cache, or builds them, which takes minutes");
    }
    model.warm_up()?;
    tracing::info!(ms = started.elapsed().as_millis(), "every stage has run once");
    Ok(())
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
