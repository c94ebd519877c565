//! The Open Inference Protocol over HTTP with a scripted model: probes, metadata, tensors in JSON and in binary, errors.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::helpers::{TestApp, fixture, png_base64, spawn_app, spawn_app_with_limit};
use crate::scripted_model::{Script, engine};

const INFER: &str = "/v2/models/blip2-test/infer";
const HEAD_LENGTH: &str = "inference-header-content-length";

/// What came back, with its bytes.
struct Answer {
    status: u16,
    content_type: String,
    head_length: Option<usize>,
    retry_after: bool,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        let head = &self.body[..self.head_length.unwrap_or(self.body.len())];
        serde_json::from_slice(head).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(head)))
    }

    /// The text of an error body, which holds nothing else.
    fn error(&self) -> String {
        let body = self.json();
        assert_eq!(body.as_object().unwrap().len(), 1, "{body}");
        body["error"].as_str().unwrap().to_owned()
    }

    /// The elements of an output in JSON.
    fn output(&self, name: &str) -> Value {
        let body = self.json();
        assert_eq!(self.status, 200, "{body}");
        let outputs = body["outputs"].as_array().unwrap();
        outputs.iter().find(|output| output["name"] == name).unwrap_or_else(|| panic!("{body}"))["data"].clone()
    }
}

fn call(app: &TestApp, method: &str, path: &str, body: &[u8], headers: &[(&str, &str)]) -> Answer {
    let agent: ureq::Agent =
        ureq::Agent::config_builder().http_status_as_error(false).allow_non_standard_methods(true).build().into();
    let request = headers
        .iter()
        .fold(ureq::http::Request::builder().method(method).uri(app.url(path)), |request, (name, value)| {
            request.header(*name, *value)
        });
    let mut response = agent.run(request.body(body).unwrap()).unwrap();
    let header = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let (content_type, head_length, retry_after) = (header("content-type"), header(HEAD_LENGTH), header("retry-after"));
    Answer {
        status: response.status().as_u16(),
        content_type: content_type.unwrap_or_default(),
        head_length: head_length.map(|length| length.parse().unwrap()),
        retry_after: retry_after.is_some(),
        body: response.body_mut().read_to_vec().unwrap(),
    }
}

fn get(app: &TestApp, path: &str) -> Answer {
    call(app, "GET", path, b"", &[])
}

fn infer(app: &TestApp, body: &Value) -> Answer {
    call(app, "POST", INFER, body.to_string().as_bytes(), &[("content-type", "application/json")])
}

fn infer_binary(app: &TestApp, body: &Value, binary: &[u8]) -> Answer {
    let head = body.to_string();
    call(app, "POST", INFER, &[head.as_bytes(), binary].concat(), &[(HEAD_LENGTH, &head.len().to_string())])
}

fn tensor(name: &str, data: &[&str]) -> Value {
    json!({"name": name, "shape": [data.len()], "datatype": "BYTES", "data": data})
}

/// A tensor whose elements stand behind the JSON object, and their bytes.
fn binary_tensor(name: &str, elements: &[&[u8]]) -> (Value, Vec<u8>) {
    let bytes: Vec<u8> =
        elements.iter().flat_map(|element| [&(element.len() as u32).to_le_bytes(), *element].concat()).collect();
    let parameters = json!({"binary_data_size": bytes.len()});
    (json!({"name": name, "shape": [elements.len()], "datatype": "BYTES", "parameters": parameters}), bytes)
}

/// A row for each text, all about one image.
fn rows(texts: &[&str]) -> Value {
    let image = png_base64();
    json!({"inputs": [tensor("image", &vec![image.as_str(); texts.len()]), tensor("text", texts)]})
}

#[test]
fn probes_are_alive_at_once_and_ready_with_a_model() {
    let app = spawn_app(None);
    assert_eq!(get(&app, "/v2/health/live").json(), json!({"live": true}));
    let unready = get(&app, "/v2/health/ready");
    assert_eq!((unready.status, unready.retry_after), (503, true));
    assert!(unready.error().contains("loading"));
    for path in ["/v2/models/blip2-test", "/v2/models/blip2-test/ready", "/v2/models/other"] {
        assert_eq!(get(&app, path).status, 503, "{path}");
    }
    assert_eq!(infer(&app, &rows(&["x"])).status, 503);

    let app = spawn_app(Some(engine(Script::default(), 1, 4)));
    assert_eq!(get(&app, "/v2/health/ready").json(), json!({"ready": true}));
    for path in ["/v2/models/blip2-test/ready", "/v2/models/blip2-test/versions/1/ready"] {
        assert_eq!(get(&app, path).json(), json!({"name": "blip2-test", "ready": true}));
    }
    app.state.note_goldens(false);
    assert!(get(&app, "/v2/health/ready").error().contains("golden"));
    app.state.begin_draining();
    let draining = get(&app, "/v2/models/blip2-test/ready");
    assert_eq!((draining.status, draining.retry_after), (503, true));
}

