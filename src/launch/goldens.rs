//! Replays a bundle's golden answers before anybody is served.

use std::time::{Duration, Instant};

use super::LaunchError;
use crate::bundle::Bundle;
use crate::engine::{Engine, replay};

/// How many golden answers came out right, of how many the bundle holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replayed {
    /// Equal to the reference.
    pub right: usize,
    /// In the bundle.
    pub of: usize,
}

/// Replays the golden answers, shortest first, and warns when there are none.
///
/// With a budget, no further case begins once it is spent, so that the start of a large model does not grow with their
/// number. One case always runs.
///
/// # Errors
/// [`LaunchError::Bundle`] when the cases cannot be read, [`LaunchError::Golden`] at the first wrong answer.
pub fn replay_goldens(bundle: &Bundle, engine: &Engine, budget: Option<Duration>) -> Result<Replayed, LaunchError> {
    let mut cases = bundle.golden_cases()?;
    cases.sort_by_key(|case| case.token_ids.len());
    if cases.is_empty() {
        tracing::warn!(
            "the bundle holds no golden answers, so this machine's answers are unverified; run `blip2_export verify`"
        );
    }
    let started = Instant::now();
    let mut right = 0;
    for case in &cases {
        if right > 0 && budget.is_some_and(|budget| started.elapsed() > budget) {
            break;
        }
        replay(engine, case).map_err(Box::new)?;
        right += 1;
    }
    Ok(Replayed { right, of: cases.len() })
}
