//! Black-box tests, one binary: the service over real HTTP, the command line, the committed bundles, and the architecture.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod architecture;
mod azure_api;
mod bundle;
mod command_line;
mod contract;
mod engine_load;
mod formats;
mod goldens;
mod helpers;
mod lifecycle;
mod mlflow_api;
mod native_api;
mod observability;
mod open_inference_api;
mod openai_api;
mod operations;
mod probes;
mod providers;
mod regressions;
mod score_api;
mod scripted_model;
mod vendor_telemetry;
