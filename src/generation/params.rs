//! Generation parameters under transformers' names, parsed from JSON: what is unknown or out of range is refused by name.

use serde_json::{Map, Value};

use crate::bundle::GenerationDefaults;
use crate::json::json_type;

/// How an answer is to be generated. Every field is in range.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerationParams {
    /// New tokens at most; at least 1.
    pub max_new_tokens: usize,
    /// The end token is forbidden before this many new tokens exist.
    pub min_new_tokens: usize,
    /// Above 1 discourages tokens that the row already holds; 1 is off.
    pub repetition_penalty: f32,
    /// No n-gram of this size occurs twice in the row; 0 is off.
    pub no_repeat_ngram_size: usize,
    /// The exponent of the length in `score`.
    pub length_penalty: f32,
    /// Whether an answer over HTTP carries token ids, log-probabilities and score.
    pub logprobs: bool,
}

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
        range: &'static str,
    },
}

/// Parameters that exist in transformers and that this version knows at their neutral value only: greedy search.
const NEUTRAL: [(&str, &str); 3] = [
    ("do_sample", "false: this version generates greedily"),
    ("num_beams", "1: this version generates greedily"),
    ("num_return_sequences", "1: this version generates greedily"),
];

const NAMES: [&str; 6] =
    ["max_new_tokens", "min_new_tokens", "repetition_penalty", "no_repeat_ngram_size", "length_penalty", "logprobs"];

impl GenerationParams {
    /// The parameters of a request that names none.
    #[must_use]
    pub fn new(defaults: GenerationDefaults) -> Self {
        Self {
            max_new_tokens: defaults.max_new_tokens,
            min_new_tokens: 0,
            repetition_penalty: 1.0,
            no_repeat_ngram_size: 0,
            length_penalty: 1.0,
            logprobs: false,
        }
    }

    /// Reads a JSON object over the defaults; `null` is an empty one.
    ///
    /// # Errors
    /// [`ParamError`] for the first parameter that is unknown or out of range.
    pub fn parse(value: &Value, defaults: GenerationDefaults) -> Result<Self, ParamError> {
        let mut params = Self::new(defaults);
        match value {
            Value::Null => Ok(params),
            Value::Object(fields) => {
                for (name, value) in fields {
                    params.set(name, value)?;
                }
                params.check_together(fields)?;
                Ok(params)
            }
            other => Err(ParamError::NotAnObject { found: json_type(other) }),
        }
    }

    fn set(&mut self, name: &str, value: &Value) -> Result<(), ParamError> {
        match name {
            "max_new_tokens" => self.max_new_tokens = integer("max_new_tokens", value, 1, "an integer of at least 1")?,
            "min_new_tokens" => self.min_new_tokens = integer("min_new_tokens", value, 0, "an integer of at least 0")?,
            "no_repeat_ngram_size" => {
                self.no_repeat_ngram_size = integer("no_repeat_ngram_size", value, 0, "an integer of at least 0")?;
            }
            "repetition_penalty" => {
                let in_range = |penalty| penalty > 0.0;
                self.repetition_penalty = number("repetition_penalty", value, in_range, "a number above 0")?;
            }
            "length_penalty" => self.length_penalty = number("length_penalty", value, |_| true, "a number")?,
            "logprobs" => {
                let error = || out_of_range("logprobs", value, "true or false");
                self.logprobs = value.as_bool().ok_or_else(error)?;
            }
            _ => return check_neutral(name, value),
        }
        Ok(())
    }

    fn check_together(&self, fields: &Map<String, Value>) -> Result<(), ParamError> {
        match fields.get("min_new_tokens") {
            Some(value) if self.min_new_tokens > self.max_new_tokens => {
                Err(out_of_range("min_new_tokens", value, "at most max_new_tokens"))
            }
            _ => Ok(()),
        }
    }
}

fn check_neutral(name: &str, value: &Value) -> Result<(), ParamError> {
    let Some((name, range)) = NEUTRAL.into_iter().find(|(known, _)| *known == name) else {
        let names = NAMES.into_iter().chain(NEUTRAL.map(|(name, _)| name));
        let known = names.collect::<Vec<_>>().join(", ");
        return Err(ParamError::Unknown { name: shorten(name), known });
    };
    let is_neutral = if name == "do_sample" { value == &Value::Bool(false) } else { value.as_u64() == Some(1) };
    if is_neutral { Ok(()) } else { Err(out_of_range(name, value, range)) }
}

