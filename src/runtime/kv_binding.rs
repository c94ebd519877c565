//! In-place views of the KV cache: the only file that may use `unsafe`.
//!
//! The decoder graph reads `past` and writes `present`. Both are bound to the same memory, the first `rows` slots of a
//! [`KvBuffer`], so a step copies nothing and a batch grows and shrinks by binding more or fewer slots.
#![expect(unsafe_code, reason = "ort cannot bind one borrowed tensor as input and as output")]

use std::ffi::{CString, NulError};
use std::fmt::Debug;
use std::marker::PhantomData;
use std::ops::Range;

use ort::memory::{Allocator, MemoryInfo};
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

#[derive(Debug)]
struct KvTensor {
    names: KvLayerNames,
    data: Vec<f32>,
}

/// Keys and values of all layers, `[slots, heads, max_len, head_dim]` each.
///
/// The memory is asked for zeroed, which the system grants without touching it: positions never written cost nothing.
#[derive(Debug)]
pub(crate) struct KvBuffer {
    tensors: Vec<KvTensor>,
    slots: usize,
    heads: usize,
    max_len: usize,
    head_dim: usize,
}

impl KvBuffer {
    pub(crate) fn new(names: Vec<KvLayerNames>, slots: usize, heads: usize, max_len: usize, head_dim: usize) -> Self {
        let elements = slots * heads * max_len * head_dim;
        let tensors = names.into_iter().map(|names| KvTensor { names, data: vec![0.0; elements] }).collect();
        Self { tensors, slots, heads, max_len, head_dim }
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

    /// The first `len` positions of a slot, `[tensors, heads, len, head_dim]`.
    pub(crate) fn save_row(&self, slot: usize, len: usize) -> Vec<f32> {
        let (head, used) = (self.max_len * self.head_dim, len * self.head_dim);
        let start = slot * self.heads * head;
        let mut saved = Vec::with_capacity(self.tensors.len() * self.heads * used);
        for tensor in &self.tensors {
            for place in (start..start + self.heads * head).step_by(head) {
                saved.extend_from_slice(&tensor.data[place..place + used]);
            }
        }
        saved
    }

    /// Writes the first `len` of `saved_len` saved positions into a slot.
    pub(crate) fn restore_row(&mut self, slot: usize, saved: &[f32], saved_len: usize, len: usize) {
        let (head, used) = (self.max_len * self.head_dim, len * self.head_dim);
        let start = slot * self.heads * head;
        let places = (start..start + self.heads * head).step_by(head);
        let mut saved = saved.chunks_exact(saved_len * self.head_dim);
        for tensor in &mut self.tensors {
            for (place, head) in places.clone().zip(saved.by_ref()) {
                tensor.data[place..place + used].copy_from_slice(&head[..used]);
            }
        }
    }

    /// Copies `positions` of slot `from` into slot `to`.
    pub(crate) fn copy_row(&mut self, from: usize, to: usize, positions: Range<usize>) {
        let head = self.max_len * self.head_dim;
        let (start, end) = (positions.start * self.head_dim, positions.end * self.head_dim);
        let slot = self.heads * head;
        for tensor in &mut self.tensors {
            for offset in (0..slot).step_by(head) {
                let source = from * slot + offset;
                tensor.data.copy_within(source + start..source + end, to * slot + offset + start);
            }
        }
    }
}

/// One decoder run over the slots `rows`, which stay borrowed while ONNX Runtime may write into them.
pub(crate) struct KvBinding<'kv> {
    binding: IoBinding,
    logits: Tensor<f32>,
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
            let data = &mut tensor.data[rows.start * slot..rows.end * slot]; // panics when out of range
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
        let logits = Tensor::<f32>::new(&Allocator::default(), shape)?; // memory owned by the OrtValue itself
        // SAFETY: all pointers are live; ONNX Runtime takes its own reference to the OrtValue.
        unsafe {
            Error::result_from_status((ort::api().BindOutput)(binding.ptr_mut(), name.as_ptr(), logits.ptr()))?;
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
    pub(crate) fn run(&mut self, session: &mut Session) -> ort::Result<&[f32]> {
        session.run_binding(&self.binding)?; // returns no outputs: all of them are bound raw
        Ok(self.logits.extract_tensor().1)
    }
}
