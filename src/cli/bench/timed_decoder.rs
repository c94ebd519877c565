//! A decoder that notes when each of its runs began and ended. The engine owns it like any other; a clone is the same
//! decoder, so that the benchmark can run it too while the engine has nothing to do.

use std::mem;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::engine::{DecoderLimits, ImagePrefix, Logits, ModelError, PromptPiece, SavedRow, StepDecoder};

/// One run of the decoder.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    kind: RunKind,
    started: Instant,
    ended: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RunKind {
    Prefill,
    Decode { rows: usize },
}

/// A prompt that was fed.
#[derive(Debug, Clone)]
pub(super) struct FedPrompt {
    pub(super) image: ImagePrefix,
    pub(super) input_ids: Vec<i64>,
}

struct Timed<D> {
    decoder: D,
    runs: Vec<Run>,
    last_prompt: Option<FedPrompt>,
}

/// See above.
pub(super) struct TimedDecoder<D>(Arc<Mutex<Timed<D>>>);

impl<D> Clone for TimedDecoder<D> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<D: StepDecoder> TimedDecoder<D> {
    pub(super) fn new(decoder: D) -> Self {
        Self(Arc::new(Mutex::new(Timed { decoder, runs: Vec::new(), last_prompt: None })))
    }

    /// The runs since the last call.
    pub(super) fn take_runs(&self) -> Vec<Run> {
        mem::take(&mut self.lock().runs)
    }

    /// The prompt that was fed last.
    pub(super) fn last_prompt(&self) -> Option<FedPrompt> {
        self.lock().last_prompt.clone()
    }

    /// A decoder whose run panicked is as whole as after a run that failed.
    fn lock(&self) -> MutexGuard<'_, Timed<D>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<D: StepDecoder> Timed<D> {
    fn note<T>(&mut self, kind: RunKind, run: impl FnOnce(&mut D) -> T) -> T {
        let started = Instant::now();
        let output = run(&mut self.decoder);
        self.runs.push(Run { kind, started, ended: Instant::now() });
        output
    }
}

impl<D: StepDecoder> StepDecoder for TimedDecoder<D> {
    fn limits(&self) -> DecoderLimits {
        self.lock().decoder.limits()
    }

    fn prefill(&mut self, first: usize, pieces: &[PromptPiece<'_>]) -> Result<Logits, ModelError> {
        let mut timed = self.lock();
        if let Some(PromptPiece { image, input_ids, .. }) = pieces.last() {
            timed.last_prompt = Some(FedPrompt { image: (*image).clone(), input_ids: input_ids.to_vec() });
        }
        timed.note(RunKind::Prefill, |decoder| decoder.prefill(first, pieces))
    }

    fn save_row(&mut self, slot: usize, len: usize, unneeded: SavedRow) -> SavedRow {
        self.lock().decoder.save_row(slot, len, unneeded)
    }

    fn spare_row(&mut self, len: usize) -> SavedRow {
        self.lock().decoder.spare_row(len)
    }

    fn restore_row(&mut self, slot: usize, saved: &SavedRow, len: usize) {
        self.lock().decoder.restore_row(slot, saved, len);
    }

    fn decode(&mut self, tokens: &[i64]) -> Result<Logits, ModelError> {
        self.lock().note(RunKind::Decode { rows: tokens.len() }, |decoder| decoder.decode(tokens))
    }

    fn copy_row(&mut self, from: usize, to: usize, positions: Range<usize>) {
        self.lock().decoder.copy_row(from, to, positions);
    }

    fn release(&mut self, slot: usize, from: usize) {
        self.lock().decoder.release(slot, from);
    }

    fn held(&self, slot: usize) -> usize {
        self.lock().decoder.held(slot)
    }
}

/// How long each decode run of so many rows took.
pub(super) fn inside(runs: &[Run], rows: usize) -> impl Iterator<Item = Duration> {
    runs.iter().filter(move |run| run.kind == RunKind::Decode { rows }).map(|run| run.ended - run.started)
}

/// How long it took from the end of each such run to the start of the next, if that was one of as many rows. Between the
/// two no row came and none went, so this is what a step costs beside its run.
pub(super) fn between(runs: &[Run], rows: usize) -> impl Iterator<Item = Duration> {
    let is_step = move |run: &Run| run.kind == RunKind::Decode { rows };
    runs.windows(2).filter_map(move |pair| match pair {
        [run, next] if is_step(run) && is_step(next) => Some(next.started - run.ended),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_runs_of_as_many_rows_in_a_row_tell_what_lies_between_them() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let run = |kind, from, to| Run { kind, started: at(from), ended: at(to) };
        let step = |rows, from, to| run(RunKind::Decode { rows }, from, to);
        let runs = [
            run(RunKind::Prefill, 0, 10),
            step(1, 11, 15),
            run(RunKind::Prefill, 16, 20),
            step(2, 22, 27),
            step(2, 30, 36),
            step(2, 37, 44),
            step(1, 50, 54),
        ];
        let ms = |times: Vec<Duration>| times.iter().map(Duration::as_millis).collect::<Vec<_>>();
        assert_eq!(ms(inside(&runs, 2).collect()), [5, 6, 7]);
        assert_eq!(ms(between(&runs, 2).collect()), [3, 1]);
        assert_eq!(ms(inside(&runs, 1).collect()), [4, 4]);
        assert_eq!(between(&runs, 1).count(), 0);
    }
}
