//! The committed bundles through ONNX Runtime: right answers, rows together equal to rows alone, damage found at start.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;
use std::thread;
use std::time::Duration;

use blip2::bundle::{Bundle, BundleError, Precision};
use blip2::engine::{Answer, AnswerSequence, Engine, EngineLimits, Pending, RankJob, ScoreJob, StreamEvent, replay};
use blip2::image::ImageLimits;
use blip2::launch::frontend;
use blip2::model::{Blip2, CacheSize, Devices};
use blip2::runtime::{CpuSettings, Runtime};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::helpers::{fixture, repository};

pub(crate) const BUNDLES: [&str; 2] = ["onnx/blip2-shapes", "onnx/blip2-shapes-int8"];

/// One environment per process.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let library = std::env::var_os("ORT_DYLIB_PATH").map_or_else(|| repository(".ort/libonnxruntime.so"), Into::into);
    Runtime::load(&library, &CpuSettings::with_threads(2.try_into().unwrap())).expect("ONNX Runtime; run `make setup`")
});

pub(crate) fn engine(bundle: &Bundle, slots: usize) -> Engine {
    engine_with_caches(bundle, slots, 1 << 20)
}

/// An engine that keeps images and their keys and values in so many bytes each.
fn engine_with_caches(bundle: &Bundle, slots: usize, cache_bytes: usize) -> Engine {
    let cache = CacheSize { slots: slots.try_into().unwrap(), max_len: None, kv_tokens: None };
    let model = Blip2::open(&RUNTIME, bundle, cache, &Devices::CPU).unwrap();
    let frontend = frontend(bundle, ImageLimits::default()).unwrap();
    let limits = EngineLimits {
        queue_rows: 64,
        prefill_positions: 64,
        image_cache_bytes: cache_bytes,
        kv_prefix_cache_bytes: cache_bytes,
        stored_image_bytes: 1 << 16,
        preprocess_threads: 2,
        timeout: Duration::from_secs(60),
    };
    Engine::start(frontend, model.image, model.decoder, limits).unwrap()
}

pub(crate) fn open(path: &str) -> Bundle {
    Bundle::open(&repository(path)).unwrap()
}

/// A question about the scene, with whatever parameters.
fn job(engine: &Engine, text: &str, params: &Value) -> ScoreJob {
    let image = engine.open_images(&[fixture("scene.png")]).remove(0).unwrap();
    ScoreJob { image, text: text.to_owned(), params: engine.parse_params(params).unwrap(), deadline: None }
}

/// Hands a job over without waiting for its answer.
fn submit(engine: &Engine, job: &ScoreJob) -> Pending<Answer> {
    let permit = engine.reserve(1).unwrap();
    engine.submit(engine.prepare(job).unwrap(), &permit).unwrap()
}

/// The best answer to a question about the scene.
fn ask(engine: &Engine, text: &str) -> AnswerSequence {
    submit(engine, &job(engine, text, &Value::Null)).wait().unwrap().best
}

#[test]
fn the_committed_bundles_answer_questions_about_an_image() {
    for path in BUNDLES {
        let engine = engine(&open(path), 2);
        for (text, answer) in [
            ("Question: what color is the star? Answer:", "yellow"),
            ("Question: how many objects are there? Answer:", "three"),
            ("Question: is there a blue circle? Answer:", "yes"),
            ("Question: is there a green circle? Answer:", "no"),
        ] {
            assert_eq!(ask(&engine, text).text, answer, "{path}: {text}");
        }
    }
}

#[test]
fn golden_answers_come_out_right() {
    for path in BUNDLES {
        let bundle = open(path);
        bundle.check_small_files().unwrap();
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
        let pending = TEXTS.map(|text| submit(&together, &job(&together, text, &Value::Null)));
        for (text, pending) in TEXTS.into_iter().zip(pending) {
            assert_eq!(pending.wait().unwrap().best, ask(&alone, text), "{path}: {text}");
        }
    }
}

/// Beams, samples and greedy rows in one batch, which grows and shrinks: every answer as if it had the model to itself.
#[test]
fn every_method_gives_the_same_answers_in_company_and_alone_to_the_bit() {
    let kinds = [
        json!({"max_new_tokens": 12, "logprobs": true, "top_logprobs": 3}),
        json!({"num_beams": 3, "num_return_sequences": 3, "max_new_tokens": 9}),
        json!({"do_sample": true, "seed": 5, "num_return_sequences": 4, "temperature": 1.5, "max_new_tokens": 15}),
        json!({"num_beams": 2, "early_stopping": true, "length_penalty": 0.0, "repetition_penalty": 1.3}),
        json!({"num_beams": 4, "do_sample": true, "seed": 9, "early_stopping": "never", "max_new_tokens": 7}),
        json!({"no_repeat_ngram_size": 2, "min_new_tokens": 6, "max_new_tokens": 30}),
    ];
    let texts = ["", "Question: what color is the star? Answer:", "a"];
    for path in BUNDLES {
        let bundle = open(path);
        let (together, alone) = (engine(&bundle, 7), engine(&bundle, 4));
        let mut pending = Vec::new();
        for (params, text) in kinds.iter().flat_map(|params| texts.map(|text| (params, text))) {
            pending.push((params, text, submit(&together, &job(&together, text, params))));
        }
        for (params, text, pending) in pending {
            let batched = pending.wait().unwrap();
            let single = submit(&alone, &job(&alone, text, params)).wait().unwrap();
            assert_eq!((batched.best, batched.sequences), (single.best, single.sequences), "{path}: {params} {text}");
        }
    }
}

