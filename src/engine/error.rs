//! The errors of jobs: faults of the job itself, and failures of the engine.

use std::sync::Arc;
use std::time::Duration;

use super::image_store::StoreError;
use super::traits::ModelError;
use crate::generation::GenerationError;
use crate::image::ImageError;
use crate::text::TextError;

/// A fault of a job, which can never run.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The image cannot be used. All jobs with this image share the error.
    #[error(transparent)]
    Image(Arc<ImageError>),
    /// The prompt cannot be used.
    #[error(transparent)]
    Text(#[from] TextError),
    /// Prompt and new tokens exceed a row.
    #[error(
        "the prompt takes {prompt_len} positions (the image included) and max_new_tokens is {max_new_tokens}, but a row has \
         {max_len} positions; shorten the text or lower max_new_tokens"
    )]
    TooLong {
        /// Positions of image and prompt.
        prompt_len: usize,
        /// New tokens requested.
        max_new_tokens: usize,
        /// Positions of a row.
        max_len: usize,
    },
    /// The job needs more rows than there are slots.
    #[error(
        "num_beams and num_return_sequences ask for {rows} rows, but at most {slots} are decoded together; lower them or \
         start the service with more --slots"
    )]
    TooManyRows {
        /// Rows requested.
        rows: usize,
        /// Slots of the decoder.
        slots: usize,
    },
    /// The job needs more positions than there is memory for.
    #[error(
        "{rows} rows of up to {row_len} positions need more than the {kv_tokens} there is memory for; lower num_beams, \
         num_return_sequences or max_new_tokens, shorten the text, or start the service with more --kv-tokens"
    )]
    TooManyPositions {
        /// Rows requested.
        rows: usize,
        /// Positions of a row: prompt and new tokens.
        row_len: usize,
        /// Positions of all rows together.
        kv_tokens: usize,
    },
    /// Candidates to rank are missing, too many, or one of them cannot be used.
    #[error("candidates: {0}")]
    Candidates(String),
}

/// An error in place of an answer.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The job can never run.
    #[error(transparent)]
    Rejected(#[from] JobError),
    /// An image cannot be stored, or is not stored.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The queue is full, or too long for the deadline.
    #[error("the service is busy, and the answer would not be ready in time; try again in {} s", retry_after.as_secs_f64().ceil())]
    Overloaded {
        /// The estimated time until the request would be admitted.
        retry_after: Duration,
    },
    /// The request has more rows than the queue.
    #[error("the request has {rows} rows, but at most {capacity} are accepted at once; send fewer rows")]
    TooManyRows {
        /// Rows requested.
        rows: usize,
        /// Rows of the queue.
        capacity: usize,
    },
    /// The deadline passed before the answer was ready.
    #[error("the answer was not ready in time; ask for fewer tokens or rows, or allow more time")]
    DeadlineExceeded,
    /// The model failed.
    #[error("{stage} failed")]
    Model {
        /// The run that failed.
        stage: &'static str,
        /// The cause. All jobs of the run share it.
        #[source]
        source: Arc<ModelError>,
    },
    /// No token can be chosen from the model's logits.
    #[error("generation failed")]
    Generation(#[from] GenerationError),
    /// The new tokens cannot be decoded to text.
    #[error("the answer cannot be decoded")]
    Detokenize(#[source] TextError),
    /// A worker thread has ended, so no job can be answered any longer. Nothing else is reported as
    /// this.
    #[error("a worker of the engine has ended; restart the service")]
    Stopped,
}
