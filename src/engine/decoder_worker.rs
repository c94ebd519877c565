//! The decoder worker: the one thread that owns decoder, KV cache and slot table. Continuous batching happens here.

use std::sync::mpsc::{Receiver, RecvError, TryRecvError};

use super::job::Encoded;
use super::slots::SlotTable;
use super::traits::StepDecoder;

/// Works until all jobs are answered and no more can come.
pub(super) fn run(mut decoder: impl StepDecoder, ready: &Receiver<Encoded>, prefills_per_turn: usize) {
    let mut slots = SlotTable::new(decoder.limits().slots);
    while admit(&mut decoder, &mut slots, ready, prefills_per_turn) {
        if !slots.is_empty() {
            slots.step(&mut decoder);
        }
    }
}

/// Prefills waiting jobs into free slots, one by one, as a larger prefill is no cheaper per token on a CPU. Sleeps when
/// there is nothing to do. False when nothing is left to do for ever.
fn admit(
    decoder: &mut impl StepDecoder,
    slots: &mut SlotTable,
    ready: &Receiver<Encoded>,
    prefills_per_turn: usize,
) -> bool {
    if slots.is_empty() {
        match ready.recv() {
            Ok(job) => slots.admit(decoder, job),
            Err(RecvError) => return false,
        }
    }
    for _ in 0..prefills_per_turn {
        if slots.is_full() {
            break;
        }
        match ready.try_recv() {
            Ok(job) => slots.admit(decoder, job),
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
        }
    }
    true
}
