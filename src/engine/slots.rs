//! The slot table: which row of which job sits in which slot of the KV cache.
//!
//! Active rows are always slots `0..len()`, because a decode step binds the first slots of the cache. When a row leaves,
//! the last one takes its place. A job has as many rows as its task goes on with: one for greedy search, `num_beams` for
//! beam search. A row that goes on several times is copied, never computed again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::EngineError;
use super::job::{Encoded, Queued};
use super::traits::{ModelError, StepDecoder};
use crate::generation::{Continuation, Origin};

/// Jobs are numbered as they come.
type JobNumber = u64;

/// An active row.
#[derive(Debug)]
struct ActiveRow {
    job: JobNumber,
    /// What the next step feeds.
    token: u32,
    /// New tokens that the slot's positions behind the prompt hold, so that equal ones are not copied.
    fed: Vec<u32>,
}

/// A job in work: its rows' slots, in the order of its task's continuations.
#[derive(Debug)]
struct Running {
    job: Queued,
    slots: Vec<usize>,
    prompt_len: usize,
}

#[derive(Debug)]
pub(super) struct SlotTable {
    capacity: usize,
    rows: Vec<ActiveRow>,
    jobs: BTreeMap<JobNumber, Running>,
    next_job: JobNumber,
}

impl SlotTable {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, rows: Vec::with_capacity(capacity), jobs: BTreeMap::new(), next_job: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Whether a job with so many rows finds room now.
    pub(super) fn has_room(&self, rows: usize) -> bool {
        self.rows.len() + rows <= self.capacity
    }

    /// Prefills a job into the next free slot. A job that fails or ends at once takes none.
    pub(super) fn admit(&mut self, decoder: &mut impl StepDecoder, encoded: Encoded) {
        let Encoded { mut job, prefix } = encoded;
        if job.is_cancelled() {
            return;
        }
        job.picked_up();
        let started = Instant::now();
        let slot = self.rows.len();
        let logits = decoder.prefill(slot, &prefix, &job.input_ids);
        job.timings.prefill = started.elapsed();
        let logits = match logits {
            Ok(logits) => logits,
            Err(source) => return job.fail(model_error("prefill", Arc::new(source))),
        };
        let number = self.next_job;
        self.next_job += 1;
        let prompt_len = decoder.limits().prefix_len + job.input_ids.len();
        self.rows.push(ActiveRow { job: number, token: 0, fed: Vec::new() });
        self.jobs.insert(number, Running { job, slots: vec![slot], prompt_len });
        let rows: Vec<&[f32]> = logits.rows().collect();
        self.advance(decoder, number, &rows);
    }

    /// One decode step for all rows, then ended and cancelled rows leave.
    pub(super) fn step(&mut self, decoder: &mut impl StepDecoder) {
        let tokens: Vec<i64> = self.rows.iter().map(|row| i64::from(row.token)).collect();
        let started = Instant::now();
        // A failed step leaves every row as it was, so it may be repeated: once, in case the fault has passed.
        let logits = match decoder.decode(&tokens).or_else(|_| decoder.decode(&tokens)) {
            Ok(logits) => logits,
            Err(source) => return self.fail_all(source),
        };
        let took = started.elapsed();
        for row in &mut self.rows {
            row.fed.push(row.token);
        }
        // Rows move while jobs leave, so what belongs to whom is noted first.
        let logits: Vec<&[f32]> = logits.rows().collect();
        let numbers: Vec<JobNumber> = self.jobs.keys().copied().collect();
        let of_job = |number: &JobNumber| self.jobs[number].slots.iter().map(|slot| logits[*slot]).collect();
        let rows: Vec<Vec<&[f32]>> = numbers.iter().map(of_job).collect();
        for (number, rows) in numbers.into_iter().zip(rows) {
            self.settle(decoder, number, &rows, took);
        }
    }

    fn settle(&mut self, decoder: &mut impl StepDecoder, number: JobNumber, rows: &[&[f32]], took: Duration) {
        let Some(running) = self.jobs.get_mut(&number) else { return };
        running.job.timings.decode += took;
        if running.job.is_cancelled() {
            self.remove(decoder, number);
        } else {
            self.advance(decoder, number, rows);
        }
    }

