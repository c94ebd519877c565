//! Beam search with the rules of transformers 5; with `do_sample`, beam sampling.
//!
//! Scores are f32 sums of processed log-probabilities. Each step takes the 2 · `num_beams` best
//! candidates. Of those that end, only the ones among the first `num_beams` finish; the others are
//! lost, as in transformers. The tests compare with its recorded answers.

use rand::RngExt as _;
use rand::rngs::ChaCha8Rng;

use super::draft::Draft;
use super::logits::{Scored, largest, log_normalizer};
use super::params::EarlyStopping;
use super::processors::History;
use super::sampling::random;
use super::{Continuation, GenerationError, GenerationParams, Origin, Sequence, StopReason};

#[derive(Debug)]
pub(super) struct BeamSearch {
    params: GenerationParams,
    beams: Vec<Beam>,
    /// The best finished answers, at most `num_beams`, best first.
    finished: Vec<Finished>,
    /// Whether a running beam may still become better than the worst of `finished`.
    is_improvable: bool,
    new_tokens: usize,
    /// `None` without `do_sample`.
    random: Option<ChaCha8Rng>,
}

#[derive(Debug, Clone)]
struct Beam {
    draft: Draft,
    score: f32,
}

#[derive(Debug)]
struct Finished {
    draft: Draft,
    score: f32,
    stop_reason: StopReason,
}

/// A beam with a token that may follow it.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    beam: usize,
    token: usize,
    score: f32,
}

/// A candidate with its sequence.
#[derive(Debug)]
struct Grown {
    from: usize,
    token: u32,
    score: f32,
    draft: Draft,
    stop_reason: Option<StopReason>,
}

impl BeamSearch {
    pub(super) fn new(draft: Draft, params: GenerationParams, seed: u64) -> Self {
        Self {
            beams: vec![Beam { draft, score: 0.0 }],
            finished: Vec::new(),
            is_improvable: true,
            new_tokens: 0,
            random: params.do_sample.then(|| random(seed, 0)),
            params,
        }
    }

    pub(super) fn advance(&mut self, logits: &[&[f32]]) -> Result<Vec<Continuation>, GenerationError> {
        let position = self.new_tokens;
        let normalizers: Option<Vec<f32>> = logits.iter().map(|logits| log_normalizer(logits)).collect();
        let normalizers = normalizers.ok_or(GenerationError::NotFinite { position })?;
        let candidates = self.candidates(logits, &normalizers);
        if candidates.is_empty() {
            return Err(GenerationError::NothingAllowed { position });
        }
        self.new_tokens += 1;
        let grow = |candidate| self.grow(candidate, logits, &normalizers);
        let grown: Vec<Grown> = candidates.into_iter().map(grow).collect();
        self.finish(&grown);
        Ok(self.go_on(grown))
    }

    pub(super) fn into_sequences(self) -> Vec<Sequence> {
        let returned = self.finished.into_iter().take(self.params.num_return_sequences);
        returned.map(|finished| finished.draft.into_sequence(finished.score, finished.stop_reason)).collect()
    }

    /// Returns the 2 · `num_beams` best continuations of all beams, or as many drawn without
    /// replacement, in the order of the draw.
    fn candidates(&mut self, logits: &[&[f32]], normalizers: &[f32]) -> Vec<Candidate> {
        let count = 2 * self.params.num_beams;
        let mut candidates = Vec::with_capacity(self.beams.len() * count);
        for (index, beam) in self.beams.iter().enumerate() {
            let logprobs: Vec<f32> = logits[index].iter().map(|logit| logit - normalizers[index]).collect();
            let history = History { ids: &beam.draft.ids, new_tokens: self.new_tokens };
            let mut scores = self.params.processors.process(&logprobs, history).into_owned();
            for score in &mut scores {
                *score += beam.score;
            }
            let chosen = match &mut self.random {
                None => largest(&scores, count),
                Some(random) => largest(&perturbed(&scores, random), count),
            };
            let candidate =
                |Scored { index: token, score: key }| (key, Candidate { beam: index, token, score: scores[token] });
            candidates.extend(chosen.into_iter().map(candidate));
        }
        // The sort is stable, so of equal scores the earlier beam comes first.
        candidates.sort_by(|(left, _), (right, _)| right.total_cmp(left));
        candidates.truncate(count);
        candidates.into_iter().map(|(_, candidate)| candidate).collect()
    }

