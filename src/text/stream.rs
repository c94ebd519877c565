//! Incremental decoding: turns token ids, one by one, into pieces of text.
//!
//! The pieces together equal `Tokenizer::decode` of all ids. So nothing is returned before it is
//! certain: neither an incomplete character, nor white space that may be trailing.

use std::mem::{replace, take};

use super::Tokenizer;
use super::strip::is_python_space;

/// The state between two ids of one answer. It borrows nothing, so a task can own it beside a
/// shared tokenizer.
#[derive(Clone, Debug, Default)]
pub struct TextStream {
    /// The beginning of a character, at most 3 bytes.
    incomplete: Vec<u8>,
    /// White space that is part of the answer only if other text follows.
    held: String,
    /// Whether text was returned, so that white space is no longer leading.
    has_begun: bool,
}

impl TextStream {
    /// Takes the next id, and returns the text that has become certain; often empty.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> String {
        self.push_bytes(tokenizer.token_bytes(id))
    }

    /// Takes the next bytes of the answer, and returns the text that has become certain.
    pub fn push_bytes(&mut self, bytes: &[u8]) -> String {
        self.incomplete.extend_from_slice(bytes);
        let text = take_complete(&mut self.incomplete);
        self.stripped(&text)
    }

    /// Returns the last piece: a replacement character if the answer ends within a character.
    /// Resets the stream.
    pub fn finish(&mut self) -> String {
        let mut last = take(self);
        if last.incomplete.is_empty() { String::new() } else { last.stripped("\u{FFFD}") }
    }

    /// Returns `text` without leading white space, and holds back trailing white space.
    fn stripped(&mut self, text: &str) -> String {
        let text = if self.has_begun { text } else { text.trim_start_matches(is_python_space) };
        let shown = text.trim_end_matches(is_python_space);
        let space = &text[shown.len()..];
        if shown.is_empty() {
            self.held.push_str(space);
            return String::new();
        }
        self.has_begun = true;
        let mut piece = take(&mut self.held);
        piece.push_str(shown);
        self.held.push_str(space);
        piece
    }
}

/// Takes all complete characters out of `bytes`, as `String::from_utf8_lossy` reads them. Leaves
/// the beginning of another.
fn take_complete(bytes: &mut Vec<u8>) -> String {
    let last = bytes.utf8_chunks().last().map_or(&[][..], |chunk| chunk.invalid());
    let incomplete = if is_beginning(last) { last.len() } else { 0 };
    let rest = bytes.split_off(bytes.len() - incomplete);
    String::from_utf8_lossy(&replace(bytes, rest)).into_owned()
}

/// Returns whether these bytes begin a character. No bytes do not.
fn is_beginning(bytes: &[u8]) -> bool {
    str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}
