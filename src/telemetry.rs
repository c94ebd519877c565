//! The log: one subscriber per process. Pictures, prompts and credentials never reach it.

use tracing_subscriber::EnvFilter;

/// ONNX Runtime formats far more than anybody reads.
const QUIET: &str = "ort=warn,actix_server=warn";

/// Where log lines go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogTarget {
    /// The service: the platform collects standard output.
    Stdout,
    /// Commands whose standard output is their result.
    Stderr,
}

/// Starts logging; the filter comes from `BLIP2_LOG`, in the syntax of `tracing` (`debug`, `info,blip2=debug`), else the
/// level from `AZUREML_LOG_LEVEL`, in Python's words.
pub fn start(target: LogTarget) {
    let filter = EnvFilter::try_from_env("BLIP2_LOG")
        .unwrap_or_else(|_| EnvFilter::new(default_filter(std::env::var("AZUREML_LOG_LEVEL").ok().as_deref())));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_target(false).with_ansi(false);
    // A second start, as in tests, leaves the first subscriber in place.
    let _ = match target {
        LogTarget::Stdout => builder.try_init(),
        LogTarget::Stderr => builder.with_writer(std::io::stderr).try_init(),
    };
}

/// The filter for a level of Python's `logging`; what is no level counts as not set, as in Azure's server.
fn default_filter(level: Option<&str>) -> String {
    match level.map(str::to_ascii_uppercase).as_deref() {
        Some("DEBUG") => format!("debug,{QUIET}"),
        Some("WARNING" | "WARN") => "warn".into(),
        Some("ERROR" | "CRITICAL" | "FATAL") => "error".into(),
        _ => format!("info,{QUIET}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_in_pythons_words_become_filters() {
        for (level, filter) in [
            (None, "info,ort=warn,actix_server=warn"),
            (Some("INFO"), "info,ort=warn,actix_server=warn"),
            (Some("debug"), "debug,ort=warn,actix_server=warn"),
            (Some("WARNING"), "warn"),
            (Some("CRITICAL"), "error"),
            (Some("loud"), "info,ort=warn,actix_server=warn"),
        ] {
            assert_eq!(default_filter(level), filter);
            assert!(EnvFilter::try_new(filter).is_ok());
        }
    }
}
