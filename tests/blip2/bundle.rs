//! The committed bundles through ONNX Runtime: right answers, rows together equal to rows alone, damage found at start.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;
use std::thread;

use blip2::bundle::Bundle;
use blip2::engine::{Engine, EngineLimits, Frontend, ScoreJob, replay};
use blip2::generation::GenerationParams;
use blip2::image::{ImageLimits, Preprocessor, PreprocessorConfig};
use blip2::model::{Blip2, CacheSize};
use blip2::runtime::Runtime;
use blip2::text::{SpecialIds, Tokenizer};

use crate::helpers::{fixture, repository};

const BUNDLES: [&str; 2] = ["onnx/blip2-shapes", "onnx/blip2-shapes-int8"];

/// One environment per process.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let library = std::env::var_os("ORT_DYLIB_PATH").map_or_else(|| repository(".ort/libonnxruntime.so"), Into::into);
    Runtime::load(&library, 2.try_into().unwrap()).expect("ONNX Runtime; run `make setup`")
});

fn engine(bundle: &Bundle, slots: usize) -> Engine {
    let manifest = bundle.manifest();
    let cache = CacheSize { slots: slots.try_into().unwrap(), max_len: None };
    let model = Blip2::open(&RUNTIME, bundle, cache).unwrap();
    let (image, tokenizer) = (&manifest.image, &manifest.tokenizer);
    let config = PreprocessorConfig { height: image.height, width: image.width, mean: image.mean, std: image.std };
    let ids = SpecialIds {
        bos_token_id: tokenizer.bos_token_id,
        eos_token_id: tokenizer.eos_token_id,
        pad_token_id: tokenizer.pad_token_id,
        image_token_id: tokenizer.image_token_id,
    };
    let frontend = Frontend {
        preprocessor: Preprocessor::new(&config, ImageLimits::default()).unwrap(),
        tokenizer: Tokenizer::from_bytes(&bundle.read(&tokenizer.file).unwrap(), ids).unwrap(),
        defaults: manifest.generation,
    };
    let limits = EngineLimits { queue_rows: 64, prefills_per_turn: 1 };
    Engine::start(frontend, model.image, model.decoder, limits).unwrap()
}

fn open(path: &str) -> Bundle {
    Bundle::open(&repository(path)).unwrap()
}

fn job(engine: &Engine, text: &str) -> ScoreJob {
    let params = GenerationParams::new(engine.defaults());
    ScoreJob { image: fixture("scene.png"), text: text.to_owned(), params }
}

#[test]
fn the_committed_bundles_answer_questions_about_a_picture() {
    for path in BUNDLES {
        let engine = engine(&open(path), 2);
        for (text, answer) in [
            ("Question: what color is the star? Answer:", "yellow"),
            ("Question: how many objects are there? Answer:", "three"),
            ("Question: is there a blue circle? Answer:", "yes"),
            ("Question: is there a green circle? Answer:", "no"),
        ] {
            assert_eq!(engine.score(&job(&engine, text)).unwrap().text, answer, "{path}: {text}");
        }
    }
}

#[test]
fn golden_answers_come_out_right() {
    for path in BUNDLES {
        let bundle = open(path);
        bundle.check_files().unwrap();
        let engine = engine(&bundle, 1);
        let cases = bundle.golden_cases().unwrap();
        assert!(cases.len() >= 4, "{path} holds {} golden answers", cases.len());
        for case in &cases {
            replay(&engine, case).unwrap();
        }
    }
}

#[test]
fn a_wrong_golden_answer_is_noticed() {
    let bundle = open(BUNDLES[0]);
    let engine = engine(&bundle, 1);
    let mut case = bundle.golden_cases().unwrap().remove(0);
    case.token_ids[0] += 1;
    assert!(replay(&engine, &case).unwrap_err().to_string().contains(&case.name));
}

/// Rows of different length, admitted at different times into slots that others have left.
#[test]
fn rows_decoded_together_equal_rows_alone_to_the_bit() {
    const TEXTS: [&str; 6] = [
        "",
        "Question: what color is the star? Answer:",
        "Question: where is the star? Answer: right. Question: how many objects are there? Answer:",
        "a",
        "Question: is there a blue circle? Answer: yes. Question: where is the circle? Answer:",
        "something else entirely, to be answered at length",
    ];
    for path in BUNDLES {
        let bundle = open(path);
        let together = engine(&bundle, 3);
        let alone = engine(&bundle, 1);
        let permit = together.reserve(TEXTS.len()).unwrap();
        let pending: Vec<_> = TEXTS
            .iter()
            .map(|text| together.submit(together.prepare(&job(&together, text)).unwrap(), &permit).unwrap())
            .collect();
        for (text, pending) in TEXTS.iter().zip(pending) {
            let (batched, single) = (pending.wait().unwrap(), alone.score(&job(&alone, text)).unwrap());
            assert_eq!(batched.token_ids, single.token_ids, "{path}: {text}");
            assert_eq!(batched.logprobs, single.logprobs, "{path}: {text}");
        }
    }
}

/// The cached path (prefill, then single tokens) against one pass over prompt and answer.
#[test]
fn decoding_step_by_step_equals_prefilling_everything() {
    for path in BUNDLES {
        let engine = engine(&open(path), 1);
        let stepwise = engine.score(&job(&engine, "Question: where is the star? Answer:")).unwrap();
        let whole = format!("Question: where is the star? Answer: {}", stepwise.text);
        let next = engine.score(&job(&engine, &whole)).unwrap();
        let last = stepwise.logprobs.len() - 1;
        assert_eq!(next.token_ids[0], stepwise.token_ids[last], "{path}");
        let difference = (next.logprobs[0] - stepwise.logprobs[last]).abs();
        assert!(difference < 1e-3, "{path}: {difference}");
    }
}

#[test]
fn one_engine_serves_many_threads() {
    let engine = engine(&open(BUNDLES[0]), 4);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let answer = engine.score(&job(&engine, "Question: what color is the star? Answer:")).unwrap();
                assert_eq!(answer.text, "yellow");
            });
        }
    });
}

/// A copy of the committed bundle that a test may damage.
pub(crate) fn copy_of_bundle(target: &Path) {
    copy_folder(&repository(BUNDLES[0]), target);
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_folder(&path, &target);
        } else {
            fs::write(&target, fs::read(&path).unwrap()).unwrap();
        }
    }
}
