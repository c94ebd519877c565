//! Failures of the model, and jobs that can never run: whose error it is, and that the engine goes
//! on.

use serde_json::{Value, json};

use super::setup::{LONG, MAX_LEN, Question, Setup, about};
use crate::engine::{EngineError, ScoreJob};

#[test]
fn failing_stage_is_reported_with_its_cause_and_the_engine_goes_on() {
    for stage in ["encoding the image", "prefill", "a decode step"] {
        let running = Setup::default().start();
        match stage {
            "encoding the image" => running.controls.encode.fail(0..1),
            "prefill" => running.controls.prefill.fail(0..1),
            _ => running.controls.decode.fail(0..2), // it is tried twice
        }
        let error = running.submit(Question::default()).wait().unwrap_err();
        assert_eq!(error.to_string(), format!("{stage} failed"));
        assert!(std::error::Error::source(&error).unwrap().to_string().contains("is to fail"));
        running.check_goes_on();
        let again = Question::default();
        running.check(&again, &running.submit(again.clone()).wait().unwrap());
    }
}

#[test]
fn permanently_failing_model_fails_every_job() {
    let running = Setup::default().start();
    running.controls.decode.fail(0..usize::MAX);
    let pending: Vec<_> = (0..6).map(|number| running.submit(about(number % 3, LONG))).collect();
    for pending in pending {
        assert!(matches!(pending.wait(), Err(EngineError::Model { stage: "a decode step", .. })));
    }
    running.wait_until_idle();
}

#[test]
fn non_finite_logits_fail_their_job_alone() {
    let running = Setup::default().start();
    let broken = running.submit(Question { text: "~", params: json!({"max_new_tokens": 100}), ..Question::default() });
    let asked = about(0, "whole");
    let whole = running.submit(about(0, "whole"));
    assert!(matches!(broken.wait(), Err(EngineError::Generation(_))));
    running.check(&asked, &whole.wait().unwrap());
}

#[test]
fn jobs_that_can_never_run_are_rejected_with_the_remedy() {
    let running = Setup { kv_tokens: 2 * MAX_LEN, ..Setup::default() }.start();
    let refusal = |text: &str, params: Value| {
        let job =
            ScoreJob { image: running.image(0), text: text.into(), params: running.params(&params), deadline: None };
        running.engine.prepare(&job).unwrap_err()
    };
    let cases = [
        (refusal("x", json!({"num_beams": 5})), "--slots"),
        (refusal("x", json!({"do_sample": true, "num_return_sequences": 1_u64 << 60})), "--slots"),
        (refusal("x", json!({"max_new_tokens": 125})), "max_new_tokens"),
        (refusal("x", json!({"num_beams": 4, "max_new_tokens": 100})), "--kv-tokens"),
        (refusal(&"~".repeat(126), json!({})), "text"),
    ];
    for (error, remedy) in cases {
        assert!(error.to_string().contains(remedy), "{error}");
    }
}
