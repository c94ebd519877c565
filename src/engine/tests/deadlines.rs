//! Deadlines: they hold in every phase, also while the model hangs.

use std::thread;
use std::time::{Duration, Instant};

use super::fake_model::PATIENCE;
use super::phase::Phase;
use super::setup::{HOUR, Question, Setup, block_on};
use super::streams::collect;
use crate::engine::{EngineError, StoreOptions};

#[test]
fn deadlines_hold_in_every_phase_while_the_model_hangs() {
    for phase in Phase::ALL {
        for is_stream in [false, true] {
            let (running, other) = phase.start();
            let started = Instant::now();
            let job = Question { deadline: Some(started + Duration::from_millis(60)), ..Question::default() };
            let answer = if is_stream {
                block_on(collect(running.stream(job))).map(|(_, _, answer)| answer)
            } else {
                block_on(running.submit(job).answer())
            };
            assert!(matches!(answer, Err(EngineError::DeadlineExceeded)), "{phase:?}: {answer:?}");
            assert!((Duration::from_millis(60)..PATIENCE / 2).contains(&started.elapsed()), "{phase:?}");
            running.controls.open();
            if let Some(other) = other {
                other.wait().unwrap();
            }
            running.check_goes_on();
        }
    }
}

#[test]
fn blocking_wait_reports_an_exceeded_deadline_after_the_run() {
    for phase in Phase::ALL {
        let (running, other) = phase.start();
        let deadline = Instant::now() + Duration::from_millis(30);
        let pending = running.submit(Question { deadline: Some(deadline), ..Question::default() });
        thread::sleep(Duration::from_millis(40));
        running.controls.open();
        assert!(matches!(pending.wait(), Err(EngineError::DeadlineExceeded)), "{phase:?}");
        if let Some(other) = other {
            other.wait().unwrap();
        }
        running.check_goes_on();
    }
}

#[test]
fn jobs_without_a_deadline_get_the_engine_timeout() {
    let running = Setup { timeout: Duration::from_millis(60), ..Setup::default() }.start();
    running.controls.encode.hold(0);
    let answer = block_on(running.submit(Question::default()).answer());
    assert!(matches!(answer, Err(EngineError::DeadlineExceeded)));
    let permit = running.engine.reserve(1).unwrap();
    let options = StoreOptions { time_to_live: HOUR, is_pinned: false };
    let stored = block_on(running.engine.store_image(running.image(1), options, permit));
    assert!(matches!(stored, Err(EngineError::DeadlineExceeded)));
    running.controls.open();
    running.wait_until_idle();
}
