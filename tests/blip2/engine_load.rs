//! Ten thousand requests from a few threads, of which many are given up at random moments: the others get their own
//! answers, all places come back, and memory does not grow.

use std::process::Command;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use blip2::engine::{Engine, EngineError, ScoreJob, StreamEvent};
use blip2::memory::resident_bytes;
use serde_json::json;

use crate::helpers::fixture;
use crate::scripted_model::{Script, engine};

const THREADS: usize = 4;
const WARM_UP: usize = 2_000 / THREADS;
const ALL: usize = 10_000 / THREADS;

/// Set in the process that holds this test alone, so that no other moves the memory.
const ALONE: &str = "BLIP2_TEST_ALONE";

#[test]
fn ten_thousand_requests_leave_nothing_behind() {
    if std::env::var_os(ALONE).is_none() {
        let name = "engine_load::ten_thousand_requests_leave_nothing_behind";
        let alone = Command::new(std::env::current_exe().unwrap()).args([name, "--exact"]).env(ALONE, "1").output();
        let alone = String::from_utf8(alone.unwrap().stdout).unwrap();
        assert!(alone.contains("1 passed; 0 failed"), "{alone}");
        return;
    }
    let engine = engine(Script::default(), 6, 24);
    let files =
        ["png-rgb.png", "gif.gif", "bmp-24.bmp", "webp-lossy.webp"].map(|name| fixture(&format!("images/{name}")));
    let barrier = Barrier::new(THREADS + 1);
    let resident = thread::scope(|scope| {
        for number in 0..THREADS {
            let (engine, files, barrier) = (&engine, &files, &barrier);
            scope.spawn(move || {
                let mut client = Client { engine, files, random: Random(number as u64 + 1) };
                for request in 0..ALL {
                    if request == WARM_UP {
                        barrier.wait();
                        barrier.wait();
                    }
                    client.ask();
                }
            });
        }
        barrier.wait();
        let resident = resident_bytes();
        barrier.wait();
        resident
    });
    let patience = Instant::now() + Duration::from_secs(10);
    while engine.rows_in_work() > 0 {
        assert!(Instant::now() < patience, "{} rows stay in work", engine.rows_in_work());
        thread::sleep(Duration::from_millis(1));
    }
    if let (Some(before), Some(after)) = (resident, resident_bytes()) {
        let grown = after.saturating_sub(before);
        assert!(grown < 4 << 20, "memory grew by {grown} bytes from {before}");
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }
}

struct Client<'a> {
    engine: &'a Engine,
    files: &'a [Vec<u8>],
    random: Random,
}

impl Client<'_> {
    /// One request, by one way or another, which is waited for or given up.
    fn ask(&mut self) {
        let text = ["", "a", "cat", "dog", "two dogs", "on the"][self.random.below(6)];
        let params = [json!({}), json!({}), json!({"num_beams": 2, "max_new_tokens": 3})][self.random.below(3)].clone();
        let is_echo = params.get("num_beams").is_none();
        let image =
            self.engine.open_images(&[&self.files[self.random.below(self.files.len())]]).pop().unwrap().unwrap();
        let params = self.engine.parse_params(&params).unwrap();
        let job = ScoreJob { image, text: text.to_owned(), params, deadline: None };
        let job = self.engine.prepare(&job).unwrap();
        let permit = loop {
            match self.engine.reserve(1) {
                Ok(permit) => break permit,
                Err(EngineError::Overloaded { .. }) => thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        };
        match self.random.below(6) {
            0 => drop(self.engine.submit(job, &permit).unwrap()),
            1 => {
                let pending = self.engine.submit(job, &permit).unwrap();
                thread::sleep(Duration::from_micros(self.random.below(1_000) as u64));
                drop(pending);
            }
            2 => {
                let mut stream = self.engine.stream(job, &permit, Vec::new()).unwrap();
                for _ in 0..self.random.below(3) {
                    block_on(stream.next());
                }
            }
            3 => {
                let mut stream = self.engine.stream(job, &permit, Vec::new()).unwrap();
                let mut all = String::new();
                while let Some(event) = block_on(stream.next()) {
                    match event.unwrap() {
                        StreamEvent::Piece(piece) => all.push_str(&piece.text),
                        StreamEvent::End { rest, .. } => all.push_str(&rest[0].text),
                    }
                }
                assert!(!is_echo || all == text, "{all:?} for {text:?}");
            }
            _ => {
                let answer = self.engine.submit(job, &permit).unwrap().wait().unwrap();
                assert!(!is_echo || answer.best.text == text, "{:?} for {text:?}", answer.best.text);
            }
        }
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}
