//! Traces to an OpenTelemetry collector over HTTP, when the environment names one; the variables are those of the
//! OpenTelemetry specification. Without one there is no exporter, no thread and no span.

use std::env;
use std::time::Duration;

use opentelemetry::{Key, Value, global};
use opentelemetry_otlp::{ExporterBuildError, Protocol, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;

/// Each of them names a collector.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];

const SERVICE_NAME: &str = "service.name";

/// The service's name if none is configured.
const DEFAULT_SERVICE_NAME: &str = "blip2";

/// Time after which unsent spans are dropped at the end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// The exporter. Dropping it sends what is still unsent.
pub struct Traces(Option<SdkTracerProvider>);

/// Traces cannot be sent as the environment says.
#[derive(Debug, thiserror::Error)]
#[error("traces cannot be sent to the collector that OTEL_EXPORTER_OTLP_ENDPOINT names: {0}")]
pub struct TracesError(#[from] ExporterBuildError);

impl Traces {
    /// Starts the exporter if the environment names a collector.
    ///
    /// # Errors
    /// When it cannot be built, as with an endpoint that is no URL.
    pub fn start() -> Result<Self, TracesError> {
        if !is_wanted(|name| env::var(name).ok()) {
            return Ok(Self(None));
        }
        // The client of the exporter takes the process's TLS; another part of it may have chosen before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let exporter = SpanExporter::builder().with_http().with_protocol(Protocol::HttpBinary).build()?;
        let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource()).build();
        global::set_tracer_provider(provider.clone());
        global::set_text_map_propagator(TraceContextPropagator::new());
        Ok(Self(Some(provider)))
    }

    /// Whether spans are sent anywhere.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        if let Some(provider) = &self.0
            && let Err(error) = provider.shutdown_with_timeout(FLUSH_TIMEOUT)
        {
            tracing::warn!(%error, "the last traces were not sent");
        }
    }
}

fn is_wanted(variable: impl Fn(&str) -> Option<String>) -> bool {
    let is = |name: &str, value: &str| variable(name).is_some_and(|set| set.trim().eq_ignore_ascii_case(value));
    let has_endpoint = ENDPOINTS.iter().any(|name| variable(name).is_some_and(|url| !url.trim().is_empty()));
    has_endpoint && !is("OTEL_SDK_DISABLED", "true") && !is("OTEL_TRACES_EXPORTER", "none")
}

/// Describes this process: `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES`, and a name if they give none.
fn resource() -> Resource {
    let resource = Resource::builder().build();
    let has_name = resource
        .get(&Key::from_static_str(SERVICE_NAME))
        .is_some_and(|name| !matches!(&name, Value::String(name) if name.as_str().starts_with("unknown_service")));
    if has_name { resource } else { Resource::builder().with_service_name(DEFAULT_SERVICE_NAME).build() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_are_off_unless_a_collector_is_named() {
        let wanted = |set: &[(&str, &str)]| {
            is_wanted(|name| set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
        };
        assert!(!wanted(&[]));
        assert!(!wanted(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "")]));
        assert!(wanted(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")]));
        assert!(wanted(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://collector:4318/v1/traces")]));
        assert!(!wanted(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318"), ("OTEL_SDK_DISABLED", "TRUE")]));
        assert!(!wanted(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318"), ("OTEL_TRACES_EXPORTER", "none")]));
    }
}
