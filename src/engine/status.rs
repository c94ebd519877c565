//! What is in work, told to other threads without a lock: the decoder worker writes it down once a turn.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde::Serialize;

/// A snapshot of what the engine does. Its numbers are read one after the other, so they may be of neighbouring turns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct EngineStatus {
    /// Rows of input that hold a place, and are neither prefilling nor decoding: their image is fetched, decoded or encoded,
    /// or they wait for a slot.
    pub waiting: usize,
    /// Rows of input whose prompt is being fed.
    pub prefilling: usize,
    /// Rows of input whose answer is being decoded.
    pub decoding: usize,
    /// Rows of input that may hold a place at once.
    pub queue_rows: usize,
    /// Slots that hold a row; a row of input has several with beams, samples or candidates.
    pub slots_in_use: usize,
    /// Slots.
    pub slots: usize,
    /// Positions that the rows in work can reach.
    pub kv_tokens_booked: usize,
    /// Positions that there are.
    pub kv_tokens: usize,
}

impl EngineStatus {
    /// Rows of input that hold a place.
    #[must_use]
    pub fn rows_in_work(&self) -> usize {
        self.waiting + self.prefilling + self.decoding
    }
}

/// What the decoder worker counts after a turn.
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
