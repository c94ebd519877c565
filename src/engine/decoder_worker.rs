//! The decoder worker: the one thread that owns decoder, KV cache and slot table. Continuous batching happens here.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvError};

use super::job::Encoded;
use super::slots::SlotTable;
use super::traits::StepDecoder;

/// Works until all jobs are answered and no more can come.
pub(super) fn run(
    mut decoder: impl StepDecoder,
    mut slots: SlotTable,
    ready: &Receiver<Encoded>,
    prefill_positions: usize,
) {
    let mut waiting = VecDeque::new();
    while receive(&mut waiting, ready, slots.is_empty() && !slots.is_prefilling()) {
        prefill(&mut decoder, &mut slots, &mut waiting, prefill_positions);
        if !slots.is_empty() {
            slots.step(&mut decoder);
        }
    }
}

/// Takes in what has come, and forgets who has gone. Sleeps when there is nothing to do; false when nothing is left to do
/// for ever.
fn receive(waiting: &mut VecDeque<Encoded>, ready: &Receiver<Encoded>, is_idle: bool) -> bool {
    if is_idle && waiting.is_empty() {
        match ready.recv() {
            Ok(job) => waiting.push_back(job),
            Err(RecvError) => return false,
        }
    }
    waiting.extend(ready.try_iter());
    waiting.retain(|encoded| !encoded.job.is_cancelled());
    true
}

/// Feeds prompts until `positions` of them are spent, first come, first served: a job that needs more slots than are free
/// holds the others back, or it might wait for ever. A long prompt is fed in pieces over several turns, so that the
/// running rows go on in between.
fn prefill(decoder: &mut impl StepDecoder, slots: &mut SlotTable, waiting: &mut VecDeque<Encoded>, positions: usize) {
    let mut spent = 0;
    while spent < positions {
        if !slots.is_prefilling() {
            match waiting.front() {
                Some(encoded) if slots.has_room(encoded.job.task.rows()) => {}
                _ => return,
            }
            if let Some(encoded) = waiting.pop_front() {
                slots.begin(decoder, encoded);
            }
        }
        spent += slots.prefill_piece(decoder);
    }
}
