//! The stages of a job: their names, their order, and the time that a job spends in each.
//!
//! Metrics, traces, `Server-Timing` and `timings_ms` all read this list.

use std::array;
use std::ops::{AddAssign, Index, IndexMut};
use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

/// A stage of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Decoding and resizing the image.
    Preprocess,
    /// Waiting for the workers, all waits together.
    Queue,
    /// The vision encoder's run.
    VisionEncoder,
    /// The Q-Former's run.
    Qformer,
    /// The decoder's runs over the prompt.
    Prefill,
    /// The decode steps that the job took part in.
    Decode,
}

impl Stage {
    /// The stages in their order in time. Waits come between preprocessing and encoding, and again
    /// before prefill.
    pub const ALL: [Self; 6] =
        [Self::Preprocess, Self::Queue, Self::VisionEncoder, Self::Qformer, Self::Prefill, Self::Decode];

    /// Returns the name in metrics, traces, headers and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Preprocess => "preprocess",
            Self::Queue => "queue",
            Self::VisionEncoder => "vision_encoder",
            Self::Qformer => "qformer",
            Self::Prefill => "prefill",
            Self::Decode => "decode",
        }
    }
}

/// The time that a job spent in each stage: zero in one that it skipped, such as the encoding of a
/// cached image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timings([Duration; Stage::ALL.len()]);

impl Timings {
    /// Returns all stages with their times, in order.
    #[must_use]
    pub fn stages(&self) -> [(Stage, Duration); Stage::ALL.len()] {
        array::from_fn(|index| (Stage::ALL[index], self.0[index]))
    }

    /// Returns the time in all stages together.
    #[must_use]
    pub fn total(&self) -> Duration {
        self.0.iter().sum()
    }
}

impl<const N: usize> From<[(Stage, Duration); N]> for Timings {
    /// Takes the times of some stages; the others were skipped.
    fn from(stages: [(Stage, Duration); N]) -> Self {
        let mut timings = Self::default();
        for (stage, took) in stages {
            timings[stage] += took;
        }
        timings
    }
}

impl Index<Stage> for Timings {
    type Output = Duration;

    fn index(&self, stage: Stage) -> &Duration {
        &self.0[stage as usize]
    }
}

impl IndexMut<Stage> for Timings {
    fn index_mut(&mut self, stage: Stage) -> &mut Duration {
        &mut self.0[stage as usize]
    }
}

impl AddAssign for Timings {
    fn add_assign(&mut self, further: Self) {
        for (stage, took) in further.stages() {
            self[stage] += took;
        }
    }
}

/// The stages' times in milliseconds, as they leave the process.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub struct TimingsMs {
    preprocess: f64,
    queue: f64,
    vision_encoder: f64,
    qformer: f64,
    prefill: f64,
    decode: f64,
    total: f64,
}

impl From<Timings> for TimingsMs {
    fn from(timings: Timings) -> Self {
        Self {
            preprocess: milliseconds(timings[Stage::Preprocess]),
            queue: milliseconds(timings[Stage::Queue]),
            vision_encoder: milliseconds(timings[Stage::VisionEncoder]),
            qformer: milliseconds(timings[Stage::Qformer]),
            prefill: milliseconds(timings[Stage::Prefill]),
            decode: milliseconds(timings[Stage::Decode]),
            total: milliseconds(timings.total()),
        }
    }
}

/// Rounds to microseconds.
fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A time that tells the stage from the others.
    fn numbered(stage: Stage) -> Duration {
        Duration::from_millis(1 << (stage as u64))
    }

    #[test]
    fn all_lists_each_stage_at_its_number() {
        for (number, stage) in Stage::ALL.into_iter().enumerate() {
            assert_eq!(stage as usize, number);
        }
    }

    #[test]
    fn fields_of_the_json_are_the_stages_under_their_names() {
        let timings = Timings::from(Stage::ALL.map(|stage| (stage, numbered(stage))));
        let json = serde_json::to_value(TimingsMs::from(timings)).unwrap();
        for stage in Stage::ALL {
            assert_eq!(json[stage.name()].as_f64().unwrap(), numbered(stage).as_secs_f64() * 1e3, "{stage:?}");
        }
        assert_eq!(json["total"], 63.0);
        assert_eq!(json.as_object().unwrap().len(), Stage::ALL.len() + 1);
    }

    #[test]
    fn times_of_a_stage_add_up() {
        let mut timings =
            Timings::from([(Stage::Queue, numbered(Stage::Queue)), (Stage::Queue, numbered(Stage::Queue))]);
        timings += Timings::from([(Stage::Decode, numbered(Stage::Decode))]);
        assert_eq!(timings[Stage::Queue], 2 * numbered(Stage::Queue));
        assert_eq!(timings.total(), 2 * numbered(Stage::Queue) + numbered(Stage::Decode));
    }
}
