//! Arithmetic on logits: from the rows of a request to their next tokens, in the semantics of
//! transformers.
//!
//! Pure: no ONNX Runtime, no I/O, no clock. A [`Task`] is the work of one request on the decoder:
//! greedy search, sampling, beam search, or the likelihood of given answers. `engine` gives it the
//! logits of its rows after each step, and it returns the rows of the next step with their tokens.
//! A logits processor is one file in `processors`, which also reads its parameters.

mod beam_search;
mod draft;
mod logits;
mod params;
mod processors;
mod ranking;
mod reader;
mod sampling;
mod stopping;
mod task;

#[cfg(test)]
mod beam_search_tests;
#[cfg(test)]
mod sampling_tests;

pub use self::draft::{Alternative, DecidedToken, Sequence};
pub use self::logits::GenerationError;
pub use self::params::{EarlyStopping, GenerationParams};
pub use self::ranking::CandidateLikelihood;
pub use self::reader::ParamError;
#[cfg(test)]
pub(crate) use self::sampling_tests::letters;
pub use self::stopping::StopReason;
pub use self::task::{Continuation, Origin, Outcome, Task};

/// The tokenizer, as generation needs it.
pub trait Vocabulary: Send + Sync {
    /// Returns the id that ends an answer.
    fn eos_token_id(&self) -> u32;

    /// Returns the ids of a text without a start token. Special strings are encoded as plain text.
    fn encode(&self, text: &str) -> Vec<u32>;

    /// Returns the bytes of a token; empty for special tokens and unknown ids.
    fn bytes(&self, id: u32) -> &[u8];
}
