//! Streaming against decoding: whatever the ids, the pieces together are the whole answer. Also the
//! bytes of tokens, which both the stream and stop strings rely on.

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};

use super::golden_tests::{SMALL, json, small};
use super::{SpecialIds, TextStream, Tokenizer};

/// Texts whose ids meet the rules: white space in Python's sense or not, characters of 1 to 4
/// bytes.
pub(super) const TEXTS: [&str; 14] =
    [" ", "\n", "\t\r\n", "\u{A0}", "\u{85}", "\u{1F}", "\u{3000}", "\u{200B}", "é", "☃", "😀", "世界", " a dog", "\0"];

/// A part of an answer.
#[derive(Clone, Debug)]
enum Part {
    Text(&'static str),
    /// Only the first id of a text, so that a character may be cut short.
    Beginning(&'static str),
    Id(u32),
}

/// Parts of all kinds: of `TEXTS`, any of the vocabulary, special, without a token.
fn parts(ids: SpecialIds, vocabulary: u32) -> impl Strategy<Value = Vec<Part>> {
    let special = [ids.bos_token_id, ids.eos_token_id, ids.pad_token_id, ids.image_token_id.unwrap(), u32::MAX];
    let part = prop_oneof![
        3 => select(&TEXTS[..]).prop_map(Part::Text),
        1 => select(&TEXTS[..]).prop_map(Part::Beginning),
        1 => select(special.to_vec()).prop_map(Part::Id),
        1 => (0..vocabulary + 20).prop_map(Part::Id),
    ];
    prop::collection::vec(part, 0..12)
}

fn ids_of(tokenizer: &Tokenizer, parts: &[Part]) -> Vec<u32> {
    let ids = |part: &Part| match part {
        Part::Text(text) => tokenizer.encode_plain(text).unwrap(),
        Part::Beginning(text) => tokenizer.encode_plain(text).unwrap()[..1].to_vec(),
        Part::Id(id) => vec![*id],
    };
    parts.iter().flat_map(ids).collect()
}

fn pieces(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
    let mut stream = TextStream::default();
    let mut pieces: Vec<_> = ids.iter().map(|&id| stream.push(tokenizer, id)).collect();
    pieces.push(stream.finish());
    pieces
}

pub(super) fn assert_streams_as_decoded(tokenizer: &Tokenizer, vocabulary: u32) {
    let config = Config { cases: 5_000, failure_persistence: None, ..Config::default() };
    let property = |parts: Vec<Part>| {
        let ids = ids_of(tokenizer, &parts);
        prop_assert_eq!(pieces(tokenizer, &ids).concat(), tokenizer.decode(&ids).unwrap(), "{:?}", ids);
        Ok(())
    };
    TestRunner::new(config).run(&parts(tokenizer.special_ids(), vocabulary), property).unwrap();
}

/// The small tokenizer with added tokens that are not special: some written as byte-level tokens
/// are, some not.
fn with_added_tokens() -> Tokenizer {
    let mut document: serde_json::Value = serde_json::from_slice(&json()).unwrap();
    for (id, content) in [(411, "éé"), (412, "a ☃ "), (413, "\u{3000}"), (414, "Ġxy")] {
        let token = serde_json::json!({"id": id, "content": content, "special": false, "normalized": true,
            "single_word": false, "lstrip": false, "rstrip": false});
        document["added_tokens"].as_array_mut().unwrap().push(token);
    }
    Tokenizer::from_bytes(document.to_string().as_bytes(), SMALL).unwrap()
}

#[test]
fn pieces_together_are_the_decoded_answer() {
    assert_streams_as_decoded(&small(), 411);
    assert_streams_as_decoded(&with_added_tokens(), 415);
}

#[test]
fn a_piece_comes_as_soon_as_it_is_certain() {
    let tokenizer = small();
    let ids = |text: &str| tokenizer.encode_plain(text).unwrap();
    let [bytes, space, newline] = [ids("☃"), ids(" "), ids("\n")];
    assert_eq!(bytes.len(), 3);
    let whole = [space[0], 2, bytes[0], bytes[1], bytes[2], space[0], newline[0]];
    assert_eq!(pieces(&tokenizer, &whole), ["", "", "", "", "☃", "", "", ""]);
    let broken = [bytes[1], bytes[0], space[0], bytes[2], space[0], bytes[0]];
    assert_eq!(pieces(&tokenizer, &broken), ["\u{FFFD}", "", "\u{FFFD}", " \u{FFFD}", "", "", " \u{FFFD}"]);
}

#[test]
fn a_finished_stream_is_as_new() {
    let tokenizer = small();
    let snowman = tokenizer.encode_plain("☃").unwrap();
    let space = tokenizer.encode_plain(" ").unwrap()[0];
    let mut stream = TextStream::default();
    for _ in 0..2 {
        assert_eq!(stream.push(&tokenizer, space), "");
        assert_eq!(stream.push(&tokenizer, snowman[0]), "");
        assert_eq!(stream.finish(), "\u{FFFD}");
        assert_eq!(stream.finish(), "");
    }
}

pub(super) fn assert_bytes_of_tokens_are_those_of_the_text(tokenizer: &Tokenizer) {
    let texts = ["Question: which city is this? Answer:", " é ñ 世界 😀\r\n\t\0</s>", "<image>", ""];
    for text in texts.iter().chain(&TEXTS) {
        let ids = tokenizer.encode_plain(text).unwrap();
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| tokenizer.token_bytes(id)).copied().collect();
        assert_eq!(bytes, text.as_bytes(), "{text:?}");
    }
}

#[test]
fn bytes_of_tokens_are_those_of_the_text() {
    assert_bytes_of_tokens_are_those_of_the_text(&small());
}

#[test]
fn ids_that_answers_hide_and_ids_without_a_token_have_no_bytes() {
    let tokenizer = small();
    for id in [1, 2, 410, 411, u32::MAX] {
        assert_eq!(tokenizer.token_bytes(id), b"", "{id}");
    }
    assert_eq!(tokenizer.token_bytes(SMALL.eos_token_id), b"\n");
}

#[test]
fn added_tokens_have_the_bytes_that_they_decode_to() {
    let tokenizer = with_added_tokens();
    for (id, expected) in [(411, b"\xE9\xE9".as_slice()), (412, "a ☃ ".as_bytes()), (414, b" xy")] {
        assert_eq!(tokenizer.token_bytes(id), expected, "{id}");
    }
}
