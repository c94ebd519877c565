//! OpenAI's protocol over HTTP with a scripted model, whose answer to a prompt is the prompt.

use std::io::{BufRead as _, BufReader, Read as _};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::helpers::{TestApp, base64, png_base64, settings, spawn_app, spawn_app_with, spawn_app_with_limit};
use crate::scripted_model::{Script, engine};

const PATH: &str = "/v1/chat/completions";

/// A request with the image and a text.
fn request(text: &str) -> Value {
    let image = json!({"type": "image_url", "image_url": {"url": format!("data:image/png;base64,{}", png_base64())}});
    json!({"messages": [{"role": "user", "content": [image, {"type": "text", "text": text}]}]})
}

/// As [`request`], with more fields.
fn request_with(text: &str, fields: &Value) -> Value {
    let mut request = request(text);
    request.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    request
}

/// What is said in the events of a stream.
fn events(body: &str) -> Vec<Value> {
    let events = body.split_terminator("\n\n").map(|event| event.strip_prefix("data: ").unwrap());
    events.filter(|event| *event != "[DONE]").map(|event| serde_json::from_str(event).unwrap()).collect()
}

fn streamed_text(events: &[Value]) -> String {
    let choices = events.iter().filter_map(|event| event["choices"].get(0));
    choices.filter_map(|choice| choice["delta"]["content"].as_str()).collect()
}

fn is_error(body: &Value) -> (&str, &str, &str) {
    let error = body["error"].as_object().unwrap();
    assert_eq!((body.as_object().unwrap().len(), error.len()), (1, 4), "{body}");
    let field = |name: &str| error[name].as_str().unwrap_or_default();
    (field("type"), field("code"), field("param"))
}

#[test]
fn a_completion_has_all_that_clients_read() {
    let app = spawn_app(Some(engine(Script::default(), 2, 4)));
    let reply = app.post(PATH, &request_with("a </s> b", &json!({"model": "blip2-test"})));
    assert_eq!(reply.status, 200, "{}", reply.body);
    let body = reply.json();
    assert!(body["id"].as_str().unwrap().starts_with("chatcmpl-") && body["created"].as_u64().unwrap() > 1_700_000_000);
    assert_eq!((&body["object"], &body["model"]), (&json!("chat.completion"), &json!("blip2-test")));
    let message = json!({"role": "assistant", "content": "Question: a </s> b Answer:", "refusal": null});
    let choice = json!({"index": 0, "message": message, "logprobs": null, "finish_reason": "stop"});
    assert_eq!(body["choices"], json!([choice]));
    // 4 positions are the image's; the answer has all other tokens but the first, and the end token.
    let tokens = |name: &str| body["usage"][name].as_u64().unwrap();
    assert_eq!(tokens("prompt_tokens") - 4, tokens("completion_tokens"));
    assert_eq!(tokens("total_tokens"), tokens("prompt_tokens") + tokens("completion_tokens"));
    assert!(body["warnings"][0].as_str().unwrap().contains("</s>"), "{body}");
    let again = app.post(PATH, &request("x")).json();
    assert_eq!(again["system_fingerprint"], body["system_fingerprint"]);
    assert!(again["id"] != body["id"] && again.get("warnings").is_none(), "{again}");
}

#[test]
fn a_chat_is_one_prompt() {
    let app = spawn_app(Some(engine(Script::default(), 2, 4)));
    let mut chat = request_with("a?", &json!({"max_tokens": 60}));
    let turns = [json!({"role": "assistant", "content": "b"}), json!({"role": "user", "content": "c?"})];
    chat["messages"].as_array_mut().unwrap().extend(turns);
    let body = app.post(PATH, &chat).json();
    assert_eq!(body["choices"][0]["message"]["content"], "Question: a? Answer: b. Question: c? Answer:");
}

