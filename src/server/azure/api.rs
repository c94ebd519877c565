//! The scoring contract in the words of OpenAPI, for `/openapi.json`. Bodies are read and written by hand, so that faults
//! can be named; these types describe them and are never made.

use serde_json::Value;
use utoipa::ToSchema;

use crate::server::examples::EXAMPLE_IMAGE;

/// A request: rows of image and text, and how the answers are to be generated.
#[derive(ToSchema)]
#[schema(example = json!({
    "input_data": {
        "columns": ["image", "text"],
        "index": [0],
        "data": [[EXAMPLE_IMAGE, "Question: what is in the picture? Answer:"]],
    },
    "params": {"max_new_tokens": 20},
}))]
#[expect(dead_code, reason = "only described")]
pub(in crate::server) struct ScoreBody {
    input_data: Table,
    /// Generation parameters, under transformers' names; `parameters` means the same.
    #[schema(value_type = Option<Object>)]
    params: Option<Value>,
}

/// A table in pandas' split form. Columns are found by name, in any order; others are ignored.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only described")]
pub(in crate::server) struct Table {
    /// `image` and `text`; `image` alone asks for captions.
    columns: Vec<String>,
    /// As long as `data`; never echoed.
    #[schema(value_type = Option<Vec<Value>>)]
    index: Option<Vec<Value>>,
    /// The rows: base64, a data URI, a URL or the id of a stored image under `image`, the prompt under `text`.
    data: Vec<Vec<Value>>,
}

/// The answer to a row. Everything but the text is there only when it was asked for.
#[derive(ToSchema)]
#[schema(example = json!({"text": "a stream in the desert"}))]
#[expect(dead_code, reason = "only described")]
pub(in crate::server) struct Prediction {
    /// The new tokens as text.
    text: String,
    /// All sequences, best first, when `num_return_sequences` asks for more than one.
    sequences: Option<Vec<Value>>,
    /// With `logprobs`: the new tokens.
    token_ids: Option<Vec<u32>>,
    /// With `logprobs`: natural log of each new token's probability.
    logprobs: Option<Vec<f32>>,
    /// With `logprobs`: of beams the score of the search, else the sum of `logprobs` over length.
    score: Option<f32>,
    /// With `logprobs`: mean of the tokens' probabilities.
    mean_probability: Option<f32>,
    /// With `logprobs`: the smallest of them.
    min_probability: Option<f32>,
    /// With `logprobs`: why generation ended.
    stop_reason: Option<String>,
    /// With `logprobs`: what about prompt and parameters is known to spoil answers.
    warnings: Option<Vec<String>>,
}
