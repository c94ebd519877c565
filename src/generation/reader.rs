//! Reads generation parameters by name out of a JSON object. Every name that is asked for counts as known, so that what
//! nobody asked for is refused, without a list of names beside the code that reads them.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::Vocabulary;
use crate::json::json_type;

/// A parameter that cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ParamError {
    /// `params` itself has the wrong type.
    #[error("params must be an object of generation parameters, not {found}")]
    NotAnObject {
        /// The JSON type found.
        found: &'static str,
    },
    /// A name that no parameter has.
    #[error("params: unknown parameter {name:?}; known are {known}")]
    Unknown {
        /// The name.
        name: String,
        /// All names.
        known: String,
    },
    /// A value of the wrong type or out of range.
    #[error("params: {name} is {value}, but must be {range}")]
    OutOfRange {
        /// The parameter.
        name: &'static str,
        /// The value as JSON, shortened.
        value: String,
        /// What is allowed.
        range: String,
    },
}

/// The parameters of a request while they are read. `null` counts as not given, as in transformers.
pub(super) struct ParamReader<'a> {
    given: &'a Map<String, Value>,
    asked: Vec<&'static str>,
    /// The tokenizer, for parameters that hold text.
    pub(super) vocabulary: &'a Arc<dyn Vocabulary>,
    /// What a filter of sampling must leave, however strict it is.
    pub(super) min_tokens_to_keep: usize,
    /// The length that answers are held to.
    pub(super) max_new_tokens: usize,
}

impl<'a> ParamReader<'a> {
    pub(super) fn new(given: &'a Map<String, Value>, vocabulary: &'a Arc<dyn Vocabulary>) -> Self {
        Self { given, asked: Vec::new(), vocabulary, min_tokens_to_keep: 1, max_new_tokens: usize::MAX }
    }

    /// A value that the request gives.
    pub(super) fn value(&mut self, name: &'static str) -> Option<&'a Value> {
        self.asked.push(name);
        self.given.get(name).filter(|value| !value.is_null())
    }

    /// An integer of at least `lowest`.
    pub(super) fn integer(&mut self, name: &'static str, lowest: usize) -> Result<Option<usize>, ParamError> {
        self.parse(name, &format!("an integer of at least {lowest}"), |value| {
            value.as_u64().and_then(|number| usize::try_from(number).ok()).filter(|number| *number >= lowest)
        })
    }

    /// A finite number for which `is_in_range` holds, in words `range`.
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

    /// A value of any kind; `None` of `parse` is an error that says what `range` is.
    pub(super) fn parse<T>(
        &mut self,
        name: &'static str,
        range: &str,
        parse: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>, ParamError> {
        let Some(value) = self.value(name) else { return Ok(None) };
        parse(value).map(Some).ok_or_else(|| self.out_of_range(name, range))
    }

    /// The error for the value that the request gives.
    pub(super) fn out_of_range(&self, name: &'static str, range: &str) -> ParamError {
        let value = self.given.get(name).map_or_else(|| "missing".to_owned(), |value| shorten(&value.to_string()));
        ParamError::OutOfRange { name, value, range: range.to_owned() }
    }

    /// Runs `read` and says which of the names that it asked for are given.
    pub(super) fn noting_given<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, ParamError>,
    ) -> Result<(T, Vec<&'static str>), ParamError> {
        let before = self.asked.len();
        let result = read(self)?;
        let is_given = |name: &&'static str| self.given.get(*name).is_some_and(|value| !value.is_null());
        Ok((result, self.asked[before..].iter().copied().filter(is_given).collect()))
    }

    /// Refuses what nobody asked for.
    pub(super) fn finish(self) -> Result<(), ParamError> {
        match self.given.keys().find(|name| !self.asked.contains(&name.as_str())) {
            Some(name) => Err(ParamError::Unknown { name: shorten(name), known: self.asked.join(", ") }),
            None => Ok(()),
        }
    }
}

/// The object, empty for `null`.
pub(super) fn fields(value: &Value) -> Result<Map<String, Value>, ParamError> {
    match value {
        Value::Null => Ok(Map::new()),
        Value::Object(fields) => Ok(fields.clone()),
        other => Err(ParamError::NotAnObject { found: json_type(other) }),
    }
}

/// Enough to recognise a value in a message, and never a whole body.
fn shorten(text: &str) -> String {
    const SHOWN: usize = 40;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
