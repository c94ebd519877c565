//! `parameters` of a request: those of the protocol and of Triton, and those of generation under transformers' names.

use std::time::Duration;

use serde_json::{Map, Value};

use super::error::bad;
use crate::generation::{GenerationParams, ParamError};
use crate::json::{json_type, shorten};
use crate::server::HttpError;

/// Triton's parameters of stateful models.
const SEQUENCE: [&str; 3] = ["sequence_id", "sequence_start", "sequence_end"];

/// The parsed parameters.
#[derive(Debug)]
pub(super) struct Parameters {
    /// Outputs that do not say otherwise are binary.
    pub(super) is_binary: bool,
    /// How long the answer may take, if the client says so.
    pub(super) timeout: Option<Duration>,
    /// How the answers are generated.
    pub(super) generation: GenerationParams,
}

impl Parameters {
    /// Reads the object, or `None`.
    pub(super) fn read(
        given: Option<Value>,
        parse_params: impl Fn(&Value) -> Result<GenerationParams, ParamError>,
    ) -> Result<Self, HttpError> {
        let mut given = match given {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(given)) => given,
            Some(other) => return Err(bad(format!("parameters must be an object, not {}", json_type(&other)))),
        };
        let is_binary = take_boolean(&mut given, "binary_data_output")?.unwrap_or(false);
        let timeout = take_integer(&mut given, "timeout")?.filter(|timeout| *timeout > 0).map(Duration::from_micros);
        let priority = take_integer(&mut given, "priority")?.unwrap_or(0);
        for name in SEQUENCE {
            if let Some(value) = given.remove(name)
                && ![Value::Null, false.into(), 0.into(), "".into()].contains(&value)
            {
                return Err(bad(format!("parameters: {name} is not supported, because the model has no state")));
            }
        }
        let mut generation = parse_params(&Value::Object(given)).map_err(|error| bad(in_the_protocols_words(error)))?;
        if priority > 0 {
            generation.warnings.push("priority has no effect: requests are answered in the order they come".into());
        }
        Ok(Self { is_binary, timeout, generation })
    }
}

/// Refuses a key that is not known.
pub(super) fn refuse_unknown(fields: &Map<String, Value>, known: &[&str]) -> Result<(), String> {
    match fields.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => Err(format!("unknown key {:?}; known are {}", shorten(key), known.join(", "))),
        None => Ok(()),
    }
}

fn take_boolean(given: &mut Map<String, Value>, name: &str) -> Result<Option<bool>, HttpError> {
    match given.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(value)) => Ok(Some(value)),
        Some(other) => Err(bad(format!("parameters: {name} must be true or false, not {}", json_type(&other)))),
    }
}

fn take_integer(given: &mut Map<String, Value>, name: &str) -> Result<Option<u64>, HttpError> {
    match given.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64() {
            Some(number) => Ok(Some(number)),
            None => Err(bad(format!("parameters: {name} must be a whole number of at least 0"))),
        },
    }
}

/// The name of `params` in this protocol.
fn in_the_protocols_words(error: ParamError) -> String {
    match error {
        ParamError::NotAnObject { found } => format!("parameters must be an object, not {found}"),
        ParamError::Unknown { name, known } => format!("parameters: unknown parameter {name:?}; known are {known}"),
        ParamError::OutOfRange { name, value, range } => format!("parameters: {name} is {value}, but must be {range}"),
    }
}
