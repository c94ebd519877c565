//! The decoder worker: the one thread that owns decoder, KV cache and slot table. Continuous batching happens here.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvError};

use super::job::Encoded;
use super::slots::SlotTable;
use super::traits::StepDecoder;

/// Works until all jobs are answered and no more can come.
pub(super) fn run(mut decoder: impl StepDecoder, ready: &Receiver<Encoded>, prefills_per_turn: usize) {
    let mut slots = SlotTable::new(decoder.limits().slots);
    let mut waiting = VecDeque::new();
    while receive(&mut waiting, ready, slots.is_empty()) {
        admit(&mut decoder, &mut slots, &mut waiting, prefills_per_turn);
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

/// Prefills waiting jobs into free slots, first come, first served: a job that needs more slots than are free holds the
/// others back, or it might wait for ever.
fn admit(
    decoder: &mut impl StepDecoder,
    slots: &mut SlotTable,
    waiting: &mut VecDeque<Encoded>,
    prefills_per_turn: usize,
) {
    for _ in 0..prefills_per_turn {
        match waiting.front() {
            Some(encoded) if slots.has_room(encoded.job.task.rows()) => {}
            _ => return,
        }
        if let Some(encoded) = waiting.pop_front() {
            slots.admit(decoder, encoded);
        }
    }
}
