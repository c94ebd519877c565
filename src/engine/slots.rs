//! The slot table: the assignment of rows to slots of the KV cache.
//!
//! Active rows always occupy slots `0..rows.len()`, because a decode step binds the first slots of
//! the cache. When a row leaves, the last row moves into its slot. The number of a job's rows is
//! the number of its task's continuations: one for greedy search, up to `num_beams` for beam
//! search. A row that continues several times is copied, never recomputed.
//!
//! Prompts that are being prefilled occupy one slot each after the active rows. They take turns, so
//! that a long prompt does not hold up a short one.
//!
//! Before a job begins, it books its rows and every position that they can reach. Neither can run
//! out later.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use super::EngineError;
use super::byte_cache::{ByteCache, CacheCounters};
use super::image_table::ImageKey;
use super::job::QueuedJob;
use super::stage::Stage;
use super::status::Turn;
use super::traits::{DecoderLimits, ModelError, PromptPiece, SavedRow, StepDecoder};
use crate::generation::{Continuation, Origin};

/// The most KV-prefix cache entries to preallocate: all of the default cache at full size, and
/// little for a tiny model.
const MOST_SPARE: usize = 16;

/// The most positions by which prompts of one run may differ in length.
///
/// Padding costs as much as prefilling. A run of its own costs the time to read the weights, which
/// equals that of about 20 positions on two cores (benches/results).
const MOST_PADDING: usize = 16;

/// The number of a job, in the order in which jobs become active.
type JobNumber = u64;

/// An active row.
#[derive(Debug)]
struct ActiveRow {
    job: JobNumber,
    /// The token that the next step feeds.
    token: u32,
    /// The tokens at the slot's positions after the prompt. Positions with equal tokens need not be
    /// copied.
    fed: Vec<u32>,
}

impl ActiveRow {
    fn new(job: JobNumber) -> Self {
        Self { job, token: 0, fed: Vec::new() }
    }
}

/// A job whose rows are active.
#[derive(Debug)]
struct DecodingJob {
    job: QueuedJob,
    /// The slots of its rows, in the order of its task's continuations.
    slots: Vec<usize>,
    prompt_len: usize,
}

/// A job whose prompt is being prefilled.
#[derive(Debug)]
struct PrefillingJob {
    job: QueuedJob,
    slot: usize,
    /// Positions that the slot holds.
    done: usize,
    prompt_len: usize,
}

impl PrefillingJob {
    /// Returns the positions to feed next. A piece never has one position, nor leaves one over: a
    /// run of one position takes another kernel and would give other bits.
    fn next_piece(&self, piece: usize) -> Range<usize> {
        let left = self.prompt_len - self.done;
        let len = if left <= piece { left } else { piece.min(left - 2) };
        self.done..self.done + len
    }

    /// Returns the piece at these positions; `None` if the image is not encoded.
    fn piece(&self, positions: Range<usize>) -> Option<PromptPiece<'_>> {
        Some(PromptPiece { image: self.job.image.prefix()?, input_ids: &self.job.input_ids, positions })
    }

    fn image_key(&self) -> ImageKey {
        self.job.image.key()
    }
}

#[derive(Debug)]
pub(super) struct SlotTable {
    limits: DecoderLimits,
    /// The positions that all jobs in the table can reach; at most `limits.kv_tokens`.
    booked: usize,
    /// The KV-prefix cache.
    prefixes: ByteCache<ImageKey, SavedRow>,
    /// Preallocated memory for the first entries of `prefixes`.
    spare: Vec<SavedRow>,
    prefilling: VecDeque<PrefillingJob>,
    rows: Vec<ActiveRow>,
    jobs: BTreeMap<JobNumber, DecodingJob>,
    next_job: JobNumber,
}

