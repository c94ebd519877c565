//! The part of an answer that a client sees: its text without end token and stop string, and the
//! tokens of that text. Used for streams and for whole answers, so that both agree.
//!
//! Works on bytes, as the search for stop strings does. Holds back whatever may still turn out to
//! be the beginning of a stop string.

use std::collections::VecDeque;

use super::{TextStream, Tokenizer};
use crate::generation::DecidedToken;

/// The state between two tokens of an answer.
#[derive(Debug, Default)]
pub struct VisibleText {
    stops: Vec<Vec<u8>>,
    text: TextStream,
    /// The newest bytes, which may be the beginning of a stop string.
    held: Vec<u8>,
    /// Number of bytes before `held`; they were passed on to `text`.
    released: usize,
    /// Whether a stop string came. Nothing after it is visible.
    is_cut: bool,
    /// Tokens that are held back, each with the position of its first byte.
    waiting: VecDeque<(usize, DecidedToken)>,
}

/// A further part of an answer.
#[derive(Debug, Default, PartialEq)]
pub struct VisiblePiece {
    /// Complete characters; often empty.
    pub text: String,
    /// The tokens of the text. A token may come before its text, of which white space or bytes are
    /// held back.
    pub tokens: Vec<DecidedToken>,
}

impl VisibleText {
    /// Starts an answer that is cut before the first of `stops`.
    #[must_use]
    pub fn new(stops: Vec<Vec<u8>>) -> Self {
        Self { stops, ..Self::default() }
    }

    /// Returns all of a finished answer in one piece.
    pub fn whole(mut self, tokenizer: &Tokenizer, tokens: impl IntoIterator<Item = DecidedToken>) -> VisiblePiece {
        let mut whole = VisiblePiece::default();
        for token in tokens {
            whole.append(self.push(tokenizer, token));
        }
        whole.append(self.finish());
        whole
    }

    /// Takes the next token, and returns the piece that has become certain.
    pub fn push(&mut self, tokenizer: &Tokenizer, token: DecidedToken) -> VisiblePiece {
        // The end token of this family is ordinary text, "\n", but no part of the answer.
        if self.is_cut || token.token_id == tokenizer.special_ids().eos_token_id {
            return VisiblePiece::default();
        }
        let bytes = tokenizer.token_bytes(token.token_id);
        self.waiting.push_back((self.released + self.held.len(), token));
        self.held.extend_from_slice(bytes);
        let stop = first_stop(&self.held, &self.stops);
        self.is_cut = stop.is_some();
        let certain = stop.unwrap_or(self.held.len() - longest_beginning(&self.held, &self.stops));
        if certain == self.held.len() {
            return self.release(certain);
        }
        // White space before the stop string will be stripped, so a token that has nothing else
        // there is cut too.
        self.release(self.held[..certain].trim_ascii_end().len())
    }

    /// Ends the answer, and returns its last piece.
    pub fn finish(&mut self) -> VisiblePiece {
        let mut piece = if self.is_cut { VisiblePiece::default() } else { self.release(self.held.len()) };
        piece.text.push_str(&self.text.finish());
        if !self.is_cut {
            // Tokens without bytes may stand at the very end.
            piece.tokens.extend(self.waiting.drain(..).map(|(_, token)| token));
        }
        piece
    }

    /// Gives out the first `len` of the bytes that are held back, and the tokens that begin in
    /// them.
    fn release(&mut self, len: usize) -> VisiblePiece {
        let bytes: Vec<u8> = self.held.drain(..len).collect();
        self.released += len;
        let certain = self.waiting.partition_point(|(first_byte, _)| *first_byte < self.released);
        let tokens = self.waiting.drain(..certain).map(|(_, token)| token).collect();
        VisiblePiece { text: self.text.push_bytes(&bytes), tokens }
    }
}

impl VisiblePiece {
    fn append(&mut self, next: Self) {
        self.text.push_str(&next.text);
        self.tokens.extend(next.tokens);
    }
}

