//! What the binary tells of itself: log lines in their formats, without secrets, and traces to a collector.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::helpers::{base64, body, fixture};
use crate::lifecycle::Service;

const SCENE: &str = "scene.png";

fn scene() -> String {
    base64(&fixture(SCENE))
}

#[test]
fn neither_keys_nor_images_nor_prompts_nor_queries_reach_the_log() {
    for format in ["text", "json", "azure"] {
        let service =
            Service::start(&["--log-format", format], &[("BLIP2_LOG", "trace"), ("BLIP2_API_KEY", "KEYSECRET")]);
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let image = scene();
        let post = |body: &str, key: &str| {
            let request = agent.post(service.url("/score")).content_type("application/json");
            let request = request.header("authorization", &format!("Bearer {key}")).header("cookie", "COOKIESECRET");
            request.send(body).unwrap().status().as_u16()
        };
        assert_eq!(post(&body(&[(&image, "PROMPTSECRET")]).to_string(), "KEYSECRET"), 200);
        assert_eq!(post(&body(&[(&image, "PROMPTSECRET")]).to_string(), "WRONGSECRET"), 401);
        assert_eq!(post(&body(&[("QkFEU0VDUkVU", "PROMPTSECRET")]).to_string(), "KEYSECRET"), 400);
        assert_eq!(post("{\"input_data\": \"BODYSECRET", "KEYSECRET"), 400);
        let url = service.url("/score?input_data=QUERYSECRET&api-key=KEYSECRET");
        assert_eq!(agent.get(url).header("api-key", "KEYSECRET").call().unwrap().status(), 400);
        let url = "http://user:URLSECRET@127.0.0.1:1/URLSECRET.png?token=URLSECRET";
        assert_eq!(post(&body(&[(url, "PROMPTSECRET")]).to_string(), "KEYSECRET"), 400);
        let (code, log) = service.stop();
        assert_eq!(code, Some(0));
        assert!(log.iter().any(|line| line.contains("/score")), "requests are logged: {log:#?}");
        for secret in ["SECRET", "QkFEU0VDUkVU", &image[200..260]] {
            let told: Vec<_> = log.iter().filter(|line| line.contains(secret)).collect();
            assert!(told.is_empty(), "{format}: {told:#?}");
        }
    }
}

#[test]
fn every_format_has_both_ids_on_the_line_of_a_request() {
    for format in ["text", "json", "azure"] {
        let service = Service::start(&["--log-format", format], &[]);
        let request = ureq::get(service.url("/version-of-nothing")).header("x-request-id", "ID-A");
        let _ = request.header("x-ms-client-request-id", "ID-B").call();
        let (_, log) = service.stop();
        let line = log.iter().find(|line| line.contains("/version-of-nothing")).unwrap();
        match format {
            "json" => {
                assert!(log.iter().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{log:#?}");
                let line: Value = serde_json::from_str(line).unwrap();
                for (field, value) in [("level", "INFO"), ("request_id", "ID-A"), ("client_request_id", "ID-B")] {
                    assert_eq!(line[field], value, "{line}");
                }
                assert_eq!((&line["status"], &line["method"]), (&404.into(), &"GET".into()));
            }
            "azure" => {
                let (time, rest) = line.split_at("2026-01-31 12:00:00,123".len());
                assert!(time.as_bytes()[19] == b',' && rest.starts_with(" I ["), "{line}");
                assert!(rest.contains("] blip2 - GET /version-of-nothing 404 "), "{line}");
                assert!(rest.ends_with(" request_id=ID-A client_request_id=ID-B"), "{line}");
            }
            _ => assert!(line.contains(r#"request_id="ID-A" client_request_id="ID-B""#), "{line}"),
        }
    }
}

#[test]
fn azures_level_counts_where_there_is_no_filter_of_ours() {
    let service = Service::start_silent(&[], &[("AZUREML_LOG_LEVEL", "WARNING")]);
    let _ = ureq::get(service.url("/nowhere")).call();
    let (_, log) = service.stop();
    assert!(log.iter().all(|line| !line.contains("INFO")), "{log:#?}");
}

/// A collector that answers 200 to every request, and passes on its first line and its body.
fn collector() -> (u16, mpsc::Receiver<(String, Vec<u8>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (received, requests) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, received) = (stream.unwrap(), received.clone());
            thread::spawn(move || {
                let (mut bytes, mut chunk) = (Vec::new(), [0; 4096]);
                loop {
                    let read = stream.read(&mut chunk).unwrap_or(0);
                    bytes.extend_from_slice(&chunk[..read]);
                    let Some(head) = bytes.windows(4).position(|end| end == b"\r\n\r\n") else { continue };
                    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
                    let length = text.split("content-length: ").nth(1).unwrap().lines().next().unwrap();
                    let length: usize = length.parse().unwrap();
                    if bytes.len() < head + 4 + length {
                        continue;
                    }
                    let _ = received.send((text.lines().next().unwrap().to_owned(), bytes.split_off(head + 4)));
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                    return;
                }
            });
        }
    });
    (port, requests)
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[test]
fn a_request_is_traced_to_the_collector_under_its_callers_span() {
    let (port, requests) = collector();
    let endpoint = format!("http://127.0.0.1:{port}");
    let service = Service::start(&[], &[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)]);
    let request = body(&[(&scene(), "PROMPTSECRET")]).to_string();
    let traced = ureq::post(service.url("/score"))
        .content_type("application/json")
        .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    assert_eq!(traced.send(&request).unwrap().status(), 200);
    assert_eq!(service.stop().0, Some(0), "the last spans are sent before the end");
    let (line, spans) = requests.recv_timeout(Duration::from_secs(5)).unwrap();
    assert_eq!(line, "post /v1/traces http/1.1");
    let trace_id = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes();
    assert!(contains(&spans, &trace_id) && contains(&spans, &0xb7ad_6b71_6920_3331_u64.to_be_bytes()));
    for name in ["POST /score", "preprocess", "queue", "vision_encoder", "qformer", "prefill", "decode", "blip2"] {
        assert!(contains(&spans, name.as_bytes()), "{name}");
    }
    assert!(!contains(&spans, b"SECRET"));
}

#[test]
fn a_collector_that_is_not_there_changes_no_answer() {
    let service = Service::start(&[], &[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:1/v1/traces")]);
    let request = body(&[(&scene(), "")]).to_string();
    let reply = ureq::post(service.url("/score")).content_type("application/json").send(&request).unwrap();
    assert_eq!(reply.status(), 200);
    assert_eq!(service.stop().0, Some(0));
}
