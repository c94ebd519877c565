//! The GPU: a check that it can be used, its memory, and copies within it.
//!
//! All calls go to NVIDIA's driver, which is loaded on first use, so the same binary runs without
//! one. ONNX Runtime uses the same context (the device's primary one), on streams of its own. It
//! waits for them at the end of each run, and this module's copies are waited for before the next
//! ([`Gpu::wait`]), so the two never overlap.
#![expect(
    unsafe_code,
    reason = "cudarc has no safe call for a copy of evenly spaced pieces, nor for the driver's version"
)]

use std::ffi::c_void;
use std::fmt;
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtrMut as _, DriverError, PinnedHostSlice, sys};

use super::RuntimeError;
use super::buffer::Pieces;

/// CUDA 13, for which the pinned ONNX Runtime is built, in the driver's numbering.
const LEAST_DRIVER: i32 = 13_000;

/// The oldest compute capability of CUDA 13: Turing.
const LEAST_CAPABILITY: (i32, i32) = (7, 5);

/// The compute capabilities for which the pinned ONNX Runtime has code. It has none that could be
/// compiled for others.
const HAS_CODE_FOR: [(i32, i32); 7] = [(7, 5), (8, 0), (8, 6), (8, 7), (8, 9), (9, 0), (12, 0)];

const DRIVER_REMEDY: &str = "install NVIDIA's driver 580 or newer, in a container start it with `--gpus all` (docs/gpu.md), or use a bundle \
    for --target cpu";

/// A handle to one GPU; clones are the same.
#[derive(Clone)]
pub struct Gpu {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    name: String,
    driver: i32,
}

impl Gpu {
    /// Opens the GPU with this number.
    ///
    /// # Errors
    /// [`RuntimeError::Gpu`] when there is no driver, it is too old, or there is no such GPU, or it
    /// is too old.
    pub fn open(id: usize) -> Result<Self, RuntimeError> {
        let unusable = |reason: String, remedy: &str| RuntimeError::Gpu { reason, remedy: remedy.to_owned() };
        let failed = |what: &'static str| move |error| unusable(format!("{what}: {}", describe(error)), DRIVER_REMEDY);
        // SAFETY: opens the driver's library, whose initialisers are NVIDIA's, and calls nothing in
        // it.
        if !unsafe { sys::is_culib_present() } {
            return Err(unusable("no NVIDIA driver: libcuda.so.1 cannot be loaded".to_owned(), DRIVER_REMEDY));
        }
        let mut driver = 0;
        // SAFETY: writes one integer. May be called before the driver is initialised.
        unsafe { sys::cuDriverGetVersion(&raw mut driver) }
            .result()
            .map_err(failed("the NVIDIA driver does not work"))?;
        if driver < LEAST_DRIVER {
            let reason = format!("the NVIDIA driver knows CUDA {}, ONNX Runtime needs 13.0", cuda_version(driver));
            return Err(unusable(reason, DRIVER_REMEDY));
        }
        let count = CudaContext::device_count().map_err(failed("the NVIDIA driver finds no GPU"))?;
        if usize::try_from(count).is_ok_and(|count| id >= count) {
            return Err(unusable(
                format!("there is no GPU {id}: the driver knows {count}"),
                "give another --device-id, counted from 0, or look at CUDA_VISIBLE_DEVICES",
            ));
        }
        let opened = CudaContext::new(id).and_then(|context| {
            let stream = context.new_stream()?;
            let name = context.name()?;
            Ok((context.compute_capability()?, Self { context, stream, name, driver }))
        });
        let (capability, gpu) = opened.map_err(failed("the GPU cannot be used"))?;
        if capability < LEAST_CAPABILITY {
            let (major, minor) = capability;
            let reason = format!("{} has compute capability {major}.{minor}, CUDA 13 needs 7.5 (Turing)", gpu.name);
            return Err(unusable(reason, "use another GPU, or the provider cpu with a bundle for it"));
        }
        if !HAS_CODE_FOR.contains(&capability) {
            let (major, minor) = capability;
            tracing::warn!(
                gpu = gpu.name,
                "the ONNX Runtime of docs/gpu.md has no code for compute capability {major}.{minor}"
            );
        }
        Ok(gpu)
    }

    /// Returns its number among those that the driver shows to this process.
    #[must_use]
    pub fn id(&self) -> usize {
        self.context.ordinal()
    }

    /// Returns its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the newest CUDA version that the driver supports.
    #[must_use]
    pub fn driver_cuda(&self) -> String {
        cuda_version(self.driver)
    }

    /// Returns its free memory in bytes.
    ///
    /// # Errors
    /// [`RuntimeError::Device`] when the driver fails.
    pub fn free_bytes(&self) -> Result<u64, RuntimeError> {
        let (free, _) = self.context.mem_get_info().map_err(device("asking for free GPU memory"))?;
        Ok(free as u64)
    }

