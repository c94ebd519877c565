//! The engine from outside, on threads, with a model that can be held, or made to fail, at every stage: cancellation,
//! deadlines, failures, streams, rankings, images.

use std::iter;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::fake_model::{Controls, FILES, FakeDecoder, FakeEncoder, Model, PATIENCE, positions, prefix, preprocessor};
use super::{
    Answer, AnswerStream, CacheCounts, DecoderLimits, Embedding, Engine, EngineError, EngineLimits, Frontend, Image,
    ImageId, JobError, Pending, PreparedJob, RankJob, Ranking, ScoreJob, StoreError, StoreOptions, StreamEvent,
};
use crate::bundle::GenerationDefaults;
use crate::generation::{GenerationParams, Outcome, Sequence, Task};
use crate::text::{SpecialIds, Tokenizer};

const IDS: SpecialIds =
    SpecialIds { bos_token_id: 2, eos_token_id: 202, pad_token_id: 1, image_token_id: Some(IMAGE_TOKEN) };
const IMAGE_TOKEN: u32 = 410;

/// The id of "~", which no other text of these tests holds.
const BROKEN: usize = 97;

const MODEL: Model = Model { vocabulary: 416, end_token: 202, broken_token: BROKEN };

const PREFIX_LEN: usize = 3;
const PREFIX_BYTES: usize = 4 * PREFIX_LEN;
const MAX_LEN: usize = 128;
const PIECE: usize = 8;

/// A prompt of several pieces.
const LONG: &str = "Question: what can be seen on the left side of this image, and what behind it? Answer:";

const HOUR: Duration = Duration::from_secs(3600);

fn tokenizer() -> Arc<Tokenizer> {
    let json = include_bytes!("../../tests/fixtures/tokenizer/tokenizer.json");
    Arc::new(Tokenizer::from_bytes(json, IDS).unwrap())
}

