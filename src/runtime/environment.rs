//! One ONNX Runtime environment per process, with one thread pool for all sessions.

use std::num::NonZeroUsize;
use std::path::Path;

use ort::environment::{Environment, GlobalThreadPoolOptions};
use ort::logging::LogLevel;

use super::{RuntimeError, vendor_telemetry};

/// ONNX Runtime's use of the CPU. The defaults were the fastest (docs/performance.md).
#[derive(Debug, Clone)]
pub struct CpuSettings {
    /// The threads of the pool, with the calling one.
    pub threads: NonZeroUsize,
    /// Whether threads spin for a moment before they sleep.
    pub spin: bool,
    /// The affinities of all threads but the first, in the format of ONNX Runtime: processors,
    /// counted from 1, such as `2;3,4`.
    pub affinity: Option<String>,
    /// Whether sessions keep the memory of a run for the next.
    pub arena: bool,
}

impl CpuSettings {
    /// Returns the defaults for this number of threads.
    #[must_use]
    pub fn with_threads(threads: NonZeroUsize) -> Self {
        Self { threads, spin: true, affinity: None, arena: true }
    }
}

/// The loaded library and its environment. It lives until the process ends; clones are handles.
#[derive(Debug, Clone)]
pub struct Runtime {
    environment: Environment,
    threads: NonZeroUsize,
    arena: bool,
}

impl Runtime {
    /// Loads the library and starts its threads. Must be called once, before any other use of
    /// `ort`.
    ///
    /// # Errors
    /// [`RuntimeError::VendorTelemetry`] unless it is turned off, [`RuntimeError::Library`] when
    /// the file is missing or older than 1.24, [`RuntimeError::Environment`] otherwise.
    pub fn load(library: &Path, cpu: &CpuSettings) -> Result<Self, RuntimeError> {
        vendor_telemetry::require_disabled()?;
        // Checked first, because the loader's error has no reason.
        if !library.is_file() {
            let reason = "no such file".to_owned();
            return Err(RuntimeError::Library { path: library.to_path_buf(), reason });
        }
        let builder = ort::init_from(library)
            .map_err(|error| RuntimeError::Library { path: library.to_path_buf(), reason: format!("{error:?}") })?;
        // Spinning between operators makes a run 8 % shorter (benches/results). It takes no cores
        // from others, because the engine's workers take turns, and ends soon after a run.
        let pool = GlobalThreadPoolOptions::default()
            .with_intra_threads(cpu.threads.get())
            .and_then(|pool| pool.with_spin_control(cpu.spin))
            .and_then(|pool| cpu.affinity.iter().try_fold(pool, GlobalThreadPoolOptions::with_intra_affinity))
            .map_err(|source| RuntimeError::Environment { source })?;
        let environment = builder
            .with_name("blip2")
            .with_telemetry(false)
            .with_global_thread_pool(pool)
            .build()
            .map_err(|source| RuntimeError::Environment { source })?;
        environment.set_log_level(LogLevel::Warning);
        Ok(Self { environment, threads: cpu.threads, arena: cpu.arena })
    }

    pub(super) fn environment(&self) -> &Environment {
        &self.environment
    }

    pub(super) fn arena(&self) -> bool {
        self.arena
    }

    /// Returns the number of threads, which all sessions share.
    #[must_use]
    pub fn threads(&self) -> NonZeroUsize {
        self.threads
    }

    /// Returns an id of this build of the library: the commit, if the library reports it.
    #[must_use]
    pub fn build_id(&self) -> &'static str {
        let about = ort::info();
        let commit = about.split_once("git-commit-id=").map(|(_, commit)| commit);
        commit.and_then(|commit| commit.split([',', ' ']).next()).unwrap_or(about)
    }

    /// Returns the version and build that the library reports.
    #[must_use]
    pub fn version(&self) -> &'static str {
        ort::info()
    }
}