impl SlotTable {
    pub(super) fn new(limits: DecoderLimits, prefix_cache_bytes: usize) -> Self {
        Self {
            limits,
            booked: 0,
            prefixes: ByteCache::new(prefix_cache_bytes),
            spare: Vec::new(),
            prefilling: VecDeque::new(),
            rows: Vec::with_capacity(limits.slots),
            jobs: BTreeMap::new(),
            next_job: 0,
        }
    }

    /// Preallocates the first entries of the KV-prefix cache.
    ///
    /// The first write to the memory of an entry costs 10 to 60 ms at full size, which no request
    /// should wait for. Later entries reuse the memory of evicted ones.
    pub(super) fn prepare(&mut self, decoder: &mut impl StepDecoder) {
        let rows = self.prefixes.capacity() / (self.saved_len() * self.limits.position_bytes).max(1);
        self.spare = (0..rows.min(MOST_SPARE)).map(|_| decoder.spare_row(self.saved_len())).collect();
    }

    pub(super) fn prefix_counters(&self) -> Arc<CacheCounters> {
        self.prefixes.counters()
    }

    /// Returns whether rows are active, so that there is a step to run.
    pub(super) fn is_decoding(&self) -> bool {
        !self.rows.is_empty()
    }

    /// Returns whether prompts are being prefilled.
    pub(super) fn is_prefilling(&self) -> bool {
        !self.prefilling.is_empty()
    }

    /// Returns the counts of jobs, slots and positions in use.
    pub(super) fn turn(&self) -> Turn {
        Turn {
            prefilling: self.prefilling.len(),
            decoding: self.jobs.len(),
            slots_in_use: self.prefilling.len() + self.rows.len(),
            booked: self.booked,
        }
    }

    /// Removes cancelled and expired jobs, so that they take part in no further run.
    pub(super) fn remove_over(&mut self, decoder: &mut impl StepDecoder) {
        for prompt in std::mem::take(&mut self.prefilling) {
            if prompt.job.is_over() {
                self.unbook(&prompt.job);
                prompt.job.abandon();
            } else {
                self.prefilling.push_back(prompt);
            }
        }
        let over = self.jobs.iter().filter(|(_, decoding)| decoding.job.is_over());
        for number in over.map(|(number, _)| *number).collect::<Vec<_>>() {
            if let Some(job) = self.remove(decoder, number) {
                job.abandon();
            }
        }
    }

    /// Returns whether there are slots and memory for a job now.
    pub(super) fn has_room(&self, job: &QueuedJob) -> bool {
        // A beam search may have fewer active rows for a while, so the rows that it can have count.
        let decoding: usize = self.jobs.values().map(|decoding| decoding.job.task.rows()).sum();
        let has_slots = decoding + self.booked_rows() + job.task.rows() <= self.limits.slots;
        let has_memory = self.booked + self.positions(job) <= self.limits.kv_tokens;
        has_slots && has_memory
    }

    /// Begins a job for which there is room: books its rows and positions, and assigns a slot for
    /// its prompt.
    pub(super) fn begin(&mut self, decoder: &mut impl StepDecoder, mut job: QueuedJob) {
        job.picked_up();
        // The slot in which its row will be active if no other job ends first. Then the row need
        // not move.
        let later = self.rows.len() + self.booked_rows();
        let slot = if self.prefilling.iter().any(|prompt| prompt.slot == later) { self.last_free() } else { later };
        self.booked += self.positions(&job);
        decoder.release(slot, self.row_len(&job));
        let prompt_len = self.prompt_len(&job);
        self.prefilling.push_back(PrefillingJob { job, slot, done: 0, prompt_len });
        self.give_back_idle(decoder);
    }

