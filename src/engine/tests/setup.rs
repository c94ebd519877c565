//! An engine over the scripted model, and the questions that its tests ask.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::fake_model::{Controls, FILES, FakeDecoder, FakeEncoder, Model, PATIENCE, positions, prefix, preprocessor};
use crate::bundle::GenerationDefaults;
use crate::engine::{
    Answer, AnswerStream, DecoderLimits, Embedding, Engine, EngineError, EngineLimits, Frontend, Image, Pending,
    PreparedJob, RankJob, Ranking, ScoreJob,
};
use crate::generation::{GenerationParams, Outcome, Sequence, Task};
use crate::text::{SpecialIds, Tokenizer};

pub(super) const IDS: SpecialIds =
    SpecialIds { bos_token_id: 2, eos_token_id: 202, pad_token_id: 1, image_token_id: Some(IMAGE_TOKEN) };
pub(super) const IMAGE_TOKEN: u32 = 410;

/// The id of "~", which no other text of these tests holds.
pub(super) const BROKEN: usize = 97;

pub(super) const MODEL: Model = Model { vocabulary: 416, end_token: 202, broken_token: BROKEN };

pub(super) const PREFIX_LEN: usize = 3;
pub(super) const PREFIX_BYTES: usize = 4 * PREFIX_LEN;
pub(super) const MAX_LEN: usize = 128;
pub(super) const PIECE: usize = 8;

/// A prompt of several pieces.
pub(super) const LONG: &str = "Question: what can be seen on the left side of this image, and what behind it? Answer:";

pub(super) const HOUR: Duration = Duration::from_secs(3600);

pub(super) fn tokenizer() -> Arc<Tokenizer> {
    let json = include_bytes!("../../../tests/fixtures/tokenizer/tokenizer.json");
    Arc::new(Tokenizer::from_bytes(json, IDS).unwrap())
}

/// The numbers of an engine.
pub(super) struct Setup {
    pub(super) slots: usize,
    pub(super) kv_tokens: usize,
    pub(super) queue_rows: usize,
    pub(super) image_cache_bytes: usize,
    pub(super) kv_prefix_cache_bytes: usize,
    pub(super) stored_image_bytes: usize,
    pub(super) timeout: Duration,
    pub(super) images_at_once: usize,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            slots: 4,
            kv_tokens: 4 * MAX_LEN,
            queue_rows: 16,
            image_cache_bytes: 1 << 16,
            kv_prefix_cache_bytes: 1 << 16,
            stored_image_bytes: 1 << 16,
            timeout: PATIENCE,
            images_at_once: 1,
        }
    }
}

impl Setup {
    pub(super) fn start(self) -> Running {
        let controls = Arc::<Controls>::default();
        let decoder = DecoderLimits {
            slots: self.slots,
            max_len: MAX_LEN,
            kv_tokens: self.kv_tokens,
            prefix_len: PREFIX_LEN,
            position_bytes: 4,
            piece: PIECE,
        };
        let limits = EngineLimits {
            queue_rows: self.queue_rows,
            prefill_positions: PIECE,
            kv_prefix_cache_bytes: self.kv_prefix_cache_bytes,
            image_cache_bytes: self.image_cache_bytes,
            stored_image_bytes: self.stored_image_bytes,
            preprocess_threads: 2,
            timeout: self.timeout,
        };
        let defaults = GenerationDefaults { max_new_tokens: 12 };
        let frontend = Frontend { preprocessor: preprocessor(), tokenizer: tokenizer(), defaults };
        let encoder = FakeEncoder::new(PREFIX_LEN, Arc::clone(&controls)).at_once(self.images_at_once);
        let decoder = FakeDecoder::new(decoder, MODEL, Arc::clone(&controls));
        Running { engine: Engine::start(frontend, encoder, decoder, limits).unwrap(), controls, tokenizer: tokenizer() }
    }
}

/// An engine, and its model from behind.
pub(super) struct Running {
    pub(super) engine: Engine,
    pub(super) controls: Arc<Controls>,
    pub(super) tokenizer: Arc<Tokenizer>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.controls.open();
        if !thread::panicking() {
            assert_eq!(self.controls.faults(), [""; 0]);
        }
    }
}

impl Running {
    pub(super) fn image(&self, file: usize) -> Image {
        self.engine.open_images(&FILES[file..=file]).pop().unwrap().unwrap()
    }

    pub(super) fn params(&self, params: &Value) -> GenerationParams {
        self.engine.parse_params(params).unwrap()
    }

