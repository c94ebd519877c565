//! What several tests need: files of the repository, and a service on a free port.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;

use base64::Engine as _;
use blip2::engine::Engine;
use blip2::server::{Application, ServedModel, ServerSettings, State};
use serde_json::{Value, json};

/// A path in the repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The bytes of a file in `tests/fixtures`.
pub(crate) fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(repository("tests/fixtures").join(name)).unwrap()
}

pub(crate) fn base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// A small image as base64.
pub(crate) fn png_base64() -> String {
    base64(&fixture("images/png-rgb.png"))
}

/// A body for `/score` with rows of image and text.
pub(crate) fn body(rows: &[(&str, &str)]) -> Value {
    let data: Vec<_> = rows.iter().map(|(image, text)| json!([image, text])).collect();
    json!({"input_data": {"columns": ["image", "text"], "index": (0..rows.len()).collect::<Vec<_>>(), "data": data}})
}

/// A running service; it stops with the test process.
pub(crate) struct TestApp {
    address: String,
    agent: ureq::Agent,
    pub(crate) state: State,
    /// Of the metrics, if they have their own.
    pub(crate) metrics_port: Option<u16>,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) retry_after: Option<String>,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The text of an error body, which holds nothing else.
    pub(crate) fn message(&self) -> String {
        let body = self.json();
        let fields = body.as_object().unwrap();
        assert_eq!(fields.len(), 1, "{body}");
        fields["message"].as_str().unwrap().to_owned()
    }

    /// The texts of the rows.
    pub(crate) fn texts(&self) -> Vec<String> {
        assert_eq!(self.status, 200, "{}", self.body);
        self.json().as_array().unwrap().iter().map(|row| row["text"].as_str().unwrap().to_owned()).collect()
    }
}

/// Starts the service on a free port, with an engine or still without.
pub(crate) fn spawn_app(engine: Option<Engine>) -> TestApp {
    spawn_app_with_limit(engine, 1 << 20)
}

pub(crate) fn spawn_app_with_limit(engine: Option<Engine>, max_body_bytes: usize) -> TestApp {
    spawn_app_with(engine, ServerSettings { max_body_bytes, ..settings() })
}

/// Settings of a service on a free port of this machine.
pub(crate) fn settings() -> ServerSettings {
    ServerSettings {
        host: "127.0.0.1".into(),
        port: 0,
        max_body_bytes: 1 << 20,
        http_workers: std::num::NonZeroUsize::MIN,
        ..ServerSettings::default()
    }
}

/// What a test serves.
pub(crate) fn served(engine: Engine) -> ServedModel {
    ServedModel {
        engine,
        name: "blip2-test".into(),
        manifest: json!({"name": "blip2-test"}),
        certificate: Some(json!({"passed": true})),
    }
}

pub(crate) fn spawn_app_with(engine: Option<Engine>, settings: ServerSettings) -> TestApp {
    let application = Application::build(settings).unwrap();
    let (port, state) = (application.port().unwrap(), application.state());
    let metrics_port = application.metrics_port().unwrap();
    if let Some(engine) = engine {
        state.become_ready(served(engine));
    }
    let (started, is_started) = mpsc::channel();
    thread::spawn(move || {
        actix_web::rt::System::new().block_on(async {
            let (_, server) = application.start().unwrap();
            started.send(()).unwrap();
            server.await.unwrap();
        });
    });
    is_started.recv().unwrap();
    let agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    TestApp { address: format!("http://127.0.0.1:{port}"), agent, state, metrics_port }
}

impl TestApp {
    pub(crate) fn get(&self, path: &str) -> Reply {
        reply(self.agent.get(self.url(path)).call().unwrap())
    }

    pub(crate) fn delete(&self, path: &str) -> Reply {
        reply(self.agent.delete(self.url(path)).call().unwrap())
    }

    pub(crate) fn score(&self, body: &Value) -> Reply {
        self.post_score(body.to_string().as_bytes(), Some("application/json"))
    }

    pub(crate) fn post_score(&self, body: &[u8], content_type: Option<&str>) -> Reply {
        let request = self.agent.post(self.url("/score"));
        let request = match content_type {
            Some(content_type) => request.header("content-type", content_type),
            None => request,
        };
        reply(request.send(body).unwrap())
    }

    /// Where it listens on this machine.
    pub(crate) fn port(&self) -> u16 {
        self.address.rsplit(':').next().unwrap().parse().unwrap()
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Reply {
        self.post_as(path, body.to_string().as_bytes(), "application/json")
    }

    pub(crate) fn post_as(&self, path: &str, body: &[u8], content_type: &str) -> Reply {
        reply(self.agent.post(self.url(path)).header("content-type", content_type).send(body).unwrap())
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.address)
    }
}

fn reply(mut response: ureq::http::Response<ureq::Body>) -> Reply {
    let retry_after = response.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
    Reply { status: response.status().as_u16(), retry_after, body: response.body_mut().read_to_string().unwrap() }
}
