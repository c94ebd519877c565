//! `top_k`: only the k likeliest tokens can be drawn, and those that tie with the last of them.

use super::{History, LogitsProcessor, ParamError, ParamReader, Registered};
use crate::generation::logits::largest;

/// transformers' default.
const DEFAULT: usize = 50;

#[derive(Debug)]
struct TopK(usize);

pub(super) fn read(reader: &mut ParamReader<'_>) -> Result<Registered, ParamError> {
    let count = reader.integer("top_k", 0)?.unwrap_or(DEFAULT);
    Ok((count > 0).then(|| Box::new(TopK(count.max(reader.min_tokens_to_keep))) as _))
}

impl LogitsProcessor for TopK {
    fn process(&self, scores: &mut [f32], _: History<'_>) {
        let count = self.0.min(scores.len());
        let Some(threshold) = largest(scores, count).last().map(|last| last.score) else { return };
        for score in scores {
            if *score < threshold {
                *score = f32::NEG_INFINITY;
            }
        }
    }
}
