//! Pending answers, whole or token by token. Dropping one cancels its job, which ends before the
//! next decode step.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout_at;

use super::EngineError;
use super::answer::Answer;
use super::job::FinishedJob;
use crate::generation::DecidedToken;
use crate::text::{Tokenizer, VisiblePiece, VisibleText};

type Reply = oneshot::Receiver<Result<FinishedJob, EngineError>>;

/// A pending [`Answer`] or [`super::Ranking`].
pub struct Pending<T> {
    reply: Reply,
    deadline: Instant,
    finish: Box<dyn FnOnce(FinishedJob) -> Result<T, EngineError> + Send>,
}

impl<T> Pending<T> {
    pub(super) fn new(
        reply: Reply,
        deadline: Instant,
        finish: impl FnOnce(FinishedJob) -> Result<T, EngineError> + Send + 'static,
    ) -> Self {
        Self { reply, deadline, finish: Box::new(finish) }
    }

    /// Waits without blocking the thread, on a tokio runtime with time. Returns at the deadline
    /// even when a run of the model hangs; the workers check deadlines between runs only.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn answer(self) -> Result<T, EngineError> {
        let reply = timeout_at(self.deadline.into(), self.reply).await.map_err(|_| EngineError::DeadlineExceeded)?;
        (self.finish)(reply.map_err(|_| EngineError::Stopped)??)
    }

    /// Blocks this thread, which must not belong to an async runtime.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn wait(self) -> Result<T, EngineError> {
        let reply = self.reply.blocking_recv();
        (self.finish)(reply.map_err(|_| EngineError::Stopped)??)
    }
}

/// An event of a streamed answer.
#[derive(Debug)]
pub enum StreamEvent {
    /// A token was decided. The piece that has become visible by it is often empty.
    Piece(VisiblePiece),
    /// The answer is complete.
    End {
        /// The last piece of each sequence, in the order of [`Answer::all`]. It is the whole
        /// sequence if tokens are decided only at the end, as by beam search.
        rest: Vec<VisiblePiece>,
        /// The answer.
        answer: Box<Answer>,
    },
}

/// A pending answer that is returned piece by piece.
pub struct AnswerStream {
    tokens: mpsc::UnboundedReceiver<DecidedToken>,
    /// `None` after the end.
    pending: Option<Pending<Answer>>,
    deadline: Instant,
    tokenizer: Arc<Tokenizer>,
    stops: Vec<Vec<u8>>,
    /// `None` before the first token.
    text: Option<VisibleText>,
}

impl AnswerStream {
    pub(super) fn new(
        tokens: mpsc::UnboundedReceiver<DecidedToken>,
        pending: Pending<Answer>,
        tokenizer: Arc<Tokenizer>,
        stops: Vec<Vec<u8>>,
    ) -> Self {
        let deadline = pending.deadline;
        Self { tokens, pending: Some(pending), deadline, tokenizer, stops, text: None }
    }

    /// Returns the next event; `None` after the end or an error.
    ///
    /// # Errors
    /// [`EngineError`], once.
    pub async fn next(&mut self) -> Option<Result<StreamEvent, EngineError>> {
        self.pending.as_ref()?;
        match timeout_at(self.deadline.into(), self.tokens.recv()).await {
            Ok(Some(token)) => {
                let text = self.text.get_or_insert_with(|| VisibleText::new(self.stops.clone()));
                Some(Ok(StreamEvent::Piece(text.push(&self.tokenizer, token))))
            }
            // The worker has dropped the job, so its reply is there.
            Ok(None) => {
                let answer = self.pending.take()?.answer().await;
                Some(answer.map(|answer| self.end(answer)))
            }
            Err(_) => {
                self.pending = None;
                Some(Err(EngineError::DeadlineExceeded))
            }
        }
    }

    fn end(&mut self, answer: Answer) -> StreamEvent {
        let rest = match &mut self.text {
            Some(text) => vec![text.finish()],
            None => answer.all().iter().map(|sequence| sequence.visible(&self.tokenizer, &self.stops)).collect(),
        };
        StreamEvent::End { rest, answer: Box::new(answer) }
    }
}