    /// Feeds the next piece of the next prompt, and in the same run the first pieces of prompts in
    /// adjacent slots, up to about `positions` in all. A prompt whose last piece was fed becomes an
    /// active row. Returns the positions fed.
    pub(super) fn prefill(&mut self, decoder: &mut impl StepDecoder, positions: usize) -> usize {
        let started = Instant::now();
        let batch = self.next_prompts(decoder, positions);
        let Some(first) = batch.first().map(|prompt| prompt.slot) else { return 0 };
        let fed: Vec<Range<usize>> = batch.iter().map(|prompt| prompt.next_piece(self.limits.piece)).collect();
        let pieces = batch.iter().zip(&fed).map(|(prompt, positions)| prompt.piece(positions.clone()));
        let logits = match pieces.collect::<Option<Vec<_>>>() {
            Some(pieces) => decoder.prefill(first, &pieces),
            None => Err(ModelError::new("the image was not encoded")),
        };
        let took = started.elapsed();
        match logits {
            Err(source) => {
                let source = Arc::new(source);
                for prompt in batch {
                    self.unbook(&prompt.job);
                    prompt.job.fail(model_error("prefill", Arc::clone(&source)));
                }
            }
            Ok(logits) => {
                // All of them go back to the table first, because activating one may move another
                // to a new slot.
                for (mut prompt, fed) in batch.into_iter().zip(&fed).rev() {
                    prompt.job.timings[Stage::Prefill] += took;
                    prompt.done = fed.end;
                    self.prefilling.push_front(prompt);
                }
                for (fed, logits) in fed.iter().zip(logits.rows()) {
                    self.settle_prompt(decoder, fed, logits);
                }
            }
        }
        fed.iter().map(Range::len).sum()
    }

    /// Takes the prompts of the next run from the queue, in the order of their slots: the first
    /// prompt, and if that one begins, those in adjacent slots that can share its run.
    fn next_prompts(&mut self, decoder: &mut impl StepDecoder, positions: usize) -> Vec<PrefillingJob> {
        let Some(mut lead) = self.prefilling.pop_front() else { return Vec::new() };
        if lead.done == 0 {
            lead.done = self.restore(decoder, &lead);
        }
        let piece = lead.next_piece(self.limits.piece);
        let may_share = self.begins_into_text(&lead);
        let first = lead.slot;
        let mut batch = vec![lead];
        if !may_share {
            return batch;
        }
        let mut left = positions.saturating_sub(piece.len());
        let mut lengths = piece.len()..=piece.len();
        for slot in first + 1..self.limits.slots {
            let Some(index) = self.prefilling.iter().position(|prompt| prompt.slot == slot) else { break };
            let next = &self.prefilling[index];
            let len = next.next_piece(self.limits.piece).len();
            lengths = len.min(*lengths.start())..=len.max(*lengths.end());
            let fits = len <= left && lengths.end() - lengths.start() <= MOST_PADDING;
            if !fits || !self.begins_into_text(next) || self.will_have_prefix(next, &batch) {
                break;
            }
            left -= len;
            batch.extend(self.prefilling.remove(index));
        }
        batch
    }

    /// Returns whether the next piece of a prompt begins it and reaches into its text, as all
    /// pieces of a shared run must.
    fn begins_into_text(&self, prompt: &PrefillingJob) -> bool {
        prompt.done == 0
            && prompt.next_piece(self.limits.piece).end > self.limits.prefix_len
            && prompt.job.image.prefix().is_some()
    }

    /// Returns whether the KV prefix of a prompt's image is cached, or will be after the run of
    /// `batch`. Such a prompt waits, and then feeds its text only.
    fn will_have_prefix(&self, prompt: &PrefillingJob, batch: &[PrefillingJob]) -> bool {
        let key = prompt.image_key();
        self.prefixes.holds(&key) || self.keeps_prefixes() && batch.iter().any(|other| other.image_key() == key)
    }

    /// Settles the first prompt in the queue after these positions of it were fed: caches its KV
    /// prefix, then activates its row or puts it back to the end of the queue.
    fn settle_prompt(&mut self, decoder: &mut impl StepDecoder, fed: &Range<usize>, logits: &[f32]) {
        let Some(prompt) = self.prefilling.pop_front() else { return };
        if fed.contains(&self.limits.prefix_len) {
            self.remember(decoder, &prompt);
        }
        if prompt.done == prompt.prompt_len {
            self.activate(decoder, prompt, logits);
        } else {
            self.prefilling.push_back(prompt);
        }
    }

