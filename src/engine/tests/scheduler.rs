//! The decoder worker turn by turn, without threads and time: random jobs under random limits, each
//! of them against what its task gives alone, and the table's accounts after every turn. Then
//! single cases by hand.

use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::Config;
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{mpsc, oneshot};

use super::fake_model::{Controls, FakeDecoder, Model, Run, encoded_images, positions};
use crate::bundle::GenerationDefaults;
use crate::engine::admission::Admission;
use crate::engine::decoder_worker::DecoderWorker;
use crate::engine::job::{FinishedJob, QueuedJob};
use crate::engine::slots::{SlotTable, Usage};
use crate::engine::{DecoderLimits, EngineError, Image, PreparedJob, StepDecoder as _};
use crate::generation::{DecidedToken, GenerationError, GenerationParams, Outcome, Task, letters};

const BROKEN: i64 = 1_000_000;

const MODEL: Model = Model { vocabulary: 8, end_token: 0, broken_token: BROKEN as usize };

/// Every prompt begins with it.
const START: i64 = 2;

/// More than any row of these tests takes.
const MAX_LEN: usize = 96;

const POSITION_BYTES: usize = 4;

/// Nothing here takes so long.
const HOUR: Duration = Duration::from_secs(3600);

#[derive(Debug, Clone)]
enum Method {
    Greedy,
    Samples(usize),
    Beams { beams: usize, returned: usize, early_stopping: Value, is_sharp: bool, stop_strings: Vec<&'static str> },
    Ranking(Vec<Vec<u32>>),
}

/// A job as it will be asked.
#[derive(Debug, Clone)]
struct Asked {
    /// The turn before which it comes.
    arrival: usize,
    image: usize,
    /// The tokens after the start token.
    text: Vec<i64>,
    method: Method,
    max_new_tokens: usize,
    seed: u64,
    /// Its caller goes so many turns after it came.
    cancelled_after: Option<usize>,
    /// Its time is over when it comes.
    is_late: bool,
}

impl Default for Asked {
    fn default() -> Self {
        Self {
            arrival: 0,
            image: 0,
            text: Vec::new(),
            method: Method::Greedy,
            max_new_tokens: 8,
            seed: 0,
            cancelled_after: None,
            is_late: false,
        }
    }
}

impl Asked {
    fn input_ids(&self) -> Vec<i64> {
        [START].iter().chain(&self.text).copied().collect()
    }

    /// Its task on a table of so many slots.
    fn task(&self, slots: usize) -> Task {
        let params = match &self.method {
            Method::Ranking(candidates) => return Task::rank(candidates.clone(), slots.div_ceil(2)),
            Method::Greedy => json!({}),
            Method::Samples(number) => json!({"do_sample": true, "num_return_sequences": (*number).min(slots)}),
            Method::Beams { beams, returned, early_stopping, is_sharp, stop_strings } => {
                let beams = (*beams).min(slots);
                let mut params = json!({
                    "num_beams": beams,
                    "num_return_sequences": (*returned).min(beams),
                    "early_stopping": early_stopping,
                    "stop_strings": stop_strings,
                });
                if *is_sharp {
                    params["do_sample"] = json!(true);
                    params["top_k"] = json!(2);
                }
                params
            }
        };
        let prompt = self.input_ids().iter().map(|id| *id as u32).collect();
        let defaults = GenerationDefaults { max_new_tokens: self.max_new_tokens };
        Task::generate(prompt, GenerationParams::parse(&params, defaults, &letters()).unwrap(), self.seed)
    }

    /// Whether its tokens are decided one by one.
    fn is_streamed(&self, slots: usize) -> bool {
        match &self.method {
            Method::Greedy => true,
            Method::Samples(rows) | Method::Beams { beams: rows, .. } => *rows.min(&slots) == 1,
            Method::Ranking(_) => false,
        }
    }

