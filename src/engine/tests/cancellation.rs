//! Cancellation: a job whose caller has gone ends, and frees its places, wherever it is.

use super::phase::Phase;
use super::setup::{Question, Setup};

#[test]
fn cancelled_jobs_end_in_every_phase() {
    for phase in Phase::ALL {
        for is_stream in [false, true] {
            let (running, other) = phase.start();
            if is_stream {
                let stream = running.stream(Question::default());
                phase.reach(&running.controls);
                drop(stream);
            } else {
                let pending = running.submit(Question::default());
                phase.reach(&running.controls);
                drop(pending);
            }
            running.controls.open();
            if let Some(other) = other {
                other.wait().unwrap();
            }
            running.wait_until_idle();
            phase.check_runs(&running.controls);
            running.check_goes_on();
        }
    }
}

#[test]
fn jobs_are_answered_after_the_last_handle_is_dropped() {
    let running = Setup::default().start();
    running.controls.encode.hold(0);
    let expected = running.expected(&Question::default());
    let pending = running.submit(Question::default());
    drop(running); // lets the encoder go on
    assert_eq!(pending.wait().unwrap().best.token_ids, expected[0].token_ids);
}
