//! The results of jobs: sequences with their text, candidates with their likelihood, features, each
//! with timings.

use std::slice;

use serde::Serialize;
use utoipa::ToSchema;

use super::EngineError;
use super::stage::Timings;
use super::traits::QueryOutput;
use crate::generation::{Alternative, CandidateLikelihood, DecidedToken, Sequence, StopReason};
use crate::text::{Tokenizer, VisiblePiece, VisibleText};

/// The answer to a row of input: one sequence, or as many as were requested.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The best sequence.
    pub best: AnswerSequence,
    /// All sequences, best first, if more than one was requested; otherwise empty.
    pub sequences: Vec<AnswerSequence>,
    /// Warnings about prompt and parameters.
    pub warnings: Vec<String>,
    /// The time in each stage.
    pub timings: Timings,
}

/// One sequence of an answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AnswerSequence {
    /// The text of the new tokens, without leading and trailing white space.
    pub text: String,
    /// The new tokens, with the end token if it was generated.
    pub token_ids: Vec<u32>,
    /// The natural logarithm of each new token's probability.
    pub logprobs: Vec<f32>,
    /// The most likely tokens at each position; empty unless `top_logprobs` was requested.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub top_logprobs: Vec<Vec<Alternative>>,
    /// With beams the final score of the search, otherwise the sum of `logprobs` divided by
    /// length^`length_penalty`.
    pub score: f32,
    /// The mean of the tokens' probabilities.
    pub mean_probability: f32,
    /// The smallest of the tokens' probabilities.
    pub min_probability: f32,
    /// The reason for which generation ended.
    pub stop_reason: StopReason,
}

/// The likelihoods of given answers.
#[derive(Debug, Clone)]
pub struct Ranking {
    /// The candidates, in the order of the request.
    pub candidates: Vec<RankedCandidate>,
    /// Warnings about the prompt.
    pub warnings: Vec<String>,
    /// The time in each stage.
    pub timings: Timings,
}

/// The likelihood of one given answer after image and prompt.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct RankedCandidate {
    /// Its text, as in the request.
    pub text: String,
    /// Its tokens.
    pub token_ids: Vec<u32>,
    /// The natural logarithm of each token's probability, given all tokens before it.
    pub logprobs: Vec<f32>,
    /// The sum of `logprobs`: the logarithm of the candidate's probability.
    pub sum: f32,
    /// The mean of `logprobs`, which does not favour short candidates.
    pub mean: f32,
    /// The softmax of `sum` over the candidates: the probability of this one, given that it is one
    /// of them.
    pub probability: f32,
}

/// The Q-Former's features of an image.
#[derive(Debug, Clone)]
pub struct Embedding {
    /// The features of each query.
    pub query_output: QueryOutput,
    /// The time in each stage.
    pub timings: Timings,
}

impl Answer {
    /// Returns all sequences, best first, also when only one was asked for.
    #[must_use]
    pub fn all(&self) -> &[AnswerSequence] {
        if self.sequences.is_empty() { slice::from_ref(&self.best) } else { &self.sequences }
    }

    pub(super) fn new(
        sequences: Vec<Sequence>,
        tokenizer: &Tokenizer,
        warnings: Vec<String>,
        timings: Timings,
    ) -> Result<Self, EngineError> {
        let with_text = sequences.into_iter().map(|sequence| AnswerSequence::new(sequence, tokenizer));
        let mut sequences = with_text.collect::<Result<Vec<_>, _>>()?;
        let best = sequences.first().expect("every method of generation ends with at least one sequence").clone();
        if sequences.len() == 1 {
            sequences.clear();
        }
        Ok(Self { best, sequences, warnings, timings })
    }
}

impl AnswerSequence {
    /// Returns the part that a client sees when the answer is cut before the first of `stops`.
    #[must_use]
    pub fn visible(&self, tokenizer: &Tokenizer, stops: &[Vec<u8>]) -> VisiblePiece {
        let tokens = self.token_ids.iter().zip(&self.logprobs).enumerate();
        let decided = tokens.map(|(index, (token_id, logprob))| DecidedToken {
            token_id: *token_id,
            logprob: *logprob,
            top_logprobs: self.top_logprobs.get(index).cloned().unwrap_or_default(),
        });
        VisibleText::new(stops.to_vec()).whole(tokenizer, decided)
    }

    fn new(sequence: Sequence, tokenizer: &Tokenizer) -> Result<Self, EngineError> {
        let text = tokenizer.decode(&sequence.token_ids).map_err(EngineError::Detokenize)?;
        let mean_probability = sequence.mean_probability();
        let min_probability = sequence.min_probability();
        let Sequence { token_ids, logprobs, alternatives, score, stop_reason } = sequence;
        Ok(Self {
            text,
            token_ids,
            logprobs,
            top_logprobs: alternatives,
            score,
            mean_probability,
            min_probability,
            stop_reason,
        })
    }
}

impl Ranking {
    pub(super) fn new(
        likelihoods: Vec<CandidateLikelihood>,
        texts: Vec<String>,
        warnings: Vec<String>,
        timings: Timings,
    ) -> Self {
        let highest = likelihoods.iter().map(CandidateLikelihood::sum).fold(f32::NEG_INFINITY, f32::max);
        let weights: Vec<f32> = likelihoods.iter().map(|likelihood| (likelihood.sum() - highest).exp()).collect();
        let total: f32 = weights.iter().sum();
        let mut candidates = Vec::with_capacity(likelihoods.len());
        for ((likelihood, text), weight) in likelihoods.into_iter().zip(texts).zip(weights) {
            candidates.push(RankedCandidate {
                text,
                sum: likelihood.sum(),
                mean: likelihood.mean(),
                probability: weight / total,
                token_ids: likelihood.token_ids,
                logprobs: likelihood.logprobs,
            });
        }
        Self { candidates, warnings, timings }
    }
}