#[test]
fn a_stored_image_can_be_named_and_one_that_is_not_there_is_a_404() {
    let app = spawn_app(Some(engine(Script::default(), 2, 4)));
    let stored = app.post("/v1/images", &json!({"image": png_base64()})).json();
    let mut known = request("a?");
    known["messages"][0]["content"][0]["image_url"]["url"] = stored["id"].clone();
    assert_eq!(app.post(PATH, &known).json()["choices"][0]["message"]["content"], "Question: a? Answer:");
    let mut unknown = request("a?");
    unknown["messages"][0]["content"][0]["image_url"]["url"] = json!(format!("image-{}", "0a".repeat(16)));
    let reply = app.post(PATH, &unknown);
    assert_eq!(reply.status, 404, "{}", reply.body);
    assert_eq!(
        is_error(&reply.json()),
        ("invalid_request_error", "image_not_found", "messages[0].content[0].image_url")
    );
}

#[test]
fn a_stream_is_the_answer_in_pieces() {
    let app = spawn_app(Some(engine(Script::default(), 2, 4)));
    let text = "Question: é ☃ and some words? Answer:";
    let whole = app.post(PATH, &request(text)).json();
    for include_usage in [false, true] {
        let stream = json!({"stream": true, "stream_options": {"include_usage": include_usage}, "logprobs": true});
        let reply = app.post(PATH, &request_with(text, &stream));
        assert!(reply.status == 200 && reply.body.ends_with("data: [DONE]\n\n"), "{}", reply.body);
        let mut events = events(&reply.body);
        if include_usage {
            let last = events.pop().unwrap();
            assert_eq!((&last["choices"], &last["usage"]), (&json!([]), &whole["usage"]));
        }
        assert!(events.iter().all(|event| event.get("usage").is_some() == include_usage && event["usage"].is_null()));
        assert!(
            events.iter().all(|event| event["object"] == "chat.completion.chunk" && event["id"] == events[0]["id"])
        );
        assert_eq!(events[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
        let last = &events.last().unwrap()["choices"][0];
        assert_eq!((&last["delta"], &last["finish_reason"]), (&json!({}), &json!("stop")));
        assert_eq!(streamed_text(&events), text);
        assert_eq!(streamed_text(&events), whole["choices"][0]["message"]["content"].as_str().unwrap());
        assert!(events.len() > 8, "piece by piece");
        let tokens: usize =
            events.iter().filter_map(|event| event["choices"][0]["logprobs"]["content"].as_array()).map(Vec::len).sum();
        assert_eq!(tokens as u64 + 1, whole["usage"]["completion_tokens"].as_u64().unwrap(), "all but the end token");
    }
}

#[test]
fn a_stop_string_is_cut_streamed_or_whole_and_one_of_the_prompt_does_not_count() {
    let app = spawn_app(Some(engine(Script::default(), 2, 4)));
    for (stop, text, reason) in [
        (json!(" wo"), "Question: some", "stop"),
        (json!(["zz", "some words"]), "Question:", "stop"),
        (json!("Question"), "", "stop"),
        (json!(" Answer:Question"), "Question: some words? Answer:", "stop"),
        (json!("nowhere"), "Question: some words? Answer:", "stop"),
    ] {
        let whole = app.post(PATH, &request_with("some words?", &json!({"stop": stop}))).json();
        let choice = &whole["choices"][0];
        assert_eq!((&choice["message"]["content"], &choice["finish_reason"]), (&json!(text), &json!(reason)), "{stop}");
        let reply = app.post(PATH, &request_with("some words?", &json!({"stop": stop, "stream": true})));
        assert_eq!(streamed_text(&events(&reply.body)), text, "{stop}");
    }
}

#[test]
fn several_choices_come_whole_or_as_chunks_of_their_index() {
    let app = spawn_app(Some(engine(Script::default(), 3, 4)));
    let whole = app.post(PATH, &request_with("a b", &json!({"n": 3, "seed": 5}))).json();
    let texts: Vec<&Value> =
        whole["choices"].as_array().unwrap().iter().map(|choice| &choice["message"]["content"]).collect();
    assert_eq!(texts.len(), 3);
    let reply = app.post(PATH, &request_with("a b", &json!({"n": 3, "seed": 5, "stream": true})));
    for (index, text) in texts.iter().enumerate() {
        let of_index = |event: &Value| event["choices"][0]["index"] == index;
        let events: Vec<Value> = events(&reply.body).into_iter().filter(of_index).collect();
        assert_eq!(streamed_text(&events), text.as_str().unwrap());
        assert!(!events.last().unwrap()["choices"][0]["finish_reason"].is_null());
    }
}

#[test]
fn errors_have_the_shape_of_the_protocol() {
    let app = spawn_app_with_limit(Some(engine(Script::default(), 2, 4)), 20_000);
    let invalid = "invalid_request_error";
    let large = request(&"x".repeat(20_000));
    let bad_image = {
        let mut request = request("a?");
        request["messages"][0]["content"][0]["image_url"]["url"] = json!(base64(b"not an image"));
        request
    };
    for (body, status, error) in [
        (json!({}), 400, (invalid, "missing_required_parameter", "messages")),
        (request_with("a", &json!({"model": "gpt-4o"})), 404, (invalid, "model_not_found", "model")),
        (request_with("a", &json!({"foo": 1})), 400, (invalid, "unknown_parameter", "foo")),
        (request_with("a", &json!({"tools": [1]})), 400, (invalid, "unsupported_parameter", "tools")),
        (request_with("a", &json!({"n": 3})), 400, (invalid, "invalid_value", "n")),
        (request_with("a", &json!({"max_tokens": 1000})), 400, (invalid, "context_length_exceeded", "messages")),
        (request(&"word ".repeat(500)), 400, (invalid, "context_length_exceeded", "messages")),
        (bad_image, 400, (invalid, "invalid_image", "messages[0].content[0].image_url")),
        (large, 413, (invalid, "body_too_large", "")),
    ] {
        for stream in [false, true] {
            let mut body = body.clone();
            body["stream"] = json!(stream);
            let reply = app.post(PATH, &body);
            assert_eq!(reply.status, status, "{}", reply.body);
            assert_eq!(is_error(&reply.json()), error, "{}", reply.body);
        }
    }
    for path in [PATH, "/v1/models", "/v1/models/blip2-test"] {
        let reply = app.delete(path);
        assert_eq!((reply.status, is_error(&reply.json())), (405, (invalid, "method_not_allowed", "")));
    }
    let reply = app.get("/v1/models/gpt-4o");
    assert_eq!((reply.status, is_error(&reply.json()).1), (404, "model_not_found"));
}

#[test]
fn what_is_no_json_is_refused_in_the_same_shape() {
    let app = spawn_app(Some(engine(Script::default(), 1, 4)));
    for (body, content_type, status) in [
        ("", "application/json", 400),
        ("{", "application/json", 400),
        ("[]", "application/json", 400),
        ("{}", "text/plain", 415),
    ] {
        let reply = app.post_as(PATH, body.as_bytes(), content_type);
        assert_eq!((reply.status, is_error(&reply.json()).0), (status, "invalid_request_error"), "{}", reply.body);
    }
}

#[test]
fn a_missing_key_is_a_401_in_the_same_shape_and_a_preflight_needs_none() {
    let settings = blip2::server::ServerSettings {
        api_key: Some(blip2::server::ApiKey::new("secret".into())),
        cors_origins: vec!["https://example.org".into()],
        ..settings()
    };
    let app = spawn_app_with(Some(engine(Script::default(), 1, 4)), settings);
    for reply in [app.post(PATH, &request("a")), app.get("/v1/models"), app.get("/v1/models/x")] {
        assert_eq!((reply.status, is_error(&reply.json())), (401, ("invalid_request_error", "invalid_api_key", "")));
    }
    assert!(app.get("/score").message().contains("API key"), "other protocols have their own");
    let agent = ureq::Agent::new_with_defaults();
    let preflight = agent.options(app.url(PATH)).header("origin", "https://example.org");
    let preflight = preflight.header("access-control-request-method", "POST").call().unwrap();
    assert_eq!(preflight.headers()["access-control-allow-origin"], "https://example.org");
}

#[test]
fn a_service_without_its_model_says_so() {
    let app = spawn_app(None);
    for reply in [app.post(PATH, &request("a")), app.get("/v1/models"), app.get("/v1/models/x")] {
        assert_eq!((reply.status, is_error(&reply.json())), (503, ("server_error", "not_ready", "")));
        assert_eq!(reply.retry_after.as_deref(), Some("2"));
    }
}

#[test]
fn the_model_is_listed() {
    let app = spawn_app(Some(engine(Script::default(), 1, 4)));
    let model = json!({"id": "blip2-test", "object": "model", "created": 0, "owned_by": "blip2-test"});
    assert_eq!(app.get("/v1/models").json(), json!({"object": "list", "data": [model]}));
    assert_eq!(app.get("/v1/models/blip2-test").json(), model);
}

#[test]
fn a_full_queue_is_a_429_and_a_failing_model_a_500_that_tells_nothing_streamed_or_not() {
    for stream in [false, true] {
        let stream = json!({"stream": stream});
        let (open, gate) = mpsc::channel();
        let engine_of_one = engine(Script { gate: Some(gate), ..Script::default() }, 1, 1);
        let app = spawn_app(Some(engine_of_one.clone()));
        thread::scope(|scope| {
            let waiting = scope.spawn(|| app.post(PATH, &request_with("a", &stream)).status);
            while engine_of_one.rows_in_work() < 1 {
                thread::sleep(Duration::from_millis(1));
            }
            let refused = app.post(PATH, &request_with("a", &stream));
            assert_eq!((refused.status, refused.retry_after.is_some()), (429, true), "{}", refused.body);
            assert_eq!(is_error(&refused.json()), ("rate_limit_error", "rate_limit_exceeded", ""));
            open.send(()).unwrap();
            assert_eq!(waiting.join().unwrap(), 200);
        });

        let app = spawn_app(Some(engine(Script { broken: true, ..Script::default() }, 1, 4)));
        let failed = app.post(PATH, &request_with("a", &stream));
        assert_eq!((failed.status, is_error(&failed.json()).0), (500, "server_error"), "{}", failed.body);
        assert!(failed.body.contains("An unexpected error occurred"), "{}", failed.body);
    }
}

#[test]
fn an_error_on_the_way_ends_the_stream_with_an_event() {
    let script = Script { pace: Duration::from_millis(150), ..Script::default() };
    let settings = blip2::server::ServerSettings { scoring_timeout: Some(Duration::from_millis(700)), ..settings() };
    let app = spawn_app_with(Some(engine(script, 1, 4)), settings);
    let reply = app.post(PATH, &request_with("many words that take their time", &json!({"stream": true})));
    assert_eq!(reply.status, 200);
    let events = events(&reply.body);
    let (last, before) = events.split_last().unwrap();
    assert_eq!(is_error(last), ("server_error", "timeout", ""), "{last}");
    assert!(before.len() > 1 && !reply.body.contains("[DONE]"), "{}", reply.body);
}

#[test]
fn a_client_that_leaves_its_stream_frees_the_place() {
    let engine = engine(Script { pace: Duration::from_millis(50), ..Script::default() }, 1, 1);
    let app = spawn_app(Some(engine.clone()));
    // The whole answer takes more than two seconds.
    let body = request_with(&"words ".repeat(15), &json!({"stream": true, "max_tokens": 60}));
    let mut lines = open_stream(&app, &body);
    let mut first = String::new();
    lines.read_line(&mut first).unwrap();
    assert!(first.contains("chat.completion.chunk"), "{first}");
    drop(lines);
    let left = Instant::now();
    while engine.rows_in_work() > 0 {
        assert!(left.elapsed() < Duration::from_secs(1), "the place of the client that left stays taken");
        thread::sleep(Duration::from_millis(10));
    }
}

/// The answer to a request, as it comes.
fn open_stream(app: &TestApp, body: &Value) -> BufReader<impl std::io::Read> {
    let agent: ureq::Agent = ureq::Agent::config_builder().max_idle_connections(0).build().into();
    let response = agent.post(app.url(PATH)).header("content-type", "application/json").send(body.to_string()).unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream; charset=utf-8");
    BufReader::with_capacity(1, response.into_body().into_reader().take(1 << 20))
}
