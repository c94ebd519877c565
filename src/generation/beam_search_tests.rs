//! Beam search against the recorded answers of transformers, on a model that is a table of logits.
//!
//! `tests/fixtures/generation/make_beam_cases.py` wrote them.

use serde::Deserialize;
use serde_json::Value;

use super::sampling_tests::{letters, run_on};
use super::{GenerationParams, Task};
use crate::bundle::GenerationDefaults;

#[derive(Deserialize)]
struct Recorded {
    prompt: Vec<u32>,
    end_token: u32,
    max_new_tokens: usize,
    tables: Vec<Table>,
    cases: Vec<Case>,
}

/// Logits by number of new tokens, last token, next token.
type Table = Vec<Vec<Vec<f32>>>;

#[derive(Deserialize)]
struct Case {
    table: usize,
    params: Value,
    sequences: Vec<Answer>,
}

#[derive(Debug, Deserialize)]
struct Answer {
    token_ids: Vec<u32>,
    score: f32,
}

#[test]
fn answers_are_those_of_transformers() {
    let recorded: Recorded =
        serde_json::from_slice(include_bytes!("../../tests/fixtures/generation/beam_cases.json")).unwrap();
    assert_eq!(recorded.end_token, letters().eos_token_id());
    let defaults = GenerationDefaults { max_new_tokens: recorded.max_new_tokens };
    let prompt = &recorded.prompt;
    for Case { table, params, sequences } in &recorded.cases {
        let logits = |ids: &[u32]| {
            let step = ids.len() - prompt.len();
            let last = ids[ids.len() - 1] as usize;
            recorded.tables[*table][step][last].clone()
        };
        let parsed = GenerationParams::parse(params, defaults, &letters()).unwrap();
        let found = run_on(logits, Task::generate(prompt.clone(), parsed, 0), prompt);
        assert_eq!(found.len(), sequences.len(), "table {table}, {params}");
        for (found, expected) in found.iter().zip(sequences) {
            assert_eq!(found.token_ids, expected.token_ids, "table {table}, {params}: {expected:?}");
            assert!((found.score - expected.score).abs() < 1e-5, "table {table}, {params}: {expected:?}");
        }
    }
}
