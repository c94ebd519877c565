//! The KV cache's memory, and in-place views of it: the only file that may use `unsafe`.
//!
//! The decoder graph reads `past` and writes `present`. Both are bound to the same memory, the first `rows` slots of a
//! [`KvBuffer`], so a step copies nothing and a batch grows and shrinks by binding more or fewer slots.
//!
//! The memory is mapped, not allocated: the system grants all of it at once, lends a page when it is first written, and
//! takes pages back when asked ([`KvBuffer::release`]). A cache may so be far larger than what its rows ever use.
#![expect(
    unsafe_code,
    reason = "ort cannot bind one borrowed tensor as input and as output; mapped memory is bytes, seen as f32"
)]

use std::ffi::{CString, NulError};
use std::fmt::Debug;
use std::io;
use std::marker::PhantomData;
use std::ops::Range;
use std::slice;

#[cfg(target_os = "linux")]
use memmap2::{Advice, UncheckedAdvice};
use memmap2::{MmapMut, MmapOptions};
use ort::memory::MemoryInfo;
use ort::session::{IoBinding, Session};
use ort::value::{PrimitiveTensorElementType, Shape, Tensor, TensorRefMut};
use ort::{AsPointer, Error};

/// The graph's names for one cache tensor: what a run reads, and what it writes.
#[derive(Debug)]
pub(crate) struct KvLayerNames {
    past: CString,
    present: CString,
}

impl KvLayerNames {
    pub(crate) fn new(past: String, present: String) -> Result<Self, NulError> {
        Ok(Self { past: CString::new(past)?, present: CString::new(present)? })
    }
}

/// A multiple of every page size there is: x86-64 has one, elsewhere Linux may be built with pages of up to 64 KiB.
#[cfg(target_os = "linux")]
const PAGE_BYTES: usize = if cfg!(target_arch = "x86_64") { 4 << 10 } else { 64 << 10 };

/// A tensor's memory: zero until written.
#[derive(Debug)]
struct KvMemory(MmapMut);

impl KvMemory {
    /// Maps `elements`. No swap is reserved, because most of them are never written.
    fn map(elements: usize) -> io::Result<Self> {
        let bytes = elements.checked_mul(size_of::<f32>()).ok_or(io::ErrorKind::OutOfMemory)?;
        let map = MmapOptions::new().len(bytes).no_reserve_swap().map_anon()?;
        // A huge page would cost 2 MiB for the first position of a head. A system that refuses has none.
        #[cfg(target_os = "linux")]
        let _ = map.advise(Advice::NoHugePage);
        Ok(Self(map))
    }

    fn as_slice(&self) -> &[f32] {
        let elements = self.0.len() / size_of::<f32>();
        // SAFETY: the map begins at a page, holds `elements` initialised f32 (any bits are one), and is borrowed with `self`.
        unsafe { slice::from_raw_parts(self.0.as_ptr().cast(), elements) }
    }

    fn as_mut_slice(&mut self) -> &mut [f32] {
        let elements = self.0.len() / size_of::<f32>();
        // SAFETY: as in `as_slice`, and borrowed exclusively.
        unsafe { slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), elements) }
    }

    /// Gives the whole pages within `elements` back: they read zero, and cost nothing until they are written again.
    #[cfg(target_os = "linux")]
    fn release(&mut self, elements: Range<usize>) {
        assert!(elements.end <= self.as_slice().len(), "what is released lies within the map");
        let [start, end] = [elements.start, elements.end].map(|element| element * size_of::<f32>());
        let (start, end) = (start.next_multiple_of(PAGE_BYTES), end - end % PAGE_BYTES);
        if start >= end {
            return;
        }
        // SAFETY: the range begins at a page, so nothing before it is lost, and lies within a private anonymous map that
        // is borrowed exclusively. Its bytes become zero, and so stay initialised f32.
        let released = unsafe { self.0.unchecked_advise_range(UncheckedAdvice::DontNeed, start, end - start) };
        // Refused when the process has locked its memory: then it is to stay.
        drop(released);
    }

    /// Other systems have no call that does the same.
    #[cfg(not(target_os = "linux"))]
    fn release(&mut self, _elements: Range<usize>) {}
}

#[derive(Debug)]
struct KvTensor {
    names: KvLayerNames,
    memory: KvMemory,
}

/// Keys and values of all layers, `[slots, heads, max_len, head_dim]` each. Positions never written cost nothing.
#[derive(Debug)]
pub(crate) struct KvBuffer {
    tensors: Vec<KvTensor>,
    slots: usize,
    heads: usize,
    max_len: usize,
    head_dim: usize,
}

impl KvBuffer {
    /// Maps the memory, which the system may refuse.
    pub(crate) fn new(
        names: Vec<KvLayerNames>,
        slots: usize,
        heads: usize,
        max_len: usize,
        head_dim: usize,
    ) -> io::Result<Self> {
        let elements = [heads, max_len, head_dim].into_iter().try_fold(slots, usize::checked_mul);
        let elements = elements.ok_or(io::ErrorKind::OutOfMemory)?;
        let tensors: io::Result<_> =
            names.into_iter().map(|names| Ok(KvTensor { names, memory: KvMemory::map(elements)? })).collect();
        Ok(Self { tensors: tensors?, slots, heads, max_len, head_dim })
    }

