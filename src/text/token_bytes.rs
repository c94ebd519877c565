//! The bytes of each token, for streaming and stop strings.
//!
//! GPT-2's vocabularies write bytes as printable characters. This table reverses that, token by
//! token, like the library's byte-level decoder. Tokens that answers hide have no bytes.

use std::collections::HashSet;

use tokenizers::Tokenizer as Inner;

/// Bytes by token id. Ids need not be dense, so they are looked up in a sorted list: a megabyte for
/// 50,000 tokens.
pub(super) struct TokenBytes {
    ids: Vec<u32>,
    /// The end of each id's bytes.
    ends: Vec<usize>,
    bytes: Vec<u8>,
}

impl TokenBytes {
    /// Makes the table of the vocabulary's ids and the added ones, without hidden ones.
    pub(super) fn new(inner: &Inner, vocabulary: impl Iterator<Item = u32>, hidden: &HashSet<u32>) -> Self {
        let mut ids: Vec<u32> = vocabulary.chain(inner.get_added_tokens_decoder().into_keys()).collect();
        ids.retain(|id| !hidden.contains(id));
        ids.sort_unstable();
        ids.dedup();
        let alphabet = Alphabet::new();
        let mut bytes = Vec::new();
        let ends = ids.iter().map(|&id| {
            alphabet.push_bytes(&inner.id_to_token(id).unwrap_or_default(), &mut bytes);
            bytes.len()
        });
        Self { ends: ends.collect(), ids, bytes }
    }

    /// Returns the bytes of a token; none for a hidden id, or one without a token.
    pub(super) fn get(&self, id: u32) -> &[u8] {
        let Ok(place) = self.ids.binary_search(&id) else { return &[] };
        let start = place.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start..self.ends[place]]
    }
}

/// GPT-2's encoding of bytes: printable Latin-1 characters stand for themselves, U+0100 + n for the
/// n-th other byte.
struct Alphabet(Vec<Option<u8>>);

impl Alphabet {
    fn new() -> Self {
        let is_printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
        let (printable, others): (Vec<u8>, Vec<u8>) = (0..=u8::MAX).partition(is_printable);
        let mut bytes = vec![None; 0x100 + others.len()];
        for byte in printable {
            bytes[usize::from(byte)] = Some(byte);
        }
        for (n, byte) in others.into_iter().enumerate() {
            bytes[0x100 + n] = Some(byte);
        }
        Self(bytes)
    }

    /// Appends the bytes of a token. A token with any other character, such as an added one, is
    /// plain UTF-8.
    fn push_bytes(&self, token: &str, bytes: &mut Vec<u8>) {
        let start = bytes.len();
        for character in token.chars() {
            let Some(byte) = self.0.get(character as usize).copied().flatten() else {
                bytes.truncate(start);
                bytes.extend_from_slice(token.as_bytes());
                return;
            };
            bytes.push(byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(token: &str) -> Vec<u8> {
        let mut bytes = b"before".to_vec();
        Alphabet::new().push_bytes(token, &mut bytes);
        bytes.split_off(b"before".len())
    }

    #[test]
    fn every_byte_is_written_by_one_character() {
        let Alphabet(by_character) = Alphabet::new();
        let mut found: Vec<u8> = by_character.into_iter().flatten().collect();
        found.sort_unstable();
        assert_eq!(found, (0..=u8::MAX).collect::<Vec<u8>>());
    }

    #[test]
    fn characters_are_those_of_gpt_2() {
        for (token, expected) in [
            ("", b"".as_slice()),
            ("Ġthe", b" the"),
            ("Ċ", b"\n"),
            ("Ā", b"\0"),
            ("âĺĥ", "☃".as_bytes()),
            ("\u{143}", b"\xAD"),
            ("</s>", b"</s>"),
            ("\u{144}a", "\u{144}a".as_bytes()),
            ("Ġ☃", "Ġ☃".as_bytes()),
        ] {
            assert_eq!(bytes(token), expected, "{token:?}");
        }
    }
}
