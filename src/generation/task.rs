//! What one request wants of the decoder, whatever the method: rows take logits, and go on with a token or end.

use super::beam_search::BeamSearch;
use super::draft::Draft;
use super::ranking::{CandidateLikelihood, Ranking};
use super::sampling::Sampling;
use super::{DecidedToken, GenerationError, GenerationParams, Sequence};

/// Where a row comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It goes on where the row of this number was.
    Row(usize),
    /// It begins again right behind the prompt.
    Prompt,
}

/// A row of the next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Continuation {
    /// What it goes on from.
    pub origin: Origin,
    /// The token that it feeds.
    pub token: u32,
}

/// What came of a task.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Answers, best first.
    Sequences(Vec<Sequence>),
    /// The candidates, in the order they were given.
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

/// One request's work on the decoder.
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
    /// Generates behind `prompt`: the image positions' id (if the checkpoint has one), then the text's ids. `seed` is for
    /// sampling; equal seeds give equal answers.
    #[must_use]
    pub fn generate(prompt: Vec<u32>, params: GenerationParams, seed: u64) -> Self {
        let (rows, max_new_tokens) = (params.rows(), params.max_new_tokens);
        let draft = Draft::new(prompt);
        let method = if params.num_beams > 1 {
            Method::BeamSearch(Box::new(BeamSearch::new(draft, params, seed)))
        } else {
            Method::Sampling(Sampling::new(draft, params, seed))
        };
        Self { method, rows, max_new_tokens }
    }

    /// The likelihood of each candidate's tokens behind the prompt, with at most `rows` of them in work at once.
    #[must_use]
    pub fn rank(candidates: Vec<Vec<u32>>, rows: usize) -> Self {
        let longest = candidates.iter().map(Vec::len).max().unwrap_or(0);
        let rows = candidates.iter().filter(|tokens| tokens.len() > 1).count().clamp(1, rows.max(1));
        Self { method: Method::Ranking(Ranking::new(candidates, rows)), rows, max_new_tokens: longest }
    }

    /// Rows that it occupies at most.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// New tokens of a row at most.
    #[must_use]
    pub fn max_new_tokens(&self) -> usize {
        self.max_new_tokens
    }

    /// Takes the logits `[vocab]` of each row, as the model wrote them, in the order of the last continuations; the first
    /// time those of the prompt's last position. Says what the next step feeds; nothing when the task has ended.
    ///
    /// # Errors
    /// [`GenerationError`] when no token can be chosen. The task is then of no further use.
    pub fn advance(&mut self, logits: &[&[f32]]) -> Result<Vec<Continuation>, GenerationError> {
        match &mut self.method {
            Method::Sampling(sampling) => sampling.advance(logits),
            Method::BeamSearch(beams) => beams.advance(logits),
            Method::Ranking(ranking) => ranking.advance(logits),
        }
    }

    /// The new tokens so far, from the one of number `first` on, if they are decided for good: for a single sequence.
    #[must_use]
    pub fn decided(&self, first: usize) -> Vec<DecidedToken> {
        match &self.method {
            Method::Sampling(sampling) => sampling.decided(first),
            Method::BeamSearch(_) | Method::Ranking(_) => Vec::new(),
        }
    }

    /// What came of it.
    #[must_use]
    pub fn into_outcome(self) -> Outcome {
        match self.method {
            Method::Sampling(sampling) => Outcome::Sequences(sampling.into_sequences()),
            Method::BeamSearch(beams) => Outcome::Sequences(beams.into_sequences()),
            Method::Ranking(ranking) => Outcome::Ranked(ranking.into_likelihoods()),
        }
    }
}
