//! From settings to a running engine: find the bundle, check it, open the graphs, start the workers, replay the goldens.

use std::time::Instant;

use crate::bundle::{Bundle, BundleError, Manifest};
use crate::engine::{Engine, Frontend, GoldenError, replay};
use crate::image::{ImageError, Preprocessor, PreprocessorConfig};
use crate::model::Blip2;
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
    #[error("cannot start a worker thread: {0}")]
    Thread(#[from] std::io::Error),
    #[error("{0}; this machine does not answer as the reference does, so it must not serve this bundle")]
    Golden(#[from] GoldenError),
}

/// Opens the bundle, compares every file with its hash, and starts the engine.
pub(super) fn load(settings: &RuntimeSettings) -> Result<(Bundle, Engine), LoadError> {
    let started = Instant::now();
    let bundle = Bundle::open(&settings.model)?;
    let bytes = bundle.check_files()?;
    let checked = started.elapsed();
    let runtime = Runtime::load(&settings.ort_library, settings.threads)?;
    let engine = start_engine(settings, &bundle, &runtime)?;
    let limits = engine.decoder_limits();
    let (manifest, cache_mib) = (bundle.manifest(), (limits.slots * limits.max_len * limits.position_bytes) >> 20);
    tracing::info!(
        bundle = %manifest.name,
        precision = %manifest.precision.decoder,
        provider = %settings.provider,
        threads = settings.threads,
        slots = limits.slots,
        max_len = limits.max_len,
        kv_cache_mib_at_most = cache_mib,
        queue_rows = settings.engine.queue_rows,
        bytes,
        check_ms = checked.as_millis(),
        load_ms = (started.elapsed() - checked).as_millis(),
        "model loaded"
    );
    Ok((bundle, engine))
}

/// Replays the golden answers, and says so when there are none. Returns their number.
pub(super) fn replay_goldens(bundle: &Bundle, engine: &Engine) -> Result<usize, LoadError> {
    let cases = bundle.golden_cases()?;
    if cases.is_empty() {
        tracing::warn!(
            "the bundle holds no golden answers, so nothing shows that this machine answers rightly; run `blip2_export verify`"
        );
    }
    for case in &cases {
        replay(engine, case)?;
    }
    Ok(cases.len())
}

fn start_engine(settings: &RuntimeSettings, bundle: &Bundle, runtime: &Runtime) -> Result<Engine, LoadError> {
    let model = Blip2::open(runtime, bundle, settings.cache)?;
    let manifest = bundle.manifest();
    let frontend = Frontend {
        preprocessor: preprocessor(manifest, settings)?,
        tokenizer: Tokenizer::from_bytes(&bundle.read(&manifest.tokenizer.file)?, special_ids(manifest))?,
        defaults: manifest.generation,
    };
    Ok(Engine::start(frontend, model.image, model.decoder, settings.engine)?)
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
