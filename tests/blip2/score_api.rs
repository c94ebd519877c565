//! `POST /score` over HTTP with a scripted model: shapes of request and answer, bad input, overload, cancellation.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::helpers::{base64, body, fixture, png_base64, spawn_app, spawn_app_with_limit};
use crate::scripted_model::{Script, engine};

#[test]
fn rows_are_answered_in_order_whatever_their_length() {
    let app = spawn_app(Some(engine(Script::default(), 2, 16)));
    let image = png_base64();
    let texts = ["one", "a much longer prompt than the others", "", "three words here", "x", "the last one"];
    let rows: Vec<_> = texts.iter().map(|text| (image.as_str(), *text)).collect();
    let reply = app.score(&body(&rows));
    assert_eq!(reply.texts(), texts);
    assert!(reply.json().as_array().unwrap().iter().all(|row| row.as_object().unwrap().len() == 1), "{}", reply.body);
}

#[test]
fn many_clients_at_once_get_their_own_answers() {
    let app = spawn_app(Some(engine(Script::default(), 3, 64)));
    let image = png_base64();
    thread::scope(|scope| {
        for client in 0..12 {
            let (app, image) = (&app, &image);
            scope.spawn(move || {
                let text = format!("client {client}{}", " and more".repeat(client % 4));
                assert_eq!(app.score(&body(&[(image, &text)])).texts(), [text]);
            });
        }
    });
}

#[test]
fn an_image_column_alone_captions_and_columns_may_stand_in_any_order() {
    let app = spawn_app(Some(engine(Script::default(), 2, 16)));
    let image = png_base64();
    let captions = json!({"input_data": {"columns": ["image"], "data": [[image], [image]]}});
    assert_eq!(app.score(&captions).texts(), ["", ""]);
    let swapped = json!({"input_data": {"columns": ["text", "id", "image"], "data": [["hello", 7, image]]}});
    assert_eq!(app.score(&swapped).texts(), ["hello"]);
}

#[test]
fn params_steer_generation_and_logprobs_ask_for_the_details() {
    let app = spawn_app(Some(engine(Script::default(), 1, 4)));
    let mut request = body(&[(&png_base64(), "see <image> here")]);
    request["params"] = json!({"max_new_tokens": 2, "logprobs": true});
    let row = app.score(&request).json()[0].clone();
    assert_eq!(row["token_ids"].as_array().unwrap().len(), 2);
    assert_eq!(row["logprobs"].as_array().unwrap().len(), 2);
    let mean = row["logprobs"].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).sum::<f64>() / 2.0;
    assert!((row["score"].as_f64().unwrap() - mean).abs() < 1e-6);
    assert!(row["warnings"][0].as_str().unwrap().contains("<image>"), "{row}");
}

#[test]
fn special_strings_in_a_text_stay_text() {
    let app = spawn_app(Some(engine(Script::default(), 1, 4)));
    let text = "a </s> b <image> c <pad>";
    assert_eq!(app.score(&body(&[(&png_base64(), text)])).texts(), [text]);
}

#[test]
fn a_bad_row_is_a_400_that_names_the_row_and_the_reason() {
    let app = spawn_app(Some(engine(Script::default(), 2, 16)));
    let good = png_base64();
    let png = fixture("images/png-rgb.png");
    let truncated = base64(&png[..png.len() / 2]);
    let huge = base64(&header_of_a_png(30_000, 30_000));
    let long = "word ".repeat(500);
    let fits_alone = "z".repeat(95);
    let cases = [
        ("QUJDR", "", "base64"),
        ("bm90IGFuIGltYWdl", "", "image"),
        (truncated.as_str(), "", "png"),
        (huge.as_str(), "", "30000"),
        ("http://127.0.0.1/x.png", "", "image"),
        ("", "", "empty"),
        (good.as_str(), long.as_str(), "text"),
        (good.as_str(), fits_alone.as_str(), "max_new_tokens"),
    ];
    for (image, text, reason) in cases {
        let reply = app.score(&body(&[(&good, "fine"), (image, text)]));
        let message = reply.message();
        assert_eq!(reply.status, 400, "{message}");
        assert!(message.starts_with("row 1: ") && message.to_lowercase().contains(&reason.to_lowercase()), "{message}");
        assert!(message.len() < 400, "{message}");
    }
    assert_eq!(app.score(&body(&[(&good, "still here")])).texts(), ["still here"]);
}

