//! The invariants of ARCHITECTURE.md that can be read off the source.

use std::fs;
use std::path::{Path, PathBuf};

use crate::helpers::repository;

/// Source files as (path below `src`, text without its tests).
fn sources() -> Vec<(String, String)> {
    let mut files = Vec::new();
    collect(&repository("src"), &mut files);
    let root = repository("src");
    let name = |path: &Path| path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
    files.iter().map(|path| (name(path), without_tests(&fs::read_to_string(path).unwrap()))).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !is_test(&path) {
            files.push(path);
        }
    }
}

/// Long tests stand in files of their own.
fn is_test(path: &Path) -> bool {
    path.file_stem().and_then(|stem| stem.to_str()).is_some_and(|stem| stem.ends_with("_tests"))
}

fn without_tests(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).map(|line| format!("{line}\n")).collect()
}

/// The files outside `allowed` that mention one of `names`.
fn offenders(names: &[&str], allowed: &[&str]) -> Vec<String> {
    let is_allowed = |file: &str| allowed.iter().any(|prefix| file.starts_with(prefix));
    let mentions = |text: &str| names.iter().any(|name| text.contains(name));
    sources().into_iter().filter(|(file, text)| !is_allowed(file) && mentions(text)).map(|(file, _)| file).collect()
}

const NONE: [String; 0] = [];

#[test]
fn only_the_server_and_the_serve_command_name_actix_web() {
    assert_eq!(offenders(&["actix_web"], &["server/", "cli/serve.rs"]), NONE);
}

#[test]
fn only_the_command_line_names_clap() {
    assert_eq!(offenders(&["clap::", "use clap"], &["cli/", "main.rs"]), NONE);
}

#[test]
fn only_runtime_and_model_name_ort() {
    assert_eq!(offenders(&["ort::", "use ort"], &["runtime/", "model/"]), NONE);
}

#[test]
fn image_text_and_generation_touch_no_file_clock_or_environment() {
    let impure = ["std::fs", "std::env", "std::time", "std::net", "std::io::std", "tracing::"];
    let pure = ["image/", "text/", "generation/"];
    let found: Vec<_> =
        offenders(&impure, &[]).into_iter().filter(|file| pure.iter().any(|p| file.starts_with(p))).collect();
    assert_eq!(found, NONE);
}

#[test]
fn unsafe_stands_where_foreign_memory_is_touched() {
    let runtime = ["binding", "buffer", "gpu", "gpu_libraries", "placement", "vendor_telemetry"];
    let allowed = runtime.map(|file| format!("runtime/{file}.rs")).into_iter().chain(["main.rs".into()]);
    let allowed: Vec<_> = allowed.collect();
    let allowed: Vec<_> = allowed.iter().map(String::as_str).collect();
    assert_eq!(offenders(&["unsafe {", "unsafe fn", "unsafe impl"], &allowed), NONE);
}

#[test]
fn no_number_of_a_checkpoint_is_in_the_code() {
    let numbers =
        ["50118", "50265", "50272", "50304", "2560", "1408", "0.48145466", "past_key_values", "\"pixel_values\""];
    assert_eq!(offenders(&numbers, &[]), NONE);
}

#[test]
fn engine_generation_and_server_know_no_onnx_runtime() {
    let upper = offenders(&["crate::runtime", "crate::model"], &["cli/", "launch/", "model/", "runtime/"]);
    assert_eq!(upper, NONE);
}

#[test]
fn scoring_knows_neither_http_nor_a_protocol() {
    let found: Vec<_> = offenders(&["crate::server", "actix", "StatusCode", "utoipa"], &["server/", "cli/"]);
    assert_eq!(found.into_iter().filter(|file| file.starts_with("scoring/")).collect::<Vec<_>>(), NONE);
}

#[test]
fn every_source_file_says_what_it_is() {
    let mut files = Vec::new();
    collect(&repository("src"), &mut files);
    let silent: Vec<_> =
        files.into_iter().filter(|path| !fs::read_to_string(path).unwrap().starts_with("//!")).collect();
    assert_eq!(silent, Vec::<PathBuf>::new());
}