/// Ten questions about one image: it is encoded once, and the answers are those of an engine that remembers nothing.
#[test]
fn a_known_image_is_not_encoded_again_and_its_answers_are_the_same_to_the_bit() {
    let bundle = open(BUNDLES[1]);
    let (engine, texts) = (engine(&bundle, 4), ["", "a", "Question: what color is the star? Answer:"]);
    let pending: Vec<_> =
        (0..9).map(|number| submit(&engine, &job(&engine, texts[number % 3], &Value::Null))).collect();
    let answers: Vec<_> = pending.into_iter().map(|pending| pending.wait().unwrap().best).collect();
    let counts = engine.image_cache();
    assert_eq!((counts.misses, counts.hits, counts.evictions), (1, 8, 0));
    assert!(counts.bytes > 0);
    let counts = engine.kv_prefix_cache();
    assert_eq!((counts.misses, counts.hits, counts.evictions), (1, 8, 0));
    for (number, answer) in answers.iter().enumerate() {
        let anew = ask(&self::engine(&bundle, 1), texts[number % 3]);
        assert_eq!(*answer, anew, "{number}");
    }
}

/// A long prompt is fed in pieces while others come, begin and end, with and without what the caches know.
#[test]
fn an_answer_does_not_depend_on_when_it_came_or_what_was_known() {
    let long = "Question: what color is the star? Answer: yellow. ".repeat(5);
    for path in BUNDLES {
        let bundle = open(path);
        let fresh = engine_with_caches(&bundle, 1, 0);
        let room = fresh.decoder_limits().max_len;
        let texts = [long.as_str(), "", "Question: where is the star? Answer:", "a"];
        let params = json!({"max_new_tokens": 12, "min_new_tokens": 8, "logprobs": true, "top_logprobs": 2});
        let alone = texts.map(|text| submit(&fresh, &job(&fresh, text, &params)).wait().unwrap().best);
        assert!(alone[0].token_ids.len() + long.len() / 2 < room, "the long prompt takes many pieces");
        for cache_bytes in [0, 1 << 20] {
            let busy = engine_with_caches(&bundle, 3, cache_bytes);
            for round in 0..3 {
                let order: Vec<usize> = (0..4).map(|place| (place + round) % 4).collect();
                let pending: Vec<_> = order
                    .iter()
                    .map(|number| {
                        let pending = submit(&busy, &job(&busy, texts[*number], &params));
                        thread::sleep(Duration::from_millis(3 * round as u64)); // the others are under way
                        (*number, pending)
                    })
                    .collect();
                for (number, pending) in pending {
                    assert_eq!(pending.wait().unwrap().best, alone[number], "{path}: {cache_bytes} {round} {number}");
                }
            }
        }
    }
}

/// Two roads to the same numbers: tokens that the model chose, and the same ones given to it.
#[test]
fn the_likelihood_of_a_generated_answer_is_what_it_was_generated_with() {
    for path in BUNDLES {
        let engine = engine(&open(path), 4);
        let question = job(&engine, "Question: where is the star? Answer:", &Value::Null);
        let answer = submit(&engine, &question).wait().unwrap().best;
        let candidates = vec!["nowhere at all".to_owned(), answer.text.clone(), "left".to_owned()];
        let ScoreJob { image, text, .. } = question;
        let rank_job = RankJob { image, text, candidates, with_end_token: true, deadline: None };
        let ranking = engine.rank(&rank_job, &engine.reserve(1).unwrap()).unwrap().wait().unwrap();
        let [other, chosen, _] = ranking.candidates.try_into().unwrap();
        assert_eq!((&chosen.token_ids, &chosen.logprobs), (&answer.token_ids, &answer.logprobs), "{path}");
        assert!(chosen.probability > 0.9 && chosen.sum > other.sum, "{path}: {chosen:?} {other:?}");
    }
}

