//! ONNX Runtime: its environment, its providers, sessions with checked signatures, and runs over
//! our own memory on the host or a GPU.
//!
//! `model` builds on this; nothing else does. Only these two modules name `ort`.

mod binding;
mod buffer;
#[cfg(test)]
mod device_tests;
mod environment;
mod gpu;
mod gpu_libraries;
mod kv_buffer;
mod placement;
mod provider;
mod session;
mod vendor_telemetry;

use std::io;
use std::path::PathBuf;

pub(crate) use self::binding::{Binding, Element, Part, TensorName};
pub(crate) use self::buffer::{Buffer, Pieces, Place};
pub use self::environment::{CpuSettings, Runtime};
pub use self::gpu::{DeviceFailure, Gpu};
pub use self::gpu_libraries::GpuLibraries;
pub(crate) use self::kv_buffer::{KvBuffer, KvLayerNames, KvShape};
pub use self::provider::{Provider, ProviderChoice, Providers};
pub(crate) use self::session::{CudaSettings, Expected, GraphSession, StageProvider, TensorRtSettings};
pub use self::vendor_telemetry::disable_vendor_telemetry;

/// An error of ONNX Runtime, or of its use.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The shared library is missing, or is too old.
    #[error(
        "cannot load ONNX Runtime from {path}: {reason}; run `make setup`, or set ORT_DYLIB_PATH to libonnxruntime.so 1.24 or newer"
    )]
    Library {
        /// The path tried.
        path: PathBuf,
        /// The error of the loader.
        reason: String,
    },
    /// ONNX Runtime's telemetry is on.
    #[error(
        "ORT_DISABLE_TELEMETRY is not 1, so ONNX Runtime would report this machine to its maker; set it, or call \
        `blip2::runtime::disable_vendor_telemetry` first in `main`"
    )]
    VendorTelemetry,
    /// The process-wide environment could not be made.
    #[error("cannot start ONNX Runtime: {source}")]
    Environment {
        /// ONNX Runtime's reason.
        source: ort::Error,
    },
    /// A graph does not load.
    #[error("cannot load the {graph} from {path} on {provider}: {source}; {}", load_remedy(*.provider))]
    Load {
        /// The stage.
        graph: &'static str,
        /// The ONNX file.
        path: PathBuf,
        /// The provider.
        provider: Provider,
        /// ONNX Runtime's reason.
        source: ort::Error,
    },
    /// A graph has other inputs or outputs than the manifest says.
    #[error("the {graph} in {path} does not fit the manifest: {detail}; export the bundle again")]
    Signature {
        /// The stage.
        graph: &'static str,
        /// The ONNX file.
        path: PathBuf,
        /// The first difference.
        detail: String,
    },
    /// The memory of the KV cache cannot be allocated.
    #[error(
        "cannot map a KV cache of {slots} slots with {max_len} positions each: {source}; lower --slots or --max-len"
    )]
    CacheMemory {
        /// Rows decoded together.
        slots: usize,
        /// Positions of a row.
        max_len: usize,
        /// The system's reason.
        source: io::Error,
    },
    /// The bundle, or the choice of providers, is not supported.
    #[error("{what}; {remedy}")]
    Unsupported {
        /// The unsupported combination.
        what: String,
        /// The remedy.
        remedy: String,
    },
    /// The GPU, its driver or its libraries cannot be used.
    #[error("{reason}; {remedy}")]
    Gpu {
        /// The fault.
        reason: String,
        /// The remedy.
        remedy: String,
    },
    /// A provider leaves a part of the graph to the CPU.
    #[error(
        "the provider {provider} does not run all of the {graph}: {operators}; use a bundle that was exported for it by this \
        version (--target), or another provider for this stage"
    )]
    Stray {
        /// The stage.
        graph: &'static str,
        /// The provider.
        provider: Provider,
        /// The operators left over, with their number.
        operators: String,
    },
    /// The GPU failed, or has no memory left.
    #[error("{what} failed: {source}")]
    Device {
        /// The operation.
        what: String,
        /// The error of the driver.
        source: DeviceFailure,
    },
    /// The rows of the KV cache are lost.
    #[error("rows are lost: {reason}; restart the service")]
    Broken {
        /// The failure.
        reason: String,
    },
    /// The folder of TensorRT's engines cannot be made.
    #[error("cannot make the folder {path} for TensorRT's engines: {source}; give another --tensorrt-cache")]
    EngineCache {
        /// The folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A run failed.
    #[error("the {graph} failed to run: {source}")]
    Run {
        /// The stage.
        graph: &'static str,
        /// ONNX Runtime's reason.
        source: ort::Error,
    },
}

fn load_remedy(provider: Provider) -> &'static str {
    if provider.is_gpu() {
        "look the reason up in docs/gpu.md, and check the bundle with `blip2 verify --provider cpu`"
    } else {
        "check the bundle with `blip2 verify`"
    }
}
