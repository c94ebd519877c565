//! `min_new_tokens`: the end token is forbidden before that many new tokens exist.

use super::{History, LogitsProcessor, ParamError, ParamReader, Registered, forbid};

#[derive(Debug)]
struct MinNewTokens {
    count: usize,
    eos_token_id: u32,
}

pub(super) fn read(reader: &mut ParamReader<'_>) -> Result<Registered, ParamError> {
    let eos_token_id = reader.vocabulary.eos_token_id();
    let count = reader.integer("min_new_tokens", 0)?;
    if count.is_some_and(|count| count > reader.max_new_tokens) {
        return Err(reader.out_of_range("min_new_tokens", "at most max_new_tokens"));
    }
    Ok(count.filter(|count| *count > 0).map(|count| Box::new(MinNewTokens { count, eos_token_id }) as _))
}

impl LogitsProcessor for MinNewTokens {
    fn process(&self, scores: &mut [f32], _: History<'_>) {
        forbid(scores, self.eos_token_id);
    }

    fn is_active(&self, history: History<'_>) -> bool {
        history.new_tokens < self.count
    }
}
