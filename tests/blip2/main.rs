//! Black-box tests, one binary: the service over real HTTP, the command line, the committed bundles, and the architecture.

mod architecture;
mod bundle;
mod command_line;
mod formats;
mod helpers;
mod probes;
mod score_api;
mod scripted_model;
