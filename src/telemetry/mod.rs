//! The log, one subscriber per process, and the traces, if they are sent anywhere. Images, prompts and credentials never
//! reach either.

mod azure_format;
mod traces;

use std::env;
use std::io;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

pub use self::traces::{Traces, TracesError};

use self::azure_format::AzureFormat;

/// ONNX Runtime formats far more than anybody reads, and says what concerns us in its errors.
const OTHERS: &str = "ort=warn,actix_server=warn";

/// Where log lines go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogTarget {
    /// The service: the platform collects standard output.
    Stdout,
    /// Commands whose standard output is their result.
    Stderr,
}

/// Format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// `2026-01-31T12:00:00.123456Z  INFO request method=POST path="/score" status=200 …`
    #[default]
    Text,
    /// One JSON object a line.
    Json,
    /// As Azure's inference server writes: `2026-01-31 12:00:00,123 I [7] blip2 - POST /score 200 12.3ms 45 …`
    Azure,
}

/// Starts logging as text; see [`start_with`].
pub fn start(target: LogTarget) {
    start_with(target, LogFormat::Text);
}

/// Starts logging. The filter comes from `BLIP2_LOG`, in the syntax of `tracing` (`debug`, `info,blip2=debug`), else the level
/// from `AZUREML_LOG_LEVEL`, in that of Python.
pub fn start_with(target: LogTarget, format: LogFormat) {
    let filter = EnvFilter::try_from_env("BLIP2_LOG").unwrap_or_else(|_| EnvFilter::new(default_filter()));
    let writer = match target {
        LogTarget::Stdout => BoxMakeWriter::new(io::stdout),
        LogTarget::Stderr => BoxMakeWriter::new(io::stderr),
    };
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_target(false).with_ansi(false).with_writer(writer);
    // A second start, as in tests, leaves the first subscriber in place.
    let _ = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_span_list(false).try_init(),
        LogFormat::Azure => builder.event_format(AzureFormat).try_init(),
    };
}

fn default_filter() -> String {
    let level = env::var("AZUREML_LOG_LEVEL").ok().and_then(|level| level_of_python(&level)).unwrap_or("info");
    // Libraries tell details that are of no use to who asks for ours, or that nobody is to see.
    let others = if level == "debug" { "info" } else { level };
    format!("{others},{OTHERS},blip2={level}")
}

fn level_of_python(name: &str) -> Option<&'static str> {
    match name.to_ascii_uppercase().as_str() {
        "CRITICAL" | "FATAL" | "ERROR" => Some("error"),
        "WARNING" | "WARN" => Some("warn"),
        "INFO" => Some("info"),
        "DEBUG" => Some("debug"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_of_python_are_understood() {
        for (name, level) in [("INFO", Some("info")), ("warning", Some("warn")), ("CRITICAL", Some("error"))] {
            assert_eq!(level_of_python(name), level);
        }
        assert_eq!(level_of_python("verbose"), None);
    }
}