    fn grow(&self, candidate: Candidate, logits: &[&[f32]], normalizers: &[f32]) -> Grown {
        let Candidate { beam, token, score } = candidate;
        let mut draft = self.beams[beam].draft.clone();
        draft.push(token, logits[beam], normalizers[beam], self.params.top_logprobs);
        let stop_reason = self.params.stopping.reason(&draft.ids, self.new_tokens);
        Grown { from: beam, token: token as u32, score, draft, stop_reason }
    }

    /// Adds those of the first `num_beams` candidates that have ended to the finished answers.
    fn finish(&mut self, grown: &[Grown]) {
        let is_closed = self.params.early_stopping == EarlyStopping::Yes && self.is_full();
        if !self.is_improvable || is_closed {
            return;
        }
        let scale = self.scale(self.new_tokens);
        for candidate in grown.iter().take(self.params.num_beams) {
            let Some(stop_reason) = candidate.stop_reason else { continue };
            let score = candidate.score / scale;
            let rank = self.finished.partition_point(|older| older.score >= score);
            self.finished.insert(rank, Finished { draft: candidate.draft.clone(), score, stop_reason });
            self.finished.truncate(self.params.num_beams);
        }
    }

    /// Returns the beams of the next step; none when the search is over.
    fn go_on(&mut self, grown: Vec<Grown>) -> Vec<Continuation> {
        let mut running: Vec<Grown> = grown.into_iter().filter(|candidate| candidate.stop_reason.is_none()).collect();
        running.sort_by(|left, right| right.score.total_cmp(&left.score));
        running.truncate(self.params.num_beams);
        let Some(best) = running.first() else { return Vec::new() };
        if self.is_over(best.score) {
            return Vec::new();
        }
        let continuations =
            running.iter().map(|beam| Continuation { origin: Origin::Row(beam.from), token: beam.token }).collect();
        self.beams = running.into_iter().map(|beam| Beam { draft: beam.draft, score: beam.score }).collect();
        continuations
    }

    /// Returns whether no running beam can become a finished answer. `best` is the best score of
    /// them.
    ///
    /// With "never" the bound assumes the length that favours the beam most: `max_new_tokens` for a
    /// positive exponent, the present length otherwise. Without it, transformers takes the present
    /// length, which is a heuristic.
    fn is_over(&mut self, best: f32) -> bool {
        let is_patient = self.params.early_stopping == EarlyStopping::Never && self.params.length_penalty > 0.0;
        let length = if is_patient { self.params.max_new_tokens } else { self.new_tokens };
        let bound = best / self.scale(length);
        let worst = self.finished.last().map_or(f32::NEG_INFINITY, |finished| finished.score);
        if self.is_full() && bound <= worst {
            self.is_improvable = false;
        }
        !self.is_improvable || (self.params.early_stopping == EarlyStopping::Yes && self.is_full())
    }

    fn is_full(&self) -> bool {
        self.finished.len() == self.params.num_beams
    }

    /// Returns the divisor of a sum of log-probabilities: length^`length_penalty`.
    fn scale(&self, length: usize) -> f32 {
        (length as f64).powf(f64::from(self.params.length_penalty)) as f32
    }
}

/// Adds Gumbel noise to scores. The largest of the sums are a draw without replacement from the
/// softmax of `scores`.
fn perturbed(scores: &[f32], random: &mut ChaCha8Rng) -> Vec<f32> {
    let mut noisy = |score: f32| {
        if score == f32::NEG_INFINITY {
            return score;
        }
        let uniform: f64 = random.random();
        score - (-uniform.max(f64::MIN_POSITIVE).ln()).ln() as f32
    };
    scores.iter().map(|score| noisy(*score)).collect()
}
