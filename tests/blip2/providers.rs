//! A bundle for a GPU, through the whole service: on the GPU, or on the CPU, whose kernels can do f16 too.
//!
//! Elsewhere these tests count as ignored: `make test-gpu-bundles` and `make gpu-check` run them, and say by
//! BLIP2_TEST_BUNDLE where the bundle is, and by BLIP2_TEST_PROVIDER what to run it on. It is the tiny model of the repository, so its answers are known: those of the
//! committed bundle.

use std::env;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::thread;

use serde_json::{Value, json};

use crate::helpers::{base64, fixture, repository};

const BUNDLE: &str = "BLIP2_TEST_BUNDLE";
const PROVIDER: &str = "BLIP2_TEST_PROVIDER";

/// A service in a process of its own.
struct Service {
    process: Child,
    address: String,
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Service {
    fn start(model: &str, provider: &str) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_blip2"))
            .args([
                "serve",
                "--host",
                "127.0.0.1",
                "--port",
                "0",
                "--slots",
                "6",
                "--provider",
                provider,
                "--model",
                model,
            ])
            .current_dir(repository("."))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut log = String::new();
        let address = lines.by_ref().find_map(|line| {
            log += &format!("{line}\n");
            let (_, port) = line.split_once("listening")?.1.split_once("port=")?;
            Some(format!("127.0.0.1:{}", port.split(' ').next()?))
        });
        thread::spawn(move || lines.for_each(drop));
        let service = Self { process, address: address.unwrap_or_else(|| panic!("{log}")) };
        service.wait_until_ready();
        service
    }

    fn wait_until_ready(&self) {
        // TensorRT builds its engines first.
        for _ in 0..1800 {
            let ready = ureq::get(format!("http://{}/readyz", self.address)).call();
            if ready.is_ok_and(|reply| reply.status() == 200) {
                return;
            }
            thread::sleep(std::time::Duration::from_millis(500));
        }
        panic!("not ready after a quarter of an hour");
    }

    /// The rows of an answer, with ids and details.
    fn score(&self, rows: &[(&str, &str)], params: &Value) -> Vec<Value> {
        let data: Vec<_> = rows.iter().map(|(file, text)| json!([base64(&fixture(file)), text])).collect();
        let body = json!({
            "input_data": {"columns": ["image", "text"], "index": (0..rows.len()).collect::<Vec<_>>(), "data": data},
            "params": params,
        });
        let mut reply = ureq::post(format!("http://{}/score", self.address)).send_json(body).unwrap();
        reply.body_mut().read_json().unwrap()
    }

    fn texts(&self, rows: &[(&str, &str)], params: &Value) -> Vec<String> {
        self.score(rows, params).iter().map(|row| row["text"].as_str().unwrap().to_owned()).collect()
    }
}

/// The service to test and the one to compare it with.
fn services() -> (Service, Service) {
    let bundle = env::var(BUNDLE).ok().filter(|bundle| !bundle.is_empty());
    let bundle = bundle.unwrap_or_else(|| panic!("{BUNDLE} names no bundle; run `make test-gpu-bundles`"));
    let provider = env::var(PROVIDER).unwrap_or_else(|_| "cpu".to_owned());
    (Service::start(&bundle, &provider), Service::start("onnx/blip2-shapes", "cpu"))
}

const SCENE: &str = "scene.png";
const QUESTIONS: [&str; 5] = [
    "Question: what color is the star? Answer:",
    "Question: how many shapes are there? Answer:",
    "Question: what shape is on the left? Answer:",
    "",
    "an image of",
];

#[test]
#[ignore = "needs a bundle for a GPU; run `make test-gpu-bundles`"]
fn answers_are_those_of_the_committed_bundle_alone_and_together() {
    let (tested, reference) = services();
    let (rows, params): (Vec<_>, _) = (QUESTIONS.map(|text| (SCENE, text)).into(), json!({"max_new_tokens": 12}));
    let expected = reference.texts(&rows, &params);
    let alone: Vec<_> = rows.iter().flat_map(|row| tested.texts(&[*row], &params)).collect();
    assert_eq!(alone, expected);
    // Further questions begin from saved keys and values; all rows share their steps.
    assert_eq!(tested.texts(&rows, &params), expected);
    // Images of other content, which wait for each other and are encoded in one run where that pays.
    let files = ["images/png-rgb.png", "images/jpeg-rgb.jpg", "images/gif.gif", "images/webp-lossy.webp", SCENE];
    let rows: Vec<_> = files.iter().map(|file| (*file, QUESTIONS[0])).collect();
    assert_eq!(tested.texts(&rows, &params), reference.texts(&rows, &params));
}

#[test]
#[ignore = "needs a bundle for a GPU; run `make test-gpu-bundles`"]
fn beams_and_likelihoods_are_those_of_the_committed_bundle() {
    let (tested, reference) = services();
    let rows = [(SCENE, QUESTIONS[0]), (SCENE, QUESTIONS[1])];
    for params in [json!({"num_beams": 3, "max_new_tokens": 8}), json!({"num_beams": 6, "max_new_tokens": 8})] {
        assert_eq!(tested.texts(&rows, &params), reference.texts(&rows, &params), "{params}");
    }
    let params = json!({"logprobs": true, "max_new_tokens": 12});
    for (tested, reference) in tested.score(&rows, &params).iter().zip(reference.score(&rows, &params)) {
        assert_eq!(tested["token_ids"], reference["token_ids"]);
        let values = |row: &Value| -> Vec<f64> {
            row["logprobs"].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
        };
        for (tested, reference) in values(tested).into_iter().zip(values(&reference)) {
            assert!((tested - reference).abs() < 0.05, "{tested} {reference}"); // f16 is within 0.01 on the CPU
        }
    }
}
