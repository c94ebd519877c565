//! The binary as a user runs it: standard output, standard error, exit codes.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::bundle::{add_data_file, copy_of_bundle, edit_manifest, flip_a_byte};
use crate::helpers::repository;

pub(crate) fn blip2(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_blip2"));
    command.current_dir(repository(""));
    for variable in ["BLIP2_MODEL", "AZUREML_MODEL_DIR", "SERVER_PORT", "BLIP2_PORT"] {
        command.env_remove(variable);
    }
    if std::env::var_os("ORT_DYLIB_PATH").is_none() {
        command.env("ORT_DYLIB_PATH", repository(".ort/libonnxruntime.so"));
    }
    command.args(arguments);
    command
}

fn run(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code().unwrap(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// The lines of standard error that are not log lines.
fn complaint(stderr: &str) -> String {
    let lines: Vec<_> =
        stderr.lines().filter(|line| line.starts_with("blip2: ") || line.starts_with("error: ")).collect();
    assert_eq!(lines.len(), 1, "one line says what is wrong: {stderr}");
    lines[0].to_owned()
}

const SCENE: &str = "tests/fixtures/scene.png";
const STAR: &str = "Question: what color is the star? Answer:";

#[test]
fn score_prints_one_row_of_json() {
    let (code, stdout, stderr) = run(&mut blip2(&["score", "--image", SCENE, "--text", STAR]));
    assert_eq!(code, 0, "{stderr}");
    let row: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(row["text"], "yellow");
    assert_eq!(row["stop_reason"], "eos");
    let tokens = row["token_ids"].as_array().unwrap().len();
    assert!(tokens >= 2 && row["logprobs"].as_array().unwrap().len() == tokens, "{row}");
    assert!(row["score"].as_f64().unwrap() < 0.0);
    let timings = row["timings_ms"].as_object().unwrap();
    for stage in ["preprocess", "queue", "vision_encoder", "qformer", "prefill", "decode", "total"] {
        assert!(timings[stage].as_f64().unwrap() >= 0.0, "{stage}");
    }
}

#[test]
fn score_takes_generation_parameters() {
    let (code, stdout, _) = run(&mut blip2(&["score", "--image", SCENE, "--params", r#"{"max_new_tokens": 2}"#]));
    let row: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, row["stop_reason"].as_str(), row["token_ids"].as_array().unwrap().len()), (0, Some("length"), 2));
}

#[test]
fn score_names_what_was_typed_wrongly_and_exits_with_2() {
    for (arguments, part) in [
        (["--image", "nowhere.png", "--params", "{}"], "nowhere.png"),
        (["--image", "Cargo.toml", "--params", "{}"], "Cargo.toml"),
        (["--image", SCENE, "--params", "{"], "--params"),
        (["--image", SCENE, "--params", r#"{"max_new_tokens": 0}"#], "max_new_tokens is 0"),
        (["--image", SCENE, "--params", r#"{"max_new_tokens": 100000}"#], "max_new_tokens"),
        (["--image", SCENE, "--slots", "0"], "--slots"),
    ] {
        let (code, stdout, stderr) = run(blip2(&["score"]).args(arguments));
        assert_eq!((code, stdout.as_str()), (2, ""), "{stderr}");
        assert!(complaint(&stderr).contains(part), "{stderr}");
    }
}

#[test]
fn bench_measures_stages_decode_steps_requests_and_memory() {
    let short = ["bench", "--json", "--new-tokens", "2", "--repeats", "1", "--rows", "2,1000"];
    let (code, stdout, stderr) = run(&mut blip2(&short));
    assert_eq!(code, 0, "{stderr}");
    let results: Value = serde_json::from_str(&stdout).unwrap();
    let is_measured = |value: &Value| value.as_f64().is_some_and(|number| number > 0.0);
    assert!(results["stages_ms"].as_object().unwrap().values().all(is_measured), "{results}");
    let [fits, does_not_fit] = results["decode_steps"].as_array().unwrap().as_slice() else { panic!("{results}") };
    for field in ["bare_ms", "in_engine_ms", "ratio", "overhead_ms"] {
        assert!(is_measured(&fits[field]) && does_not_fit[field].is_null(), "{field}: {results}");
    }
    let requests = results["requests"].as_array().unwrap();
    assert!(requests.iter().all(|case| is_measured(&case["new_tokens_per_s"])), "{results}");
    assert_eq!(requests.iter().map(|case| &case["requests"]).collect::<Vec<_>>(), [1, 8, 10]);
    assert!(is_measured(&results["memory"]["resident_bytes"]), "{results}");
}

#[test]
fn bench_names_what_cannot_be_measured_and_exits_with_2() {
    for (flag, value, part) in [
        ("--rows", "0", "--rows"),
        ("--queue-rows", "5", "--queue-rows is 5"),
        ("--new-tokens", "100000", "max_new_tokens is 100000"),
    ] {
        let (code, stdout, stderr) = run(&mut blip2(&["bench", flag, value]));
        assert_eq!((code, stdout.as_str()), (2, ""), "{stderr}");
        assert!(complaint(&stderr).contains(part), "{stderr}");
    }
}

#[test]
fn verify_tells_what_it_checked() {
    let (code, stdout, stderr) = run(&mut blip2(&["verify"]));
    assert_eq!(code, 0, "{stderr}");
    for part in ["blip2-shapes", "files", "signatures", "golden"] {
        assert!(stdout.contains(part), "{stdout}");
    }
}

#[test]
fn a_model_that_cannot_be_loaded_exits_with_3_and_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    fs::create_dir(path("empty")).unwrap();
    let damaged = |name: &str, damage: &dyn Fn(&Path)| {
        copy_of_bundle(&folder.path().join(name));
        damage(&folder.path().join(name));
    };
    damaged("flipped", &|bundle| flip_a_byte(&bundle.join("decoder.onnx")));
    damaged("short", &|bundle| fs::write(bundle.join("qformer.onnx"), "short").unwrap());
    damaged("no-file", &|bundle| fs::remove_file(bundle.join("vision_encoder.onnx")).unwrap());
    damaged("no-json", &|bundle| fs::write(bundle.join("manifest.json"), "{").unwrap());
    damaged("swapped", &|bundle| edit_manifest(bundle, &|manifest| manifest["decoder"]["vocab_size"] = 7000.into()));
    damaged("renamed", &|bundle| {
        edit_manifest(bundle, &|manifest| manifest["vision_encoder"]["inputs"]["pixel_values"] = "pixels".into());
    });
    damaged("newer", &|bundle| edit_manifest(bundle, &|manifest| manifest["schema_version"] = 99.into()));
    damaged("escape", &|bundle| {
        edit_manifest(bundle, &|manifest| {
            let entry = manifest["files"]["decoder.onnx"].clone();
            manifest["files"]["../decoder.onnx"] = entry;
        });
    });
    damaged("weights-flipped", &|bundle| {
        add_data_file(bundle, "decoder.onnx.data");
        flip_a_byte(&bundle.join("decoder.onnx.data"));
    });
    // ONNX Runtime would complain too, and the hash is the reason that helps.
    damaged("weights-flipped-and-swapped", &|bundle| {
        add_data_file(bundle, "decoder.onnx.data");
        flip_a_byte(&bundle.join("decoder.onnx.data"));
        edit_manifest(bundle, &|manifest| manifest["decoder"]["vocab_size"] = 7000.into());
    });
    damaged("weights-short", &|bundle| {
        add_data_file(bundle, "qformer.onnx.data");
        fs::write(bundle.join("qformer.onnx.data"), "short").unwrap();
    });
    damaged("cuda", &|bundle| edit_manifest(bundle, &|manifest| manifest["target"] = "cuda".into()));
    for target in ["cuda", "tensorrt"] {
        damaged(&format!("{target}-float16"), &|bundle| {
            edit_manifest(bundle, &|manifest| {
                manifest["target"] = target.into();
                manifest["decoder"]["kv_dtype"] = "float16".into();
            });
        });
    }
    damaged("float16", &|bundle| edit_manifest(bundle, &|manifest| manifest["decoder"]["kv_dtype"] = "float16".into()));
    for (model, parts) in [
        ("nowhere", ["does not exist", "--model"]),
        ("empty", ["is empty", "--model"]),
        ("flipped", ["decoder.onnx is damaged", "sha256"]),
        ("short", ["qformer.onnx is damaged", "5 bytes"]),
        ("no-file", ["vision_encoder.onnx", "export the bundle again"]),
        ("no-json", ["manifest.json", "export the bundle again"]),
        ("swapped", ["decoder", "logits"]),
        ("renamed", ["vision encoder", "pixels"]),
        ("newer", ["schema_version is 99", "export the bundle again"]),
        ("weights-flipped", ["decoder.onnx.data is damaged", "sha256"]),
        ("weights-flipped-and-swapped", ["decoder.onnx.data is damaged", "sha256"]),
        ("weights-short", ["qformer.onnx.data is damaged", "5 bytes"]),
        ("cuda", ["kv_dtype is float32", "--target cuda"]),
        // No driver, or where there is one, a build of ONNX Runtime for the CPU.
        ("cuda-float16", ["NVIDIA", "docs/gpu.md"]),
        ("tensorrt-float16", ["NVIDIA", "docs/gpu.md"]),
        ("float16", ["does not fit the manifest", "past_key_values.0.key"]),
        ("escape", ["leaves the bundle", "../decoder.onnx"]),
    ] {
        for command in [["verify", "--threads", "1"], ["serve", "--port", "0"]] {
            // The build for the CPU, also where the tests run with another.
            let library = repository(".ort/libonnxruntime.so");
            let (code, _, stderr) = run(blip2(&command).args(["--model", &path(model)]).env("ORT_DYLIB_PATH", library));
            assert_eq!(code, 3, "{model}: {stderr}");
            let line = complaint(&stderr);
            assert!(parts.iter().all(|part| line.contains(part)), "{model}: {line}");
        }
    }
}

#[test]
fn the_model_folder_that_azure_sets_is_searched_and_what_it_holds_is_told() {
    let mount = tempfile::tempdir().unwrap();
    let verify = |folder: String| run(blip2(&["verify"]).env("AZUREML_MODEL_DIR", folder));
    let name = mount.path().display();
    fs::create_dir_all(mount.path().join("models/blip2/1")).unwrap();
    fs::write(mount.path().join("models/blip2/1/model.bin"), "").unwrap();
    let (code, _, stderr) = verify(format!("{name}/models"));
    assert!(code == 3 && complaint(&stderr).contains("it holds blip2/1/model.bin"), "{stderr}");
    copy_of_bundle(&mount.path().join("models/blip2/1/bundle"));
    for folder in ["models/blip2/1", "models//blip2/1/", "models/blip2/1/bundle", "models"] {
        let (code, stdout, stderr) = verify(format!("{name}/{folder}"));
        assert!(code == 0 && stdout.contains("blip2-shapes"), "{folder}: {stderr}");
    }
}

#[test]
fn variables_of_azure_that_make_no_sense_exit_with_2_and_their_name() {
    for (name, value) in [("SERVER_PORT", "http"), ("WORKER_COUNT", "0"), ("SCORING_TIMEOUT_MS", "soon")] {
        let (code, _, stderr) = run(blip2(&["serve", "--model", "/nowhere"]).env(name, value));
        assert!(code == 2 && complaint(&stderr).contains(name), "{name}: {stderr}");
    }
}

/// Without a library, the only message that can come is one from before it is needed.
#[test]
fn a_damaged_graph_is_refused_before_onnx_runtime_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    copy_of_bundle(folder.path());
    flip_a_byte(&folder.path().join("decoder.onnx"));
    let model = folder.path().to_str().unwrap();
    let (code, _, stderr) = run(&mut blip2(&["verify", "--model", model, "--ort-library", "/nowhere"]));
    assert!(code == 3 && complaint(&stderr).contains("decoder.onnx is damaged"), "{stderr}");
}

#[test]
fn a_missing_onnx_runtime_exits_with_3_and_the_remedy() {
    for library in ["/nowhere/libonnxruntime.so", "Cargo.toml"] {
        let (code, _, stderr) = run(&mut blip2(&["verify", "--ort-library", library]));
        let line = complaint(&stderr);
        assert!(code == 3 && line.contains(library) && line.contains("make setup"), "{line}");
    }
}

#[test]
fn a_port_that_is_taken_exits_with_3() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (code, _, stderr) = run(&mut blip2(&["serve", "--host", "127.0.0.1", "--port", &port]));
    assert!(code == 3 && complaint(&stderr).contains(&port), "{stderr}");
}

#[test]
fn help_teaches_every_flag_with_its_variable() {
    let (code, help, _) = run(&mut blip2(&["serve", "--help"]));
    assert_eq!(code, 0);
    for variable in
        ["BLIP2_MODEL", "ORT_DYLIB_PATH", "BLIP2_PORT", "BLIP2_SLOTS", "BLIP2_QUEUE_ROWS", "BLIP2_MAX_BODY_BYTES"]
    {
        assert!(help.contains(variable), "{variable}: {help}");
    }
    let (_, help, _) = run(&mut blip2(&["--help"]));
    assert!(help.contains("Exit codes"), "{help}");
}

#[test]
fn serve_becomes_ready_answers_and_ends_on_sigterm_with_0() {
    let mut child = blip2(&["serve", "--host", "127.0.0.1", "--port", "0"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let ready = lines.find(|line| line.contains(" ready ")).expect("a line says that it is ready");
    let port = ready.split("port=").nth(1).unwrap().trim().to_owned();
    let mut reply = ureq::get(format!("http://127.0.0.1:{port}/readyz")).call().unwrap();
    assert!(reply.body_mut().read_to_string().unwrap().contains("ready"));
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
