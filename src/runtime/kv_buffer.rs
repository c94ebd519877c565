//! The KV cache's memory: keys and values of all layers, `[slots, heads, max_len, head_dim]` each.
//!
//! The decoder graph reads `past` and writes `present`. Both are bound to the same memory, the
//! first rows of it, so a step copies nothing and a batch grows and shrinks by binding more or
//! fewer slots.

use std::ops::Range;

use ort::session::Session;

use super::RuntimeError;
use super::binding::{Binding, Element, Part, TensorName};
use super::buffer::{Buffer, Pieces, Place};

/// The graph's names for one cache tensor: the input and the output.
#[derive(Debug)]
pub(crate) struct KvLayerNames {
    pub(crate) past: TensorName,
    pub(crate) present: TensorName,
}

/// The dimensions of a cache tensor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KvShape {
    pub(crate) slots: usize,
    pub(crate) heads: usize,
    pub(crate) max_len: usize,
    pub(crate) head_dim: usize,
    pub(crate) element: Element,
}

impl KvShape {
    /// Returns the bytes of a position of one head.
    fn position(&self) -> usize {
        self.head_dim * self.element.bytes()
    }

    /// Returns the bytes of a head of one slot.
    fn head(&self) -> usize {
        self.max_len * self.position()
    }

    fn slot(&self) -> usize {
        self.heads * self.head()
    }

    /// Returns the bytes of a tensor; `None` on overflow.
    fn tensor(&self) -> Option<usize> {
        [self.heads, self.max_len, self.head_dim, self.element.bytes()]
            .into_iter()
            .try_fold(self.slots, usize::checked_mul)
            .filter(|bytes| isize::try_from(*bytes).is_ok())
    }
}

#[derive(Debug)]
struct KvTensor {
    names: KvLayerNames,
    memory: Buffer,
}

/// The memory of the cache. On the host, positions that were never written cost nothing. On a GPU
/// all memory is allocated at once.
#[derive(Debug)]
pub(crate) struct KvBuffer {
    place: Place,
    tensors: Vec<KvTensor>,
    shape: KvShape,
}

impl KvBuffer {
    /// Allocates the memory.
    pub(crate) fn new(place: Place, names: Vec<KvLayerNames>, shape: KvShape) -> Result<Self, RuntimeError> {
        let no_memory = |source| RuntimeError::CacheMemory { slots: shape.slots, max_len: shape.max_len, source };
        let bytes = shape.tensor().ok_or_else(|| no_memory(std::io::ErrorKind::OutOfMemory.into()))?;
        let memory = || match &place {
            Place::Host => Buffer::map(bytes).map_err(no_memory),
            Place::Gpu(_) => Buffer::new(&place, bytes),
        };
        let tensors: Result<_, RuntimeError> =
            names.into_iter().map(|names| Ok(KvTensor { names, memory: memory()? })).collect();
        Ok(Self { tensors: tensors?, place, shape })
    }

    pub(crate) fn slots(&self) -> usize {
        self.shape.slots
    }

    pub(crate) fn max_len(&self) -> usize {
        self.shape.max_len
    }

    /// Returns the bytes of a position of one row.
    pub(crate) fn position_bytes(&self) -> usize {
        self.tensors.len() * self.shape.heads * self.shape.position()
    }

    /// Returns memory for `len` positions of a row, in the place of the cache: `unneeded`, if that
    /// has the right size.
    pub(crate) fn room_for_row(&self, len: usize, unneeded: Option<Buffer>) -> Result<Buffer, RuntimeError> {
        let bytes = len * self.position_bytes();
        match unneeded.filter(|unneeded| unneeded.bytes() == bytes) {
            Some(unneeded) => Ok(unneeded),
            None => Buffer::new(&self.place, bytes),
        }
    }

    /// Copies the first `len` positions of a slot into other memory, as `[tensors, heads, len,
    /// head_dim]`.
    pub(crate) fn save_row(&self, slot: usize, len: usize, saved: &mut Buffer) -> Result<(), RuntimeError> {
        let head = self.shape.head();
        let used = len * self.shape.position();
        for (place, tensor) in self.tensors.iter().enumerate() {
            saved.copy_from(
                &tensor.memory,
                &Pieces {
                    from: slot * self.shape.slot(),
                    from_pitch: head,
                    to: place * self.shape.heads * used,
                    to_pitch: used,
                    len: used,
                    count: self.shape.heads,
                },
            )?;
        }
        saved.wait()
    }

    /// Copies the first `len` of `saved_len` saved positions into a slot.
    pub(crate) fn restore_row(
        &mut self,
        slot: usize,
        saved: &Buffer,
        saved_len: usize,
        len: usize,
    ) -> Result<(), RuntimeError> {
        let head = self.shape.head();
        let stored = saved_len * self.shape.position();
        for (place, tensor) in self.tensors.iter_mut().enumerate() {
            tensor.memory.copy_from(
                saved,
                &Pieces {
                    from: place * self.shape.heads * stored,
                    from_pitch: stored,
                    to: slot * self.shape.slot(),
                    to_pitch: head,
                    len: len * self.shape.position(),
                    count: self.shape.heads,
                },
            )?;
        }
        self.wait()
    }

