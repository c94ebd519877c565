//! The slot table: which row of which job sits in which slot of the KV cache.
//!
//! Active rows are always slots `0..len()`, because a decode step binds the first slots of the cache. When a row leaves,
//! the last one takes its place. A job has as many rows as its task goes on with: one for greedy search, `num_beams` for
//! beam search. A row that goes on several times is copied, never computed again.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::EngineError;
use super::byte_cache::{ByteCache, CacheCounters};
use super::job::{Encoded, Queued};
use super::picture::PictureKey;
use super::traits::{DecoderLimits, ImagePrefix, Logits, ModelError, SavedRow, StepDecoder};
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

/// A job whose prompt is being fed. Its slot lies behind the active rows.
#[derive(Debug)]
struct Prefilling {
    job: Queued,
    prefix: ImagePrefix,
    slot: usize,
    /// Positions that the slot holds.
    done: usize,
    prompt_len: usize,
    /// Some of them came out of the cache.
    is_known: bool,
}

impl Prefilling {
    /// The positions to feed next: never one alone, and none that would leave one alone.
    fn next_piece(&self, piece: usize) -> Range<usize> {
        let left = self.prompt_len - self.done;
        let len = if left <= piece { left } else { piece.min(left - 2) };
        self.done..self.done + len
    }
}

#[derive(Debug)]
pub(super) struct SlotTable {
    limits: DecoderLimits,
    prefixes: ByteCache<PictureKey, SavedRow>,
    prefilling: Option<Prefilling>,
    rows: Vec<ActiveRow>,
    jobs: BTreeMap<JobNumber, Running>,
    next_job: JobNumber,
}

impl SlotTable {
    pub(super) fn new(limits: DecoderLimits, prefix_cache_bytes: usize) -> Self {
        Self {
            limits,
            prefixes: ByteCache::new(prefix_cache_bytes),
            prefilling: None,
            rows: Vec::with_capacity(limits.slots),
            jobs: BTreeMap::new(),
            next_job: 0,
        }
    }

    pub(super) fn prefix_counters(&self) -> Arc<CacheCounters> {
        self.prefixes.counters()
    }

    /// No row is active.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(super) fn is_prefilling(&self) -> bool {
        self.prefilling.is_some()
    }

    /// Whether a job with so many rows finds room now.
    pub(super) fn has_room(&self, rows: usize) -> bool {
        self.rows.len() + rows <= self.limits.slots
    }

    /// Begins with a job: its row gets the slot behind the active rows, and what the cache knows of its picture.
    pub(super) fn begin(&mut self, decoder: &mut impl StepDecoder, encoded: Encoded) {
        let Encoded { mut job, prefix } = encoded;
        job.picked_up();
        let (slot, prompt_len) = (self.rows.len(), self.limits.prefix_len + job.input_ids.len());
        let started = Instant::now();
        // A run of one position takes another kernel and would give other bits, so at least two are left to feed.
        let most = prompt_len.saturating_sub(2);
        let done = self.prefixes.get(&job.picture).map_or(0, |saved| {
            let len = saved.len.min(most);
            decoder.restore_row(slot, saved, len);
            len
        });
        job.timings.prefill = started.elapsed();
        self.prefilling = Some(Prefilling { job, prefix, slot, done, prompt_len, is_known: done > 0 });
    }

    /// Feeds the next piece of the prompt in work, and its row becomes active with the last. How many positions it fed.
    pub(super) fn prefill_piece(&mut self, decoder: &mut impl StepDecoder) -> usize {
        let Some(mut prefilling) = self.prefilling.take() else { return 0 };
        if prefilling.job.is_cancelled() {
            return 0;
        }
        let piece = prefilling.next_piece(self.limits.piece);
        let started = Instant::now();
        let Prefilling { job, prefix, slot, .. } = &mut prefilling;
        let logits = decoder.prefill(*slot, prefix, &job.input_ids, piece.clone());
        job.timings.prefill += started.elapsed();
        prefilling.done = piece.end;
        match logits {
            Err(source) => prefilling.job.fail(model_error("prefill", Arc::new(source))),
            Ok(logits) if prefilling.done == prefilling.prompt_len => self.activate(decoder, prefilling, &logits),
            Ok(_) => self.prefilling = Some(prefilling),
        }
        piece.len()
    }

    fn activate(&mut self, decoder: &mut impl StepDecoder, prefilling: Prefilling, logits: &Logits) {
        let Prefilling { job, slot: from, prompt_len, is_known, .. } = prefilling;
        if !is_known {
            self.remember(decoder, &job, from);
        }
        let (number, slot) = (self.next_job, self.rows.len());
        self.next_job += 1;
        if from != slot {
            decoder.copy_row(from, slot, 0..prompt_len); // rows have left while the prompt was fed
        }
        self.rows.push(ActiveRow { job: number, token: 0, fed: Vec::new() });
        self.jobs.insert(number, Running { job, slots: vec![slot], prompt_len });
        let rows: Vec<&[f32]> = logits.rows().collect();
        self.advance(decoder, number, &rows);
    }

    /// Keeps the keys and values of picture and start token, which every further question about it begins with.
    fn remember(&mut self, decoder: &impl StepDecoder, job: &Queued, slot: usize) {
        let len = self.limits.prefix_len + 1;
        let bytes = len * self.limits.position_bytes;
        if self.prefixes.fits(bytes) {
            self.prefixes.put(job.picture, decoder.save_row(slot, len), bytes);
        }
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
