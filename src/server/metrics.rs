//! What the service counts and measures, for Prometheus: `/metrics`, in OpenMetrics' text format, which Prometheus reads.
//!
//! Every label has few values: a route is a pattern of ours or `unknown`, a status its class, a reason one of our words.
//! What the engine knows is read when somebody asks (`gauges`).

use std::fmt;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, ResponseError as _, web};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use utoipa::OpenApi;

use super::protocol::Protocol;
use super::{State, exchange, gauges, resource};
use crate::engine::{Answer, Timings};
use crate::scoring::Observer;

/// What Prometheus is told about the format.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// From a probe's answer to the longest a request may take by default.
const SECONDS: [f64; 16] =
    [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 90.0, 180.0];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RouteAndStatus {
    route: String,
    status: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Route {
    route: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Stage {
    stage: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    result: &'static str,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// All of it; shared by the HTTP workers.
pub(super) struct Metrics {
    registry: Registry,
    requests: Family<RouteAndStatus, Counter>,
    durations: Histograms<Route>,
    refusals: Family<Reason, Counter>,
    in_flight: Gauge,
    stages: Histograms<Stage>,
    rows: Counter,
    tokens: Counter,
    fetches: Family<Outcome, Counter>,
    goldens: Family<Outcome, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(SECONDS);
        let metrics = Self {
            registry: Registry::with_prefix("blip2"),
            requests: Family::default(),
            durations: Family::new_with_constructor(histogram),
            refusals: Family::default(),
            in_flight: Gauge::default(),
            stages: Family::new_with_constructor(histogram),
            rows: Counter::default(),
            tokens: Counter::default(),
            fetches: Family::default(),
            goldens: Family::default(),
        };
        for result in ["ok", "failed"] {
            drop(metrics.goldens.get_or_create(&Outcome { result })); // so that both are there from the start
        }
        metrics.registered()
    }
}

impl Metrics {
    fn registered(mut self) -> Self {
        let registry = &mut self.registry;
        registry.register("http_requests", "Requests that were answered, or whose client went", self.requests.clone());
        registry.register_with_unit(
            "http_request_duration",
            "From a request's head to the end of its answer",
            Unit::Seconds,
            self.durations.clone(),
        );
        registry.register(
            "http_refusals",
            "Requests that were not answered with 2xx, by reason",
            self.refusals.clone(),
        );
        registry.register("http_requests_in_flight", "Requests whose answer has not ended", self.in_flight.clone());
        registry.register_with_unit(
            "stage_duration",
            "Where the time of a row goes; a stage that a row skips, as that of a known image, is not counted",
            Unit::Seconds,
            self.stages.clone(),
        );
        registry.register("rows_answered", "Rows of input that were answered", self.rows.clone());
        registry.register("generated_tokens", "New tokens of all answers", self.tokens.clone());
        registry.register("image_fetches", "Images fetched by URL, by result", self.fetches.clone());
        registry.register(
            "golden_replays",
            "Golden answers replayed in the background, by result",
            self.goldens.clone(),
        );
        self
    }

    /// A response went out; `code` is an error's short name, and `path` the pattern of its route.
    pub(super) fn observe_response(&self, path: &str, status: StatusCode, code: Option<&'static str>, took: Duration) {
        let route = path.to_owned();
        self.durations.get_or_create(&Route { route: route.clone() }).observe(took.as_secs_f64());
        self.requests.get_or_create(&RouteAndStatus { route, status: class(status) }).inc();
        if let Some(reason) = code {
            self.refusals.get_or_create(&Reason { reason }).inc();
        }
    }

    /// An image URL was fetched, or why not.
    pub(super) fn observe_fetch(&self, took: Duration, failure: Option<&'static str>) {
        self.observe_stage("image_fetch", took);
        self.fetches.get_or_create(&Outcome { result: failure.unwrap_or("ok") }).inc();
        exchange::note_fetch(took, failure);
    }

    /// A row was answered with new tokens.
    pub(super) fn observe_answer(&self, answer: &Answer) {
        let tokens = match answer.sequences.as_slice() {
            [] => answer.best.token_ids.len(),
            all => all.iter().map(|sequence| sequence.token_ids.len()).sum(),
        };
        self.tokens.inc_by(tokens as u64);
        self.observe_row(&answer.timings);
    }

    /// A row was answered: generated, ranked or embedded.
    pub(super) fn observe_row(&self, timings: &Timings) {
        self.rows.inc();
        for (stage, took) in timings.stages() {
            if !took.is_zero() {
                self.observe_stage(stage.name(), took);
            }
        }
        exchange::note_answer(timings);
    }

    /// A request came, whose end [`Metrics::end_request`] tells.
    pub(super) fn begin_request(&self) {
        self.in_flight.inc();
    }

    pub(super) fn end_request(&self) {
        self.in_flight.dec();
    }

    /// Requests whose answer has not ended.
    pub(super) fn requests_in_flight(&self) -> usize {
        usize::try_from(self.in_flight.get()).unwrap_or_default()
    }

    /// A golden answer was replayed.
    pub(super) fn observe_golden(&self, is_right: bool) {
        self.goldens.get_or_create(&Outcome { result: if is_right { "ok" } else { "failed" } }).inc();
    }

    fn observe_stage(&self, stage: &'static str, took: Duration) {
        self.stages.get_or_create(&Stage { stage }).observe(took.as_secs_f64());
    }

    fn text(&self, state: &State) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode_registry(&mut text, &self.registry)?;
        encode_registry(&mut text, &gauges::registry(state))?;
        encode_eof(&mut text)?;
        Ok(text)
    }
}

impl Observer for Metrics {
    fn image_fetched(&self, took: Duration, failure: Option<&'static str>) {
        self.observe_fetch(took, failure);
    }

    fn row_answered(&self, answer: &Answer) {
        self.observe_answer(answer);
    }
}

fn class(status: StatusCode) -> &'static str {
    match status.as_u16() {
        100..200 => "1xx",
        200..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        _ => "5xx",
    }
}