    /// Gives a job the logits of its rows, and its rows the slots of what goes on.
    fn advance(&mut self, decoder: &mut impl StepDecoder, number: JobNumber, logits: &[&[f32]]) {
        let Some(running) = self.jobs.get_mut(&number) else { return };
        match running.job.task.advance(logits) {
            Ok(continuations) if continuations.is_empty() => {
                if let Some(job) = self.remove(decoder, number) {
                    job.finish();
                }
            }
            Ok(continuations) => self.place(decoder, number, &continuations),
            Err(error) => {
                if let Some(job) = self.remove(decoder, number) {
                    job.fail(error.into());
                }
            }
        }
    }

    /// Gives every continuation a slot. The first one of a row stays in that row's slot. All others are copied into slots
    /// whose rows do not go on, or new ones; as no source is ever overwritten, the order does not matter.
    fn place(&mut self, decoder: &mut impl StepDecoder, number: JobNumber, continuations: &[Continuation]) {
        let Some(running) = self.jobs.get(&number) else { return };
        let (old, prompt_len) = (running.slots.clone(), running.prompt_len);
        let mut placed: Vec<Option<usize>> = vec![None; continuations.len()];
        let mut is_kept = vec![false; old.len()];
        for (place, continuation) in placed.iter_mut().zip(continuations) {
            if let Origin::Row(row) = continuation.origin
                && !is_kept[row]
            {
                is_kept[row] = true;
                *place = Some(old[row]);
            }
        }
        let mut free: Vec<usize> = (0..old.len()).filter(|row| !is_kept[*row]).map(|row| old[row]).rev().collect();
        let mut slots = Vec::with_capacity(continuations.len());
        for (place, Continuation { origin, token }) in placed.into_iter().zip(continuations) {
            let slot = place.unwrap_or_else(|| {
                let (source, keep) = match origin {
                    Origin::Row(row) => (old[*row], self.rows[old[*row]].fed.clone()),
                    Origin::Prompt => (old[0], Vec::new()),
                };
                let (slot, same) = match free.pop() {
                    Some(slot) => (slot, prompt_len + common_prefix(&self.rows[slot].fed, &keep)),
                    None => {
                        self.rows.push(ActiveRow { job: number, token: 0, fed: Vec::new() });
                        (self.rows.len() - 1, 0)
                    }
                };
                decoder.copy_row(source, slot, same..prompt_len + keep.len());
                self.rows[slot].fed = keep;
                slot
            });
            self.rows[slot].token = *token;
            slots.push(slot);
        }
        if let Some(running) = self.jobs.get_mut(&number) {
            running.slots = slots;
        }
        free.sort_unstable();
        for slot in free.into_iter().rev() {
            self.free(decoder, slot);
        }
    }

    /// Takes a job out and frees its slots.
    fn remove(&mut self, decoder: &mut impl StepDecoder, number: JobNumber) -> Option<Queued> {
        let running = self.jobs.remove(&number)?;
        let mut slots = running.slots;
        slots.sort_unstable();
        for slot in slots.into_iter().rev() {
            self.free(decoder, slot);
        }
        Some(running.job)
    }

    /// The last row takes the place of the one that leaves. Slots of one job are freed from the last to the first, so that
    /// a slot which is still to be freed never moves.
    fn free(&mut self, decoder: &mut impl StepDecoder, slot: usize) {
        let last = self.rows.len() - 1;
        self.rows.swap_remove(slot);
        if slot == last {
            return;
        }
        let moved = &self.rows[slot];
        if let Some(owner) = self.jobs.get_mut(&moved.job) {
            decoder.copy_row(last, slot, 0..owner.prompt_len + moved.fed.len());
            for place in owner.slots.iter_mut().filter(|place| **place == last) {
                *place = slot;
            }
        }
    }

    fn fail_all(&mut self, source: ModelError) {
        let source = Arc::new(source);
        self.rows.clear();
        for (_, running) in std::mem::take(&mut self.jobs) {
            running.job.fail(model_error("a decode step", Arc::clone(&source)));
        }
    }
}

fn common_prefix(left: &[u32], right: &[u32]) -> usize {
    left.iter().zip(right).take_while(|(left, right)| left == right).count()
}

fn model_error(stage: &'static str, source: Arc<ModelError>) -> EngineError {
    EngineError::Model { stage, source }
}
