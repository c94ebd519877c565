//! What comes back for a job: sequences with their text, or candidates with their likelihood, and where the time went.

use std::slice;

use serde::Serialize;
use utoipa::ToSchema;

use super::EngineError;
use super::stage::Timings;
use super::traits::QueryOutput;
use crate::generation::{Alternative, CandidateLikelihood, DecidedToken, Sequence, StopReason};
use crate::text::{Tokenizer, VisiblePiece, VisibleText};

/// The answers to a row of input: one, unless more sequences were asked for.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The best.
    pub best: AnswerSequence,
    /// All of them, best first, when more than one was asked for; else empty.
    pub sequences: Vec<AnswerSequence>,
    /// What the caller should know about the prompt.
    pub warnings: Vec<String>,
    /// Where the time went.
    pub timings: Timings,
}

/// One answer, as SEMANTICS describes a row of output.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AnswerSequence {
    /// The new tokens as text, stripped.
    pub text: String,
    /// The new tokens, the end token included if it came.
    pub token_ids: Vec<u32>,
    /// Natural log of each new token's probability.
    pub logprobs: Vec<f32>,
    /// The likeliest tokens at each place; empty unless `top_logprobs` was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub top_logprobs: Vec<Vec<Alternative>>,
    /// Beams: the final score of the search. Otherwise the sum of `logprobs` over length to the power of `length_penalty`.
    pub score: f32,
    /// Mean of the tokens' probabilities.
    pub mean_probability: f32,
    /// The smallest of the tokens' probabilities.
    pub min_probability: f32,
    /// Why generation ended.
    pub stop_reason: StopReason,
}

/// How likely given answers are.
#[derive(Debug, Clone)]
pub struct Ranking {
    /// In the order they were given.
    pub candidates: Vec<RankedCandidate>,
    /// What the caller should know about the prompt.
    pub warnings: Vec<String>,
    /// Where the time went.
    pub timings: Timings,
}

/// One given answer behind image and prompt.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct RankedCandidate {
    /// As it was given.
    pub text: String,
    /// Its tokens.
    pub token_ids: Vec<u32>,
    /// Natural log of each token's probability behind those before it.
    pub logprobs: Vec<f32>,
    /// Their sum: the log of the candidate's probability.
    pub sum: f32,
    /// Their mean, by token, which does not favour short candidates.
    pub mean: f32,
    /// Softmax of `sum` over the candidates: how probable this one is, given that it is one of them.
    pub probability: f32,
}

/// What the Q-Former sees in an image.
#[derive(Debug, Clone)]
pub struct Embedding {
    /// The features of each query.
    pub query_output: QueryOutput,
    /// Where the time went.
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
        let (mean_probability, min_probability) = (sequence.mean_probability(), sequence.min_probability());
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
        let weight = |likelihood: &CandidateLikelihood| (likelihood.sum() - highest).exp();
        let total: f32 = likelihoods.iter().map(weight).sum();
        let candidate = |(likelihood, text): (CandidateLikelihood, String)| RankedCandidate {
            text,
            sum: likelihood.sum(),
            mean: likelihood.mean(),
            probability: weight(&likelihood) / total,
            token_ids: likelihood.token_ids,
            logprobs: likelihood.logprobs,
        };
        Self { candidates: likelihoods.into_iter().zip(texts).map(candidate).collect(), warnings, timings }
    }
}
