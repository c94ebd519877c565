//! Generation parameters under transformers' names, parsed from JSON. Unknown ones, and values out
//! of range, are rejected by name.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::Vocabulary;
use super::processors::Processors;
use super::reader::{ParamError, ParamReader, fields};
use super::stopping::Stopping;
use crate::bundle::GenerationDefaults;

/// Limits the work after every token.
const MAX_STOP_STRINGS: usize = 16;
const MAX_STOP_STRING_BYTES: usize = 256;

/// OpenAI's limit.
const MAX_TOP_LOGPROBS: usize = 20;

/// The rule by which beam search stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EarlyStopping {
    /// Stops when there are as many finished answers as beams.
    Yes,
    /// Stops when no beam can become better than the finished answers at its present length, which
    /// is a heuristic.
    No,
    /// Stops when no beam can become better than the finished answers at any length.
    Never,
}

/// The generation parameters of a request. Every field is in range.
#[derive(Debug, Clone)]
pub struct GenerationParams {
    /// The most new tokens; at least 1.
    pub max_new_tokens: usize,
    /// Whether tokens are drawn by their probability; otherwise the most likely one is taken.
    pub do_sample: bool,
    /// The beams of beam search; 1 for no beam search.
    pub num_beams: usize,
    /// The sequences to return: at most `num_beams`, or any number of samples.
    pub num_return_sequences: usize,
    /// The exponent of the length in `score`.
    pub length_penalty: f32,
    /// The rule by which beam search stops.
    pub early_stopping: EarlyStopping,
    /// The seed of sampling. The engine draws one if it is absent.
    pub seed: Option<u64>,
    /// Whether an answer over HTTP carries token ids, log-probabilities and score.
    pub logprobs: bool,
    /// The number of most likely tokens to report at each position.
    pub top_logprobs: usize,
    /// Warnings about parameters without effect.
    pub warnings: Vec<String>,
    pub(super) stopping: Stopping,
    pub(super) processors: Processors,
}

impl GenerationParams {
    /// Returns the parameters of a request that names none.
    #[must_use]
    pub fn new(defaults: GenerationDefaults, vocabulary: &Arc<dyn Vocabulary>) -> Self {
        Self::read(&Map::new(), defaults, vocabulary).expect("the defaults are in range")
    }

    /// Reads a JSON object over the defaults; `null` is an empty one.
    ///
    /// # Errors
    /// [`ParamError`] for the first parameter that is unknown or out of range.
    pub fn parse(
        value: &Value,
        defaults: GenerationDefaults,
        vocabulary: &Arc<dyn Vocabulary>,
    ) -> Result<Self, ParamError> {
        Self::read(&fields(value)?, defaults, vocabulary)
    }

    fn read(
        given: &Map<String, Value>,
        defaults: GenerationDefaults,
        vocabulary: &Arc<dyn Vocabulary>,
    ) -> Result<Self, ParamError> {
        let mut reader = ParamReader::new(given, vocabulary);
        let max_new_tokens = reader.integer("max_new_tokens", 1)?.unwrap_or(defaults.max_new_tokens);
        let do_sample = reader.boolean("do_sample")?.unwrap_or(false);
        let num_beams = reader.integer("num_beams", 1)?.unwrap_or(1);
        // With beams a filter must leave two tokens: a single one could be the end token.
        reader.max_new_tokens = max_new_tokens;
        reader.min_tokens_to_keep = if num_beams > 1 { 2 } else { 1 };
        let (processors, idle) = Processors::read(&mut reader, do_sample)?;
        let params = Self {
            max_new_tokens,
            do_sample,
            num_beams,
            num_return_sequences: num_return_sequences(&mut reader, do_sample, num_beams)?,
            length_penalty: reader.number("length_penalty", "a number", |_| true)?.unwrap_or(1.0),
            early_stopping: early_stopping(&mut reader)?,
            seed: reader.parse("seed", "an integer from 0 to 2^64 - 1", Value::as_u64)?,
            logprobs: reader.boolean("logprobs")?.unwrap_or(false),
            top_logprobs: top_logprobs(&mut reader)?,
            warnings: warnings(given, do_sample, num_beams, &idle),
            stopping: Stopping {
                eos_token_id: vocabulary.eos_token_id(),
                max_new_tokens,
                strings: stop_strings(&mut reader)?,
                may_begin_in_prompt: true,
                vocabulary: Arc::clone(vocabulary),
            },
            processors,
        };
        if params.top_logprobs > 0 && !params.logprobs {
            return Err(reader.out_of_range("top_logprobs", "0 unless logprobs is true"));
        }
        reader.finish()?;
        Ok(params)
    }

