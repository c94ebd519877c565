//! The reference's goldens: the real engine, asked over HTTP, answers as transformers does. Greedy search, beams and logits
//! processors on a small seeded model, every row alone, all in company, and without caches.
//!
//! Elsewhere these tests count as ignored: `make goldens` makes that model's bundle, names it in
//! `BLIP2_REFERENCE_BUNDLE` and runs them. They need a process without other tests, because there is one ONNX Runtime
//! environment a process.

use std::io::Cursor;
use std::sync::LazyLock;
use std::time::Duration;
use std::{env, fs, iter, thread};

use blip2::bundle::Bundle;
use blip2::engine::{EmbeddedImage, EncodedImage, Engine, EngineLimits, ImageEncoder, ModelError};
use blip2::image::{ImageLimits, PixelValues, Preprocessor, RgbImage};
use blip2::launch::frontend;
use blip2::model::{Blip2, CacheSize, Devices};
use blip2::runtime::{CpuSettings, Runtime};
use image::ImageFormat;
use rand::SeedableRng as _;
use rand::rngs::ChaCha8Rng;
use rand::seq::SliceRandom as _;
use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use crate::helpers::{TestApp, base64, body, repository, spawn_app_with_limit};

const BUNDLE: &str = "BLIP2_REFERENCE_BUNDLE";
const CASES: &str = "../shared/data/golden/generation_cases.json";
const IMAGES: &str = "../shared/data/images";

/// How far logprobs and scores may lie from the reference's, as its README says.
const TOLERANCE: f64 = 1e-3;

/// Room for every image, and for every prompt's keys and values.
const CACHE_BYTES: usize = 64 << 20;

/// Fewer than the rows of all cases together, so that rows wait, join and leave.
const SLOTS: usize = 12;

/// One environment a process.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let library = env::var_os("ORT_DYLIB_PATH").map_or_else(|| repository(".ort/libonnxruntime.so"), Into::into);
    Runtime::load(&library, &CpuSettings::with_threads(2.try_into().unwrap()))
        .expect("ONNX Runtime; run `make goldens`")
});

#[derive(Deserialize)]
struct Goldens {
    cases: Vec<Case>,
}

/// Rows that share parameters, and what the reference answers each of them alone.
#[derive(Deserialize)]
struct Case {
    name: String,
    rows: Vec<Row>,
    params: Map<String, Value>,
    expected: Vec<Expected>,
}

/// A question about an image: a file, or pixels made from a seed.
#[derive(Deserialize)]
struct Row {
    image: Option<String>,
    pixel_seed: Option<u8>,
    text: String,
}

#[derive(Deserialize)]
struct Expected {
    sequences: Vec<Sequence>,
}

#[derive(Debug, Deserialize)]
struct Sequence {
    token_ids: Vec<u32>,
    text: String,
    logprobs: Vec<f64>,
    score: f64,
}

/// A row of the service's answer.
#[derive(Deserialize)]
struct Answer {
    #[serde(flatten)]
    best: Sequence,
    #[serde(default)]
    sequences: Vec<Sequence>,
}

impl Case {
    /// A body for `/score` with some of the rows.
    fn request(&self, rows: &[Row]) -> Value {
        let rows: Vec<_> = rows.iter().map(|row| (base64(&row.image()), row.text.as_str())).collect();
        let rows: Vec<_> = rows.iter().map(|(image, text)| (image.as_str(), *text)).collect();
        let mut request = body(&rows);
        request["params"] = self.params.clone().into();
        request["params"]["logprobs"] = true.into();
        request
    }
}

impl Row {
    fn image(&self) -> Vec<u8> {
        match (&self.image, self.pixel_seed) {
            (Some(image), None) => fs::read(repository(IMAGES).join(image)).unwrap(),
            (None, Some(seed)) => stand_in(seed),
            _ => panic!("a row has either an image or a pixel_seed"),
        }
    }
}

