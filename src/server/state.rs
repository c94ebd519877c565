//! State shared by all HTTP workers: settings, the engine once it is loaded, and readiness.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use serde_json::Value;

use super::metrics::Metrics;
use super::{HttpError, ServerSettings};
use crate::engine::Engine;
use crate::fetch::{FetchError, Fetcher};
use crate::scoring::Scorer;

/// A handle to the state of the service; clones share it.
#[derive(Clone)]
pub struct State(Arc<Shared>);

struct Shared {
    settings: ServerSettings,
    fetcher: Option<Fetcher>,
    metrics: Arc<Metrics>,
    /// Bytes that the plan made at start allows for; 0 when there is none.
    planned_memory: AtomicU64,
    model: OnceLock<(ServedModel, Scorer)>,
    /// The last replay of golden answers went wrong.
    is_wrong: AtomicBool,
    /// SIGTERM came.
    is_draining: AtomicBool,
}

/// A model that is served, and what may be told of it.
pub struct ServedModel {
    /// Answers.
    pub engine: Engine,
    /// The bundle's name, which protocols use as the model's.
    pub name: String,
    /// The bundle's manifest.
    pub manifest: Value,
    /// Its parity certificate, if it has one.
    pub certificate: Option<Value>,
}

/// Why the service is not ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unready {
    /// The model is loading, or its golden answers are being replayed.
    Loading,
    /// The golden answers did not come out right the last time.
    Wrong,
    /// The service is stopping.
    Draining,
}

impl State {
    pub(super) fn new(settings: ServerSettings) -> Result<Self, FetchError> {
        let fetcher = settings.fetch.clone().map(Fetcher::new).transpose()?;
        Ok(Self(Arc::new(Shared {
            settings,
            fetcher,
            metrics: Arc::default(),
            planned_memory: AtomicU64::new(0),
            model: OnceLock::new(),
            is_wrong: AtomicBool::new(false),
            is_draining: AtomicBool::new(false),
        })))
    }

    /// From now on the service scores. The engine's golden answers have come out right.
    pub fn become_ready(&self, model: ServedModel) {
        let Shared { settings, fetcher, metrics, .. } = &*self.0;
        let observer = Arc::clone(metrics);
        let scorer = Scorer::new(model.engine.clone(), fetcher.clone(), settings.scoring_timeout, observer);
        // A second engine would be a mistake of ours; the first stays.
        let _ = self.0.model.set((model, scorer));
    }

    /// Notes how the last replay of golden answers went. While they are wrong the service is not ready; it still answers,
    /// so that whoever takes it out of the rotation loses no request.
    pub fn note_goldens(&self, are_right: bool) {
        self.0.is_wrong.store(!are_right, Ordering::Relaxed);
        self.0.metrics.observe_golden(are_right);
    }

    /// Notes how many bytes the service is planned to take, for `/metrics`.
    pub fn note_planned_memory(&self, bytes: u64) {
        self.0.planned_memory.store(bytes, Ordering::Relaxed);
    }

    /// Bytes that the service is planned to take.
    pub(super) fn planned_memory(&self) -> Option<u64> {
        Some(self.0.planned_memory.load(Ordering::Relaxed)).filter(|bytes| *bytes > 0)
    }

    /// Requests whose answer has not ended.
    #[must_use]
    pub fn requests_in_flight(&self) -> usize {
        self.metrics().requests_in_flight()
    }

    /// The service is about to stop: it is not ready any more.
    pub fn begin_draining(&self) {
        self.0.is_draining.store(true, Ordering::Relaxed);
    }

    /// `None` when the service is ready.
    #[must_use]
    pub fn unready(&self) -> Option<Unready> {
        if self.0.is_draining.load(Ordering::Relaxed) {
            Some(Unready::Draining)
        } else if self.0.model.get().is_none() {
            Some(Unready::Loading)
        } else {
            self.0.is_wrong.load(Ordering::Relaxed).then_some(Unready::Wrong)
        }
    }

    /// Returns the served model.
    pub(super) fn model(&self) -> Result<&ServedModel, HttpError> {
        self.0.model.get().map(|(model, _)| model).ok_or(HttpError::NotReady)
    }

    /// Returns the scorer. Look it up once per request.
    pub(super) fn scorer(&self) -> Result<&Scorer, HttpError> {
        self.0.model.get().map(|(_, scorer)| scorer).ok_or(HttpError::NotReady)
    }

    pub(super) fn settings(&self) -> &ServerSettings {
        &self.0.settings
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }
}
