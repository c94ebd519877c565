//! One ONNX Runtime environment per process, with one thread pool for all sessions.

use std::num::NonZeroUsize;
use std::path::Path;

use ort::environment::{Environment, GlobalThreadPoolOptions};
use ort::logging::LogLevel;

use super::RuntimeError;

/// The loaded library and its environment. Made once, kept until the process ends; clones are handles.
#[derive(Debug, Clone)]
pub struct Runtime {
    environment: Environment,
    threads: NonZeroUsize,
}

impl Runtime {
    /// Loads the library and starts a pool of `threads`. Must come before any other use of `ort`, once a process.
    ///
    /// # Errors
    /// [`RuntimeError::Library`] when the file is missing or older than 1.24, [`RuntimeError::Environment`] else.
    pub fn load(library: &Path, threads: NonZeroUsize) -> Result<Self, RuntimeError> {
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
            .with_intra_threads(threads.get())
            .and_then(|pool| pool.with_spin_control(true))
            .map_err(|source| RuntimeError::Environment { source })?;
        let environment = builder
            .with_name("blip2")
            .with_telemetry(false)
            .with_global_thread_pool(pool)
            .build()
            .map_err(|source| RuntimeError::Environment { source })?;
        environment.set_log_level(LogLevel::Warning);
        Ok(Self { environment, threads })
    }

    pub(super) fn environment(&self) -> &Environment {
        &self.environment
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
