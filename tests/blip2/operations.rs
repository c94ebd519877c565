//! Operation of a running service with a scripted model: metrics, timing headers, golden answers in the background.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use blip2::bundle::GoldenCase;
use blip2::server::{ApiKey, GoldenWatch, ServerSettings};

use crate::command_line::blip2;
use crate::helpers::{Reply, TestApp, body, fixture, png_base64, repository, settings, spawn_app, spawn_app_with};
use crate::scripted_model::{Script, engine};

/// The value of a sample as Prometheus would read it.
fn sample(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

fn metrics(app: &TestApp) -> String {
    let Reply { status, body, .. } = app.get("/metrics");
    assert_eq!(status, 200, "{body}");
    body
}

/// Waits until something holds, which it does soon.
fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(20), "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn metrics_count_requests_rows_tokens_and_refusals() {
    let app = spawn_app(Some(engine(Script::default(), 2, 16)));
    let image = png_base64();
    assert_eq!(app.score(&body(&[(&image, "one two"), (&image, "three")])).status, 200);
    assert_eq!(app.score(&body(&[("", "no image")])).status, 400);
    for path in ["/nowhere/1", "/nowhere/2"] {
        assert_eq!(app.get(path).status, 404);
    }
    let text = metrics(&app);
    for (name, expected) in [
        (r#"blip2_http_requests_total{route="/score",status="2xx"}"#, 1.0),
        (r#"blip2_http_requests_total{route="/score",status="4xx"}"#, 1.0),
        (r#"blip2_http_requests_total{route="unknown",status="4xx"}"#, 2.0),
        (r#"blip2_http_refusals_total{reason="bad_request"}"#, 1.0),
        (r#"blip2_http_refusals_total{reason="not_found"}"#, 2.0),
        (r#"blip2_http_request_duration_seconds_count{route="/score"}"#, 2.0),
        ("blip2_http_requests_in_flight", 1.0),
        ("blip2_rows_answered_total", 2.0),
        (r#"blip2_stage_duration_seconds_count{stage="prefill"}"#, 2.0),
        (r#"blip2_stage_duration_seconds_count{stage="preprocess"}"#, 1.0),
        (r#"blip2_cache_misses_total{cache="image"}"#, 1.0),
        (r#"blip2_golden_replays_total{result="ok"}"#, 0.0),
        ("blip2_rows_in_work", 0.0),
        ("blip2_queue_capacity_rows", 16.0),
        ("blip2_slots", 2.0),
        ("blip2_kv_tokens", 256.0),
        ("blip2_kv_tokens_booked", 0.0),
        ("blip2_ready", 1.0),
    ] {
        assert_eq!(sample(&text, name), Some(expected), "{name}: {text}");
    }
    assert!(sample(&text, "blip2_generated_tokens_total").unwrap() > 4.0, "{text}");
    assert!(sample(&text, "blip2_resident_memory_bytes").unwrap() > 1e6, "{text}");
    assert!(text.contains(r#"blip2_build_info{version=""#) && text.ends_with("# EOF\n"), "{text}");
}

#[test]
fn metrics_can_be_asked_before_the_model_is_there() {
    let app = spawn_app(None);
    let text = metrics(&app);
    assert_eq!(sample(&text, "blip2_ready"), Some(0.0));
    assert_eq!(sample(&text, "blip2_slots"), None, "{text}");
}

#[test]
fn gauges_follow_the_rows_in_work() {
    let (open, gate) = mpsc::channel();
    let app = spawn_app(Some(engine(Script { gate: Some(gate), ..Script::default() }, 2, 16)));
    thread::scope(|scope| {
        scope.spawn(|| assert_eq!(app.score(&body(&[(&png_base64(), "hello")])).status, 200));
        wait_until("a row waits", || sample(&metrics(&app), r#"blip2_rows{phase="waiting"}"#) == Some(1.0));
        let text = metrics(&app);
        assert_eq!(sample(&text, "blip2_rows_in_work"), Some(1.0));
        assert_eq!(sample(&text, "blip2_http_requests_in_flight"), Some(2.0));
        open.send(()).unwrap();
    });
    wait_until("it has ended", || sample(&metrics(&app), "blip2_rows_in_work") == Some(0.0));
}

#[test]
fn metrics_need_the_key_on_the_main_port_and_none_on_their_own() {
    let api_key = Some(ApiKey::new("secret".into()));
    let app = spawn_app_with(None, ServerSettings { api_key: api_key.clone(), ..settings() });
    assert_eq!(app.get("/metrics").status, 401);
    let with_key = ureq::get(app.url("/metrics")).header("api-key", "secret").call().unwrap();
    assert_eq!(with_key.status(), 200);

    let app = spawn_app_with(None, ServerSettings { api_key, metrics_port: Some(0), ..settings() });
    let own = format!("http://127.0.0.1:{}", app.metrics_port.unwrap());
    let mut reply = ureq::get(format!("{own}/metrics")).call().unwrap();
    assert!(reply.headers()["content-type"].to_str().unwrap().starts_with("application/openmetrics-text"));
    assert!(reply.body_mut().read_to_string().unwrap().contains("blip2_ready 0"));
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    assert_eq!(agent.get(format!("{own}/")).call().unwrap().status(), 404);
    let on_main = agent.get(app.url("/metrics")).header("api-key", "secret").call().unwrap();
    assert_eq!(on_main.status(), 404, "they have a port of their own");
}

#[test]
fn an_answer_tells_where_its_time_went() {
    let app = spawn_app(Some(engine(Script::default(), 2, 16)));
    let request = body(&[(&png_base64(), "one"), (&png_base64(), "a longer one")]).to_string();
    let reply = ureq::post(app.url("/score")).content_type("application/json").send(&request).unwrap();
    let header = reply.headers()["server-timing"].to_str().unwrap();
    let stages: Vec<_> = header.split(", ").map(|metric| metric.split_once(";dur=").unwrap()).collect();
    let names: Vec<_> = stages.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["preprocess", "queue", "vision_encoder", "qformer", "prefill", "decode"]);
    assert!(stages.iter().map(|(_, ms)| ms.parse::<f64>().unwrap()).sum::<f64>() > 0.0, "{header}");
    let probe = ureq::get(app.url("/livez")).call().unwrap();
    assert!(!probe.headers().contains_key("server-timing"));
}

/// What the documentation of operation says.
fn documentation() -> String {
    std::fs::read_to_string(repository("docs/operations.md")).unwrap()
}

#[test]
fn every_flag_and_its_variable_are_documented() {
    let help = blip2(&["serve", "--help"]).output().unwrap().stdout;
    let help = String::from_utf8(help).unwrap();
    let flags = help.lines().filter_map(|line| line.trim_start().strip_prefix("--")?.split([' ', '=']).next());
    let variables = help.lines().filter_map(|line| line.trim_start().strip_prefix("[env: ")?.split(['=', ']']).next());
    let documentation = documentation();
    let flags: Vec<_> = flags.map(|flag| format!("`--{flag}")).collect();
    assert!(flags.len() > 20, "{flags:?}");
    for name in flags.into_iter().chain(variables.map(|variable| format!("`{variable}`"))) {
        assert!(documentation.contains(&name), "{name}");
    }
}

#[test]
fn every_metric_is_documented() {
    let app = spawn_app(Some(engine(Script::default(), 1, 4)));
    app.state.note_planned_memory(1 << 20);
    let text = metrics(&app);
    let names: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    assert!(names.len() > 20, "{names:?}");
    let documentation = documentation();
    for name in names {
        let short = name.replace("blip2_cache", "…"); // those of one family stand together
        assert!(documentation.contains(name) || documentation.contains(&format!("`{short}_total`")), "{name}");
    }
}

/// A case of the scripted model, which repeats the prompt, with the ids that an engine gives.
fn golden(text: &str) -> GoldenCase {
    let image = fixture("images/png-rgb.png");
    let probe = engine(Script::default(), 1, 4);
    let answer = probe.score(&image, text, probe.default_params(40)).unwrap().best;
    GoldenCase {
        name: text.into(),
        image,
        text: text.into(),
        max_new_tokens: 40,
        prompt_ids: Vec::new(),
        token_ids: answer.token_ids,
        answer: answer.text,
    }
}

const SHORT: Duration = Duration::from_millis(20);

#[test]
fn golden_answers_are_replayed_in_the_background() {
    let app = spawn_app(Some(engine(Script::default(), 1, 4)));
    let watch = GoldenWatch::start(app.state.clone(), vec![golden("one"), golden("two")], SHORT).unwrap();
    let replayed = || sample(&metrics(&app), r#"blip2_golden_replays_total{result="ok"}"#).unwrap();
    wait_until("several are replayed", || replayed() >= 3.0);
    assert_eq!(app.get("/readyz").status, 200);
    drop(watch);
    let ended = replayed();
    thread::sleep(4 * SHORT);
    assert_eq!(replayed(), ended, "none is replayed after the end");
}

#[test]
fn a_golden_answer_that_comes_out_wrong_makes_the_service_unready_until_it_comes_out_right() {
    let app = spawn_app(Some(engine(Script::default(), 1, 4)));
    let wrong = GoldenCase { token_ids: vec![7], ..golden("wrong") };
    let watch = GoldenWatch::start(app.state.clone(), vec![wrong], SHORT).unwrap();
    wait_until("it is unready", || app.get("/readyz").status == 503);
    assert!(app.get("/readyz").message().contains("golden"), "the probe says why");
    assert_eq!(app.get("/").status, 200, "it is alive");
    assert_eq!(app.score(&body(&[(&png_base64(), "hello")])).texts(), ["hello"], "it loses no request");
    drop(watch);
    let _watch = GoldenWatch::start(app.state.clone(), vec![golden("right")], SHORT).unwrap();
    wait_until("it is ready again", || app.get("/readyz").status == 200);
    assert!(sample(&metrics(&app), r#"blip2_golden_replays_total{result="failed"}"#).unwrap() >= 1.0);
}

#[test]
fn no_golden_answer_is_replayed_while_the_queue_is_more_than_half_full() {
    let (open, gate) = mpsc::channel();
    let app = spawn_app(Some(engine(Script { gate: Some(gate), ..Script::default() }, 1, 3)));
    thread::scope(|scope| {
        scope.spawn(|| app.score(&body(&[(&png_base64(), "one"), (&png_base64(), "two")])));
        wait_until("two of three places are taken", || sample(&metrics(&app), "blip2_rows_in_work") == Some(2.0));
        let _watch = GoldenWatch::start(app.state.clone(), vec![golden("one")], SHORT).unwrap();
        thread::sleep(5 * SHORT);
        assert_eq!(sample(&metrics(&app), "blip2_rows_in_work"), Some(2.0), "none of them is a golden answer");
        open.send(()).unwrap();
        wait_until("it is replayed now", || {
            sample(&metrics(&app), r#"blip2_golden_replays_total{result="ok"}"#) >= Some(1.0)
        });
    });
}

#[test]
fn a_key_opens_what_needs_one_and_nothing_else_does() {
    let app = spawn_app_with(None, ServerSettings { api_key: Some(ApiKey::new("secret".into())), ..settings() });
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).max_redirects(0).build().into();
    let status = |path: &str, headers: &[(&str, &str)]| {
        let request =
            headers.iter().fold(agent.get(app.url(path)), |request, (name, value)| request.header(*name, *value));
        request.call().unwrap().status().as_u16()
    };
    for header in [("authorization", "Bearer secret"), ("authorization", "bearer  secret "), ("api-key", "secret")] {
        assert_eq!(status("/score", &[header]), 503, "{header:?}");
    }
    for header in [
        ("authorization", "Basic secret"),
        ("authorization", "secret"),
        ("authorization", "Bearer wrong"),
        ("authorization", "Bearer"),
        ("api-key", "Bearer secret"),
        ("api-key", ""),
        ("x-api-key", "secret"),
    ] {
        assert_eq!(status("/score", &[header]), 401, "{header:?}");
    }
    // A browser opens pages without it.
    assert_eq!((status("/docs/", &[]), status("/docs", &[]), status("/openapi.json", &[])), (200, 307, 200));
    for path in ["/docsx", "/openapi.json2", "/nothing", "/v1/model", "/v2", "/swagger.json"] {
        assert_eq!(status(path, &[]), 401, "{path}");
    }
}

#[test]
fn a_refusal_without_a_key_has_the_shape_of_its_protocol() {
    let app = spawn_app_with(None, ServerSettings { api_key: Some(ApiKey::new("secret".into())), ..settings() });
    for (path, pointer, expected) in [
        ("/invocations", "/error_code", "UNAUTHENTICATED"),
        ("/v1/model", "/error/code", "unauthorized"),
        ("/v1/models", "/error/code", "invalid_api_key"),
        (
            "/v2/models/m",
            "/error",
            "the API key is missing or wrong; send it as `Authorization: Bearer KEY` or `api-key: KEY`",
        ),
        (
            "/score",
            "/message",
            "the API key is missing or wrong; send it as `Authorization: Bearer KEY` or `api-key: KEY`",
        ),
    ] {
        let reply = app.get(path);
        assert_eq!(
            (reply.status, reply.json().pointer(pointer).and_then(|found| found.as_str())),
            (401, Some(expected)),
            "{path}"
        );
    }
}