    /// Copies `positions` of slot `from` into another slot `to`.
    pub(crate) fn copy_row(&mut self, from: usize, to: usize, positions: Range<usize>) -> Result<(), RuntimeError> {
        let start = positions.start * self.shape.position();
        let head = self.shape.head();
        for tensor in &mut self.tensors {
            tensor.memory.copy_within(&Pieces {
                from: from * self.shape.slot() + start,
                from_pitch: head,
                to: to * self.shape.slot() + start,
                to_pitch: head,
                len: positions.len() * self.shape.position(),
                count: self.shape.heads,
            })?;
        }
        self.wait()
    }

    /// Releases the memory of a slot's positions from `from` on, in whole pages. Positions that
    /// share a page with one before `from` keep their memory. Released memory reads zero. On a GPU
    /// nothing is released.
    pub(crate) fn release(&mut self, slot: usize, from: usize) {
        // A whole slot is one piece of each tensor. Otherwise each head is a piece.
        let (pieces, piece) = if from == 0 { (1, self.shape.slot()) } else { (self.shape.heads, self.shape.head()) };
        let start = slot * self.shape.slot();
        let kept = from * self.shape.position();
        for tensor in &mut self.tensors {
            for place in (start..start + pieces * piece).step_by(piece) {
                tensor.memory.release(place + kept..place + piece);
            }
        }
    }

