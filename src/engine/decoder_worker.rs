//! The decoder worker: the one thread that owns decoder, KV cache and slot table. Continuous
//! batching happens here.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvError};

use parking_lot::FairMutex;

use super::job::QueuedJob;
use super::slots::SlotTable;
use super::status::SharedTurn;
use super::traits::StepDecoder;

/// The decoder, its slot table, and the jobs that wait for slots.
pub(super) struct DecoderWorker<D> {
    pub(super) decoder: D,
    pub(super) slots: SlotTable,
    pub(super) waiting: VecDeque<QueuedJob>,
    /// The prompt positions to prefill between two decode steps, about.
    prefill_positions: usize,
    status: Arc<SharedTurn>,
}

impl<D: StepDecoder> DecoderWorker<D> {
    pub(super) fn new(decoder: D, slots: SlotTable, prefill_positions: usize) -> Self {
        Self { decoder, slots, waiting: VecDeque::new(), prefill_positions, status: Arc::default() }
    }

    /// Returns the counts that the worker publishes after each turn.
    pub(super) fn status(&self) -> Arc<SharedTurn> {
        Arc::clone(&self.status)
    }

    /// Runs until all jobs are answered and all senders of `ready` are gone. Holds `cores` while it
    /// computes.
    pub(super) fn run(mut self, ready: &Receiver<QueuedJob>, cores: &FairMutex<()>) {
        self.slots.prepare(&mut self.decoder);
        while self.wait_for_work(ready) {
            let _turn = cores.lock();
            self.waiting.extend(ready.try_iter());
            self.turn();
            self.status.write(self.slots.turn());
        }
    }

    /// Blocks while there is no work. Returns false when none can come any longer.
    fn wait_for_work(&mut self, ready: &Receiver<QueuedJob>) -> bool {
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

    /// Runs one turn: removes cancelled and expired jobs, begins and prefills jobs, then runs one
    /// decode step.
    ///
    /// Rows that begin in this turn already got a token with their prompt. If there are no others,
    /// the step is left to the next turn, so that waiting images can join it.
    pub(super) fn turn(&mut self) {
        for job in std::mem::take(&mut self.waiting) {
            if job.is_over() {
                job.abandon();
            } else {
                self.waiting.push_back(job);
            }
        }
        self.slots.remove_over(&mut self.decoder);
        let was_decoding = self.slots.is_decoding();
        self.prefill();
        if was_decoding && self.slots.is_decoding() {
            self.slots.step(&mut self.decoder);
        }
    }

    /// Prefills prompts until `prefill_positions` are spent. Jobs begin first come, first served: a
    /// job for which there is no room yet holds back those after it, or it could starve.
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