#[test]
#[ignore = "needs ../shared/data; run `make goldens`"]
fn every_golden_row_alone_is_answered_as_by_the_reference() {
    let cases = cases();
    let (mut faults, mut logprobs, mut scores) = (Vec::new(), Vec::new(), Vec::new());
    for (case, answers) in cases.iter().zip(&*ALONE) {
        assert_eq!(case.expected.len(), answers.len(), "{}", case.name);
        for (row, (expected, answer)) in case.expected.iter().zip(answers).enumerate() {
            let Answer { best, sequences } = Answer::deserialize(answer).unwrap();
            let found = if sequences.is_empty() { vec![best] } else { sequences };
            let mut is_right = expected.sequences.len() == found.len();
            for (expected, found) in expected.sequences.iter().zip(&found) {
                let off = largest_difference(&expected.logprobs, &found.logprobs);
                let score_off = (expected.score - found.score).abs();
                logprobs.push((off, &case.name));
                scores.push((score_off, &case.name));
                is_right &= expected.token_ids == found.token_ids && expected.text == found.text;
                is_right &= off < TOLERANCE && score_off < TOLERANCE;
            }
            if !is_right {
                faults.push(format!("{}, row {row}: {:#?} instead of {:#?}", case.name, found, expected.sequences));
            }
        }
    }
    let rows = ALONE.iter().map(Vec::len).sum::<usize>();
    let (logprob, score) = (largest(&logprobs), largest(&scores));
    eprintln!("goldens: {rows} rows of {} cases; largest differences: logprob {logprob}, score {score}", cases.len());
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Greedy rows and beams, with and without processors. All orders but the first find the images known.
#[test]
#[ignore = "needs ../shared/data; run `make goldens`"]
fn goldens_in_company_are_answered_as_alone_to_the_bit() {
    let cases = cases();
    let app = start(&cases, CACHE_BYTES);
    for seed in 0..3 {
        assert_answered_as_alone(&app, &cases, seed);
    }
}

#[test]
#[ignore = "needs ../shared/data; run `make goldens`"]
fn goldens_are_answered_without_caches_as_with_them_to_the_bit() {
    let cases = cases();
    let app = start(&cases, 0);
    for seed in 3..6 {
        assert_answered_as_alone(&app, &cases, seed);
    }
}

/// Sends all cases at once, each from its own thread.
fn assert_answered_as_alone(app: &TestApp, cases: &[Case], seed: u64) {
    let mut order: Vec<_> = cases.iter().zip(&*ALONE).collect();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    let requests: Vec<_> = order.iter().map(|(case, _)| case.request(&case.rows)).collect();
    thread::scope(|scope| {
        for ((case, alone), request) in order.into_iter().zip(requests) {
            scope.spawn(move || assert_eq!(answers(app, &request), *alone, "{}, order {seed}", case.name));
        }
    });
}

/// What the service answers to every row, one at a time: the rows of each case.
static ALONE: LazyLock<Vec<Vec<Value>>> = LazyLock::new(|| {
    let cases = cases();
    let app = start(&cases, CACHE_BYTES);
    let alone = |case: &Case| case.rows.chunks(1).flat_map(|row| answers(&app, &case.request(row))).collect();
    cases.iter().map(alone).collect()
});

fn answers(app: &TestApp, request: &Value) -> Vec<Value> {
    let reply = app.score(request);
    assert_eq!(reply.status, 200, "{}", reply.body);
    serde_json::from_str(&reply.body).unwrap()
}

/// Infinite when one has more numbers than the other.
fn largest_difference(expected: &[f64], found: &[f64]) -> f64 {
    if expected.len() != found.len() {
        return f64::INFINITY;
    }
    expected.iter().zip(found).map(|(expected, found)| (expected - found).abs()).fold(0.0, f64::max)
}

/// The largest difference, and the case that it belongs to.
fn largest(differences: &[(f64, &String)]) -> String {
    let (difference, case) = differences.iter().max_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
    format!("{difference:.1e} ({case})")
}

/// The cases of the reference.
fn cases() -> Vec<Case> {
    assert!(
        env::var_os(BUNDLE).is_some_and(|bundle| !bundle.is_empty()),
        "{BUNDLE} names no bundle; run `make goldens`"
    );
    let file = fs::read(repository(CASES)).unwrap_or_else(|error| panic!("{CASES}: {error}"));
    serde_json::from_slice::<Goldens>(&file).unwrap().cases
}

/// A service over the seeded model.
fn start(cases: &[Case], cache_bytes: usize) -> TestApp {
    let bundle = Bundle::open(&repository(&env::var(BUNDLE).unwrap())).unwrap();
    bundle.check_small_files().unwrap();
    let cache = CacheSize { slots: SLOTS.try_into().unwrap(), max_len: None, kv_tokens: None };
    let model = Blip2::open(&RUNTIME, &bundle, cache, &Devices::CPU).unwrap();
    let frontend = frontend(&bundle, ImageLimits::default()).unwrap();
    let encoder = SeededPixels::new(model.image, cases, &frontend.preprocessor);
    let limits = EngineLimits {
        queue_rows: 64,
        prefill_positions: 64,
        image_cache_bytes: cache_bytes,
        kv_prefix_cache_bytes: cache_bytes,
        stored_image_bytes: 0,
        preprocess_threads: 2,
        timeout: Duration::from_secs(600),
    };
    let engine = Engine::start(frontend, encoder, model.decoder, limits).unwrap();
    spawn_app_with_limit(Some(engine), 16 << 20)
}

/// Encodes, in place of a stand-in image, the pixels of its seed: they belong to no image that could be sent.
struct SeededPixels<E> {
    encoder: E,
    /// Pixels of a stand-in, and those to encode instead.
    replaced: Vec<(PixelValues, PixelValues)>,
}

impl<E> SeededPixels<E> {
    fn new(encoder: E, cases: &[Case], preprocessor: &Preprocessor) -> Self {
        let seeds = cases.iter().flat_map(|case| &case.rows).filter_map(|row| row.pixel_seed);
        let replaced = seeds.map(|seed| {
            let stand_in = preprocessor.preprocess(&stand_in(seed)).unwrap();
            let pixel_values = seeded_pixels(seed, stand_in.dim());
            (stand_in, pixel_values)
        });
        Self { encoder, replaced: replaced.collect() }
    }
}

impl<E: ImageEncoder> ImageEncoder for SeededPixels<E> {
    fn encode(&mut self, images: &[&PixelValues]) -> Result<Vec<EncodedImage>, ModelError> {
        let replaced = |image: &&PixelValues| self.replaced.iter().find(|(stand_in, _)| stand_in == *image);
        let images: Vec<_> = images.iter().map(|image| replaced(image).map_or(*image, |(_, seeded)| seeded)).collect();
        self.encoder.encode(&images)
    }

    fn embed(&mut self, pixel_values: &PixelValues) -> Result<EmbeddedImage, ModelError> {
        self.encoder.embed(pixel_values)
    }
}

/// An image of one pixel that stands for a seed.
fn stand_in(seed: u8) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    RgbImage::from_raw(1, 1, vec![seed, 0, 0]).unwrap().write_to(&mut file, ImageFormat::Png).unwrap();
    file.into_inner()
}

/// `pixel_values` as the reference makes them from a seed: a counter hashed with splitmix64, uniform with deviation 1.
fn seeded_pixels(seed: u8, shape: (usize, usize, usize)) -> PixelValues {
    let digest = Sha256::digest(format!("{seed}:pixel_values"));
    let mut counter = u64::from_le_bytes(digest[..8].try_into().unwrap());
    let pixel = || {
        counter = counter.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let hash = (counter ^ (counter >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let top = ((hash ^ (hash >> 31)) >> 40) as i32;
        (2 * top + 1 - (1 << 24)) as f32 / (1 << 24) as f32 * 3_f64.sqrt() as f32
    };
    let pixels = iter::repeat_with(pixel).take(shape.0 * shape.1 * shape.2).collect();
    PixelValues::from_shape_vec(shape, pixels).unwrap()
}
