//! Text: turns prompts into token ids, and token ids into answers, whole or piece by piece.
//!
//! Pure: takes the bytes of `tokenizer.json` and the special ids of the bundle's manifest, and
//! reads no file, clock, environment or global.

mod doctor;
mod error;
mod prompt;
mod stream;
mod strip;
mod token_bytes;
mod tokenizer;
mod visible_text;

pub use doctor::{PromptWarning, diagnose};
pub use error::TextError;
pub use prompt::{Prompt, Turn};
pub use stream::TextStream;
pub use tokenizer::{Encoded, SpecialIds, Tokenizer};
pub use visible_text::{VisiblePiece, VisibleText};

#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod opt_tests;
#[cfg(test)]
mod stream_tests;
