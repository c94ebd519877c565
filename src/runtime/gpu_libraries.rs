//! NVIDIA's libraries for ONNX Runtime's GPU providers. Opened before the providers, so that an
//! error names the missing one.
//!
//! The providers open them by bare name, without a search path. A library that is open already is
//! found. So they are opened here, from the folder of ONNX Runtime or else by the system's search,
//! and stay open.
#![expect(unsafe_code, reason = "opening a library runs its initialisers, and its version is asked by symbol")]

use std::env;
use std::error::Error as _;
use std::ffi::c_int;
use std::fmt;
use std::path::Path;

use libloading::Library;
use libloading::os::unix::{Library as UnixLibrary, RTLD_GLOBAL, RTLD_NOW};

use super::RuntimeError;
use super::gpu::cuda_version;

/// The libraries of the CUDA provider, each after those that it needs.
const CUDA: [&str; 7] = [
    "libcudart.so.13",
    "libnvrtc-builtins.so.13.0",
    "libnvrtc.so.13",
    "libcublasLt.so.13",
    "libcublas.so.13",
    "libcurand.so.10",
    "libcudnn.so.9",
];

/// Optional: another release of CUDA 13 has it under another name, and its own nvrtc finds it.
const NAMED_BY_RELEASE: &str = "libnvrtc-builtins.so.13.0";

/// The further libraries of the TensorRT provider.
const TENSORRT: [&str; 2] = ["libnvinfer.so.10", "libnvonnxparser.so.10"];

const CUDA_REMEDY: &str = "run `make onnxruntime-gpu` and set ORT_DYLIB_PATH=.ort-gpu/libonnxruntime.so (docs/gpu.md)";
const TENSORRT_REMEDY: &str = "install TensorRT 10 for CUDA 13 and run `make onnxruntime-gpu TENSORRT_DIR=…`, or use the provider \
    cuda (docs/gpu.md)";

/// The versions of the libraries, for the log and for the names of TensorRT's caches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuLibraries {
    cuda: String,
    cudnn: String,
    tensorrt: Option<String>,
}

impl GpuLibraries {
    /// Opens the libraries of the providers. `library` is that of ONNX Runtime.
    ///
    /// # Errors
    /// [`RuntimeError::Gpu`] when `library` is a build for the CPU, or one of the libraries is
    /// missing or of another version.
    pub fn open(library: &Path, needs_tensorrt: bool) -> Result<Self, RuntimeError> {
        let folder = library.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let provider = |name: &str| folder.join(format!("libonnxruntime_providers_{name}.so"));
        if !provider("cuda").is_file() {
            let reason =
                format!("{} is a build for the CPU: it has no provider for NVIDIA GPUs beside it", library.display());
            return Err(RuntimeError::Gpu { reason, remedy: CUDA_REMEDY.to_owned() });
        }
        for name in CUDA {
            match open(folder, name) {
                Err(_) if name == NAMED_BY_RELEASE => {}
                opened => opened.map_err(|reason| RuntimeError::Gpu { reason, remedy: CUDA_REMEDY.to_owned() })?,
            }
        }
        let cuda = cuda_runtime_version();
        let cudnn = packed_version("libcudnn.so.9", c"cudnnGetVersion");
        let tensorrt = if needs_tensorrt { Some(open_tensorrt(folder)?) } else { None };
        let unknown = || "of unknown version".to_owned();
        Ok(Self { cuda: cuda.map_or_else(unknown, cuda_version), cudnn: cudnn.unwrap_or_else(unknown), tensorrt })
    }

    /// Returns TensorRT's version, if it is in use.
    #[must_use]
    pub fn tensorrt(&self) -> Option<&str> {
        self.tensorrt.as_deref()
    }
}

impl fmt::Display for GpuLibraries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cuda, cudnn, tensorrt } = self;
        write!(f, "CUDA {cuda}, cuDNN {cudnn}")?;
        tensorrt.as_ref().map_or(Ok(()), |version| write!(f, ", TensorRT {version}"))
    }
}

