//! The state of the engine, published to other threads without a lock. The decoder worker writes it
//! once a turn.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde::Serialize;

/// A snapshot of the engine's state. Its numbers are read one after the other, so they may stem
/// from adjacent turns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct EngineStatus {
    /// Rows of input that are admitted and neither prefilling nor decoding: their image is being
    /// fetched, decoded or encoded, or they wait for a slot.
    pub waiting: usize,
    /// Rows of input whose prompt is being prefilled.
    pub prefilling: usize,
    /// Rows of input whose answer is being decoded.
    pub decoding: usize,
    /// The most rows of input admitted at once.
    pub queue_rows: usize,
    /// Slots in use. A row of input with beams, samples or candidates has several.
    pub slots_in_use: usize,
    /// Slots of the decoder.
    pub slots: usize,
    /// Positions of the KV cache that the rows in work have booked.
    pub kv_tokens_booked: usize,
    /// Positions of the KV cache.
    pub kv_tokens: usize,
}

impl EngineStatus {
    /// Returns the number of admitted rows of input.
    #[must_use]
    pub fn rows_in_work(&self) -> usize {
        self.waiting + self.prefilling + self.decoding
    }
}

/// The decoder worker's counts after a turn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) prefilling: usize,
    pub(super) decoding: usize,
    pub(super) slots_in_use: usize,
    pub(super) booked: usize,
}

/// The last [`Turn`], shared.
#[derive(Debug, Default)]
pub(super) struct SharedTurn {
    prefilling: AtomicUsize,
    decoding: AtomicUsize,
    slots_in_use: AtomicUsize,
    booked: AtomicUsize,
}

impl SharedTurn {
    pub(super) fn write(&self, turn: Turn) {
        let Turn { prefilling, decoding, slots_in_use, booked } = turn;
        self.prefilling.store(prefilling, Ordering::Relaxed);
        self.decoding.store(decoding, Ordering::Relaxed);
        self.slots_in_use.store(slots_in_use, Ordering::Relaxed);
        self.booked.store(booked, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> Turn {
        Turn {
            prefilling: self.prefilling.load(Ordering::Relaxed),
            decoding: self.decoding.load(Ordering::Relaxed),
            slots_in_use: self.slots_in_use.load(Ordering::Relaxed),
            booked: self.booked.load(Ordering::Relaxed),
        }
    }
}
