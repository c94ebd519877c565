//! Text: a prompt becomes token ids, token ids become an answer.
//!
//! Used by `engine`, by the command line and by the scoring routes. This module is pure: it takes the bytes of
//! `tokenizer.json` and the special ids of the bundle's manifest, and reads no file, clock, environment or global.

mod error;
mod strip;
mod tokenizer;

pub use error::TextError;
pub use tokenizer::{Encoded, SpecialIds, Tokenizer};

#[cfg(test)]
mod golden_tests;
