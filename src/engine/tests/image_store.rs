//! Stored images: put once, asked about by id.

use std::thread;
use std::time::Duration;

use super::setup::{HOUR, LONG, PREFIX_BYTES, Question, Running, Setup, about, block_on};
use crate::engine::{Answer, EngineError, ImageId, ScoreJob, StoreError, StoreOptions};

fn store(running: &Running, file: usize, time_to_live: Duration, is_pinned: bool) -> Result<ImageId, EngineError> {
    let permit = running.engine.reserve(1).unwrap();
    let stored = running.engine.store_image(running.image(file), StoreOptions { time_to_live, is_pinned }, permit);
    block_on(stored)
}

/// Asks about a stored image.
fn ask(running: &Running, id: ImageId, job: &Question) -> Result<Answer, EngineError> {
    let image = running.engine.stored_image(id)?;
    let job = ScoreJob { image, text: job.text.into(), params: running.params(&job.params), deadline: None };
    running.engine.submit(running.engine.prepare(&job)?, &running.engine.reserve(1)?)?.wait()
}

#[test]
fn stored_image_is_asked_about_by_id_and_encoded_once() {
    let running = Setup { image_cache_bytes: 0, ..Setup::default() }.start();
    let id = store(&running, 0, HOUR, false).unwrap();
    assert_eq!(running.engine.stored_images(), (1, PREFIX_BYTES));
    for text in ["", "what?", LONG] {
        running.check(&about(0, text), &ask(&running, id, &about(0, text)).unwrap());
    }
    assert_eq!(running.controls.encode.runs(), 1);
    running.check_goes_on();
}

#[test]
fn deleted_image_is_unknown_while_its_jobs_go_on() {
    let running = Setup::default().start();
    let id = store(&running, 0, HOUR, true).unwrap();
    let image = running.engine.stored_image(id).unwrap();
    running.engine.delete_image(id).unwrap();
    let job = Question::default();
    let params = running.params(&job.params);
    let prepared = running.engine.prepare(&ScoreJob { image, text: job.text.into(), params, deadline: None }).unwrap();
    let pending = running.engine.submit(prepared, &running.engine.reserve(1).unwrap()).unwrap();
    running.check(&job, &pending.wait().unwrap());
    let unknown = [
        running.engine.delete_image(id),
        running.engine.pin_image(id, true),
        running.engine.stored_image(id).map(drop),
    ];
    assert!(unknown.iter().all(|result| matches!(result, Err(StoreError::Unknown(unknown)) if *unknown == id)));
    assert_eq!(running.engine.stored_images(), (0, 0));
}

#[test]
fn stored_image_expires_after_its_time_to_live() {
    let running = Setup::default().start();
    let [short, long, longest] =
        [Duration::from_millis(20), HOUR, Duration::MAX].map(|time| store(&running, 0, time, false).unwrap());
    thread::sleep(Duration::from_millis(30));
    let is_there = [short, long, longest].map(|id| running.engine.stored_image(id).is_ok());
    assert_eq!(is_there, [false, true, true]);
}

#[test]
fn full_store_evicts_all_but_pinned_images() {
    let running = Setup { stored_image_bytes: 2 * PREFIX_BYTES, ..Setup::default() }.start();
    let [first, second] = [0, 1].map(|file| store(&running, file, HOUR, false).unwrap());
    let third = store(&running, 2, HOUR, false).unwrap();
    assert!(running.engine.stored_image(first).is_err());
    [second, third].into_iter().for_each(|id| running.engine.pin_image(id, true).unwrap());
    let full = store(&running, 3, HOUR, false);
    assert!(matches!(full, Err(EngineError::Store(StoreError::Full { .. }))), "{full:?}");
    running.engine.pin_image(third, false).unwrap();
    let fourth = store(&running, 3, HOUR, false).unwrap();
    assert_eq!([second, third, fourth].map(|id| running.engine.stored_image(id).is_ok()), [true, false, true]);
    running.check_goes_on();
}

#[test]
fn image_that_fails_to_encode_is_not_stored() {
    let running = Setup::default().start();
    running.controls.encode.fail(0..1);
    let failed = store(&running, 0, HOUR, false);
    assert!(matches!(failed, Err(EngineError::Model { stage: "encoding the image", .. })));
    assert_eq!(running.engine.stored_images(), (0, 0));
    running.check_goes_on();
}