#[test]
fn service_and_model_describe_themselves() {
    let app = spawn_app(Some(engine(Script::default(), 1, 4)));
    let server = get(&app, "/v2").json();
    assert_eq!((&server["name"], &server["version"]), (&json!("blip2"), &json!(env!("CARGO_PKG_VERSION"))));
    assert!(server["extensions"].as_array().unwrap().contains(&json!("binary_tensor_data")));
    for path in ["/v2/models/blip2-test", "/v2/models/blip2-test/versions/1"] {
        let model = get(&app, path).json();
        assert_eq!((&model["name"], &model["versions"]), (&json!("blip2-test"), &json!(["1"])));
        assert_eq!(model["inputs"][0], json!({"name": "image", "datatype": "BYTES", "shape": [-1]}));
        assert_eq!(model["outputs"][1], json!({"name": "score", "datatype": "FP32", "shape": [-1]}));
    }
    let config = get(&app, "/v2/models/blip2-test/config").json();
    assert_eq!((&config["max_batch_size"], &config["input"][1]["optional"]), (&json!(0), &json!(true)));
    assert_eq!(config["output"][0], json!({"name": "text", "data_type": "TYPE_STRING", "dims": [-1]}));
}

#[test]
fn the_index_of_the_repository_lists_the_model() {
    let index = |app: &TestApp, body: &str| call(app, "POST", "/v2/repository/index", body.as_bytes(), &[]);
    assert_eq!(index(&spawn_app(None), "").json(), json!([]));
    let app = spawn_app(Some(engine(Script::default(), 1, 4)));
    let ready = json!([{"name": "blip2-test", "version": "1", "state": "READY", "reason": ""}]);
    for body in ["", "{}", r#"{"ready": true}"#] {
        assert_eq!(index(&app, body).json(), ready);
    }
    assert!(index(&app, r#"{"ready": 1}"#).error().contains("ready must be true or false"));
    app.state.begin_draining();
    assert_eq!(index(&app, r#"{"ready": true}"#).json(), json!([]));
    assert_eq!(index(&app, "").json()[0]["state"], "UNAVAILABLE");
}

#[test]
fn rows_in_json_are_answered_in_order_and_the_id_comes_back() {
    let app = spawn_app(Some(engine(Script::default(), 2, 16)));
    let texts = ["one", "a much longer prompt than the others", "", "three words here"];
    let mut body = rows(&texts);
    body["id"] = json!("request 17");
    let answer = infer(&app, &body);
    assert_eq!(answer.output("text"), json!(texts));
    assert_eq!(answer.output("stop_reason"), json!(vec!["eos"; 4]));
    let json = answer.json();
    assert_eq!((&json["id"], &json["model_name"]), (&json!("request 17"), &json!("blip2-test")));
    assert_eq!((&json["model_version"], &json["outputs"][0]["shape"]), (&json!("1"), &json!([4])));
    let names: Vec<_> = json["outputs"].as_array().unwrap().iter().map(|output| output["name"].clone()).collect();
    assert_eq!(names, ["text", "score", "mean_probability", "min_probability", "stop_reason", "details"]);
}

#[test]
fn the_path_may_name_the_version_and_the_body_may_declare_no_type() {
    let app = spawn_app(Some(engine(Script::default(), 1, 4)));
    let body = rows(&["hello"]).to_string();
    let answer = call(&app, "POST", "/v2/models/blip2-test/versions/1/infer", body.as_bytes(), &[]);
    assert_eq!(answer.output("text"), json!(["hello"]));
}

#[test]
fn images_alone_are_captioned_and_one_text_is_for_all() {
    let app = spawn_app(Some(engine(Script::default(), 2, 16)));
    let image = png_base64();
    let images = tensor("image", &[&image, &image]);
    assert_eq!(infer(&app, &json!({"inputs": [images]})).output("text"), json!(["", ""]));
    let asked = infer(&app, &json!({"inputs": [images, tensor("text", &["hello"])]}));
    assert_eq!(asked.output("text"), json!(["hello", "hello"]));
}

#[test]
fn binary_tensors_go_both_ways() {
    let app = spawn_app(Some(engine(Script::default(), 2, 16)));
    let png = fixture("images/png-rgb.png");
    let (image, mut binary) = binary_tensor("image", &[&png, png_base64().as_bytes()]);
    let (text, bytes) = binary_tensor("text", &[b"one", b"and two"]);
    binary.extend(bytes);
    let outputs = json!([
        {"name": "text", "parameters": {"binary_data": true}},
        {"name": "stop_reason"},
        {"name": "mean_probability", "parameters": {"binary_data": true}},
    ]);
    let answer = infer_binary(&app, &json!({"inputs": [image, text], "outputs": outputs}), &binary);
    assert_eq!((answer.status, answer.content_type.as_str()), (200, "application/octet-stream"));
    assert_eq!(answer.output("stop_reason"), json!(["eos", "eos"]));
    let json = answer.json();
    assert_eq!(json["outputs"][0]["parameters"], json!({"binary_data_size": 18}));
    assert_eq!(json["outputs"][2]["parameters"], json!({"binary_data_size": 8}));
    assert_eq!(json["outputs"][0].get("data"), None);
    let tail = &answer.body[answer.head_length.unwrap()..];
    assert_eq!(&tail[..18], b"\x03\0\0\0one\x07\0\0\0and two");
    let probabilities: Vec<f32> =
        tail[18..].chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
    assert!(probabilities.len() == 2 && probabilities.iter().all(|p| (0.5..=1.0).contains(p)), "{probabilities:?}");
}

#[test]
fn a_request_may_ask_for_all_outputs_in_binary() {
    let app = spawn_app(Some(engine(Script::default(), 1, 4)));
    let mut body = rows(&["hello"]);
    body["parameters"] = json!({"binary_data_output": true});
    body["outputs"] = json!([{"name": "text"}, {"name": "score", "parameters": {"binary_data": false}}]);
    let answer = infer(&app, &body);
    assert_eq!(&answer.body[answer.head_length.unwrap()..], b"\x05\0\0\0hello");
    assert!(answer.output("score")[0].is_number());
}

#[test]
fn a_body_of_nothing_but_an_image_is_captioned() {
    let app = spawn_app(Some(engine(Script::default(), 1, 4)));
    let headers = [(HEAD_LENGTH, "0"), ("content-type", "application/octet-stream")];
    let answer = call(&app, "POST", INFER, &fixture("images/png-rgb.png"), &headers);
    assert_eq!((answer.output("text"), answer.content_type.as_str()), (json!([""]), "application/json"));
}

#[test]
fn details_hold_tokens_and_warnings() {
    let app = spawn_app(Some(engine(Script::default(), 1, 4)));
    let mut body = rows(&["see <image> here"]);
    body["parameters"] = json!({"max_new_tokens": 2, "priority": 1});
    let answer = infer(&app, &body);
    let details: Value = serde_json::from_str(answer.output("details")[0].as_str().unwrap()).unwrap();
    assert_eq!((details["token_ids"].as_array().unwrap().len(), &details["stop_reason"]), (2, &json!("length")));
    assert_eq!(details["score"], answer.output("score")[0]);
    let warnings = details["warnings"].to_string();
    assert!(warnings.contains("<image>") && warnings.contains("priority"), "{warnings}");
}

#[test]
fn a_fault_is_a_400_that_names_the_element() {
    let app = spawn_app(Some(engine(Script::default(), 2, 16)));
    let png = fixture("images/png-rgb.png");
    let (image, binary) = binary_tensor("image", &[&png, &png[..png.len() / 2]]);
    let truncated = infer_binary(&app, &json!({"inputs": [image]}), &binary);
    assert_eq!(truncated.status, 400);
    assert!(truncated.error().starts_with("image[1]: "), "{}", truncated.error());
    let long = "word ".repeat(500);
    for (body, part) in [
        (rows(&["fine", &long]), "image[1]: the text"),
        (json!({"inputs": [tensor("image", &["http://127.0.0.1/x.png"])]}), "image[0]: 127.0.0.1"),
        (json!({"inputs": [tensor("image", &["bm90IGFuIGltYWdl"])]}), "image[0]: "),
        (json!({"inputs": [tensor("question", &["x"])]}), "there is no input \"question\""),
        (json!({"inputs": rows(&["x"])["inputs"], "parameters": {"foo": 1}}), "unknown parameter \"foo\""),
        (rows(&["x"; 17]), "17 rows"),
    ] {
        let answer = infer(&app, &body);
        assert_eq!(answer.status, 400);
        assert!(answer.error().contains(part), "{part}: {}", answer.error());
    }
    assert_eq!(infer(&app, &rows(&["still here"])).output("text"), json!(["still here"]));
}

#[test]
fn what_is_not_there_and_what_is_not_allowed_are_errors_of_the_protocol() {
    let app = spawn_app(Some(engine(Script::default(), 1, 4)));
    let stored = format!("image-{}", "0a".repeat(16));
    let unknown = infer(&app, &json!({"inputs": [tensor("image", &[&stored])]}));
    assert_eq!(unknown.status, 404);
    assert!(unknown.error().starts_with("image[0]: there is no stored image"));
    for (method, path, status, part) in [
        ("GET", "/v2/models/other", 404, "there is no model \"other\"; this service has \"blip2-test\""),
        ("GET", "/v2/models/other/ready", 404, "there is no model"),
        ("POST", "/v2/models/other/infer", 404, "there is no model"),
        ("GET", "/v2/models/blip2-test/versions/2", 404, "has no version \"2\"; it has \"1\""),
        ("GET", "/v2/models/%FF/config", 404, ""),
        ("GET", "/v2/models/blip2-test/trace/setting", 404, "not found"),
        ("GET", "/v2/nothing", 404, "not found"),
        ("GET", INFER, 405, "not allowed"),
        ("PUT", "/v2/health/live", 405, "not allowed"),
        ("GET", "/v2/repository/index", 405, "not allowed"),
    ] {
        let answer = call(&app, method, path, b"", &[]);
        assert_eq!(answer.status, status, "{method} {path}");
        assert!(answer.error().contains(part), "{path}: {}", answer.error());
    }
}

#[test]
fn other_types_compressed_bodies_and_wrong_lengths_are_refused() {
    let app = spawn_app_with_limit(Some(engine(Script::default(), 1, 4)), 2_000);
    for (headers, status, part) in [
        ([("content-type", "text/plain")].as_slice(), 415, "application/octet-stream"),
        (&[("content-type", "application/x-www-form-urlencoded")], 415, "application/json"),
        (&[("content-encoding", "gzip")], 415, "uncompressed"),
        (&[("content-encoding", "deflate"), (HEAD_LENGTH, "2")], 415, "uncompressed"),
        (&[(HEAD_LENGTH, "3")], 400, "the body has 2 bytes"),
        (&[(HEAD_LENGTH, "-1")], 400, "no number of bytes"),
        (&[("content-type", "application/octet-stream")], 400, "inputs is missing"),
    ] {
        let answer = call(&app, "POST", INFER, b"{}", headers);
        assert_eq!(answer.status, status, "{headers:?}");
        assert!(answer.error().contains(part), "{headers:?}: {}", answer.error());
    }
    let large = call(&app, "POST", INFER, &[b' '; 2_001], &[]);
    assert_eq!(large.status, 413);
    assert!(large.error().contains("2000 bytes"));
}

#[test]
fn overload_is_a_429_and_a_failing_model_a_500_that_tells_nothing() {
    let app = spawn_app(Some(engine(Script { failing_prompt_len: Some(2), ..Script::default() }, 1, 4)));
    let failed = infer(&app, &rows(&["x"]));
    assert_eq!(failed.status, 500);
    assert!(!failed.error().contains("passwd"), "{}", failed.error());

    let (open, gate) = mpsc::channel();
    let engine = engine(Script { gate: Some(gate), ..Script::default() }, 1, 1);
    let app = spawn_app(Some(engine.clone()));
    thread::scope(|scope| {
        let waiting = scope.spawn(|| infer(&app, &rows(&["a"])).output("text"));
        while engine.rows_in_work() < 1 {
            thread::sleep(Duration::from_millis(1));
        }
        let refused = infer(&app, &rows(&["b"]));
        assert_eq!((refused.status, refused.retry_after), (429, true));
        assert!(refused.error().contains("busy"));
        open.send(()).unwrap();
        assert_eq!(waiting.join().unwrap(), json!(["a"]));
    });
}

#[test]
fn the_clients_own_timeout_ends_its_request() {
    let (_open, gate) = mpsc::channel();
    let app = spawn_app(Some(engine(Script { gate: Some(gate), ..Script::default() }, 1, 4)));
    let mut body = rows(&["never"]);
    body["parameters"] = json!({"timeout": 50_000});
    let late = infer(&app, &body);
    assert_eq!(late.status, 504);
    assert!(late.error().contains("not ready in time"), "{}", late.error());
}