fn open_tensorrt(folder: &Path) -> Result<String, RuntimeError> {
    let missing = |reason: String| RuntimeError::Gpu { reason, remedy: TENSORRT_REMEDY.to_owned() };
    for name in TENSORRT {
        open(folder, name).map_err(missing)?;
    }
    // When TensorRT builds an engine, it opens the code of the GPU by bare name, even if it is open
    // already. The loader then searches only the path that the process was started with.
    if folder.join(TENSORRT[0]).is_file() && !is_searched(folder) {
        let reason = format!("TensorRT lies in {}, and would not find its own parts there", folder.display());
        let remedy = format!("start with LD_LIBRARY_PATH={}", folder.display());
        return Err(RuntimeError::Gpu { reason, remedy });
    }
    let version = packed_version(TENSORRT[0], c"getInferLibVersion");
    version.ok_or_else(|| missing(format!("{} does not say its version", TENSORRT[0])))
}

/// Returns whether the loader of this process searches a folder.
fn is_searched(folder: &Path) -> bool {
    let Ok(folder) = folder.canonicalize() else { return false };
    let searched = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    env::split_paths(&searched).any(|path| path.canonicalize().is_ok_and(|path| path == folder))
}

/// Opens a library for the rest of the process, so that it is found by name.
fn open(folder: &Path, name: &str) -> Result<(), String> {
    let beside = folder.join(name);
    let file = if beside.is_file() { beside.canonicalize().unwrap_or(beside) } else { name.into() };
    // SAFETY: the user chose the folder, as that of ONNX Runtime, or the system's: NVIDIA's
    // initialisers run.
    let library = unsafe { UnixLibrary::open(Some(&file), RTLD_NOW | RTLD_GLOBAL) };
    let library = library.map_err(|error| match error.source() {
        Some(reason) => format!("cannot open {name}: {reason}"),
        None => format!("cannot open {name}: {error}"),
    })?;
    std::mem::forget(library); // never closed
    Ok(())
}

fn cuda_runtime_version() -> Option<i32> {
    let mut version: c_int = 0;
    // SAFETY: the library is open already; the function has this signature in every release, and
    // writes one integer.
    let status = unsafe {
        let library = Library::new("libcudart.so.13").ok()?;
        let ask = library.get::<unsafe extern "C" fn(*mut c_int) -> c_int>(c"cudaRuntimeGetVersion").ok()?;
        ask(&raw mut version)
    };
    (status == 0).then_some(version)
}

/// Returns the version from a function without arguments that returns major * 10000 + minor * 100 +
/// patch.
fn packed_version(name: &str, symbol: &std::ffi::CStr) -> Option<String> {
    // SAFETY: the library is open already. Both functions asked for here take nothing and return an
    // integer, one of 32 and one of 64 bits, whose lower half is in the same register.
    let packed = unsafe {
        let library = Library::new(name).ok()?;
        library.get::<unsafe extern "C" fn() -> u32>(symbol).ok()?()
    };
    Some(format!("{}.{}.{}", packed / 10_000, packed / 100 % 100, packed % 100))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(files: &[&str], needs_tensorrt: bool) -> String {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            std::fs::write(folder.path().join(file), b"no library").unwrap();
        }
        GpuLibraries::open(&folder.path().join("libonnxruntime.so"), needs_tensorrt).unwrap_err().to_string()
    }

    #[test]
    fn a_build_for_the_cpu_is_named_as_such() {
        let text = refusal(&["libonnxruntime.so"], false);
        assert!(text.contains("build for the CPU") && text.contains("make onnxruntime-gpu"), "{text}");
    }

    #[test]
    fn the_first_library_that_cannot_be_opened_is_named() {
        let text = refusal(&["libonnxruntime_providers_cuda.so", "libcudart.so.13"], false);
        assert!(text.contains("libcudart.so.13") && text.contains("docs/gpu.md"), "{text}");
    }

    #[test]
    fn a_folder_is_searched_only_if_the_process_was_started_so() {
        assert!(!is_searched(tempfile::tempdir().unwrap().path()));
    }
}
