//! A job on its way: as asked, as prepared, as queued, and the answer that comes back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::oneshot;

use super::picture::PictureKey;
use super::traits::ModelError;
use super::{Frontend, ImagePrefix, Permit};
use crate::generation::{Alternative, GenerationError, GenerationParams, Outcome, Sequence, StopReason, Task};
use crate::image::{ImageError, PixelValues};
use crate::text::TextError;

/// One row to score, as asked.
#[derive(Debug, Clone)]
pub struct ScoreJob {
    /// The picture file's bytes.
    pub image: Vec<u8>,
    /// The prompt; empty for a caption.
    pub text: String,
    /// How to generate.
    pub params: GenerationParams,
}

/// Why a job cannot be run. The fault lies with the job.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The picture.
    #[error(transparent)]
    Image(#[from] ImageError),
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
}

/// Why the engine gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The job is at fault.
    #[error(transparent)]
    Rejected(#[from] JobError),
    /// No place in the queue now.
    #[error("the queue is full; try again in a moment")]
    Overloaded,
    /// More rows than the queue can ever hold.
    #[error("the request has {rows} rows, but at most {capacity} are taken at once; send fewer rows")]
    TooManyRows {
        /// Rows asked for.
        rows: usize,
        /// Rows there is room for.
        capacity: usize,
    },
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
    /// A worker has ended.
    #[error("the engine has stopped")]
    Stopped,
}

/// A job that the model can read.
#[derive(Debug)]
pub struct PreparedJob {
    pub(super) picture: PictureKey,
    pub(super) pixel_values: PixelValues,
    pub(super) input_ids: Vec<i64>,
    pub(super) task: Task,
    pub(super) warnings: Vec<String>,
    pub(super) preprocess: Duration,
}

/// Where the time of a job went. `decode` counts the steps of its batch, `queue` all waiting.
#[derive(Debug, Clone, Copy, Default)]
pub struct Timings {
    /// Decoding and resizing the picture, tokenizing.
    pub preprocess: Duration,
    /// Waiting for the workers.
    pub queue: Duration,
    /// Vision encoder.
    pub vision_encoder: Duration,
    /// Q-Former.
    pub qformer: Duration,
    /// First decoder run.
    pub prefill: Duration,
    /// All further decoder runs.
    pub decode: Duration,
}

/// The answers to a row of input: one, unless more sequences were asked for.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Best first; at least one.
    pub sequences: Vec<AnswerSequence>,
    /// What the caller should know about the prompt.
    pub warnings: Vec<String>,
    /// Where the time went.
    pub timings: Timings,
}

impl Answer {
    /// The best of the sequences.
    #[must_use]
    pub fn best(mut self) -> AnswerSequence {
        self.sequences.swap_remove(0)
    }
}

/// One answer, as SEMANTICS describes a row of output.
#[derive(Debug, Clone, Serialize)]
pub struct AnswerSequence {
    /// The new tokens as text, stripped.
    pub text: String,
    /// The new tokens, the end token included if it came.
    pub token_ids: Vec<u32>,
    /// Natural log of each new token's probability.
    pub logprobs: Vec<f32>,
    /// The likeliest tokens at each place; empty unless `top_logprobs` was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub top_logprobs: Vec<Vec<Alternative>>,
    /// Beams: the final score of the search. Otherwise the sum of `logprobs` over length to the power of `length_penalty`.
    pub score: f32,
    /// Mean of the tokens' probabilities.
    pub mean_probability: f32,
    /// The smallest of the tokens' probabilities.
    pub min_probability: f32,
    /// Why generation ended.
    pub stop_reason: StopReason,
}

impl AnswerSequence {
    fn new(sequence: Sequence, frontend: &Frontend) -> Result<Self, EngineError> {
        let text = frontend.tokenizer.decode(&sequence.token_ids).map_err(EngineError::Detokenize)?;
        let (mean_probability, min_probability) = (sequence.mean_probability(), sequence.min_probability());
        let Sequence { token_ids, logprobs, alternatives, score, stop_reason } = sequence;
        Ok(Self {
            text,
            token_ids,
            logprobs,
            top_logprobs: alternatives,
            score,
            mean_probability,
            min_probability,
            stop_reason,
        })
    }
}

