//! The body of `/v1/chat/completions`, parsed and checked. OpenAI's parameters become those of `generation`; whatever else
//! is given goes there as it is, so that beam search and the like can be asked for, and a misspelt name is refused.

use serde_json::{Map, Value, json};

use super::conversation::Conversation;
use super::error::{OpenAiError, Shown};
use crate::generation::{GenerationParams, ParamError};
use crate::json::{json_type, shorten};
use crate::server::body::parse_object;

/// OpenAI's limits.
const MAX_CHOICES: u64 = 128;
const MAX_STOPS: usize = 4;
const MAX_STOP_BYTES: usize = 256;

/// Fields that are accepted because clients send them, and have no effect.
const HARMLESS: [&str; 9] = [
    "user",
    "store",
    "metadata",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "parallel_tool_calls",
    "prediction",
];

/// Names of the same thing; the engine's stands last.
const LENGTHS: [&str; 3] = ["max_completion_tokens", "max_tokens", "max_new_tokens"];
const NUMBERS: [&str; 2] = ["n", "num_return_sequences"];

/// A parsed request.
#[derive(Debug)]
pub(super) struct ChatRequest {
    pub(super) conversation: Conversation,
    pub(super) params: GenerationParams,
    /// Strings at which the answer ends, without them.
    pub(super) stops: Vec<Vec<u8>>,
    /// `None` for an answer in one piece.
    pub(super) stream: Option<StreamOptions>,
}

/// How an answer is streamed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct StreamOptions {
    pub(super) include_usage: bool,
}

/// Names under which a model is served: its own, and its checkpoint's.
#[derive(Debug, Clone)]
pub(super) struct ModelNames {
    pub(super) name: String,
    pub(super) checkpoint: Option<String>,
}

impl ModelNames {
    pub(super) fn check(&self, asked: &str) -> Result<(), OpenAiError> {
        if asked == self.name || self.checkpoint.as_deref() == Some(asked) {
            Ok(())
        } else {
            Err(OpenAiError::no_such_model(asked, &self.name))
        }
    }
}

impl ChatRequest {
    /// Reads a body. Call it where blocking is allowed.
    pub(super) fn parse(
        body: &[u8],
        names: &ModelNames,
        parse_params: impl Fn(&Value) -> Result<GenerationParams, ParamError>,
    ) -> Result<Self, OpenAiError> {
        let mut fields = Fields(parse_object(body)?);
        match fields.take("model") {
            None => {}
            Some(Value::String(model)) => names.check(&model)?,
            Some(other) => return Err(wrong("model", &other, "a string")),
        }
        let messages = fields.take("messages");
        fields.refuse_unsupported()?;
        let stream = fields.stream()?;
        let stops = fields.stops()?;
        let sent = fields.0.clone();
        let params = parse_params(&fields.into_generation(&stops)?).map_err(|error| param_error(error, &sent))?;
        let params = if stops.is_empty() { params } else { params.with_stop_strings_in_answer() };
        let stops = stops.into_iter().map(String::into_bytes).collect();
        Ok(Self { conversation: Conversation::parse(messages.as_ref())?, params, stops, stream })
    }
}

/// The parameters of a request, fewer and fewer.
struct Fields(Map<String, Value>);

