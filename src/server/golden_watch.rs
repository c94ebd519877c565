//! Golden answers, replayed while the service runs: memory that went bad, or a library that was exchanged under it, shows here
//! before it shows to users.
//!
//! One case at a time, and none while the queue is more than half full: requests come first. A case that comes out wrong makes
//! the service unready, and is replayed again, sooner than usual, until it comes out right.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::State;
use super::state::Unready;
use crate::bundle::GoldenCase;
use crate::engine::{Engine, EngineError, GoldenError, replay};

/// A case that came out wrong is replayed after this part of the interval.
const SOONER: u32 = 10;

/// The thread that replays. Dropping it ends the thread, after the case that is being replayed.
pub struct GoldenWatch {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl GoldenWatch {
    /// Replays one of the cases at every interval, one after the other, over and over.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(state: State, cases: Vec<GoldenCase>, interval: Duration) -> std::io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let watch = move || watch(&state, &cases, interval, &stopped);
        let thread = thread::Builder::new().name("golden-watch".to_owned()).spawn(watch)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for GoldenWatch {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // a panic in there has been told
        }
    }
}

fn watch(state: &State, cases: &[GoldenCase], interval: Duration, stopped: &Receiver<()>) {
    let (mut next, mut pause) = (0, interval);
    while !cases.is_empty() && stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
        let Ok(scorer) = state.scorer() else { continue };
        let engine = scorer.engine();
        if state.unready() == Some(Unready::Draining) || !has_time(engine) {
            continue;
        }
        let case = &cases[next];
        match replay(engine, case) {
            Ok(()) => {
                if state.unready() == Some(Unready::Wrong) {
                    tracing::info!(case = case.name, "the golden answer comes out right again");
                }
                state.note_goldens(true);
                (next, pause) = ((next + 1) % cases.len(), interval);
            }
            // The queue has filled in the meantime: that says nothing about answers.
            Err(GoldenError::Failed {
                source: EngineError::Overloaded { .. } | EngineError::DeadlineExceeded, ..
            }) => {}
            Err(error) => {
                tracing::error!(case = case.name, %error, "a golden answer came out wrong; the service is not ready");
                state.note_goldens(false);
                pause = interval / SOONER;
            }
        }
    }
}

/// Whether at least half of the queue is free.
fn has_time(engine: &Engine) -> bool {
    let status = engine.status();
    2 * status.rows_in_work() <= status.queue_rows
}
