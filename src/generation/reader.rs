//! Reads generation parameters by name from a JSON object. Every name that is read counts as known,
//! and all others are rejected, so there is no list of names beside the code that reads them.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::Vocabulary;
use crate::json::json_type;

/// An error in the generation parameters.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ParamError {
    /// `params` is not an object.
    #[error("params must be an object of generation parameters, not {found}")]
    NotAnObject {
        /// Its JSON type.
        found: &'static str,
    },
    /// A parameter has an unknown name.
    #[error("params: unknown parameter {name:?}; known are {known}")]
    Unknown {
        /// The name.
        name: String,
        /// All known names.
        known: String,
    },
    /// A value has the wrong type or is out of range.
    #[error("params: {name} is {value}, but must be {range}")]
    OutOfRange {
        /// The parameter.
        name: &'static str,
        /// The value as JSON, shortened.
        value: String,
        /// The allowed values.
        range: String,
    },
}

/// Reads the parameters of a request. `null` counts as absent, as in transformers.
pub(super) struct ParamReader<'a> {
    given: &'a Map<String, Value>,
    read: Vec<&'static str>,
    /// The tokenizer, for parameters that hold text.
    pub(super) vocabulary: &'a Arc<dyn Vocabulary>,
    /// The fewest tokens that a sampling filter must leave.
    pub(super) min_tokens_to_keep: usize,
    /// The most new tokens of the answer.
    pub(super) max_new_tokens: usize,
}

impl<'a> ParamReader<'a> {
    pub(super) fn new(given: &'a Map<String, Value>, vocabulary: &'a Arc<dyn Vocabulary>) -> Self {
        Self { given, read: Vec::new(), vocabulary, min_tokens_to_keep: 1, max_new_tokens: usize::MAX }
    }

    /// Returns a value, if the request has it.
    pub(super) fn value(&mut self, name: &'static str) -> Option<&'a Value> {
        self.read.push(name);
        self.given.get(name).filter(|value| !value.is_null())
    }

    /// Reads an integer of at least `lowest`.
    pub(super) fn integer(&mut self, name: &'static str, lowest: usize) -> Result<Option<usize>, ParamError> {
        self.parse(name, &format!("an integer of at least {lowest}"), |value| {
            value.as_u64().and_then(|number| usize::try_from(number).ok()).filter(|number| *number >= lowest)
        })
    }

    /// Reads a finite number for which `is_in_range` holds. `range` says so in words.
    pub(super) fn number(
        &mut self,
        name: &'static str,
        range: &str,
        is_in_range: impl Fn(f32) -> bool,
    ) -> Result<Option<f32>, ParamError> {
        self.parse(name, range, |value| {
            value.as_f64().map(|number| number as f32).filter(|number| number.is_finite() && is_in_range(*number))
        })
    }

    pub(super) fn boolean(&mut self, name: &'static str) -> Result<Option<bool>, ParamError> {
        self.parse(name, "true or false", Value::as_bool)
    }

    /// Reads a value of any type. If `parse` returns `None`, the error states `range`.
    pub(super) fn parse<T>(
        &mut self,
        name: &'static str,
        range: &str,
        parse: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>, ParamError> {
        let Some(value) = self.value(name) else { return Ok(None) };
        parse(value).map(Some).ok_or_else(|| self.out_of_range(name, range))
    }

    /// Returns the error for the value in the request.
    pub(super) fn out_of_range(&self, name: &'static str, range: &str) -> ParamError {
        let value = self.given.get(name).map_or_else(|| "missing".to_owned(), |value| shorten(&value.to_string()));
        ParamError::OutOfRange { name, value, range: range.to_owned() }
    }

    /// Runs `read`, and returns which of the names that it read are in the request.
    pub(super) fn noting_given<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, ParamError>,
    ) -> Result<(T, Vec<&'static str>), ParamError> {
        let before = self.read.len();
        let result = read(self)?;
        let is_given = |name: &&'static str| self.given.get(*name).is_some_and(|value| !value.is_null());
        Ok((result, self.read[before..].iter().copied().filter(is_given).collect()))
    }

    /// Rejects names that were never read.
    pub(super) fn finish(self) -> Result<(), ParamError> {
        match self.given.keys().find(|name| !self.read.contains(&name.as_str())) {
            Some(name) => Err(ParamError::Unknown { name: shorten(name), known: self.read.join(", ") }),
            None => Ok(()),
        }
    }
}

/// Returns the object, an empty one for `null`.
pub(super) fn fields(value: &Value) -> Result<Map<String, Value>, ParamError> {
    match value {
        Value::Null => Ok(Map::new()),
        Value::Object(fields) => Ok(fields.clone()),
        other => Err(ParamError::NotAnObject { found: json_type(other) }),
    }
}

/// Shortens a value for a message.
fn shorten(text: &str) -> String {
    const SHOWN: usize = 40;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