impl Fields {
    /// A value that the request gives; `null` is none.
    fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name).filter(|value| !value.is_null())
    }

    fn boolean(&mut self, name: &str) -> Result<Option<bool>, OpenAiError> {
        let value = self.take(name);
        value.map(|value| value.as_bool().ok_or_else(|| wrong(name, &value, "true or false"))).transpose()
    }

    fn number(&mut self, name: &str, lowest: f64, highest: f64) -> Result<Option<f64>, OpenAiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let number = value.as_f64().filter(|number| (lowest..=highest).contains(number));
        number.map(Some).ok_or_else(|| wrong(name, &value, &format!("a number from {lowest} to {highest}")))
    }

    /// Parameters that have several names.
    fn one_of(&mut self, names: &[&'static str]) -> Result<Option<Value>, OpenAiError> {
        let mut given: Option<(&str, Value)> = None;
        for name in names {
            let Some(value) = self.take(name) else { continue };
            match &given {
                Some((first, known)) if *known != value => {
                    return Err(OpenAiError::invalid(
                        *name,
                        format!("{first} and {name} mean the same; send one of them"),
                    ));
                }
                Some(_) => {}
                None => given = Some((name, value)),
            }
        }
        Ok(given.map(|(_, value)| value))
    }

    /// Drops what does not ask for anything, and refuses what asks for something that there is not.
    fn refuse_unsupported(&mut self) -> Result<(), OpenAiError> {
        for name in HARMLESS {
            self.take(name);
        }
        type Asks = fn(&Value) -> bool;
        let cases: [(&str, Asks, &str); 16] = [
            ("response_format", |value| value["type"] != "text", "answers are plain text"),
            ("tools", is_something, "this model uses no tools"),
            ("tool_choice", |value| value != "none" && value != "auto", "this model uses no tools"),
            ("functions", is_something, "this model calls no functions"),
            ("function_call", |value| value != "none" && value != "auto", "this model calls no functions"),
            ("modalities", |value| *value != json!(["text"]), "answers are plain text"),
            ("audio", is_something, "answers are plain text"),
            ("logit_bias", is_something, "`bad_words` and `bad_words_ids` can forbid words"),
            ("web_search_options", is_something, "this model searches nothing"),
            ("reasoning_effort", |value| value != "none", "this model does not reason"),
            ("verbosity", |value| value != "medium", "this model knows no instructions"),
            ("frequency_penalty", is_not_zero, "`repetition_penalty` is"),
            ("presence_penalty", is_not_zero, "`repetition_penalty` is"),
            ("best_of", |value| *value != json!(1), "`num_beams` searches for better answers"),
            ("echo", |value| *value != json!(false), "answers are the new text alone"),
            ("prompt", is_something, "send `messages`"),
        ];
        for (name, asks, remark) in cases {
            if self.take(name).is_some_and(|value| asks(&value)) {
                return Err(OpenAiError::unsupported(name, format!("{name} is not supported; {remark}")));
            }
        }
        Ok(())
    }

    fn stream(&mut self) -> Result<Option<StreamOptions>, OpenAiError> {
        let is_streamed = self.boolean("stream")?.unwrap_or(false);
        let Some(options) = self.take("stream_options") else {
            return Ok(is_streamed.then_some(StreamOptions { include_usage: false }));
        };
        if !is_streamed {
            return Err(OpenAiError::invalid("stream_options", "stream_options is only for answers with stream: true"));
        }
        let Value::Object(options) = options else { return Err(wrong("stream_options", &options, "an object")) };
        let mut options = Self(options);
        options.take("include_obfuscation");
        let include_usage = options.boolean("include_usage")?.unwrap_or(false);
        if let Some(name) = options.0.keys().next() {
            let name = shorten(name);
            let message = format!("stream_options: unknown parameter {name:?}; known is include_usage");
            return Err(OpenAiError::unknown(format!("stream_options.{name}"), message));
        }
        Ok(Some(StreamOptions { include_usage }))
    }

    fn stops(&mut self) -> Result<Vec<String>, OpenAiError> {
        let Some(stop) = self.take("stop") else { return Ok(Vec::new()) };
        if self.0.get("stop_strings").is_some_and(|strings| !strings.is_null()) {
            let message = "stop cuts its strings from the answer and stop_strings keeps them; send one of them";
            return Err(OpenAiError::invalid("stop_strings", message));
        }
        let strings = match &stop {
            Value::String(_) => std::slice::from_ref(&stop),
            Value::Array(strings) if strings.len() <= MAX_STOPS => strings,
            _ => &[Value::Null],
        };
        let string = |string: &Value| {
            let string = string.as_str().filter(|string| (1..=MAX_STOP_BYTES).contains(&string.len()));
            string.map(str::to_owned)
        };
        strings.iter().map(string).collect::<Option<Vec<_>>>().ok_or_else(|| {
            let range = format!("a string or a list of at most {MAX_STOPS}, each of 1 to {MAX_STOP_BYTES} bytes");
            wrong("stop", &stop, &range)
        })
    }

    /// The remaining parameters, under the names of `generation`.
    ///
    /// Without a temperature answers are greedy, so that they can be repeated. A request samples when it gives a
    /// temperature above 0, or, without one, asks for what only samples give: several choices, or a `top_p`. Several
    /// choices at temperature 0 are the best that beam search finds.
    fn into_generation(mut self, stops: &[String]) -> Result<Value, OpenAiError> {
        let temperature = self.number("temperature", 0.0, 2.0)?;
        let top_p = self.number("top_p", 0.0, 1.0)?;
        let seed = self.seed()?;
        let max_new_tokens = self.one_of(&LENGTHS)?;
        let choices = self.choices()?;
        let beams = self.0.get("num_beams").and_then(Value::as_u64).unwrap_or(1);

        let is_sampled = match (self.boolean("do_sample")?, temperature) {
            (Some(is_sampled), _) => is_sampled,
            (None, Some(temperature)) => temperature > 0.0,
            (None, None) => beams <= 1 && (choices > 1 || top_p.is_some_and(|top_p| top_p < 1.0)),
        };
        if let Some(max_new_tokens) = max_new_tokens {
            self.set("max_new_tokens", max_new_tokens);
        }
        if !stops.is_empty() {
            self.set("stop_strings", stops);
        }
        self.set("do_sample", is_sampled);
        self.set("num_return_sequences", choices);
        if is_sampled {
            // Null is the default.
            self.set("temperature", temperature);
            self.set("top_p", top_p);
            self.set("seed", seed);
            // OpenAI's samples come from all tokens.
            self.set_default("top_k", 0);
        } else if choices > 1 {
            self.set_default("num_beams", choices);
        }
        Ok(Value::Object(self.0))
    }

    fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.0.insert(name.to_owned(), value.into());
    }

    fn set_default(&mut self, name: &str, value: impl Into<Value>) {
        if self.0.get(name).is_none_or(Value::is_null) {
            self.set(name, value);
        }
    }

    /// OpenAI's seeds may be negative.
    fn seed(&mut self) -> Result<Option<u64>, OpenAiError> {
        let Some(seed) = self.take("seed") else { return Ok(None) };
        let number = seed.as_u64().or_else(|| seed.as_i64().map(i64::cast_unsigned));
        number.map(Some).ok_or_else(|| wrong("seed", &seed, "an integer of 64 bits"))
    }

    fn choices(&mut self) -> Result<u64, OpenAiError> {
        let Some(choices) = self.one_of(&NUMBERS)? else { return Ok(1) };
        let number = choices.as_u64().filter(|number| (1..=MAX_CHOICES).contains(number));
        number.ok_or_else(|| wrong("n", &choices, &format!("an integer from 1 to {MAX_CHOICES}")))
    }
}

