//! Settings as the program relies on them: checked, nothing optional any more. Made from the command line by `cli`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use crate::engine::EngineLimits;
use crate::image::ImageLimits;
use crate::runtime::{CpuSettings, ProviderChoice};

/// What every command needs that runs the model.
#[derive(Debug, Clone)]
pub struct RuntimeSettings {
    /// Where the search for the bundle begins.
    pub model: PathBuf,
    /// `libonnxruntime.so`.
    pub ort_library: PathBuf,
    /// Where the graphs run.
    pub providers: ProviderChoice,
    /// The GPU.
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
    /// Bounds of a picture.
    pub image: ImageLimits,
}

/// The GPU, if a provider needs one.
#[derive(Debug, Clone)]
pub struct GpuChoice {
    /// Its number, as the driver counts.
    pub device_id: usize,
    /// Bytes of its memory that may be taken; what is free when `None`.
    pub memory: Option<u64>,
    /// Where TensorRT keeps its engines; a folder for each GPU, version and bundle is made in it.
    pub tensorrt_cache: PathBuf,
}
