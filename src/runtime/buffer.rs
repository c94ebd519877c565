//! Memory for tensors, on the host or on a GPU, and copies between any two of them.
//!
//! A KV cache on the host is mapped, not allocated: a page takes memory from its first write until
//! its release ([`Buffer::release`]). So a cache may be far larger than its rows ever are.
#![expect(unsafe_code, reason = "mapped memory is bytes, seen as f32; pieces of buffers are copied by address")]

use std::ffi::c_void;
use std::io;
use std::ops::Range;
use std::slice;

use cudarc::driver::{CudaSlice, PinnedHostSlice};
#[cfg(target_os = "linux")]
use memmap2::{Advice, UncheckedAdvice};
use memmap2::{MmapMut, MmapOptions};
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};

use super::RuntimeError;
use super::gpu::{End, Gpu};

/// The place of a stage's tensors.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// The memory of the process.
    Host,
    /// The memory of a GPU.
    Gpu(Gpu),
}

impl Place {
    /// Returns the place of a tensor that one stage writes and another reads: the GPU if both are
    /// there.
    pub(crate) fn between(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::Gpu(gpu), Self::Gpu(_)) => Self::Gpu(gpu.clone()),
            _ => Self::Host,
        }
    }
}

/// A multiple of every page size: 4 KiB on x86-64, up to 64 KiB elsewhere.
#[cfg(target_os = "linux")]
const PAGE_BYTES: usize = if cfg!(target_arch = "x86_64") { 4 << 10 } else { 64 << 10 };

/// Memory of a fixed size, zero until written.
#[derive(Debug)]
pub(crate) struct Buffer {
    memory: Memory,
    bytes: usize,
}

enum Memory {
    Map(MmapMut),
    Heap(Vec<f32>),
    Pinned(PinnedMemory),
    Device(DeviceMemory),
}

/// Host memory that the GPU can access.
struct PinnedMemory {
    /// The address of the first element. Read once, because cudarc waits for an event each time,
    /// and returns errors of others.
    address: usize,
    elements: usize,
    /// Gives the memory back when it is dropped.
    _owner: PinnedHostSlice<f32>,
}

impl PinnedMemory {
    fn as_slice(&self) -> &[f32] {
        // SAFETY: the owner has `len` initialised elements there as long as it lives, and is
        // borrowed with `self`.
        unsafe { slice::from_raw_parts(self.address as *const f32, self.elements) }
    }

    fn as_mut_slice(&mut self) -> &mut [f32] {
        // SAFETY: as in `as_slice`, and borrowed exclusively.
        unsafe { slice::from_raw_parts_mut(self.address as *mut f32, self.elements) }
    }
}

struct DeviceMemory {
    gpu: Gpu,
    address: u64,
    /// Gives the memory back when it is dropped.
    _owner: CudaSlice<u8>,
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Map(_) => "Map",
            Self::Heap(_) => "Heap",
            Self::Pinned(_) => "Pinned",
            Self::Device(_) => "Device",
        })
    }
}

/// `count` pieces of `len` bytes, evenly spaced at both ends of a copy. All numbers are bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pieces {
    /// The start of the first piece in the source.
    pub(crate) from: usize,
    /// From the start of a piece to that of the next, in the source.
    pub(crate) from_pitch: usize,
    /// The start of the first piece in the target.
    pub(crate) to: usize,
    /// From the start of a piece to that of the next, in the target.
    pub(crate) to_pitch: usize,
    /// The length of a piece.
    pub(crate) len: usize,
    /// The number of pieces.
    pub(crate) count: usize,
}

impl Pieces {
    /// Returns one piece.
    pub(crate) fn one(from: usize, to: usize, len: usize) -> Self {
        Self { from, from_pitch: len, to, to_pitch: len, len, count: 1 }
    }

    fn is_empty(&self) -> bool {
        self.len == 0 || self.count == 0
    }

    fn ends(&self) -> (usize, usize) {
        let end = |start: usize, pitch: usize| start + (self.count - 1) * pitch + self.len;
        (end(self.from, self.from_pitch), end(self.to, self.to_pitch))
    }
}