fn is_something(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        _ => true,
    }
}

fn is_not_zero(value: &Value) -> bool {
    value.as_f64() != Some(0.0)
}

fn wrong(name: &str, value: &Value, range: &str) -> OpenAiError {
    let found = match value {
        Value::Array(_) | Value::Object(_) => json_type(value).to_owned(),
        value => Shown(value).to_string(),
    };
    OpenAiError::invalid(name, format!("{name} is {found}, but must be {range}"))
}

/// A fault that `generation` finds, in the names that the request uses.
fn param_error(error: ParamError, sent: &Map<String, Value>) -> OpenAiError {
    let as_sent = |name: &'static str| {
        let same = [LENGTHS.as_slice(), &NUMBERS].into_iter().find(|names| names.contains(&name)).unwrap_or(&[]);
        same.iter().copied().find(|name| sent.contains_key(*name)).unwrap_or(name)
    };
    match error {
        ParamError::OutOfRange { name, value, range } => {
            let name = as_sent(name);
            OpenAiError::invalid(name, format!("{name} is {value}, but must be {range}"))
        }
        ParamError::Unknown { name, .. } => {
            let message = format!("unknown parameter {name:?}; docs/openai.md lists those that are known");
            OpenAiError::unknown(name, message)
        }
        error @ ParamError::NotAnObject { .. } => OpenAiError::invalid("params", error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::GenerationDefaults;
    use crate::generation::letters;

    fn parse(mut fields: Value) -> Result<ChatRequest, (String, String)> {
        let image = json!({"type": "image_url", "image_url": {"url": "QUJD"}});
        if fields.get("messages").is_none() {
            fields["messages"] = json!([{"role": "user", "content": [image]}]);
        }
        let names = ModelNames { name: "served".into(), checkpoint: Some("some/checkpoint".into()) };
        let parse_params =
            |params: &Value| GenerationParams::parse(params, GenerationDefaults { max_new_tokens: 20 }, &letters());
        ChatRequest::parse(fields.to_string().as_bytes(), &names, parse_params).map_err(|error| {
            let body = error.body();
            let field = |name: &str| body["error"][name].as_str().unwrap_or_default().to_owned();
            (field("param"), field("message"))
        })
    }

    fn params(fields: Value) -> GenerationParams {
        parse(fields).unwrap().params
    }

    #[test]
    fn answers_are_greedy_unless_a_request_asks_for_samples() {
        for greedy in [
            json!({}),
            json!({"temperature": 0, "top_p": 0.5, "seed": 3}),
            json!({"top_p": 1, "n": 1}),
            json!({"temperature": 0.7, "do_sample": false}),
            json!({"temperature": null, "n": null}),
        ] {
            let params = params(greedy.clone());
            assert!(!params.do_sample && params.num_beams == 1, "{greedy}");
            assert!(params.warnings.is_empty(), "{greedy}: {:?}", params.warnings);
        }
        for sampled in [
            json!({"temperature": 0.7}),
            json!({"top_p": 0.9}),
            json!({"n": 2}),
            json!({"do_sample": true, "num_return_sequences": 2}),
        ] {
            let params = params(sampled.clone());
            assert!(params.do_sample && params.num_beams == 1, "{sampled}");
            assert_eq!(
                params.num_return_sequences == 2,
                sampled.as_object().unwrap().keys().any(|key| key.starts_with('n'))
            );
        }
    }

    #[test]
    fn several_choices_at_temperature_0_are_the_best_beams() {
        for beams in [
            json!({"n": 3, "temperature": 0}),
            json!({"n": 3, "num_beams": 3}),
            json!({"n": 3, "num_beams": 3, "temperature": 0}),
        ] {
            let params = params(beams.clone());
            assert_eq!((params.do_sample, params.num_beams, params.num_return_sequences), (false, 3, 3), "{beams}");
        }
        let params = params(json!({"num_beams": 3, "temperature": 1}));
        assert_eq!((params.do_sample, params.num_beams), (true, 3), "beams that are sampled");
    }

    #[test]
    fn lengths_go_by_three_names() {
        for name in LENGTHS {
            assert_eq!(params(json!({name: 7})).max_new_tokens, 7);
        }
        assert_eq!(params(json!({"max_tokens": 7, "max_completion_tokens": 7})).max_new_tokens, 7);
        assert_eq!(params(json!({})).max_new_tokens, 20);
    }

    #[test]
    fn a_seed_may_be_negative() {
        let seed = |seed: Value| params(json!({"temperature": 1, "seed": seed})).seed;
        assert_eq!((seed(json!(7)), seed(json!(-1)), seed(json!(u64::MAX))), (Some(7), Some(u64::MAX), Some(u64::MAX)));
    }

    #[test]
    fn stop_strings_are_one_or_up_to_four() {
        let stops = |stop: Value| parse(json!({"stop": stop})).unwrap().stops;
        assert_eq!(stops(json!("ab")), [b"ab"]);
        assert_eq!(stops(json!(["ab", "c"])), [b"ab".to_vec(), b"c".to_vec()]);
        assert!(stops(json!(null)).is_empty() && stops(json!([])).is_empty());
    }

    #[test]
    fn usage_is_streamed_when_it_is_asked_for() {
        let stream = |fields: Value| parse(fields).unwrap().stream.map(|options| options.include_usage);
        assert_eq!(stream(json!({"stream": false, "stream_options": null})), None);
        assert_eq!(stream(json!({"stream": true})), Some(false));
        let options = json!({"include_usage": true, "include_obfuscation": false});
        assert_eq!(stream(json!({"stream": true, "stream_options": options})), Some(true));
    }

    #[test]
    fn what_asks_for_nothing_is_taken() {
        let fields = json!({
            "model": "some/checkpoint", "user": "me", "store": true, "metadata": {"a": "b"}, "service_tier": "auto",
            "tools": [], "tool_choice": "none", "functions": null, "response_format": {"type": "text"}, "logit_bias": {},
            "frequency_penalty": 0, "presence_penalty": 0.0, "modalities": ["text"], "parallel_tool_calls": true,
            "logprobs": false, "top_logprobs": null, "verbosity": "medium",
        });
        assert!(params(fields).warnings.is_empty());
    }

    #[test]
    fn what_the_engine_knows_is_passed_on() {
        let params = params(json!({"num_beams": 4, "length_penalty": -1, "early_stopping": true, "min_new_tokens": 2}));
        assert_eq!((params.num_beams, params.length_penalty), (4, -1.0));
        assert_eq!(params.early_stopping, crate::generation::EarlyStopping::Yes);
    }

    #[test]
    fn a_fault_is_named_as_the_request_calls_it() {
        let cases = [
            (json!({"model": "gpt-4o"}), "model", "The model `gpt-4o` does not exist"),
            (json!({"model": ""}), "model", "does not exist"),
            (json!({"model": 1}), "model", "model is 1, but must be a string"),
            (json!({"messages": null}), "messages", "messages is missing"),
            (json!({"max_tokens": 0}), "max_tokens", "max_tokens is 0, but must be an integer of at least 1"),
            (json!({"max_completion_tokens": "x"}), "max_completion_tokens", "max_completion_tokens is \"x\""),
            (json!({"max_tokens": 5, "max_completion_tokens": 6}), "max_tokens", "mean the same"),
            (json!({"temperature": -0.1}), "temperature", "a number from 0 to 2"),
            (json!({"temperature": "warm"}), "temperature", "temperature is \"warm\""),
            (json!({"temperature": 0, "do_sample": true}), "temperature", "above 0"),
            (json!({"top_p": 1.1}), "top_p", "a number from 0 to 1"),
            (json!({"n": 0}), "n", "an integer from 1 to 128"),
            (json!({"n": 129}), "n", "an integer from 1 to 128"),
            (json!({"n": 3, "num_beams": 2}), "n", "at most num_beams, which is 2"),
            (json!({"n": 2, "num_return_sequences": 3}), "num_return_sequences", "mean the same"),
            (json!({"seed": 0.5}), "seed", "an integer of 64 bits"),
            (json!({"stop": ""}), "stop", "at most 4"),
            (json!({"stop": [1]}), "stop", "stop is a list, but must be"),
            (json!({"stop": ["a", "b", "c", "d", "e"]}), "stop", "at most 4"),
            (json!({"stop": "a", "stop_strings": "b"}), "stop_strings", "send one of them"),
            (json!({"logprobs": 5}), "logprobs", "true or false"),
            (json!({"top_logprobs": 5}), "top_logprobs", "0 unless logprobs is true"),
            (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs", "at most 20"),
            (json!({"stream": "yes"}), "stream", "true or false"),
            (json!({"stream_options": {}}), "stream_options", "only for answers with stream"),
            (json!({"stream": true, "stream_options": 1}), "stream_options", "an object"),
            (json!({"stream": true, "stream_options": {"x": 1}}), "stream_options.x", "unknown parameter \"x\""),
            (json!({"frequency_penalty": 0.5}), "frequency_penalty", "not supported"),
            (json!({"presence_penalty": "0"}), "presence_penalty", "not supported"),
            (json!({"response_format": {"type": "json_object"}}), "response_format", "plain text"),
            (json!({"response_format": "text"}), "response_format", "plain text"),
            (json!({"tools": [{}]}), "tools", "uses no tools"),
            (json!({"tool_choice": "required"}), "tool_choice", "uses no tools"),
            (json!({"functions": [{}]}), "functions", "calls no functions"),
            (json!({"logit_bias": {"5": 1}}), "logit_bias", "bad_words"),
            (json!({"num_beam": 3}), "num_beam", "unknown parameter \"num_beam\""),
            (json!({"num_beams": 0}), "num_beams", "num_beams is 0"),
        ];
        for (fields, param, part) in cases {
            let (found, message) = parse(fields.clone()).unwrap_err();
            assert_eq!(found, param, "{fields}: {message}");
            assert!(message.contains(part) && message.len() < 300, "{fields}: {message}");
        }
    }

    #[test]
    fn every_parameter_of_the_description_is_known_and_its_example_is_taken() {
        use utoipa::PartialSchema as _;

        let schema = json!(super::super::schema::ChatCompletionRequest::schema());
        for name in schema["properties"].as_object().unwrap().keys().filter(|name| *name != "messages") {
            assert!(parse(json!({name: null})).is_ok(), "{name}");
        }
        let mut example = schema["example"].clone();
        example["model"] = json!("served");
        assert!(parse(example).is_ok());
    }
}
