//! The small committed tokenizer against recorded answers, and what is rejected: ids, texts,
//! tokenizers.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{SpecialIds, TextError, Tokenizer};

/// The ids of tests/fixtures/tokenizer/make_tokenizer.py; "\n" is a byte of the vocabulary.
pub(super) const SMALL: SpecialIds =
    SpecialIds { bos_token_id: 2, eos_token_id: 202, pad_token_id: 1, image_token_id: Some(410) };

#[derive(Deserialize)]
struct Recorded {
    encoding: Vec<Encoding>,
    decoding: Vec<Decoding>,
}

#[derive(Deserialize)]
struct Encoding {
    text: String,
    ids: Vec<i64>,
    special_text: Vec<String>,
}

#[derive(Deserialize)]
struct Decoding {
    ids: Vec<u32>,
    text: String,
}

pub(super) fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

pub(super) fn json() -> Vec<u8> {
    std::fs::read(in_repository("tests/fixtures/tokenizer/tokenizer.json")).unwrap()
}

pub(super) fn small() -> Tokenizer {
    Tokenizer::from_bytes(&json(), SMALL).unwrap()
}

pub(super) fn plain(tokenizer: &Tokenizer, text: &str) -> Vec<i64> {
    tokenizer.encode_plain(text).unwrap().into_iter().map(i64::from).collect()
}

#[test]
fn the_small_tokenizer_answers_as_recorded() {
    let cases = std::fs::read(in_repository("tests/fixtures/tokenizer/tokenizer_cases.json")).unwrap();
    let cases: Recorded = serde_json::from_slice(&cases).unwrap();
    let tokenizer = small();
    for case in cases.encoding {
        let encoded = tokenizer.encode(&case.text, 256).unwrap();
        assert_eq!(encoded.input_ids, case.ids, "{:?}", case.text);
        assert_eq!(encoded.special_text, case.special_text, "{:?}", case.text);
        assert_eq!(plain(&tokenizer, &case.text), case.ids[1..], "{:?}", case.text);
    }
    for case in cases.decoding {
        assert_eq!(tokenizer.decode(&case.ids).unwrap(), case.text, "{:?}", case.ids);
    }
}

#[test]
fn a_text_that_cannot_fit_is_refused() {
    let tokenizer = small();
    assert!(matches!(tokenizer.encode("", 0), Err(TextError::TooLong { .. })));
    assert_eq!(tokenizer.encode("", 1).unwrap().input_ids, [2]);
    let exact = tokenizer.encode("a photo of", 256).unwrap().input_ids.len();
    assert!(tokenizer.encode("a photo of", exact).is_ok());
    assert!(matches!(tokenizer.encode("a photo of", exact - 1), Err(TextError::TooLong { .. })));
    let huge = "a".repeat(10_000_000);
    let error = tokenizer.encode(&huge, 256).unwrap_err();
    assert_eq!(error.to_string(), "the text has 10000000 bytes and needs more than 256 tokens; send a shorter one");
}

#[test]
fn bytes_that_are_not_utf8_become_the_replacement_character() {
    let tokenizer = small();
    let snowman = tokenizer.encode("☃", 256).unwrap().input_ids;
    let ids: Vec<u32> = snowman.iter().map(|&id| u32::try_from(id).unwrap()).collect();
    assert_eq!(tokenizer.decode(&ids).unwrap(), "☃");
    assert_eq!(tokenizer.decode(&ids[..ids.len() - 1]).unwrap(), "\u{FFFD}");
}

#[test]
fn ids_that_do_not_agree_with_the_tokenizer_are_refused_by_name() {
    let refused = |ids: SpecialIds| Tokenizer::from_bytes(&json(), ids).err().unwrap().to_string();
    assert!(refused(SpecialIds { bos_token_id: 9999, ..SMALL }).starts_with("bos_token_id 9999 is not in"));
    assert!(refused(SpecialIds { image_token_id: Some(411), ..SMALL }).starts_with("image_token_id 411"));
    assert!(refused(SpecialIds { eos_token_id: 2, ..SMALL }).starts_with("eos_token_id 2 is also"));
}

#[test]
fn what_is_no_byte_level_tokenizer_is_refused() {
    assert!(matches!(Tokenizer::from_bytes(b"{}", SMALL), Err(TextError::Unreadable { .. })));
    for (part, expected) in [("pre_tokenizer", "pre-tokenizer"), ("decoder", "decoder")] {
        let mut document: serde_json::Value = serde_json::from_slice(&json()).unwrap();
        document[part] = serde_json::Value::Null;
        let error = Tokenizer::from_bytes(document.to_string().as_bytes(), SMALL).err().unwrap();
        assert!(matches!(error, TextError::NotByteLevel { part } if part == expected), "{error}");
    }
}
