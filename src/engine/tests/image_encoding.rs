//! The image worker: which images are encoded, in which runs, and how often.

use std::iter;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::fake_model::{FILES, PATIENCE};
use super::setup::{HOUR, LONG, Question, Running, Setup, about, block_on, embed};
use crate::engine::{Answer, EngineError, Image, JobError, Pending, ScoreJob, StoreOptions};

#[test]
fn image_shared_by_concurrent_jobs_is_encoded_once() {
    let running = Setup { kv_prefix_cache_bytes: 0, ..Setup::default() }.start();
    running.controls.encode.hold(0);
    thread::scope(|scope| {
        for text in ["", "what?", "who?", "where?", "how many?", "a photo of", "why?", LONG] {
            let running = &running;
            scope.spawn(move || {
                let job = about(0, text);
                running.check(&job, &running.submit(job.clone()).wait().unwrap());
            });
        }
        let patience = Instant::now() + PATIENCE;
        while running.engine.rows_in_work() < 8 && Instant::now() < patience {
            thread::sleep(Duration::from_millis(1));
        }
        running.controls.encode.open();
    });
    assert_eq!(running.controls.encode.runs(), 1);
}

/// A job about an image that looks like the first one and is none of the others.
fn submit_new_image(running: &Running, number: u8) -> Pending<Answer> {
    let file = [FILES[0], &[number]].concat(); // what follows the end of a PNG is ignored
    let image = running.engine.open_image(&file).unwrap();
    let params = running.params(&Question::default().params);
    let job = ScoreJob { image, text: String::new(), params, deadline: None };
    running.engine.submit(running.engine.prepare(&job).unwrap(), &running.engine.reserve(1).unwrap()).unwrap()
}

#[test]
fn waiting_images_are_encoded_in_one_run() {
    let running = Setup { images_at_once: 3, ..Setup::default() }.start();
    running.controls.encode.hold(0);
    let first = submit_new_image(&running, 0);
    running.controls.encode.wait_for(1);
    // One of them twice, and between them one that wants features only.
    let before: Vec<_> = [1, 2, 2, 3].map(|number| submit_new_image(&running, number)).into();
    let embedded = thread::scope(|scope| {
        let embedding = scope.spawn(|| embed(&running, 1, None));
        let patience = Instant::now() + PATIENCE;
        while running.engine.rows_in_work() < 6 && Instant::now() < patience {
            thread::sleep(Duration::from_millis(1));
        }
        let after: Vec<_> = [4, 5].map(|number| submit_new_image(&running, number)).into();
        running.controls.open();
        for answer in iter::once(first).chain(before).chain(after) {
            running.check(&about(0, ""), &answer.wait().unwrap());
        }
        embedding.join().unwrap()
    });
    // 0 alone, 1 and 2 together, 3 and features; 4 and 5 together if the decoder worker is fast
    // enough to want both.
    let runs = running.controls.encode.runs();
    assert!((5..=6).contains(&runs), "{runs} runs");
    assert_eq!(embedded.unwrap().query_output, embed(&running, 1, None).unwrap().query_output);
}

#[test]
fn images_of_a_failed_run_are_retried_one_by_one() {
    let running = Setup { images_at_once: 4, ..Setup::default() }.start();
    running.controls.encode.fail(1..3);
    running.controls.encode.hold(0);
    let first = submit_new_image(&running, 0);
    running.controls.encode.wait_for(1);
    let [to_blame, others @ ..] = [1, 2, 3].map(|number| submit_new_image(&running, number));
    running.controls.open();
    assert!(first.wait().is_ok());
    assert!(matches!(to_blame.wait(), Err(EngineError::Model { .. })));
    for pending in others {
        running.check(&about(0, ""), &pending.wait().unwrap());
    }
    assert_eq!(running.controls.encode.runs(), 5);
    running.check(&about(0, ""), &submit_new_image(&running, 2).wait().unwrap());
}

#[test]
fn image_worker_runs_at_most_four_images_ahead_of_their_prompts() {
    for (held_from, is_fed) in [(3, false), (4, true)] {
        let running = Setup::default().start();
        running.controls.encode.hold(0);
        let pending: Vec<_> = (0..6).map(|number| submit_new_image(&running, number)).collect();
        running.controls.encode.hold(held_from);
        running.controls.encode.wait_for(held_from + 1);
        assert_eq!(running.controls.prefill.runs() > 0, is_fed);
        running.controls.open();
        let answers: Vec<_> = pending.into_iter().map(|pending| pending.wait().unwrap()).collect();
        answers.iter().for_each(|answer| running.check(&about(0, ""), answer));
    }
}

