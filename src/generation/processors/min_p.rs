//! `min_p`: only tokens can be drawn that have at least this part of the likeliest token's
//! probability.

use super::{History, LogitsProcessor, ParamError, ParamReader, Registered};
use crate::generation::logits::{largest, probabilities};

#[derive(Debug)]
struct MinP {
    part: f32,
    min_tokens_to_keep: usize,
}

pub(super) fn read(reader: &mut ParamReader<'_>) -> Result<Registered, ParamError> {
    let part = reader.number("min_p", "a number from 0 to 1", |part| (0.0..=1.0).contains(&part))?;
    let min_tokens_to_keep = reader.min_tokens_to_keep;
    Ok(part.map(|part| Box::new(MinP { part, min_tokens_to_keep }) as _))
}

impl LogitsProcessor for MinP {
    fn process(&self, scores: &mut [f32], _: History<'_>) {
        let kept: Vec<usize> = largest(scores, self.min_tokens_to_keep).iter().map(|best| best.index).collect();
        let allowed = probabilities(scores);
        let highest = allowed.iter().map(|token| token.score).fold(0.0, f32::max);
        for token in allowed {
            if token.score < self.part * highest && !kept.contains(&token.index) {
                scores[token.index] = f32::NEG_INFINITY;
            }
        }
    }
}