fn integer(name: &'static str, value: &Value, lowest: u64, range: &'static str) -> Result<usize, ParamError> {
    let number = value.as_u64().filter(|number| *number >= lowest);
    number.and_then(|number| usize::try_from(number).ok()).ok_or_else(|| out_of_range(name, value, range))
}

fn number(
    name: &'static str,
    value: &Value,
    in_range: impl Fn(f32) -> bool,
    range: &'static str,
) -> Result<f32, ParamError> {
    let number = value.as_f64().map(|number| number as f32).filter(|number| number.is_finite() && in_range(*number));
    number.ok_or_else(|| out_of_range(name, value, range))
}

fn out_of_range(name: &'static str, value: &Value, range: &'static str) -> ParamError {
    ParamError::OutOfRange { name, value: shorten(&value.to_string()), range }
}

/// Enough to recognise a value in a message, and never a whole body.
fn shorten(text: &str) -> String {
    const SHOWN: usize = 40;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const DEFAULTS: GenerationDefaults = GenerationDefaults { max_new_tokens: 20 };

    fn parse(value: Value) -> Result<GenerationParams, String> {
        GenerationParams::parse(&value, DEFAULTS).map_err(|error| error.to_string())
    }

    #[test]
    fn null_and_an_empty_object_are_the_defaults() {
        assert_eq!(parse(Value::Null).unwrap(), GenerationParams::new(DEFAULTS));
        assert_eq!(parse(json!({})).unwrap().max_new_tokens, 20);
    }

    #[test]
    fn every_parameter_is_read() {
        let params = parse(json!({
            "max_new_tokens": 7, "min_new_tokens": 2, "repetition_penalty": 1.5, "no_repeat_ngram_size": 3,
            "length_penalty": -1, "logprobs": true, "num_beams": 1, "do_sample": false, "num_return_sequences": 1,
        }));
        let expected = GenerationParams {
            max_new_tokens: 7,
            min_new_tokens: 2,
            repetition_penalty: 1.5,
            no_repeat_ngram_size: 3,
            length_penalty: -1.0,
            logprobs: true,
        };
        assert_eq!(params.unwrap(), expected);
    }

    #[test]
    fn a_bad_value_is_refused_with_name_value_and_range() {
        let cases = [
            (json!({"max_new_tokens": 0}), "max_new_tokens is 0, but must be an integer of at least 1"),
            (json!({"max_new_tokens": -5}), "max_new_tokens is -5"),
            (json!({"max_new_tokens": 2.5}), "max_new_tokens is 2.5"),
            (json!({"max_new_tokens": "five"}), "max_new_tokens is \"five\""),
            (json!({"max_new_tokens": true}), "max_new_tokens is true"),
            (
                json!({"max_new_tokens": 4, "min_new_tokens": 5}),
                "min_new_tokens is 5, but must be at most max_new_tokens",
            ),
            (json!({"repetition_penalty": 0}), "repetition_penalty is 0, but must be a number above 0"),
            (json!({"repetition_penalty": 1e300}), "repetition_penalty is 1e"),
            (json!({"no_repeat_ngram_size": -1}), "no_repeat_ngram_size is -1"),
            (json!({"length_penalty": null}), "length_penalty is null"),
            (json!({"logprobs": 1}), "logprobs is 1"),
            (json!({"num_beams": 5}), "num_beams is 5, but must be 1"),
            (json!({"do_sample": true}), "do_sample is true, but must be false"),
            (json!({"max_tokens": 5}), "unknown parameter \"max_tokens\"; known are max_new_tokens, min_new_tokens"),
            (json!([1]), "must be an object of generation parameters, not a list"),
        ];
        for (value, part) in cases {
            let message = parse(value.clone()).unwrap_err();
            assert!(message.contains(part), "{value}: {message}");
        }
    }

    #[test]
    fn a_long_value_is_shortened_in_the_message() {
        let message = parse(json!({"max_new_tokens": "x".repeat(10_000)})).unwrap_err();
        assert!(message.len() < 200, "{message}");
    }
}
