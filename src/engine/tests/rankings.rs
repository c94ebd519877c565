//! Rankings of given answers by their likelihood.

use super::setup::{IDS, LONG, MAX_LEN, MODEL, Setup};
use crate::engine::{EngineError, JobError};

/// Log-probabilities of tokens behind a prompt, in f64.
fn logprobs(prompt: &[f32], tokens: &[u32]) -> Vec<f64> {
    let logprob = |number: usize| {
        let fed = tokens[..number].iter().map(|token| *token as f32);
        let logits = MODEL.logits(&prompt.iter().copied().chain(fed).collect::<Vec<_>>());
        let total: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
        f64::from(logits[tokens[number] as usize]) - total.ln()
    };
    (0..tokens.len()).map(logprob).collect()
}

#[test]
fn candidates_are_ranked_by_the_sum_of_their_logprobs() {
    const CANDIDATES: [&str; 6] = ["a cat", "two dogs on a coat", "yes", "a cat", "a city near the sea", "no"];
    for slots in [1, 2, 4, 9] {
        let running = Setup { slots, kv_tokens: slots * MAX_LEN, ..Setup::default() }.start();
        for (text, with_end_token) in [(LONG, true), ("", false)] {
            let ranking = running.rank(text, &CANDIDATES, with_end_token).unwrap();
            let (_, prompt) = running.prompt(0, text);
            let expected = ranking.candidates.iter().map(|candidate| logprobs(&prompt, &candidate.token_ids));
            let expected: Vec<Vec<f64>> = expected.collect();
            let sums: Vec<f64> = expected.iter().map(|logprobs| logprobs.iter().sum()).collect();
            let total: f64 = sums.iter().map(|sum| sum.exp()).sum();
            for (number, candidate) in ranking.candidates.iter().enumerate() {
                let len = expected[number].len() as f64;
                let close = |actual: f32, expected: f64| (f64::from(actual) - expected).abs() < 1e-4;
                assert_eq!(candidate.text, CANDIDATES[number]);
                assert!(
                    candidate
                        .logprobs
                        .iter()
                        .zip(&expected[number])
                        .all(|(actual, expected)| close(*actual, *expected))
                );
                assert_eq!(candidate.logprobs.len(), candidate.token_ids.len());
                assert!(close(candidate.sum, sums[number]) && close(candidate.mean, sums[number] / len));
                assert!(close(candidate.probability, sums[number].exp() / total), "{candidate:?}");
            }
            assert_eq!(ranking.candidates[0].logprobs, ranking.candidates[3].logprobs);
        }
        running.check_goes_on();
    }
}

#[test]
fn candidate_tokens_begin_with_a_space_after_a_word_and_end_with_eos_on_request() {
    let running = Setup::default().start();
    let plain = |text: &str| running.tokenizer.encode_plain(text).unwrap();
    let end = IDS.eos_token_id;
    for (text, candidate, written, with_end_token) in [
        ("Question: who? Answer:", "a cat", " a cat", false),
        ("Question: who? Answer:", "a cat", " a cat", true),
        ("Question: who? Answer:", " a cat", " a cat", false),
        ("Question: who? Answer: ", "a cat", "a cat", false),
        ("", "a cat", "a cat", true),
    ] {
        let ranking = running.rank(text, &[candidate], with_end_token).unwrap();
        let expected: Vec<u32> = plain(written).into_iter().chain(with_end_token.then_some(end)).collect();
        assert_eq!((&ranking.candidates[0].token_ids, ranking.candidates[0].probability), (&expected, 1.0), "{text:?}");
    }
}

#[test]
fn candidates_that_cannot_be_ranked_are_rejected_by_number() {
    let running = Setup::default().start();
    let many = vec!["x"; 257];
    let long = "~!".repeat(200);
    for (candidates, reason) in [
        (&[] as &[&str], "candidates: 0 were given; give 1 to 256"),
        (&many, "candidates: 257 were given; give 1 to 256"),
        (&["a", " \t"], "candidates: number 1 is empty"),
        (&["a", "b", &long], "candidates: number 2: "),
    ] {
        let error = running.rank("", candidates, true).unwrap_err();
        assert!(matches!(error, EngineError::Rejected(JobError::Candidates(_))), "{error:?}");
        assert!(error.to_string().starts_with(reason), "{error}");
    }
    let fits_alone = "~!".repeat(60);
    let error = running.rank(LONG, &[&fits_alone], false).unwrap_err();
    assert!(matches!(error, EngineError::Rejected(JobError::TooLong { .. })), "{error:?}");
}

#[test]
fn ranking_takes_as_many_rows_as_memory_allows() {
    let running = Setup { slots: 8, kv_tokens: MAX_LEN, ..Setup::default() }.start();
    let ranking = running.rank(LONG, &["a cat", "two dogs", "a city", "the sea"], true).unwrap();
    assert_eq!(ranking.candidates.len(), 4);
}
