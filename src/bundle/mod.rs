//! Bundles: one checkpoint at one precision for one target, in a folder. This module finds, parses
//! and checks them.
//!
//! All other modules take every dimension, name and id from the [`Manifest`]. This one opens files
//! and computes hashes, and does not know ONNX Runtime.

mod check;
mod find;
mod golden;
mod manifest;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub use self::check::DataCheck;
pub use self::find::{MANIFEST_FILE, find_manifest};
pub use self::golden::GoldenCase;
pub use self::manifest::{
    Checkpoint, DecoderInputs, DecoderManifest, DecoderOutputs, FileEntry, GenerationDefaults, ImageManifest, KvDtype,
    KvKind, Manifest, Precision, Precisions, QFormerInputs, QFormerManifest, QFormerOutputs, Target, TokenizerManifest,
    VisionEncoderInputs, VisionEncoderManifest, VisionEncoderOutputs,
};

/// The reason for which a folder cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// There is no `manifest.json` in the folder or below it.
    #[error(
        "no bundle in {path}: found no manifest.json there or below ({seen}); name a bundle's folder with --model; in a \
        container, mount it with `docker run -v FOLDER:{path}:ro`"
    )]
    NotFound {
        /// Where the search began.
        path: PathBuf,
        /// The content of the folder.
        seen: String,
    },
    /// There is more than one `manifest.json`.
    #[error("{path} holds more than one bundle ({found}); name one of them with --model")]
    Ambiguous {
        /// Where the search began.
        path: PathBuf,
        /// The bundles found.
        found: String,
    },
    /// A file of the bundle cannot be read.
    #[error("cannot read {path}: {source}; copy or export the bundle again")]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// A JSON file of the bundle does not parse.
    #[error(
        "{path} is not in the format of this version: {source}; export the bundle again with the blip2_export of this version"
    )]
    Parse {
        /// The file.
        path: PathBuf,
        /// The error of the parser, with its position.
        source: serde_json::Error,
    },
    /// The manifest contradicts itself.
    #[error("{path}: {reason}; export the bundle again")]
    Invalid {
        /// The manifest.
        path: PathBuf,
        /// The contradiction.
        reason: String,
    },
    /// The size or hash of a file differs from the manifest.
    #[error("{path} is damaged: {detail}; copy or export the bundle again")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The expected and the found size or hash.
        detail: String,
    },
}

/// An opened bundle: its folder and its manifest.
#[derive(Debug, Clone)]
pub struct Bundle {
    root: PathBuf,
    manifest: Manifest,
}

impl Bundle {
    /// Finds exactly one bundle at or below `path`, and parses its manifest. Nothing is hashed yet.
    ///
    /// # Errors
    /// [`BundleError`] when there is no bundle, more than one, or the manifest is invalid.
    pub fn open(path: &Path) -> Result<Self, BundleError> {
        let manifest_path = find_manifest(path)?;
        let manifest: Manifest = read_json(&manifest_path)?;
        manifest.check().map_err(|reason| BundleError::Invalid { path: manifest_path.clone(), reason })?;
        let root = manifest_path.parent().map(Path::to_path_buf).unwrap_or_default();
        Ok(Self { root, manifest })
    }

    /// Returns the folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Returns the path of a file of the manifest.
    #[must_use]
    pub fn path(&self, file: &str) -> PathBuf {
        self.root.join(file)
    }

    /// Reads a whole file of the bundle.
    ///
    /// # Errors
    /// [`BundleError::Read`].
    pub fn read(&self, file: &str) -> Result<Vec<u8>, BundleError> {
        let path = self.path(file);
        fs::read(&path).map_err(|source| BundleError::Read { path, source })
    }
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, BundleError> {
    let bytes = fs::read(path).map_err(|source| BundleError::Read { path: path.to_path_buf(), source })?;
    serde_json::from_slice(&bytes).map_err(|source| BundleError::Parse { path: path.to_path_buf(), source })
}