impl Buffer {
    /// Allocates memory in the place of a stage's tensors.
    pub(crate) fn new(place: &Place, bytes: usize) -> Result<Self, RuntimeError> {
        let memory = match place {
            Place::Host => Memory::Heap(vec![0.0; bytes.div_ceil(size_of::<f32>())]),
            Place::Gpu(gpu) => {
                let mut owner = gpu.zeros(bytes)?;
                Memory::Device(DeviceMemory { gpu: gpu.clone(), address: gpu.address(&mut owner), _owner: owner })
            }
        };
        Ok(Self { memory, bytes })
    }

    /// Allocates memory of the host for a stage at `place`: pinned if that is a GPU.
    pub(crate) fn on_host(place: &Place, bytes: usize) -> Result<Self, RuntimeError> {
        let Place::Gpu(gpu) = place else { return Self::new(place, bytes) };
        let elements = bytes.div_ceil(size_of::<f32>());
        let (address, owner) = gpu.pinned(elements)?;
        Ok(Self { memory: Memory::Pinned(PinnedMemory { address, elements, _owner: owner }), bytes })
    }

    /// Maps memory of the host, which takes memory page by page. No swap is reserved, because most
    /// pages are never written.
    pub(crate) fn map(bytes: usize) -> io::Result<Self> {
        let map = MmapOptions::new().len(bytes).no_reserve_swap().map_anon()?;
        // With huge pages the first position of a head would cost 2 MiB. The call fails on systems
        // without them.
        #[cfg(target_os = "linux")]
        let _ = map.advise(Advice::NoHugePage);
        Ok(Self { memory: Memory::Map(map), bytes })
    }

