//! The errors of tokenizers and texts.

use std::error::Error;

/// An error of a tokenizer or a text.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// The file is not a valid `tokenizer.json`.
    #[error("the tokenizer cannot be read; check tokenizer.json of the bundle")]
    Unreadable {
        /// The error of the library.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The tokenizer is not byte-level, as this module requires.
    #[error("the tokenizer has no byte-level {part}; only byte-level tokenizers like OPT's are supported")]
    NotByteLevel {
        /// `pre-tokenizer` or `decoder`.
        part: &'static str,
    },
    /// The manifest names an id that the tokenizer does not know.
    #[error("{name} {id} is not in the tokenizer; check manifest.json against tokenizer.json")]
    UnknownId {
        /// The field of the manifest.
        name: &'static str,
        /// Its value.
        id: u32,
    },
    /// The end token has the id of a token that answers never show.
    #[error("{name} {id} is also the id of another special token; check manifest.json")]
    AmbiguousId {
        /// The field of the manifest.
        name: &'static str,
        /// Its value.
        id: u32,
    },
    /// The text has too many tokens. Texts that are far too long are rejected before they are
    /// encoded.
    #[error("the text has {bytes} bytes and needs more than {max_tokens} tokens; send a shorter one")]
    TooLong {
        /// The length of the text.
        bytes: usize,
        /// The most tokens, the start token included.
        max_tokens: usize,
    },
    /// The library failed to encode the text.
    #[error("the text cannot be encoded")]
    Unencodable {
        /// The error of the library.
        source: Box<dyn Error + Send + Sync>,
    },
}
