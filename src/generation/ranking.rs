//! The likelihood of given answers: the tokens of each candidate are fed as if they had been
//! generated.
//!
//! The logits of the prompt give the probability of every candidate's first token, so candidates of
//! one token need no row. The others take rows after the shared prompt. A row whose candidate is
//! done begins again after the prompt with the next.

use std::collections::VecDeque;

use super::logits::log_normalizer;
use super::{Continuation, GenerationError, Origin};

/// The likelihood of one candidate.
#[derive(Debug, Clone, PartialEq)]
pub struct CandidateLikelihood {
    /// Its tokens.
    pub token_ids: Vec<u32>,
    /// The natural logarithm of each token's probability, given prompt and tokens before it.
    pub logprobs: Vec<f32>,
}

#[derive(Debug)]
pub(super) struct Ranking {
    candidates: Vec<CandidateLikelihood>,
    waiting: VecDeque<usize>,
    /// The candidate of each row.
    rows: Vec<usize>,
    max_rows: usize,
    is_started: bool,
}

impl Ranking {
    pub(super) fn new(candidates: Vec<Vec<u32>>, max_rows: usize) -> Self {
        let candidate = |token_ids: Vec<u32>| CandidateLikelihood { logprobs: Vec::new(), token_ids };
        Self {
            candidates: candidates.into_iter().map(candidate).collect(),
            waiting: VecDeque::new(),
            rows: Vec::new(),
            max_rows,
            is_started: false,
        }
    }

    pub(super) fn advance(&mut self, logits: &[&[f32]]) -> Result<Vec<Continuation>, GenerationError> {
        if !self.is_started {
            self.is_started = true;
            self.start(logits)?;
            return Ok(self.fill(Vec::new()));
        }
        let mut continuations = Vec::new();
        for (row, candidate) in std::mem::take(&mut self.rows).into_iter().enumerate() {
            self.candidates[candidate].take(logits[row])?;
            if let Some(token) = self.candidates[candidate].next_to_feed() {
                self.rows.push(candidate);
                continuations.push(Continuation { origin: Origin::Row(row), token });
            }
        }
        Ok(self.fill(continuations))
    }

    /// Takes the first token of every candidate from the logits of the prompt.
    fn start(&mut self, logits: &[&[f32]]) -> Result<(), GenerationError> {
        for (index, candidate) in self.candidates.iter_mut().enumerate() {
            candidate.take(logits[0])?;
            if candidate.next_to_feed().is_some() {
                self.waiting.push_back(index);
            }
        }
        Ok(())
    }

    /// Assigns free rows to waiting candidates.
    fn fill(&mut self, mut continuations: Vec<Continuation>) -> Vec<Continuation> {
        while continuations.len() < self.max_rows {
            let Some(candidate) = self.waiting.pop_front() else { break };
            let token = self.candidates[candidate].token_ids[0];
            self.rows.push(candidate);
            continuations.push(Continuation { origin: Origin::Prompt, token });
        }
        continuations
    }

    pub(super) fn into_likelihoods(self) -> Vec<CandidateLikelihood> {
        self.candidates
    }
}

impl CandidateLikelihood {
    /// Returns the sum of the log-probabilities.
    #[must_use]
    pub fn sum(&self) -> f32 {
        self.logprobs.iter().sum()
    }

    /// Returns the mean of the log-probabilities.
    #[must_use]
    pub fn mean(&self) -> f32 {
        self.sum() / self.logprobs.len().max(1) as f32
    }

    /// Records the log-probability of the next token, if there is one.
    fn take(&mut self, logits: &[f32]) -> Result<(), GenerationError> {
        let position = self.logprobs.len();
        if let Some(&token) = self.token_ids.get(position) {
            let normalizer = log_normalizer(logits).ok_or(GenerationError::NotFinite { position })?;
            self.logprobs.push(logits.get(token as usize).map_or(f32::NEG_INFINITY, |logit| logit - normalizer));
        }
        Ok(())
    }

    /// Returns the token to feed for the logits of the next token; `None` when no token is left to
    /// score.
    fn next_to_feed(&self) -> Option<u32> {
        let next = self.logprobs.len();
        (next < self.token_ids.len()).then(|| self.token_ids[next - 1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A model whose logits depend on the newest token only.
    fn logits(token: u32) -> Vec<f32> {
        (0..5_u32).map(|next| ((token * 3 + next * 7) % 11) as f32 / 2.0).collect()
    }

    fn logprob(token: u32, next: u32) -> f32 {
        let logits = logits(token);
        logits[next as usize] - log_normalizer(&logits).unwrap()
    }

    #[test]
    fn every_candidate_is_scored_whatever_the_number_of_rows() {
        let candidates = vec![vec![1], vec![2, 3, 4], vec![1, 2], vec![4, 4, 4, 4], vec![], vec![3, 1]];
        for rows in 1..6 {
            let mut ranking = Ranking::new(candidates.clone(), rows);
            let mut fed = vec![0];
            loop {
                let all: Vec<Vec<f32>> = fed.iter().map(|token| logits(*token)).collect();
                let next = ranking.advance(&all.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
                assert!(next.len() <= rows);
                if next.is_empty() {
                    break;
                }
                fed = next.into_iter().map(|row| row.token).collect();
            }
            for (scored, tokens) in ranking.into_likelihoods().into_iter().zip(&candidates) {
                let before = [0].iter().chain(tokens);
                let expected: Vec<f32> = before.zip(tokens).map(|(token, next)| logprob(*token, *next)).collect();
                assert_eq!((&scored.token_ids, scored.logprobs), (tokens, expected));
            }
        }
    }
}