    /// Binds the first slots, up to `rows`, to a run that extends their cache in place.
    pub(crate) fn bind(&mut self, session: &Session, rows: Range<usize>) -> ort::Result<Binding<'_>> {
        let KvShape { heads, max_len, head_dim, element, .. } = self.shape;
        let start = rows.start * self.shape.slot();
        let shape = [rows.len(), heads, max_len, head_dim];
        let mut binding = Binding::new(session)?;
        for KvTensor { names, memory } in &mut self.tensors {
            binding.in_place((&names.past, &names.present), memory, Part { start, element, shape: &shape })?;
        }
        Ok(binding)
    }

    /// Waits for copies. All tensors are in one place, where copies end in order.
    fn wait(&self) -> Result<(), RuntimeError> {
        self.tensors.last().map_or(Ok(()), |tensor| tensor.memory.wait())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::resident_bytes;

    #[cfg(target_os = "linux")]
    const PAGE_BYTES: usize = if cfg!(target_arch = "x86_64") { 4 << 10 } else { 64 << 10 };

    fn names(kind: &str) -> KvLayerNames {
        let name = |what| TensorName::new(&format!("{what}.0.{kind}")).unwrap();
        KvLayerNames { past: name("past"), present: name("present") }
    }

    /// Two tensors.
    fn buffer(slots: usize, heads: usize, max_len: usize, head_dim: usize) -> KvBuffer {
        let shape = KvShape { slots, heads, max_len, head_dim, element: Element::F32 };
        KvBuffer::new(Place::Host, vec![names("key"), names("value")], shape).unwrap()
    }

    fn fill(buffer: &mut KvBuffer, value: f32) {
        for tensor in &mut buffer.tensors {
            tensor.memory.host_mut().unwrap().fill(value);
        }
    }

    fn saved(buffer: &KvBuffer, slot: usize, len: usize) -> Vec<f32> {
        let mut saved = buffer.room_for_row(len, None).unwrap();
        buffer.save_row(slot, len, &mut saved).unwrap();
        saved.host().unwrap().to_vec()
    }

    fn row(elements: &[f32]) -> Buffer {
        let mut row = Buffer::new(&Place::Host, size_of_val(elements)).unwrap();
        row.host_mut().unwrap().copy_from_slice(elements);
        row
    }

    /// The elements of a slot that are not zero, over both tensors.
    fn written(buffer: &KvBuffer, slot: usize) -> usize {
        saved(buffer, slot, buffer.max_len()).iter().filter(|element| **element != 0.0).count()
    }

    #[test]
    fn memory_is_zero_until_written() {
        let mut buffer = buffer(2, 2, 3, 4);
        assert_eq!((written(&buffer, 0), written(&buffer, 1)), (0, 0));
        let elements: Vec<f32> = (1..=2 * 2 * 2 * 4).map(|element| element as f32).collect();
        buffer.restore_row(1, &row(&elements), 2, 2).unwrap();
        assert_eq!(saved(&buffer, 1, 2), elements);
        assert_eq!(written(&buffer, 0), 0);
    }

    #[test]
    fn rows_are_copied_between_slots_from_where_they_differ() {
        let mut buffer = buffer(3, 2, 4, 2);
        let elements: Vec<f32> = (1..=2 * 2 * 3 * 2).map(|element| element as f32).collect();
        buffer.restore_row(2, &row(&elements), 3, 3).unwrap();
        buffer.copy_row(2, 0, 0..3).unwrap();
        assert_eq!(saved(&buffer, 0, 3), elements);
        buffer.copy_row(2, 1, 1..3).unwrap();
        let second = saved(&buffer, 1, 3);
        for (copied, original) in second.chunks(6).zip(elements.chunks(6)) {
            assert_eq!((&copied[..2], &copied[2..]), (&[0.0; 2][..], &original[2..]));
        }
    }

    #[test]
    fn the_first_of_the_saved_positions_can_be_restored() {
        let mut buffer = buffer(1, 2, 4, 1);
        let elements: Vec<f32> = (1..=2 * 2 * 3).map(|element| element as f32).collect();
        buffer.restore_row(0, &row(&elements), 3, 2).unwrap();
        assert_eq!(saved(&buffer, 0, 2), [1.0, 2.0, 4.0, 5.0, 7.0, 8.0, 10.0, 11.0]);
        assert_eq!(written(&buffer, 0), 8);
    }

    #[test]
    fn memory_that_is_not_needed_is_used_again_if_it_fits() {
        let buffer = buffer(1, 2, 4, 2);
        let first = buffer.room_for_row(2, None).unwrap();
        let place = first.host().unwrap().as_ptr();
        let second = buffer.room_for_row(2, Some(first)).unwrap();
        assert_eq!(second.host().unwrap().as_ptr(), place);
        assert_eq!(buffer.room_for_row(3, Some(second)).unwrap().bytes(), 3 * buffer.position_bytes());
    }

    #[test]
    fn a_cache_of_halves_takes_half_the_memory() {
        let shape = KvShape { slots: 2, heads: 3, max_len: 5, head_dim: 8, element: Element::F16 };
        let half = KvBuffer::new(Place::Host, vec![names("key"), names("value")], shape).unwrap();
        assert_eq!((half.position_bytes(), buffer(2, 3, 5, 8).position_bytes()), (96, 192));
        assert_eq!(half.room_for_row(5, None).unwrap().bytes(), 5 * 96);
    }

    #[test]
    fn a_cache_too_large_to_map_is_an_error() {
        let huge = |slots| {
            let shape = KvShape { slots, heads: 1, max_len: 1, head_dim: 1, element: Element::F32 };
            KvBuffer::new(Place::Host, vec![names("key")], shape).unwrap_err().to_string()
        };
        for slots in [usize::MAX, 1 << 60] {
            assert!(huge(slots).contains("--slots"), "{}", huge(slots));
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_released_slot_reads_zero_and_its_neighbours_are_unchanged() {
        // A head is as long as a page here, so that a slot begins and ends with one.
        let mut buffer = buffer(3, 2, PAGE_BYTES / 16, 4);
        fill(&mut buffer, 1.0);
        let whole = written(&buffer, 0);
        buffer.release(1, 0);
        assert_eq!([0, 1, 2].map(|slot| written(&buffer, slot)), [whole, 0, whole]);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn of_a_shortened_row_whole_pages_are_released_and_no_kept_position_changes() {
        // Heads of two and a half pages, so that pages are shared by neighbouring heads.
        let page = PAGE_BYTES / 16;
        let heads = 3;
        let max_len = 5 * page / 2;
        for kept in [1, page - 1, page, page + 1, max_len - 1] {
            let mut buffer = buffer(2, heads, max_len, 4);
            fill(&mut buffer, 1.0);
            let whole = written(&buffer, 0);
            buffer.release(1, kept);
            assert!(saved(&buffer, 1, kept).iter().all(|element| *element == 1.0), "kept {kept}");
            assert_eq!(written(&buffer, 0), whole);
            let released = whole - written(&buffer, 1);
            let most = 2 * heads * (max_len - kept) * 4;
            assert!(
                released <= most && released + 2 * heads * 2 * page * 4 > most,
                "kept {kept}: {released} of {most}"
            );
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn memory_is_taken_when_written_and_goes_when_released() {
        // Other tests take and give memory meanwhile, so the cache is large and the bounds are
        // wide.
        const BYTES: u64 = 512 << 20;
        let mut buffer = buffer(1, 8, 1 << 17, 64);
        let before = resident_bytes().unwrap();
        for tensor in &mut buffer.tensors {
            let elements = tensor.memory.host_mut().unwrap();
            elements.iter_mut().step_by((4 << 10) / size_of::<f32>()).for_each(|element| *element = 1.0);
        }
        let written = resident_bytes().unwrap();
        buffer.release(0, 0);
        let released = resident_bytes().unwrap();
        assert!(written > before + BYTES / 2, "{before} {written}");
        assert!(released < written - BYTES / 2, "{written} {released}");
    }
}
