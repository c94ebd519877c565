//! The engine: accepts jobs, runs the workers that own the model, returns answers.
//!
//! The path of a job: [`Engine::reserve`] → [`Engine::open_images`] and [`Engine::prepare`] (decode
//! the image, tokenize; CPU work for a thread that may block) → [`Engine::submit`] or
//! [`Engine::stream`] → image worker (vision encoder, Q-Former) → decoder worker (prefill, decode
//! steps, several rows at once) → [`Pending::answer`].
//!
//! Generic over [`ImageEncoder`] and [`StepDecoder`], so that it runs in tests with a scripted
//! model and without ONNX Runtime. It knows no HTTP.

mod admission;
mod ahead;
mod answer;
mod byte_cache;
mod decoder_worker;
mod error;
mod golden;
mod image_store;
mod image_table;
mod image_worker;
mod job;
mod pending;
mod prepare;
mod slots;
mod stage;
mod status;
mod traits;

use std::num::NonZeroUsize;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::FairMutex;
use rayon::ThreadPool;
use rayon::iter::{IntoParallelRefIterator as _, ParallelIterator as _};
use serde_json::Value;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

pub use self::admission::Permit;
pub use self::answer::{Answer, AnswerSequence, Embedding, RankedCandidate, Ranking};
pub use self::byte_cache::CacheCounts;
pub use self::error::{EngineError, JobError};
pub use self::golden::{GoldenError, replay};
pub use self::image_store::{ImageId, ImageIdError, StoreError, StoreOptions, StoredImage};
pub use self::image_table::{DecodedImage, Image};
pub use self::job::{PreparedJob, RankJob, ScoreJob};
pub use self::pending::{AnswerStream, Pending, StreamEvent};
pub use self::stage::{Stage, Timings, TimingsMs};
pub use self::status::EngineStatus;
pub use self::traits::{
    DecoderLimits, EmbeddedImage, EncodedImage, ImageEncoder, ImagePrefix, Logits, ModelError, PromptPiece,
    QueryOutput, SavedRow, StepDecoder,
};

use self::admission::Admission;
use self::byte_cache::CacheCounters;
use self::decoder_worker::DecoderWorker;
use self::image_store::ImageStore;
use self::image_table::ImageTable;
use self::image_worker::{EmbedWork, EncodeWork, ImageWork};
use self::job::{FinishedJob, QueuedJob};
use self::slots::SlotTable;
use self::status::{SharedTurn, Turn};
use crate::bundle::GenerationDefaults;
use crate::generation::{DecidedToken, GenerationParams, ParamError, Vocabulary};
use crate::image::Preprocessor;
use crate::text::Tokenizer;

/// The parts that turn a request into tensors, and tokens back into text.
pub struct Frontend {
    /// Turns image files into `pixel_values`.
    pub preprocessor: Preprocessor,
    /// Turns text into ids, and ids into text.
    pub tokenizer: Arc<Tokenizer>,
    /// The generation parameters of a request that names none.
    pub defaults: GenerationDefaults,
}

/// The limits of an engine.
#[derive(Debug, Clone, Copy)]
pub struct EngineLimits {
    /// The most rows in work, waiting or running. Further rows are refused.
    pub queue_rows: usize,
    /// The prompt positions to prefill between two decode steps, about. A higher number favours new
    /// requests over running ones.
    pub prefill_positions: usize,
    /// Bytes of the KV-prefix cache. A question about an image in it prefills only its own tokens.
    pub kv_prefix_cache_bytes: usize,
    /// Bytes of the cache of encoded images.
    pub image_cache_bytes: usize,
    /// Bytes of the store of encoded images, which have an id.
    pub stored_image_bytes: usize,
    /// The threads that decode and resize images.
    pub preprocess_threads: usize,
    /// The time for an answer whose request sets no deadline.
    pub timeout: Duration,
}

impl Default for EngineLimits {
    fn default() -> Self {
        Self {
            queue_rows: 64,
            prefill_positions: 256,
            kv_prefix_cache_bytes: 256 << 20,
            image_cache_bytes: 64 << 20,
            stored_image_bytes: 64 << 20,
            preprocess_threads: thread::available_parallelism().map_or(1, NonZeroUsize::get),
            timeout: Duration::from_secs(180),
        }
    }
}

/// A handle to the workers. Clones share the workers, which end when the last handle is dropped.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
    work: mpsc::Sender<ImageWork>,
}

/// The state that all handles share.
struct Shared {
    tokenizer: Arc<Tokenizer>,
    defaults: GenerationDefaults,
    limits: EngineLimits,
    decoder: DecoderLimits,
    admission: Arc<Admission>,
    images: Arc<ImageTable>,
    store: Mutex<ImageStore>,
    preprocessing: ThreadPool,
    kv_prefix_cache: Arc<CacheCounters>,
    turn: Arc<SharedTurn>,
}

