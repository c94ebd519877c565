//! The decoder worker: the one thread that owns decoder, KV cache and slot table. Continuous batching happens here.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvError};

use parking_lot::FairMutex;

use super::job::Queued;
use super::slots::SlotTable;
use super::status::SharedTurn;
use super::traits::StepDecoder;

/// The decoder, its slots, and the jobs that wait for one.
pub(super) struct DecoderWorker<D> {
    pub(super) decoder: D,
    pub(super) slots: SlotTable,
    pub(super) waiting: VecDeque<Queued>,
    /// Positions of prompts to feed between two steps.
    prefill_positions: usize,
    status: Arc<SharedTurn>,
}

impl<D: StepDecoder> DecoderWorker<D> {
    pub(super) fn new(decoder: D, slots: SlotTable, prefill_positions: usize) -> Self {
        Self { decoder, slots, waiting: VecDeque::new(), prefill_positions, status: Arc::default() }
    }

    /// Where the worker writes down what it has in work.
    pub(super) fn status(&self) -> Arc<SharedTurn> {
        Arc::clone(&self.status)
    }

    /// Works until all jobs are answered and no more can come. Holds `cores` while it computes.
    pub(super) fn run(mut self, ready: &Receiver<Queued>, cores: &FairMutex<()>) {
        self.slots.prepare(&mut self.decoder);
        while self.wait_for_work(ready) {
            let _turn = cores.lock();
            self.waiting.extend(ready.try_iter());
            self.turn();
            self.status.write(self.slots.turn());
        }
    }

    /// Sleeps while there is nothing to do; false when there never will be.
    fn wait_for_work(&mut self, ready: &Receiver<Queued>) -> bool {
        if self.is_idle() {
            match ready.recv() {
                Ok(job) => self.waiting.push_back(job),
                Err(RecvError) => return false,
            }
        }
        true
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && !self.slots.is_prefilling() && !self.slots.is_decoding()
    }

    /// One iteration: forget who has gone, admit and prefill, decode one step. Every running row gets a token. Rows that have
    /// just begun got theirs with their prompt, so for them alone there is no step: images that wait may join them first.
    pub(super) fn turn(&mut self) {
        for job in std::mem::take(&mut self.waiting) {
            if job.is_over() { job.abandon() } else { self.waiting.push_back(job) }
        }
        self.slots.forget_over(&mut self.decoder);
        let was_decoding = self.slots.is_decoding();
        self.prefill();
        if was_decoding && self.slots.is_decoding() {
            self.slots.step(&mut self.decoder);
        }
    }

    /// Feeds prompts until enough positions are spent. Jobs begin first come, first served: one that needs more room than
    /// there is holds the others back, or it might wait for ever.
    fn prefill(&mut self) {
        let mut spent = 0;
        while spent < self.prefill_positions {
            while self.waiting.front().is_some_and(|job| self.slots.has_room(job))
                && let Some(job) = self.waiting.pop_front()
            {
                self.slots.begin(&mut self.decoder, job);
            }
            if !self.slots.is_prefilling() {
                return;
            }
            spent += self.slots.prefill(&mut self.decoder, self.prefill_positions - spent);
        }
    }
}
