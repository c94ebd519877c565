//! The body of `/v1/chat/completions` as `/openapi.json` describes it. It is read by `chat_request`, field by field, so that
//! messages can name the place of a fault; a test holds the two together.
#![expect(dead_code, reason = "these types describe, and are never made")]

use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

/// A conversation about an image, and how to answer.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = openai::ChatCompletionRequest)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "model": "blip2-shapes",
    "messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAgAAAAGCAIAAABxZ0isAAAAFElEQVR4nGPU0NBgwAaYsIrSSQIASXoAhK9MVXgAAAAASUVORK5CYII="}},
        {"type": "text", "text": "what color is the star?"},
    ]}],
    "max_tokens": 20,
}))]
pub(super) struct ChatCompletionRequest {
    /// The name that `/v1/models` gives, or that of its checkpoint; the served model when absent.
    model: Option<String>,
    /// The conversation, which holds exactly one image.
    #[schema(min_items = 1, max_items = 256)]
    messages: Vec<RequestMessage>,
    /// New tokens at most; the bundle's default when absent.
    #[schema(minimum = 1)]
    max_completion_tokens: Option<u32>,
    /// The older name of `max_completion_tokens`.
    #[schema(minimum = 1)]
    max_tokens: Option<u32>,
    /// 0 or absent: greedy search. Above: sampling.
    #[schema(minimum = 0, maximum = 2)]
    temperature: Option<f32>,
    /// Sample from the likeliest tokens that together have this probability.
    #[schema(minimum = 0, maximum = 1)]
    top_p: Option<f32>,
    /// Choices: samples, or at temperature 0 the best of beam search. They share the service's `--slots`.
    #[schema(minimum = 1, maximum = 128)]
    n: Option<u32>,
    /// At most 4 strings at which the answer ends, without them.
    stop: Option<Stop>,
    /// Makes sampling repeatable.
    seed: Option<i64>,
    /// Whether to tell how likely the tokens are.
    logprobs: Option<bool>,
    /// Likeliest tokens to tell at each place; needs `logprobs`.
    #[schema(minimum = 0, maximum = 20)]
    top_logprobs: Option<u32>,
    /// Whether to send the answer piece by piece, as server-sent events.
    stream: Option<bool>,
    /// Only with `stream`.
    stream_options: Option<RequestStreamOptions>,
    /// Only 0.
    frequency_penalty: Option<f32>,
    /// Only 0.
    presence_penalty: Option<f32>,
    /// Only `{"type": "text"}`.
    response_format: Option<Value>,
    /// Only an empty one.
    logit_bias: Option<Value>,
    /// Only an empty list.
    tools: Option<Value>,
    /// Only `none` or `auto`, as there are no tools.
    tool_choice: Option<Value>,
    /// Only `["text"]`.
    modalities: Option<Value>,
    /// Without effect, as are the next ones.
    user: Option<Value>,
    store: Option<Value>,
    metadata: Option<Value>,
    service_tier: Option<Value>,
    safety_identifier: Option<Value>,
    prompt_cache_key: Option<Value>,
    prompt_cache_retention: Option<Value>,
    parallel_tool_calls: Option<Value>,
    prediction: Option<Value>,
    /// Not OpenAI's, as are the next ones, but transformers': draw tokens or not, whatever `temperature` says.
    do_sample: Option<bool>,
    /// Beams of beam search.
    #[schema(minimum = 1)]
    num_beams: Option<u32>,
    /// When beam search stops: true, false or `"never"`.
    early_stopping: Option<Value>,
    /// The exponent of the length in a beam's score.
    length_penalty: Option<f32>,
    /// New tokens at least.
    #[schema(minimum = 0)]
    min_new_tokens: Option<u32>,
    /// Above 1: tokens that are there already become less likely.
    repetition_penalty: Option<f32>,
    /// Sequences of so many tokens come once.
    #[schema(minimum = 0)]
    no_repeat_ngram_size: Option<u32>,
    /// Sample from so many of the likeliest tokens; 0 or absent: from all.
    #[schema(minimum = 0)]
    top_k: Option<u32>,
    /// Sample from tokens that are at least so likely, compared with the likeliest.
    #[schema(minimum = 0, maximum = 1)]
    min_p: Option<f32>,
    /// Sample from the most typical tokens that together have this probability.
    typical_p: Option<f32>,
    /// Words that do not come.
    bad_words: Option<Vec<String>>,
    /// Tokens that do not follow one another.
    bad_words_ids: Option<Vec<Vec<u32>>>,
    /// As `stop`, but the string stays in the answer.
    stop_strings: Option<Stop>,
}

/// A message. Only the user's messages hold an image.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = openai::RequestMessage)]
struct RequestMessage {
    role: RequestRole,
    content: Content,
}

/// Who speaks. Text of `system` and `developer` stands in front of the prompt; an `assistant` who speaks last has begun the
/// answer.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = openai::RequestRole)]
#[serde(rename_all = "snake_case")]
enum RequestRole {
    System,
    Developer,
    User,
    Assistant,
}

/// A text, or parts of which one is an image.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = openai::Content)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

/// A part of a message.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = openai::Part)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Part {
    Text { text: String },
    ImageUrl { image_url: ImageUrl },
}

/// Where an image is.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = openai::ImageUrl)]
struct ImageUrl {
    /// An https URL, a data URI, base64, or the id of a stored image.
    url: String,
    /// Without effect: every image is read in the model's own size.
    detail: Option<String>,
}

/// A string or a list of them.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = openai::Stop)]
#[serde(untagged)]
enum Stop {
    One(String),
    Several(Vec<String>),
}

/// How to stream.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = openai::RequestStreamOptions)]
struct RequestStreamOptions {
    /// Whether a last chunk without choices tells the tokens that were used.
    include_usage: Option<bool>,
}