    /// Positions that all its rows can reach.
    fn positions(&self, slots: usize, prefix_len: usize) -> usize {
        let task = self.task(slots);
        task.rows() * (prefix_len + self.input_ids().len() + task.max_new_tokens())
    }
}

/// A table, what comes to it, and what its model does wrong.
#[derive(Debug, Clone)]
struct Case {
    slots: usize,
    prefix_len: usize,
    piece: usize,
    prefill_positions: usize,
    kv_tokens: usize,
    /// Images whose keys and values are kept.
    cached_images: usize,
    jobs: Vec<Asked>,
    failing_steps: Vec<(usize, usize)>,
    failing_pieces: Vec<usize>,
}

impl Default for Case {
    fn default() -> Self {
        Self {
            slots: 4,
            prefix_len: 2,
            piece: 8,
            prefill_positions: 8,
            kv_tokens: 4 * MAX_LEN,
            cached_images: 0,
            jobs: Vec::new(),
            failing_steps: Vec::new(),
            failing_pieces: Vec::new(),
        }
    }
}

impl Case {
    fn limits(&self) -> DecoderLimits {
        DecoderLimits {
            slots: self.slots,
            max_len: MAX_LEN,
            kv_tokens: self.kv_tokens,
            prefix_len: self.prefix_len,
            position_bytes: POSITION_BYTES,
            piece: self.piece,
        }
    }

    /// Works until all jobs are over. Their answers; none for a caller who has gone.
    fn run(&self) -> Vec<Option<Result<Outcome, EngineError>>> {
        let mut table = Table::new(self);
        let last = self.jobs.iter().map(|job| job.arrival).max().unwrap_or(0);
        for turn in 0.. {
            assert!(turn < 5_000, "it never ends");
            for (number, job) in self.jobs.iter().enumerate() {
                if job.arrival == turn {
                    table.arrive(number, job);
                }
                if job.cancelled_after.is_some_and(|turns| job.arrival + turns == turn) {
                    table.cancel(number);
                }
            }
            if turn > last && table.jobs.iter().all(Followed::is_over) {
                break;
            }
            table.turn();
        }
        assert_eq!(table.worker.slots.usage(), Usage { booked: 0, rows: 0, prompts: Vec::new() });
        assert_eq!(table.admission.taken(), 0);
        table.jobs.sort_by_key(|job| job.number);
        table.jobs.into_iter().map(|job| job.answer).collect()
    }
}

/// Where a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Waiting,
    /// Its prompt is being fed; so many pieces of others have come since its last, of at most so
    /// many prompts.
    Prompt {
        others: usize,
        crowd: usize,
    },
    Running,
    /// A piece of its prompt could not be fed.
    Failed,
    Over,
}

/// A job on its way through the table.
struct Followed<'a> {
    asked: &'a Asked,
    number: usize,
    address: usize,
    input_ids: Vec<i64>,
    image: Image,
    place: Place,
    reply: Option<oneshot::Receiver<Result<FinishedJob, EngineError>>>,
    tokens: UnboundedReceiver<DecidedToken>,
    decided: Vec<u32>,
    answer: Option<Result<Outcome, EngineError>>,
}