/// `/metrics`, on the port of the service unless it has one of its own.
pub(super) const PROTOCOL: Protocol = Protocol {
    name: "Metrics",
    roots: &["/metrics"],
    public: &[],
    routes,
    openapi: Api::openapi,
    refuse: |error| error.error_response(),
};

/// The part of this route in `/openapi.json`.
#[derive(OpenApi)]
#[openapi(paths(get_metrics))]
struct Api;

/// What the service counts and measures.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "operation",
    responses(
        (status = 200, description = "Counters, histograms and gauges in OpenMetrics' text format", body = String,
         content_type = "application/openmetrics-text"),
        (status = 404, description = "The metrics are on a port of their own")
    )
)]
async fn get_metrics(state: web::Data<State>) -> HttpResponse {
    match state.metrics().text(&state) {
        Ok(text) => HttpResponse::Ok().content_type(OPEN_METRICS).body(text),
        Err(_) => HttpResponse::InternalServerError().finish(), // writing to a string does not fail
    }
}

fn routes(config: &mut web::ServiceConfig) {
    config.service(resource("/metrics").route(web::get().to(get_metrics)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_counts_by_its_class() {
        for (status, expected) in [(200, "2xx"), (204, "2xx"), (404, "4xx"), (499, "4xx"), (503, "5xx")] {
            assert_eq!(class(StatusCode::from_u16(status).unwrap()), expected);
        }
    }

    #[test]
    fn names_follow_the_conventions_of_prometheus() {
        let metrics = Metrics::default();
        metrics.observe_response("/score", StatusCode::OK, None, Duration::from_millis(30));
        metrics.observe_response("unknown", StatusCode::NOT_FOUND, Some("not_found"), Duration::from_millis(1));
        metrics.observe_fetch(Duration::from_millis(7), Some("timeout"));
        let mut text = String::new();
        encode_registry(&mut text, &metrics.registry).unwrap();
        for line in [
            "blip2_http_requests_total{route=\"/score\",status=\"2xx\"} 1",
            "blip2_http_requests_total{route=\"unknown\",status=\"4xx\"} 1",
            "blip2_http_request_duration_seconds_count{route=\"/score\"} 1",
            "blip2_http_refusals_total{reason=\"not_found\"} 1",
            "blip2_stage_duration_seconds_bucket{le=\"0.01\",stage=\"image_fetch\"} 1",
            "blip2_image_fetches_total{result=\"timeout\"} 1",
            "blip2_golden_replays_total{result=\"failed\"} 0",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }
}
