//! The slot table: which row of which job sits in which slot of the KV cache.
//!
//! Active rows are always slots `0..rows.len()`, because a decode step binds the first slots of the cache. When a row leaves,
//! the last one takes its place. A job has as many rows as its task goes on with: one for greedy search, `num_beams` for
//! beam search. A row that goes on several times is copied, never computed again.
//!
//! Behind the active rows sit the prompts that are being fed, one slot each. They take turns, so that a long one does not
//! hold up a short one.
//!
//! A job books its rows and all positions that they can reach before it begins, so neither can run out under way.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::EngineError;
use super::byte_cache::{ByteCache, CacheCounters};
use super::image_table::ImageKey;
use super::job::Queued;
use super::stage::Stage;
use super::status::Turn;
use super::traits::{DecoderLimits, ModelError, PromptPiece, SavedRow, StepDecoder};
use crate::generation::{Continuation, Origin};

/// Rows that memory is taken for beforehand: all that the default cache holds at full size, and little for a tiny model.
const MOST_SPARE: usize = 16;

/// Prompts are fed together if none of them is so many positions shorter than the longest: what is padded costs as much as
/// what is fed, and a run of its own the time to read the weights (benches/results: about 20 positions on two cores).
const MOST_PADDING: usize = 16;

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

/// A job whose prompt is being fed.
#[derive(Debug)]
struct Prefilling {
    job: Queued,
    slot: usize,
    /// Positions that the slot holds.
    done: usize,
    prompt_len: usize,
}

impl Prefilling {
    /// The positions to feed next: never one alone, and none that would leave one alone.
    fn next_piece(&self, piece: usize) -> Range<usize> {
        let left = self.prompt_len - self.done;
        let len = if left <= piece { left } else { piece.min(left - 2) };
        self.done..self.done + len
    }

    /// `None` while the image is not encoded.
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
    /// Positions that the jobs in work can reach: at most `limits.kv_tokens`.
    booked: usize,
    prefixes: ByteCache<ImageKey, SavedRow>,
    /// Memory for those of the first images.
    spare: Vec<SavedRow>,
    prefilling: VecDeque<Prefilling>,
    rows: Vec<ActiveRow>,
    jobs: BTreeMap<JobNumber, Running>,
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

    /// Takes memory for what is kept of the first images. To write fresh memory takes 10 to 60 ms an image at full size, which
    /// no request is to wait for; later ones get the memory of those that are forgotten.
    pub(super) fn prepare(&mut self, decoder: &mut impl StepDecoder) {
        let rows = self.prefixes.capacity() / (self.saved_len() * self.limits.position_bytes).max(1);
        self.spare = (0..rows.min(MOST_SPARE)).map(|_| decoder.spare_row(self.saved_len())).collect();
    }

    pub(super) fn prefix_counters(&self) -> Arc<CacheCounters> {
        self.prefixes.counters()
    }

    /// Rows are active, so there is a step to run.
    pub(super) fn is_decoding(&self) -> bool {
        !self.rows.is_empty()
    }

    /// Prompts are being fed.
    pub(super) fn is_prefilling(&self) -> bool {
        !self.prefilling.is_empty()
    }

    /// What is in work now.
    pub(super) fn turn(&self) -> Turn {
        let (prefilling, decoding) = (self.prefilling.len(), self.jobs.len());
        Turn { prefilling, decoding, slots_in_use: prefilling + self.rows.len(), booked: self.booked }
    }

    /// Ends the jobs in work that nobody waits for any more, so that they take part in no further run.
    pub(super) fn forget_over(&mut self, decoder: &mut impl StepDecoder) {
        for prompt in std::mem::take(&mut self.prefilling) {
            if prompt.job.is_over() {
                self.unbook(&prompt.job);
                prompt.job.abandon();
            } else {
                self.prefilling.push_back(prompt);
            }
        }
        let over = self.jobs.iter().filter(|(_, running)| running.job.is_over()).map(|(number, _)| *number);
        for number in over.collect::<Vec<_>>() {
            if let Some(job) = self.remove(decoder, number) {
                job.abandon();
            }
        }
    }

    /// Whether a job finds slots and memory now.
    pub(super) fn has_room(&self, job: &Queued) -> bool {
        // Not the rows that are active: beams may be fewer for a while.
        let running: usize = self.jobs.values().map(|running| running.job.task.rows()).sum();
        running + self.booked_rows() + job.task.rows() <= self.limits.slots
            && self.booked + self.positions(job) <= self.limits.kv_tokens
    }

    /// Begins with a job that has room: books what it needs, and gives it a slot to feed its prompt to.
    pub(super) fn begin(&mut self, decoder: &mut impl StepDecoder, mut job: Queued) {
        job.picked_up();
        // Where its row will be active if all goes on as it is, so that it need not be moved then.
        let later = self.rows.len() + self.booked_rows();
        let slot = if self.prefilling.iter().any(|prompt| prompt.slot == later) { self.last_free() } else { later };
        self.booked += self.positions(&job);
        decoder.release(slot, self.row_len(&job));
        let prompt_len = self.prompt_len(&job);
        self.prefilling.push_back(Prefilling { job, slot, done: 0, prompt_len });
        self.give_back_idle(decoder);
    }