impl Followed<'_> {
    fn is_over(&self) -> bool {
        self.place == Place::Over
    }

    /// Returns the result of its task alone.
    fn alone(&self, slots: usize) -> Result<Outcome, GenerationError> {
        MODEL.answer(self.asked.task(slots), &positions(self.image.prefix().unwrap(), &self.input_ids))
    }

    /// Looks for tokens and the answer after a turn, whose step failed or not, if there was one.
    fn look(&mut self, slots: usize, step: Option<bool>, ran_before: bool) {
        let news: Vec<u32> = std::iter::from_fn(|| self.tokens.try_recv().ok()).map(|token| token.token_id).collect();
        self.decided.extend(&news);
        if self.is_over() {
            assert!(news.is_empty());
            return;
        }
        let Some(reply) = &mut self.reply else {
            self.place = Place::Over;
            return;
        };
        match reply.try_recv() {
            Ok(reply) => {
                let reply = reply.map(|finished| finished.outcome);
                self.check_answer(&reply, slots, step);
                self.answer = Some(reply);
                self.place = Place::Over;
            }
            Err(TryRecvError::Closed) => panic!("the job was dropped without an answer"),
            Err(TryRecvError::Empty) => {
                let is_running = self.place == Place::Running;
                assert!(!self.asked.is_late, "its time is over");
                assert_ne!(self.place, Place::Failed, "its prompt failed");
                assert!(!ran_before || step.is_some(), "a running row has its step");
                assert!(!is_running || step != Some(false), "and ends with one that fails");
                let tokens = usize::from(!ran_before) + usize::from(step == Some(true));
                let expected = if self.asked.is_streamed(slots) && is_running { tokens } else { 0 };
                assert_eq!(news.len(), expected, "one token a step, and one behind the prompt");
            }
        }
    }

    fn check_answer(&self, answer: &Result<Outcome, EngineError>, slots: usize, step: Option<bool>) {
        assert_eq!(matches!(answer, Err(EngineError::DeadlineExceeded)), self.asked.is_late, "{answer:?}");
        match answer {
            Err(EngineError::DeadlineExceeded) => {}
            Err(EngineError::Model { stage: "prefill", .. }) => assert_eq!(self.place, Place::Failed),
            Err(EngineError::Model { stage: "a decode step", .. }) => {
                assert_eq!((self.place, step), (Place::Running, Some(false)));
            }
            Err(EngineError::Generation(error)) => assert_eq!(Err(*error), self.alone(slots)),
            Ok(outcome) => {
                assert_eq!(Ok(outcome), self.alone(slots).as_ref());
                if let (true, Outcome::Sequences(sequences)) = (self.asked.is_streamed(slots), outcome) {
                    assert_eq!(self.decided, sequences[0].token_ids);
                }
            }
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// The worker, and what is known of its jobs.
struct Table<'a> {
    worker: DecoderWorker<FakeDecoder>,
    controls: Arc<Controls>,
    limits: DecoderLimits,
    most_fed: usize,
    admission: Arc<Admission>,
    images: Vec<Image>,
    jobs: Vec<Followed<'a>>,
}

impl<'a> Table<'a> {
    fn new(case: &Case) -> Self {
        let limits = case.limits();
        let controls = Arc::<Controls>::default();
        case.failing_steps.iter().for_each(|(first, count)| controls.decode.fail(*first..first + count));
        case.failing_pieces.iter().for_each(|number| controls.prefill.fail(*number..number + 1));
        let cache_bytes = case.cached_images * (case.prefix_len + 1) * POSITION_BYTES;
        let decoder = FakeDecoder::new(limits, MODEL, Arc::clone(&controls));
        Self {
            worker: DecoderWorker::new(decoder, SlotTable::new(limits, cache_bytes), case.prefill_positions),
            controls,
            limits,
            most_fed: case.prefill_positions + case.piece,
            admission: Arc::new(Admission::new(usize::MAX)),
            images: encoded_images(case.prefix_len),
            jobs: Vec::new(),
        }
    }

    fn arrive(&mut self, number: usize, asked: &'a Asked) {
        let input_ids = asked.input_ids();
        let image = self.images[asked.image].clone();
        let deadline = if asked.is_late { Instant::now() } else { Instant::now() + HOUR };
        let job = PreparedJob {
            image: image.clone(),
            input_ids: input_ids.clone(),
            task: asked.task(self.limits.slots),
            warnings: Vec::new(),
            deadline,
        };
        let (reply, answer) = oneshot::channel();
        let (send, tokens) = mpsc::unbounded_channel();
        self.jobs.push(Followed {
            asked,
            number,
            address: job.input_ids.as_ptr().addr(),
            input_ids,
            image,
            place: Place::Waiting,
            reply: Some(answer),
            tokens,
            decided: Vec::new(),
            answer: None,
        });
        let permit = Admission::reserve(&self.admission, 1, Instant::now() + HOUR).unwrap();
        self.worker.waiting.push_back(QueuedJob::new(job, permit, reply, Some(send)));
    }

    /// The caller goes, unless its answer has come.
    fn cancel(&mut self, number: usize) {
        self.jobs.iter_mut().filter(|job| job.number == number).for_each(|job| job.reply = None);
    }

    /// The jobs that wait and are wanted.
    fn waiting(&self) -> Vec<usize> {
        self.worker.waiting.iter().filter(|job| !job.is_over()).map(|job| job.input_ids.as_ptr().addr()).collect()
    }

    fn turn(&mut self) -> Vec<Run> {
        let first = self.worker.waiting.iter().find(|job| !job.is_over());
        let first_has_room = first.is_some_and(|job| self.worker.slots.has_room(job));
        let queue = self.waiting();
        self.worker.turn();
        let runs = std::mem::take(&mut self.worker.decoder.runs);
        assert_eq!(self.controls.faults(), [""; 0]);

        let left = self.waiting();
        assert!(queue.ends_with(&left), "jobs begin in the order in which they came");
        assert!(!first_has_room || left.len() < queue.len(), "the first job has room and waits");
        self.follow(&queue[..queue.len() - left.len()], &runs);
        self.check_accounts(&runs);
        runs
    }

    /// Follows the jobs through the runs of a turn, in which some began.
    fn follow(&mut self, begun: &[usize], runs: &[Run]) {
        let prompts = self.jobs.iter().filter(|job| matches!(job.place, Place::Prompt { .. })).count() + begun.len();
        let ran_before: Vec<bool> = self.jobs.iter().map(|job| job.place == Place::Running).collect();
        for job in &mut self.jobs {
            match &mut job.place {
                Place::Prompt { crowd, .. } => *crowd = prompts.max(*crowd),
                Place::Waiting if begun.contains(&job.address) => {
                    job.place = Place::Prompt { others: 0, crowd: prompts };
                }
                _ => {}
            }
        }
        let mut steps = Vec::new();
        for run in runs {
            match run {
                Run::Piece { prompt, positions, is_ok } => self.follow_piece(begun, *prompt, positions.end, *is_ok),
                Run::Step { is_ok, .. } => steps.push(*is_ok),
            }
        }
        assert!(matches!(steps.as_slice(), [] | [true] | [false, true] | [false, false]), "{steps:?}");
        for (job, ran_before) in self.jobs.iter_mut().zip(ran_before) {
            job.look(self.limits.slots, steps.last().copied(), ran_before);
        }
    }

    fn follow_piece(&mut self, begun: &[usize], prompt: usize, end: usize, is_ok: bool) {
        for job in &mut self.jobs {
            let prompt_len = self.limits.prefix_len + job.input_ids.len();
            let Place::Prompt { others, crowd } = &mut job.place else { continue };
            if job.address != prompt {
                // Those that began in this very turn may have come behind this piece.
                *others += usize::from(!begun.contains(&job.address));
                assert!(*others < *crowd || job.reply.is_none(), "prompts take turns");
            } else if !is_ok {
                job.place = Place::Failed;
            } else if end == prompt_len {
                job.place = Place::Running;
            } else {
                *others = 0;
            }
        }
    }

    fn check_accounts(&self, runs: &[Run]) {
        let piece = |run: &Run| if let Run::Piece { positions, .. } = run { positions.len() } else { 0 };
        let fed: usize = runs.iter().map(piece).sum();
        assert!(fed <= self.most_fed, "{fed} positions in one turn");

        let slots = self.limits.slots;
        let kv_tokens = self.limits.kv_tokens;
        let alive = || self.jobs.iter().filter(|job| !job.is_over());
        assert_eq!(self.admission.taken(), alive().count(), "places are given back with the job, and not before");
        let begun = || alive().filter(|job| job.place != Place::Waiting);
        let running = || begun().filter(|job| job.place == Place::Running);
        let usage = self.worker.slots.usage();
        let booked: usize = begun().map(|job| job.asked.positions(slots, self.limits.prefix_len)).sum();
        assert_eq!(usage.booked, booked);
        assert_eq!(usage.prompts.len(), begun().count() - running().count());
        let most_rows = running().map(|job| job.asked.task(slots).rows()).sum();
        assert!((running().count()..=slots.min(most_rows)).contains(&usage.rows), "{usage:?}");

        let is_idle = |slot: &usize| *slot >= usage.rows && !usage.prompts.contains(slot);
        let (idle, busy): (Vec<usize>, Vec<usize>) = (0..slots).partition(is_idle);
        let held = |of: Vec<usize>| -> usize { of.into_iter().map(|slot| self.worker.decoder.held(slot)).sum() };
        let idle = held(idle);
        let busy = held(busy);
        assert!(busy <= booked, "{busy} positions are held by rows that booked {booked}");
        assert!(idle + booked <= kv_tokens, "{booked} of {kv_tokens} positions are booked, and {idle} not given back");
    }
}

fn tokens(count: impl Strategy<Value = usize>) -> impl Strategy<Value = Vec<i64>> {
    count.prop_flat_map(|count| prop::collection::vec(1..8_i64, count))
}

fn methods() -> impl Strategy<Value = Method> {
    let stop_strings = prop_oneof![Just(Vec::new()), Just(vec!["\u{3}", "\u{4}", "\u{5}", "\u{6}"])];
    let early_stopping = prop_oneof![Just(json!(true)), Just(json!(false)), Just(json!("never"))];
    let beams = (2..9_usize, 1..5_usize, early_stopping, any::<bool>(), stop_strings);
    prop_oneof![
        4 => Just(Method::Greedy),
        2 => (1..6_usize).prop_map(Method::Samples),
        2 => beams.prop_map(|(beams, returned, early_stopping, is_sharp, stop_strings)| {
            Method::Beams { beams, returned, early_stopping, is_sharp, stop_strings }
        }),
        2 => prop::collection::vec(prop::collection::vec(0..9_u32, 1..6), 1..7).prop_map(Method::Ranking),
    ]
}

fn jobs() -> impl Strategy<Value = Vec<Asked>> {
    let text = tokens(prop_oneof![0..3_usize, 3..12_usize, 12..45_usize]);
    let what = (0..3_usize, text, methods(), 1..14_usize, any::<u64>());
    let cancelled_after = prop::option::weighted(0.25, 0..20_usize);
    let [is_late, is_broken] = [0.05, 0.1].map(prop::bool::weighted);
    let job = (0..25_usize, what, cancelled_after, is_late, is_broken).prop_map(
        |(arrival, (image, mut text, method, max_new_tokens, seed), cancelled_after, is_late, is_broken)| {
            text.extend(is_broken.then_some(BROKEN));
            Asked { arrival, image, text, method, max_new_tokens, seed, cancelled_after, is_late }
        },
    );
    // Prompts differ in their first word, so that a mix-up is seen even where the rest is equal.
    let told_apart = |mut jobs: Vec<Asked>| {
        for (number, job) in jobs.iter_mut().enumerate() {
            if let Some(first) = job.text.first_mut().filter(|first| **first != BROKEN) {
                *first = 100 + number as i64;
            }
        }
        jobs
    };
    prop::collection::vec(job, 1..16).prop_map(told_apart)
}

fn cases() -> impl Strategy<Value = Case> {
    // Positions, in hundredths of what the largest job needs.
    let kv_percent = prop_oneof![Just(100), 100..400_usize, Just(10_000)];
    let cached_images = prop_oneof![Just(0), Just(1), Just(9)];
    let limits = (1..9_usize, 1..7_usize, 4..14_usize, 1..40_usize, kv_percent, cached_images);
    (limits, jobs()).prop_map(|((slots, prefix_len, piece, prefill_positions, kv_percent, cached_images), jobs)| {
        let largest = jobs.iter().map(|job| job.positions(slots, prefix_len)).max().unwrap_or(0);
        let kv_tokens = (largest * kv_percent / 100).min(slots * MAX_LEN);
        Case { slots, prefix_len, piece, prefill_positions, kv_tokens, cached_images, jobs, ..Case::default() }
    })
}

fn failing_cases() -> impl Strategy<Value = Case> {
    let steps = prop::collection::vec((0..40_usize, 1..4_usize), 0..5);
    let pieces = prop::collection::vec(0..40_usize, 0..4);
    (cases(), steps, pieces).prop_map(|(case, failing_steps, failing_pieces)| Case {
        failing_steps,
        failing_pieces,
        ..case
    })
}

proptest! {
    #![proptest_config(Config { cases: 256, failure_persistence: None, ..Config::default() })]

    #[test]
    fn random_jobs_are_answered_as_if_alone(case in cases()) {
        case.run();
    }

    #[test]
    fn failing_run_ends_its_rows_alone_and_the_table_goes_on(case in failing_cases()) {
        case.run();
    }
}

/// A text of so many words that differ from those of another number.
fn text(number: i64, len: usize) -> Vec<i64> {
    (0..len as i64).map(|place| 100 * (number + 1) + place).collect()
}

fn greedy(number: i64, len: usize) -> Asked {
    Asked { text: text(number, len), ..Asked::default() }
}

/// One row that takes 29 steps.
fn lasting(number: i64) -> Asked {
    Asked { method: Method::Ranking(vec![vec![1; 30]]), ..greedy(number, 1) }
}

fn beams(number: usize) -> Method {
    Method::Beams { beams: number, returned: 1, early_stopping: json!(false), is_sharp: true, stop_strings: Vec::new() }
}

#[test]
fn short_prompt_swaps_slots_with_a_long_one_when_none_is_free() {
    for slots in 2..5 {
        let short = (1..slots as i64).map(|number| greedy(number, number as usize));
        let jobs = std::iter::once(greedy(0, 40)).chain(short).collect();
        Case { slots, jobs, ..Case::default() }.run();
    }
}

#[test]
fn beams_find_slots_again_after_being_fewer_for_a_while() {
    // With top_k 2 there are two ways to begin, and four only from the second token on.
    for seed in 0..20 {
        let jobs = vec![Asked { method: beams(4), seed, ..greedy(0, 3) }, greedy(1, 3), greedy(2, 30)];
        Case { jobs, ..Case::default() }.run();
    }
}

#[test]
fn moved_row_takes_its_memory_along() {
    // Two samples that end at different times, and a longer row behind them, which takes the place
    // of the first.
    for seed in 0..20 {
        let samples = Asked { method: Method::Samples(2), max_new_tokens: 12, seed, ..greedy(0, 0) };
        let jobs = vec![samples, greedy(1, 30)];
        let kv_tokens = jobs.iter().map(|job| job.positions(3, 2)).sum();
        Case { slots: 3, kv_tokens, jobs, ..Case::default() }.run();
    }
}

#[test]
fn displaced_prompt_holds_no_more_than_it_booked() {
    // A long prompt is fed in the last slot, because its own is taken, until its caller goes. Then
    // two samples need the first slots, and the prompt that is fed there moves to the last one.
    let short = |number, len| Asked { max_new_tokens: 1, ..greedy(number, len) };
    let long = Asked { cancelled_after: Some(10), ..greedy(2, 70) };
    let displaced = Asked { arrival: 12, ..greedy(3, 14) };
    let samples = Asked { arrival: 12, method: Method::Samples(2), ..greedy(4, 0) };
    let jobs = vec![short(0, 9), short(1, 13), long, displaced, samples];
    Case { jobs, ..Case::default() }.run();
}

/// Runs of the prompts of a case, which come at once and are fed in its first turn.
fn prefill_runs(case: &Case) -> usize {
    let mut table = Table::new(case);
    case.jobs.iter().enumerate().for_each(|(number, job)| table.arrive(number, job));
    table.turn();
    table.controls.prefill.runs()
}

#[test]
fn prompts_of_several_images_are_prefilled_in_one_run() {
    let about = |image, number, len| Asked { image, ..greedy(number, len) };
    let case = |jobs, cached_images| Case {
        slots: 6,
        piece: 64,
        prefill_positions: 99,
        jobs,
        cached_images,
        ..Case::default()
    };
    let different = vec![about(0, 0, 5), about(1, 1, 9), about(2, 2, 1)];
    assert_eq!(prefill_runs(&case(different.clone(), 0)), 1);
    assert_eq!(prefill_runs(&case(different, 9)), 1);
    let beams_between = vec![about(0, 0, 5), Asked { method: beams(2), ..about(1, 1, 5) }, about(2, 2, 5)];
    assert_eq!(prefill_runs(&case(beams_between, 0)), 2, "what begins behind the beams lies not beside them");
    let lengths = vec![about(0, 0, 30), about(1, 1, 2), about(2, 2, 3)];
    assert_eq!(prefill_runs(&case(lengths, 0)), 2, "a short prompt is not padded to a long one");
}

#[test]
fn prompts_of_one_image_wait_for_its_cached_kv_prefix() {
    let jobs: Vec<Asked> = (0..3).map(|number| greedy(number, 4)).collect();
    let case =
        |cached_images| Case { piece: 64, prefill_positions: 99, jobs: jobs.clone(), cached_images, ..Case::default() };
    assert_eq!((prefill_runs(&case(0)), prefill_runs(&case(1))), (1, 3));
}

#[test]
fn failed_prefill_of_several_prompts_fails_exactly_those() {
    let jobs: Vec<Asked> = (0..4).map(|image| Asked { image, ..greedy(image as i64, 2) }).collect();
    let case = Case { piece: 64, prefill_positions: 13, jobs, failing_pieces: vec![0], ..Case::default() };
    let is_failed = |answer: &Option<_>| matches!(answer, Some(Err(EngineError::Model { stage: "prefill", .. })));
    assert_eq!(case.run().iter().map(is_failed).collect::<Vec<_>>(), [true, true, false, false]);
}

#[test]
fn cancelled_prompt_leaves_before_its_next_piece() {
    for number in 0..4 {
        let mut jobs: Vec<Asked> = (0..4).map(|number| greedy(number, 60)).collect();
        jobs[number].cancelled_after = Some(9);
        let is_answered: Vec<bool> = Case { jobs, ..Case::default() }.run().iter().map(Option::is_some).collect();
        assert_eq!(is_answered, (0..4).map(|other| other != number).collect::<Vec<_>>());
    }
}

#[test]
fn cancelled_row_takes_part_in_no_further_step() {
    let asked = [lasting(0), lasting(1)];
    let case = Case { prefill_positions: 99, ..Case::default() };
    let mut table = Table::new(&case);
    table.arrive(0, &asked[0]);
    table.arrive(1, &asked[1]);
    assert!(!table.turn().iter().any(|run| matches!(run, Run::Step { .. })), "rows that begin have their token");
    assert_eq!(table.turn(), [Run::Step { rows: 2, is_ok: true }]);
    table.cancel(0);
    assert_eq!(table.turn(), [Run::Step { rows: 1, is_ok: true }]);
}

#[test]
fn room_of_a_cancelled_job_is_reused_in_the_same_turn() {
    let asked = [lasting(0), lasting(1)];
    let case = Case { slots: 1, kv_tokens: 50, ..Case::default() };
    let mut table = Table::new(&case);
    table.arrive(0, &asked[0]);
    table.arrive(1, &asked[1]);
    table.turn();
    table.cancel(0);
    assert!(matches!(table.turn().as_slice(), [Run::Piece { .. }, ..]));
}

#[test]
fn failed_step_is_retried_once() {
    let jobs = vec![lasting(0), lasting(1)];
    let once = Case { failing_steps: vec![(1, 1), (4, 1)], jobs: jobs.clone(), ..Case::default() };
    assert!(once.run().iter().all(|answer| matches!(answer, Some(Ok(_)))));
    let twice = Case { failing_steps: vec![(1, 2)], jobs, ..Case::default() };
    assert!(twice.run().iter().all(|answer| matches!(answer, Some(Err(EngineError::Model { .. })))));
}

#[test]
fn non_finite_logits_end_the_job_they_belong_to() {
    let mut jobs: Vec<Asked> = (0..4).map(|number| Asked { max_new_tokens: 60, ..greedy(number, 2) }).collect();
    jobs[2].text.push(BROKEN);
    let answers = Case { jobs, ..Case::default() }.run();
    let is_broken = |answer: &Option<_>| matches!(answer, Some(Err(EngineError::Generation(_))));
    assert_eq!(answers.iter().map(is_broken).collect::<Vec<_>>(), [false, false, true, false]);
}

#[test]
fn job_without_an_encoded_image_fails_alone() {
    let asked = [greedy(0, 1), greedy(1, 1)];
    let case = Case::default();
    let mut table = Table::new(&case);
    table.images[0] = Image::for_tests();
    table.arrive(0, &asked[0]);
    table.images = encoded_images(case.prefix_len);
    table.arrive(1, &asked[1]);
    table.worker.turn();
    let answer = table.jobs[0].reply.as_mut().unwrap().try_recv().unwrap();
    assert!(matches!(answer, Err(EngineError::Model { stage: "prefill", .. })));
    let other = table.jobs[1].reply.as_mut().unwrap().try_recv();
    assert!(!matches!(other, Ok(Err(_))), "{other:?}");
}