#[test]
fn a_streamed_answer_is_the_same_answer_in_pieces() {
    let engine = engine(&open(BUNDLES[0]), 2);
    let job = job(&engine, "", &json!({"max_new_tokens": 20}));
    let whole = submit(&engine, &job).wait().unwrap().best;
    let mut stream = engine.stream(engine.prepare(&job).unwrap(), &engine.reserve(1).unwrap(), Vec::new()).unwrap();
    actix_web::rt::System::new().block_on(async {
        let (mut pieces, mut token_ids) = (Vec::new(), Vec::new());
        while let Some(event) = stream.next().await {
            match event.unwrap() {
                StreamEvent::Piece(piece) => {
                    token_ids.extend(piece.tokens.iter().map(|token| token.token_id));
                    pieces.push(piece.text);
                }
                StreamEvent::End { rest, answer } => {
                    pieces.extend(rest.into_iter().map(|piece| piece.text));
                    assert_eq!(answer.best, whole);
                }
            }
        }
        assert_eq!(pieces.concat(), whole.text);
        let (end_token, visible) = whole.token_ids.split_last().unwrap();
        assert_eq!((*end_token, &*token_ids), (engine.tokenizer().special_ids().eos_token_id, visible));
        assert!(pieces.iter().filter(|piece| !piece.is_empty()).count() > 3, "{pieces:?}");
    });
}

/// The cached path (prefill, then single tokens) against one pass over prompt and answer.
#[test]
fn decoding_step_by_step_equals_prefilling_everything() {
    for path in BUNDLES {
        let engine = engine(&open(path), 1);
        let stepwise = ask(&engine, "Question: where is the star? Answer:");
        let whole = format!("Question: where is the star? Answer: {}", stepwise.text);
        let next = ask(&engine, &whole);
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
                assert_eq!(ask(&engine, "Question: what color is the star? Answer:").text, "yellow");
            });
        }
    });
}

#[test]
fn data_files_are_hashed_in_the_background_and_nowhere_else() {
    let folder = tempfile::tempdir().unwrap();
    copy_of_bundle(folder.path());
    add_data_file(folder.path(), "decoder.onnx.data");
    add_data_file(folder.path(), "qformer.onnx.data");
    let check = || {
        let bundle = Bundle::open(folder.path()).unwrap();
        bundle.check_small_files().unwrap();
        bundle.check_data_files_in_background().unwrap().join()
    };
    check().unwrap();
    flip_a_byte(&folder.path().join("qformer.onnx.data"));
    match check().unwrap_err() {
        BundleError::Damaged { path, detail } => {
            assert!(path.ends_with("qformer.onnx.data") && detail.contains("sha256"), "{} {detail}", path.display());
        }
        other => panic!("{other}"),
    }
}

/// It costs nothing, and a copy that broke off is the commonest damage of a large file.
#[test]
fn the_size_of_a_data_file_is_compared_before_anything_is_hashed() {
    let folder = tempfile::tempdir().unwrap();
    copy_of_bundle(folder.path());
    add_data_file(folder.path(), "vision_encoder.onnx.data");
    flip_a_byte(&folder.path().join("decoder.onnx"));
    let data_file = folder.path().join("vision_encoder.onnx.data");
    fs::write(&data_file, "short").unwrap();
    let check = || Bundle::open(folder.path()).unwrap().check_small_files().unwrap_err().to_string();
    assert!(check().contains("vision_encoder.onnx.data is damaged: 5 bytes instead of"), "{}", check());
    fs::remove_file(&data_file).unwrap();
    assert!(check().contains("cannot read") && check().contains("vision_encoder.onnx.data"), "{}", check());
}

#[test]
fn a_manifest_may_say_more_than_this_version_reads() {
    let folder = tempfile::tempdir().unwrap();
    copy_of_bundle(folder.path());
    edit_manifest(folder.path(), &|manifest| {
        manifest["precision"]["decoder"] = "int4".into();
        manifest["export"] = json!({"block_size": 32, "operators": {"decoder": {"MatMulNBits": 129}}});
        manifest["decoder"]["rope"] = json!([1, null]);
        manifest["files"]["decoder.onnx"]["mode"] = 420.into();
    });
    let bundle = Bundle::open(folder.path()).unwrap();
    bundle.check_small_files().unwrap();
    assert_eq!(bundle.manifest().precision.decoder, Precision::Int4);
    let answer = engine(&bundle, 1);
    assert_eq!(ask(&answer, "Question: what color is the star? Answer:").text, "yellow");
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

/// Gives a bundle a data file, listed with its hash. No graph refers to it, and none needs to for the checks.
pub(crate) fn add_data_file(bundle: &Path, name: &str) {
    let content: Vec<u8> = (0..3 << 20).map(|i: u32| (i % 251) as u8).collect();
    let sha256: String = Sha256::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect();
    fs::write(bundle.join(name), &content).unwrap();
    edit_manifest(bundle, &|manifest| {
        manifest["files"][name] = json!({"sha256": sha256, "bytes": content.len()});
    });
}

pub(crate) fn flip_a_byte(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

pub(crate) fn edit_manifest(bundle: &Path, edit: &dyn Fn(&mut Value)) {
    let path = bundle.join("manifest.json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    edit(&mut manifest);
    fs::write(&path, manifest.to_string()).unwrap();
}
