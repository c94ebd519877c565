//! One decode step at several numbers of rows: the model's run alone, and the same run inside the engine.

use serde::Serialize;

use super::requests::PROMPT;
use super::statistics::{median_ms, thousandths};
use super::timed_decoder::{Run, TimedDecoder, between, inside};
use super::{failure, forced_length};
use crate::cli::Failure;
use crate::engine::{Engine, EngineError, Image, ModelError, PromptPiece, ScoreJob, StepDecoder};

/// Steps to measure at a time: few, so that the two sides take turns often and meet the same load of the machine.
const STEPS: usize = 8;

/// A model that takes longer for a step than a caller for a request needs one.
const MOST_TRIES: usize = 50;

/// Median times of a step; `None` if the rows do not fit, or were never active together.
#[derive(Debug, Serialize)]
pub(super) struct DecodeStep {
    pub(super) rows: usize,
    /// The model's run alone.
    pub(super) bare_ms: Option<f64>,
    /// The same run inside the engine.
    pub(super) in_engine_ms: Option<f64>,
    /// The second over the first.
    pub(super) ratio: Option<f64>,
    /// Time that the engine adds to each step.
    pub(super) overhead_ms: Option<f64>,
}

/// Bare model and engine, which take turns on one decoder.
pub(super) struct Comparison<'a, D> {
    pub(super) engine: &'a Engine,
    /// The engine's. It must have fed a prompt already.
    pub(super) decoder: TimedDecoder<D>,
    /// The image of every row.
    pub(super) image: Image,
    pub(super) queue_rows: usize,
    pub(super) repeats: usize,
}

impl<D: StepDecoder> Comparison<'_, D> {
    /// A step of so many rows.
    pub(super) fn measure(&mut self, rows: usize) -> Result<DecodeStep, Failure> {
        let (mut bare, mut in_engine, mut overhead) = (Vec::new(), Vec::new(), Vec::new());
        let repeats = if self.fits(rows) { self.repeats } else { 0 };
        for repeat in 1..=repeats {
            tracing::info!(rows, repeat, of = repeats, "decode step");
            let runs = self.run_bare(rows).map_err(Failure::result)?;
            bare.extend(inside(&runs, rows));
            let runs = self.run_together(rows)?;
            in_engine.extend(inside(&runs, rows));
            overhead.extend(between(&runs, rows));
        }
        let (bare_ms, in_engine_ms) = (median_ms(bare), median_ms(in_engine));
        let ratio = bare_ms.zip(in_engine_ms).map(|(bare, in_engine)| thousandths(in_engine / bare));
        Ok(DecodeStep { rows, bare_ms, in_engine_ms, ratio, overhead_ms: median_ms(overhead) })
    }

    /// Whether so many rows can be active together.
    fn fits(&self, rows: usize) -> bool {
        let limits = self.decoder.limits();
        let prompt_len = self.decoder.last_prompt().map_or(0, |prompt| limits.prefix_len + prompt.input_ids.len());
        let row_len = prompt_len + new_tokens(rows);
        rows <= limits.slots.min(self.queue_rows) && row_len <= limits.max_len && rows * row_len <= limits.kv_tokens
    }

    /// Steps of the model alone, behind the prompt that the engine fed last, so that rows are about as long. The engine
    /// has nothing to do now, so all slots of its decoder are free.
    fn run_bare(&mut self, rows: usize) -> Result<Vec<Run>, ModelError> {
        let Some(prompt) = self.decoder.last_prompt() else { return Ok(Vec::new()) };
        let limits = self.decoder.limits();
        let prompt_len = limits.prefix_len + prompt.input_ids.len();
        for start in (0..prompt_len).step_by(limits.piece) {
            let end = prompt_len.min(start + limits.piece);
            let piece = PromptPiece { image: &prompt.image, input_ids: &prompt.input_ids, positions: start..end };
            self.decoder.prefill(0, &[piece])?;
        }
        for slot in 1..rows {
            self.decoder.copy_row(0, slot, 0..prompt_len);
        }
        let tokens = vec![prompt.input_ids.last().copied().unwrap_or_default(); rows];
        drop(self.decoder.take_runs()); // what came before
        for _ in 0..STEPS {
            self.decoder.decode(&tokens)?;
        }
        for slot in 0..rows {
            self.decoder.release(slot, 0);
        }
        Ok(self.decoder.take_runs())
    }

    /// As [`Self::run_in_engine`], until all rows were active together at least once: a tiny model may be done with the first
    /// before the last has come.
    fn run_together(&self, rows: usize) -> Result<Vec<Run>, Failure> {
        let mut runs = Vec::new();
        for _ in 0..MOST_TRIES {
            runs = self.run_in_engine(rows)?;
            if between(&runs, rows).next().is_some() {
                break;
            }
        }
        Ok(runs)
    }

    /// As many steps inside the engine, and some more while rows join and leave.
    fn run_in_engine(&self, rows: usize) -> Result<Vec<Run>, Failure> {
        let params = forced_length(self.engine, new_tokens(rows))?;
        let job = ScoreJob { image: self.image.clone(), text: PROMPT.to_owned(), params, deadline: None };
        let answer = || -> Result<(), EngineError> {
            let permit = self.engine.reserve(rows)?;
            let jobs = (0..rows).map(|_| self.engine.prepare(&job)).collect::<Result<Vec<_>, _>>()?;
            let submit = |job| self.engine.submit(job, &permit);
            let pending = jobs.into_iter().map(submit).collect::<Result<Vec<_>, _>>()?;
            pending.into_iter().try_for_each(|answer| answer.wait().map(drop))
        };
        answer().map_err(failure)?;
        Ok(self.decoder.take_runs())
    }
}

/// Tokens of an answer, so that all rows are active together for [`STEPS`] steps: the first comes with the prompt, and rows
/// join one after the other.
fn new_tokens(rows: usize) -> usize {
    1 + rows + STEPS
}
