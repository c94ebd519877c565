//! Streamed answers: their pieces, their order, their end.

use serde_json::json;

use super::setup::{IDS, LONG, Question, Setup, about, block_on};
use crate::engine::{Answer, AnswerStream, EngineError, StreamEvent};
use crate::text::VisiblePiece;

/// Text and tokens of all pieces, and the answer.
pub(super) async fn collect(mut stream: AnswerStream) -> Result<(String, Vec<u32>, Answer), EngineError> {
    let mut text = String::new();
    let mut tokens = Vec::new();
    let mut take = |piece: VisiblePiece| {
        text.push_str(&piece.text);
        tokens.extend(piece.tokens.iter().map(|token| token.token_id));
    };
    loop {
        match stream.next().await.expect("the end comes last")? {
            StreamEvent::Piece(piece) => take(piece),
            StreamEvent::End { rest, answer } => {
                assert!(stream.next().await.is_none(), "nothing comes after the end");
                rest.into_iter().for_each(take);
                return Ok((text, tokens, *answer));
            }
        }
    }
}

/// The tokens of an answer that a client sees: all but the end token.
fn visible(token_ids: &[u32]) -> &[u32] {
    token_ids.strip_suffix(&[IDS.eos_token_id]).unwrap_or(token_ids)
}

#[test]
fn stream_pieces_add_up_to_the_text_of_the_answer() {
    let running = Setup::default().start();
    let texts = ["", "a", "a dog", "Question: how many?", "é", "two words", "what is this?", "\n", LONG];
    for (number, text) in texts.into_iter().enumerate() {
        let job = Question { params: json!({"max_new_tokens": 60, "min_new_tokens": 20}), ..about(number % 4, text) };
        let (text, tokens, answer) = block_on(collect(running.stream(job.clone()))).unwrap();
        running.check(&job, &answer);
        assert_eq!((&*text, &*tokens), (&*answer.best.text, visible(&answer.best.token_ids)));
    }
}

#[test]
fn single_sample_is_streamed() {
    let running = Setup::default().start();
    let job =
        Question { params: json!({"do_sample": true, "seed": 3, "stop_strings": ["a", "e"]}), ..Question::default() };
    let (text, tokens, answer) = block_on(collect(running.stream(job.clone()))).unwrap();
    running.check(&job, &answer);
    assert_eq!((&*text, &*tokens), (&*answer.best.text, visible(&answer.best.token_ids)));
}

#[test]
fn tokens_are_streamed_while_the_next_are_computed() {
    let running = Setup::default().start();
    running.controls.decode.hold(2);
    let job = Question::default();
    let expected = running.expected(&job).swap_remove(0);
    let mut stream = running.stream(job);
    let mut tokens = Vec::new();
    while tokens.len() < 3 {
        match block_on(stream.next()) {
            Some(Ok(StreamEvent::Piece(piece))) => tokens.extend(piece.tokens),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(tokens.iter().map(|token| token.token_id).collect::<Vec<_>>(), expected.token_ids[..3]);
    assert_eq!(tokens.iter().map(|token| token.logprob).collect::<Vec<_>>(), expected.logprobs[..3]);
    running.controls.decode.wait_for(3); // the third hangs
}

#[test]
fn beams_and_several_samples_are_delivered_at_the_end() {
    let running = Setup::default().start();
    let beams = json!({"num_beams": 3, "num_return_sequences": 2});
    let samples = json!({"do_sample": true, "num_return_sequences": 3, "seed": 5});
    for params in [beams, samples] {
        let job = Question { params, ..Question::default() };
        let mut stream = running.stream(job.clone());
        let Some(Ok(StreamEvent::End { rest, answer })) = block_on(stream.next()) else {
            panic!("pieces come before the end")
        };
        for (piece, sequence) in rest.iter().zip(answer.all()) {
            let tokens: Vec<u32> = piece.tokens.iter().map(|token| token.token_id).collect();
            assert_eq!((&*piece.text, &*tokens), (&*sequence.text, visible(&sequence.token_ids)));
        }
        assert_eq!(rest.len(), answer.sequences.len());
        let given: Vec<_> = answer.sequences.iter().map(|sequence| &sequence.token_ids).collect();
        let expected = running.expected(&job);
        assert_eq!(given, expected.iter().map(|sequence| &sequence.token_ids).collect::<Vec<_>>());
    }
}

#[test]
fn failure_ends_a_stream_after_the_decided_tokens() {
    let running = Setup::default().start();
    running.controls.decode.fail(1..3);
    let mut stream = running.stream(Question::default());
    let kinds: Vec<&str> = std::iter::from_fn(|| block_on(stream.next()))
        .map(|event| match event {
            Ok(StreamEvent::Piece(_)) => "piece",
            Ok(StreamEvent::End { .. }) => "end",
            Err(EngineError::Model { .. }) => "failure",
            Err(_) => "other",
        })
        .collect();
    assert_eq!(kinds, ["piece", "piece", "failure"]);
}

#[test]
fn stream_is_cut_before_a_stop_string_while_the_answer_is_not() {
    let running = Setup::default().start();
    let job = Question { params: json!({"max_new_tokens": 60, "min_new_tokens": 60}), ..about(1, "a dog") };
    let (whole, ..) = block_on(collect(running.stream(job.clone()))).unwrap();
    let stop = whole.chars().nth(5).unwrap().to_string();
    let (text, _, answer) = block_on(collect(running.stream_until(job.clone(), &[&stop]))).unwrap();
    assert_eq!(text, whole.split(&stop).next().unwrap().trim_end());
    running.check(&job, &answer);
}

#[test]
fn rest_of_a_stream_is_the_text_held_back_for_a_stop_string() {
    let running = Setup::default().start();
    let mut held_back = 0;
    for max_new_tokens in 8..16 {
        let params = json!({"max_new_tokens": max_new_tokens, "min_new_tokens": max_new_tokens});
        let job = Question { params, ..about(1, "a dog") };
        let (whole, ..) = block_on(collect(running.stream(job.clone()))).unwrap();
        let never_completed = format!("{}~~", whole.chars().next_back().unwrap());
        let mut stream = running.stream_until(job, &[&never_completed]);
        let mut text = String::new();
        loop {
            match block_on(stream.next()).unwrap().unwrap() {
                StreamEvent::Piece(piece) => text.push_str(&piece.text),
                StreamEvent::End { rest, .. } => {
                    held_back += rest[0].text.len();
                    assert_eq!(text + &rest[0].text, whole);
                    break;
                }
            }
        }
    }
    assert!(held_back > 0);
}
