//! Settings as the program relies on them: checked, and complete. The defaults of the command line are read from here.

use std::env;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::thread;

use crate::engine::EngineLimits;
use crate::image::ImageLimits;
use crate::runtime::{CpuSettings, ProviderChoice};

/// The committed tiny bundle, relative to the repository.
const MODEL: &str = "onnx/blip2-shapes";

/// Where `make setup` puts ONNX Runtime, relative to the repository.
const LIBRARY: &str = ".ort/libonnxruntime.so";

/// The name to look for beside the executable, where images put it.
const LIBRARY_NAME: &str = "libonnxruntime.so";

/// In the user's cache folder.
const TENSORRT_CACHE: &str = "blip2/tensorrt";

/// Settings to open a bundle and start an engine.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Folder in which the search for the bundle begins.
    pub model: PathBuf,
    /// `libonnxruntime.so`, 1.24 or newer.
    pub ort_library: PathBuf,
    /// Execution provider of each stage.
    pub providers: ProviderChoice,
    /// The GPU, if a provider needs one.
    pub gpu: GpuChoice,
    /// How ONNX Runtime uses the CPU.
    pub cpu: CpuSettings,
    /// Rows decoded together; as many as memory allows when `None`.
    pub slots: Option<NonZeroUsize>,
    /// Positions of all rows together; what free memory holds when `None`.
    pub kv_tokens: Option<NonZeroUsize>,
    /// Positions of a row; the model's own limit when `None`.
    pub max_len: Option<NonZeroUsize>,
    /// Bounds of the engine.
    pub engine: EngineLimits,
    /// Bounds of an image.
    pub image: ImageLimits,
}

impl Default for Settings {
    /// The committed bundle on all cores that this process may use.
    fn default() -> Self {
        Self {
            model: MODEL.into(),
            ort_library: library(),
            providers: ProviderChoice::default(),
            gpu: GpuChoice::default(),
            cpu: CpuSettings::with_threads(thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)),
            slots: None,
            kv_tokens: None,
            max_len: None,
            engine: EngineLimits::default(),
            image: ImageLimits::default(),
        }
    }
}

/// Which GPU, and how much of it.
#[derive(Debug, Clone)]
pub struct GpuChoice {
    /// Its number, as the driver counts.
    pub device_id: usize,
    /// Bytes of its memory to plan with; what is free when `None`.
    pub memory: Option<u64>,
    /// Folder where TensorRT keeps its engines, in a folder for each GPU, version and bundle.
    pub tensorrt_cache: PathBuf,
}

impl Default for GpuChoice {
    fn default() -> Self {
        Self { device_id: 0, memory: None, tensorrt_cache: tensorrt_cache() }
    }
}

/// The library in the repository, or else the one beside the executable.
fn library() -> PathBuf {
    let beside = env::current_exe().ok().and_then(|path| Some(path.parent()?.join(LIBRARY_NAME)));
    match beside {
        Some(beside) if beside.is_file() && !PathBuf::from(LIBRARY).is_file() => beside,
        _ => LIBRARY.into(),
    }
}

/// The user's cache folder. Without a home, as in some containers, the engines last as long as the temporary folder.
fn tensorrt_cache() -> PathBuf {
    let folder = |name: &str| env::var_os(name).filter(|folder| !folder.is_empty()).map(PathBuf::from);
    let cache = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")));
    cache.unwrap_or_else(env::temp_dir).join(TENSORRT_CACHE)
}