impl Engine {
    /// Starts the two workers, which take over `encoder` and `decoder`.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(
        frontend: Frontend,
        encoder: impl ImageEncoder + 'static,
        decoder: impl StepDecoder + 'static,
        limits: EngineLimits,
    ) -> std::io::Result<Self> {
        let Frontend { preprocessor, tokenizer, defaults } = frontend;
        let decoder_limits = decoder.limits();
        let images = Arc::new(ImageTable::new(preprocessor, limits.image_cache_bytes));
        let slots = SlotTable::new(decoder_limits, limits.kv_prefix_cache_bytes);
        let kv_prefix_cache = slots.prefix_counters();
        let preprocessing = rayon::ThreadPoolBuilder::new()
            .num_threads(limits.preprocess_threads)
            .thread_name(|number| format!("preprocess-{number}"))
            .build()
            .map_err(std::io::Error::other)?;

        // Admission bounds both channels: every item in them holds a permit.
        let (work, requests) = mpsc::channel();
        let (encoded, ready) = mpsc::channel();
        // Two concurrent runs take longer than one after the other, so the workers take turns.
        let cores = Arc::new(FairMutex::new(()));
        let table = Arc::clone(&images);
        let turns = Arc::clone(&cores);
        spawn("image-worker", move || image_worker::run(encoder, &table, requests, &encoded, &turns))?;
        let worker = DecoderWorker::new(decoder, slots, limits.prefill_positions);
        let turn = worker.status();
        spawn("decoder-worker", move || worker.run(&ready, &cores))?;

        let shared = Shared {
            tokenizer,
            defaults,
            limits,
            decoder: decoder_limits,
            admission: Arc::new(Admission::new(limits.queue_rows)),
            images,
            store: Mutex::new(ImageStore::new(limits.stored_image_bytes)),
            preprocessing,
            kv_prefix_cache,
            turn,
        };
        Ok(Self { shared: Arc::new(shared), work })
    }

    /// Parses the generation parameters of a request, over the bundle's defaults. `null` names
    /// none.
    ///
    /// # Errors
    /// [`ParamError`] for the first parameter that is unknown or out of range.
    pub fn parse_params(&self, params: &Value) -> Result<GenerationParams, ParamError> {
        GenerationParams::parse(params, self.shared.defaults, &self.vocabulary())
    }

    /// Returns the parameters of greedy search for at most `max_new_tokens` tokens.
    #[must_use]
    pub fn default_params(&self, max_new_tokens: usize) -> GenerationParams {
        GenerationParams::new(GenerationDefaults { max_new_tokens }, &self.vocabulary())
    }

    /// Reserves the rows of a request, before its images are decoded. The permit goes with the
    /// jobs.
    ///
    /// # Errors
    /// [`EngineError::Overloaded`] if there is no room now, [`EngineError::TooManyRows`] if there
    /// never is.
    pub fn reserve(&self, rows: usize) -> Result<Permit, EngineError> {
        self.reserve_until(rows, Instant::now() + self.shared.limits.timeout)
    }

    /// Reserves rows like [`Engine::reserve`], for a request with a deadline.
    ///
    /// # Errors
    /// [`EngineError::Overloaded`] if there is no room now, [`EngineError::TooManyRows`] if there
    /// never is.
    pub fn reserve_until(&self, rows: usize, deadline: Instant) -> Result<Permit, EngineError> {
        Admission::reserve(&self.shared.admission, rows, deadline)
    }

    /// Returns the image in a file. Decodes and resizes it on this thread unless it is cached or in
    /// work.
    ///
    /// # Errors
    /// [`JobError::Image`] when the file is not an image, or not one that can be used.
    pub fn open_image(&self, file: &[u8]) -> Result<Image, JobError> {
        self.shared.images.open(file)
    }

    /// Returns the images in some files, in order. Decodes and resizes new ones in parallel, so the
    /// caller must be allowed to block. Equal files give the same image.
    ///
    /// # Errors
    /// [`JobError::Image`] for each file that is not an image, or not one that can be used.
    pub fn open_images<F: AsRef<[u8]> + Sync>(&self, files: &[F]) -> Vec<Result<Image, JobError>> {
        self.shared.preprocessing.install(|| files.par_iter().map(|file| self.open_image(file.as_ref())).collect())
    }

    /// Decodes and resizes the images in some files in parallel, in order; the caller must be
    /// allowed to block. For [`Engine::embed`], which needs the pixels of cached images too: the
    /// cache keeps only their prefix.
    ///
    /// # Errors
    /// [`JobError::Image`] for each file that is not an image, or not one that can be used.
    pub fn decode_images<F: AsRef<[u8]> + Sync>(&self, files: &[F]) -> Vec<Result<DecodedImage, JobError>> {
        let decode = |file: &F| self.shared.images.decode(file.as_ref()).map_err(JobError::Image);
        self.shared.preprocessing.install(|| files.par_iter().map(decode).collect())
    }

    /// Returns the Q-Former's features of an image, which are not cached. Dropping the future
    /// cancels the work.
    ///
    /// # Errors
    /// [`EngineError::Model`] when the model fails, [`EngineError::DeadlineExceeded`],
    /// [`EngineError::Stopped`].
    pub async fn embed(
        &self,
        image: DecodedImage,
        deadline: Option<Instant>,
        permit: &Permit,
    ) -> Result<Embedding, EngineError> {
        let since = Instant::now();
        let deadline = deadline.unwrap_or_else(|| since + self.shared.limits.timeout);
        let (reply, embedding) = oneshot::channel();
        let work = EmbedWork { image, deadline, since, reply, permit: permit.clone() };
        self.work.send(ImageWork::Embed(work)).map_err(|_| EngineError::Stopped)?;
        let embedding = tokio::time::timeout_at(deadline.into(), embedding).await;
        embedding.map_err(|_| EngineError::DeadlineExceeded)?.map_err(|_| EngineError::Stopped)?
    }

    /// Hands a job to the workers.
    ///
    /// # Errors
    /// [`EngineError::Stopped`] when a worker has ended.
    pub fn submit(&self, job: PreparedJob, permit: &Permit) -> Result<Pending<Answer>, EngineError> {
        self.answer_to(job, permit, None)
    }

    /// Hands a job to the workers, and returns its text piece by piece as its tokens are decided.
    /// The text is cut before the first of `stops`; generation goes on until the job's own
    /// parameters end it.
    ///
    /// # Errors
    /// [`EngineError::Stopped`] when a worker has ended.
    pub fn stream(&self, job: PreparedJob, permit: &Permit, stops: Vec<Vec<u8>>) -> Result<AnswerStream, EngineError> {
        let (send, tokens) = unbounded_channel(); // max_new_tokens is its bound
        let pending = self.answer_to(job, permit, Some(send))?;
        Ok(AnswerStream::new(tokens, pending, Arc::clone(&self.shared.tokenizer), stops))
    }

    /// Ranks given answers by their likelihood after image and prompt.
    ///
    /// # Errors
    /// [`EngineError::Rejected`] when the job cannot be run, [`EngineError::Stopped`] when a worker
    /// has ended.
    pub fn rank(&self, job: &RankJob, permit: &Permit) -> Result<Pending<Ranking>, EngineError> {
        let mut prepared = self.prepare_ranking(job)?;
        let texts = job.candidates.clone();
        let warnings = std::mem::take(&mut prepared.warnings);
        self.send(prepared, permit, None, move |FinishedJob { outcome, timings }| {
            Ok(Ranking::new(outcome.into_likelihoods(), texts, warnings, timings))
        })
    }

    /// Answers one row, and blocks this thread until then.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn score(&self, file: &[u8], text: &str, params: GenerationParams) -> Result<Answer, EngineError> {
        let permit = self.reserve(1)?;
        let image = self.open_image(file)?;
        let job = ScoreJob { image, text: text.to_owned(), params, deadline: None };
        self.submit(self.prepare(&job)?, &permit)?.wait()
    }

    /// Encodes an image, and stores it under an id.
    ///
    /// # Errors
    /// [`StoreError::Full`], and the errors of encoding.
    pub async fn store_image(
        &self,
        image: Image,
        options: StoreOptions,
        permit: Permit,
    ) -> Result<ImageId, EngineError> {
        let (reply, encoded) = oneshot::channel();
        let work = EncodeWork::Image { image: image.clone(), reply, permit };
        self.work.send(ImageWork::Encode(work)).map_err(|_| EngineError::Stopped)?;
        let encoded = tokio::time::timeout(self.shared.limits.timeout, encoded).await;
        encoded.map_err(|_| EngineError::DeadlineExceeded)?.map_err(|_| EngineError::Stopped)??;
        let bytes = image.prefix().map_or(0, ImagePrefix::bytes);
        Ok(self.store().put(image, bytes, options, Instant::now())?)
    }

    /// Returns a stored image, and marks it as recently used.
    ///
    /// # Errors
    /// [`StoreError::Unknown`].
    pub fn stored_image(&self, id: ImageId) -> Result<Image, StoreError> {
        self.store().get(id, Instant::now())
    }

    /// Returns a stored image's size, expiry and pin state, without marking it as recently used.
    ///
    /// # Errors
    /// [`StoreError::Unknown`].
    pub fn describe_image(&self, id: ImageId) -> Result<StoredImage, StoreError> {
        self.store().describe(id, Instant::now())
    }

    /// Pins or unpins a stored image.
    ///
    /// # Errors
    /// [`StoreError::Unknown`].
    pub fn pin_image(&self, id: ImageId, is_pinned: bool) -> Result<(), StoreError> {
        self.store().set_pinned(id, is_pinned, Instant::now())
    }

    /// Deletes a stored image. Jobs about it go on.
    ///
    /// # Errors
    /// [`StoreError::Unknown`].
    pub fn delete_image(&self, id: ImageId) -> Result<(), StoreError> {
        self.store().delete(id, Instant::now())
    }

    /// Returns the number of stored images, and their bytes.
    #[must_use]
    pub fn stored_images(&self) -> (usize, usize) {
        self.store().usage(Instant::now())
    }

    /// Returns the counters of the cache of encoded images.
    #[must_use]
    pub fn image_cache(&self) -> CacheCounts {
        self.shared.images.counters().read()
    }

    /// Returns the counters of the KV-prefix cache.
    #[must_use]
    pub fn kv_prefix_cache(&self) -> CacheCounts {
        self.shared.kv_prefix_cache.read()
    }

    /// Returns the number of rows in work, waiting or running.
    #[must_use]
    pub fn rows_in_work(&self) -> usize {
        self.shared.admission.taken()
    }

    /// Returns the tokenizer.
    #[must_use]
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.shared.tokenizer
    }

    /// Returns the limits that the engine was started with.
    #[must_use]
    pub fn limits(&self) -> EngineLimits {
        self.shared.limits
    }

    /// Returns the state as of the decoder worker's last turn.
    #[must_use]
    pub fn status(&self) -> EngineStatus {
        let Turn { prefilling, decoding, slots_in_use, booked } = self.shared.turn.read();
        EngineStatus {
            waiting: self.rows_in_work().saturating_sub(prefilling + decoding),
            prefilling,
            decoding,
            queue_rows: self.shared.limits.queue_rows,
            slots_in_use,
            slots: self.shared.decoder.slots,
            kv_tokens_booked: booked,
            kv_tokens: self.shared.decoder.kv_tokens,
        }
    }

    /// Returns the limits of the decoder.
    #[must_use]
    pub fn decoder_limits(&self) -> DecoderLimits {
        self.shared.decoder
    }

    fn answer_to(
        &self,
        mut job: PreparedJob,
        permit: &Permit,
        tokens: Option<UnboundedSender<DecidedToken>>,
    ) -> Result<Pending<Answer>, EngineError> {
        let tokenizer = Arc::clone(&self.shared.tokenizer);
        let warnings = std::mem::take(&mut job.warnings);
        self.send(job, permit, tokens, move |FinishedJob { outcome, timings }| {
            Answer::new(outcome.into_sequences(), &tokenizer, warnings, timings)
        })
    }

    fn send<T>(
        &self,
        job: PreparedJob,
        permit: &Permit,
        tokens: Option<UnboundedSender<DecidedToken>>,
        finish: impl FnOnce(FinishedJob) -> Result<T, EngineError> + Send + 'static,
    ) -> Result<Pending<T>, EngineError> {
        let (reply, answer) = oneshot::channel();
        let deadline = job.deadline;
        let queued = QueuedJob::new(job, permit.clone(), reply, tokens);
        self.work.send(ImageWork::Encode(EncodeWork::Job(Box::new(queued)))).map_err(|_| EngineError::Stopped)?;
        Ok(Pending::new(answer, deadline, finish))
    }

    fn vocabulary(&self) -> Arc<dyn Vocabulary> {
        Arc::clone(&self.shared.tokenizer) as _
    }

    fn store(&self) -> MutexGuard<'_, ImageStore> {
        self.shared.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Vocabulary for Tokenizer {
    fn eos_token_id(&self) -> u32 {
        self.special_ids().eos_token_id
    }

    fn encode(&self, text: &str) -> Vec<u32> {
        self.encode_plain(text).unwrap_or_default() // a byte-level tokenizer encodes every text
    }

    fn bytes(&self, id: u32) -> &[u8] {
        self.token_bytes(id)
    }
}

/// Starts a worker whose panic aborts the process, so that an orchestrator restarts it: a service
/// without its model could only collect requests. The process as a whole cannot abort on panic,
/// because the JPEG library unwinds.
fn spawn(name: &str, worker: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    thread::Builder::new().name(name.to_owned()).spawn(|| guarded(worker)).map(drop)
}

fn guarded(worker: impl FnOnce()) {
    struct AbortOnPanic;
    impl Drop for AbortOnPanic {
        fn drop(&mut self) {
            if thread::panicking() {
                tracing::error!("a worker panicked; aborting the process");
                std::process::abort();
            }
        }
    }
    let _guard = AbortOnPanic;
    worker();
}

#[cfg(test)]
mod tests;
