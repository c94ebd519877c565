//! What all HTTP workers share: the engine, once it is there.

use std::sync::{Arc, OnceLock};

use super::HttpError;
use crate::engine::Engine;

/// A handle to the state of the service; clones share it.
#[derive(Clone, Default)]
pub struct State {
    engine: Arc<OnceLock<Engine>>,
}

impl State {
    /// From now on the service scores. The engine's golden answers have come out right.
    pub fn become_ready(&self, engine: Engine) {
        // A second engine would be a mistake of ours; the first stays.
        let _ = self.engine.set(engine);
    }

    /// The engine.
    ///
    /// # Errors
    /// [`HttpError::NotReady`] before there is one.
    pub fn engine(&self) -> Result<&Engine, HttpError> {
        self.engine.get().ok_or(HttpError::NotReady)
    }
}
