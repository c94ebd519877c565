//! What `/v1/chat/completions` answers: a completion, or chunks of one.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::engine::{Answer, AnswerSequence};
use crate::generation::{Alternative, DecidedToken, StopReason};
use crate::server::ServedModel;
use crate::text::{Tokenizer, VisiblePiece};

/// What every object of an answer begins with.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = openai::Head)]
pub(super) struct Head {
    /// Names the answer.
    #[schema(example = "chatcmpl-8c1f6a0de6d94f0a9a4b0d0c5b1b2f57")]
    id: String,
    /// When it was begun, in Unix seconds.
    #[schema(example = 1_764_000_000)]
    created: u64,
    /// The bundle's name.
    #[schema(example = "blip2-shapes")]
    model: String,
    /// Names bundle and version of the service: as long as it stays, so do greedy answers.
    #[schema(example = "fp_0d3f6a2b9c41")]
    system_fingerprint: String,
}

/// A whole answer.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = openai::ChatCompletion)]
pub(super) struct ChatCompletion {
    #[serde(flatten)]
    head: Head,
    #[schema(example = "chat.completion")]
    object: &'static str,
    /// One, or as many as `n` asked for.
    choices: Vec<Choice>,
    usage: Usage,
    /// What may have spoiled the answer. Not part of OpenAI's protocol.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    warnings: Vec<String>,
}

/// One of the answers.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = openai::Choice)]
struct Choice {
    index: usize,
    message: Message,
    #[schema(required)]
    logprobs: Option<Logprobs>,
    finish_reason: FinishReason,
}

/// What the model said.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = openai::Message)]
struct Message {
    #[schema(example = "assistant")]
    role: &'static str,
    #[schema(example = "yellow")]
    content: String,
    /// Always null.
    #[schema(required)]
    refusal: Option<String>,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = openai::FinishReason)]
#[serde(rename_all = "snake_case")]
pub(super) enum FinishReason {
    /// The end token or a stop string came.
    Stop,
    /// The limit of new tokens was reached.
    Length,
}

/// How likely the tokens of an answer were.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = openai::Logprobs)]
pub(super) struct Logprobs {
    /// The tokens of the text, in order.
    content: Vec<TokenLogprob>,
    /// Always null.
    #[schema(required)]
    refusal: Option<Vec<TokenLogprob>>,
}

/// A token, and the likeliest ones at its place.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = openai::TokenLogprob)]
pub(super) struct TokenLogprob {
    #[serde(flatten)]
    token: TokenText,
    /// As many as `top_logprobs` asked for, likeliest first.
    top_logprobs: Vec<TokenText>,
}

/// A token and the log of its probability.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = openai::TokenText)]
struct TokenText {
    /// Its text; a replacement character stands for bytes that are no character by themselves.
    #[schema(example = " yellow")]
    token: String,
    /// Natural log of its probability; at least -9999.
    #[schema(example = -0.0021)]
    logprob: f32,
    /// Its bytes.
    bytes: Vec<u8>,
}

/// Tokens that were read and written.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[schema(as = openai::Usage)]
pub(super) struct Usage {
    /// Positions of the image, and tokens of the text.
    #[schema(example = 26)]
    prompt_tokens: usize,
    /// New tokens of all choices, the end token included.
    #[schema(example = 2)]
    completion_tokens: usize,
    /// Both.
    #[schema(example = 28)]
    total_tokens: usize,
}

/// A piece of a streamed answer.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = openai::Chunk)]
pub(super) struct Chunk<'a> {
    #[serde(flatten)]
    head: &'a Head,
    #[schema(example = "chat.completion.chunk")]
    object: &'static str,
    /// One, or none in the chunk that holds `usage`.
    choices: Vec<ChunkChoice>,
    /// Only with `stream_options.include_usage`: null, and in the last chunk what was used.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Usage>)]
    usage: Option<Option<Usage>>,
    /// In the last chunk of a choice, when there is something to warn of. Not part of OpenAI's protocol.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    #[schema(required = false)]
    warnings: &'a [String],
}

/// What a chunk adds to a choice.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = openai::ChunkChoice)]
pub(super) struct ChunkChoice {
    index: usize,
    delta: Delta,
    #[schema(required)]
    logprobs: Option<Logprobs>,
    #[schema(required)]
    finish_reason: Option<FinishReason>,
}

/// What a chunk adds to a message.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = openai::Delta)]
struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
}

impl Head {
    pub(super) fn new(model: &ServedModel) -> Self {
        let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut hash = Sha256::new_with_prefix(env!("CARGO_PKG_VERSION"));
        hash.update(model.manifest.to_string());
        let hash = hash.finalize();
        Self {
            id: format!("chatcmpl-{}", Uuid::new_v4().simple()),
            created,
            model: model.name.clone(),
            system_fingerprint: hash[..6].iter().fold("fp_".to_owned(), |text, byte| format!("{text}{byte:02x}")),
        }
    }
}

