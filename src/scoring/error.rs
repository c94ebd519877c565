//! Why rows were not scored. A protocol makes its own status and body of it.

use crate::engine::{EngineError, JobError, StoreError};

/// Why there are no answers.
#[derive(Debug, thiserror::Error)]
pub enum ScoringError {
    /// The caller's rows are at fault; the text names the place.
    #[error("{0}")]
    Invalid(String),
    /// A table lacks a column.
    #[error("{table}: columns holds no {column:?}; for captions send \"image\" as the only column")]
    MissingColumn {
        /// The table's name in the caller's words.
        table: &'static str,
        /// The column.
        column: &'static str,
    },
    /// A stored image is unknown or has expired; the text names the place.
    #[error("{0}")]
    UnknownImage(String),
    /// All fetches that may run at once are taken.
    #[error("{0}")]
    FetchesBusy(String),
    /// The scoring timeout ended before the engine's own deadline.
    #[error("Scoring timeout after {limit_ms} ms")]
    TimedOut {
        /// The limit.
        limit_ms: u64,
    },
    /// The engine gave no answer.
    #[error(transparent)]
    Engine(EngineError),
}

impl ScoringError {
    /// Puts the place of the fault in front of its text.
    #[must_use]
    pub fn at(self, place: &str) -> Self {
        match self {
            Self::Invalid(reason) => Self::Invalid(format!("{place}: {reason}")),
            Self::Engine(EngineError::Store(error @ StoreError::Unknown(_))) => {
                Self::UnknownImage(format!("{place}: {error}"))
            }
            other => other,
        }
    }
}

impl From<EngineError> for ScoringError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Rejected(error) => error.into(),
            other => Self::Engine(other),
        }
    }
}

impl From<JobError> for ScoringError {
    fn from(error: JobError) -> Self {
        Self::Invalid(error.to_string())
    }
}
