//! Logits processors, in transformers' order. They see the whole row: image positions, prompt and new tokens.

use std::collections::HashSet;

use super::GenerationParams;

/// What a processor may look at.
#[derive(Debug, Clone, Copy)]
pub(super) struct History<'a> {
    /// Ids of the whole row.
    pub ids: &'a [u32],
    /// How many of them are new.
    pub new_tokens: usize,
    /// The id that ends an answer.
    pub eos_token_id: u32,
}

/// Applies all processors that `params` turn on.
pub(super) fn process(scores: &mut [f32], history: History<'_>, params: &GenerationParams) {
    if params.repetition_penalty != 1.0 {
        penalise_repetition(scores, history.ids, params.repetition_penalty);
    }
    if params.no_repeat_ngram_size > 0 {
        forbid_repeated_ngrams(scores, history.ids, params.no_repeat_ngram_size);
    }
    if history.new_tokens < params.min_new_tokens {
        forbid(scores, history.eos_token_id);
    }
}

/// Each id of the row once: s·r if s < 0, else s/r.
fn penalise_repetition(scores: &mut [f32], ids: &[u32], penalty: f32) {
    let present: HashSet<u32> = ids.iter().copied().collect();
    for id in present {
        if let Some(score) = scores.get_mut(id as usize) {
            *score = if *score < 0.0 { *score * penalty } else { *score / penalty };
        }
    }
}

/// −∞ for every token that would complete an n-gram that the row already holds.
fn forbid_repeated_ngrams(scores: &mut [f32], ids: &[u32], size: usize) {
    if ids.len() < size {
        return;
    }
    let newest = &ids[ids.len() + 1 - size..];
    for ngram in ids.windows(size) {
        if ngram[..size - 1] == *newest {
            forbid(scores, ngram[size - 1]);
        }
    }
}

fn forbid(scores: &mut [f32], id: u32) {
    if let Some(score) = scores.get_mut(id as usize) {
        *score = f32::NEG_INFINITY;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::GenerationDefaults;

    fn processed(
        mut scores: Vec<f32>,
        ids: &[u32],
        new_tokens: usize,
        set: impl Fn(&mut GenerationParams),
    ) -> Vec<f32> {
        let mut params = GenerationParams::new(GenerationDefaults { max_new_tokens: 20 });
        set(&mut params);
        process(&mut scores, History { ids, new_tokens, eos_token_id: 0 }, &params);
        scores
    }

    #[test]
    fn repetition_penalty_counts_an_id_once_and_follows_its_sign() {
        let scores = processed(vec![-1.0, 2.0, 3.0], &[0, 1, 1, 0], 0, |params| params.repetition_penalty = 2.0);
        assert_eq!(scores, [-2.0, 1.0, 3.0]);
    }

    #[test]
    fn an_id_beyond_the_columns_is_passed_over() {
        let scores = processed(vec![1.0], &[7], 0, |params| params.repetition_penalty = 2.0);
        assert_eq!(scores, [1.0]);
    }

    #[test]
    fn the_token_that_completes_a_known_bigram_is_forbidden() {
        let scores = processed(vec![0.0; 4], &[1, 2, 3, 1], 0, |params| params.no_repeat_ngram_size = 2);
        assert_eq!(scores, [0.0, 0.0, f32::NEG_INFINITY, 0.0]);
    }

    #[test]
    fn unigrams_forbid_every_token_of_the_row() {
        let scores = processed(vec![0.0; 3], &[1, 2], 0, |params| params.no_repeat_ngram_size = 1);
        assert_eq!(scores, [0.0, f32::NEG_INFINITY, f32::NEG_INFINITY]);
    }

    #[test]
    fn a_row_shorter_than_the_ngram_is_left_alone() {
        assert_eq!(processed(vec![0.0; 3], &[1], 0, |params| params.no_repeat_ngram_size = 2), [0.0; 3]);
    }

    #[test]
    fn the_end_token_waits_for_min_new_tokens() {
        let early = processed(vec![1.0, 0.0], &[1], 1, |params| params.min_new_tokens = 2);
        let late = processed(vec![1.0, 0.0], &[1], 2, |params| params.min_new_tokens = 2);
        assert_eq!((early[0], late[0]), (f32::NEG_INFINITY, 1.0));
    }
}
