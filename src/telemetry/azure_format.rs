//! Log lines that look like those of Azure's inference server, so that what reads the one reads the other:
//! `2026-01-31 12:00:00,123 I [7] blip2 - POST /score 200 12.3ms 45 request_id=… client_request_id=…`.

use std::fmt::{self, Write as _};
use std::process;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// The fields of a request's line that stand without their name, in this order.
const POSITIONAL: [&str; 5] = ["method", "path", "status", "ms", "bytes"];

/// The format.
pub(super) struct AzureFormat;

impl<S, N> FormatEvent<S, N> for AzureFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let level = level(*event.metadata().level());
        write!(writer, "{} {level} [{}] blip2 - {}", now()?, process::id(), fields.line())?;
        for span in context.event_scope().into_iter().flatten() {
            if let Some(fields) = span.extensions().get::<FormattedFields<N>>().filter(|fields| !fields.is_empty()) {
                write!(writer, " {fields}")?;
            }
        }
        writeln!(writer)
    }
}

/// `2026-01-31 12:00:00,123`, in UTC.
fn now() -> Result<String, fmt::Error> {
    let mut text = String::new();
    SystemTime.format_time(&mut Writer::new(&mut text))?;
    text.truncate("2026-01-31T12:00:00.123".len());
    Ok(text.replace('T', " ").replace('.', ","))
}

fn level(level: Level) -> char {
    match level {
        Level::ERROR => 'E',
        Level::WARN => 'W',
        Level::INFO => 'I',
        Level::DEBUG | Level::TRACE => 'D',
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    named: Vec<(&'static str, String)>,
}

impl Fields {
    fn line(&self) -> String {
        let is_request = POSITIONAL.iter().all(|name| self.named.iter().any(|(named, _)| named == name));
        let mut line = String::new();
        if is_request {
            let value =
                |name: &&str| self.named.iter().find(|(named, _)| named == name).map(|(_, value)| value.as_str());
            let unit = |name: &&str| if *name == "ms" { "ms" } else { "" };
            let values = POSITIONAL.iter().map(|name| format!("{}{}", value(name).unwrap_or_default(), unit(name)));
            line.push_str(&values.collect::<Vec<_>>().join(" "));
        } else {
            line.push_str(&self.message);
        }
        for (name, value) in &self.named {
            if !(is_request && POSITIONAL.contains(name)) {
                let _ = write!(line, " {name}={value}"); // a string takes everything
            }
        }
        line.replace(['\n', '\r'], " ")
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.named.push((field.name(), value.to_owned()));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            name => self.named.push((name, format!("{value:?}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_a_request_has_its_numbers_in_azures_order() {
        let named =
            |pairs: &[(&'static str, &str)]| pairs.iter().map(|(name, value)| (*name, (*value).into())).collect();
        let request = Fields {
            message: "request".into(),
            named: named(&[
                ("method", "POST"),
                ("path", "/score"),
                ("status", "200"),
                ("ms", "12.3"),
                ("bytes", "45"),
                ("request_id", "A"),
            ]),
        };
        assert_eq!(request.line(), "POST /score 200 12.3ms 45 request_id=A");
        let other = Fields { message: "two\nlines".into(), named: named(&[("port", "5001")]) };
        assert_eq!(other.line(), "two lines port=5001");
    }

    #[test]
    fn the_time_is_written_as_python_writes_it() {
        let now = now().unwrap();
        assert_eq!(now.len(), "2026-01-31 12:00:00,123".len());
        assert!(now.as_bytes()[10] == b' ' && now.as_bytes()[19] == b',', "{now}");
    }
}
