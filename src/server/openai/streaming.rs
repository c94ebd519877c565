//! A chat completion as server-sent events, piece by piece as its tokens are decided.
//!
//! The head goes out with the first of them, so that a job which fails at once is answered with its status. What waits
//! longer is kept alive by comments. Dropping the body, as when the client goes away, cancels the job.

use std::convert::Infallible;
use std::time::Duration;

use actix_web::http::header::{self, HeaderName};
use actix_web::web::Bytes;
use actix_web::{HttpResponse, web};
use futures_util::stream::unfold;
use serde::Serialize;
use tokio::time::timeout;

use super::chat::Prepared;
use super::chat_request::StreamOptions;
use super::chat_response::{Chunk, ChunkChoice, Head, Usage};
use super::error::OpenAiError;
use crate::engine::{Answer, AnswerStream, EngineError, StreamEvent};
use crate::scoring::Admitted;
use crate::server::{HttpError, State};
use crate::text::VisiblePiece;

/// Proxies close connections on which nothing comes for a while.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Asks nginx not to collect the pieces.
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// The state between two events.
struct Events {
    state: web::Data<State>,
    head: Head,
    stream: AnswerStream,
    admitted: Admitted,
    prompt_tokens: usize,
    options: StreamOptions,
    with_logprobs: bool,
    /// Whether the first chunk went out: the answer comes token by token. Several choices, and the answers of beam
    /// search, come whole at the end.
    has_begun: bool,
    is_over: bool,
}

/// The answer to a request that asks for a stream.
pub(super) async fn respond(
    state: web::Data<State>,
    prepared: Prepared,
    options: StreamOptions,
) -> Result<HttpResponse, OpenAiError> {
    let Prepared { head, job, admitted, prompt_tokens, stops, with_logprobs } = prepared;
    let stream = admitted.engine().stream(job, admitted.permit(), stops)?;
    let mut events = Events {
        state,
        head,
        stream,
        admitted,
        prompt_tokens,
        options,
        with_logprobs,
        has_begun: false,
        is_over: false,
    };
    let first = match timeout(KEEP_ALIVE, events.stream.next()).await {
        Ok(event) => events.written(event)?,
        Err(_) => comment(),
    };
    let body = unfold((Some(first), events), |(first, mut events)| async move {
        let bytes = match first {
            Some(first) => first,
            None => events.next().await?,
        };
        Some((Ok::<_, Infallible>(Bytes::from(bytes)), (None, events)))
    });
    Ok(HttpResponse::Ok()
        .content_type("text/event-stream; charset=utf-8")
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .insert_header((ACCEL_BUFFERING, "no"))
        .streaming(body))
}

impl Events {
    /// What is written next; `None` at the end.
    async fn next(&mut self) -> Option<String> {
        while !self.is_over {
            let Ok(event) = timeout(KEEP_ALIVE, self.stream.next()).await else { return Some(comment()) };
            let written = self.written(event).unwrap_or_else(|error| {
                error.log();
                data(&error.body())
            });
            if !written.is_empty() {
                return Some(written);
            }
        }
        None
    }

    /// An event as it is written: nothing, or a chunk or more.
    fn written(&mut self, event: Option<Result<StreamEvent, EngineError>>) -> Result<String, OpenAiError> {
        match event {
            Some(Ok(StreamEvent::Piece(piece))) => {
                let begun = self.begun();
                Ok(begun + &self.piece(0, piece))
            }
            Some(Ok(StreamEvent::End { rest, answer })) => {
                self.is_over = true;
                Ok(self.end(rest, &answer))
            }
            Some(Err(error)) => {
                self.is_over = true;
                Err(HttpError::from(self.admitted.failed(error)).into())
            }
            None => {
                self.is_over = true;
                Ok(String::new())
            }
        }
    }

    /// The first chunk, once.
    fn begun(&mut self) -> String {
        let is_first = !std::mem::replace(&mut self.has_begun, true);
        if is_first { self.chunk(ChunkChoice::role(0), &[]) } else { String::new() }
    }

    fn end(&mut self, rest: Vec<VisiblePiece>, answer: &Answer) -> String {
        self.state.metrics().observe_answer(answer);
        let mut written = String::new();
        for (index, (sequence, piece)) in answer.all().iter().zip(rest).enumerate() {
            if !self.has_begun {
                written.push_str(&self.chunk(ChunkChoice::role(index), &[]));
            }
            written.push_str(&self.piece(index, piece));
            written.push_str(&self.chunk(ChunkChoice::end(index, sequence.stop_reason), &answer.warnings));
        }
        if self.options.include_usage {
            written.push_str(&data(&Chunk::usage(&self.head, Usage::new(self.prompt_tokens, answer))));
        }
        written + "data: [DONE]\n\n"
    }

    fn piece(&self, index: usize, piece: VisiblePiece) -> String {
        let tokenizer = self.with_logprobs.then(|| self.admitted.engine().tokenizer());
        if piece.text.is_empty() && (tokenizer.is_none() || piece.tokens.is_empty()) {
            return String::new();
        }
        self.chunk(ChunkChoice::piece(index, piece, tokenizer), &[])
    }

    fn chunk(&self, choice: ChunkChoice, warnings: &[String]) -> String {
        let chunk = Chunk::new(&self.head, choice).with_warnings(warnings);
        data(&if self.options.include_usage { chunk.with_null_usage() } else { chunk })
    }
}

/// An event. JSON has no line breaks of its own.
fn data(value: &impl Serialize) -> String {
    let json = serde_json::to_string(value).unwrap_or_default(); // numbers are finite and keys strings
    format!("data: {json}\n\n")
}

fn comment() -> String {
    ": still at work\n\n".into()
}
