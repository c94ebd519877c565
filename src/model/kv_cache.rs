//! The KV cache: memory for `slots` rows of `max_len` positions, and how much of each row is written.
//!
//! A row's length grows only after the run that wrote it has succeeded ([`KvCache::advance`]), so a failed run can be
//! repeated. Positions beyond a row's length hold garbage and are never read. Their memory stays with the slot until it
//! is given back ([`KvCache::release`]).

use std::io;
use std::ops::Range;

use ort::session::Session;

use crate::engine::SavedRow;
use crate::runtime::{KvBinding, KvBuffer, KvLayerNames};

/// Keys and values of all rows, written by the decoder in place.
#[derive(Debug)]
pub struct KvCache {
    buffer: KvBuffer,
    lens: Vec<usize>,
    /// How long each slot was at most since its last release. Beyond, there is no memory to give back.
    held: Vec<usize>,
}

impl KvCache {
    /// Maps the memory, which the system may refuse.
    pub(super) fn new(
        names: Vec<KvLayerNames>,
        slots: usize,
        heads: usize,
        max_len: usize,
        head_dim: usize,
    ) -> io::Result<Self> {
        let buffer = KvBuffer::new(names, slots, heads, max_len, head_dim)?;
        Ok(Self { buffer, lens: vec![0; slots], held: vec![0; slots] })
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
        self.held[slot] = self.held[slot].max(len);
    }

    /// Positions for which a slot holds memory: those of its row, and of longer rows that it held before.
    #[must_use]
    pub fn held(&self, slot: usize) -> usize {
        self.held[slot]
    }

    /// Gives the memory of a slot's positions from `from` on back to the system. A row that was longer ends there.
    pub fn release(&mut self, slot: usize, from: usize) {
        if self.held[slot] > from {
            self.buffer.release(slot, from);
            self.held[slot] = from;
            self.lens[slot] = self.lens[slot].min(from);
        }
    }

    /// A copy of the first `len` positions of a slot, in the memory of an unneeded one.
    pub(super) fn save_row(&self, slot: usize, len: usize, unneeded: SavedRow) -> SavedRow {
        let mut elements = unneeded.elements;
        self.buffer.save_row(slot, len, &mut elements);
        SavedRow { len, elements }
    }

    /// Fills a slot with the first `len` positions of a saved row.
    pub(super) fn restore_row(&mut self, slot: usize, saved: &SavedRow, len: usize) {
        self.buffer.restore_row(slot, &saved.elements, saved.len, len);
        self.set_len(slot, len);
    }

    /// A run is about to write positions of a slot up to `end`, its row's or not.
    pub(super) fn will_write(&mut self, slot: usize, end: usize) {
        self.held[slot] = self.held[slot].max(end);
    }

    /// A run wrote `gained` further positions of a row.
    pub(super) fn advance(&mut self, slot: usize, gained: usize) {
        self.set_len(slot, self.lens[slot] + gained);
    }

    /// Makes row `to` as long as `positions.end`, and copies these positions of row `from` into it.
    pub(super) fn copy_row(&mut self, from: usize, to: usize, positions: Range<usize>) {
        self.set_len(to, positions.end);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> KvCache {
        let names = KvLayerNames::new("past.0.key".into(), "present.0.key".into()).unwrap();
        KvCache::new(vec![names], 3, 1, 10, 1).unwrap()
    }

    #[test]
    fn a_slot_holds_memory_for_the_longest_row_since_its_release() {
        let mut cache = cache();
        [0, 1].iter().for_each(|slot| cache.advance(*slot, 4));
        cache.set_len(0, 1);
        assert_eq!([0, 1, 2].map(|slot| (cache.len(slot), cache.held(slot))), [(1, 4), (4, 4), (0, 0)]);
        cache.copy_row(1, 2, 0..3);
        let saved = cache.save_row(1, 2, SavedRow::default());
        cache.restore_row(1, &saved, 2);
        assert_eq!([1, 2].map(|slot| (cache.len(slot), cache.held(slot))), [(2, 4), (3, 3)]);
        cache.release(0, 2);
        cache.release(1, 0);
        cache.release(2, 5);
        assert_eq!([0, 1, 2].map(|slot| (cache.len(slot), cache.held(slot))), [(1, 2), (0, 0), (3, 3)]);
    }

    #[test]
    fn a_release_keeps_the_positions_before() {
        let mut cache = cache();
        let saved = SavedRow { len: 10, elements: (1..=10).map(|element| element as f32).collect() };
        cache.restore_row(1, &saved, 10);
        cache.release(1, 6);
        assert_eq!(cache.save_row(1, 6, saved).elements, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    }
}
