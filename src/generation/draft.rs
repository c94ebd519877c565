//! Sequences: drafts while they are generated, and finished ones.

use serde::Serialize;
use utoipa::ToSchema;

use super::StopReason;
use super::logits::largest;

/// One of the most likely tokens at a position.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct Alternative {
    /// The token.
    pub token_id: u32,
    /// The natural logarithm of its probability.
    pub logprob: f32,
}

/// A final token of a sequence that is still being generated.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DecidedToken {
    /// The token.
    pub token_id: u32,
    /// The natural logarithm of its probability before logits processors.
    pub logprob: f32,
    /// The most likely tokens at its position; empty unless `top_logprobs` was requested.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub top_logprobs: Vec<Alternative>,
}

/// A finished sequence.
#[derive(Debug, Clone, PartialEq)]
pub struct Sequence {
    /// The new tokens, with the end token if it was generated.
    pub token_ids: Vec<u32>,
    /// The natural logarithm of each token's probability before logits processors.
    pub logprobs: Vec<f32>,
    /// The most likely tokens at each position, best first; empty unless `top_logprobs` was
    /// requested.
    pub alternatives: Vec<Vec<Alternative>>,
    /// With beams the sum of processed log-probabilities divided by length^`length_penalty`.
    /// Otherwise the same of `logprobs`, which is their mean for the default of 1.
    pub score: f32,
    /// The reason for which it ended.
    pub stop_reason: StopReason,
}

impl Sequence {
    /// Returns the mean of the tokens' probabilities.
    #[must_use]
    pub fn mean_probability(&self) -> f32 {
        let sum: f32 = self.probabilities().sum();
        sum / self.logprobs.len().max(1) as f32
    }

    /// Returns the smallest of the tokens' probabilities.
    #[must_use]
    pub fn min_probability(&self) -> f32 {
        self.probabilities().fold(1.0, f32::min)
    }

    fn probabilities(&self) -> impl Iterator<Item = f32> {
        self.logprobs.iter().map(|logprob| logprob.exp())
    }
}

/// A row while it is generated: prompt and new tokens.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    /// The whole row: image positions, prompt, new tokens.
    pub(super) ids: Vec<u32>,
    prompt_len: usize,
    logprobs: Vec<f32>,
    alternatives: Vec<Vec<Alternative>>,
}

impl Draft {
    pub(super) fn new(prompt: Vec<u32>) -> Self {
        Self { prompt_len: prompt.len(), ids: prompt, logprobs: Vec::new(), alternatives: Vec::new() }
    }

    pub(super) fn new_tokens(&self) -> usize {
        self.logprobs.len()
    }

    pub(super) fn token_ids(&self) -> &[u32] {
        &self.ids[self.prompt_len..]
    }

    /// Returns the new tokens from number `first` on.
    pub(super) fn decided(&self, first: usize) -> Vec<DecidedToken> {
        let token = |place: usize| DecidedToken {
            token_id: self.token_ids()[place],
            logprob: self.logprobs[place],
            top_logprobs: self.alternatives.get(place).cloned().unwrap_or_default(),
        };
        (first..self.new_tokens()).map(token).collect()
    }

    /// Appends a token that was chosen from the unprocessed `logits`.
    pub(super) fn push(&mut self, token: usize, logits: &[f32], normalizer: f32, top_logprobs: usize) {
        self.ids.push(token as u32);
        self.logprobs.push(logits[token] - normalizer);
        if top_logprobs > 0 {
            let best = largest(logits, top_logprobs).into_iter();
            let alternative = |best: super::logits::Scored| Alternative {
                token_id: best.index as u32,
                logprob: best.score - normalizer,
            };
            self.alternatives.push(best.map(alternative).collect());
        }
    }

    /// Returns the sum of the log-probabilities divided by length^`length_penalty`.
    pub(super) fn score(&self, length_penalty: f32) -> f32 {
        self.logprobs.iter().sum::<f32>() / (self.new_tokens().max(1) as f32).powf(length_penalty)
    }

    pub(super) fn into_sequence(mut self, score: f32, stop_reason: StopReason) -> Sequence {
        let token_ids = self.ids.split_off(self.prompt_len);
        Sequence { token_ids, logprobs: self.logprobs, alternatives: self.alternatives, score, stop_reason }
    }
}