    pub(super) fn prepare(&self, job: Question) -> PreparedJob {
        let Question { file, text, params, deadline } = job;
        let params = self.params(&params);
        let job = ScoreJob { image: self.image(file), text: text.to_owned(), params, deadline };
        self.engine.prepare(&job).unwrap()
    }

    pub(super) fn submit(&self, job: Question) -> Pending<Answer> {
        self.engine.submit(self.prepare(job), &self.engine.reserve(1).unwrap()).unwrap()
    }

    pub(super) fn stream(&self, job: Question) -> AnswerStream {
        self.stream_until(job, &[])
    }

    /// A stream that is cut before the first of `stops`.
    pub(super) fn stream_until(&self, job: Question, stops: &[&str]) -> AnswerStream {
        let stops = stops.iter().map(|stop| stop.as_bytes().to_vec()).collect();
        self.engine.stream(self.prepare(job), &self.engine.reserve(1).unwrap(), stops).unwrap()
    }

    pub(super) fn rank(&self, text: &str, candidates: &[&str], with_end_token: bool) -> Result<Ranking, EngineError> {
        let candidates = candidates.iter().map(|candidate| (*candidate).to_owned()).collect();
        let job = RankJob { image: self.image(0), text: text.to_owned(), candidates, with_end_token, deadline: None };
        self.engine.rank(&job, &self.engine.reserve(1).unwrap())?.wait()
    }

    /// A prompt as the model reads it.
    pub(super) fn prompt(&self, file: usize, text: &str) -> (Vec<i64>, Vec<f32>) {
        let input_ids = self.tokenizer.encode(text, MAX_LEN).unwrap().input_ids;
        let image = prefix(&preprocessor().preprocess(FILES[file]).unwrap(), PREFIX_LEN);
        let prompt = positions(&image, &input_ids);
        (input_ids, prompt)
    }

    /// Returns the answer of the model without an engine.
    pub(super) fn expected(&self, job: &Question) -> Vec<Sequence> {
        let (input_ids, prompt) = self.prompt(job.file, job.text);
        let image = std::iter::repeat_n(IMAGE_TOKEN, PREFIX_LEN);
        let params = self.params(&job.params);
        let seed = params.seed.unwrap_or(0);
        let task = Task::generate(image.chain(input_ids.iter().map(|id| *id as u32)).collect(), params, seed);
        match MODEL.answer(task, &prompt).unwrap() {
            Outcome::Sequences(sequences) => sequences,
            Outcome::Ranked(_) => panic!("only generation is asked for"),
        }
    }

    #[track_caller]
    pub(super) fn check(&self, job: &Question, answer: &Answer) {
        let expected = self.expected(job).swap_remove(0);
        assert_eq!((&answer.best.token_ids, &answer.best.logprobs), (&expected.token_ids, &expected.logprobs));
        assert_eq!(answer.best.text, self.tokenizer.decode(&expected.token_ids).unwrap());
    }

    #[track_caller]
    pub(super) fn wait_until_idle(&self) {
        let patience = Instant::now() + PATIENCE;
        while self.engine.rows_in_work() > 0 {
            assert!(Instant::now() < patience, "{} rows stay in work", self.engine.rows_in_work());
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// The engine goes on: all places come back, and another job is answered.
    #[track_caller]
    pub(super) fn check_goes_on(&self) {
        self.wait_until_idle();
        let next = Question { file: 2, text: "what is next?", ..Question::default() };
        self.check(&next, &self.submit(next.clone()).wait().unwrap());
    }
}

/// A question of a test.
#[derive(Clone)]
pub(super) struct Question {
    pub(super) file: usize,
    pub(super) text: &'static str,
    pub(super) params: Value,
    pub(super) deadline: Option<Instant>,
}

impl Default for Question {
    fn default() -> Self {
        Self { file: 0, text: LONG, params: json!({"min_new_tokens": 4}), deadline: None }
    }
}

pub(super) fn about(file: usize, text: &'static str) -> Question {
    Question { file, text, ..Question::default() }
}

pub(super) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

/// The features of an image, embedded by a deadline.
pub(super) fn embed(running: &Running, file: usize, deadline: Option<Instant>) -> Result<Embedding, EngineError> {
    let decoded = running.engine.decode_images(&[FILES[file]]).remove(0).unwrap();
    let permit = running.engine.reserve(1).unwrap();
    block_on(running.engine.embed(decoded, deadline, &permit))
}
