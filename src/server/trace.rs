//! Traces: a span for a request, with what the caller's `traceparent` names as its parent, and one for each of its stages.
//!
//! The tracer is the process's; without one nothing is made here. A stage's span is made when its row is answered, and laid
//! out backwards from then: its length was measured, its place on the axis is where it would be if the stages followed
//! one another without a gap.

use std::time::{Duration, SystemTime};

use actix_web::dev::ServiceRequest;
use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderMap, HeaderName};
use opentelemetry::propagation::Extractor;
use opentelemetry::trace::{Span as _, SpanKind, Status, TraceContextExt as _, Tracer as _};
use opentelemetry::{Context, KeyValue, global};

use crate::engine::Timings;

/// The name of the library in traces.
const TRACER: &str = "blip2";

/// The span of a request.
pub(super) struct Trace(Context);

impl Trace {
    /// Begins the span. `None` when the caller, or the sampler, does not want it recorded.
    pub(super) fn begin(request: &ServiceRequest, request_id: &str) -> Option<Self> {
        let (method, route) = (request.method(), request.match_pattern());
        let parent = global::get_text_map_propagator(|propagator| propagator.extract(&Headers(request.headers())));
        let name = route.as_ref().map_or_else(|| method.to_string(), |route| format!("{method} {route}"));
        let mut attributes = vec![
            KeyValue::new("http.request.method", method.to_string()),
            KeyValue::new("blip2.request_id", request_id.to_owned()),
        ];
        attributes.extend(route.map(|route| KeyValue::new("http.route", route)));
        let tracer = global::tracer(TRACER);
        let builder = tracer.span_builder(name).with_kind(SpanKind::Server).with_attributes(attributes);
        let span = tracer.build_with_context(builder, &parent);
        span.is_recording().then(|| Self(parent.with_span(span)))
    }

    /// The stages of a row that was answered just now.
    pub(super) fn stages(&self, timings: &Timings) {
        let mut end = SystemTime::now();
        for (stage, took) in timings.stages().into_iter().rev().filter(|(_, took)| !took.is_zero()) {
            let start = end.checked_sub(took).unwrap_or(end);
            self.child(stage.name(), start, end, Vec::new());
            end = start;
        }
    }

    /// An image was fetched just now.
    pub(super) fn fetch(&self, took: Duration, failure: Option<&'static str>) {
        let end = SystemTime::now();
        let attributes = failure.map(|reason| KeyValue::new("error.type", reason));
        self.child("image_fetch", end.checked_sub(took).unwrap_or(end), end, attributes.into_iter().collect());
    }

    /// Ends the span of the request.
    pub(super) fn end(&self, status: StatusCode, code: Option<&'static str>) {
        let span = self.0.span();
        span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status.as_u16())));
        if let Some(code) = code {
            span.set_attribute(KeyValue::new("error.type", code));
        }
        if status.is_server_error() {
            span.set_status(Status::error(""));
        }
        span.end();
    }

    fn child(&self, name: &'static str, start: SystemTime, end: SystemTime, attributes: Vec<KeyValue>) {
        let tracer = global::tracer(TRACER);
        let builder = tracer.span_builder(name).with_start_time(start).with_attributes(attributes);
        tracer.build_with_context(builder, &self.0).end_with_timestamp(end);
    }
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}
