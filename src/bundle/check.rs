//! Compares the files of a bundle with the sizes and hashes of its manifest.
//!
//! Small files are hashed before anything parses them. Data files are gigabytes, so they are hashed
//! while ONNX Runtime maps the same files. Both read through the page cache, so the disk is read
//! once, and hashing takes no further time. Callers must not rely on the weights before
//! [`DataCheck::join`].

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::panic::resume_unwind;
use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use super::{Bundle, BundleError, FileEntry};

/// The suffix of data files: the weights of a graph, which only ONNX Runtime reads.
const DATA_FILE_SUFFIX: &str = ".onnx.data";

/// The bytes to hash at a time: few enough for a core's cache, enough for the disk.
const CHUNK_BYTES: usize = 1 << 20;

impl Bundle {
    /// Compares the size of every file, and the hash of every file but the data files.
    ///
    /// # Errors
    /// [`BundleError::Read`] or [`BundleError::Damaged`], for the first file that differs.
    pub fn check_small_files(&self) -> Result<(), BundleError> {
        for (name, entry) in &self.manifest().files {
            self.check_size(name, entry)?;
        }
        let mut small_files = self.manifest().files.iter().filter(|(name, _)| !is_data_file(name));
        small_files.try_for_each(|(name, entry)| self.check_hash(name, entry).map(drop))
    }

    /// Starts to compare the hashes of the data files, each on its own thread: the hash of a file
    /// cannot be split.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn check_data_files_in_background(&self) -> io::Result<DataCheck> {
        let data_files = self.manifest().files.iter().filter(|(name, _)| is_data_file(name));
        let threads = data_files.map(|(name, entry)| {
            let bundle = self.clone();
            let name = name.clone();
            let entry = entry.clone();
            thread::Builder::new().name("bundle-check".into()).spawn(move || bundle.check_hash(&name, &entry))
        });
        Ok(DataCheck(threads.collect::<io::Result<_>>()?))
    }

    fn check_size(&self, name: &str, entry: &FileEntry) -> Result<(), BundleError> {
        let path = self.path(name);
        let bytes = fs::metadata(&path).map_err(|source| BundleError::Read { path: path.clone(), source })?.len();
        if bytes != entry.bytes {
            let detail = format!("{bytes} bytes instead of {}", entry.bytes);
            return Err(BundleError::Damaged { path, detail });
        }
        Ok(())
    }

    /// Compares the hash of a file. Returns the time it took.
    fn check_hash(&self, name: &str, entry: &FileEntry) -> Result<Duration, BundleError> {
        let path = self.path(name);
        let started = Instant::now();
        let found = sha256(&path).map_err(|source| BundleError::Read { path: path.clone(), source })?;
        if found != entry.sha256 {
            let detail = format!("sha256 {found} instead of {}", entry.sha256);
            return Err(BundleError::Damaged { path, detail });
        }
        let took = started.elapsed();
        tracing::debug!(file = name, bytes = entry.bytes, ms = took.as_millis(), "the hash agrees with the manifest");
        Ok(took)
    }
}

/// The data files that are being hashed.
#[derive(Debug)]
#[must_use = "the data files are checked only after `join`"]
pub struct DataCheck(Vec<JoinHandle<Result<Duration, BundleError>>>);

impl DataCheck {
    /// Waits for all files. Returns the time of the slowest one.
    ///
    /// # Errors
    /// [`BundleError::Read`] or [`BundleError::Damaged`], for the first file that differs.
    pub fn join(self) -> Result<Duration, BundleError> {
        self.0.into_iter().try_fold(Duration::ZERO, |slowest, thread| {
            let took = thread.join().unwrap_or_else(|panic| resume_unwind(panic))?;
            Ok(slowest.max(took))
        })
    }
}

fn is_data_file(name: &str) -> bool {
    name.ends_with(DATA_FILE_SUFFIX)
}

fn sha256(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut digest = Sha256::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match file.read(&mut chunk)? {
            0 => break,
            read => digest.update(&chunk[..read]),
        }
    }
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
