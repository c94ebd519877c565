//! A job on its way to the workers: as asked, as prepared, as queued.

use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use super::ahead::AheadTicket;
use super::image_table::Image;
use super::stage::{Stage, Timings};
use super::{EngineError, Permit};
use crate::generation::{DecidedToken, GenerationParams, Outcome, Task};

/// One row to score, as asked.
#[derive(Debug, Clone)]
pub struct ScoreJob {
    /// What is asked about. Several jobs may share an image, which is then encoded once.
    pub image: Image,
    /// The prompt; empty for a caption.
    pub text: String,
    /// How to generate.
    pub params: GenerationParams,
    /// When an answer is of no use any more; `None` for the engine's own limit.
    pub deadline: Option<Instant>,
}

/// Given answers to rank by their likelihood behind image and prompt.
#[derive(Debug, Clone)]
pub struct RankJob {
    /// What is asked about.
    pub image: Image,
    /// The prompt; empty to rank captions.
    pub text: String,
    /// The answers; at least one. A space is set between a prompt that does not end in white space and a candidate that
    /// does not begin with it, as the model would write it.
    pub candidates: Vec<String>,
    /// Whether the end token counts as a candidate's last one: "cat" is then not favoured over "cat food".
    pub with_end_token: bool,
    /// When the ranking is of no use any more; `None` for the engine's own limit.
    pub deadline: Option<Instant>,
}

/// A job that the model can read.
#[derive(Debug)]
pub struct PreparedJob {
    pub(super) image: Image,
    pub(super) input_ids: Vec<i64>,
    pub(super) task: Task,
    pub(super) warnings: Vec<String>,
    pub(super) deadline: Instant,
}

impl PreparedJob {
    /// Tokens of the text, the start token included. The image's positions come on top.
    #[must_use]
    pub fn text_tokens(&self) -> usize {
        self.input_ids.len()
    }
}

/// What the decoder worker sends back: plain numbers, so that text is made on the caller's thread.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) outcome: Outcome,
    pub(super) timings: Timings,
}

/// A job in a worker's hands. Dropping it unanswered tells the caller that the engine has stopped.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) image: Image,
    pub(super) input_ids: Vec<i64>,
    pub(super) task: Task,
    pub(super) timings: Timings,
    deadline: Instant,
    reply: oneshot::Sender<Result<Finished, EngineError>>,
    tokens: Option<mpsc::UnboundedSender<DecidedToken>>,
    published: usize,
    since: Instant,
    /// Held from the image's encoding to the first piece of the prompt.
    pub(super) ahead: Option<AheadTicket>,
    _permit: Permit,
}

impl Queued {
    /// Decided tokens are sent to `tokens`, if there is one: as many as the task may make, so it needs no other bound.
    pub(super) fn new(
        job: PreparedJob,
        permit: Permit,
        reply: oneshot::Sender<Result<Finished, EngineError>>,
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

    /// Nobody waits for the answer any more: the caller has gone, or its time is over.
    pub(super) fn is_over(&self) -> bool {
        self.reply.is_closed() || Instant::now() >= self.deadline
    }

    /// Ends a job that is over; a caller who is still there learns why.
    pub(super) fn abandon(self) {
        self.fail(EngineError::DeadlineExceeded);
    }

    /// Ends the wait for a slot.
    pub(super) fn picked_up(&mut self) {
        self.ahead = None;
        self.timings[Stage::Queue] += self.since.elapsed();
    }

    /// Its image is encoded, which took so long, and it waits for a slot.
    pub(super) fn encoded(&mut self, image: Timings) {
        // Preprocessing came before the wait.
        let encoding = image[Stage::VisionEncoder] + image[Stage::Qformer];
        self.timings[Stage::Queue] += self.since.elapsed().saturating_sub(encoding);
        self.timings += image;
        self.since = Instant::now();
    }

    /// Sends what was decided since the last time.
    pub(super) fn publish(&mut self) {
        let Some(tokens) = &self.tokens else { return };
        for token in self.task.decided(self.published) {
            self.published += 1;
            let _ = tokens.send(token); // a caller who has gone is noticed by `is_over`
        }
    }

    pub(super) fn finish(self) {
        let finished = Finished { outcome: self.task.into_outcome(), timings: self.timings };
        let _ = self.reply.send(Ok(finished)); // a caller who has gone needs no answer
    }

    pub(super) fn fail(self, error: EngineError) {
        let _ = self.reply.send(Err(error));
    }
}
