//! The life of a service as the binary: readiness, load, overload, clients that go or dawdle, and the end by signals.

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use blip2::server::ServerSettings;
use serde_json::{Value, json};

use crate::command_line::blip2;
use crate::helpers::{base64, body, fixture, settings, spawn_app_with};
use crate::scripted_model::{Script, engine};

/// The binary, serving the committed bundle on a free port. It is killed when a test fails.
pub(crate) struct Service {
    child: Child,
    port: u16,
    log: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Service {
    /// Starts it, and waits until it says that it is ready.
    pub(crate) fn start(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut service = Self::spawn("0", arguments, environment);
        service.port = service.wait_for_line(|line| {
            let is_ready = line.contains(" ready ") || line.contains(r#""message":"ready""#);
            let port = line.split_once("port=").or_else(|| line.split_once(r#""port":"#))?.1;
            is_ready.then(|| port.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap())
        });
        service
    }

    /// As [`Service::start`], where its log does not say when it is ready.
    pub(crate) fn start_silent(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut service = Self::spawn(&free.to_string(), arguments, environment);
        service.port = free;
        let started = Instant::now();
        while ureq::get(service.url("/readyz")).call().is_err() {
            assert!(started.elapsed() < Duration::from_secs(60), "it becomes ready");
            thread::sleep(Duration::from_millis(20));
        }
        service
    }

    fn spawn(port: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut command = blip2(&["serve", "--host", "127.0.0.1", "--port", port]);
        for variable in ["BLIP2_LOG", "AZUREML_LOG_LEVEL", "BLIP2_API_KEY", "OTEL_EXPORTER_OTLP_ENDPOINT"] {
            command.env_remove(variable);
        }
        command.args(arguments).envs(environment.iter().copied()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let log = Arc::new(Mutex::new(Vec::new()));
        let written = Arc::clone(&log);
        let reader = thread::spawn(move || lines.for_each(|line| written.lock().unwrap().push(line.unwrap())));
        Self { child, port: 0, log, reader: Some(reader) }
    }

    fn wait_for_line<T>(&self, find: impl Fn(&str) -> Option<T>) -> T {
        let started = Instant::now();
        loop {
            if let Some(found) = self.log.lock().unwrap().iter().find_map(|line| find(line)) {
                return found;
            }
            assert!(started.elapsed() < Duration::from_secs(60), "{:#?}", self.log.lock().unwrap());
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Its exit code, which it has within so many seconds.
    fn wait(&mut self, seconds: u64) -> Option<i32> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(started.elapsed() < Duration::from_secs(seconds), "{:#?}", self.log.lock().unwrap());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it by SIGTERM; its exit code and all it has logged.
    pub(crate) fn stop(mut self) -> (Option<i32>, Vec<String>) {
        self.signal("TERM");
        let code = self.wait(30);
        self.reader.take().unwrap().join().unwrap();
        let log = self.log.lock().unwrap().clone();
        (code, log)
    }

    /// The status of a GET, and how long it took; `None` when there is no answer.
    fn get(&self, path: &str) -> Option<(u16, Duration)> {
        let started = Instant::now();
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let status = agent.get(self.url(path)).call().ok()?.status().as_u16();
        Some((status, started.elapsed()))
    }

    /// A value of `/metrics`.
    fn metric(&self, name: &str) -> f64 {
        let text = ureq::get(self.url("/metrics")).call().unwrap().body_mut().read_to_string().unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        value.unwrap_or_else(|| panic!("{name}: {text}"))
    }

    fn wait_for_metric(&self, name: &str, expected: f64) {
        let started = Instant::now();
        while self.metric(name) != expected {
            assert!(started.elapsed() < Duration::from_secs(20), "{name}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What came of a request.
#[derive(Debug, PartialEq)]
enum Outcome {
    /// The answer is whole; `Retry-After`, if it says so.
    Answered(u16, Option<String>),
    /// There was nobody to connect to, or nobody who had read a byte.
    NotTaken,
    /// An answer that broke off, or none to a request that had been taken.
    Lost(String),
}

/// A request on a connection of its own, so that nothing is sent twice behind the test's back.
fn score(port: u16, body: &str) -> Outcome {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return Outcome::NotTaken };
    let length = body.len();
    let head = format!(
        "POST /score HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
    );
    if stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes())).is_err() {
        return Outcome::NotTaken;
    }
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(0) => return Outcome::NotTaken,
        Err(error) if error.kind() == ErrorKind::ConnectionReset && answer.is_empty() => return Outcome::NotTaken,
        Err(error) => return Outcome::Lost(error.to_string()),
        Ok(_) => {}
    }
    let text = String::from_utf8(answer).unwrap();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return Outcome::Lost(text) };
    let header = |name: &str| {
        let value = |line: &str| Some(line.split_once(": ")?.1.to_owned());
        head.lines().find(|line| line.to_ascii_lowercase().starts_with(name)).and_then(value)
    };
    let is_whole = header("content-length").is_some_and(|length| length.parse() == Ok(body.len()));
    if !is_whole || serde_json::from_str::<Value>(body).is_err() {
        return Outcome::Lost(text);
    }
    Outcome::Answered(head.split(' ').nth(1).unwrap().parse().unwrap(), header("retry-after"))
}

fn question() -> String {
    let scene = base64(&fixture("scene.png"));
    body(&[(&scene, "Question: what color is the star? Answer:")]).to_string()
}

/// A question whose answer has so many tokens.
fn long_question(tokens: usize) -> String {
    let mut request: Value = serde_json::from_str(&question()).unwrap();
    request["params"] = json!({"min_new_tokens": tokens, "max_new_tokens": tokens});
    request.to_string()
}

/// So many clients ask one question after the other until they are told to stop; then what came of all.
fn load<T>(port: u16, clients: usize, body: &str, meanwhile: impl FnOnce(&AtomicBool) -> T) -> (Vec<Outcome>, T) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let ask = || {
            let mut outcomes = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                outcomes.push(score(port, body));
            }
            outcomes
        };
        let clients: Vec<_> = (0..clients).map(|_| scope.spawn(ask)).collect();
        let result = meanwhile(&stop);
        stop.store(true, Ordering::Relaxed);
        (clients.into_iter().flat_map(|client| client.join().unwrap()).collect(), result)
    })
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[test]
fn sigterm_under_load_loses_no_request_that_was_sent_while_the_service_drained() {
    let mut service = Service::start(&["--drain-delay-s", "2"], &[]);
    let (outcomes, ()) = load(service.port, 12, &question(), |_| {
        thread::sleep(Duration::from_millis(500));
        service.signal("TERM");
        // As a load balancer does: some time later nobody sends any more.
        thread::sleep(Duration::from_millis(1200));
    });
    assert!(outcomes.len() > 24, "{}", outcomes.len());
    let lost: Vec<_> = outcomes.iter().filter(|outcome| **outcome != Outcome::Answered(200, None)).collect();
    assert!(lost.is_empty(), "{lost:#?}");
    assert_eq!(service.wait(20), Some(0));
}

#[test]
fn whoever_does_not_stop_asking_gets_whole_answers_until_nobody_listens() {
    let mut service = Service::start(&["--drain-delay-s", "0.2"], &[]);
    let port = service.port;
    let (outcomes, code) = load(port, 12, &question(), |_| {
        thread::sleep(Duration::from_millis(300));
        service.signal("TERM");
        service.wait(20)
    });
    assert_eq!(code, Some(0));
    let lost: Vec<_> =
        outcomes.iter().filter(|o| !matches!(o, Outcome::Answered(200, None) | Outcome::NotTaken)).collect();
    assert!(lost.is_empty(), "{lost:#?}");
}

#[test]
fn readiness_falls_first_and_requests_are_still_answered() {
    let mut service = Service::start(&["--drain-delay-s", "2"], &[]);
    assert_eq!(service.get("/readyz").unwrap().0, 200);
    service.signal("TERM");
    service.wait_for_line(|line| line.contains("stopping").then_some(()));
    assert_eq!(service.get("/readyz").unwrap().0, 503);
    assert_eq!(service.get("/").unwrap().0, 200);
    assert_eq!(score(service.port, &question()), Outcome::Answered(200, None));
    assert_eq!(service.wait(10), Some(0));
}

#[test]
fn an_idle_connection_does_not_hold_up_the_end() {
    let mut service = Service::start(&["--drain-delay-s", "0.1"], &[]);
    let mut idle = TcpStream::connect(("127.0.0.1", service.port)).unwrap();
    idle.write_all(b"GET /livez HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
    assert!(idle.read(&mut [0; 1024]).unwrap() > 0);
    let _silent = TcpStream::connect(("127.0.0.1", service.port)).unwrap();
    thread::sleep(Duration::from_millis(100));
    service.signal("TERM");
    assert_eq!(service.wait(5), Some(0));
}

#[test]
fn a_second_signal_ends_the_service_at_once() {
    let mut service = Service::start(&["--drain-delay-s", "60"], &[]);
    service.signal("TERM");
    service.wait_for_line(|line| line.contains("stopping").then_some(()));
    service.signal("TERM");
    assert_eq!(service.wait(3), Some(1));
}

#[test]
fn a_signal_while_the_model_loads_ends_the_service() {
    let mut service = Service::spawn("0", &["--drain-delay-s", "0.001"], &[]);
    service.wait_for_line(|line| line.contains("listening").then_some(()));
    service.signal("TERM");
    assert_eq!(service.wait(20), Some(0));
}

#[test]
fn probes_are_answered_at_once_under_full_load() {
    let service = Service::start(&[], &[]);
    let (outcomes, times) = load(service.port, 32, &question(), |_| {
        thread::sleep(Duration::from_millis(500));
        let probes = ["/", "/livez", "/readyz"].into_iter().cycle().take(45);
        probes.map(|path| service.get(path).map(|(status, took)| (status == 200).then_some(took))).collect::<Vec<_>>()
    });
    let times: Vec<Duration> =
        times.into_iter().map(|time| time.flatten().expect("every probe is answered 200")).collect();
    assert!(median(times.clone()) < Duration::from_millis(100), "{times:?}");
    assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Answered(200, None)), "{outcomes:?}");
}

#[test]
fn beyond_its_capacity_the_service_refuses_at_once_and_loses_nothing() {
    let service = Service::start(&["--queue-rows", "8"], &[]);
    let body = question();
    load(service.port, 8, &body, |_| thread::sleep(Duration::from_secs(1)));
    let before = service.resident_kib();
    let (outcomes, times) = load(service.port, 32, &body, |_| {
        let started = Instant::now();
        let mut refusals = Vec::new();
        while started.elapsed() < Duration::from_secs(3) {
            let asked = Instant::now();
            if matches!(score(service.port, &body), Outcome::Answered(429, _)) {
                refusals.push(asked.elapsed());
            }
        }
        refusals
    });
    let answered = outcomes.iter().filter(|outcome| **outcome == Outcome::Answered(200, None)).count();
    let seconds = |wait: &str| wait.parse::<u64>().is_ok_and(|seconds| seconds >= 1);
    let refused = outcomes.iter().filter(|o| matches!(o, Outcome::Answered(429, Some(wait)) if seconds(wait))).count();
    assert_eq!(answered + refused, outcomes.len(), "every request is answered or refused");
    assert!(answered > 0 && refused > 0, "{answered} answered, {refused} refused");
    assert!(median(times.clone()) < Duration::from_millis(250), "{times:?}");
    let grown = service.resident_kib().saturating_sub(before);
    assert!(grown < 64 << 10, "memory grew by {grown} KiB");
    service.wait_for_metric("blip2_rows_in_work", 0.0);
}

#[test]
fn a_client_that_goes_in_the_middle_of_its_answer_frees_its_slot() {
    let service = Service::start(&[], &[]);
    let body = long_question(90);
    let mut stream = TcpStream::connect(("127.0.0.1", service.port)).unwrap();
    let length = body.len();
    let head = format!(
        "POST /score HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body.as_bytes()).unwrap();
    service.wait_for_metric(r#"blip2_rows{phase="decoding"}"#, 1.0);
    drop(stream);
    service.wait_for_metric("blip2_rows_in_work", 0.0);
    service.wait_for_metric("blip2_slots_in_use", 0.0);
    service.wait_for_metric("blip2_kv_tokens_booked", 0.0);
    assert_eq!(service.metric("blip2_rows_answered_total"), 0.0, "it was given up, not answered");
    assert_eq!(service.metric(r#"blip2_http_refusals_total{reason="client_gone"}"#), 1.0);
}

/// What a service says to bytes that come slowly, and after how long.
fn dawdle(settings: ServerSettings, first: &str, then: &str) -> (String, Duration) {
    let app = spawn_app_with(Some(engine(Script::default(), 1, 4)), settings);
    let mut stream = TcpStream::connect(app.url("").trim_start_matches("http://")).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let (started, mut answer, mut chunk) = (Instant::now(), Vec::new(), [0; 4096]);
    stream.write_all(first.as_bytes()).unwrap();
    let mut rest = then.bytes().cycle();
    loop {
        // One byte now and then, so that the connection is never idle for long.
        if rest.next().is_some_and(|byte| stream.write_all(&[byte]).is_err()) {
            break;
        }
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => answer.extend_from_slice(&chunk[..read]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
        assert!(started.elapsed() < Duration::from_secs(15), "{}", String::from_utf8_lossy(&answer));
    }
    (String::from_utf8(answer).unwrap(), started.elapsed())
}

fn impatient() -> ServerSettings {
    let short = Duration::from_millis(500);
    ServerSettings { idle_timeout: short, body_timeout: short, ..settings() }
}

#[test]
fn a_head_that_comes_slowly_is_cut_off() {
    let (answer, took) = dawdle(impatient(), "GET /livez HTTP/1.1\r\nhost: ", "x");
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn a_second_head_that_comes_slowly_is_cut_off_too() {
    let first = "GET /livez HTTP/1.1\r\nhost: test\r\n\r\nGET /livez HTTP/1.1\r\nhost: ";
    let (answer, took) = dawdle(impatient(), first, "x");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn an_idle_connection_is_closed() {
    let (answer, took) = dawdle(impatient(), "GET /livez HTTP/1.1\r\nhost: test\r\n\r\n", "");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn a_body_that_comes_slowly_is_answered_408_and_cut_off() {
    let head = "POST /score HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n{\"input_data\":";
    let (answer, took) = dawdle(impatient(), head, " ");
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("did not arrive within"), "{answer}");
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn probe_tells_ready_from_anything_else_by_its_exit_code() {
    let service = Service::start(&[], &[("BLIP2_API_KEY", "secret")]);
    let port = service.port.to_string();
    let probe = |arguments: &[&str]| {
        let output = blip2(&["probe"]).args(arguments).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    assert_eq!(probe(&["--port", &port]), (Some(0), "{\"status\":\"ready\"}\n".into(), String::new()));
    let livez = blip2(&["probe", "--path", "/"]).envs([("SERVER_PORT", &port)]).output().unwrap();
    assert_eq!((livez.status.code(), livez.stdout), (Some(0), b"Healthy\n".to_vec()));
    let (code, _, stderr) = probe(&["--port", &port, "--path", "/v1/models"]);
    assert!(code == Some(1) && stderr.contains("/v1/models answers 401"), "{stderr}");
    for wrong in [&["--port", "0"][..], &["--port", &port, "--path", "readyz"], &["--timeout-s", "0"]] {
        assert_eq!(probe(wrong).0, Some(2), "{wrong:?}");
    }
    assert_eq!(service.stop().0, Some(0));
    let (code, _, stderr) = probe(&["--port", &port, "--timeout-s", "2"]);
    assert!(
        code == Some(1) && stderr.starts_with(&format!("blip2: cannot ask http://127.0.0.1:{port}/readyz")),
        "{stderr}"
    );
}

#[test]
fn probe_ends_in_time_when_nobody_answers() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port().to_string();
    let output = blip2(&["probe", "--port", &port, "--timeout-s", "0.2"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
}