    /// Copies the cached KV prefix of the prompt's image into its slot. Returns the positions
    /// copied.
    fn restore(&mut self, decoder: &mut impl StepDecoder, prompt: &PrefillingJob) -> usize {
        // At least two positions are left to feed, as for `next_piece`.
        let most = prompt.prompt_len.saturating_sub(2);
        let Some(saved) = self.prefixes.get(&prompt.image_key()) else { return 0 };
        let len = saved.len().min(most);
        decoder.restore_row(prompt.slot, saved, len);
        len
    }

    /// Caches the keys and values of image and start token, with which every other question about
    /// the image begins.
    fn remember(&mut self, decoder: &mut impl StepDecoder, prompt: &PrefillingJob) {
        if !self.keeps_prefixes() {
            return;
        }
        let bytes = self.saved_len() * self.limits.position_bytes;
        let unneeded = self.prefixes.make_room(bytes).or_else(|| self.spare.pop()).unwrap_or_default();
        let saved = decoder.save_row(prompt.slot, self.saved_len(), unneeded);
        if !saved.is_empty() {
            self.prefixes.put(prompt.image_key(), saved, bytes);
        }
    }

    /// Returns the positions of a KV prefix: those of the image, and the start token's.
    fn saved_len(&self) -> usize {
        self.limits.prefix_len + 1
    }

    /// Returns whether the cache has room for a KV prefix at all.
    fn keeps_prefixes(&self) -> bool {
        self.prefixes.fits(self.saved_len() * self.limits.position_bytes)
    }

    /// Moves a prompt that was fed to the end into the slot after the active rows, and gives its
    /// logits to its task.
    fn activate(&mut self, decoder: &mut impl StepDecoder, prompt: PrefillingJob, logits: &[f32]) {
        let PrefillingJob { job, slot: from, prompt_len, .. } = prompt;
        let number = self.next_job;
        self.next_job += 1;
        let slot = self.rows.len();
        // Another prompt may occupy that slot. Then the two swap, as there may be no third slot.
        let other = self.prefilling.iter_mut().find(|other| other.slot == slot);
        let saved = other.map(|other| {
            other.slot = from;
            let saved = decoder.save_row(slot, other.done, SavedRow::default());
            other.done = saved.len(); // 0 if there was no memory to save it; it is then fed again
            saved
        });
        decoder.copy_row(from, slot, 0..prompt_len);
        if let Some(saved) = saved {
            decoder.release(from, 0); // the slot may hold more positions than the other prompt booked
            decoder.restore_row(from, &saved, saved.len());
        }
        decoder.release(slot, self.row_len(&job));
        self.rows.push(ActiveRow::new(number));
        self.jobs.insert(number, DecodingJob { job, slots: vec![slot], prompt_len });
        self.give_back_idle(decoder);
        self.advance(decoder, number, &[logits]);
    }

    /// Frees the slot after the active rows for a row of `row_len` positions, and returns it. A
    /// prompt that occupies the slot moves to the last free one.
    fn claim(&mut self, decoder: &mut impl StepDecoder, row_len: usize) -> usize {
        let slot = self.rows.len();
        let free = self.last_free();
        if let Some(prompt) = self.prefilling.iter_mut().find(|prompt| prompt.slot == slot) {
            decoder.release(free, 0); // the slot may hold more positions than this prompt booked
            decoder.copy_row(slot, free, 0..prompt.done);
            prompt.slot = free;
        }
        decoder.release(slot, row_len);
        slot
    }

    /// Returns the last idle slot. There is one, because callers have booked a row for it.
    fn last_free(&self) -> usize {
        self.idle_slots().next_back().unwrap_or(self.rows.len())
    }

    /// Returns the slots without a row, active or being prefilled.
    fn idle_slots(&self) -> impl DoubleEndedIterator<Item = usize> {
        (self.rows.len()..self.limits.slots).filter(|slot| self.prefilling.iter().all(|prompt| prompt.slot != *slot))
    }