/// What the decoder worker sends back: plain numbers, so that text is made on the caller's thread.
#[derive(Debug)]
pub(super) struct Finished {
    outcome: Outcome,
    timings: Timings,
}

/// A job in a worker's hands. Dropping it unanswered tells the caller that the engine has stopped.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) picture: PictureKey,
    pub(super) pixel_values: PixelValues,
    pub(super) input_ids: Vec<i64>,
    pub(super) task: Task,
    pub(super) timings: Timings,
    reply: oneshot::Sender<Result<Finished, EngineError>>,
    since: Instant,
    _permit: Permit,
}

/// A job with its image prefix, ready for a slot.
#[derive(Debug)]
pub(super) struct Encoded {
    pub(super) job: Queued,
    pub(super) prefix: ImagePrefix,
}

/// An answer that will come. Dropping it cancels the job: its row ends before the next step.
pub struct Pending {
    reply: oneshot::Receiver<Result<Finished, EngineError>>,
    frontend: Arc<Frontend>,
    warnings: Vec<String>,
}

impl Queued {
    pub(super) fn new(job: PreparedJob, permit: Permit, frontend: Arc<Frontend>) -> (Self, Pending) {
        let (reply, answer) = oneshot::channel();
        let queued = Self {
            picture: job.picture,
            pixel_values: job.pixel_values,
            input_ids: job.input_ids,
            task: job.task,
            timings: Timings { preprocess: job.preprocess, ..Timings::default() },
            reply,
            since: Instant::now(),
            _permit: permit,
        };
        (queued, Pending { reply: answer, frontend, warnings: job.warnings })
    }

    /// The caller has gone.
    pub(super) fn is_cancelled(&self) -> bool {
        self.reply.is_closed()
    }

    /// Ends a wait: counts the time since the job was last put down.
    pub(super) fn picked_up(&mut self) {
        self.timings.queue += self.since.elapsed();
    }

    /// Begins a wait.
    pub(super) fn put_down(&mut self) {
        self.since = Instant::now();
    }

    pub(super) fn finish(self) {
        let finished = Finished { outcome: self.task.into_outcome(), timings: self.timings };
        drop(self.reply.send(Ok(finished))); // a caller who has gone needs no answer
    }

    pub(super) fn fail(self, error: EngineError) {
        drop(self.reply.send(Err(error)));
    }
}

impl Pending {
    /// Waits without blocking the thread.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn answer(self) -> Result<Answer, EngineError> {
        let Self { reply, frontend, warnings } = self;
        finished(reply.await, &frontend, warnings)
    }

    /// Waits on this thread, which must not be one of an async runtime.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn wait(self) -> Result<Answer, EngineError> {
        let Self { reply, frontend, warnings } = self;
        finished(reply.blocking_recv(), &frontend, warnings)
    }
}

fn finished(
    reply: Result<Result<Finished, EngineError>, oneshot::error::RecvError>,
    frontend: &Frontend,
    warnings: Vec<String>,
) -> Result<Answer, EngineError> {
    let Finished { outcome, timings } = reply.map_err(|_| EngineError::Stopped)??;
    let Outcome::Sequences(sequences) = outcome else { return Err(EngineError::Stopped) };
    let sequences = sequences.into_iter().map(|sequence| AnswerSequence::new(sequence, frontend));
    let sequences: Vec<_> = sequences.collect::<Result<_, _>>()?;
    if sequences.is_empty() {
        return Err(EngineError::Stopped);
    }
    Ok(Answer { sequences, warnings, timings })
}

/// Times in milliseconds, as they leave the process.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct TimingsMs {
    preprocess: f64,
    queue: f64,
    vision_encoder: f64,
    qformer: f64,
    prefill: f64,
    decode: f64,
    total: f64,
}

impl From<Timings> for TimingsMs {
    fn from(timings: Timings) -> Self {
        let Timings { preprocess, queue, vision_encoder, qformer, prefill, decode } = timings;
        let total = preprocess + queue + vision_encoder + qformer + prefill + decode;
        let ms = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
        Self {
            preprocess: ms(preprocess),
            queue: ms(queue),
            vision_encoder: ms(vision_encoder),
            qformer: ms(qformer),
            prefill: ms(prefill),
            decode: ms(decode),
            total: ms(total),
        }
    }
}
