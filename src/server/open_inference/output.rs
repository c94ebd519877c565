//! Output tensors: which there are, which of them a request asks for, and how.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::error::bad;
use super::parameters::refuse_unknown;
use crate::engine::{Answer, AnswerSequence};
use crate::generation::StopReason;
use crate::json::{json_type, shorten};
use crate::server::HttpError;

/// The data type of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum Datatype {
    /// Strings of bytes.
    Bytes,
    /// 32-bit floating-point numbers.
    Fp32,
}

impl Datatype {
    /// As Triton's configurations call it.
    pub(super) fn in_config(self) -> &'static str {
        match self {
            Self::Bytes => "TYPE_STRING",
            Self::Fp32 => "TYPE_FP32",
        }
    }
}

/// A tensor of answers, with one element a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToSchema)]
#[schema(as = OutputName, rename_all = "snake_case")]
pub(super) enum Output {
    /// BYTES: the answer.
    Text,
    /// FP32: the score of the search.
    Score,
    /// FP32: the mean of the tokens' probabilities.
    MeanProbability,
    /// FP32: the smallest of the tokens' probabilities.
    MinProbability,
    /// BYTES: `eos`, `stop_string` or `length`.
    StopReason,
    /// BYTES: everything about the answer as JSON, its tokens, their probabilities, and warnings.
    Details,
}

/// A tensor that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RequestedOutput {
    pub(super) output: Output,
    /// Behind the JSON object instead of in it.
    pub(super) is_binary: bool,
}

/// The elements of a tensor of answers.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = OutputData)]
pub(super) enum Data {
    /// Of a BYTES tensor.
    Texts(Vec<String>),
    /// Of an FP32 tensor.
    Numbers(Vec<f32>),
}

/// Everything about an answer, for one element of `details`.
#[derive(Serialize)]
struct Details<'a> {
    #[serde(flatten)]
    best: &'a AnswerSequence,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    sequences: &'a [AnswerSequence],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    warnings: &'a [String],
}

impl Output {
    pub(super) const ALL: [Self; 6] =
        [Self::Text, Self::Score, Self::MeanProbability, Self::MinProbability, Self::StopReason, Self::Details];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Score => "score",
            Self::MeanProbability => "mean_probability",
            Self::MinProbability => "min_probability",
            Self::StopReason => "stop_reason",
            Self::Details => "details",
        }
    }

    pub(super) fn datatype(self) -> Datatype {
        match self {
            Self::Text | Self::StopReason | Self::Details => Datatype::Bytes,
            Self::Score | Self::MeanProbability | Self::MinProbability => Datatype::Fp32,
        }
    }

    /// The elements of this tensor.
    pub(super) fn data(self, answers: &[Answer]) -> Data {
        let texts = |of: fn(&Answer) -> String| Data::Texts(answers.iter().map(of).collect());
        let numbers = |of: fn(&Answer) -> f32| Data::Numbers(answers.iter().map(of).collect());
        match self {
            Self::Text => texts(|answer| answer.best.text.clone()),
            Self::Score => numbers(|answer| answer.best.score),
            Self::MeanProbability => numbers(|answer| answer.best.mean_probability),
            Self::MinProbability => numbers(|answer| answer.best.min_probability),
            Self::StopReason => texts(|answer| stop_reason(answer.best.stop_reason).to_owned()),
            Self::Details => texts(details),
        }
    }

    fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|output| output.name() == name)
    }
}

impl RequestedOutput {
    /// Reads `outputs`. Without it all are asked for, as the protocol says; `is_binary` is for those that do not say it.
    pub(super) fn read_all(outputs: Option<Value>, is_binary: bool) -> Result<Vec<Self>, HttpError> {
        let outputs = match outputs {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(outputs)) => outputs,
            Some(other) => return Err(bad(format!("outputs must be a list of tensors, not {}", json_type(&other)))),
        };
        if outputs.is_empty() {
            return Ok(Output::ALL.map(|output| Self { output, is_binary }).to_vec());
        }
        let mut requested: Vec<Self> = Vec::with_capacity(Output::ALL.len());
        for (number, output) in outputs.iter().enumerate() {
            let output = Self::read(output, is_binary).map_err(|reason| bad(format!("outputs[{number}]: {reason}")))?;
            if requested.iter().any(|other| other.output == output.output) {
                return Err(bad(format!("outputs[{number}]: {} is given twice", output.output.name())));
            }
            requested.push(output);
        }
        Ok(requested)
    }

    fn read(requested: &Value, is_binary: bool) -> Result<Self, String> {
        let Value::Object(fields) = requested else {
            return Err(format!("must be an object, not {}", json_type(requested)));
        };
        refuse_unknown(fields, &["name", "parameters"])?;
        let Some(Value::String(name)) = fields.get("name") else { return Err("name must be a string".into()) };
        let output = Output::of_name(name).ok_or_else(|| {
            let known = Output::ALL.map(Output::name).join(", ");
            format!("there is no output {:?}; known are {known}", shorten(name))
        })?;
        let parameters = match fields.get("parameters") {
            None | Some(Value::Null) => return Ok(Self { output, is_binary }),
            Some(Value::Object(parameters)) => parameters,
            Some(other) => return Err(format!("parameters must be an object, not {}", json_type(other))),
        };
        if parameters.contains_key("shared_memory_region") {
            return Err("shared memory is not supported; take the tensor from the body".into());
        }
        if parameters.get("classification").is_some_and(|count| count.as_u64() != Some(0)) {
            return Err("classification is not supported: the answers are no class probabilities".into());
        }
        refuse_unknown(parameters, &["binary_data", "classification"])
            .map_err(|reason| format!("parameters: {reason}"))?;
        match parameters.get("binary_data") {
            None | Some(Value::Null) => Ok(Self { output, is_binary }),
            Some(Value::Bool(is_binary)) => Ok(Self { output, is_binary: *is_binary }),
            Some(other) => Err(format!("binary_data must be true or false, not {}", json_type(other))),
        }
    }
}

fn stop_reason(reason: StopReason) -> &'static str {
    match reason {
        StopReason::Eos => "eos",
        StopReason::StopString => "stop_string",
        StopReason::Length => "length",
    }
}

fn details(answer: &Answer) -> String {
    let Answer { best, sequences, warnings, timings: _ } = answer;
    // Only a map with keys that are no strings could fail, and there is none.
    serde_json::to_string(&Details { best, sequences, warnings }).unwrap_or_default()
}