    pub(crate) fn slots(&self) -> usize {
        self.slots
    }

    pub(crate) fn max_len(&self) -> usize {
        self.max_len
    }

    /// Bytes that a position of one row takes.
    pub(crate) fn position_bytes(&self) -> usize {
        self.tensors.len() * self.heads * self.head_dim * size_of::<f32>()
    }

    /// Replaces `saved` by the first `len` positions of a slot, `[tensors, heads, len, head_dim]`.
    pub(crate) fn save_row(&self, slot: usize, len: usize, saved: &mut Vec<f32>) {
        let (head, used) = (self.max_len * self.head_dim, len * self.head_dim);
        let start = slot * self.heads * head;
        saved.clear();
        saved.reserve_exact(self.tensors.len() * self.heads * used);
        for tensor in &self.tensors {
            let data = tensor.memory.as_slice();
            for place in (start..start + self.heads * head).step_by(head) {
                saved.extend_from_slice(&data[place..place + used]);
            }
        }
    }

    /// Writes the first `len` of `saved_len` saved positions into a slot.
    pub(crate) fn restore_row(&mut self, slot: usize, saved: &[f32], saved_len: usize, len: usize) {
        if len == 0 {
            return;
        }
        let (head, used) = (self.max_len * self.head_dim, len * self.head_dim);
        let start = slot * self.heads * head;
        let places = (start..start + self.heads * head).step_by(head);
        let mut saved = saved.chunks_exact(saved_len * self.head_dim);
        for tensor in &mut self.tensors {
            let data = tensor.memory.as_mut_slice();
            for (place, head) in places.clone().zip(saved.by_ref()) {
                data[place..place + used].copy_from_slice(&head[..used]);
            }
        }
    }

    /// Copies `positions` of slot `from` into slot `to`.
    pub(crate) fn copy_row(&mut self, from: usize, to: usize, positions: Range<usize>) {
        let head = self.max_len * self.head_dim;
        let (start, end) = (positions.start * self.head_dim, positions.end * self.head_dim);
        let slot = self.heads * head;
        for tensor in &mut self.tensors {
            let data = tensor.memory.as_mut_slice();
            for offset in (0..slot).step_by(head) {
                let source = from * slot + offset;
                data.copy_within(source + start..source + end, to * slot + offset + start);
            }
        }
    }

    /// Gives the memory of a slot's positions from `from` on back to the system, in whole pages: what shares a page with
    /// a position that stays, stays with it. What was given back reads zero.
    pub(crate) fn release(&mut self, slot: usize, from: usize) {
        // A whole slot is one piece of each tensor; else each head has a piece of its own.
        let (pieces, positions) = if from == 0 { (1, self.heads * self.max_len) } else { (self.heads, self.max_len) };
        let piece = positions * self.head_dim;
        let start = slot * pieces * piece;
        for tensor in &mut self.tensors {
            for place in (start..start + pieces * piece).step_by(piece) {
                tensor.memory.release(place + from * self.head_dim..place + piece);
            }
        }
    }
}

/// One decoder run over the slots `rows`, which stay borrowed while ONNX Runtime may write into them.
pub(crate) struct KvBinding<'kv> {
    binding: IoBinding,
    /// Written by the run.
    logits: Vec<f32>,
    kv: PhantomData<&'kv mut KvBuffer>,
}

impl<'kv> KvBinding<'kv> {
    /// Binds the cache of `rows`, and memory for `logits` of the given name and shape `[rows, k, vocab]`.
    ///
    /// Every output is bound raw: a mix of raw and safe outputs would pair names with the wrong values.
    pub(crate) fn new(
        session: &Session,
        kv: &'kv mut KvBuffer,
        rows: Range<usize>,
        logits: (&str, [usize; 3]),
    ) -> ort::Result<Self> {
        let mut binding = session.create_binding()?;
        let slot = kv.heads * kv.max_len * kv.head_dim;
        let shape = Shape::new([rows.len(), kv.heads, kv.max_len, kv.head_dim].map(|n| n as i64));
        for tensor in &mut kv.tensors {
            let data = &mut tensor.memory.as_mut_slice()[rows.start * slot..rows.end * slot]; // panics when out of range
            // SAFETY: `data` is host memory of exactly `shape` elements, exclusively borrowed for 'kv.
            let view = unsafe {
                TensorRefMut::<f32>::from_raw(MemoryInfo::default(), data.as_mut_ptr().cast(), shape.clone())?
            };
            let (io, value, names) = (binding.ptr_mut(), view.ptr(), &tensor.names);
            // SAFETY: all pointers are live; ONNX Runtime takes its own reference to the OrtValue.
            unsafe {
                Error::result_from_status((ort::api().BindInput)(io, names.past.as_ptr(), value))?;
                Error::result_from_status((ort::api().BindOutput)(io, names.present.as_ptr(), value))?;
            }
        }
        let (name, shape) = logits;
        let name = CString::new(name).map_err(|_| Error::new("the name of the logits holds a zero byte"))?;
        let mut logits = vec![0.0_f32; shape.iter().product()];
        let shape = Shape::new(shape.map(|n| n as i64));
        // SAFETY: the elements of `logits` stay where they are and unborrowed while the binding that holds them lives.
        let view = unsafe { TensorRefMut::<f32>::from_raw(MemoryInfo::default(), logits.as_mut_ptr().cast(), shape)? };
        // SAFETY: all pointers are live; ONNX Runtime takes its own reference to the OrtValue.
        unsafe {
            Error::result_from_status((ort::api().BindOutput)(binding.ptr_mut(), name.as_ptr(), view.ptr()))?;
        }
        Ok(Self { binding, logits, kv: PhantomData })
    }