    /// Releases the memory of idle slots that jobs have booked. Idle slots keep the rest for their
    /// next row.
    fn give_back_idle(&self, decoder: &mut impl StepDecoder) {
        let idle: Vec<usize> = self.idle_slots().collect();
        let mut held: usize = idle.iter().map(|slot| decoder.held(*slot)).sum();
        for slot in idle.into_iter().rev() {
            if self.booked + held <= self.limits.kv_tokens {
                break;
            }
            held -= decoder.held(slot);
            decoder.release(slot, 0);
        }
    }

    fn prompt_len(&self, job: &QueuedJob) -> usize {
        self.limits.prefix_len + job.input_ids.len()
    }

    /// Returns the positions that a row of a job can reach.
    fn row_len(&self, job: &QueuedJob) -> usize {
        self.prompt_len(job) + job.task.max_new_tokens()
    }

    /// Returns the positions that all rows of a job can reach together.
    fn positions(&self, job: &QueuedJob) -> usize {
        job.task.rows() * self.row_len(job)
    }

    /// Returns the rows that the jobs being prefilled will have.
    fn booked_rows(&self) -> usize {
        self.prefilling.iter().map(|prompt| prompt.job.task.rows()).sum()
    }

    fn unbook(&mut self, job: &QueuedJob) {
        self.booked -= self.positions(job);
    }

    /// Runs one decode step for all active rows, then removes the jobs that have ended.
    pub(super) fn step(&mut self, decoder: &mut impl StepDecoder) {
        let tokens: Vec<i64> = self.rows.iter().map(|row| i64::from(row.token)).collect();
        let started = Instant::now();
        // A failed step leaves every row as it was. It is repeated once, in case the fault was
        // temporary.
        let logits = match decoder.decode(&tokens).or_else(|_| decoder.decode(&tokens)) {
            Ok(logits) => logits,
            Err(source) => return self.fail_all(source),
        };
        let took = started.elapsed();
        for row in &mut self.rows {
            row.fed.push(row.token);
        }
        // Rows move when jobs end, so logits are assigned to jobs before the first job advances.
        let logits: Vec<&[f32]> = logits.rows().collect();
        let mut logits_of_jobs: Vec<(JobNumber, Vec<&[f32]>)> = Vec::with_capacity(self.jobs.len());
        for (number, decoding) in &mut self.jobs {
            decoding.job.timings[Stage::Decode] += took;
            logits_of_jobs.push((*number, decoding.slots.iter().map(|slot| logits[*slot]).collect()));
        }
        for (number, logits) in logits_of_jobs {
            self.advance(decoder, number, &logits);
        }
    }

