//! One ONNX Runtime environment per process, with one thread pool for all sessions.

use std::num::NonZeroUsize;
use std::path::Path;

use ort::environment::{Environment, GlobalThreadPoolOptions};
use ort::logging::LogLevel;

use super::{RuntimeError, vendor_telemetry};

/// How ONNX Runtime uses the CPU. The defaults are what was fastest (docs/performance.md).
#[derive(Debug, Clone)]
pub struct CpuSettings {
    /// Threads of the pool, the caller's counted.
    pub threads: NonZeroUsize,
    /// Whether they wait for the next operator for a moment before they sleep.
    pub spin: bool,
    /// Where they run, as ONNX Runtime writes it: for each but the first the processors, counted from 1, as in `2;3,4`.
    pub affinity: Option<String>,
    /// Whether sessions keep the memory of a run for the next one.
    pub arena: bool,
}

impl CpuSettings {
    /// The defaults, on so many threads.
    #[must_use]
    pub fn with_threads(threads: NonZeroUsize) -> Self {
        Self { threads, spin: true, affinity: None, arena: true }
    }
}

/// The loaded library and its environment. Made once, kept until the process ends; clones are handles.
#[derive(Debug, Clone)]
pub struct Runtime {
    environment: Environment,
    threads: NonZeroUsize,
    arena: bool,
}

impl Runtime {
    /// Loads the library and starts its threads. Must come before any other use of `ort`, once a process.
    ///
    /// # Errors
    /// [`RuntimeError::VendorTelemetry`] unless it is turned off, [`RuntimeError::Library`] when the file is missing or older
    /// than 1.24, [`RuntimeError::Environment`] else.
    pub fn load(library: &Path, cpu: &CpuSettings) -> Result<Self, RuntimeError> {
        vendor_telemetry::require_disabled()?;
        // Checked first, because ONNX Runtime's loader says only that it failed.
        if !library.is_file() {
            let reason = "no such file".to_owned();
            return Err(RuntimeError::Library { path: library.to_path_buf(), reason });
        }
        let builder = ort::init_from(library)
            .map_err(|error| RuntimeError::Library { path: library.to_path_buf(), reason: format!("{error:?}") })?;
        // Threads that spin for a moment between two operators make a run 8 % shorter (benches/results). They have the
        // cores to themselves, because the engine's workers take turns, and sleep soon after a run.
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

    /// Threads of the pool that all sessions share.
    #[must_use]
    pub fn threads(&self) -> NonZeroUsize {
        self.threads
    }

    /// What tells this build of the library from others: the commit it was built from, where it says so.
    #[must_use]
    pub fn build_id(&self) -> &'static str {
        let about = ort::info();
        let commit = about.split_once("git-commit-id=").map(|(_, commit)| commit);
        commit.and_then(|commit| commit.split([',', ' ']).next()).unwrap_or(about)
    }

    /// What the library says of itself: version and build.
    #[must_use]
    pub fn version(&self) -> &'static str {
        ort::info()
    }
}
