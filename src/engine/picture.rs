//! The identity of a picture: equal files are the same picture.

use sha2::{Digest as _, Sha256};

/// A hash of a picture file's bytes. What is made of a picture depends on these, and on bundle and preprocessing, which are
/// the same for the whole life of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct PictureKey([u8; 32]);

impl PictureKey {
    pub(super) fn of(file: &[u8]) -> Self {
        Self(Sha256::digest(file).into())
    }
}
