//! From settings to a running engine: finds the bundle, checks it, plans the memory, opens the graphs, starts the workers.
//!
//! The one place that knows how an engine is put together. Used by `cli`, by tests and by benches; knows neither clap nor HTTP.

mod goldens;
mod gpu;
mod memory_plan;
mod open;
mod settings;

pub use self::goldens::{Replayed, replay_goldens};
pub use self::open::{LaunchError, Opened, frontend, open};
pub use self::settings::{GpuChoice, Settings};
