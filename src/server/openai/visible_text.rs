//! What a client sees of an answer while it is made: the text without end token and stop string, and the tokens that it
//! consists of. Used for whole answers too, so that both are the same.
//!
//! It works on bytes, as the engine looks for stop strings. Nothing is given out that could still turn out to be the
//! beginning of a stop string.

use std::collections::VecDeque;

use super::chat_response::TokenLogprob;
use crate::engine::AnswerSequence;
use crate::generation::DecidedToken;
use crate::text::{TextStream, Tokenizer};

/// The state between two tokens of an answer.
#[derive(Debug, Default)]
pub(super) struct VisibleText {
    stops: Vec<Vec<u8>>,
    with_logprobs: bool,
    text: TextStream,
    /// The newest bytes, which may be the beginning of a stop string.
    held: Vec<u8>,
    /// Bytes before these, which have been given to `text`.
    released: usize,
    /// A stop string came, and nothing behind it counts.
    is_cut: bool,
    /// Tokens that are not given out yet, each with the place of its first byte.
    waiting: VecDeque<(usize, TokenLogprob)>,
}

/// What became certain.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Piece {
    /// Text, often empty.
    pub(super) text: String,
    /// The tokens behind it; empty unless they were asked for.
    pub(super) logprobs: Vec<TokenLogprob>,
}

impl Piece {
    pub(super) fn is_empty(&self) -> bool {
        self.text.is_empty() && self.logprobs.is_empty()
    }
}

impl VisibleText {
    /// For an answer that ends at one of these strings.
    pub(super) fn new(stops: Vec<Vec<u8>>, with_logprobs: bool) -> Self {
        Self { stops, with_logprobs, ..Self::default() }
    }

    pub(super) fn has_logprobs(&self) -> bool {
        self.with_logprobs
    }

    /// All of a finished answer.
    pub(super) fn whole(mut self, tokenizer: &Tokenizer, sequence: &AnswerSequence) -> Piece {
        let mut whole = Piece::default();
        for (place, (token_id, logprob)) in sequence.token_ids.iter().zip(&sequence.logprobs).enumerate() {
            let top_logprobs = sequence.top_logprobs.get(place).cloned().unwrap_or_default();
            let token = DecidedToken { token_id: *token_id, logprob: *logprob, top_logprobs };
            whole.append(self.push(tokenizer, &token));
        }
        whole.append(self.finish());
        whole
    }

    /// What the next token makes certain.
    pub(super) fn push(&mut self, tokenizer: &Tokenizer, token: &DecidedToken) -> Piece {
        // The end token is an ordinary one of this family, but no part of the answer.
        if self.is_cut || token.token_id == tokenizer.special_ids().eos_token_id {
            return Piece::default();
        }
        if self.with_logprobs {
            let place = self.released + self.held.len();
            self.waiting.push_back((place, TokenLogprob::new(tokenizer, token)));
        }
        self.held.extend_from_slice(tokenizer.token_bytes(token.token_id));
        let start = first_stop(&self.held, &self.stops);
        self.is_cut = start.is_some();
        let certain = start.unwrap_or(self.held.len() - longest_beginning(&self.held, &self.stops));
        // A token of which nothing but its leading space stands before the string is no part of the text: that is stripped.
        let is_all = certain == self.held.len();
        self.release(if is_all { certain } else { self.held[..certain].trim_ascii_end().len() })
    }

    /// What the end of the answer makes certain.
    pub(super) fn finish(&mut self) -> Piece {
        let mut piece = if self.is_cut { Piece::default() } else { self.release(self.held.len()) };
        piece.text.push_str(&self.text.finish());
        if !self.is_cut {
            // Tokens without bytes may stand at the very end.
            piece.logprobs.extend(self.waiting.drain(..).map(|(_, token)| token));
        }
        piece
    }

    /// Gives out the first `len` of the bytes that are held.
    fn release(&mut self, len: usize) -> Piece {
        let bytes: Vec<u8> = self.held.drain(..len).collect();
        self.released += len;
        let certain = self.waiting.partition_point(|(place, _)| *place < self.released);
        let logprobs = self.waiting.drain(..certain).map(|(_, token)| token).collect();
        Piece { text: self.text.push_bytes(&bytes), logprobs }
    }
}

impl Piece {
    fn append(&mut self, next: Self) {
        self.text.push_str(&next.text);
        self.logprobs.extend(next.logprobs);
    }
}

/// Where the first stop string begins.
fn first_stop(bytes: &[u8], stops: &[Vec<u8>]) -> Option<usize> {
    let find = |stop: &Vec<u8>| bytes.windows(stop.len()).position(|part| part == stop.as_slice());
    stops.iter().filter_map(find).min()
}

/// The length of the longest end of `bytes` with which a stop string begins.
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
    fn pieces(text: &str, stops: &[&str]) -> Vec<Piece> {
        let tokenizer = tokenizer();
        let mut visible = VisibleText::new(stops.iter().map(|stop| stop.as_bytes().to_vec()).collect(), true);
        let ids = tokenizer.encode_plain(text).unwrap();
        let mut pieces: Vec<Piece> = ids.into_iter().map(|id| visible.push(&tokenizer, &token(id))).collect();
        pieces.push(visible.finish());
        pieces
    }

    /// Text and tokens of all pieces together.
    fn all(text: &str, stops: &[&str]) -> (String, String) {
        let mut whole = Piece::default();
        for piece in pieces(text, stops) {
            whole.append(piece);
        }
        let bytes: Vec<u8> = whole.logprobs.iter().flat_map(|token| token.bytes().to_vec()).collect();
        (whole.text, String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn without_stop_strings_every_token_is_given_out_at_once() {
        let pieces = pieces(" ab cd", &[]);
        let (last, before) = pieces.split_last().unwrap();
        assert!(last.is_empty() && before.iter().all(|piece| piece.logprobs.len() == 1));
        assert_eq!(all(" ab cd\n", &[]), ("ab cd".into(), " ab cd".into()), "the end token is no part of it");
    }

    #[test]
    fn a_stop_string_and_what_follows_is_cut_with_its_tokens() {
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
    fn nothing_is_given_out_that_may_begin_a_stop_string() {
        let pieces = pieces("a b a b c", &["b c"]);
        let mut seen = String::new();
        for piece in &pieces {
            seen.push_str(&piece.text);
            assert!("a b a".starts_with(&seen), "{seen:?}");
        }
        assert_eq!(seen, "a b a");
    }

    #[test]
    fn a_stop_string_may_hold_characters_of_several_bytes() {
        assert_eq!(all("a é b", &["é"]).0, "a");
        assert_eq!(all("a è b", &["é"]).0, "a è b", "they share their first byte");
    }

    #[test]
    fn a_beginning_that_comes_to_nothing_is_given_out_at_the_end() {
        assert_eq!(all("ab c", &["cc"]), ("ab c".into(), "ab c".into()));
    }
}
