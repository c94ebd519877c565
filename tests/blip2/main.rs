//! Black-box tests, one binary: the service over real HTTP, the command line, the committed bundles, and the architecture.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod architecture;
mod bundle;
mod command_line;
mod engine_load;
mod formats;
mod goldens;
mod helpers;
mod lifecycle;
mod observability;
mod operations;
mod probes;
mod score_api;
mod scripted_model;