    /// Feeds the next piece of the next prompt; in the same run also the first pieces of prompts in the slots beside it, as
    /// far as `positions` last. A row becomes active with its last piece. How many positions were fed.
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
                // They stay in the table, first, because an active row may have to move a prompt out of its way.
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

    /// The prompts to feed in the next run, in the order of their slots: the first in the queue, and if that has just begun,
    /// those of its neighbours that have just begun too. None of an image that another makes known.
    fn next_prompts(&mut self, decoder: &mut impl StepDecoder, positions: usize) -> Vec<Prefilling> {
        let Some(mut lead) = self.prefilling.pop_front() else { return Vec::new() };
        if lead.done == 0 {
            lead.done = self.restore(decoder, &lead);
        }
        let piece = lead.next_piece(self.limits.piece);
        let (mut shortest, mut longest, mut left) = (piece.len(), piece.len(), positions.saturating_sub(piece.len()));
        let has_image = lead.job.image.prefix().is_some();
        let (is_alone, first) = (lead.done > 0 || piece.end <= self.limits.prefix_len || !has_image, lead.slot);
        let mut batch = vec![lead];
        if is_alone {
            return batch;
        }
        for slot in first + 1..self.limits.slots {
            let Some(place) = self.prefilling.iter().position(|prompt| prompt.slot == slot) else { break };
            let next = &self.prefilling[place];
            let (is_new, len) = (next.done == 0, next.next_piece(self.limits.piece).len());
            (shortest, longest) = (shortest.min(len), longest.max(len));
            let fits = len <= left && longest - shortest <= MOST_PADDING && len > self.limits.prefix_len;
            let is_known = self.prefixes.holds(&next.image_key())
                || self.keeps_prefixes() && batch.iter().any(|other| other.image_key() == next.image_key());
            if !is_new || !fits || is_known || next.job.image.prefix().is_none() {
                break;
            }
            left -= len;
            batch.extend(self.prefilling.remove(place));
        }
        batch
    }

    /// What comes of the first prompt in the queue, now that these positions of it were fed.
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

    /// Fills a slot with what is known of the job's image. How many positions that were.
    fn restore(&mut self, decoder: &mut impl StepDecoder, prompt: &Prefilling) -> usize {
        // A run of one position takes another kernel and would give other bits, so at least two are left to feed.
        let most = prompt.prompt_len.saturating_sub(2);
        self.prefixes.get(&prompt.image_key()).map_or(0, |saved| {
            let len = saved.len().min(most);
            decoder.restore_row(prompt.slot, saved, len);
            len
        })
    }

    /// Keeps the keys and values of image and start token, which every further question about it begins with.
    fn remember(&mut self, decoder: &mut impl StepDecoder, prompt: &Prefilling) {
        if self.keeps_prefixes() {
            let bytes = self.saved_len() * self.limits.position_bytes;
            let unneeded = self.prefixes.make_room(bytes).or_else(|| self.spare.pop()).unwrap_or_default();
            let saved = decoder.save_row(prompt.slot, self.saved_len(), unneeded);
            if !saved.is_empty() {
                self.prefixes.put(prompt.image_key(), saved, bytes);
            }
        }
    }

    /// Positions of image and start token.
    fn saved_len(&self) -> usize {
        self.limits.prefix_len + 1
    }

    fn keeps_prefixes(&self) -> bool {
        self.prefixes.fits(self.saved_len() * self.limits.position_bytes)
    }

    fn activate(&mut self, decoder: &mut impl StepDecoder, prompt: Prefilling, logits: &[f32]) {
        let Prefilling { job, slot: from, prompt_len, .. } = prompt;
        let (number, slot) = (self.next_job, self.rows.len());
        self.next_job += 1;
        // Another prompt may be fed where this row belongs. Then they change places, as there may be no third one.
        let other = self.prefilling.iter_mut().find(|other| other.slot == slot);
        let saved = other.map(|other| {
            other.slot = from;
            let saved = decoder.save_row(slot, other.done, SavedRow::default());
            other.done = saved.len(); // without memory for it, it is fed again
            saved
        });
        decoder.copy_row(from, slot, 0..prompt_len);
        if let Some(saved) = saved {
            decoder.release(from, 0); // it may hold more than the other has booked
            decoder.restore_row(from, &saved, saved.len());
        }
        decoder.release(slot, self.row_len(&job));
        self.rows.push(ActiveRow { job: number, token: 0, fed: Vec::new() });
        self.jobs.insert(number, Running { job, slots: vec![slot], prompt_len });
        self.give_back_idle(decoder);
        self.advance(decoder, number, &[logits]);
    }

