//! The service's own endpoints over HTTP: with a scripted model, and what only a real one can show with the committed bundle.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use blip2::engine::{Engine, StoreOptions};
use blip2::server::ServerSettings;
use serde_json::{Value, json};

use crate::bundle::{BUNDLES, engine as bundle_engine, open};
use crate::helpers::{TestApp, base64, fixture, png_base64, settings, spawn_app, spawn_app_with, spawn_app_with_limit};
use crate::scripted_model::{HIDDEN, QUERIES, Script, engine};

/// What came back.
struct Reply {
    status: u16,
    location: Option<String>,
    allow: Option<String>,
    body: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The answer, if all went well.
    fn ok(&self) -> Value {
        assert!((200..300).contains(&self.status), "{} {}", self.status, self.body);
        self.json()
    }

    /// Code and message of an error, whose body holds nothing else.
    fn error(&self) -> (String, String) {
        let body = self.json();
        let error = body["error"].as_object().unwrap();
        assert_eq!((body.as_object().unwrap().len(), error.len()), (1, 2), "{body}");
        let text = |key: &str| error[key].as_str().unwrap().to_owned();
        (text("code"), text("message"))
    }
}

fn send(app: &TestApp, method: &str, path: &str, content_type: &str, body: &[u8]) -> Reply {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let request = ureq::http::Request::builder().method(method).uri(app.url(path));
    let request = if content_type.is_empty() { request } else { request.header("content-type", content_type) };
    let mut response = if body.is_empty() {
        agent.run(request.body(()).unwrap()).unwrap()
    } else {
        agent.run(request.body(body).unwrap()).unwrap()
    };
    let header = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let (location, allow) = (header("location"), header("allow"));
    Reply { status: response.status().as_u16(), location, allow, body: response.body_mut().read_to_string().unwrap() }
}

fn post(app: &TestApp, path: &str, body: &Value) -> Reply {
    send(app, "POST", path, "application/json", body.to_string().as_bytes())
}

fn get(app: &TestApp, path: &str) -> Reply {
    send(app, "GET", path, "", b"")
}

/// Name, file name or nothing, content.
type FormPart<'a> = (&'a str, &'a str, &'a [u8]);

