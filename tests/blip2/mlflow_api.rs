//! MLflow's routes over HTTP with a scripted model: what its clients send, wait for and read.

use std::sync::mpsc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::contract::wire::{Answer, Connection, Request};
use crate::helpers::{TestApp, png_base64, served, spawn_app};
use crate::scripted_model::{Script, engine};

fn invoke(app: &TestApp, content_type: &str, body: &str) -> (u16, Value) {
    let request = Request::new("POST", "/invocations", &[("Content-Type", content_type)], Some(body.as_bytes()));
    let Answer { status, body, .. } = Connection::open(app.port()).unwrap().exchange(&request).unwrap();
    (status, serde_json::from_slice(&body).unwrap())
}

fn invoke_json(app: &TestApp, body: &Value) -> (u16, Value) {
    invoke(app, "application/json", &body.to_string())
}

#[test]
fn every_form_of_the_same_rows_gets_the_same_answers_in_order() {
    let app = spawn_app(Some(engine(Script::default(), 2, 16)));
    let image = png_base64();
    let expected = json!({"predictions": [{"text": "one"}, {"text": "the \"second\", longer"}]});
    let split = json!({"dataframe_split": {
        "columns": ["image", "text"], "index": ["a", "b"], "data": [[image, "one"], [image, "the \"second\", longer"]],
    }});
    let records = json!({"dataframe_records": [
        {"image": image, "text": "one"},
        {"text": "the \"second\", longer", "image": format!("data:image/png;base64,{image}")},
    ]});
    for body in [split, records] {
        assert_eq!(invoke_json(&app, &body), (200, expected.clone()));
    }
    let lines: String =
        image.as_bytes().chunks(76).map(|line| format!("{}\r\n", str::from_utf8(line).unwrap())).collect();
    let csv = format!("text,,image\r\none,0,{image}\r\n\"the \"\"second\"\", longer\",1,\"{lines}\"\r\n");
    assert_eq!(invoke(&app, "text/csv", &csv), (200, expected));
}

#[test]
fn an_image_alone_is_captioned_and_params_are_honoured_and_checked() {
    let app = spawn_app(Some(engine(Script::default(), 2, 16)));
    let image = png_base64();
    assert_eq!(invoke(&app, "text/csv", &format!("image\n{image}\n")), (200, json!({"predictions": [{"text": ""}]})));
    let mut body =
        json!({"dataframe_records": [{"image": image, "text": "a few words here"}], "params": {"max_new_tokens": 2}});
    body["params"]["logprobs"] = json!(true);
    let (status, answer) = invoke_json(&app, &body);
    assert_eq!((status, answer["predictions"][0]["token_ids"].as_array().unwrap().len()), (200, 2));
    body["params"] = json!({"max_tokens": 2});
    let (status, answer) = invoke_json(&app, &body);
    assert_eq!((status, &answer["error_code"]), (400, &json!("BAD_REQUEST")));
    assert!(answer["message"].as_str().unwrap().contains("max_tokens"), "{answer}");
}

#[test]
fn a_fault_has_a_code_and_a_message_and_no_stack_trace() {
    let app = spawn_app(Some(engine(Script { failing_prompt_len: Some(2), ..Script::default() }, 1, 1)));
    let image = png_base64();
    let records = |rows: &[(&str, &str)]| json!({"dataframe_records": rows.iter().map(|(image, text)| json!({"image": image, "text": text})).collect::<Vec<_>>()});
    for (body, status, code, part) in [
        (records(&[("QUJDR", "a")]), 400, "BAD_REQUEST", "row 0: image is not base64"),
        (records(&[("aGVsbG8=", "a")]), 400, "BAD_REQUEST", "row 0"),
        (records(&[(&image, "a"), (&image, "b")]), 400, "BAD_REQUEST", "2 rows"),
        (json!({"dataframe_records": [{"text": "a"}]}), 400, "INVALID_PARAMETER_VALUE", "\"image\""),
        (records(&[(&image, "x")]), 500, "INTERNAL_ERROR", "An unexpected error occurred"),
    ] {
        let (given, answer) = invoke_json(&app, &body);
        let message = answer["message"].as_str().unwrap();
        assert_eq!((given, &answer["error_code"]), (status, &json!(code)), "{answer}");
        assert!(message.contains(part) && !answer.to_string().contains("passwd"), "{answer}");
        assert_eq!(answer.as_object().unwrap().len(), 2, "{answer}");
    }
}

#[test]
fn clients_that_wait_for_ping_wait_for_the_model() {
    let app = spawn_app(None);
    let empty = json!({"dataframe_records": [{"image": png_base64(), "text": "hello"}]});
    for path in ["/ping", "/health"] {
        let reply = app.get(path);
        assert_eq!((reply.status, reply.retry_after.as_deref()), (503, Some("2")));
        assert_eq!(reply.json()["error_code"], "TEMPORARILY_UNAVAILABLE");
    }
    let (status, answer) = invoke_json(&app, &empty);
    assert_eq!((status, &answer["error_code"]), (503, &json!("TEMPORARILY_UNAVAILABLE")));
    assert_eq!(app.get("/version").status, 200);
    app.state.become_ready(served(engine(Script::default(), 1, 4)));
    for path in ["/ping", "/health"] {
        let reply = app.get(path);
        assert_eq!((reply.status, reply.body.as_str()), (200, "\n"));
    }
    assert_eq!(invoke_json(&app, &empty), (200, json!({"predictions": [{"text": "hello"}]})));
    app.state.begin_draining();
    assert_eq!(app.get("/ping").status, 503);
}

#[test]
fn a_full_queue_is_a_429_in_mlflows_words() {
    let (open, gate) = mpsc::channel();
    let engine = engine(Script { gate: Some(gate), ..Script::default() }, 1, 1);
    let app = spawn_app(Some(engine.clone()));
    let body = json!({"dataframe_records": [{"image": png_base64(), "text": "hello"}]});
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| invoke_json(&app, &body));
        while engine.rows_in_work() < 1 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let (status, answer) = invoke_json(&app, &body);
        assert_eq!((status, &answer["error_code"]), (429, &json!("RESOURCE_EXHAUSTED")));
        open.send(()).unwrap();
        assert_eq!(waiting.join().unwrap().0, 200);
    });
}
