//! One request and its answer, from the head of the one to the last byte of the other: what is counted, logged and traced of
//! it, also when the answer is a stream, and when the client goes before it ends.
//!
//! What is learned deep inside a handler, such as the time of a row, is noted for the request that the task is working on, so
//! that no protocol has to carry it.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::ServiceRequest;
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::web::{Bytes, Data};
use tracing::Span;

use super::State;
use super::error::ErrorCode;
use super::health::PROBES;
use super::quiet::Connection;
use super::request_ids::RequestIds;
use super::trace::Trace;
use crate::engine::{Stage, Timings};

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// What a request is logged with whose client went before the answer; the status that nginx made customary.
const CLIENT_GONE: u16 = 499;

/// Longer paths are cut in the log.
const LOGGED_PATH: usize = 200;

tokio::task_local! {
    static CURRENT: Rc<Notes>;
}

/// What is learned while the answer is made.
struct Notes {
    /// Of the row that took longest.
    slowest: Cell<Option<Timings>>,
    trace: Option<Trace>,
}

/// The request that is being answered. Its end is told when this is dropped.
pub(super) struct Exchange {
    state: Option<Data<State>>,
    connection: Option<Arc<Connection>>,
    method: Method,
    path: String,
    route: String,
    ids: RequestIds,
    started: Instant,
    /// `None` until the head of the answer is there.
    status: Option<StatusCode>,
    code: Option<&'static str>,
    bytes: u64,
    notes: Rc<Notes>,
    span: Span,
}

impl Exchange {
    /// A request came.
    pub(super) fn begin(
        request: &ServiceRequest,
        state: Option<Data<State>>,
        ids: RequestIds,
        trace: Option<Trace>,
    ) -> Self {
        if let Some(state) = &state {
            state.metrics().begin_request();
        }
        let connection = request.conn_data::<Arc<Connection>>().cloned();
        if let Some(connection) = &connection {
            connection.note(true);
        }
        let pattern = request.match_pattern();
        let span =
            tracing::info_span!("request", request_id = &*ids.request(), client_request_id = &*ids.client_request());
        Self {
            state,
            connection,
            method: request.method().clone(),
            // Whoever reads the id of a stored image may ask about it, so of such paths the pattern is told.
            path: pattern.clone().unwrap_or_else(|| request.path().chars().take(LOGGED_PATH).collect()),
            route: pattern.unwrap_or_else(|| "unknown".to_owned()),
            ids,
            started: Instant::now(),
            status: None,
            code: None,
            bytes: 0,
            notes: Rc::new(Notes { slowest: Cell::new(None), trace }),
            span,
        }
    }

    /// Runs what answers it; log lines in there carry its ids.
    pub(super) async fn run<F: Future>(&self, work: F) -> F::Output {
        use tracing::Instrument as _;
        CURRENT.scope(Rc::clone(&self.notes), work.instrument(self.span.clone())).await
    }

    /// `Server-Timing`: the stages of the row that took longest, which are about the time of the request. `None` when no row
    /// was answered.
    pub(super) fn server_timing(&self) -> Option<(HeaderName, HeaderValue)> {
        let value = server_timing(&self.notes.slowest.get()?);
        Some((SERVER_TIMING, HeaderValue::from_str(&value).ok()?))
    }

    /// The head of the answer is there.
    pub(super) fn answered(&mut self, status: StatusCode, code: Option<ErrorCode>) {
        self.status = Some(status);
        self.code = code.map(|code| code.0);
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let took = self.started.elapsed();
        if let Some(connection) = &self.connection {
            connection.note(false);
        }
        let gone = StatusCode::from_u16(CLIENT_GONE).unwrap_or(StatusCode::REQUEST_TIMEOUT);
        let status = self.status.unwrap_or(gone);
        let code = if self.status.is_none() { Some("client_gone") } else { self.code };
        if let Some(state) = &self.state {
            state.metrics().end_request();
            state.metrics().observe_response(&self.route, status, code, took);
        }
        if let Some(trace) = &self.notes.trace {
            trace.end(status, code);
        }
        // Their success is not worth a line.
        if PROBES.contains(&self.path.as_str()) && status == StatusCode::OK {
            return;
        }
        let ms = (took.as_secs_f64() * 1e4).round() / 10.0;
        tracing::info!(
            parent: None,
            method = %self.method,
            path = self.path,
            status = status.as_u16(),
            ms,
            bytes = self.bytes,
            request_id = &*self.ids.request(),
            client_request_id = &*self.ids.client_request(),
            "request"
        );
    }
}

/// A row was answered. For the request that this task answers; elsewhere it is nobody's.
pub(super) fn note_answer(timings: &Timings) {
    let _ = CURRENT.try_with(|notes| {
        if notes.slowest.get().is_none_or(|slowest| slowest.total() < timings.total()) {
            notes.slowest.set(Some(*timings));
        }
        if let Some(trace) = &notes.trace {
            trace.stages(timings);
        }
    });
}

/// An image was fetched for the request that this task answers.
pub(super) fn note_fetch(took: Duration, failure: Option<&'static str>) {
    let _ = CURRENT.try_with(|notes| {
        if let Some(trace) = &notes.trace {
            trace.fetch(took, failure);
        }
    });
}

fn server_timing(timings: &Timings) -> String {
    let metric = |(stage, took): (Stage, Duration)| format!("{};dur={:.3}", stage.name(), took.as_secs_f64() * 1e3);
    timings.stages().map(metric).join(", ")
}

/// A body that holds its exchange, which so ends with its last byte.
pub(super) struct Observed {
    body: BoxBody,
    exchange: Exchange,
}

impl Observed {
    pub(super) fn new(body: BoxBody, mut exchange: Exchange) -> Self {
        if let BodySize::Sized(bytes) = body.size() {
            exchange.bytes = bytes;
        }
        Self { body, exchange }
    }
}

impl MessageBody for Observed {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let Self { body, exchange } = self.get_mut();
        let _log = exchange.span.enter();
        let poll = || Pin::new(&mut *body).poll_next(context);
        let next = CURRENT.sync_scope(Rc::clone(&exchange.notes), poll);
        if let (Poll::Ready(Some(Ok(chunk))), BodySize::Stream) = (&next, body.size()) {
            exchange.bytes += chunk.len() as u64;
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_written_in_milliseconds() {
        let ms = Duration::from_millis;
        let timings = Timings::from([(Stage::Queue, ms(3)), (Stage::VisionEncoder, ms(560)), (Stage::Decode, ms(72))]);
        assert_eq!(
            server_timing(&timings),
            "preprocess;dur=0.000, queue;dur=3.000, vision_encoder;dur=560.000, qformer;dur=0.000, prefill;dur=0.000, decode;dur=72.000"
        );
    }

    #[tokio::test]
    async fn the_slowest_row_speaks_for_the_request() {
        let notes = Rc::new(Notes { slowest: Cell::new(None), trace: None });
        CURRENT.sync_scope(Rc::clone(&notes), || {
            for decode in [20, 90, 40].map(Duration::from_millis) {
                note_answer(&Timings::from([(Stage::Decode, decode)]));
            }
        });
        assert_eq!(notes.slowest.get().unwrap()[Stage::Decode], Duration::from_millis(90));
        note_answer(&Timings::default()); // outside of a request nothing happens
    }
}
