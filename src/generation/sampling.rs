//! Greedy search and sampling: independent sequences from the same prompt.

use rand::rngs::ChaCha8Rng;
use rand::{RngExt as _, SeedableRng as _};

use super::draft::Draft;
use super::logits::{argmax, log_normalizer, sum_of_exp};
use super::processors::History;
use super::{Continuation, DecidedToken, GenerationError, GenerationParams, Origin, Sequence, StopReason};

#[derive(Debug)]
pub(super) struct Sampling {
    params: GenerationParams,
    sequences: Vec<Sampled>,
    /// The number of each row's sequence.
    rows: Vec<usize>,
}

#[derive(Debug)]
struct Sampled {
    draft: Draft,
    stop_reason: Option<StopReason>,
    /// `None` for greedy search.
    random: Option<ChaCha8Rng>,
}

impl Sampling {
    pub(super) fn new(draft: Draft, params: GenerationParams, seed: u64) -> Self {
        let sequence = |number: usize| Sampled {
            draft: draft.clone(),
            stop_reason: None,
            random: params.do_sample.then(|| random(seed, number)),
        };
        Self { sequences: (0..params.num_return_sequences).map(sequence).collect(), rows: Vec::new(), params }
    }

    pub(super) fn advance(&mut self, logits: &[&[f32]]) -> Result<Vec<Continuation>, GenerationError> {
        // The first logits are those of the prompt, one row, from which all sequences start.
        let is_start = self.rows.is_empty();
        let rows = if is_start { (0..self.sequences.len()).collect() } else { std::mem::take(&mut self.rows) };
        let mut continuations = Vec::with_capacity(rows.len());
        for (row, number) in rows.into_iter().enumerate() {
            let row = if is_start { 0 } else { row };
            let sequence = &mut self.sequences[number];
            let token = sequence.choose(logits[row], &self.params)?;
            if sequence.stop_reason.is_none() {
                self.rows.push(number);
                continuations.push(Continuation { origin: Origin::Row(row), token });
            }
        }
        Ok(continuations)
    }

    pub(super) fn decided(&self, first: usize) -> Vec<DecidedToken> {
        match self.sequences.as_slice() {
            [only] => only.draft.decided(first),
            _ => Vec::new(),
        }
    }

    /// Returns the samples in the order of their numbers.
    pub(super) fn into_sequences(self) -> Vec<Sequence> {
        let length_penalty = self.params.length_penalty;
        let finish = |sequence: Sampled| {
            let score = sequence.draft.score(length_penalty);
            sequence.draft.into_sequence(score, sequence.stop_reason.unwrap_or(StopReason::Length))
        };
        self.sequences.into_iter().map(finish).collect()
    }
}

impl Sampled {
    fn choose(&mut self, logits: &[f32], params: &GenerationParams) -> Result<u32, GenerationError> {
        let position = self.draft.new_tokens();
        let normalizer = log_normalizer(logits).ok_or(GenerationError::NotFinite { position })?;
        let history = History { ids: &self.draft.ids, new_tokens: position };
        let scores = params.processors.process(logits, history);
        let chosen = match &mut self.random {
            None => argmax(&scores),
            Some(random) => draw(&scores, random),
        };
        let token = chosen.ok_or(GenerationError::NothingAllowed { position })?;
        self.draft.push(token, logits, normalizer, params.top_logprobs);
        self.stop_reason = params.stopping.reason(&self.draft.ids, position + 1);
        Ok(token as u32)
    }
}

/// Returns the random stream of one sequence of a request.
pub(super) fn random(seed: u64, number: usize) -> ChaCha8Rng {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(number as u64);
    random
}

/// Draws an index from the softmax of `scores`.
fn draw(scores: &[f32], random: &mut ChaCha8Rng) -> Option<usize> {
    let highest = scores[argmax(scores)?];
    let mut left = random.random::<f64>() * sum_of_exp(scores, highest);
    let mut last = None;
    for (index, score) in scores.iter().enumerate().filter(|(_, score)| **score > f32::NEG_INFINITY) {
        left -= f64::from(score - highest).exp();
        last = Some(index);
        if left < 0.0 {
            break;
        }
    }
    last // rounding may leave a remainder of the sum after the last index
}