    /// Allocates zeroed memory on the GPU.
    pub(super) fn zeros(&self, bytes: usize) -> Result<CudaSlice<u8>, RuntimeError> {
        let memory = self.context.bind_to_thread().and_then(|()| self.stream.alloc_zeros::<u8>(bytes.max(1)));
        let memory = memory.map_err(|source| {
            let what = format!("taking {} MiB of GPU memory", bytes.div_ceil(1 << 20));
            RuntimeError::Device { what, source: DeviceFailure::new(source) }
        })?;
        self.wait()?;
        Ok(memory)
    }

    /// Allocates zeroed memory of the host that the GPU can access. Also returns its address.
    pub(super) fn pinned(&self, elements: usize) -> Result<(usize, PinnedHostSlice<f32>), RuntimeError> {
        // SAFETY: it is filled before anyone can read it. The flags ask for plain memory: what is
        // write-combined, cudarc's default, is read slowly, and logits are read.
        let mut memory = unsafe { self.context.alloc_pinned_with_flags::<f32>(elements, 0) }
            .map_err(device("taking pinned host memory"))?;
        let zeros = memory.as_mut_slice().map_err(device("clearing pinned host memory"))?;
        zeros.fill(0.0);
        Ok((zeros.as_mut_ptr().expose_provenance(), memory))
    }

    /// Returns the address of memory. Called once for each buffer, because cudarc records an event
    /// each time.
    pub(super) fn address(&self, memory: &mut CudaSlice<u8>) -> u64 {
        memory.device_ptr_mut(&self.stream).0
    }

    /// Begins to copy evenly spaced pieces. Both ends must stay unchanged until [`Gpu::wait`]
    /// returns.
    ///
    /// # Safety
    /// All pieces lie within valid memory at both ends, and no one else borrows those that are
    /// written.
    pub(super) unsafe fn copy(&self, from: End, to: End, pieces: &Pieces) -> Result<(), RuntimeError> {
        let copy = sys::CUDA_MEMCPY2D {
            srcXInBytes: 0,
            srcY: 0,
            srcMemoryType: from.kind(),
            srcHost: from.host(),
            srcDevice: from.device(),
            srcArray: std::ptr::null_mut(),
            srcPitch: pieces.from_pitch,
            dstXInBytes: 0,
            dstY: 0,
            dstMemoryType: to.kind(),
            dstHost: to.host(),
            dstDevice: to.device(),
            dstArray: std::ptr::null_mut(),
            dstPitch: pieces.to_pitch,
            WidthInBytes: pieces.len,
            Height: pieces.count,
        };
        let begun = self.context.bind_to_thread().and_then(|()| {
            // SAFETY: the caller vouches for the memory; the struct is read before the call
            // returns.
            unsafe { sys::cuMemcpy2DAsync_v2(&raw const copy, self.stream.cu_stream()) }.result()
        });
        begun.map_err(device("copying GPU memory"))
    }

    /// Waits for all copies that were begun here.
    pub(super) fn wait(&self) -> Result<(), RuntimeError> {
        self.stream.synchronize().map_err(device("waiting for the GPU"))
    }
}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gpu({}, {})", self.id(), self.name)
    }
}

/// An end of a copy.
#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    Host(*mut c_void),
    Device(u64),
}

impl End {
    fn kind(self) -> sys::CUmemorytype {
        match self {
            Self::Host(_) => sys::CUmemorytype::CU_MEMORYTYPE_HOST,
            Self::Device(_) => sys::CUmemorytype::CU_MEMORYTYPE_DEVICE,
        }
    }

    fn host(self) -> *mut c_void {
        match self {
            Self::Host(address) => address,
            Self::Device(_) => std::ptr::null_mut(),
        }
    }

    fn device(self) -> u64 {
        match self {
            Self::Host(_) => 0,
            Self::Device(address) => address,
        }
    }
}

/// An error of the driver, with its message if it has one.
#[derive(Debug)]
pub struct DeviceFailure(String);

impl DeviceFailure {
    fn new(error: DriverError) -> Self {
        Self(describe(error))
    }
}

impl fmt::Display for DeviceFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for DeviceFailure {}

fn device(what: &'static str) -> impl Fn(DriverError) -> RuntimeError {
    move |source| RuntimeError::Device { what: what.to_owned(), source: DeviceFailure::new(source) }
}

fn describe(error: DriverError) -> String {
    let words = error.error_string().ok().and_then(|words| words.to_str().ok());
    words.map_or_else(|| format!("{:?}", error.0), |words| format!("{words} ({:?})", error.0))
}

/// Returns the version in words: 13000 is CUDA 13.0, 12080 is 12.8.
pub(super) fn cuda_version(number: i32) -> String {
    format!("{}.{}", number / 1000, number % 1000 / 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_of_cuda_is_read_as_nvidia_writes_it() {
        assert_eq!([13_000, 13_010, 12_080].map(cuda_version), ["13.0", "13.1", "12.8"]);
    }

    #[test]
    fn without_a_driver_there_is_a_reason_and_a_remedy() {
        if let Err(error) = Gpu::open(0) {
            let text = error.to_string();
            assert!(text.contains("NVIDIA") && text.contains("--gpus all") && text.contains("docs/gpu.md"), "{text}");
        }
    }
}
