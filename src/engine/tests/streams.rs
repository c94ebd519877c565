//! Streamed answers: their pieces, their order, their end.

use serde_json::json;

use super::setup::{LONG, Question, Setup, about, block_on};
use crate::engine::{Answer, AnswerStream, EngineError, StreamEvent};

/// All pieces of text and all tokens, then the answer.
pub(super) async fn collect(mut stream: AnswerStream) -> Result<(String, Vec<u32>, Answer), EngineError> {
    let (mut text, mut tokens) = (String::new(), Vec::new());
    loop {
        match stream.next().await.expect("an end comes before nothing")? {
            StreamEvent::Token { text: piece, token } => {
                text.push_str(&piece);
                tokens.push(token.token_id);
            }
            StreamEvent::End { text: piece, answer } => {
                assert!(stream.next().await.is_none(), "nothing comes behind the end");
                return Ok((text + &piece, tokens, *answer));
            }
        }
    }
}

#[test]
fn stream_pieces_add_up_to_the_text_of_the_answer() {
    let running = Setup::default().start();
    let texts = ["", "a", "a dog", "Question: how many?", "é", "two words", "what is this?", "\n", LONG];
    for (number, text) in texts.into_iter().enumerate() {
        let job = Question { params: json!({"max_new_tokens": 60, "min_new_tokens": 20}), ..about(number % 4, text) };
        let (text, tokens, answer) = block_on(collect(running.stream(job.clone()))).unwrap();
        running.check(&job, &answer);
        assert_eq!((&text, &tokens), (&answer.best.text, &answer.best.token_ids));
    }
}

#[test]
fn single_sample_is_streamed() {
    let running = Setup::default().start();
    let job =
        Question { params: json!({"do_sample": true, "seed": 3, "stop_strings": ["a", "e"]}), ..Question::default() };
    let (text, tokens, answer) = block_on(collect(running.stream(job.clone()))).unwrap();
    running.check(&job, &answer);
    assert_eq!((text, tokens), (answer.best.text.clone(), answer.best.token_ids.clone()));
}

#[test]
fn tokens_are_streamed_while_the_next_are_computed() {
    let running = Setup::default().start();
    running.controls.decode.hold(2);
    let job = Question::default();
    let expected = running.expected(&job).swap_remove(0);
    let mut stream = running.stream(job);
    let mut next = || match block_on(stream.next()) {
        Some(Ok(StreamEvent::Token { token, .. })) => token,
        other => panic!("{other:?}"),
    };
    let tokens = [next(), next(), next()];
    assert_eq!(tokens.each_ref().map(|token| token.token_id), expected.token_ids[..3]);
    assert_eq!(tokens.each_ref().map(|token| token.logprob), expected.logprobs[..3]);
    running.controls.decode.wait_for(3); // the third hangs
}

#[test]
fn beams_and_several_samples_are_delivered_at_the_end() {
    let running = Setup::default().start();
    let beams = json!({"num_beams": 3, "num_return_sequences": 2});
    let samples = json!({"do_sample": true, "num_return_sequences": 3, "seed": 5});
    for params in [beams, samples] {
        let job = Question { params, ..Question::default() };
        let (text, tokens, answer) = block_on(collect(running.stream(job.clone()))).unwrap();
        assert_eq!((&text, tokens.len()), (&answer.best.text, 0));
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
            Ok(StreamEvent::Token { .. }) => "token",
            Ok(StreamEvent::End { .. }) => "end",
            Err(EngineError::Model { .. }) => "failure",
            Err(_) => "other",
        })
        .collect();
    assert_eq!(kinds, ["token", "token", "failure"]);
}
