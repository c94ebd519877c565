//! The engine: takes scoring jobs, owns the workers that own the model, gives answers.
//!
//! The path of a job: [`Engine::reserve`] a place → [`Engine::prepare`] (decode the picture, tokenize; CPU work for the
//! caller's thread) → [`Engine::submit`] → image worker (vision encoder, Q-Former) → decoder worker (prefill, decode
//! steps, several rows at once) → [`Pending::answer`].
//!
//! Generic over [`ImageEncoder`] and [`StepDecoder`], so that it runs in tests with a scripted model and without ONNX
//! Runtime. It knows no HTTP.

mod admission;
mod byte_cache;
mod decoder_worker;
mod golden;
mod image_worker;
mod job;
mod picture;
mod slots;
mod traits;

use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use serde_json::Value;

pub use self::admission::Permit;
pub use self::byte_cache::CacheCounts;
pub use self::golden::{GoldenError, replay};
pub use self::job::{
    Answer, AnswerSequence, EngineError, JobError, Pending, PreparedJob, ScoreJob, Timings, TimingsMs,
};
pub use self::traits::{
    DecoderLimits, EncodedImage, ImageEncoder, ImagePrefix, Logits, ModelError, SavedRow, StepDecoder,
};

use self::admission::Admission;
use self::byte_cache::{ByteCache, CacheCounters};
use self::job::Queued;
use self::picture::PictureKey;
use self::slots::SlotTable;
use crate::bundle::GenerationDefaults;
use crate::generation::{GenerationParams, ParamError, Task, Vocabulary};
use crate::image::Preprocessor;
use crate::text::{PromptWarning, Tokenizer, diagnose};

/// What turns a request into tensors and tokens back into text.
pub struct Frontend {
    /// Bytes to `pixel_values`.
    pub preprocessor: Preprocessor,
    /// Text to ids and back.
    pub tokenizer: Arc<Tokenizer>,
    /// What a request gets that names no parameters.
    pub defaults: GenerationDefaults,
}

/// The bounds of an engine.
#[derive(Debug, Clone, Copy)]
pub struct EngineLimits {
    /// Rows that are waiting or running; more are refused.
    pub queue_rows: usize,
    /// Positions of prompts that are fed between two decode steps, about: they make the running rows wait.
    pub prefill_positions: usize,
    /// Bytes of keys and values to keep of pictures, so that a further question feeds its own tokens only.
    pub kv_prefix_cache_bytes: usize,
    /// Bytes of encoded pictures to keep, so that a picture asked about again is not encoded again.
    pub image_cache_bytes: usize,
}

/// A handle to the workers; clones share them. They end when the last handle is dropped.
#[derive(Clone)]
pub struct Engine {
    frontend: Arc<Frontend>,
    admission: Arc<Admission>,
    decoder: DecoderLimits,
    jobs: mpsc::Sender<Queued>,
    image_cache: Arc<CacheCounters>,
    kv_prefix_cache: Arc<CacheCounters>,
}