fn form(app: &TestApp, path: &str, parts: &[FormPart<'_>]) -> Reply {
    let mut body = Vec::new();
    for (name, file, content) in parts {
        let file = if file.is_empty() { String::new() } else { format!("; filename=\"{file}\"") };
        body.extend(format!("--XX\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n").bytes());
        body.extend(*content);
        body.extend(b"\r\n");
    }
    body.extend(b"--XX--\r\n");
    send(app, "POST", path, "multipart/form-data; boundary=XX", &body)
}

fn app() -> TestApp {
    spawn_app(Some(engine(Script::default(), 2, 16)))
}

fn texts(answers: &Value) -> Vec<&str> {
    answers["answers"].as_array().unwrap().iter().map(|answer| answer["text"].as_str().unwrap()).collect()
}

#[test]
fn many_questions_about_one_image_are_answered_in_order() {
    let app = app();
    let ask = |template: Value, questions: &[&str]| {
        post(&app, "/v1/ask", &json!({"image": png_base64(), "questions": questions, "template": template})).ok()
    };
    let answers = ask(Value::Null, &["what is this?", "why?"]);
    assert_eq!(texts(&answers), ["Question: what is this? Answer:", "Question: why? Answer:"]);
    assert!(answers["answers"][0]["warnings"].is_array() && answers["answers"][1]["timings_ms"]["total"].is_number());
    assert_eq!(answers["answers"][0].as_object().unwrap().len(), 3, "{answers}");
    for template in ["raw", "caption"] {
        assert_eq!(texts(&ask(template.into(), &["a photo of", "b"])), ["a photo of", "b"]);
    }
    assert_eq!(
        texts(&ask("chat".into(), &["a?", "b?"])),
        ["Question: a? Answer:", "Question: a? Answer: Question: a? Answer:. Question: b? Answer:"]
    );
}

#[test]
fn an_image_is_opened_and_encoded_once_for_all_questions() {
    let (open, gate) = mpsc::channel();
    let app = spawn_app(Some(engine(Script { gate: Some(gate), ..Script::default() }, 2, 16)));
    open.send(()).unwrap(); // one image; a second would wait for ever
    let body = json!({"image": png_base64(), "questions": ["a?", "b?", "c?", "d?"]});
    assert_eq!(texts(&post(&app, "/v1/ask", &body).ok()).len(), 4);
}

#[test]
fn an_image_alone_is_asked_for_a_caption() {
    let app = app();
    let file = fixture("images/png-rgb.png");
    assert_eq!(texts(&post(&app, "/v1/ask", &json!({"image": png_base64()})).ok()), [""]);
    assert_eq!(texts(&form(&app, "/v1/ask", &[("file", "a.png", &file)]).ok()), [""]);
    assert_eq!(texts(&send(&app, "POST", "/v1/ask", "image/png", &file).ok()), [""]);
}

#[test]
fn a_form_asks_the_same_as_json() {
    let app = app();
    let file = fixture("images/png-rgb.png");
    let params = br#"{"max_new_tokens": 3, "logprobs": true}"#;
    let by_form = form(
        &app,
        "/v1/ask",
        &[("question", "", b"one?"), ("file", "a.png", &file), ("question", "", b"two?"), ("params", "", params)],
    );
    let by_json = post(
        &app,
        "/v1/ask",
        &json!({
            "image": png_base64(),
            "questions": ["one?", "two?"],
            "params": serde_json::from_slice::<Value>(params).unwrap(),
        }),
    );
    let without_times = |reply: Reply| {
        let mut answers = reply.ok();
        for answer in answers["answers"].as_array_mut().unwrap() {
            answer.as_object_mut().unwrap().remove("timings_ms").unwrap();
        }
        answers
    };
    let answers = without_times(by_form);
    assert_eq!(answers, without_times(by_json));
    assert_eq!(answers["answers"][1]["token_ids"].as_array().unwrap().len(), 3);
    assert!(answers["answers"][1]["score"].is_number() && answers["answers"][1]["logprobs"].is_array(), "{answers}");
}

#[test]
fn candidates_are_ranked_by_their_likelihood() {
    let app = app();
    let rank = |body: Value| post(&app, "/v1/rank", &body).ok();
    let image = png_base64();
    let ranked = rank(json!({"image": image, "text": " x", "candidates": ["y", "x", "z"]}));
    assert_eq!((&ranked["best"], &ranked["ranking"][0]), (&json!("x"), &json!(1)));
    let candidates = ranked["candidates"].as_array().unwrap();
    let order = ranked["ranking"].as_array().unwrap().iter().map(|place| place.as_u64().unwrap() as usize);
    assert!(order.map(|place| candidates[place]["sum"].as_f64().unwrap()).is_sorted_by(|a, b| a >= b), "{ranked}");
    assert_eq!(candidates.iter().map(|candidate| &candidate["text"]).collect::<Vec<_>>(), ["y", "x", "z"]);
    let total: f64 = candidates.iter().map(|candidate| candidate["probability"].as_f64().unwrap()).sum();
    assert!((total - 1.0).abs() < 1e-6, "{ranked}");
    for candidate in candidates {
        assert_eq!(candidate["token_ids"].as_array().unwrap().len(), candidate["logprobs"].as_array().unwrap().len());
        assert!(candidate["sum"].is_number() && candidate["mean"].is_number());
    }
    assert!(ranked["warnings"].is_array() && ranked["timings_ms"]["total"].is_number());
    let with_end = candidates[1]["token_ids"].as_array().unwrap().len();
    let without = rank(json!({"image": image, "text": " x", "candidates": ["x"], "with_end_token": false}));
    assert_eq!(without["candidates"][0]["token_ids"].as_array().unwrap().len(), with_end - 1);
    let file = fixture("images/png-rgb.png");
    let parts: [FormPart<'_>; 4] =
        [("file", "a", &file), ("text", "", b" x"), ("candidate", "", b"y"), ("candidate", "", b"x")];
    assert_eq!(form(&app, "/v1/rank", &parts).ok()["best"], "x");
}

#[test]
fn a_stored_image_is_asked_about_described_pinned_and_deleted() {
    let app = app();
    let stored = post(&app, "/v1/images", &json!({"image": png_base64(), "ttl_s": 600}));
    let described = stored.ok();
    let id = described["id"].as_str().unwrap();
    let path = format!("/v1/images/{id}");
    assert_eq!((stored.status, stored.location.as_deref()), (201, Some(path.as_str())));
    assert_eq!((&described["pinned"], &described["bytes"]), (&json!(false), &json!(16)));
    assert!((595..=600).contains(&described["expires_in_s"].as_u64().unwrap()), "{described}");
    assert!(described["expires_at"].as_u64().unwrap() > 1_700_000_000);
    assert_eq!(get(&app, &path).ok()["id"], id);
    for (method, pin) in [("PATCH", true), ("PUT", false)] {
        let body = json!({"pin": pin}).to_string();
        let reply = send(&app, method, &path, "application/json", body.as_bytes());
        assert_eq!((reply.ok()["pinned"].as_bool(), get(&app, &path).ok()["pinned"].as_bool()), (Some(pin), Some(pin)));
    }
    let question = json!({"image": id, "questions": ["why?"]});
    assert_eq!(texts(&post(&app, "/v1/ask", &question).ok()), ["Question: why? Answer:"]);
    assert_eq!(post(&app, "/v1/rank", &json!({"image": id, "text": " x", "candidates": ["x"]})).ok()["best"], "x");
    let (code, message) = post(&app, "/v1/embeddings", &json!({"image": id})).error();
    assert!(code == "bad_request" && message.contains("it is stored"), "{message}");
    assert_eq!(send(&app, "DELETE", &path, "", b"").status, 204);
    for reply in [get(&app, &path), send(&app, "DELETE", &path, "", b""), post(&app, "/v1/ask", &question)] {
        assert_eq!((reply.status, reply.error().0.as_str()), (404, "not_found"));
    }
}

#[test]
fn an_image_is_stored_from_a_form_and_as_the_whole_body() {
    let app = app();
    let file = fixture("images/png-rgb.png");
    let parts: [FormPart<'_>; 3] = [("file", "a.png", &file), ("ttl_s", "", b"7"), ("pin", "", b"true")];
    for reply in [
        form(&app, "/v1/images", &parts),
        send(&app, "POST", "/v1/images?ttl_s=7&pin=true", "image/png", &file),
        send(&app, "POST", "/v1/images?ttl_s=7&pin=true", "application/octet-stream", &file),
    ] {
        let stored = reply.ok();
        assert_eq!((stored["pinned"].as_bool(), reply.status), (Some(true), 201));
        assert!(stored["expires_in_s"].as_u64().unwrap() <= 7, "{stored}");
    }
}

#[test]
fn pinned_images_that_fill_the_store_are_a_507() {
    let engine = engine(Script::default(), 1, 4);
    let options = StoreOptions { time_to_live: Duration::from_secs(60), is_pinned: true };
    let pinned = engine.open_image(&fixture("images/png-rgb.png")).unwrap();
    actix_web::rt::System::new().block_on(async {
        let store = || engine.store_image(pinned.clone(), options, engine.reserve(1).unwrap());
        while store().await.is_ok() {}
    });
    let app = spawn_app(Some(engine));
    let full = post(&app, "/v1/images", &json!({"image": png_base64()}));
    let (code, message) = full.error();
    assert_eq!((full.status, code.as_str()), (507, "store_full"));
    assert!(message.contains("delete or unpin"), "{message}");
}

#[test]
fn embeddings_are_pooled_and_normalized_as_asked() {
    let app = app();
    let embed = |body: Value| post(&app, "/v1/embeddings", &body).ok();
    let image = png_base64();
    let other = base64(&fixture("images/webp-lossy.webp"));
    let mean = embed(json!({"image": image}));
    assert_eq!((&mean["shape"], &mean["pooling"]), (&json!([HIDDEN]), &json!("mean")));
    let all = embed(json!({"image": [image, other, image], "pooling": "none"}));
    assert_eq!(all["shape"], json!([QUERIES, HIDDEN]));
    let values: Vec<_> = all["embeddings"].as_array().unwrap().iter().map(|embedding| &embedding["values"]).collect();
    assert!(values[0] == values[2] && values[0] != values[1], "{all}");
    let column: f64 = (0..QUERIES).map(|row| values[0][row][0].as_f64().unwrap()).sum();
    assert!((column / QUERIES as f64 - mean["embeddings"][0]["values"][0].as_f64().unwrap()).abs() < 1e-6);
    let file = fixture("images/png-rgb.png");
    let parts: [FormPart<'_>; 3] = [("file", "a", &file), ("file", "b", &file), ("normalize", "", b"true")];
    let normalized = form(&app, "/v1/embeddings", &parts).ok();
    assert_eq!(normalized["embeddings"].as_array().unwrap().len(), 2);
    assert!((length(&normalized["embeddings"][1]["values"]) - 1.0).abs() < 1e-6);
}

#[test]
fn embeddings_that_nobody_waits_for_give_their_places_back() {
    let (open, gate) = mpsc::channel();
    let app = spawn_app(Some(engine(Script { gate: Some(gate), ..Script::default() }, 1, 2)));
    let body = json!({"image": [png_base64(), png_base64()]}).to_string();
    let impatient: ureq::Agent =
        ureq::Agent::config_builder().timeout_global(Some(Duration::from_millis(300))).build().into();
    let gone = impatient.post(app.url("/v1/embeddings")).header("content-type", "application/json");
    assert!(gone.send(body.as_bytes()).is_err());
    for _ in 0..4 {
        open.send(()).unwrap();
    }
    let served = (0..200).any(|_| {
        thread::sleep(Duration::from_millis(10));
        post(&app, "/v1/embeddings", &json!({"image": [png_base64(), png_base64()]})).status == 200
    });
    assert!(served, "the places of the client that left stay taken");
}

#[test]
fn the_model_tells_what_it_is_and_what_there_is_room_for() {
    let app = app();
    post(&app, "/v1/images", &json!({"image": png_base64()})).ok();
    let model = get(&app, "/v1/model").ok();
    assert_eq!((&model["name"], &model["certificate"]["passed"]), (&json!("blip2-test"), &json!(true)));
    assert_eq!((&model["limits"]["slots"], &model["limits"]["max_len"]), (&json!(2), &json!(128)));
    assert_eq!((&model["limits"]["kv_tokens"], &model["limits"]["queue_rows"]), (&json!(256), &json!(16)));
    assert_eq!(model["caches"]["stored_images"], json!({"count": 1, "bytes": 16, "capacity_bytes": 65536}));
    assert!(model["caches"]["image"]["misses"].is_number() && model["manifest"].is_object());
}

#[test]
fn a_fault_is_told_in_our_own_form_with_its_place() {
    let app = app();
    let image = png_base64();
    let cases = [
        ("/v1/ask", json!({}), "image is missing"),
        ("/v1/ask", json!({"image": image, "question": "a?"}), "unknown field `question`, expected one of `image`"),
        ("/v1/ask", json!({"image": image, "questions": ["a?", 7]}), "questions[1]: invalid type: integer `7`"),
        ("/v1/ask", json!({"image": image, "questions": ["a?", ""]}), "questions[1] is empty"),
        ("/v1/ask", json!({"image": image, "template": "poem"}), "template: unknown variant `poem`"),
        ("/v1/ask", json!({"image": image, "params": {"max_tokens": 5}}), "params: unknown parameter \"max_tokens\""),
        ("/v1/ask", json!({"image": image, "params": []}), "params: "),
        ("/v1/ask", json!({"image": "QUJDR"}), "image is not base64"),
        ("/v1/ask", json!({"image": "QUJD"}), "image: "),
        ("/v1/ask", json!({"image": image, "questions": vec!["a?"; 17]}), "17 rows"),
        ("/v1/ask", json!({"image": image, "questions": ["a?", "z".repeat(400)]}), "questions[1]: "),
        (
            "/v1/ask",
            json!({"image": image, "template": "chat", "questions": ["a?", "z".repeat(400)]}),
            "questions[1]: ",
        ),
        ("/v1/rank", json!({"image": image, "candidates": []}), "candidates: 0 were given; give 1 to 256"),
        ("/v1/rank", json!({"image": image}), "missing field `candidates`"),
        ("/v1/rank", json!({"image": image, "candidates": ["a"], "params": {}}), "unknown field `params`"),
        ("/v1/images", json!({"image": image, "ttl_s": 0}), "ttl_s is 0, but must be from 1 to 2592000"),
        ("/v1/images", json!({"image": image, "ttl_s": 2_592_001}), "ttl_s is 2592001"),
        ("/v1/images", json!({"image": image, "ttl_s": "long"}), "ttl_s: invalid type: string \"long\""),
        ("/v1/images", json!({"image": image, "pin": 1}), "pin: invalid type: integer `1`, expected a boolean"),
        ("/v1/embeddings", json!({"image": []}), "image is missing"),
        ("/v1/embeddings", json!({"image": 7}), "image: must be a string or a list of strings"),
        ("/v1/embeddings", json!({"image": [image, "QUJDR"]}), "image[1]: image is not base64"),
        ("/v1/embeddings", json!({"image": [image, "QUJD"]}), "image 1: "),
        ("/v1/embeddings", json!({"image": image, "pooling": "max"}), "pooling: unknown variant `max`"),
        ("/v1/embeddings", json!([image]), "the body must be a JSON object, not a list"),
    ];
    for (path, body, part) in cases {
        let reply = post(&app, path, &body);
        let (code, message) = reply.error();
        assert_eq!(reply.status, 400, "{path}: {message}");
        assert!(["bad_request", "too_many_rows"].contains(&code.as_str()), "{code}");
        assert!(message.contains(part) && message.len() < 500, "{path} {part}: {message}");
    }
    assert_eq!(texts(&post(&app, "/v1/ask", &json!({"image": image})).ok()), [""]);
}

#[test]
fn a_form_at_fault_is_told_as_such() {
    let app = app();
    let file = fixture("images/png-rgb.png");
    let long = [b'x'; (64 << 10) + 1];
    let many = vec![("question", "", b"a?".as_slice()); 301];
    let cases: [(&[FormPart<'_>], &str); 8] = [
        (&[("photo", "a.png", &file)], "unknown part \"photo\"; known are file, image, question, template, params"),
        (&[("file", "a.png", b"")], "file is empty"),
        (&[("file", "a.png", &file), ("file", "b.png", &file)], "send one image"),
        (&[("file", "a.png", &file), ("image", "", b"QUJD")], "send one image"),
        (&[("file", "a.png", &file), ("params", "", b"{num_beams: 3}")], "params is not JSON"),
        (&[("file", "a.png", &file), ("question", "", b"\xff")], "question is not UTF-8"),
        (&[("file", "a.png", &file), ("question", "", &long)], "question is longer than 65536 bytes"),
        (&many, "more than 300 parts"),
    ];
    for (parts, part) in cases {
        let reply = form(&app, "/v1/ask", parts);
        let (code, message) = reply.error();
        assert_eq!((reply.status, code.as_str()), (400, "bad_request"), "{message}");
        assert!(message.contains(part), "{part}: {message}");
    }
    for (content_type, body) in [("multipart/form-data", "--XX\r\n"), ("multipart/form-data; boundary=XX", "--XX\r\nx")]
    {
        let reply = send(&app, "POST", "/v1/ask", content_type, body.as_bytes());
        assert_eq!(reply.status, 400, "{}", reply.body);
        assert!(reply.error().1.starts_with("the form cannot be read: "), "{}", reply.body);
    }
}

#[test]
fn what_is_too_large_or_of_another_kind_is_refused() {
    let app = spawn_app_with_limit(Some(engine(Script::default(), 1, 4)), 2_000);
    let file = [0; 2_001];
    for reply in [
        form(&app, "/v1/ask", &[("file", "a.png", &file)]),
        post(&app, "/v1/ask", &json!({"image": "A".repeat(2_001)})),
        send(&app, "POST", "/v1/images", "image/png", &file),
    ] {
        assert_eq!((reply.status, reply.error().0.as_str()), (413, "body_too_large"));
    }
    let reply = send(&app, "POST", "/v1/ask", "text/plain", b"what is this?");
    assert_eq!((reply.status, reply.error().0.as_str()), (415, "unsupported_media_type"));
}

#[test]
fn a_form_that_does_not_arrive_is_a_408() {
    use std::io::{Read as _, Write as _};
    let settings = ServerSettings { body_timeout: Duration::from_millis(200), ..settings() };
    let app = spawn_app_with(Some(engine(Script::default(), 1, 4)), settings);
    let mut stream = std::net::TcpStream::connect(app.url("").trim_start_matches("http://")).unwrap();
    let head = "POST /v1/ask HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=XX\r\n";
    stream.write_all(format!("{head}Content-Length: 500\r\n\r\n--XX\r\n").as_bytes()).unwrap();
    let mut answer = [0; 2048];
    let bytes = stream.read(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer[..bytes]);
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("body_timeout"), "{answer}");
}

#[test]
fn another_method_is_a_405_and_options_says_which_there_are() {
    let app = app();
    for (method, path) in [
        ("GET", "/v1/ask"),
        ("DELETE", "/v1/rank"),
        ("POST", "/v1/model"),
        ("GET", "/v1/images"),
        ("GET", "/v1/embeddings"),
    ] {
        let reply = send(&app, method, path, "", b"");
        assert_eq!((reply.status, reply.error().0.as_str()), (405, "method_not_allowed"), "{path}");
    }
    let options = send(&app, "OPTIONS", "/v1/images/x", "", b"");
    assert_eq!((options.status, options.allow.as_deref()), (204, Some("GET, PATCH, PUT, DELETE")));
}

#[test]
fn before_the_model_is_there_the_answer_is_503_and_a_form_of_an_id_is_a_404() {
    let loading = spawn_app(None);
    for reply in [post(&loading, "/v1/ask", &json!({})), get(&loading, "/v1/model")] {
        assert_eq!((reply.status, reply.error().0.as_str()), (503, "not_ready"));
    }
    let reply = get(&app(), "/v1/images/7");
    assert_eq!(reply.status, 404);
    assert!(reply.error().1.contains("32 hexadecimal digits"));
}

#[test]
fn a_failing_model_is_a_500_that_tells_nothing() {
    let app = spawn_app(Some(engine(Script { failing_prompt_len: Some(2), ..Script::default() }, 1, 4)));
    let reply = post(&app, "/v1/ask", &json!({"image": png_base64(), "questions": ["x"], "template": "raw"}));
    let (code, message) = reply.error();
    assert_eq!((reply.status, code.as_str()), (500, "internal"));
    assert!(!message.contains("passwd"), "{message}");
}

#[test]
fn the_description_holds_every_endpoint_and_no_dead_reference() {
    let document = get(&app(), "/openapi.json").ok();
    for path in ["/v1/ask", "/v1/rank", "/v1/images", "/v1/images/{id}", "/v1/embeddings", "/v1/model"] {
        assert!(document["paths"][path].is_object(), "{path}");
    }
    let text = document.to_string();
    for reference in text.split("\"$ref\":\"#").skip(1) {
        let pointer = reference.split('"').next().unwrap();
        assert!(document.pointer(pointer).is_some(), "{pointer}");
    }
}

fn real_app() -> (TestApp, Value) {
    let bundle = open(BUNDLES[0]);
    let engine: Engine = bundle_engine(&bundle, 2);
    let manifest = serde_json::from_slice(&bundle.read("manifest.json").unwrap()).unwrap();
    (spawn_app(Some(engine)), manifest)
}

fn length(vector: &Value) -> f64 {
    vector.as_array().unwrap().iter().map(|value| value.as_f64().unwrap().powi(2)).sum::<f64>().sqrt()
}

#[test]
fn the_committed_bundle_finds_yellow_likelier_than_red() {
    let (app, _) = real_app();
    let body = json!({
        "image": base64(&fixture("scene.png")),
        "text": "Question: what color is the star? Answer:",
        "candidates": ["red", "yellow"],
    });
    let ranked = post(&app, "/v1/rank", &body).ok();
    assert_eq!((&ranked["best"], &ranked["ranking"]), (&json!("yellow"), &json!([1, 0])));
    assert!(ranked["candidates"][1]["probability"].as_f64().unwrap() > 0.9, "{ranked}");
    let body = json!({"image": body["image"], "questions": ["what color is the star?", "how many objects are there?"]});
    assert_eq!(texts(&post(&app, "/v1/ask", &body).ok()), ["yellow", "three"]);
}

#[test]
fn the_committed_bundle_embeds_an_image_always_alike_and_two_images_differently() {
    let (app, manifest) = real_app();
    let (queries, hidden) = (&manifest["qformer"]["num_query_tokens"], &manifest["qformer"]["hidden_size"]);
    let (scene, other) = (base64(&fixture("scene.png")), png_base64());
    let embed = |body: Value| post(&app, "/v1/embeddings", &body).ok();
    let first = embed(json!({"image": scene, "normalize": true}));
    assert_eq!(first["shape"], json!([hidden]));
    post(&app, "/v1/ask", &json!({"image": scene})).ok(); // known from now on
    let again = embed(json!({"image": [other, scene], "normalize": true}));
    assert_eq!(again["embeddings"][1]["values"], first["embeddings"][0]["values"]);
    assert_ne!(again["embeddings"][0]["values"], first["embeddings"][0]["values"]);
    assert!((length(&first["embeddings"][0]["values"]) - 1.0).abs() < 1e-5);
    let whole = embed(json!({"image": scene, "pooling": "none"}));
    assert_eq!(whole["shape"], json!([queries, hidden]));
    assert_eq!(whole["embeddings"][0]["values"].as_array().unwrap().len() as u64, queries.as_u64().unwrap());
}