    /// Restricts the search for stop strings to the answer. In transformers one may begin in the
    /// prompt.
    #[must_use]
    pub fn with_stop_strings_in_answer(mut self) -> Self {
        self.stopping.may_begin_in_prompt = false;
        self
    }

    /// Returns the most rows that the request occupies.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.num_beams.max(self.num_return_sequences)
    }
}

fn num_return_sequences(reader: &mut ParamReader<'_>, do_sample: bool, num_beams: usize) -> Result<usize, ParamError> {
    let number = reader.integer("num_return_sequences", 1)?.unwrap_or(1);
    if num_beams > 1 && number > num_beams {
        return Err(reader.out_of_range("num_return_sequences", &format!("at most num_beams, which is {num_beams}")));
    }
    if num_beams == 1 && !do_sample && number > 1 {
        return Err(reader.out_of_range("num_return_sequences", "1 unless do_sample is true or num_beams is above 1"));
    }
    Ok(number)
}

fn early_stopping(reader: &mut ParamReader<'_>) -> Result<EarlyStopping, ParamError> {
    let parsed = reader.parse("early_stopping", "true, false or \"never\"", |value| match value {
        Value::Bool(true) => Some(EarlyStopping::Yes),
        Value::Bool(false) => Some(EarlyStopping::No),
        Value::String(word) if word == "never" => Some(EarlyStopping::Never),
        _ => None,
    })?;
    Ok(parsed.unwrap_or(EarlyStopping::No))
}

fn top_logprobs(reader: &mut ParamReader<'_>) -> Result<usize, ParamError> {
    let number = reader.integer("top_logprobs", 0)?.unwrap_or(0);
    if number > MAX_TOP_LOGPROBS {
        return Err(reader.out_of_range("top_logprobs", &format!("at most {MAX_TOP_LOGPROBS}")));
    }
    Ok(number)
}

/// Reads one string or a list of strings.
fn stop_strings(reader: &mut ParamReader<'_>) -> Result<Vec<Vec<u8>>, ParamError> {
    let range =
        format!("a string or a list of at most {MAX_STOP_STRINGS} strings, each of 1 to {MAX_STOP_STRING_BYTES} bytes");
    let parsed = reader.parse("stop_strings", &range, |value| {
        let strings = match value {
            Value::String(_) => std::slice::from_ref(value),
            Value::Array(strings) if strings.len() <= MAX_STOP_STRINGS => strings,
            _ => return None,
        };
        strings.iter().map(stop_string).collect()
    })?;
    Ok(parsed.unwrap_or_default())
}

fn stop_string(value: &Value) -> Option<Vec<u8>> {
    let string = value.as_str()?;
    (1..=MAX_STOP_STRING_BYTES).contains(&string.len()).then(|| string.as_bytes().to_vec())
}

