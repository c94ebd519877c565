//! `top_p`: only the likeliest tokens can be drawn that together have this probability.

use super::{History, LogitsProcessor, ParamError, ParamReader, Registered};
use crate::generation::logits::probabilities;

#[derive(Debug)]
struct TopP {
    mass: f32,
    min_tokens_to_keep: usize,
}

pub(super) fn read(reader: &mut ParamReader<'_>) -> Result<Registered, ParamError> {
    let mass = reader.number("top_p", "a number from 0 to 1", |mass| (0.0..=1.0).contains(&mass))?;
    let min_tokens_to_keep = reader.min_tokens_to_keep;
    Ok(mass.filter(|mass| *mass < 1.0).map(|mass| Box::new(TopP { mass, min_tokens_to_keep }) as _))
}

impl LogitsProcessor for TopP {
    fn process(&self, scores: &mut [f32], _: History<'_>) {
        let mut allowed = probabilities(scores);
        allowed.sort_by(|left, right| left.score.total_cmp(&right.score));
        let droppable = allowed.len().saturating_sub(self.min_tokens_to_keep);
        let mut sum = 0.0;
        for token in &allowed[..droppable] {
            sum += f64::from(token.score);
            if sum > f64::from(1.0 - self.mass) {
                break;
            }
            scores[token.index] = f32::NEG_INFINITY;
        }
    }
}