    /// The slot behind the active rows, for a row of so many positions. A prompt that is being fed there makes way.
    fn claim(&mut self, decoder: &mut impl StepDecoder, row_len: usize) -> usize {
        let (slot, free) = (self.rows.len(), self.last_free());
        if let Some(prompt) = self.prefilling.iter_mut().find(|prompt| prompt.slot == slot) {
            decoder.release(free, 0); // it may hold more than this prompt has booked
            decoder.copy_row(slot, free, 0..prompt.done);
            prompt.slot = free;
        }
        decoder.release(slot, row_len);
        slot
    }

    /// The last slot without a prompt. Whoever asks has booked a row, so there is one.
    fn last_free(&self) -> usize {
        let is_free = |slot: &usize| self.prefilling.iter().all(|prompt| prompt.slot != *slot);
        (self.rows.len()..self.limits.slots).rev().find(is_free).unwrap_or(self.rows.len())
    }

    /// Slots without a row keep their memory for the next one, as far as nobody has booked it.
    fn give_back_idle(&self, decoder: &mut impl StepDecoder) {
        let is_idle = |slot: &usize| self.prefilling.iter().all(|prompt| prompt.slot != *slot);
        let idle: Vec<usize> = (self.rows.len()..self.limits.slots).filter(is_idle).collect();
        let mut held: usize = idle.iter().map(|slot| decoder.held(*slot)).sum();
        for slot in idle.into_iter().rev() {
            if self.booked + held <= self.limits.kv_tokens {
                break;
            }
            held -= decoder.held(slot);
            decoder.release(slot, 0);
        }
    }

    fn prompt_len(&self, job: &Queued) -> usize {
        self.limits.prefix_len + job.input_ids.len()
    }

    /// Positions that a row of a job can reach.
    fn row_len(&self, job: &Queued) -> usize {
        self.prompt_len(job) + job.task.max_new_tokens()
    }

    /// Positions that a job can reach with all its rows.
    fn positions(&self, job: &Queued) -> usize {
        job.task.rows() * self.row_len(job)
    }

    /// Rows that prompts in work will have.
    fn booked_rows(&self) -> usize {
        self.prefilling.iter().map(|prompt| prompt.job.task.rows()).sum()
    }

    fn unbook(&mut self, job: &Queued) {
        self.booked -= self.positions(job);
    }

    /// One decode step for all rows, then ended rows leave.
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
        running.job.timings[Stage::Decode] += took;
        self.advance(decoder, number, rows);
    }

    /// Gives a job the logits of its rows, and its rows the slots of what goes on.
    fn advance(&mut self, decoder: &mut impl StepDecoder, number: JobNumber, logits: &[&[f32]]) {
        let Some(running) = self.jobs.get_mut(&number) else { return };
        let advanced = running.job.task.advance(logits);
        running.job.publish();
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

    /// Gives every continuation a slot. The first one of a row stays in that row's slot. All others are copied into slots
    /// whose rows do not go on, or new ones; as no source is ever overwritten, the order does not matter.
    fn place(&mut self, decoder: &mut impl StepDecoder, number: JobNumber, continuations: &[Continuation]) {
        let Some(running) = self.jobs.get(&number) else { return };
        let (old, prompt_len, row_len) = (running.slots.clone(), running.prompt_len, self.row_len(&running.job));
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
                        let slot = self.claim(decoder, row_len);
                        self.rows.push(ActiveRow { job: number, token: 0, fed: Vec::new() });
                        (slot, 0)
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
        self.give_back_idle(decoder);
    }

    /// Takes a job out and frees its slots.
    fn remove(&mut self, decoder: &mut impl StepDecoder, number: JobNumber) -> Option<Queued> {
        let running = self.jobs.remove(&number)?;
        let mut slots = running.slots;
        slots.sort_unstable();
        for slot in slots.into_iter().rev() {
            self.free(decoder, slot);
        }
        self.unbook(&running.job);
        self.give_back_idle(decoder);
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
        let (number, fed) = (moved.job, moved.fed.len());
        let row_len = self.jobs.get(&number).map_or(0, |owner| self.row_len(&owner.job));
        if let Some(owner) = self.jobs.get_mut(&number) {
            decoder.release(slot, row_len);
            decoder.copy_row(last, slot, 0..owner.prompt_len + fed);
            for place in owner.slots.iter_mut().filter(|place| **place == last) {
                *place = slot;
            }
        }
    }

    fn fail_all(&mut self, source: ModelError) {
        let source = Arc::new(source);
        self.rows.clear();
        for (_, running) in std::mem::take(&mut self.jobs) {
            self.unbook(&running.job);
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

/// What is in work.
#[cfg(test)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) booked: usize,
    pub(super) rows: usize,
    /// The slots of the prompts that are being fed.
    pub(super) prompts: Vec<usize>,
}

#[cfg(test)]
impl SlotTable {
    pub(super) fn usage(&self) -> Usage {
        let prompts = self.prefilling.iter().map(|prompt| prompt.slot).collect();
        Usage { booked: self.booked, rows: self.rows.len(), prompts }
    }
}
