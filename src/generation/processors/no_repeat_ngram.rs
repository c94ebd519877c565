//! `no_repeat_ngram_size`: no sequence of that many tokens occurs twice in a row.

use super::{History, LogitsProcessor, ParamError, ParamReader, Registered, forbid};

#[derive(Debug)]
struct NoRepeatNgram(usize);

pub(super) fn read(reader: &mut ParamReader<'_>) -> Result<Registered, ParamError> {
    let size = reader.integer("no_repeat_ngram_size", 0)?;
    Ok(size.filter(|size| *size > 0).map(|size| Box::new(NoRepeatNgram(size)) as _))
}

impl LogitsProcessor for NoRepeatNgram {
    fn process(&self, scores: &mut [f32], history: History<'_>) {
        let ids = history.ids;
        let size = self.0;
        let newest = &ids[ids.len() + 1 - size..];
        for ngram in ids.windows(size) {
            if ngram[..size - 1] == *newest {
                forbid(scores, ngram[size - 1]);
            }
        }
    }

    fn is_active(&self, history: History<'_>) -> bool {
        history.ids.len() >= self.0
    }
}
