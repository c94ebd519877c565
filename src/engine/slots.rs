//! The slot table: which job sits in which slot of the KV cache.
//!
//! Active rows are always slots `0..len()`, because a decode step binds the first slots of the cache. When a row leaves,
//! the last one takes its place.

use std::sync::Arc;
use std::time::Instant;

use super::EngineError;
use super::job::{Encoded, Queued};
use super::traits::{ModelError, StepDecoder};
use crate::generation::{GenerationError, StopReason};

/// What became of a row in a step.
type Outcome = Result<Option<StopReason>, GenerationError>;

#[derive(Debug)]
pub(super) struct SlotTable {
    capacity: usize,
    jobs: Vec<Queued>,
}

impl SlotTable {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, jobs: Vec::with_capacity(capacity) }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.jobs.len() == self.capacity
    }

    /// Prefills a job into the next free slot. A job that fails or ends at once takes none.
    pub(super) fn admit(&mut self, decoder: &mut impl StepDecoder, encoded: Encoded) {
        let Encoded { mut job, prefix } = encoded;
        if job.is_cancelled() {
            return;
        }
        job.picked_up();
        let started = Instant::now();
        let logits = decoder.prefill(self.jobs.len(), &prefix, &job.input_ids);
        job.timings.prefill = started.elapsed();
        match logits {
            Ok(logits) => {
                let outcome = logits.rows().next().map_or(Ok(None), |row| job.row.accept(row));
                if let Some(job) = settle(job, outcome) {
                    self.jobs.push(job);
                }
            }
            Err(source) => job.fail(model_error("prefill", Arc::new(source))),
        }
    }

    /// One decode step for all rows, then ended and cancelled rows leave.
    pub(super) fn step(&mut self, decoder: &mut impl StepDecoder) {
        let tokens: Vec<i64> = self.jobs.iter().map(|job| i64::from(job.row.newest())).collect();
        let started = Instant::now();
        // A failed step leaves every row as it was, so it may be repeated: once, in case the fault has passed.
        let logits = decoder.decode(&tokens).or_else(|_| decoder.decode(&tokens));
        let took = started.elapsed();
        match logits {
            Ok(logits) => {
                let outcomes = self.jobs.iter_mut().zip(logits.rows()).map(|(job, row)| {
                    job.timings.decode += took;
                    job.row.accept(row)
                });
                let outcomes = outcomes.collect();
                self.retire(decoder, outcomes);
            }
            Err(source) => self.fail_all(source),
        }
    }

    /// From the last slot to the first, so that the row which takes a freed place has been looked at already.
    fn retire(&mut self, decoder: &mut impl StepDecoder, outcomes: Vec<Outcome>) {
        for (slot, outcome) in outcomes.into_iter().enumerate().rev() {
            let stays = matches!(outcome, Ok(None)) && !self.jobs[slot].is_cancelled();
            if stays {
                continue;
            }
            let last = self.jobs.len() - 1;
            if slot != last {
                decoder.move_row(last, slot);
            }
            settle(self.jobs.swap_remove(slot), outcome);
        }
    }

    fn fail_all(&mut self, source: ModelError) {
        let source = Arc::new(source);
        for job in self.jobs.drain(..) {
            job.fail(model_error("a decode step", Arc::clone(&source)));
        }
    }
}

/// Answers a job that has ended, and gives back one that has not.
fn settle(job: Queued, outcome: Outcome) -> Option<Queued> {
    match outcome {
        Ok(None) => return Some(job),
        Ok(Some(stop_reason)) => job.finish(stop_reason),
        Err(error) => job.fail(error.into()),
    }
    None
}

fn model_error(stage: &'static str, source: Arc<ModelError>) -> EngineError {
    EngineError::Model { stage, source }
}