/// Where an answer is cut, and whether its tokens are reported.
pub(super) struct Visible<'a> {
    pub(super) tokenizer: &'a Tokenizer,
    pub(super) stops: &'a [Vec<u8>],
    pub(super) with_logprobs: bool,
}

impl ChatCompletion {
    pub(super) fn new(head: Head, answer: Answer, prompt_tokens: usize, visible: &Visible<'_>) -> Self {
        let usage = Usage::new(prompt_tokens, &answer);
        let choices = answer.all().iter().enumerate();
        let choices = choices.map(|(index, sequence)| Choice::new(index, sequence, visible)).collect();
        Self { head, object: "chat.completion", choices, usage, warnings: answer.warnings }
    }
}

impl Choice {
    fn new(index: usize, sequence: &AnswerSequence, visible: &Visible<'_>) -> Self {
        let VisiblePiece { text, tokens } = sequence.visible(visible.tokenizer, visible.stops);
        Self {
            index,
            message: Message { role: "assistant", content: text, refusal: None },
            logprobs: visible.with_logprobs.then(|| Logprobs::new(visible.tokenizer, &tokens)),
            finish_reason: sequence.stop_reason.into(),
        }
    }
}

impl Logprobs {
    fn new(tokenizer: &Tokenizer, tokens: &[DecidedToken]) -> Self {
        Self { content: tokens.iter().map(|token| TokenLogprob::new(tokenizer, token)).collect(), refusal: None }
    }
}

impl<'a> Chunk<'a> {
    pub(super) fn new(head: &'a Head, choice: ChunkChoice) -> Self {
        Self { head, object: "chat.completion.chunk", choices: vec![choice], usage: None, warnings: &[] }
    }

    /// The chunk of a stream that ends with `usage`.
    pub(super) fn usage(head: &'a Head, usage: Usage) -> Self {
        Self { head, object: "chat.completion.chunk", choices: Vec::new(), usage: Some(Some(usage)), warnings: &[] }
    }

    /// As it is in a stream that will end with `usage`.
    pub(super) fn with_null_usage(self) -> Self {
        Self { usage: Some(None), ..self }
    }

    pub(super) fn with_warnings(self, warnings: &'a [String]) -> Self {
        Self { warnings, ..self }
    }
}

impl ChunkChoice {
    /// The first of a choice: who speaks.
    pub(super) fn role(index: usize) -> Self {
        let delta = Delta { role: Some("assistant"), content: Some(String::new()) };
        Self { index, delta, logprobs: None, finish_reason: None }
    }

    /// Adds text and tokens. `tokenizer` is there if tokens are reported.
    pub(super) fn piece(index: usize, piece: VisiblePiece, tokenizer: Option<&Tokenizer>) -> Self {
        Self {
            index,
            delta: Delta { role: None, content: Some(piece.text) },
            logprobs: tokenizer.map(|tokenizer| Logprobs::new(tokenizer, &piece.tokens)),
            finish_reason: None,
        }
    }

    /// The last of a choice.
    pub(super) fn end(index: usize, stop_reason: StopReason) -> Self {
        Self { index, delta: Delta::default(), logprobs: None, finish_reason: Some(stop_reason.into()) }
    }
}

impl Usage {
    pub(super) fn new(prompt_tokens: usize, answer: &Answer) -> Self {
        let completion_tokens = answer.all().iter().map(|sequence| sequence.token_ids.len()).sum();
        Self { prompt_tokens, completion_tokens, total_tokens: prompt_tokens + completion_tokens }
    }
}

impl From<StopReason> for FinishReason {
    fn from(reason: StopReason) -> Self {
        match reason {
            StopReason::Eos | StopReason::StopString => Self::Stop,
            StopReason::Length => Self::Length,
        }
    }
}

impl TokenLogprob {
    fn new(tokenizer: &Tokenizer, decided: &DecidedToken) -> Self {
        let DecidedToken { token_id, logprob, top_logprobs } = decided;
        let alternative =
            |&Alternative { token_id, logprob }: &Alternative| TokenText::new(tokenizer, token_id, logprob);
        Self {
            token: TokenText::new(tokenizer, *token_id, *logprob),
            top_logprobs: top_logprobs.iter().map(alternative).collect(),
        }
    }
}

impl TokenText {
    fn new(tokenizer: &Tokenizer, id: u32, logprob: f32) -> Self {
        const LOWEST: f32 = -9999.0; // OpenAI's; minus infinity is no JSON
        let bytes = tokenizer.token_bytes(id).to_vec();
        Self { token: String::from_utf8_lossy(&bytes).into_owned(), logprob: logprob.max(LOWEST), bytes }
    }
}
