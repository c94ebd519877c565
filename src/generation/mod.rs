//! Arithmetic on logits: from the rows of a request to their next tokens, in the semantics of transformers.
//!
//! Pure: no ONNX Runtime, no I/O, no clock. A [`Task`] is what one request wants of the decoder: greedy search, sampling,
//! beam search, or the likelihood of given answers. `engine` feeds it the logits of its rows after each step, and it says
//! which rows go on with which token. A logits processor is one file in `processors`, which also reads its parameters.

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

/// What generation must know of a tokenizer.
pub trait Vocabulary: Send + Sync {
    /// The id that ends an answer.
    fn eos_token_id(&self) -> u32;

    /// The ids of a text without a start token, special strings as plain text.
    fn encode(&self, text: &str) -> Vec<u32>;

    /// The bytes that a token stands for; empty for special tokens and unknown ids.
    fn bytes(&self, id: u32) -> &[u8];
}
