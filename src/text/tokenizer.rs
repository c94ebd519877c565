//! The tokenizer of a bundle: encodes prompts as plain text, and decodes answers.
//!
//! It never turns a user's `</s>` or `<image>` into special ids, never truncates, pads or
//! lower-cases, and never cleans up spaces.

use std::collections::HashSet;

use tokenizers::Tokenizer as Inner;
use tokenizers::{DecoderWrapper, PreTokenizerWrapper};

use super::TextError;
use super::strip::strip;
use super::token_bytes::TokenBytes;
use crate::bundle::TokenizerManifest;

/// The special ids, from the bundle's manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpecialIds {
    /// Begins every text.
    pub bos_token_id: u32,
    /// Ends an answer: an ordinary token, "\n" for this family.
    pub eos_token_id: u32,
    /// Padding; never part of an answer.
    pub pad_token_id: u32,
    /// Stands for an image position. Older checkpoints have none.
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
    /// Returns the ids that answers never show. The end token is not one of them: it is white
    /// space, which is stripped.
    fn hidden(&self) -> impl Iterator<Item = u32> {
        [self.bos_token_id, self.pad_token_id].into_iter().chain(self.image_token_id)
    }
}

/// An encoded prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// `bos_token_id`, then the ids of the text.
    pub input_ids: Vec<i64>,
    /// The special strings in the text, such as `<image>`, in the order of their ids. They were
    /// encoded as plain text, of which the answer should warn.
    pub special_text: Vec<String>,
}

/// Encodes prompts and decodes answers. Can be shared between threads.
pub struct Tokenizer {
    inner: Inner,
    ids: SpecialIds,
    hidden: HashSet<u32>,
    bytes: TokenBytes,
    special_text: Vec<String>,
    longest_token_bytes: usize,
}

impl Tokenizer {
    /// Makes a tokenizer from the bytes of `tokenizer.json` and the ids of the manifest.
    ///
    /// # Errors
    /// [`TextError::Unreadable`], [`TextError::NotByteLevel`], or an id that does not agree with
    /// the tokenizer.
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
        let vocabulary = inner.get_vocab(false); // copies all tokens, so it is called once
        Ok(Self {
            bytes: TokenBytes::new(&inner, vocabulary.values().copied(), &hidden),
            hidden,
            special_text: special.into_iter().map(|(_, token)| token.content).collect(),
            longest_token_bytes: longest_token_bytes(&inner, vocabulary.keys()),
            inner,
            ids,
        })
    }

    /// Returns the special ids.
    pub fn special_ids(&self) -> SpecialIds {
        self.ids
    }

    /// Encodes a prompt: `bos_token_id`, then the text, with special strings as plain text.
    ///
    /// The ids are at most `max_tokens`. A text with too many bytes for that is rejected before it
    /// is encoded, so `max_tokens` bounds the work.
    ///
    /// # Errors
    /// [`TextError::TooLong`]; [`TextError::Unencodable`] if the library fails.
    pub fn encode(&self, text: &str, max_tokens: usize) -> Result<Encoded, TextError> {
        let too_long = || TextError::TooLong { bytes: text.len(), max_tokens };
        // No token has more bytes than the longest of the vocabulary.
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

    /// Encodes a text without `bos_token_id`, with special strings as plain text: for bad words and
    /// candidates. The caller must bound the length of the text.
    ///
    /// # Errors
    /// [`TextError::Unencodable`] if the library fails.
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>, TextError> {
        let encoding = self.inner.encode_fast(text, false).map_err(|source| TextError::Unencodable { source })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Returns the bytes that an id adds to an answer: none for special ids and ids without a
    /// token. They need not be whole characters.
    #[must_use]
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.bytes.get(id)
    }

    /// Decodes an answer: skips special ids and ids without a token, turns bytes that are not UTF-8
    /// into U+FFFD, then strips white space like Python.
    ///
    /// # Errors
    /// [`TextError::Unencodable`] with an error of the library, which a byte-level decoder never
    /// returns.
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

/// In a byte-level vocabulary each character of a token stands for one byte; an added token is
/// matched as it is.
fn longest_token_bytes<'a>(inner: &Inner, vocabulary: impl Iterator<Item = &'a String>) -> usize {
    let tokens = vocabulary.map(|token| token.chars().count());
    let added = inner.get_added_tokens_decoder().into_values().map(|token| token.content.len());
    tokens.chain(added).max().unwrap_or(0)
}