    /// Binds an input. Takes the tensor by value, because `bind_input` never returns for borrowed data.
    pub(crate) fn input<T>(&mut self, name: &str, tensor: Tensor<T>) -> ort::Result<()>
    where
        T: PrimitiveTensorElementType + Debug,
    {
        self.binding.bind_input(name, &tensor)
    }

    /// Runs the graph: the cache grows in place, the logits are handed back.
    pub(crate) fn run(self, session: &mut Session) -> ort::Result<Vec<f32>> {
        session.run_binding(&self.binding)?; // returns no outputs: all of them are bound raw
        Ok(self.logits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::resident_bytes;

    /// Two tensors.
    fn buffer(slots: usize, heads: usize, max_len: usize, head_dim: usize) -> KvBuffer {
        let names = |kind| KvLayerNames::new(format!("past.0.{kind}"), format!("present.0.{kind}")).unwrap();
        KvBuffer::new(vec![names("key"), names("value")], slots, heads, max_len, head_dim).unwrap()
    }

    fn fill(buffer: &mut KvBuffer, value: f32) {
        for tensor in &mut buffer.tensors {
            tensor.memory.as_mut_slice().fill(value);
        }
    }

    fn saved(buffer: &KvBuffer, slot: usize, len: usize) -> Vec<f32> {
        let mut saved = vec![-1.0; 3];
        buffer.save_row(slot, len, &mut saved);
        saved
    }

    /// The elements of a slot that are not zero, over both tensors.
    fn written(buffer: &KvBuffer, slot: usize) -> usize {
        saved(buffer, slot, buffer.max_len).iter().filter(|element| **element != 0.0).count()
    }

    #[test]
    fn memory_is_zero_until_written() {
        let mut buffer = buffer(2, 2, 3, 4);
        assert_eq!((written(&buffer, 0), written(&buffer, 1)), (0, 0));
        let row: Vec<f32> = (1..=2 * 2 * 2 * 4).map(|element| element as f32).collect();
        buffer.restore_row(1, &row, 2, 2);
        assert_eq!(saved(&buffer, 1, 2), row);
        assert_eq!(written(&buffer, 0), 0);
    }

    #[test]
    fn a_cache_too_large_to_map_is_an_error() {
        let huge =
            |slots| KvBuffer::new(buffer(1, 1, 1, 1).tensors.into_iter().map(|t| t.names).collect(), slots, 1, 1, 1);
        assert_eq!(huge(usize::MAX).unwrap_err().kind(), io::ErrorKind::OutOfMemory);
        assert!(huge(1 << 60).is_err());
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
        let (heads, max_len) = (3, 5 * page / 2);
        for kept in [1, page - 1, page, page + 1, max_len - 1] {
            let mut buffer = buffer(2, heads, max_len, 4);
            fill(&mut buffer, 1.0);
            let whole = written(&buffer, 0);
            buffer.release(1, kept);
            assert!(saved(&buffer, 1, kept).iter().all(|element| *element == 1.0), "kept {kept}");
            assert_eq!(written(&buffer, 0), whole);
            let (released, most) = (whole - written(&buffer, 1), 2 * heads * (max_len - kept) * 4);
            assert!(
                released <= most && released + 2 * heads * 2 * page * 4 > most,
                "kept {kept}: {released} of {most}"
            );
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn memory_is_taken_when_written_and_goes_when_released() {
        // Other tests take and give memory meanwhile, so the cache is large and the bounds are wide.
        const BYTES: u64 = 512 << 20;
        let mut buffer = buffer(1, 8, 1 << 17, 64);
        let before = resident_bytes().unwrap();
        for tensor in &mut buffer.tensors {
            tensor
                .memory
                .as_mut_slice()
                .iter_mut()
                .step_by((4 << 10) / size_of::<f32>())
                .for_each(|element| *element = 1.0);
        }
        let written = resident_bytes().unwrap();
        buffer.release(0, 0);
        let released = resident_bytes().unwrap();
        assert!(written > before + BYTES / 2, "{before} {written}");
        assert!(released < written - BYTES / 2, "{written} {released}");
    }
}
