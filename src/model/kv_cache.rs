//! The KV cache: memory for `slots` rows of `max_len` positions, and how much of each row is written.
//!
//! A row's length grows only after the run that wrote it has succeeded ([`KvCache::advance`]), so a failed run can be
//! repeated. Positions beyond a row's length hold garbage and are never read.

use std::ops::Range;

use ort::session::Session;

use crate::engine::SavedRow;
use crate::runtime::{KvBinding, KvBuffer, KvLayerNames};

/// Keys and values of all rows, written by the decoder in place.
#[derive(Debug)]
pub struct KvCache {
    buffer: KvBuffer,
    lens: Vec<usize>,
}

impl KvCache {
    pub(super) fn new(names: Vec<KvLayerNames>, slots: usize, heads: usize, max_len: usize, head_dim: usize) -> Self {
        Self { buffer: KvBuffer::new(names, slots, heads, max_len, head_dim), lens: vec![0; slots] }
    }

    pub(super) fn slots(&self) -> usize {
        self.buffer.slots()
    }

    pub(super) fn max_len(&self) -> usize {
        self.buffer.max_len()
    }

    pub(super) fn position_bytes(&self) -> usize {
        self.buffer.position_bytes()
    }

    /// Positions written of a slot.
    pub(super) fn len(&self, slot: usize) -> usize {
        self.lens[slot]
    }

    /// Says how much of a slot counts: nothing for a new row.
    pub(super) fn set_len(&mut self, slot: usize, len: usize) {
        self.lens[slot] = len;
    }

    /// A copy of the first `len` positions of a slot.
    pub(super) fn save_row(&self, slot: usize, len: usize) -> SavedRow {
        SavedRow { len, elements: self.buffer.save_row(slot, len) }
    }

    /// Fills a slot with the first `len` positions of a saved row.
    pub(super) fn restore_row(&mut self, slot: usize, saved: &SavedRow, len: usize) {
        self.buffer.restore_row(slot, &saved.elements, saved.len, len);
        self.lens[slot] = len;
    }

    /// The run over `rows` wrote `seq_len` positions of each.
    pub(super) fn advance(&mut self, rows: Range<usize>, seq_len: usize) {
        for len in &mut self.lens[rows] {
            *len += seq_len;
        }
    }

    /// Makes row `to` as long as `positions.end`, and copies these positions of row `from` into it.
    pub(super) fn copy_row(&mut self, from: usize, to: usize, positions: Range<usize>) {
        self.lens[to] = positions.end;
        if from != to {
            self.buffer.copy_row(from, to, positions);
        }
    }

    /// Binds the memory of `rows`, and memory for logits of this name and shape, for one run.
    pub(super) fn bind(
        &mut self,
        session: &Session,
        rows: Range<usize>,
        logits: (&str, [usize; 3]),
    ) -> ort::Result<KvBinding<'_>> {
        KvBinding::new(session, &mut self.buffer, rows, logits)
    }
}
