//! A run of a graph over our own memory: its tensors are parts of [`Buffer`]s, on the host or a
//! GPU. So no run copies between host and GPU unasked, and the KV cache grows in place.
#![expect(unsafe_code, reason = "ort cannot bind one borrowed tensor as input and as output")]

use std::ffi::{CString, NulError, c_void};
use std::fmt::Debug;
use std::marker::PhantomData;

use half::f16;
use ort::memory::MemoryInfo;
use ort::session::{IoBinding, Session};
use ort::value::{PrimitiveTensorElementType, Shape, Tensor, TensorElementType, TensorRefMut};
use ort::{AsPointer, Error};

use super::buffer::Buffer;

/// A graph's name for a tensor, as ONNX Runtime takes it.
#[derive(Debug, Clone)]
pub(crate) struct TensorName(CString);

impl TensorName {
    pub(crate) fn new(name: &str) -> Result<Self, NulError> {
        CString::new(name).map(Self)
    }
}

/// The element type of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Element {
    F32,
    F16,
}

impl Element {
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::F32 => size_of::<f32>(),
            Self::F16 => size_of::<f16>(),
        }
    }

    /// Returns ONNX Runtime's type.
    pub(crate) fn onnx(self) -> TensorElementType {
        match self {
            Self::F32 => TensorElementType::Float32,
            Self::F16 => TensorElementType::Float16,
        }
    }
}

/// A tensor within a buffer: row-major, from `start` bytes on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part<'s> {
    pub(crate) start: usize,
    pub(crate) element: Element,
    pub(crate) shape: &'s [usize],
}

impl<'s> Part<'s> {
    /// Returns a tensor of f32 from the beginning of its buffer.
    pub(crate) fn f32(shape: &'s [usize]) -> Self {
        Self { start: 0, element: Element::F32, shape }
    }

    fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.element.bytes()
    }
}

/// Inputs and outputs of one run. The buffers stay borrowed while ONNX Runtime may read or write
/// them.
pub(crate) struct Binding<'m> {
    binding: IoBinding,
    memory: PhantomData<&'m mut Buffer>,
}

impl<'m> Binding<'m> {
    pub(crate) fn new(session: &Session) -> ort::Result<Self> {
        Ok(Self { binding: session.create_binding()?, memory: PhantomData })
    }

    /// Binds an input.
    ///
    /// # Panics
    /// When the part exceeds the buffer.
    pub(crate) fn input(&mut self, name: &TensorName, buffer: &'m Buffer, part: Part<'_>) -> ort::Result<()> {
        // Inputs are only read.
        self.bind([Some(name), None], buffer, buffer.address().cast_mut(), part)
    }

    /// Binds an output. All outputs must be bound by this method: a mix with others would pair
    /// names with wrong values.
    ///
    /// # Panics
    /// When the part exceeds the buffer.
    pub(crate) fn output(&mut self, name: &TensorName, buffer: &'m mut Buffer, part: Part<'_>) -> ort::Result<()> {
        let address = buffer.address_mut();
        self.bind([None, Some(name)], buffer, address, part)
    }

    /// Binds the same memory as an input and an output.
    ///
    /// # Panics
    /// When the part exceeds the buffer.
    pub(crate) fn in_place(
        &mut self,
        (past, present): (&TensorName, &TensorName),
        buffer: &'m mut Buffer,
        part: Part<'_>,
    ) -> ort::Result<()> {
        let address = buffer.address_mut();
        self.bind([Some(past), Some(present)], buffer, address, part)
    }

    /// Binds a small input, which is copied to the place of the graph. Takes the tensor by value,
    /// because `bind_input` of borrowed data never returns it.
    pub(crate) fn copied<T>(&mut self, name: &str, tensor: Tensor<T>) -> ort::Result<()>
    where
        T: PrimitiveTensorElementType + Debug,
    {
        self.binding.bind_input(name, &tensor)
    }

    /// Runs the graph. When it returns, every output is written, on a GPU too.
    pub(crate) fn run(self, session: &mut Session) -> ort::Result<()> {
        session.run_binding(&self.binding)?; // returns no outputs: all of them are bound
        Ok(())
    }

    /// The names of an input and an output.
    fn bind(
        &mut self,
        names: [Option<&TensorName>; 2],
        buffer: &Buffer,
        address: *mut c_void,
        part: Part<'_>,
    ) -> ort::Result<()> {
        assert!(part.start + part.bytes() <= buffer.bytes(), "a tensor lies within its buffer");
        let info = buffer.memory_info()?;
        let address = address.wrapping_byte_add(part.start);
        match part.element {
            Element::F32 => self.bind_as::<f32>(names, info, address, part.shape),
            Element::F16 => self.bind_as::<f16>(names, info, address, part.shape),
        }
    }

    fn bind_as<T: PrimitiveTensorElementType + Debug>(
        &mut self,
        [input, output]: [Option<&TensorName>; 2],
        info: MemoryInfo<'_>,
        address: *mut c_void,
        shape: &[usize],
    ) -> ort::Result<()> {
        let shape: Shape = shape.iter().map(|dimension| *dimension as i64).collect();
        // SAFETY: the memory lies where its info says, holds all elements of the shape as `bind`
        // checked, and stays borrowed by the caller for 'm, exclusively if it is bound as an
        // output.
        let view = unsafe { TensorRefMut::<T>::from_raw(info, address, shape)? };
        let io = self.binding.ptr_mut();
        let value = view.ptr();
        // SAFETY: all pointers are live; ONNX Runtime takes its own reference to the OrtValue.
        unsafe {
            if let Some(TensorName(name)) = input {
                Error::result_from_status((ort::api().BindInput)(io, name.as_ptr(), value))?;
            }
            if let Some(TensorName(name)) = output {
                Error::result_from_status((ort::api().BindOutput)(io, name.as_ptr(), value))?;
            }
        }
        Ok(())
    }
}