/// Returns the position of the first stop string.
fn first_stop(bytes: &[u8], stops: &[Vec<u8>]) -> Option<usize> {
    let find = |stop: &Vec<u8>| bytes.windows(stop.len()).position(|part| part == stop.as_slice());
    stops.iter().filter_map(find).min()
}

/// Returns the length of the longest end of `bytes` with which a stop string begins.
fn longest_beginning(bytes: &[u8], stops: &[Vec<u8>]) -> usize {
    let beginning = |stop: &Vec<u8>| {
        (1..stop.len().min(bytes.len() + 1)).rev().find(|len| bytes.ends_with(&stop[..*len])).unwrap_or(0)
    };
    stops.iter().map(beginning).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::SpecialIds;

    /// A tokenizer of bytes and some pairs of them, with "\n" as its end token.
    fn tokenizer() -> Tokenizer {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tokenizer/tokenizer.json");
        let ids = SpecialIds { bos_token_id: 2, eos_token_id: 202, pad_token_id: 1, image_token_id: Some(410) };
        Tokenizer::from_bytes(&std::fs::read(path).unwrap(), ids).unwrap()
    }

    fn token(token_id: u32) -> DecidedToken {
        DecidedToken { token_id, logprob: -0.5, top_logprobs: Vec::new() }
    }

    /// The pieces of an answer, one a token and the last.
    fn pieces(text: &str, stops: &[&str]) -> Vec<VisiblePiece> {
        let tokenizer = tokenizer();
        let mut visible = VisibleText::new(stops.iter().map(|stop| stop.as_bytes().to_vec()).collect());
        let ids = tokenizer.encode_plain(text).unwrap();
        let mut pieces: Vec<VisiblePiece> = ids.into_iter().map(|id| visible.push(&tokenizer, token(id))).collect();
        pieces.push(visible.finish());
        pieces
    }

    /// Text and tokens of all pieces together.
    fn all(text: &str, stops: &[&str]) -> (String, String) {
        let mut whole = VisiblePiece::default();
        for piece in pieces(text, stops) {
            whole.append(piece);
        }
        let tokenizer = tokenizer();
        let bytes: Vec<u8> =
            whole.tokens.iter().flat_map(|token| tokenizer.token_bytes(token.token_id).to_vec()).collect();
        (whole.text, String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn tokens_are_visible_at_once_without_stop_strings() {
        let pieces = pieces(" ab cd", &[]);
        let (last, before) = pieces.split_last().unwrap();
        assert_eq!(*last, VisiblePiece::default());
        assert!(before.iter().all(|piece| piece.tokens.len() == 1));
        assert_eq!(all(" ab cd\n", &[]), ("ab cd".into(), " ab cd".into()), "the end token is no part of it");
    }

    #[test]
    fn stop_string_and_all_after_it_are_cut_with_their_tokens() {
        for (stops, text, tokens) in [
            (vec!["cd"], "ab", "ab"),
            (vec![" cd"], "ab", "ab"),
            (vec!["zz", "ef", "d"], "ab c", "ab c"),
            (vec!["ab"], "", ""),
            (vec!["ab cd ef g"], "ab cd ef", "ab cd ef"),
        ] {
            assert_eq!(all("ab cd ef", &stops), (text.into(), tokens.into()), "{stops:?}");
        }
    }

    #[test]
    fn possible_beginning_of_a_stop_string_is_held_back() {
        let pieces = pieces("a b a b c", &["b c"]);
        let mut seen = String::new();
        for piece in &pieces {
            seen.push_str(&piece.text);
            assert!("a b a".starts_with(&seen), "{seen:?}");
        }
        assert_eq!(seen, "a b a");
    }

    #[test]
    fn stop_strings_may_hold_characters_of_several_bytes() {
        assert_eq!(all("a é b", &["é"]).0, "a");
        assert_eq!(all("a è b", &["é"]).0, "a è b", "they share their first byte");
    }

    #[test]
    fn beginning_of_a_stop_string_that_never_completes_is_visible_at_the_end() {
        assert_eq!(all("ab c", &["cc"]), ("ab c".into(), "ab c".into()));
    }
}
