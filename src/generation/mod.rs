//! Arithmetic on logits: from a row's logits to its next token, in the semantics of transformers.
//!
//! Pure: no ONNX Runtime, no I/O, no clock. A [`Row`] is one answer in the making; `engine` feeds it the logits of each
//! step. Greedy search is the one method so far; other methods take the place of `greedy`, and every method shares
//! the `processors`.

mod greedy;
mod params;
mod processors;
mod row;

pub use self::params::{GenerationParams, ParamError};
pub use self::row::{GenerationError, Row, StopReason};