fn warnings(given: &Map<String, Value>, do_sample: bool, num_beams: usize, idle: &[&'static str]) -> Vec<String> {
    let mut warnings: Vec<String> =
        idle.iter().map(|name| format!("{name} has no effect, because do_sample is false")).collect();
    let is_given = |name: &str| given.get(name).is_some_and(|value| !value.is_null() && value != &Value::Bool(false));
    if is_given("seed") && !do_sample {
        warnings.push("seed has no effect, because do_sample is false".into());
    }
    if is_given("early_stopping") && num_beams == 1 {
        warnings.push("early_stopping has no effect, because num_beams is 1".into());
    }
    warnings
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::generation::sampling_tests::letters;

    const DEFAULTS: GenerationDefaults = GenerationDefaults { max_new_tokens: 20 };

    fn parse(value: Value) -> Result<GenerationParams, String> {
        GenerationParams::parse(&value, DEFAULTS, &letters()).map_err(|error| error.to_string())
    }

    #[test]
    fn null_and_an_empty_object_are_the_defaults() {
        for value in [Value::Null, json!({}), json!({"num_beams": null, "top_p": null})] {
            let params = parse(value).unwrap();
            assert_eq!((params.max_new_tokens, params.num_beams, params.do_sample), (20, 1, false));
            assert_eq!((params.length_penalty, params.early_stopping, params.rows()), (1.0, EarlyStopping::No, 1));
            assert!(params.warnings.is_empty());
        }
    }

    #[test]
    fn every_parameter_is_read() {
        let params = parse(json!({
            "max_new_tokens": 7, "min_new_tokens": 2, "repetition_penalty": 1.5, "no_repeat_ngram_size": 3,
            "length_penalty": -1, "logprobs": true, "top_logprobs": 5, "num_beams": 4, "do_sample": true,
            "num_return_sequences": 3, "early_stopping": "never", "seed": 7, "temperature": 0.7, "top_k": 10, "top_p": 0.9,
            "min_p": 0.1, "typical_p": 0.8, "stop_strings": ["a", "bc"], "bad_words": ["x"], "bad_words_ids": [[1, 2]],
        }))
        .unwrap();
        assert_eq!((params.max_new_tokens, params.num_beams, params.num_return_sequences), (7, 4, 3));
        assert_eq!((params.length_penalty, params.early_stopping, params.seed), (-1.0, EarlyStopping::Never, Some(7)));
        assert_eq!((params.logprobs, params.top_logprobs, params.rows()), (true, 5, 4));
        assert_eq!(params.stopping.strings, [b"a".to_vec(), b"bc".to_vec()]);
        assert!(params.warnings.is_empty());
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
            (json!({"length_penalty": "long"}), "length_penalty is \"long\", but must be a number"),
            (json!({"logprobs": 1}), "logprobs is 1, but must be true or false"),
            (json!({"top_logprobs": 3}), "top_logprobs is 3, but must be 0 unless logprobs is true"),
            (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs is 21, but must be at most 20"),
            (json!({"num_beams": 0}), "num_beams is 0, but must be an integer of at least 1"),
            (json!({"num_return_sequences": 2}), "num_return_sequences is 2, but must be 1 unless do_sample"),
            (json!({"num_beams": 2, "num_return_sequences": 3}), "must be at most num_beams, which is 2"),
            (
                json!({"do_sample": true, "temperature": 0}),
                "temperature is 0, but must be a number above 0; for greedy",
            ),
            (json!({"temperature": -1}), "temperature is -1"),
            (json!({"top_k": -1}), "top_k is -1, but must be an integer of at least 0"),
            (json!({"top_p": 1.5}), "top_p is 1.5, but must be a number from 0 to 1"),
            (json!({"min_p": -0.1}), "min_p is -0.1, but must be a number from 0 to 1"),
            (json!({"typical_p": 0}), "typical_p is 0, but must be a number above 0 and at most 1"),
            (json!({"early_stopping": "soon"}), "early_stopping is \"soon\", but must be true, false or \"never\""),
            (json!({"seed": -1}), "seed is -1"),
            (json!({"stop_strings": [""]}), "stop_strings is [\"\"], but must be a string or a list"),
            (json!({"stop_strings": 1}), "stop_strings is 1"),
            (json!({"bad_words_ids": [[]]}), "bad_words_ids is [[]], but must be a list of 1 to 1024 lists"),
            (json!({"bad_words_ids": [[-1]]}), "bad_words_ids is [[-1]]"),
            (json!({"bad_words_ids": []}), "bad_words_ids is []"),
            (json!({"bad_words": "no"}), "bad_words is \"no\", but must be a list of 1 to 1024 words"),
            (json!({"max_tokens": 5}), "unknown parameter \"max_tokens\"; known are max_new_tokens, do_sample"),
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

    #[test]
    fn what_has_no_effect_is_warned_of() {
        let params = parse(json!({"temperature": 0.5, "top_k": 3, "seed": 1, "early_stopping": true})).unwrap();
        let named: Vec<&str> = params.warnings.iter().filter_map(|warning| warning.split(' ').next()).collect();
        assert_eq!(named, ["temperature", "top_k", "seed", "early_stopping"]);
    }
}