    /// Returns its size.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Releases the whole pages within `bytes`: they read zero, and take no memory until they are
    /// written again. Does nothing for memory that is not mapped.
    #[cfg(target_os = "linux")]
    pub(crate) fn release(&mut self, bytes: Range<usize>) {
        let Memory::Map(map) = &mut self.memory else { return };
        assert!(bytes.end <= map.len(), "what is released lies within the map");
        let start = bytes.start.next_multiple_of(PAGE_BYTES);
        let end = bytes.end - bytes.end % PAGE_BYTES;
        if start >= end {
            return;
        }
        // SAFETY: the range begins at a page, so nothing before it is lost, and lies within a
        // private anonymous map that is borrowed exclusively. Its bytes become zero, and so stay
        // initialised.
        let released = unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, start, end - start) };
        // Fails if the process has locked its memory, which then stays.
        drop(released);
    }

    /// Other systems have no call that does the same.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn release(&mut self, _bytes: Range<usize>) {}

    /// Returns the elements, of memory on the host.
    pub(crate) fn host(&self) -> Option<&[f32]> {
        match &self.memory {
            Memory::Map(map) => {
                // SAFETY: the map begins at a page, holds that many initialised f32 (any bits are
                // one), and is borrowed.
                Some(unsafe { slice::from_raw_parts(map.as_ptr().cast(), map.len() / size_of::<f32>()) })
            }
            Memory::Heap(elements) => Some(elements),
            Memory::Pinned(memory) => Some(memory.as_slice()),
            Memory::Device(_) => None,
        }
    }

    /// Returns the elements, of memory on the host.
    pub(crate) fn host_mut(&mut self) -> Option<&mut [f32]> {
        match &mut self.memory {
            Memory::Map(map) => {
                // SAFETY: as in `host`, and borrowed exclusively.
                Some(unsafe { slice::from_raw_parts_mut(map.as_mut_ptr().cast(), map.len() / size_of::<f32>()) })
            }
            Memory::Heap(elements) => Some(elements),
            Memory::Pinned(memory) => Some(memory.as_mut_slice()),
            Memory::Device(_) => None,
        }
    }

    /// Returns ONNX Runtime's description of the place. Pinned memory counts as memory of the host,
    /// because the driver knows it.
    pub(super) fn memory_info(&self) -> ort::Result<MemoryInfo<'static>> {
        match &self.memory {
            Memory::Device(DeviceMemory { gpu, .. }) => {
                MemoryInfo::new(AllocationDevice::CUDA, gpu.id() as i32, AllocatorType::Device, MemoryType::Default)
            }
            _ => Ok(MemoryInfo::default()),
        }
    }

    /// Returns its address, for reading.
    pub(super) fn address(&self) -> *const c_void {
        match &self.memory {
            Memory::Map(map) => map.as_ptr().cast(),
            Memory::Heap(elements) => elements.as_ptr().cast(),
            Memory::Pinned(memory) => memory.address as *const c_void,
            Memory::Device(memory) => memory.address as *const c_void,
        }
    }

    /// Returns its address, for writing.
    pub(super) fn address_mut(&mut self) -> *mut c_void {
        match &mut self.memory {
            Memory::Map(map) => map.as_mut_ptr().cast(),
            Memory::Heap(elements) => elements.as_mut_ptr().cast(),
            Memory::Pinned(memory) => memory.address as *mut c_void,
            Memory::Device(memory) => memory.address as *mut c_void,
        }
    }

    fn gpu(&self) -> Option<&Gpu> {
        match &self.memory {
            Memory::Device(memory) => Some(&memory.gpu),
            _ => None,
        }
    }

    /// Copies pieces of another buffer into this one. On a GPU the copy ends with [`Buffer::wait`].
    ///
    /// # Panics
    /// When a piece lies outside either buffer.
    pub(crate) fn copy_from(&mut self, source: &Self, pieces: &Pieces) -> Result<(), RuntimeError> {
        if pieces.is_empty() {
            return Ok(());
        }
        let (from_end, to_end) = pieces.ends();
        assert!(from_end <= source.bytes && to_end <= self.bytes, "what is copied lies within both buffers");
        let target = self.address_mut();
        let from = source.end(source.address().cast_mut(), pieces.from);
        let to = self.end(target, pieces.to);
        // SAFETY: all pieces lie within both buffers, as was checked, which are different ones and
        // borrowed here.
        unsafe { copy(self.gpu().or(source.gpu()), from, to, pieces) }
    }

    /// Copies pieces within this buffer. On a GPU the copy ends with [`Buffer::wait`].
    ///
    /// # Panics
    /// When a piece lies outside, or is written to where another is read.
    pub(crate) fn copy_within(&mut self, pieces: &Pieces) -> Result<(), RuntimeError> {
        if pieces.is_empty() {
            return Ok(());
        }
        let (from_end, to_end) = pieces.ends();
        assert!(from_end <= self.bytes && to_end <= self.bytes, "what is copied lies within the buffer");
        assert!(from_end <= pieces.to || to_end <= pieces.from, "what is written is not read");
        let address = self.address_mut();
        let from = self.end(address, pieces.from);
        let to = self.end(address, pieces.to);
        // SAFETY: all pieces lie within this buffer, which is borrowed exclusively, and none of
        // them meet, as was checked.
        unsafe { copy(self.gpu(), from, to, pieces) }
    }

    /// Waits for copies into or within this buffer.
    pub(crate) fn wait(&self) -> Result<(), RuntimeError> {
        self.gpu().map_or(Ok(()), Gpu::wait)
    }

    fn end(&self, address: *mut c_void, offset: usize) -> End {
        match &self.memory {
            Memory::Device(_) => End::Device(address as u64 + offset as u64),
            _ => End::Host(address.wrapping_byte_add(offset)),
        }
    }
}

/// Returns the elements of memory on the host; none otherwise.
impl AsRef<[f32]> for Buffer {
    fn as_ref(&self) -> &[f32] {
        self.host().unwrap_or_default()
    }
}

/// # Safety
/// All pieces lie within valid memory at both ends, and do not meet; those written are borrowed by
/// the caller alone.
unsafe fn copy(gpu: Option<&Gpu>, from: End, to: End, pieces: &Pieces) -> Result<(), RuntimeError> {
    match (from, to, gpu) {
        (End::Host(from), End::Host(to), _) => {
            for piece in 0..pieces.count {
                // SAFETY: as the caller vouches.
                unsafe {
                    let source: *const u8 = from.cast::<u8>().add(piece * pieces.from_pitch);
                    source.copy_to_nonoverlapping(to.cast::<u8>().add(piece * pieces.to_pitch), pieces.len);
                }
            }
            Ok(())
        }
        (_, _, Some(gpu)) => {
            // SAFETY: as the caller vouches.
            unsafe { gpu.copy(from, to, pieces) }?;
            // The host's end may be dropped or written right after this.
            if matches!(from, End::Host(_)) || matches!(to, End::Host(_)) { gpu.wait() } else { Ok(()) }
        }
        _ => unreachable!("memory on a device comes with its GPU"),
    }
}
