//! Opens a bundle: finds and checks it, plans the memory, opens the graphs. [`Opened::start`] starts the workers.

use std::num::NonZeroUsize;
use std::time::Instant;

use super::Settings;
use super::gpu::OpenedGpu;
use super::memory_plan::plan_memory;
use crate::bundle::{Bundle, BundleError, Target};
use crate::engine::{Engine, EngineLimits, Frontend, GoldenError, ModelError, StepDecoder as _};
use crate::image::{ImageError, ImageLimits, Preprocessor};
use crate::memory::{MemoryPlan, MemoryShortage};
use crate::model::{Blip2, CacheSize, Devices};
use crate::runtime::{Providers, Runtime, RuntimeError};
use crate::text::{TextError, Tokenizer};

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// There is no bundle, or a damaged one.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// ONNX Runtime, a provider or a graph cannot be used.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The manifest's image settings make no sense.
    #[error("the bundle's image settings cannot be used: {0}")]
    Image(#[from] ImageError),
    /// The tokenizer cannot be read, or does not fit the manifest.
    #[error("the bundle's tokenizer cannot be used: {0}")]
    Text(#[from] TextError),
    /// The memory does not hold weights and caches.
    #[error(transparent)]
    Memory(#[from] MemoryShortage),
    /// The first run on a GPU failed.
    #[error("the model does not run: {0}")]
    WarmUp(#[from] ModelError),
    /// The system grants no thread.
    #[error("cannot start a worker thread: {0}")]
    Thread(#[from] std::io::Error),
    /// A golden answer came out wrong.
    #[error("{0}; this machine does not answer as the reference does, so it must not serve this bundle")]
    Golden(#[from] Box<GoldenError>),
}

/// A checked bundle with its graphs open, and all that an engine is made of.
pub struct Opened {
    /// The bundle.
    pub bundle: Bundle,
    /// How the memory is shared out.
    pub plan: MemoryPlan,
    /// ONNX Runtime.
    pub runtime: Runtime,
    /// Preprocessor, tokenizer and defaults.
    pub frontend: Frontend,
    /// The graphs.
    pub model: Blip2,
    /// Bounds of the engine.
    pub limits: EngineLimits,
}

impl Opened {
    /// Starts the engine. The bundle stays, for its golden answers and documents.
    ///
    /// # Errors
    /// [`LaunchError::Thread`].
    pub fn start(self) -> Result<(Bundle, Engine), LaunchError> {
        let Self { bundle, frontend, model, limits, .. } = self;
        let engine = Engine::start(frontend, model.image, model.decoder, limits)?;
        Ok((bundle, engine))
    }
}

/// Opens the bundle that the settings name. Every file's hash is compared before this returns.
///
/// # Errors
/// [`LaunchError`]; nothing that was asked for is replaced by something else.
pub fn open(settings: &Settings) -> Result<Opened, LaunchError> {
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
    let frontend = frontend(&bundle, settings.image)?;
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
    Ok(Opened { bundle, plan, runtime, frontend, model, limits: settings.engine })
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

/// Builds the preprocessor and the tokenizer from the bundle's manifest.
///
/// # Errors
/// [`LaunchError::Image`] or [`LaunchError::Text`] when the manifest and its files do not fit.
pub fn frontend(bundle: &Bundle, limits: ImageLimits) -> Result<Frontend, LaunchError> {
    let manifest = bundle.manifest();
    let tokenizer = bundle.read(&manifest.tokenizer.file)?;
    Ok(Frontend {
        preprocessor: Preprocessor::new(&(&manifest.image).into(), limits)?,
        tokenizer: Tokenizer::from_bytes(&tokenizer, (&manifest.tokenizer).into())?.into(),
        defaults: manifest.generation,
    })
}