    /// Gives a job's task the logits of its rows. The job then ends, or its continuations get
    /// slots.
    fn advance(&mut self, decoder: &mut impl StepDecoder, number: JobNumber, logits: &[&[f32]]) {
        let Some(decoding) = self.jobs.get_mut(&number) else { return };
        let advanced = decoding.job.task.advance(logits);
        decoding.job.publish();
        match advanced {
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

    /// Gives each continuation a slot. The first continuation of a row keeps that row's slot. All
    /// others are copied into slots whose rows do not continue, or into new ones. A slot that is a
    /// source is never overwritten, so the order does not matter.
    fn place(&mut self, decoder: &mut impl StepDecoder, number: JobNumber, continuations: &[Continuation]) {
        let Some(decoding) = self.jobs.get(&number) else { return };
        let old = decoding.slots.clone();
        let prompt_len = decoding.prompt_len;
        let row_len = self.row_len(&decoding.job);

        let mut is_kept = vec![false; old.len()];
        let mut kept: Vec<Option<usize>> = vec![None; continuations.len()];
        for (slot, continuation) in kept.iter_mut().zip(continuations) {
            if let Origin::Row(row) = continuation.origin
                && !is_kept[row]
            {
                is_kept[row] = true;
                *slot = Some(old[row]);
            }
        }
        let mut free: Vec<usize> = (0..old.len()).filter(|row| !is_kept[*row]).map(|row| old[row]).rev().collect();

        let mut slots = Vec::with_capacity(continuations.len());
        for (kept, Continuation { origin, token }) in kept.into_iter().zip(continuations) {
            let slot = kept.unwrap_or_else(|| {
                let (source, fed) = match origin {
                    Origin::Row(row) => (old[*row], self.rows[old[*row]].fed.clone()),
                    Origin::Prompt => (old[0], Vec::new()),
                };
                let (slot, equal) = match free.pop() {
                    Some(slot) => (slot, prompt_len + common_prefix(&self.rows[slot].fed, &fed)),
                    None => (self.add_row(decoder, number, row_len), 0),
                };
                decoder.copy_row(source, slot, equal..prompt_len + fed.len());
                self.rows[slot].fed = fed;
                slot
            });
            self.rows[slot].token = *token;
            slots.push(slot);
        }
        if let Some(decoding) = self.jobs.get_mut(&number) {
            decoding.slots = slots;
        }

        free.sort_unstable();
        for slot in free.into_iter().rev() {
            self.free(decoder, slot);
        }
        self.give_back_idle(decoder);
    }

    /// Adds an active row to a job, and returns its slot.
    fn add_row(&mut self, decoder: &mut impl StepDecoder, number: JobNumber, row_len: usize) -> usize {
        let slot = self.claim(decoder, row_len);
        self.rows.push(ActiveRow::new(number));
        slot
    }

    /// Removes a job and frees its slots.
    fn remove(&mut self, decoder: &mut impl StepDecoder, number: JobNumber) -> Option<QueuedJob> {
        let decoding = self.jobs.remove(&number)?;
        let mut slots = decoding.slots;
        slots.sort_unstable();
        for slot in slots.into_iter().rev() {
            self.free(decoder, slot);
        }
        self.unbook(&decoding.job);
        self.give_back_idle(decoder);
        Some(decoding.job)
    }

    /// Frees a slot; the last row moves into it. Callers free the slots of a job from the last to
    /// the first, so that a row which is still to be removed never moves.
    fn free(&mut self, decoder: &mut impl StepDecoder, slot: usize) {
        let last = self.rows.len() - 1;
        self.rows.swap_remove(slot);
        if slot == last {
            return;
        }
        let moved = &self.rows[slot];
        let Some(owner) = self.jobs.get(&moved.job) else { return };
        decoder.release(slot, self.row_len(&owner.job));
        decoder.copy_row(last, slot, 0..owner.prompt_len + moved.fed.len());
        let Some(owner) = self.jobs.get_mut(&moved.job) else { return };
        for owned in owner.slots.iter_mut().filter(|owned| **owned == last) {
            *owned = slot;
        }
    }

    fn fail_all(&mut self, source: ModelError) {
        let source = Arc::new(source);
        self.rows.clear();
        for (_, decoding) in std::mem::take(&mut self.jobs) {
            self.unbook(&decoding.job);
            decoding.job.fail(model_error("a decode step", Arc::clone(&source)));
        }
    }
}

fn common_prefix(left: &[u32], right: &[u32]) -> usize {
    left.iter().zip(right).take_while(|(left, right)| left == right).count()
}

fn model_error(stage: &'static str, source: Arc<ModelError>) -> EngineError {
    EngineError::Model { stage, source }
}

/// The accounts of a table, for tests.
#[cfg(test)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) booked: usize,
    pub(super) rows: usize,
    /// The slots of the prompts that are being prefilled.
    pub(super) prompts: Vec<usize>,
}

#[cfg(test)]
impl SlotTable {
    pub(super) fn usage(&self) -> Usage {
        let prompts = self.prefilling.iter().map(|prompt| prompt.slot).collect();
        Usage { booked: self.booked, rows: self.rows.len(), prompts }
    }
}
