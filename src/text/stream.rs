//! An answer while it is made: token ids one by one become pieces of text. Used by whoever sends an answer as it grows.
//!
//! The pieces together are what `Tokenizer::decode` makes of all ids. Hence nothing is given out before it is certain:
//! neither a character of which bytes are missing nor white space that may turn out to be the end.

use std::mem::{replace, take};

use super::Tokenizer;
use super::strip::is_python_space;

/// The state between two ids of one answer. It borrows nothing, so it can live in a task beside a shared tokenizer.
#[derive(Clone, Debug, Default)]
pub struct TextStream {
    /// The beginning of a character, 3 bytes at most.
    incomplete: Vec<u8>,
    /// White space that belongs to the answer only if something follows.
    held: String,
    /// Whether white space is no longer at the beginning.
    has_begun: bool,
}

impl TextStream {
    /// The piece of text that the next id makes certain, often empty.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> String {
        self.push_bytes(tokenizer.token_bytes(id))
    }

    /// The piece of text that further bytes of the answer make certain, for a caller who holds some of them back.
    pub fn push_bytes(&mut self, bytes: &[u8]) -> String {
        self.incomplete.extend_from_slice(bytes);
        let text = take_complete(&mut self.incomplete);
        self.stripped(&text)
    }

    /// The last piece: a replacement character where the answer ends within a character. The stream is then as new.
    pub fn finish(&mut self) -> String {
        let mut last = take(self);
        if last.incomplete.is_empty() { String::new() } else { last.stripped("\u{FFFD}") }
    }

    /// What of `text` stays when leading white space is dropped and trailing white space held back.
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

/// Takes all complete characters out of `bytes`, as `String::from_utf8_lossy` reads them; what is left may become one.
fn take_complete(bytes: &mut Vec<u8>) -> String {
    let last = bytes.utf8_chunks().last().map_or(&[][..], |chunk| chunk.invalid());
    let incomplete = if is_beginning(last) { last.len() } else { 0 };
    let rest = bytes.split_off(bytes.len() - incomplete);
    String::from_utf8_lossy(&replace(bytes, rest)).into_owned()
}

/// Whether more bytes could make a character of these. Nothing is no beginning.
fn is_beginning(bytes: &[u8]) -> bool {
    str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}
