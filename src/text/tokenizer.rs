//! The tokenizer of a bundle: plain encoding of prompts, decoding of answers. Used through `text`.
//!
//! It must not turn a user's `</s>` or `<image>` into special ids, must not truncate, pad or lower-case, and must not
//! clean up spaces.

use std::collections::HashSet;

use tokenizers::Tokenizer as Inner;
use tokenizers::{DecoderWrapper, PreTokenizerWrapper};

use super::TextError;
use super::strip::strip;
use super::token_bytes::TokenBytes;
use crate::bundle::TokenizerManifest;

/// The `tokenizer` part of a bundle's manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpecialIds {
    /// Stands in front of every text.
    pub bos_token_id: u32,
    /// Ends an answer: an ordinary token, "\n" for this family.
    pub eos_token_id: u32,
    /// Padding; never part of an answer.
    pub pad_token_id: u32,
    /// The place of an image vector; older checkpoints have none.
    pub image_token_id: Option<u32>,
}

impl From<&TokenizerManifest> for SpecialIds {
    fn from(manifest: &TokenizerManifest) -> Self {
        Self {
            bos_token_id: manifest.bos_token_id,
            eos_token_id: manifest.eos_token_id,
            pad_token_id: manifest.pad_token_id,
            image_token_id: manifest.image_token_id,
        }
    }
}

impl SpecialIds {
    /// The ids that answers never show. The end token is not among them: it is text that is stripped.
    fn hidden(&self) -> impl Iterator<Item = u32> {
        [self.bos_token_id, self.pad_token_id].into_iter().chain(self.image_token_id)
    }
}

/// An encoded prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// `bos_token_id`, then the ids of the text.
    pub input_ids: Vec<i64>,
    /// Special strings such as `<image>` that the text holds, in the order of their ids. They were encoded as plain
    /// text, which the answer should say.
    pub special_text: Vec<String>,
}

/// Prompts to ids and ids to answers. Can be shared between threads.
pub struct Tokenizer {
    inner: Inner,
    ids: SpecialIds,
    hidden: HashSet<u32>,
    bytes: TokenBytes,
    special_text: Vec<String>,
    longest_token_bytes: usize,
}

impl Tokenizer {
    /// A tokenizer from the bytes of `tokenizer.json` and the ids of the manifest.
    ///
    /// # Errors
    /// [`TextError::Unreadable`], [`TextError::NotByteLevel`], or an id that does not agree with the tokenizer.
    pub fn from_bytes(json: &[u8], ids: SpecialIds) -> Result<Self, TextError> {
        let mut inner = Inner::from_bytes(json).map_err(|source| TextError::Unreadable { source })?;
        check_byte_level(&inner)?;
        check_ids(&inner, &ids)?;
        inner.set_encode_special_tokens(true);
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|source| TextError::Unreadable { source })?;
        let mut special: Vec<_> =
            inner.get_added_tokens_decoder().into_iter().filter(|(_, token)| token.special).collect();
        special.sort_by_key(|(id, _)| *id);
        let hidden =
            special.iter().map(|(id, _)| *id).filter(|id| *id != ids.eos_token_id).chain(ids.hidden()).collect();
        let vocabulary = inner.get_vocab(false); // a copy of all tokens, so one for both
        Ok(Self {
            bytes: TokenBytes::new(&inner, vocabulary.values().copied(), &hidden),
            hidden,
            special_text: special.into_iter().map(|(_, token)| token.content).collect(),
            longest_token_bytes: longest_token_bytes(&inner, vocabulary.keys()),
            inner,
            ids,
        })
    }

    /// The special ids it was made with.
    pub fn special_ids(&self) -> SpecialIds {
        self.ids
    }

    /// The ids of a prompt: `bos_token_id`, then the text, special strings in it as plain text.
    ///
    /// `max_tokens` counts all of them. A text that is too long by its bytes alone is refused without encoding it, so
    /// the work is bounded by `max_tokens`, whatever was sent.
    ///
    /// # Errors
    /// [`TextError::TooLong`]; [`TextError::Unencodable`] if the library fails.
    pub fn encode(&self, text: &str, max_tokens: usize) -> Result<Encoded, TextError> {
        let too_long = || TextError::TooLong { bytes: text.len(), max_tokens };
        // No token stands for more bytes than the longest of the vocabulary.
        let most_bytes = max_tokens.saturating_sub(1).saturating_mul(self.longest_token_bytes);
        if max_tokens == 0 || text.len() > most_bytes {
            return Err(too_long());
        }
        let text_ids = self.encode_plain(text)?;
        if text_ids.len() >= max_tokens {
            return Err(too_long());
        }
        let input_ids = std::iter::once(self.ids.bos_token_id).chain(text_ids).map(i64::from).collect();
        let special_text = self.special_text.iter().filter(|special| text.contains(special.as_str()));
        Ok(Encoded { input_ids, special_text: special_text.cloned().collect() })
    }

    /// The ids of a text alone, without `bos_token_id`, special strings in it as plain text: for words to forbid and
    /// for candidates. The work grows with the text, which the caller has to bound.
    ///
    /// # Errors
    /// [`TextError::Unencodable`] if the library fails.
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>, TextError> {
        let encoding = self.inner.encode_fast(text, false).map_err(|source| TextError::Unencodable { source })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The bytes that an id adds to an answer: none for special ids and ids without a token. They need not be whole
    /// characters.
    #[must_use]
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.bytes.get(id)
    }

    /// The text of an answer: special ids and ids without a token are skipped, bytes that are not UTF-8 become U+FFFD,
    /// then white space is stripped as by Python.
    ///
    /// # Errors
    /// None for a byte-level decoder; [`TextError::Unencodable`] passes on what the library reports.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TextError> {
        let shown: Vec<u32> = ids.iter().copied().filter(|id| !self.hidden.contains(id)).collect();
        let text = self.inner.decode(&shown, false).map_err(|source| TextError::Unencodable { source })?;
        Ok(strip(&text).to_owned())
    }
}

fn check_byte_level(inner: &Inner) -> Result<(), TextError> {
    if !matches!(inner.get_pre_tokenizer(), Some(PreTokenizerWrapper::ByteLevel(_))) {
        return Err(TextError::NotByteLevel { part: "pre-tokenizer" });
    }
    if !matches!(inner.get_decoder(), Some(DecoderWrapper::ByteLevel(_))) {
        return Err(TextError::NotByteLevel { part: "decoder" });
    }
    Ok(())
}

fn check_ids(inner: &Inner, ids: &SpecialIds) -> Result<(), TextError> {
    let named = [
        ("bos_token_id", Some(ids.bos_token_id)),
        ("eos_token_id", Some(ids.eos_token_id)),
        ("pad_token_id", Some(ids.pad_token_id)),
        ("image_token_id", ids.image_token_id),
    ];
    for (name, id) in named {
        if let Some(id) = id.filter(|&id| inner.id_to_token(id).is_none()) {
            return Err(TextError::UnknownId { name, id });
        }
    }
    if ids.hidden().any(|id| id == ids.eos_token_id) {
        return Err(TextError::AmbiguousId { name: "eos_token_id", id: ids.eos_token_id });
    }
    Ok(())
}

/// In a byte-level vocabulary each character of a token stands for one byte; an added token is matched as it is.
fn longest_token_bytes<'a>(inner: &Inner, vocabulary: impl Iterator<Item = &'a String>) -> usize {
    let tokens = vocabulary.map(|token| token.chars().count());
    let added = inner.get_added_tokens_decoder().into_values().map(|token| token.content.len());
    tokens.chain(added).max().unwrap_or(0)
}
