//! `bad_words_ids`, token sequences that must not appear, and `bad_words`, the same as text.

use serde_json::Value;

use super::{History, LogitsProcessor, ParamError, ParamReader, Registered, forbid};

/// All are compared with the end of the row at every step.
const MAX_SEQUENCES: usize = 1024;

#[derive(Debug)]
struct BadWords(Vec<Vec<u32>>);

pub(super) fn read(reader: &mut ParamReader<'_>) -> Result<Registered, ParamError> {
    let range = format!("a list of 1 to {MAX_SEQUENCES} lists of token ids");
    let ids = reader.parse("bad_words_ids", &range, |value| list(value, sequence))?;
    let range = format!("a list of 1 to {MAX_SEQUENCES} words");
    let words = reader.parse("bad_words", &range, |value| list(value, word))?;
    let mut sequences = ids.unwrap_or_default();
    for word in words.unwrap_or_default() {
        // Inside a text a word has a space in front, which is part of its first token.
        sequences.push(reader.vocabulary.encode(&word));
        sequences.push(reader.vocabulary.encode(&format!(" {word}")));
    }
    let eos_token_id = reader.vocabulary.eos_token_id();
    sequences.retain(|sequence| !sequence.is_empty() && *sequence != [eos_token_id]); // an answer must be able to end
    Ok((!sequences.is_empty()).then(|| Box::new(BadWords(sequences)) as _))
}

fn list<T>(value: &Value, item: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
    let items = value.as_array().filter(|items| (1..=MAX_SEQUENCES).contains(&items.len()))?;
    items.iter().map(item).collect()
}

fn sequence(value: &Value) -> Option<Vec<u32>> {
    let ids = value.as_array().filter(|ids| !ids.is_empty())?;
    ids.iter().map(|id| u32::try_from(id.as_u64()?).ok()).collect()
}

fn word(value: &Value) -> Option<String> {
    value.as_str().map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned)
}

impl LogitsProcessor for BadWords {
    fn process(&self, scores: &mut [f32], history: History<'_>) {
        for sequence in &self.0 {
            if let Some((last, before)) = sequence.split_last()
                && history.ids.ends_with(before)
            {
                forbid(scores, *last);
            }
        }
    }
}
