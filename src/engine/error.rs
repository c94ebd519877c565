//! What can go wrong between a job and its answer: the job's own faults, and everything else.

use std::sync::Arc;
use std::time::Duration;

use super::image_store::StoreError;
use super::traits::ModelError;
use crate::generation::GenerationError;
use crate::image::ImageError;
use crate::text::TextError;

/// Why a job cannot be run. The fault lies with the job.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The image; shared by all who sent it.
    #[error(transparent)]
    Image(Arc<ImageError>),
    /// The prompt.
    #[error(transparent)]
    Text(#[from] TextError),
    /// Prompt and new tokens do not fit.
    #[error(
        "the prompt takes {prompt_len} positions (the image included) and max_new_tokens is {max_new_tokens}, which is \
         more than the {max_len} there are; shorten the text or lower max_new_tokens"
    )]
    TooLong {
        /// Positions of image and prompt.
        prompt_len: usize,
        /// New tokens asked for.
        max_new_tokens: usize,
        /// Positions of a row.
        max_len: usize,
    },
    /// More rows than there are slots.
    #[error(
        "num_beams and num_return_sequences ask for {rows} rows, but at most {slots} are decoded together; lower them or \
         start the service with more --slots"
    )]
    TooManyRows {
        /// Rows asked for.
        rows: usize,
        /// Slots.
        slots: usize,
    },
    /// More positions than there is memory for.
    #[error(
        "{rows} rows of up to {row_len} positions need more than the {kv_tokens} there is memory for; lower num_beams, \
         num_return_sequences or max_new_tokens, shorten the text, or start the service with more --kv-tokens"
    )]
    TooManyPositions {
        /// Rows asked for.
        rows: usize,
        /// Positions of a row: prompt and new tokens.
        row_len: usize,
        /// Positions of all rows together.
        kv_tokens: usize,
    },
    /// Candidates to rank are missing, too many, or one of them is at fault.
    #[error("candidates: {0}")]
    Candidates(String),
}

/// Why the engine gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The job is at fault.
    #[error(transparent)]
    Rejected(#[from] JobError),
    /// A stored image is not there, or cannot be stored.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No place in the queue now, or none from which an answer would come in time.
    #[error("the service is busy, and the answer would not be ready in time; try again in {} s", retry_after.as_secs_f64().ceil())]
    Overloaded {
        /// When there may be a place.
        retry_after: Duration,
    },
    /// More rows than the queue can ever hold.
    #[error("the request has {rows} rows, but at most {capacity} are taken at once; send fewer rows")]
    TooManyRows {
        /// Rows asked for.
        rows: usize,
        /// Rows there is room for.
        capacity: usize,
    },
    /// The answer did not come in time.
    #[error("the answer was not ready in time; ask for fewer tokens or rows, or allow more time")]
    DeadlineExceeded,
    /// The model failed.
    #[error("{stage} failed")]
    Model {
        /// What was being done.
        stage: &'static str,
        /// Why it failed; shared by the rows of a step.
        #[source]
        source: Arc<ModelError>,
    },
    /// The model ran, but its logits are of no use.
    #[error("generation failed")]
    Generation(#[from] GenerationError),
    /// The new tokens do not decode to text.
    #[error("the answer cannot be decoded")]
    Detokenize(#[source] TextError),
    /// A worker thread has ended, so no job can be answered any longer. Nothing else is reported as this.
    #[error("a worker of the engine has ended; restart the service")]
    Stopped,
}