#[test]
fn failed_image_is_retried_by_the_next_request_and_then_encoded_once() {
    let running = Setup::default().start();
    running.controls.encode.fail(0..1);
    running.controls.encode.hold(0);
    // Two jobs share the failure, and between them there is time to ask anew.
    let first = running.prepare(about(0, "first"));
    let second = running.prepare(about(0, "second"));
    let submit = |job| running.engine.submit(job, &running.engine.reserve(1).unwrap()).unwrap();
    let first = submit(first);
    let between = running.submit(about(1, "between"));
    let second = submit(second);
    running.controls.encode.wait_for(1);
    running.controls.encode.hold(1);
    assert!(matches!(first.wait(), Err(EngineError::Model { .. })));
    running.controls.encode.wait_for(2);
    let third = running.submit(about(0, "third"));
    running.controls.encode.hold(2);
    assert!(matches!(second.wait(), Err(EngineError::Model { .. })));
    let fourth = running.submit(about(0, "fourth"));
    running.controls.open();
    for pending in [between, third, fourth] {
        pending.wait().unwrap();
    }
    assert_eq!(running.controls.encode.runs(), 3, "one that failed, another image, and one for all who asked again");
}

#[test]
fn files_open_in_order_with_errors_in_place() {
    let running = Setup::default().start();
    let files = [FILES[0], b"no image", FILES[1], FILES[0], b"", FILES[3], &FILES[2][..20]];
    let opened = running.engine.open_images(&files);
    let keys: Vec<_> = opened.iter().map(|image| image.as_ref().ok().map(Image::key)).collect();
    let alone: Vec<_> = (0..4).map(|file| Some(running.image(file).key())).collect();
    assert_eq!(keys, [alone[0], None, alone[1], alone[0], None, alone[3], None]);
    assert!(opened.iter().flat_map(|image| image.as_ref().err()).all(|error| matches!(error, JobError::Image(_))));
}

/// Asks for an image that the worker has to run the encoder for, and waits for whatever comes of
/// it.
type Request = fn(&Running, u8);

/// Work for the encoder that brings the decoder worker no job, so it must not starve the rows that
/// are decoding.
const FRUITLESS: [(&str, Request); 3] = [
    ("jobs whose image fails", |running, number| {
        let failed = submit_new_image(running, number).wait();
        assert!(matches!(failed, Err(EngineError::Model { .. })));
    }),
    ("images to store", |running, number| {
        let image = running.engine.open_image(&[FILES[0], &[number]].concat()).unwrap();
        let options = StoreOptions { time_to_live: HOUR, is_pinned: false };
        let stored = running.engine.store_image(image, options, running.engine.reserve(1).unwrap());
        block_on(stored).unwrap();
    }),
    ("images to embed", |running, _| drop(embed(running, 1, None).unwrap())),
];

#[test]
fn decode_steps_run_between_images_that_bring_no_job() {
    const IMAGES: usize = 6;
    for (kind, request) in FRUITLESS {
        let running = Setup::default().start();
        if kind.contains("fails") {
            running.controls.encode.fail(1..1 + IMAGES);
        }
        running.controls.decode.hold(1);
        let params = json!({"min_new_tokens": 100, "max_new_tokens": 100});
        let decoding = running.submit(Question { params, ..about(3, "x") });
        running.controls.decode.wait_for(2);
        thread::scope(|scope| {
            for number in 0..IMAGES as u8 {
                let running = &running;
                scope.spawn(move || request(running, number));
            }
            let patience = Instant::now() + PATIENCE;
            while running.engine.rows_in_work() < 1 + IMAGES && Instant::now() < patience {
                thread::sleep(Duration::from_millis(1));
            }
            // Each worker gets the time to queue up behind the other: first the image worker, then
            // the decoder worker.
            let queue_up = || thread::sleep(Duration::from_millis(50));
            queue_up();
            running.controls.encode.hold(1);
            running.controls.decode.open();
            running.controls.encode.wait_for(2);
            queue_up();
            let steps = running.controls.decode.runs();
            running.controls.encode.hold(IMAGES);
            running.controls.encode.wait_for(1 + IMAGES);
            assert!(running.controls.decode.runs() > steps, "{kind} keep the turn from one to the next");
            running.controls.open();
        });
        decoding.wait().unwrap();
    }
}
