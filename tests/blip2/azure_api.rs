//! Azure's contract where a case as data does not reach: bodies that are refused before they are read, the time before the
//! model is there, documents whose examples are posted back.

use std::time::Instant;

use serde_json::{Value, json};

use crate::contract::wire::{Body, Connection, Request};
use crate::helpers::{body, png_base64, settings, spawn_app, spawn_app_with};
use crate::scripted_model::{Script, engine};
use blip2::server::{ServerSettings, ServiceName};

const JSON: (&str, &str) = ("Content-Type", "application/json");

#[test]
fn a_refused_body_costs_at_most_its_own_connection() {
    let app = spawn_app(Some(engine(Script::default(), 1, 4)));
    let large = vec![b' '; 900_000];
    for (headers, path, status) in [
        (&[("Content-Type", "text/plain")][..], "/score", 415),
        (&[], "/score", 415),
        (&[JSON], "/nope", 404),
        (&[JSON], "/", 405),
        (&[JSON, ("x-request-id", &*"a".repeat(101))], "/score", 431),
    ] {
        for payload in [&b"{}"[..], &large] {
            let mut connection = Connection::open(app.port()).unwrap();
            let answer = connection.exchange(&Request::new("POST", path, headers, Some(payload))).unwrap();
            assert_eq!(answer.status, status, "{path}");
            assert!(answer.header("x-request-id").is_some() && !answer.body.is_empty(), "{path}");
            let is_closing = answer.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
            let again = connection.exchange(&Request::new("GET", "/", &[], None));
            assert!(is_closing || again.unwrap().status == 200, "{path}: neither closed nor kept");
        }
    }
}

#[test]
fn a_body_too_large_is_refused_announced_or_not() {
    let app =
        spawn_app_with(Some(engine(Script::default(), 1, 4)), ServerSettings { max_body_bytes: 1000, ..settings() });
    let mut chunked = Request::new("POST", "/score", &[JSON], None);
    chunked.body = Body::Chunked { bytes: vec![b' '; 5000], sizes: vec![300; 5] };
    let mut waiting = Request::new("POST", "/score", &[JSON], Some(&[b' '; 1001]));
    waiting.waits_for_continue = true;
    let announced = Request::new("POST", "/invocations", &[JSON, ("Content-Length", "10737418240")], Some(b"{"));
    for request in [chunked, waiting, announced] {
        let answer = Connection::open(app.port()).unwrap().exchange(&request).unwrap();
        assert_eq!(answer.status, 413);
        assert!(String::from_utf8(answer.body).unwrap().contains("1000 bytes"));
    }
}

#[test]
fn before_the_model_is_there_a_request_is_refused_without_its_body() {
    let app = spawn_app(None);
    for path in ["/score", "/invocations"] {
        let started = Instant::now();
        let request = Request::new("POST", path, &[JSON, ("Content-Length", "500000")], Some(b"{"));
        let answer = Connection::open(app.port()).unwrap().exchange(&request).unwrap();
        assert_eq!((answer.status, answer.header("retry-after").as_deref()), (503, Some("2")), "{path}");
        assert_eq!(answer.header("x-ms-run-function-failed").as_deref(), Some("False"));
        assert!(started.elapsed().as_secs() < 5, "{path}");
    }
}

#[test]
fn only_a_failure_of_scoring_is_marked_as_one() {
    let app = spawn_app(Some(engine(Script { failing_prompt_len: Some(2), ..Script::default() }, 1, 4)));
    let image = png_base64();
    for (text, status, failed) in [("x", 500, "True"), ("x y z", 200, "False")] {
        let request = Request::new("POST", "/score", &[JSON], Some(body(&[(&image, text)]).to_string().as_bytes()));
        let answer = Connection::open(app.port()).unwrap().exchange(&request).unwrap();
        assert_eq!((answer.status, answer.header("x-ms-run-function-failed").as_deref()), (status, Some(failed)));
        assert_eq!(answer.header("x-ms-run-fn-exec-ms").is_some(), status == 200);
    }
}

#[test]
fn the_examples_of_every_document_work_when_they_are_posted_back() {
    let app = spawn_app(Some(engine(Script::default(), 2, 8)));
    for (version, pointer) in [
        ("2", "/definitions/ServiceInput"),
        ("3", "/components/schemas/ServiceInput"),
        ("3.1", "/components/schemas/ServiceInput"),
    ] {
        let document = app.get(&format!("/swagger.json?version={version}")).json();
        assert_eq!(app.score(&document.pointer(pointer).unwrap()["example"]).texts().len(), 1);
    }
    let document = app.get("/openapi.json").json();
    let schemas = &document["components"]["schemas"];
    for (path, schema) in [("/score", "ScoreBody"), ("/invocations", "InvocationBody")] {
        let example = schemas[schema]["example"].to_string();
        let request = Request::new("POST", path, &[JSON], Some(example.as_bytes()));
        assert_eq!(Connection::open(app.port()).unwrap().exchange(&request).unwrap().status, 200, "{path}: {example}");
    }
    let csv = &document["paths"]["/invocations"]["post"]["requestBody"]["content"]["text/csv"]["example"];
    let request =
        Request::new("POST", "/invocations", &[("Content-Type", "text/csv")], csv.as_str().map(str::as_bytes));
    assert_eq!(Connection::open(app.port()).unwrap().exchange(&request).unwrap().status, 200, "{csv}");
}

#[test]
fn every_route_of_the_contract_is_described_with_the_statuses_it_can_have() {
    let app = spawn_app(None);
    let paths = app.get("/openapi.json").json()["paths"].clone();
    let statuses = |path: &str, method: &str| -> Vec<String> {
        let responses = paths[path][method]["responses"].as_object();
        responses.unwrap_or_else(|| panic!("{method} {path}")).keys().cloned().collect()
    };
    for (path, methods) in [
        ("/", &["get", "options"][..]),
        ("/livez", &["get"]),
        ("/readyz", &["get"]),
        ("/score", &["get", "post", "options"]),
        ("/swagger.json", &["get"]),
        ("/invocations", &["post"]),
        ("/ping", &["get"]),
        ("/health", &["get"]),
        ("/version", &["get"]),
    ] {
        for method in methods {
            assert!(statuses(path, method).contains(&"200".to_owned()), "{method} {path}");
        }
    }
    for path in ["/score", "/invocations"] {
        for status in ["400", "413", "415", "429", "431", "500", "503", "504"] {
            assert!(statuses(path, "post").contains(&status.to_owned()), "{status} {path}");
        }
    }
}

#[test]
fn the_swagger_document_carries_the_names_that_azure_sets() {
    let service = ServiceName { name: "my endpoint".into(), version: "7".into(), path_prefix: "/behind".into() };
    let app = spawn_app_with(None, ServerSettings { service, show_server_version: false, ..settings() });
    let document: Value = app.get("/swagger.json").json();
    assert_eq!(document["info"]["title"], json!("my endpoint"));
    assert_eq!(document["info"]["version"], json!("7"));
    assert!(document["paths"]["/behind/score"].is_object(), "{document}");
    let answer = Connection::open(app.port()).unwrap().exchange(&Request::new("GET", "/", &[], None)).unwrap();
    assert_eq!(answer.header("x-ms-server-version"), None);
}