/// The numbers of an engine.
struct Setup {
    slots: usize,
    kv_tokens: usize,
    queue_rows: usize,
    image_cache_bytes: usize,
    kv_prefix_cache_bytes: usize,
    stored_image_bytes: usize,
    timeout: Duration,
    images_at_once: usize,
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
    fn start(self) -> Running {
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
struct Running {
    engine: Engine,
    controls: Arc<Controls>,
    tokenizer: Arc<Tokenizer>,
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
    fn image(&self, file: usize) -> Image {
        self.engine.open_images(&FILES[file..=file]).pop().unwrap().unwrap()
    }

    fn params(&self, params: &Value) -> GenerationParams {
        self.engine.parse_params(params).unwrap()
    }

    fn prepare(&self, job: Question) -> PreparedJob {
        let Question { file, text, params, deadline } = job;
        let params = self.params(&params);
        let job = ScoreJob { image: self.image(file), text: text.to_owned(), params, deadline };
        self.engine.prepare(&job).unwrap()
    }

    fn submit(&self, job: Question) -> Pending<Answer> {
        self.engine.submit(self.prepare(job), &self.engine.reserve(1).unwrap()).unwrap()
    }

    fn stream(&self, job: Question) -> AnswerStream {
        self.engine.stream(self.prepare(job), &self.engine.reserve(1).unwrap()).unwrap()
    }

    fn rank(&self, text: &str, candidates: &[&str], with_end_token: bool) -> Result<Ranking, EngineError> {
        let candidates = candidates.iter().map(|candidate| (*candidate).to_owned()).collect();
        let job = RankJob { image: self.image(0), text: text.to_owned(), candidates, with_end_token, deadline: None };
        self.engine.rank(&job, &self.engine.reserve(1).unwrap())?.wait()
    }

    /// A prompt as the model reads it.
    fn prompt(&self, file: usize, text: &str) -> (Vec<i64>, Vec<f32>) {
        let input_ids = self.tokenizer.encode(text, MAX_LEN).unwrap().input_ids;
        let image = prefix(&preprocessor().preprocess(FILES[file]).unwrap(), PREFIX_LEN);
        let prompt = positions(&image, &input_ids);
        (input_ids, prompt)
    }

    /// What the model gives without an engine.
    fn expected(&self, job: &Question) -> Vec<Sequence> {
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
    fn check(&self, job: &Question, answer: &Answer) {
        let expected = self.expected(job).swap_remove(0);
        assert_eq!((&answer.best.token_ids, &answer.best.logprobs), (&expected.token_ids, &expected.logprobs));
        assert_eq!(answer.best.text, self.tokenizer.decode(&expected.token_ids).unwrap());
    }

    #[track_caller]
    fn wait_for_places(&self) {
        let patience = Instant::now() + PATIENCE;
        while self.engine.rows_in_work() > 0 {
            assert!(Instant::now() < patience, "{} rows stay in work", self.engine.rows_in_work());
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// The engine goes on: all places come back, and another job is answered.
    #[track_caller]
    fn check_all_is_well(&self) {
        self.wait_for_places();
        let next = Question { file: 2, text: "what is next?", ..Question::default() };
        self.check(&next, &self.submit(next.clone()).wait().unwrap());
    }
}

/// What will be asked.
#[derive(Clone)]
struct Question {
    file: usize,
    text: &'static str,
    params: Value,
    deadline: Option<Instant>,
}

impl Default for Question {
    fn default() -> Self {
        Self { file: 0, text: LONG, params: json!({"min_new_tokens": 4}), deadline: None }
    }
}

fn about(file: usize, text: &'static str) -> Question {
    Question { file, text, ..Question::default() }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

/// All pieces of text and all tokens, then the answer.
async fn collect(mut stream: AnswerStream) -> Result<(String, Vec<u32>, Answer), EngineError> {
    let (mut text, mut tokens) = (String::new(), Vec::new());
    loop {
        match stream.next().await.expect("an end comes before nothing")? {
            StreamEvent::Token { text: piece, token } => {
                text.push_str(&piece);
                tokens.push(token.token_id);
            }
            StreamEvent::End { text: piece, answer } => {
                assert!(stream.next().await.is_none(), "nothing comes behind the end");
                return Ok((text + &piece, tokens, *answer));
            }
        }
    }
}

/// Where a job can be when its caller goes, or its time is over.
#[derive(Debug, Clone, Copy)]
enum Phase {
    WaitingForEncoder,
    Encoding,
    WaitingForSlot,
    Prefilling,
    Decoding,
}

impl Phase {
    const ALL: [Self; 5] =
        [Self::WaitingForEncoder, Self::Encoding, Self::WaitingForSlot, Self::Prefilling, Self::Decoding];

    /// An engine that goes no further than this phase with the next job about the first image. Perhaps another job
    /// has to be before it.
    fn start(self) -> (Running, Option<Pending<Answer>>) {
        let running = Setup { slots: 1, ..Setup::default() }.start();
        let Controls { encode, prefill, decode, .. } = &*running.controls;
        match self {
            Self::WaitingForEncoder => {
                encode.hold(0);
                let other = running.submit(about(1, "x"));
                encode.wait_for(1);
                return (running, Some(other));
            }
            Self::WaitingForSlot => {
                decode.hold(0);
                let other = running.submit(about(0, "x"));
                decode.wait_for(1);
                return (running, Some(other));
            }
            Self::Encoding => encode.hold(0),
            Self::Prefilling => prefill.hold(1),
            Self::Decoding => decode.hold(1),
        }
        (running, None)
    }

    /// Waits until the job is there, as far as that can be seen.
    fn reach(self, controls: &Controls) {
        match self {
            Self::WaitingForEncoder | Self::WaitingForSlot => {}
            Self::Encoding => controls.encode.wait_for(1),
            Self::Prefilling => controls.prefill.wait_for(2),
            Self::Decoding => controls.decode.wait_for(2),
        }
    }

    /// Runs of the stages until a job is over that ends in this phase, those of the job before it included.
    fn check_runs(self, controls: &Controls) {
        let [encodes, prefills, decodes] =
            [&controls.encode, &controls.prefill, &controls.decode].map(|stage| stage.runs());
        match self {
            Self::WaitingForEncoder => assert_eq!(encodes, 1, "an image that nobody asks about is not encoded"),
            Self::Encoding => assert_eq!((encodes, prefills), (1, 0)),
            Self::WaitingForSlot => assert_eq!(prefills, 1),
            Self::Prefilling => assert_eq!((prefills, decodes), (2, 0)),
            Self::Decoding => assert_eq!(decodes, 2),
        }
    }
}

#[test]
fn an_answer_that_nobody_waits_for_is_given_up_in_every_phase() {
    for phase in Phase::ALL {
        for is_stream in [false, true] {
            let (running, other) = phase.start();
            if is_stream {
                let stream = running.stream(Question::default());
                phase.reach(&running.controls);
                drop(stream);
            } else {
                let pending = running.submit(Question::default());
                phase.reach(&running.controls);
                drop(pending);
            }
            running.controls.open();
            if let Some(other) = other {
                other.wait().unwrap();
            }
            running.wait_for_places();
            phase.check_runs(&running.controls);
            running.check_all_is_well();
        }
    }
}

#[test]
fn a_deadline_is_kept_in_every_phase_even_while_the_model_hangs() {
    for phase in Phase::ALL {
        for is_stream in [false, true] {
            let (running, other) = phase.start();
            let started = Instant::now();
            let job = Question { deadline: Some(started + Duration::from_millis(60)), ..Question::default() };
            let answer = if is_stream {
                block_on(collect(running.stream(job))).map(|(_, _, answer)| answer)
            } else {
                block_on(running.submit(job).answer())
            };
            assert!(matches!(answer, Err(EngineError::DeadlineExceeded)), "{phase:?}: {answer:?}");
            assert!((Duration::from_millis(60)..PATIENCE / 2).contains(&started.elapsed()), "{phase:?}");
            running.controls.open();
            if let Some(other) = other {
                other.wait().unwrap();
            }
            running.check_all_is_well();
        }
    }
}

#[test]
fn who_waits_on_a_thread_learns_of_a_deadline_behind_the_run() {
    for phase in Phase::ALL {
        let (running, other) = phase.start();
        let deadline = Instant::now() + Duration::from_millis(30);
        let pending = running.submit(Question { deadline: Some(deadline), ..Question::default() });
        thread::sleep(Duration::from_millis(40));
        running.controls.open();
        assert!(matches!(pending.wait(), Err(EngineError::DeadlineExceeded)), "{phase:?}");
        if let Some(other) = other {
            other.wait().unwrap();
        }
        running.check_all_is_well();
    }
}

#[test]
fn a_job_without_a_deadline_has_that_of_the_engine() {
    let running = Setup { timeout: Duration::from_millis(60), ..Setup::default() }.start();
    running.controls.encode.hold(0);
    let answer = block_on(running.submit(Question::default()).answer());
    assert!(matches!(answer, Err(EngineError::DeadlineExceeded)));
    let permit = running.engine.reserve(1).unwrap();
    let options = StoreOptions { time_to_live: HOUR, is_pinned: false };
    let stored = block_on(running.engine.store_image(running.image(1), options, permit));
    assert!(matches!(stored, Err(EngineError::DeadlineExceeded)));
    running.controls.open();
    running.wait_for_places();
}

#[test]
fn a_failing_stage_is_an_error_with_its_cause_and_the_engine_goes_on() {
    for stage in ["encoding the image", "prefill", "a decode step"] {
        let running = Setup::default().start();
        match stage {
            "encoding the image" => running.controls.encode.fail(0..1),
            "prefill" => running.controls.prefill.fail(0..1),
            _ => running.controls.decode.fail(0..2), // it is tried twice
        }
        let error = running.submit(Question::default()).wait().unwrap_err();
        assert_eq!(error.to_string(), format!("{stage} failed"));
        assert!(std::error::Error::source(&error).unwrap().to_string().contains("is to fail"));
        running.check_all_is_well();
        let again = Question::default();
        running.check(&again, &running.submit(again.clone()).wait().unwrap());
    }
}

#[test]
fn a_model_that_fails_for_ever_gives_an_error_to_everybody() {
    let running = Setup::default().start();
    running.controls.decode.fail(0..usize::MAX);
    let pending: Vec<_> = (0..6).map(|number| running.submit(about(number % 3, LONG))).collect();
    for pending in pending {
        assert!(matches!(pending.wait(), Err(EngineError::Model { stage: "a decode step", .. })));
    }
    running.wait_for_places();
}

#[test]
fn logits_that_are_no_numbers_are_an_error_of_their_job_alone() {
    let running = Setup::default().start();
    let broken = running.submit(Question { text: "~", params: json!({"max_new_tokens": 100}), ..Question::default() });
    let (asked, whole) = (about(0, "whole"), running.submit(about(0, "whole")));
    assert!(matches!(broken.wait(), Err(EngineError::Generation(_))));
    running.check(&asked, &whole.wait().unwrap());
}

#[test]
fn a_job_is_answered_even_if_the_last_handle_is_gone() {
    let running = Setup::default().start();
    running.controls.encode.hold(0);
    let (expected, pending) = (running.expected(&Question::default()), running.submit(Question::default()));
    drop(running); // lets the encoder go on
    assert_eq!(pending.wait().unwrap().best.token_ids, expected[0].token_ids);
}

#[test]
fn the_pieces_of_a_stream_are_the_text_of_its_answer() {
    let running = Setup::default().start();
    let texts = ["", "a", "a dog", "Question: how many?", "é", "two words", "what is this?", "\n", LONG];
    for (number, text) in texts.into_iter().enumerate() {
        let job = Question { params: json!({"max_new_tokens": 60, "min_new_tokens": 20}), ..about(number % 4, text) };
        let (text, tokens, answer) = block_on(collect(running.stream(job.clone()))).unwrap();
        running.check(&job, &answer);
        assert_eq!((&text, &tokens), (&answer.best.text, &answer.best.token_ids));
    }
}

#[test]
fn a_sample_alone_is_streamed_too() {
    let running = Setup::default().start();
    let job =
        Question { params: json!({"do_sample": true, "seed": 3, "stop_strings": ["a", "e"]}), ..Question::default() };
    let (text, tokens, answer) = block_on(collect(running.stream(job.clone()))).unwrap();
    running.check(&job, &answer);
    assert_eq!((text, tokens), (answer.best.text.clone(), answer.best.token_ids.clone()));
}

#[test]
fn tokens_are_streamed_while_the_next_are_computed() {
    let running = Setup::default().start();
    running.controls.decode.hold(2);
    let job = Question::default();
    let expected = running.expected(&job).swap_remove(0);
    let mut stream = running.stream(job);
    let mut next = || match block_on(stream.next()) {
        Some(Ok(StreamEvent::Token { token, .. })) => token,
        other => panic!("{other:?}"),
    };
    let tokens = [next(), next(), next()];
    assert_eq!(tokens.each_ref().map(|token| token.token_id), expected.token_ids[..3]);
    assert_eq!(tokens.each_ref().map(|token| token.logprob), expected.logprobs[..3]);
    running.controls.decode.wait_for(3); // the third hangs
}

#[test]
fn beams_and_several_samples_are_delivered_at_the_end() {
    let running = Setup::default().start();
    let beams = json!({"num_beams": 3, "num_return_sequences": 2});
    let samples = json!({"do_sample": true, "num_return_sequences": 3, "seed": 5});
    for params in [beams, samples] {
        let job = Question { params, ..Question::default() };
        let (text, tokens, answer) = block_on(collect(running.stream(job.clone()))).unwrap();
        assert_eq!((&text, tokens.len()), (&answer.best.text, 0));
        let given: Vec<_> = answer.sequences.iter().map(|sequence| &sequence.token_ids).collect();
        let expected = running.expected(&job);
        assert_eq!(given, expected.iter().map(|sequence| &sequence.token_ids).collect::<Vec<_>>());
    }
}

#[test]
fn a_failure_ends_a_stream_behind_the_tokens_that_were_decided() {
    let running = Setup::default().start();
    running.controls.decode.fail(1..3);
    let mut stream = running.stream(Question::default());
    let kinds: Vec<&str> = std::iter::from_fn(|| block_on(stream.next()))
        .map(|event| match event {
            Ok(StreamEvent::Token { .. }) => "token",
            Ok(StreamEvent::End { .. }) => "end",
            Err(EngineError::Model { .. }) => "failure",
            Err(_) => "other",
        })
        .collect();
    assert_eq!(kinds, ["token", "token", "failure"]);
}

/// Log-probabilities of tokens behind a prompt, in f64.
fn logprobs(prompt: &[f32], tokens: &[u32]) -> Vec<f64> {
    let logprob = |number: usize| {
        let fed = tokens[..number].iter().map(|token| *token as f32);
        let logits = MODEL.logits(&prompt.iter().copied().chain(fed).collect::<Vec<_>>());
        let total: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
        f64::from(logits[tokens[number] as usize]) - total.ln()
    };
    (0..tokens.len()).map(logprob).collect()
}

#[test]
fn candidates_are_ranked_by_the_sum_of_their_log_probabilities() {
    const CANDIDATES: [&str; 6] = ["a cat", "two dogs on a coat", "yes", "a cat", "a city near the sea", "no"];
    for slots in [1, 2, 4, 9] {
        let running = Setup { slots, kv_tokens: slots * MAX_LEN, ..Setup::default() }.start();
        for (text, with_end_token) in [(LONG, true), ("", false)] {
            let ranking = running.rank(text, &CANDIDATES, with_end_token).unwrap();
            let (_, prompt) = running.prompt(0, text);
            let expected = ranking.candidates.iter().map(|candidate| logprobs(&prompt, &candidate.token_ids));
            let expected: Vec<Vec<f64>> = expected.collect();
            let sums: Vec<f64> = expected.iter().map(|logprobs| logprobs.iter().sum()).collect();
            let total: f64 = sums.iter().map(|sum| sum.exp()).sum();
            for (number, candidate) in ranking.candidates.iter().enumerate() {
                let len = expected[number].len() as f64;
                let close = |actual: f32, expected: f64| (f64::from(actual) - expected).abs() < 1e-4;
                assert_eq!(candidate.text, CANDIDATES[number]);
                assert!(
                    candidate
                        .logprobs
                        .iter()
                        .zip(&expected[number])
                        .all(|(actual, expected)| close(*actual, *expected))
                );
                assert_eq!(candidate.logprobs.len(), candidate.token_ids.len());
                assert!(close(candidate.sum, sums[number]) && close(candidate.mean, sums[number] / len));
                assert!(close(candidate.probability, sums[number].exp() / total), "{candidate:?}");
            }
            assert_eq!(ranking.candidates[0].logprobs, ranking.candidates[3].logprobs);
        }
        running.check_all_is_well();
    }
}

#[test]
fn a_candidate_begins_with_a_space_behind_a_word_and_ends_with_the_end_token_if_so_asked() {
    let running = Setup::default().start();
    let plain = |text: &str| running.tokenizer.encode_plain(text).unwrap();
    let end = IDS.eos_token_id;
    for (text, candidate, written, with_end_token) in [
        ("Question: who? Answer:", "a cat", " a cat", false),
        ("Question: who? Answer:", "a cat", " a cat", true),
        ("Question: who? Answer:", " a cat", " a cat", false),
        ("Question: who? Answer: ", "a cat", "a cat", false),
        ("", "a cat", "a cat", true),
    ] {
        let ranking = running.rank(text, &[candidate], with_end_token).unwrap();
        let expected: Vec<u32> = plain(written).into_iter().chain(with_end_token.then_some(end)).collect();
        assert_eq!((&ranking.candidates[0].token_ids, ranking.candidates[0].probability), (&expected, 1.0), "{text:?}");
    }
}

#[test]
fn candidates_that_cannot_be_ranked_are_refused_by_number() {
    let running = Setup::default().start();
    let (many, long) = (vec!["x"; 257], "~!".repeat(200));
    for (candidates, reason) in [
        (&[] as &[&str], "candidates: 0 were given; give 1 to 256"),
        (&many, "candidates: 257 were given; give 1 to 256"),
        (&["a", " \t"], "candidates: number 1 is empty"),
        (&["a", "b", &long], "candidates: number 2: "),
    ] {
        let error = running.rank("", candidates, true).unwrap_err();
        assert!(matches!(error, EngineError::Rejected(JobError::Candidates(_))), "{error:?}");
        assert!(error.to_string().starts_with(reason), "{error}");
    }
    let fits_alone = "~!".repeat(60);
    let error = running.rank(LONG, &[&fits_alone], false).unwrap_err();
    assert!(matches!(error, EngineError::Rejected(JobError::TooLong { .. })), "{error:?}");
}

#[test]
fn a_ranking_takes_as_many_rows_as_there_is_memory_for() {
    let running = Setup { slots: 8, kv_tokens: MAX_LEN, ..Setup::default() }.start();
    let ranking = running.rank(LONG, &["a cat", "two dogs", "a city", "the sea"], true).unwrap();
    assert_eq!(ranking.candidates.len(), 4);
}

#[test]
fn jobs_that_can_never_run_are_refused_with_the_remedy() {
    let running = Setup { kv_tokens: 2 * MAX_LEN, ..Setup::default() }.start();
    let refusal = |text: &str, params: Value| {
        let job =
            ScoreJob { image: running.image(0), text: text.into(), params: running.params(&params), deadline: None };
        running.engine.prepare(&job).unwrap_err()
    };
    let cases = [
        (refusal("x", json!({"num_beams": 5})), "--slots"),
        (refusal("x", json!({"do_sample": true, "num_return_sequences": 1_u64 << 60})), "--slots"),
        (refusal("x", json!({"max_new_tokens": 125})), "max_new_tokens"),
        (refusal("x", json!({"num_beams": 4, "max_new_tokens": 100})), "--kv-tokens"),
        (refusal(&"~".repeat(126), json!({})), "text"),
    ];
    for (error, remedy) in cases {
        assert!(error.to_string().contains(remedy), "{error}");
    }
}

#[test]
fn an_image_that_many_ask_about_at_once_is_encoded_once() {
    let running = Setup { kv_prefix_cache_bytes: 0, ..Setup::default() }.start();
    running.controls.encode.hold(0);
    thread::scope(|scope| {
        for text in ["", "what?", "who?", "where?", "how many?", "a photo of", "why?", LONG] {
            let running = &running;
            scope.spawn(move || {
                let job = about(0, text);
                running.check(&job, &running.submit(job.clone()).wait().unwrap());
            });
        }
        let patience = Instant::now() + PATIENCE;
        while running.engine.rows_in_work() < 8 && Instant::now() < patience {
            thread::sleep(Duration::from_millis(1));
        }
        running.controls.encode.open();
    });
    assert_eq!(running.controls.encode.runs(), 1);
}

/// A job about an image that looks like the first one and is none of the others.
fn submit_new_image(running: &Running, number: u8) -> Pending<Answer> {
    let file = [FILES[0], &[number]].concat(); // what follows the end of a PNG is ignored
    let image = running.engine.open_image(&file).unwrap();
    let params = running.params(&Question::default().params);
    let job = ScoreJob { image, text: String::new(), params, deadline: None };
    running.engine.submit(running.engine.prepare(&job).unwrap(), &running.engine.reserve(1).unwrap()).unwrap()
}

#[test]
fn a_model_that_wants_several_images_gets_those_that_wait_in_one_run() {
    let running = Setup { images_at_once: 3, ..Setup::default() }.start();
    running.controls.encode.hold(0);
    let first = submit_new_image(&running, 0);
    running.controls.encode.wait_for(1);
    // One of them twice, and between them one that wants features only.
    let before: Vec<_> = [1, 2, 2, 3].map(|number| submit_new_image(&running, number)).into();
    let embedded = thread::scope(|scope| {
        let embedding = scope.spawn(|| embed(&running, 1, None));
        let patience = Instant::now() + PATIENCE;
        while running.engine.rows_in_work() < 6 && Instant::now() < patience {
            thread::sleep(Duration::from_millis(1));
        }
        let after: Vec<_> = [4, 5].map(|number| submit_new_image(&running, number)).into();
        running.controls.open();
        for answer in iter::once(first).chain(before).chain(after) {
            running.check(&about(0, ""), &answer.wait().unwrap());
        }
        embedding.join().unwrap()
    });
    // 0 alone, 1 and 2 together, 3 and features; 4 and 5 together if the decoder worker is fast enough to want both.
    let runs = running.controls.encode.runs();
    assert!((5..=6).contains(&runs), "{runs} runs");
    assert_eq!(embedded.unwrap().query_output, embed(&running, 1, None).unwrap().query_output);
}

#[test]
fn images_of_a_run_that_fails_are_tried_one_by_one() {
    let running = Setup { images_at_once: 4, ..Setup::default() }.start();
    running.controls.encode.fail(1..3);
    running.controls.encode.hold(0);
    let first = submit_new_image(&running, 0);
    running.controls.encode.wait_for(1);
    let [to_blame, others @ ..] = [1, 2, 3].map(|number| submit_new_image(&running, number));
    running.controls.open();
    assert!(first.wait().is_ok());
    assert!(matches!(to_blame.wait(), Err(EngineError::Model { .. })));
    for pending in others {
        running.check(&about(0, ""), &pending.wait().unwrap());
    }
    assert_eq!(running.controls.encode.runs(), 5);
    running.check(&about(0, ""), &submit_new_image(&running, 2).wait().unwrap());
}

#[test]
fn images_that_wait_are_encoded_together_but_not_more_than_four_before_their_prompts_are_fed() {
    for (held_from, is_fed) in [(3, false), (4, true)] {
        let running = Setup::default().start();
        running.controls.encode.hold(0);
        let pending: Vec<_> = (0..6).map(|number| submit_new_image(&running, number)).collect();
        running.controls.encode.hold(held_from);
        running.controls.encode.wait_for(held_from + 1);
        assert_eq!(running.controls.prefill.runs() > 0, is_fed);
        running.controls.open();
        let answers: Vec<_> = pending.into_iter().map(|pending| pending.wait().unwrap()).collect();
        answers.iter().for_each(|answer| running.check(&about(0, ""), answer));
    }
}

#[test]
fn an_image_that_failed_is_tried_again_and_then_encoded_once() {
    let running = Setup::default().start();
    running.controls.encode.fail(0..1);
    running.controls.encode.hold(0);
    // Two jobs share the failure, and between them there is time to ask anew.
    let first = running.prepare(about(0, "first"));
    let second = running.prepare(about(0, "second"));
    let submit = |job| running.engine.submit(job, &running.engine.reserve(1).unwrap()).unwrap();
    let (first, between, second) = (submit(first), running.submit(about(1, "between")), submit(second));
    running.controls.encode.wait_for(1);
    running.controls.encode.hold(1);
    assert!(matches!(first.wait(), Err(EngineError::Model { .. })));
    running.controls.encode.wait_for(2);
    let third = running.submit(about(0, "third"));
    running.controls.encode.hold(2);
    assert!(matches!(second.wait(), Err(EngineError::Model { .. })));
    let fourth = running.submit(about(0, "fourth"));
    running.controls.open();
    for pending in [between, third, fourth] {
        pending.wait().unwrap();
    }
    assert_eq!(running.controls.encode.runs(), 3, "one that failed, another image, and one for all who asked again");
}

#[test]
fn files_are_opened_in_their_order_with_errors_in_place() {
    let running = Setup::default().start();
    let files = [FILES[0], b"no image", FILES[1], FILES[0], b"", FILES[3], &FILES[2][..20]];
    let opened = running.engine.open_images(&files);
    let keys: Vec<_> = opened.iter().map(|image| image.as_ref().ok().map(Image::key)).collect();
    let alone: Vec<_> = (0..4).map(|file| Some(running.image(file).key())).collect();
    assert_eq!(keys, [alone[0], None, alone[1], alone[0], None, alone[3], None]);
    assert!(opened.iter().flat_map(|image| image.as_ref().err()).all(|error| matches!(error, JobError::Image(_))));
}

#[test]
fn several_questions_about_an_image_feed_it_once() {
    let running = Setup::default().start();
    for text in ["", "what?", LONG, "what is this?", ""] {
        let job = about(3, text);
        running.check(&job, &running.submit(job.clone()).wait().unwrap());
    }
    assert_eq!(running.controls.encode.runs(), 1);
    let saved = 4 * (PREFIX_LEN + 1) as u64;
    assert_eq!(running.engine.kv_prefix_cache(), CacheCounts { hits: 4, misses: 1, evictions: 0, bytes: saved });
    let counts = CacheCounts { hits: 4, misses: 1, evictions: 0, bytes: PREFIX_BYTES as u64 };
    assert_eq!(running.engine.image_cache(), counts);
}

#[test]
fn caches_that_are_full_forget_what_was_used_longest_ago() {
    let bytes = (2 * PREFIX_BYTES, 4 * (PREFIX_LEN + 1));
    let running = Setup { image_cache_bytes: bytes.0, kv_prefix_cache_bytes: bytes.1, ..Setup::default() }.start();
    for file in [0, 1, 0, 2, 1, 0] {
        let job = about(file, "what?");
        running.check(&job, &running.submit(job.clone()).wait().unwrap());
    }
    let counts = |hits, misses, evictions, bytes: usize| CacheCounts { hits, misses, evictions, bytes: bytes as u64 };
    assert_eq!(running.engine.image_cache(), counts(1, 5, 3, bytes.0));
    assert_eq!(running.engine.kv_prefix_cache(), counts(0, 6, 5, bytes.1));
    assert_eq!(running.controls.encode.runs(), 5);
}

fn store(running: &Running, file: usize, time_to_live: Duration, is_pinned: bool) -> Result<ImageId, EngineError> {
    let permit = running.engine.reserve(1).unwrap();
    let stored = running.engine.store_image(running.image(file), StoreOptions { time_to_live, is_pinned }, permit);
    block_on(stored)
}

/// Asks about a stored image.
fn ask(running: &Running, id: ImageId, job: &Question) -> Result<Answer, EngineError> {
    let image = running.engine.stored_image(id)?;
    let job = ScoreJob { image, text: job.text.into(), params: running.params(&job.params), deadline: None };
    running.engine.submit(running.engine.prepare(&job)?, &running.engine.reserve(1)?)?.wait()
}

#[test]
fn a_stored_image_is_asked_about_by_its_id_and_encoded_once() {
    let running = Setup { image_cache_bytes: 0, ..Setup::default() }.start();
    let id = store(&running, 0, HOUR, false).unwrap();
    assert_eq!(running.engine.stored_images(), (1, PREFIX_BYTES));
    for text in ["", "what?", LONG] {
        running.check(&about(0, text), &ask(&running, id, &about(0, text)).unwrap());
    }
    assert_eq!(running.controls.encode.runs(), 1);
    running.check_all_is_well();
}

#[test]
fn a_deleted_image_is_unknown_and_jobs_about_it_go_on() {
    let running = Setup::default().start();
    let id = store(&running, 0, HOUR, true).unwrap();
    let image = running.engine.stored_image(id).unwrap();
    running.engine.delete_image(id).unwrap();
    let job = Question::default();
    let params = running.params(&job.params);
    let prepared = running.engine.prepare(&ScoreJob { image, text: job.text.into(), params, deadline: None }).unwrap();
    let pending = running.engine.submit(prepared, &running.engine.reserve(1).unwrap()).unwrap();
    running.check(&job, &pending.wait().unwrap());
    let unknown = [
        running.engine.delete_image(id),
        running.engine.pin_image(id, true),
        running.engine.stored_image(id).map(drop),
    ];
    assert!(unknown.iter().all(|result| matches!(result, Err(StoreError::Unknown(unknown)) if *unknown == id)));
    assert_eq!(running.engine.stored_images(), (0, 0));
}

#[test]
fn a_stored_image_lives_as_long_as_it_was_given() {
    let running = Setup::default().start();
    let [short, long, longest] =
        [Duration::from_millis(20), HOUR, Duration::MAX].map(|time| store(&running, 0, time, false).unwrap());
    thread::sleep(Duration::from_millis(30));
    let is_there = [short, long, longest].map(|id| running.engine.stored_image(id).is_ok());
    assert_eq!(is_there, [false, true, true]);
}

#[test]
fn a_full_store_makes_room_but_not_of_what_is_pinned() {
    let running = Setup { stored_image_bytes: 2 * PREFIX_BYTES, ..Setup::default() }.start();
    let [first, second] = [0, 1].map(|file| store(&running, file, HOUR, false).unwrap());
    let third = store(&running, 2, HOUR, false).unwrap();
    assert!(running.engine.stored_image(first).is_err());
    [second, third].into_iter().for_each(|id| running.engine.pin_image(id, true).unwrap());
    let full = store(&running, 3, HOUR, false);
    assert!(matches!(full, Err(EngineError::Store(StoreError::Full { .. }))), "{full:?}");
    running.engine.pin_image(third, false).unwrap();
    let fourth = store(&running, 3, HOUR, false).unwrap();
    assert_eq!([second, third, fourth].map(|id| running.engine.stored_image(id).is_ok()), [true, false, true]);
    running.check_all_is_well();
}

#[test]
fn an_image_that_cannot_be_encoded_is_not_stored() {
    let running = Setup::default().start();
    running.controls.encode.fail(0..1);
    let failed = store(&running, 0, HOUR, false);
    assert!(matches!(failed, Err(EngineError::Model { stage: "encoding the image", .. })));
    assert_eq!(running.engine.stored_images(), (0, 0));
    running.check_all_is_well();
}

/// The features of an image, embedded by a deadline.
fn embed(running: &Running, file: usize, deadline: Option<Instant>) -> Result<Embedding, EngineError> {
    let decoded = running.engine.decode_images(&[FILES[file]]).remove(0).unwrap();
    let permit = running.engine.reserve(1).unwrap();
    block_on(running.engine.embed(decoded, deadline, &permit))
}

#[test]
fn features_are_those_of_the_image_whether_it_is_known_or_not() {
    let running = Setup::default().start();
    let first = embed(&running, 0, None).unwrap().query_output;
    assert_eq!(first.rows().map(<[f32]>::len).collect::<Vec<_>>(), [2; PREFIX_LEN]);
    running.submit(about(0, "what?")).wait().unwrap();
    assert_eq!(embed(&running, 0, None).unwrap().query_output, first);
    assert_ne!(embed(&running, 1, None).unwrap().query_output, first);
    running.check_all_is_well();
}

#[test]
fn an_image_that_cannot_be_embedded_is_an_error_and_the_engine_goes_on() {
    let running = Setup::default().start();
    running.controls.encode.fail(0..1);
    let error = embed(&running, 0, None).unwrap_err();
    assert_eq!(error.to_string(), "embedding the image failed");
    assert!(embed(&running, 0, None).is_ok());
    let broken = running.engine.decode_images(&[b"no image"]).remove(0);
    assert!(matches!(broken, Err(JobError::Image(_))));
    running.check_all_is_well();
}

#[test]
fn features_that_nobody_waits_for_are_not_computed() {
    let running = Setup::default().start();
    running.controls.encode.hold(0);
    let job = running.submit(about(1, "what?"));
    running.controls.encode.wait_for(1);
    let late = embed(&running, 0, Some(Instant::now() + Duration::from_millis(20)));
    assert!(matches!(late, Err(EngineError::DeadlineExceeded)));
    assert_eq!(running.engine.rows_in_work(), 2, "its place is taken until the worker sees it");
    running.controls.encode.open();
    job.wait().unwrap();
    running.wait_for_places();
    assert_eq!(running.controls.encode.runs(), 1);
}
