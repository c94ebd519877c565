//! The tokenizer of OPT, which lies beside the repository: against the goldens, and in the
//! properties that the small one is tested in.
//!
//! Where it is missing these tests count as ignored. `make goldens` runs them.

use serde::Deserialize;

use super::golden_tests::{in_repository, plain};
use super::stream_tests::{assert_bytes_of_tokens_are_those_of_the_text, assert_streams_as_decoded};
use super::{SpecialIds, Tokenizer};

const OPT: SpecialIds =
    SpecialIds { bos_token_id: 2, eos_token_id: 50118, pad_token_id: 1, image_token_id: Some(50265) };

#[derive(Deserialize)]
struct Goldens {
    cases: Vec<Golden>,
}

#[derive(Deserialize)]
struct Golden {
    text: String,
    expected: GoldenAnswer,
}

#[derive(Deserialize)]
struct GoldenAnswer {
    ids: Vec<i64>,
    decoded: String,
    holds_special_string: bool,
}

fn opt() -> Tokenizer {
    let json = std::fs::read(in_repository("../shared/data/opt-tokenizer/tokenizer.json"));
    Tokenizer::from_bytes(&json.expect("the tokenizer of OPT in ../shared/data/opt-tokenizer"), OPT).unwrap()
}

#[test]
#[ignore = "needs ../shared/data; run `make goldens`"]
fn answers_are_those_of_the_goldens() {
    let tokenizer = opt();
    let cases = std::fs::read(in_repository("../shared/data/golden/tokenizer_cases.json")).unwrap();
    let cases: Goldens = serde_json::from_slice(&cases).unwrap();
    for Golden { text, expected } in cases.cases {
        let encoded = tokenizer.encode(&text, 2048).unwrap();
        assert_eq!(encoded.input_ids, expected.ids, "{text:?}");
        assert_eq!(plain(&tokenizer, &text), expected.ids[1..], "{text:?}");
        assert_eq!(!encoded.special_text.is_empty(), expected.holds_special_string, "{text:?}");
        let ids: Vec<u32> = encoded.input_ids.iter().map(|&id| u32::try_from(id).unwrap()).collect();
        assert_eq!(tokenizer.decode(&ids).unwrap(), expected.decoded.trim(), "{text:?}");
    }
}

#[test]
#[ignore = "needs ../shared/data; run `make goldens`"]
fn padded_columns_of_the_logits_decode_to_nothing() {
    let tokenizer = opt();
    assert_eq!(tokenizer.decode(&[50266, 42891, 50303, 232, 50118]).unwrap(), "hello world");
}

#[test]
#[ignore = "needs ../shared/data; run `make goldens`"]
fn long_texts_of_one_kind_are_encoded_fast() {
    let tokenizer = opt();
    for unit in ["a", " ", "\n", "é", "ab", "1", "!?", "世", "\u{0}"] {
        let text = unit.repeat(100_000 / unit.len());
        let start = std::time::Instant::now();
        let encoded = tokenizer.encode(&text, usize::MAX).unwrap();
        let elapsed = start.elapsed();
        println!("{unit:?}: {} tokens in {elapsed:?}", encoded.input_ids.len());
        assert!(elapsed.as_secs() < 10, "{unit:?} took {elapsed:?}");
    }
}

#[test]
#[ignore = "needs ../shared/data; run `make goldens`"]
fn stream_pieces_add_up_to_the_decoded_answer() {
    let tokenizer = opt();
    assert_streams_as_decoded(&tokenizer, 50_266);
}

#[test]
#[ignore = "needs ../shared/data; run `make goldens`"]
fn token_bytes_are_those_that_the_token_decodes_to() {
    let tokenizer = opt();
    // Between letters that no byte can complete and that keep white space inside.
    let letter = tokenizer.encode_plain("x").unwrap()[0];
    for id in 0..50_400 {
        let bytes = [b"x", tokenizer.token_bytes(id), b"x"].concat();
        assert_eq!(tokenizer.decode(&[letter, id, letter]).unwrap(), String::from_utf8_lossy(&bytes), "{id}");
    }
}

#[test]
#[ignore = "needs ../shared/data; run `make goldens`"]
fn bytes_of_tokens_are_those_of_the_text() {
    assert_bytes_of_tokens_are_those_of_the_text(&opt());
}
