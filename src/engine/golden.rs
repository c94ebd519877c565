//! Replays a bundle's golden answers. A service whose answers differ does not become ready.

use super::{Engine, EngineError};
use crate::bundle::GoldenCase;

/// A golden case that failed.
#[derive(Debug, thiserror::Error)]
pub enum GoldenError {
    /// The engine returned an error.
    #[error("golden case {name} was not answered: {source}")]
    Failed {
        /// The name of the case.
        name: String,
        /// The error.
        source: EngineError,
    },
    /// The answer differs.
    #[error("golden case {name} should give {expected:?} ({expected_ids:?}), but gives {found:?} ({found_ids:?})")]
    Different {
        /// The name of the case.
        name: String,
        /// The reference's answer.
        expected: String,
        /// The reference's tokens.
        expected_ids: Vec<u32>,
        /// This machine's answer.
        found: String,
        /// This machine's tokens.
        found_ids: Vec<u32>,
    },
}

/// Runs one case, and compares the token ids with those of the reference.
///
/// # Errors
/// [`GoldenError`].
pub fn replay(engine: &Engine, case: &GoldenCase) -> Result<(), GoldenError> {
    let params = engine.default_params(case.max_new_tokens);
    let answer = engine.score(&case.image, &case.text, params);
    let answer = answer.map_err(|source| GoldenError::Failed { name: case.name.clone(), source })?.best;
    if answer.token_ids == case.token_ids {
        return Ok(());
    }
    Err(GoldenError::Different {
        name: case.name.clone(),
        expected: case.answer.clone(),
        expected_ids: case.token_ids.clone(),
        found: answer.text,
        found_ids: answer.token_ids,
    })
}
