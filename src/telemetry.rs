//! The log: one subscriber per process. Pictures, prompts and credentials never reach it.

use tracing_subscriber::EnvFilter;

/// ONNX Runtime formats far more than anybody reads.
const DEFAULT_FILTER: &str = "info,ort=warn,actix_server=warn";

/// Where log lines go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogTarget {
    /// The service: the platform collects standard output.
    Stdout,
    /// Commands whose standard output is their result.
    Stderr,
}

/// Starts logging; the filter comes from `BLIP2_LOG`, in the syntax of `tracing` (`debug`, `info,blip2=debug`).
pub fn start(target: LogTarget) {
    let filter = EnvFilter::try_from_env("BLIP2_LOG").unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_target(false).with_ansi(false);
    // A second start, as in tests, leaves the first subscriber in place.
    let _ = match target {
        LogTarget::Stdout => builder.try_init(),
        LogTarget::Stderr => builder.with_writer(std::io::stderr).try_init(),
    };
}
