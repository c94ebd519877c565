//! `typical_p`: only tokens can be drawn that are about as surprising as the distribution is on
//! average, and together have this probability (locally typical sampling, arXiv 2202.00666).

use super::{History, LogitsProcessor, ParamError, ParamReader, Registered};
use crate::generation::logits::probabilities;

#[derive(Debug)]
struct TypicalP {
    mass: f32,
    min_tokens_to_keep: usize,
}

pub(super) fn read(reader: &mut ParamReader<'_>) -> Result<Registered, ParamError> {
    let mass = reader.number("typical_p", "a number above 0 and at most 1", |mass| mass > 0.0 && mass <= 1.0)?;
    let min_tokens_to_keep = reader.min_tokens_to_keep;
    Ok(mass.filter(|mass| *mass < 1.0).map(|mass| Box::new(TypicalP { mass, min_tokens_to_keep }) as _))
}

impl LogitsProcessor for TypicalP {
    fn process(&self, scores: &mut [f32], _: History<'_>) {
        let allowed = probabilities(scores);
        let surprise = |probability: f32| -f64::from(probability).max(f64::MIN_POSITIVE).ln();
        let entropy: f64 = allowed.iter().map(|token| f64::from(token.score) * surprise(token.score)).sum();
        let mut by_distance: Vec<(f64, usize, f32)> =
            allowed.iter().map(|token| ((surprise(token.score) - entropy).abs(), token.index, token.score)).collect();
        by_distance.sort_by(|left, right| left.0.total_cmp(&right.0));

        let mut sum = 0.0;
        let reaches = |(_, _, probability): &(f64, usize, f32)| {
            sum += f64::from(*probability);
            sum >= f64::from(self.mass)
        };
        let last = by_distance.iter().position(reaches).unwrap_or(by_distance.len().saturating_sub(1));
        let Some(limit) = by_distance.get(last).map(|(distance, ..)| *distance) else { return };
        for (distance, index, _) in by_distance.into_iter().skip(self.min_tokens_to_keep) {
            if distance > limit {
                scores[index] = f32::NEG_INFINITY;
            }
        }
    }
}