#[test]
fn a_body_that_is_no_request_is_refused() {
    let app = spawn_app(Some(engine(Script::default(), 1, 4)));
    let json = Some("application/json");
    for (body, content_type, status, part) in [
        (b"".as_slice(), json, 400, "POST body is empty"),
        (b"{not json", json, 400, "could not be decoded as JSON"),
        (b"[1]", json, 400, "should be a JSON dictionary"),
        (b"{}", json, 400, "'input_data'"),
        (b"{}", Some("text/plain"), 415, "Expects Content-Type to be application/json"),
        (b"{}", Some("application/vnd.x+json; charset=latin1"), 400, "'input_data'"),
    ] {
        let reply = app.post_score(body, content_type);
        assert_eq!(reply.status, status, "{}", reply.body);
        assert!(reply.message().contains(part), "{}", reply.body);
    }
}

#[test]
fn a_body_over_the_limit_is_a_413() {
    let app = spawn_app_with_limit(Some(engine(Script::default(), 1, 4)), 2_000);
    let reply = app.post_score(&[b' '; 2_001], Some("application/json"));
    assert_eq!(reply.status, 413);
    assert!(reply.message().contains("2000 bytes"), "{}", reply.body);
}

#[test]
fn score_returns_429_with_retry_after_when_the_queue_is_full() {
    let (open, gate) = mpsc::channel();
    let engine = engine(Script { gate: Some(gate), ..Script::default() }, 1, 2);
    let app = spawn_app(Some(engine.clone()));
    let image = png_base64();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| app.score(&body(&[(&image, "a"), (&image, "b")])).texts());
        while engine.rows_in_work() < 2 {
            thread::sleep(Duration::from_millis(1));
        }
        let refused = app.score(&body(&[(&image, "c")]));
        assert_eq!((refused.status, refused.retry_after.as_deref()), (429, Some("1")));
        assert!(refused.message().contains("busy"));
        open.send(()).unwrap(); // one image for both rows
        assert_eq!(waiting.join().unwrap(), ["a", "b"]);
    });
}

#[test]
fn more_rows_than_the_queue_holds_are_refused_for_good() {
    let app = spawn_app(Some(engine(Script::default(), 1, 2)));
    let image = png_base64();
    let reply = app.score(&body(&[(&image, "a"), (&image, "b"), (&image, "c")]));
    assert_eq!(reply.status, 400);
    assert!(reply.message().contains("3 rows"), "{}", reply.body);
}

#[test]
fn a_failing_model_is_a_500_that_tells_nothing_and_the_service_goes_on() {
    let app = spawn_app(Some(engine(Script { failing_prompt_len: Some(2), ..Script::default() }, 1, 4)));
    let image = png_base64();
    let failed = app.score(&body(&[(&image, "x")]));
    assert_eq!(failed.status, 500);
    assert!(failed.message().starts_with("An unexpected error occurred") && !failed.body.contains("passwd"));
    assert_eq!(app.score(&body(&[(&image, "x y z")])).texts(), ["x y z"]);
}

#[test]
fn logits_that_are_no_numbers_are_a_500() {
    let app = spawn_app(Some(engine(Script { broken: true, ..Script::default() }, 1, 4)));
    assert_eq!(app.score(&body(&[(&png_base64(), "x")])).status, 500);
}

#[test]
fn a_client_that_leaves_frees_its_place() {
    let (open, gate) = mpsc::channel();
    let app = spawn_app(Some(engine(Script { gate: Some(gate), ..Script::default() }, 1, 1)));
    let image = png_base64();
    let impatient: ureq::Agent =
        ureq::Agent::config_builder().timeout_global(Some(Duration::from_millis(300))).build().into();
    let gone = impatient.post(app.url("/score")).header("content-type", "application/json");
    assert!(gone.send(body(&[(&image, "gone")]).to_string()).is_err());
    for _ in 0..8 {
        open.send(()).unwrap();
    }
    let served = (0..200).any(|_| {
        thread::sleep(Duration::from_millis(10));
        app.score(&body(&[(&image, "next")])).status == 200
    });
    assert!(served, "the place of the client that left stays taken");
}

/// Signature and IHDR chunk of a PNG of 8-bit RGB, with a right checksum and nothing behind it.
fn header_of_a_png(width: u32, height: u32) -> Vec<u8> {
    let mut chunk = b"IHDR".to_vec();
    chunk.extend(width.to_be_bytes());
    chunk.extend(height.to_be_bytes());
    chunk.extend([8, 2, 0, 0, 0]);
    let checksum = crc32(&chunk);
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\x0d".to_vec();
    png.extend(chunk);
    png.extend(checksum.to_be_bytes());
    png
}

fn crc32(bytes: &[u8]) -> u32 {
    let step =
        |crc: u32, byte: &u8| (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 * (crc & 1)));
    !bytes.iter().fold(!0, step)
}
