//! ONNX Runtime: the environment, sessions with their signatures checked, and runs over a KV cache in place.
//!
//! `model` builds on this; nothing else does. Only these two modules name `ort`.

mod environment;
mod kv_binding;
mod session;

use std::io;
use std::path::PathBuf;

pub use self::environment::{Provider, Runtime};
pub(crate) use self::kv_binding::{KvBinding, KvBuffer, KvLayerNames};
pub(crate) use self::session::{Expected, GraphSession, f32_tensor};

/// Why ONNX Runtime could not be used as asked.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The shared library is missing, or is too old.
    #[error(
        "cannot load ONNX Runtime from {path}: {reason}; run `make setup`, or set ORT_DYLIB_PATH to libonnxruntime.so 1.24 or newer"
    )]
    Library {
        /// The path tried.
        path: PathBuf,
        /// What the loader said.
        reason: String,
    },
    /// The process-wide environment could not be made.
    #[error("cannot start ONNX Runtime: {source}")]
    Environment {
        /// ONNX Runtime's reason.
        source: ort::Error,
    },
    /// A graph does not load.
    #[error("cannot load the {graph} from {path}: {source}; check the bundle with `blip2 verify`")]
    Load {
        /// The stage.
        graph: &'static str,
        /// The ONNX file.
        path: PathBuf,
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
    /// The system does not grant the KV cache's memory.
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
    /// The bundle asks for what this build cannot do.
    #[error("{what}; export the bundle again for target cpu")]
    Unsupported {
        /// What is asked for, and what can be done.
        what: String,
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
