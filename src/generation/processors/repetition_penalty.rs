//! `repetition_penalty`: makes every token that the row already holds less likely, or more, below
//! 1.

use std::collections::HashSet;

use super::{History, LogitsProcessor, ParamError, ParamReader, Registered};

#[derive(Debug)]
struct RepetitionPenalty(f32);

pub(super) fn read(reader: &mut ParamReader<'_>) -> Result<Registered, ParamError> {
    let penalty = reader.number("repetition_penalty", "a number above 0", |penalty| penalty > 0.0)?;
    Ok(penalty.filter(|penalty| *penalty != 1.0).map(|penalty| Box::new(RepetitionPenalty(penalty)) as _))
}

impl LogitsProcessor for RepetitionPenalty {
    fn process(&self, scores: &mut [f32], history: History<'_>) {
        let present: HashSet<u32> = history.ids.iter().copied().collect(); // each id once
        for id in present {
            if let Some(score) = scores.get_mut(id as usize) {
                *score = if *score < 0.0 { *score * self.0 } else { *score / self.0 };
            }
        }
    }
}
