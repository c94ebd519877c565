//! What can be wrong with a tokenizer or a text, for callers that answer a client or refuse a bundle.

use std::error::Error;

/// Why a tokenizer could not be made or a text not encoded.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// The bytes are no `tokenizer.json`.
    #[error("the tokenizer cannot be read, check tokenizer.json of the bundle")]
    Unreadable {
        /// What the library said.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The tokenizer is not byte-level, so the rules of this module do not hold for it.
    #[error("the tokenizer has no byte-level {part}, only tokenizers in the manner of OPT are supported")]
    NotByteLevel {
        /// `pre-tokenizer` or `decoder`.
        part: &'static str,
    },
    /// The manifest names an id that the tokenizer does not know.
    #[error("{name} {id} is not in the tokenizer, check manifest.json against tokenizer.json")]
    UnknownId {
        /// The field of the manifest.
        name: &'static str,
        /// Its value.
        id: u32,
    },
    /// The end token is one of the ids that answers never show, so no answer could be told from nothing.
    #[error("{name} {id} is also the id of another special token, check manifest.json")]
    AmbiguousId {
        /// The field of the manifest.
        name: &'static str,
        /// Its value.
        id: u32,
    },
    /// The text cannot fit; found before encoding where its length alone says so.
    #[error("the text has {bytes} bytes and needs more than {max_tokens} tokens, send a shorter one")]
    TooLong {
        /// Length of the text.
        bytes: usize,
        /// Most tokens allowed, the leading one included.
        max_tokens: usize,
    },
    /// The library refused the text.
    #[error("the text cannot be encoded")]
    Unencodable {
        /// What the library said.
        source: Box<dyn Error + Send + Sync>,
    },
}
