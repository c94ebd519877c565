//! The states of a job on its way to the workers: as requested, prepared, queued, finished.

use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use super::ahead::AheadTicket;
use super::image_table::Image;
use super::stage::{Stage, Timings};
use super::{EngineError, Permit};
use crate::generation::{DecidedToken, GenerationParams, Outcome, Task};

/// A request for an answer about an image.
#[derive(Debug, Clone)]
pub struct ScoreJob {
    /// The image. Several jobs may share one, which is then encoded once.
    pub image: Image,
    /// The prompt; empty for a caption.
    pub text: String,
    /// The generation parameters.
    pub params: GenerationParams,
    /// The deadline of the answer; `None` for the engine's timeout.
    pub deadline: Option<Instant>,
}

/// A request to rank given answers by their likelihood after image and prompt.
#[derive(Debug, Clone)]
pub struct RankJob {
    /// The image.
    pub image: Image,
    /// The prompt; empty to rank captions.
    pub text: String,
    /// The answers to rank; at least one. Between a prompt that does not end in white space and a
    /// candidate that does not begin with it, a space is inserted, as the model would write it.
    pub candidates: Vec<String>,
    /// Whether the end token counts as a candidate's last token. "cat" is then not favoured over
    /// "cat food".
    pub with_end_token: bool,
    /// The deadline of the ranking; `None` for the engine's timeout.
    pub deadline: Option<Instant>,
}

/// A job as token ids, checked against the limits of the decoder.
#[derive(Debug)]
pub struct PreparedJob {
    pub(super) image: Image,
    pub(super) input_ids: Vec<i64>,
    pub(super) task: Task,
    pub(super) warnings: Vec<String>,
    pub(super) deadline: Instant,
}

impl PreparedJob {
    /// Returns the number of tokens of the text, with the start token and without the image.
    #[must_use]
    pub fn text_tokens(&self) -> usize {
        self.input_ids.len()
    }
}

/// The result of a job as numbers. The caller's thread makes text of it.
#[derive(Debug)]
pub(super) struct FinishedJob {
    pub(super) outcome: Outcome,
    pub(super) timings: Timings,
}

/// A job that a worker owns. Dropping it without an answer reports [`EngineError::Stopped`] to the
/// caller.
#[derive(Debug)]
pub(super) struct QueuedJob {
    pub(super) image: Image,
    pub(super) input_ids: Vec<i64>,
    pub(super) task: Task,
    pub(super) timings: Timings,
    deadline: Instant,
    reply: oneshot::Sender<Result<FinishedJob, EngineError>>,
    tokens: Option<mpsc::UnboundedSender<DecidedToken>>,
    published: usize,
    since: Instant,
    /// Held from the encoding of the image until the job begins.
    pub(super) ahead: Option<AheadTicket>,
    _permit: Permit,
}

impl QueuedJob {
    /// Decided tokens are sent to `tokens`, if given. `max_new_tokens` bounds the channel.
    pub(super) fn new(
        job: PreparedJob,
        permit: Permit,
        reply: oneshot::Sender<Result<FinishedJob, EngineError>>,
        tokens: Option<mpsc::UnboundedSender<DecidedToken>>,
    ) -> Self {
        let PreparedJob { image, input_ids, task, warnings: _, deadline } = job;
        Self {
            image,
            input_ids,
            task,
            timings: Timings::default(),
            deadline,
            reply,
            tokens,
            published: 0,
            since: Instant::now(),
            ahead: None,
            _permit: permit,
        }
    }

    /// Returns whether the job was cancelled or has expired.
    pub(super) fn is_over(&self) -> bool {
        self.reply.is_closed() || Instant::now() >= self.deadline
    }

    /// Ends a cancelled or expired job.
    pub(super) fn abandon(self) {
        self.fail(EngineError::DeadlineExceeded);
    }

    /// Ends the wait for a slot, and returns the ticket.
    pub(super) fn picked_up(&mut self) {
        self.ahead = None;
        self.timings[Stage::Queue] += self.since.elapsed();
    }

    /// Records the times of the image, and begins the wait for a slot.
    pub(super) fn encoded(&mut self, image: Timings) {
        // Preprocessing came before the job was queued.
        let encoding = image[Stage::VisionEncoder] + image[Stage::Qformer];
        self.timings[Stage::Queue] += self.since.elapsed().saturating_sub(encoding);
        self.timings += image;
        self.since = Instant::now();
    }

    /// Sends the tokens that were decided since the last call.
    pub(super) fn publish(&mut self) {
        let Some(tokens) = &self.tokens else { return };
        for token in self.task.decided(self.published) {
            self.published += 1;
            let _ = tokens.send(token); // `is_over` notices a cancelled caller
        }
    }

    pub(super) fn finish(self) {
        let finished = FinishedJob { outcome: self.task.into_outcome(), timings: self.timings };
        let _ = self.reply.send(Ok(finished)); // a cancelled caller needs no answer
    }

    pub(super) fn fail(self, error: EngineError) {
        let _ = self.reply.send(Err(error));
    }
}