impl Engine {
    /// Starts the two workers, which own `encoder` and `decoder` from now on.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        frontend: Frontend,
        encoder: impl ImageEncoder + 'static,
        decoder: impl StepDecoder + 'static,
        limits: EngineLimits,
    ) -> std::io::Result<Self> {
        let decoder_limits = decoder.limits();
        // Both channels are bounded by admission: a job in either of them holds a permit.
        let (jobs, waiting) = mpsc::channel();
        let (encoded, ready) = mpsc::channel();
        let cache = ByteCache::new(limits.image_cache_bytes);
        let image_cache = cache.counters();
        let slots = SlotTable::new(decoder_limits, limits.kv_prefix_cache_bytes);
        let kv_prefix_cache = slots.prefix_counters();
        thread::Builder::new()
            .name("image-worker".into())
            .spawn(move || guarded(|| image_worker::run(encoder, cache, &waiting, &encoded)))?;
        thread::Builder::new()
            .name("decoder-worker".into())
            .spawn(move || guarded(|| decoder_worker::run(decoder, slots, &ready, limits.prefill_positions)))?;
        Ok(Self {
            frontend: Arc::new(frontend),
            admission: Arc::new(Admission::new(limits.queue_rows)),
            decoder: decoder_limits,
            jobs,
            image_cache,
            kv_prefix_cache,
        })
    }

    /// The generation parameters of a request, over the bundle's defaults; `null` names none.
    ///
    /// # Errors
    /// [`ParamError`] for the first parameter that is unknown or out of range.
    pub fn parse_params(&self, params: &Value) -> Result<GenerationParams, ParamError> {
        let vocabulary: Arc<dyn Vocabulary> = Arc::clone(&self.frontend.tokenizer) as _;
        GenerationParams::parse(params, self.frontend.defaults, &vocabulary)
    }

    /// Greedy search for at most so many tokens.
    #[must_use]
    pub fn default_params(&self, max_new_tokens: usize) -> GenerationParams {
        let vocabulary: Arc<dyn Vocabulary> = Arc::clone(&self.frontend.tokenizer) as _;
        GenerationParams::new(GenerationDefaults { max_new_tokens }, &vocabulary)
    }

    /// How often a picture was known already.
    #[must_use]
    pub fn image_cache(&self) -> CacheCounts {
        self.image_cache.read()
    }

    /// How often the keys and values of a picture were known already.
    #[must_use]
    pub fn kv_prefix_cache(&self) -> CacheCounts {
        self.kv_prefix_cache.read()
    }

    /// The decoder's slots, lengths and cache.
    #[must_use]
    pub fn decoder_limits(&self) -> DecoderLimits {
        self.decoder
    }

    /// Reserves places for the rows of a request, before anything is decoded. The permit goes with the jobs.
    ///
    /// # Errors
    /// [`EngineError::Overloaded`] now, [`EngineError::TooManyRows`] always.
    pub fn reserve(&self, rows: usize) -> Result<Permit, EngineError> {
        Admission::reserve(&self.admission, rows)
    }

    /// Turns a job into what the model reads. Decodes the picture: call it where blocking is allowed.
    ///
    /// # Errors
    /// [`JobError`] when the picture or the text cannot be used. The fault is the caller's.
    pub fn prepare(&self, job: &ScoreJob) -> Result<PreparedJob, JobError> {
        let started = Instant::now();
        let room = self.decoder.max_len - self.decoder.prefix_len;
        let text = self.frontend.tokenizer.encode(&job.text, room)?;
        let prompt_len = self.decoder.prefix_len + text.input_ids.len();
        check_length(prompt_len, &job.params, self.decoder.max_len)?;
        let (rows, slots) = (job.params.rows(), self.decoder.slots);
        if rows > slots {
            return Err(JobError::TooManyRows { rows, slots });
        }
        let pixel_values = self.frontend.preprocessor.preprocess(&job.image)?;
        let special = text.special_text.into_iter().map(|special| PromptWarning::SpecialText { special });
        let warnings = special.chain(diagnose(&job.text, text.input_ids.len())).map(|warning| warning.to_string());
        Ok(PreparedJob {
            picture: PictureKey::of(&job.image),
            pixel_values,
            task: self.task(&text.input_ids, job.params.clone()),
            input_ids: text.input_ids,
            warnings: warnings.chain(job.params.warnings.iter().cloned()).collect(),
            preprocess: started.elapsed(),
        })
    }

    /// Hands a job to the workers.
    ///
    /// # Errors
    /// [`EngineError::Stopped`] when a worker has ended.
    pub fn submit(&self, job: PreparedJob, permit: &Permit) -> Result<Pending, EngineError> {
        let (queued, pending) = Queued::new(job, permit.clone(), Arc::clone(&self.frontend));
        self.jobs.send(queued).map_err(|_| EngineError::Stopped)?;
        Ok(pending)
    }

    /// One job from start to end, on this thread.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn score(&self, job: &ScoreJob) -> Result<Answer, EngineError> {
        let permit = self.reserve(1)?;
        let prepared = self.prepare(job)?;
        self.submit(prepared, &permit)?.wait()
    }

    /// The task behind the prompt as processors see it: one id per image position, then the text.
    fn task(&self, input_ids: &[i64], params: GenerationParams) -> Task {
        let ids = self.frontend.tokenizer.special_ids();
        let image = ids.image_token_id.into_iter().flat_map(|id| vec![id; self.decoder.prefix_len]);
        let prompt = image.chain(input_ids.iter().map(|id| *id as u32)).collect();
        let seed = params.seed.unwrap_or_else(rand::random);
        Task::generate(prompt, params, seed)
    }
}

impl Vocabulary for Tokenizer {
    fn eos_token_id(&self) -> u32 {
        self.special_ids().eos_token_id
    }

    fn encode(&self, text: &str) -> Vec<u32> {
        self.encode_plain(text).unwrap_or_default() // a byte-level tokenizer knows every text
    }

    fn bytes(&self, id: u32) -> &[u8] {
        self.token_bytes(id)
    }
}

/// A worker that panics takes the process with it, and the orchestrator starts a new one: a service without its model
/// would only collect requests. (The JPEG library unwinds, so the process as a whole cannot abort on panic.)
fn guarded(worker: impl FnOnce()) {
    struct AbortOnPanic;
    impl Drop for AbortOnPanic {
        fn drop(&mut self) {
            if thread::panicking() {
                tracing::error!("a worker panicked; the process ends");
                std::process::abort();
            }
        }
    }
    let _guard = AbortOnPanic;
    worker();
}

fn check_length(prompt_len: usize, params: &GenerationParams, max_len: usize) -> Result<(), JobError> {
    let wanted = prompt_len.saturating_add(params.max_new_tokens);
    if wanted > max_len {
        return Err(JobError::TooLong { prompt_len, max_new_tokens: params.max_new_tokens, max_len });
    }
    Ok(())
}
