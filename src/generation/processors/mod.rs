//! Logits processors, in transformers' order. They see the whole row: image positions, prompt and
//! new tokens.
//!
//! A processor is one file: a `read` that reads its parameters from the request, and the
//! arithmetic. To add one, write the file, and add its `read` to [`ALWAYS`] or [`SAMPLING`] in the
//! order of transformers.

mod bad_words;
mod min_new_tokens;
mod min_p;
mod no_repeat_ngram;
mod repetition_penalty;
mod temperature;
mod top_k;
mod top_p;
mod typical_p;

use std::borrow::Cow;
use std::fmt::Debug;
use std::sync::Arc;

use super::reader::{ParamError, ParamReader};

/// The row, as processors see it.
#[derive(Debug, Clone, Copy)]
pub(super) struct History<'a> {
    /// The ids of the whole row.
    pub(super) ids: &'a [u32],
    /// The number of new tokens at its end.
    pub(super) new_tokens: usize,
}

/// Changes the scores of the next token. Scores are logits, or log-probabilities with beams. −∞
/// forbids a token.
pub(super) trait LogitsProcessor: Debug + Send + Sync {
    fn process(&self, scores: &mut [f32], history: History<'_>);

    /// Returns whether it may change scores now. A step without active processors copies no scores.
    fn is_active(&self, _: History<'_>) -> bool {
        true
    }
}

/// A processor, or `None` if its parameters turn it off.
type Registered = Option<Box<dyn LogitsProcessor>>;

type Read = fn(&mut ParamReader<'_>) -> Result<Registered, ParamError>;

/// The processors of every method.
const ALWAYS: &[Read] = &[repetition_penalty::read, no_repeat_ngram::read, bad_words::read, min_new_tokens::read];

/// The processors of sampling.
const SAMPLING: &[Read] = &[temperature::read, top_k::read, top_p::read, min_p::read, typical_p::read];

/// The processors of one request.
#[derive(Debug, Clone)]
pub(super) struct Processors(Arc<[Box<dyn LogitsProcessor>]>);

impl Processors {
    /// Reads the processors. Also returns the names of parameters without effect, because the
    /// request does not sample.
    pub(super) fn read(reader: &mut ParamReader<'_>, do_sample: bool) -> Result<(Self, Vec<&'static str>), ParamError> {
        let mut processors = Vec::new();
        for read in ALWAYS {
            processors.extend(read(reader)?);
        }
        let mut idle = Vec::new();
        for read in SAMPLING {
            let (processor, given) = reader.noting_given(read)?;
            if do_sample {
                processors.extend(processor);
            } else if processor.is_some() {
                idle.extend(given);
            }
        }
        Ok((Self(processors.into()), idle))
    }

    /// Returns the scores after all processors; borrowed if none is active.
    pub(super) fn process<'a>(&self, scores: &'a [f32], history: History<'_>) -> Cow<'a, [f32]> {
        let mut scores = Cow::Borrowed(scores);
        for processor in self.0.iter().filter(|processor| processor.is_active(history)) {
            processor.process(scores.to_mut(), history);
        }
        scores
    }
}

/// Forbids a token. Ignores ids beyond the columns.
fn forbid(scores: &mut [f32], id: u32) {
    if let Some(score) = scores.get_mut(id as usize) {
        *score = f32::NEG_INFINITY;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::bundle::GenerationDefaults;
    use crate::generation::sampling_tests::letters;
    use crate::generation::{GenerationParams, processors::History};

    const OFF: f32 = f32::NEG_INFINITY;

    /// `scores` after the processors of `params`, for a row of `ids` of which `new_tokens` are new.
    fn processed(params: &Value, scores: &[f32], ids: &[u32], new_tokens: usize) -> Vec<f32> {
        let defaults = GenerationDefaults { max_new_tokens: 20 };
        let params = GenerationParams::parse(params, defaults, &letters()).unwrap();
        params.processors.process(scores, History { ids, new_tokens }).into_owned()
    }

    /// With `do_sample` and no limit of `top_k`.
    fn sampled(mut params: Value, scores: &[f32]) -> Vec<f32> {
        params["do_sample"] = json!(true);
        if params.get("top_k").is_none() {
            params["top_k"] = json!(0);
        }
        processed(&params, scores, &[1], 0)
    }

    #[test]
    fn repetition_penalty_counts_an_id_once_and_follows_its_sign() {
        let params = json!({"repetition_penalty": 2});
        assert_eq!(processed(&params, &[-1.0, 2.0, 3.0], &[0, 1, 1, 0], 0), [-2.0, 1.0, 3.0]);
        assert_eq!(processed(&params, &[1.0], &[7], 0), [1.0], "an id beyond the columns is passed over");
    }

    #[test]
    fn the_token_that_completes_a_known_ngram_is_forbidden() {
        let params = json!({"no_repeat_ngram_size": 2});
        assert_eq!(processed(&params, &[0.0; 4], &[1, 2, 3, 1], 0), [0.0, 0.0, OFF, 0.0]);
        assert_eq!(processed(&params, &[0.0; 3], &[1], 0), [0.0; 3], "a row shorter than the n-gram is left alone");
        let params = json!({"no_repeat_ngram_size": 1});
        assert_eq!(processed(&params, &[0.0; 3], &[1, 2], 0), [0.0, OFF, OFF]);
    }

    #[test]
    fn bad_words_fall_when_all_but_their_last_token_has_just_appeared() {
        let params = json!({"bad_words_ids": [[1], [2, 3]]});
        assert_eq!(processed(&params, &[0.0; 5], &[4, 2], 1), [0.0, OFF, 0.0, OFF, 0.0]);
        assert_eq!(processed(&params, &[0.0; 5], &[2, 4], 1), [0.0, OFF, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn the_end_token_alone_cannot_be_a_bad_word() {
        assert_eq!(processed(&json!({"bad_words_ids": [[0], [1]]}), &[0.0; 2], &[1], 1), [0.0, OFF]);
    }

    #[test]
    fn bad_words_as_text_fall_with_and_without_a_space_in_front() {
        let scores = processed(&json!({"bad_words": ["b"]}), &[0.0; 128], &[5, u32::from(b' ')], 1);
        let forbidden: Vec<usize> = (0..128).filter(|id| scores[*id] == OFF).collect();
        assert_eq!(forbidden, [usize::from(b'b')]);
    }

    #[test]
    fn the_end_token_waits_for_min_new_tokens() {
        let params = json!({"min_new_tokens": 2});
        assert_eq!(processed(&params, &[1.0, 0.0], &[1], 1), [OFF, 0.0]);
        assert_eq!(processed(&params, &[1.0, 0.0], &[1], 2), [1.0, 0.0]);
    }

    #[test]
    fn temperature_divides() {
        assert_eq!(sampled(json!({"temperature": 2.0}), &[4.0, -2.0]), [2.0, -1.0]);
    }

    #[test]
    fn top_k_keeps_ties_with_the_last_of_the_k() {
        assert_eq!(sampled(json!({"top_k": 2}), &[3.0, 2.0, 2.0, 1.0]), [3.0, 2.0, 2.0, OFF]);
        assert_eq!(sampled(json!({"top_k": 9}), &[3.0, 2.0]), [3.0, 2.0]);
    }

    #[test]
    fn top_p_drops_from_the_smallest_and_keeps_the_largest() {
        let scores = [0.5_f32.ln(), 0.3_f32.ln(), 0.2_f32.ln()];
        assert_eq!(sampled(json!({"top_p": 0.75}), &scores), [scores[0], scores[1], OFF]);
        assert_eq!(sampled(json!({"top_p": 0.0}), &scores), [scores[0], OFF, OFF]);
    }

    #[test]
    fn min_p_is_a_part_of_the_largest_probability() {
        let scores = [0.6_f32.ln(), 0.3_f32.ln(), 0.1_f32.ln()];
        assert_eq!(sampled(json!({"min_p": 0.4}), &scores), [scores[0], scores[1], OFF]);
    }

    #[test]
    fn typical_p_prefers_what_is_about_as_surprising_as_the_average() {
        // Entropy 0.8979 nats: surprises 0.51, 1.20 and 2.30, so the order of closeness is 1, 0, 2.
        let scores = [0.6_f32.ln(), 0.3_f32.ln(), 0.1_f32.ln()];
        assert_eq!(sampled(json!({"typical_p": 0.2}), &scores), [OFF, scores[1], OFF]);
        assert_eq!(sampled(json!({"typical_p": 0.8}), &scores), [scores[0], scores[1], OFF]);
    }

    #[test]
    fn filters_of_beam_sampling_leave_two_tokens() {
        let scores = [0.9_f32.ln(), 0.06_f32.ln(), 0.04_f32.ln()];
        for params in [json!({"top_k": 1}), json!({"top_p": 0.1}), json!({"min_p": 0.9})] {
            let mut params = params;
            params["num_beams"] = json!(3);
            assert_eq!(sampled(params, &scores), [scores[0], scores[1], OFF]);
        }
    }
}
