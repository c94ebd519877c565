//! The KV cache: memory for `slots` rows of `max_len` positions, and the length of each row.
//!
//! A row's length grows only after the run that wrote it has succeeded ([`KvCache::advance`]), so a
//! failed run can be repeated. Positions beyond a row's length hold garbage and are never read.
//! Their memory stays with the slot until it is given back ([`KvCache::release`]).

use std::ops::Range;

use ort::session::Session;

use crate::engine::SavedRow;
use crate::runtime::{Binding, Buffer, KvBuffer, KvLayerNames, KvShape, Place, RuntimeError};

/// Keys and values of all rows, written by the decoder in place.
#[derive(Debug)]
pub struct KvCache {
    buffer: KvBuffer,
    lens: Vec<usize>,
    /// The most positions of each slot since its last release. There is no memory to release beyond
    /// them.
    held: Vec<usize>,
}

impl KvCache {
    /// Allocates the memory.
    pub(super) fn new(place: Place, names: Vec<KvLayerNames>, shape: KvShape) -> Result<Self, RuntimeError> {
        let buffer = KvBuffer::new(place, names, shape)?;
        Ok(Self { buffer, lens: vec![0; shape.slots], held: vec![0; shape.slots] })
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

    /// Returns the length of the row in a slot.
    pub(super) fn len(&self, slot: usize) -> usize {
        self.lens[slot]
    }

    /// Sets the length of the row in a slot: 0 for a new row.
    pub(super) fn set_len(&mut self, slot: usize, len: usize) {
        self.lens[slot] = len;
        self.held[slot] = self.held[slot].max(len);
    }

    /// Returns the positions for which a slot holds memory: those of its row, and of longer rows
    /// before.
    #[must_use]
    pub fn held(&self, slot: usize) -> usize {
        self.held[slot]
    }

    /// Releases the memory of a slot's positions from `from` on. A longer row is cut there.
    pub fn release(&mut self, slot: usize, from: usize) {
        if self.held[slot] > from {
            self.buffer.release(slot, from);
            self.held[slot] = from;
            self.lens[slot] = self.lens[slot].min(from);
        }
    }

    /// Copies the first `len` positions of a slot into the memory of `unneeded`. Returns an empty
    /// row if there is no memory.
    pub(super) fn save_row(&self, slot: usize, len: usize, unneeded: SavedRow) -> Result<SavedRow, RuntimeError> {
        if len == 0 {
            return Ok(SavedRow::default());
        }
        let mut saved = match self.buffer.room_for_row(len, unneeded.into_memory::<Buffer>()) {
            Ok(saved) => saved,
            Err(error) => {
                tracing::warn!(error = %error, "cannot allocate memory for a KV prefix; it is not cached");
                return Ok(SavedRow::default());
            }
        };
        self.buffer.save_row(slot, len, &mut saved)?;
        Ok(SavedRow::new(len, saved))
    }

    /// Allocates memory for `len` positions, and writes it once so that it is resident.
    pub(super) fn spare_row(&self, len: usize) -> SavedRow {
        let Ok(mut memory) = self.buffer.room_for_row(len, None) else { return SavedRow::default() };
        if let Some(elements) = memory.host_mut() {
            elements.fill(0.0);
        }
        SavedRow::new(0, memory)
    }

    /// Copies the first `len` positions of a saved row into a slot.
    pub(super) fn restore_row(&mut self, slot: usize, saved: &SavedRow, len: usize) -> Result<(), RuntimeError> {
        if len > 0 {
            let foreign = || RuntimeError::Broken { reason: "a saved row is of another model".to_owned() };
            self.buffer.restore_row(slot, saved.memory::<Buffer>().ok_or_else(foreign)?, saved.len(), len)?;
        }
        self.set_len(slot, len);
        Ok(())
    }

    /// Records that a run will write positions of a slot up to `end`, which may exceed its row.
    pub(super) fn will_write(&mut self, slot: usize, end: usize) {
        self.held[slot] = self.held[slot].max(end);
    }

    /// Records that a run has written `gained` more positions of a row.
    pub(super) fn advance(&mut self, slot: usize, gained: usize) {
        self.set_len(slot, self.lens[slot] + gained);
    }

    /// Copies `positions` of row `from` into row `to`, which then has `positions.end` positions.
    pub(super) fn copy_row(&mut self, from: usize, to: usize, positions: Range<usize>) -> Result<(), RuntimeError> {
        self.set_len(to, positions.end);
        if from == to { Ok(()) } else { self.buffer.copy_row(from, to, positions) }
    }

    /// Binds the memory of `rows` for a run that reads and writes it.
    pub(super) fn bind(&mut self, session: &Session, rows: Range<usize>) -> ort::Result<Binding<'_>> {
        self.buffer.bind(session, rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{Element, TensorName};

    fn cache() -> KvCache {
        let name = |name| TensorName::new(name).unwrap();
        let names = KvLayerNames { past: name("past.0.key"), present: name("present.0.key") };
        let shape = KvShape { slots: 3, heads: 1, max_len: 10, head_dim: 1, element: Element::F32 };
        KvCache::new(Place::Host, vec![names], shape).unwrap()
    }

    fn elements(saved: &SavedRow) -> &[f32] {
        saved.memory::<Buffer>().unwrap().host().unwrap()
    }

    #[test]
    fn a_slot_holds_memory_for_the_longest_row_since_its_release() {
        let mut cache = cache();
        [0, 1].iter().for_each(|slot| cache.advance(*slot, 4));
        cache.set_len(0, 1);
        assert_eq!([0, 1, 2].map(|slot| (cache.len(slot), cache.held(slot))), [(1, 4), (4, 4), (0, 0)]);
        cache.copy_row(1, 2, 0..3).unwrap();
        let saved = cache.save_row(1, 2, SavedRow::default()).unwrap();
        cache.restore_row(1, &saved, 2).unwrap();
        assert_eq!([1, 2].map(|slot| (cache.len(slot), cache.held(slot))), [(2, 4), (3, 3)]);
        cache.release(0, 2);
        cache.release(1, 0);
        cache.release(2, 5);
        assert_eq!([0, 1, 2].map(|slot| (cache.len(slot), cache.held(slot))), [(1, 2), (0, 0), (3, 3)]);
    }

    #[test]
    fn a_row_is_saved_in_the_memory_that_was_taken_for_it() {
        let cache = cache();
        let spare = cache.spare_row(4);
        assert!(spare.is_empty());
        let place = elements(&spare).as_ptr();
        let saved = cache.save_row(0, 4, spare).unwrap();
        assert_eq!((saved.len(), elements(&saved).as_ptr()), (4, place));
        assert!(cache.save_row(0, 0, saved).unwrap().is_empty());
    }

    #[test]
    fn a_release_keeps_the_positions_before() {
        let mut cache = cache();
        let mut row = Buffer::new(&Place::Host, 10 * size_of::<f32>()).unwrap();
        row.host_mut()
            .unwrap()
            .iter_mut()
            .zip(1..)
            .for_each(|(element, position)| *element = f32::from(position as u8));
        let saved = SavedRow::new(10, row);
        cache.restore_row(1, &saved, 10).unwrap();
        cache.release(1, 6);
        let kept = cache.save_row(1, 6, saved).unwrap();
        assert_eq!(elements(&kept), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    }
}
