//! The work of one request on the decoder, by any method: each row takes logits, and continues with
//! a token or ends.

use super::beam_search::BeamSearch;
use super::draft::Draft;
use super::ranking::{CandidateLikelihood, Ranking};
use super::sampling::Sampling;
use super::{DecidedToken, GenerationError, GenerationParams, Sequence};

/// The origin of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Continues the row of this number in the last step.
    Row(usize),
    /// Begins again right after the prompt.
    Prompt,
}

/// A row of the next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Continuation {
    /// The row that it continues.
    pub origin: Origin,
    /// The token that the step feeds.
    pub token: u32,
}

/// The result of a task.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Answers, best first.
    Sequences(Vec<Sequence>),
    /// The candidates with their likelihood, in the order of the request.
    Ranked(Vec<CandidateLikelihood>),
}

impl Outcome {
    /// Takes the answers of a task that generates.
    ///
    /// # Panics
    /// If the task was made by [`Task::rank`].
    #[must_use]
    pub fn into_sequences(self) -> Vec<Sequence> {
        match self {
            Self::Sequences(sequences) => sequences,
            Self::Ranked(_) => unreachable!("a task made by `Task::generate` ends in sequences"),
        }
    }

    /// Takes the likelihoods of a task that ranks.
    ///
    /// # Panics
    /// If the task was made by [`Task::generate`].
    #[must_use]
    pub fn into_likelihoods(self) -> Vec<CandidateLikelihood> {
        match self {
            Self::Ranked(likelihoods) => likelihoods,
            Self::Sequences(_) => unreachable!("a task made by `Task::rank` ends in likelihoods"),
        }
    }
}

/// The work of one request on the decoder.
#[derive(Debug)]
pub struct Task {
    method: Method,
    rows: usize,
    max_new_tokens: usize,
}

#[derive(Debug)]
enum Method {
    Sampling(Sampling),
    BeamSearch(Box<BeamSearch>),
    Ranking(Ranking),
}

impl Task {
    /// Makes a task that generates after `prompt`: the id of the image positions, if the checkpoint
    /// has one, then the ids of the text. `seed` is for sampling; equal seeds give equal answers.
    #[must_use]
    pub fn generate(prompt: Vec<u32>, params: GenerationParams, seed: u64) -> Self {
        let rows = params.rows();
        let max_new_tokens = params.max_new_tokens;
        let draft = Draft::new(prompt);
        let method = if params.num_beams > 1 {
            Method::BeamSearch(Box::new(BeamSearch::new(draft, params, seed)))
        } else {
            Method::Sampling(Sampling::new(draft, params, seed))
        };
        Self { method, rows, max_new_tokens }
    }

    /// Makes a task that computes the likelihood of each candidate's tokens after the prompt, with
    /// at most `rows` candidates at once.
    #[must_use]
    pub fn rank(candidates: Vec<Vec<u32>>, rows: usize) -> Self {
        let longest = candidates.iter().map(Vec::len).max().unwrap_or(0);
        let rows = candidates.iter().filter(|tokens| tokens.len() > 1).count().clamp(1, rows.max(1));
        Self { method: Method::Ranking(Ranking::new(candidates, rows)), rows, max_new_tokens: longest }
    }

    /// Returns the most rows that it occupies.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Returns the most new tokens of a row.
    #[must_use]
    pub fn max_new_tokens(&self) -> usize {
        self.max_new_tokens
    }

    /// Takes the unprocessed logits `[vocab]` of each row, in the order of the last continuations;
    /// at first those of the prompt's last position. Returns the rows of the next step, none when
    /// the task has ended.
    ///
    /// # Errors
    /// [`GenerationError`] when no token can be chosen. The task must not be advanced again.
    pub fn advance(&mut self, logits: &[&[f32]]) -> Result<Vec<Continuation>, GenerationError> {
        match &mut self.method {
            Method::Sampling(sampling) => sampling.advance(logits),
            Method::BeamSearch(beams) => beams.advance(logits),
            Method::Ranking(ranking) => ranking.advance(logits),
        }
    }

    /// Returns the new tokens from number `first` on, if they are final: those of a single
    /// sequence.
    #[must_use]
    pub fn decided(&self, first: usize) -> Vec<DecidedToken> {
        match &self.method {
            Method::Sampling(sampling) => sampling.decided(first),
            Method::BeamSearch(_) | Method::Ranking(_) => Vec::new(),
        }
    }

    /// Returns the result.
    #[must_use]
    pub fn into_outcome(self) -> Outcome {
        match self.method {
            Method::Sampling(sampling) => Outcome::Sequences(sampling.into_sequences()),
            Method::BeamSearch(beams) => Outcome::Sequences(beams.into_sequences()),
            Method::Ranking(ranking) => Outcome::Ranked(ranking.into_likelihoods()),
        }
    }
}
