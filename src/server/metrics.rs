//! What the service counts and measures, for Prometheus.

use std::time::Duration;

use actix_web::http::StatusCode;

use crate::engine::Answer;

/// All of it; shared by the HTTP workers.
#[derive(Default)]
pub(super) struct Metrics {}

impl Metrics {
    /// A response went out; `code` is an error's short name.
    pub(super) fn observe_response(
        &self,
        _path: &str,
        _status: StatusCode,
        _code: Option<&'static str>,
        _took: Duration,
    ) {
    }

    /// An image URL was fetched, or why not.
    pub(super) fn observe_fetch(&self, _took: Duration, _failure: Option<&'static str>) {}

    /// A row was answered.
    pub(super) fn observe_answer(&self, _answer: &Answer) {}
}
