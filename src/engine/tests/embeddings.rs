//! Features of an image, as `Engine::embed` returns them.

use std::time::{Duration, Instant};

use super::setup::{PREFIX_LEN, Setup, about, embed};
use crate::engine::{EngineError, JobError};

#[test]
fn features_are_the_same_for_cached_and_new_images() {
    let running = Setup::default().start();
    let first = embed(&running, 0, None).unwrap().query_output;
    assert_eq!(first.rows().map(<[f32]>::len).collect::<Vec<_>>(), [2; PREFIX_LEN]);
    running.submit(about(0, "what?")).wait().unwrap();
    assert_eq!(embed(&running, 0, None).unwrap().query_output, first);
    assert_ne!(embed(&running, 1, None).unwrap().query_output, first);
    running.check_goes_on();
}

#[test]
fn failed_embedding_is_reported_and_the_engine_goes_on() {
    let running = Setup::default().start();
    running.controls.encode.fail(0..1);
    let error = embed(&running, 0, None).unwrap_err();
    assert_eq!(error.to_string(), "embedding the image failed");
    assert!(embed(&running, 0, None).is_ok());
    let broken = running.engine.decode_images(&[b"no image"]).remove(0);
    assert!(matches!(broken, Err(JobError::Image(_))));
    running.check_goes_on();
}

#[test]
fn cancelled_embedding_is_not_computed() {
    let running = Setup::default().start();
    running.controls.encode.hold(0);
    let job = running.submit(about(1, "what?"));
    running.controls.encode.wait_for(1);
    let late = embed(&running, 0, Some(Instant::now() + Duration::from_millis(20)));
    assert!(matches!(late, Err(EngineError::DeadlineExceeded)));
    assert_eq!(running.engine.rows_in_work(), 2, "its place is taken until the worker sees it");
    running.controls.encode.open();
    job.wait().unwrap();
    running.wait_until_idle();
    assert_eq!(running.controls.encode.runs(), 1);
}
