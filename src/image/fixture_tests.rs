//! Whole files against hashes of the reference: the committed images and, where they are, the
//! goldens beside the repository. Each stage is compared, so that a failure names the stage.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{ImageLimits, Preprocessor, PreprocessorConfig, decode, resize};

const MEAN: [f64; 3] = [0.48145466, 0.4578275, 0.40821073];
const STD: [f64; 3] = [0.26862954, 0.26130258, 0.27577711];

#[derive(Deserialize)]
struct Cases {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    file: String,
    #[serde(default = "size_of_the_goldens")]
    size: u32,
    expected: Stages,
}

fn size_of_the_goldens() -> u32 {
    224
}

#[derive(Debug, Default, Deserialize, PartialEq)]
struct Stages {
    width: u32,
    height: u32,
    rgb_sha256: String,
    resized_sha256: String,
    pixel_values_sha256: String,
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn stages(bytes: &[u8], size: u32) -> anyhow::Result<Stages> {
    let limits = ImageLimits::default();
    let config = PreprocessorConfig { height: size, width: size, mean: MEAN, std: STD };
    let rgb = decode(bytes, &limits)?;
    let values = Preprocessor::new(&config, limits)?.preprocess(bytes)?;
    let values: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Ok(Stages {
        width: rgb.width(),
        height: rgb.height(),
        rgb_sha256: sha256(rgb.as_raw()),
        resized_sha256: sha256(&resize::resize(&rgb, size, size)),
        pixel_values_sha256: sha256(&values),
    })
}

/// The files whose stages differ, each with what was found.
fn differences(cases: &Path, images: &Path) -> Vec<String> {
    let cases: Cases = serde_json::from_slice(&std::fs::read(cases).unwrap()).unwrap();
    assert!(!cases.cases.is_empty());
    let compare = |case: Case| {
        let bytes = std::fs::read(images.join(&case.file)).unwrap();
        match stages(&bytes, case.size) {
            Ok(found) if found == case.expected => None,
            Ok(found) => Some(format!("{}: found {found:?}, expected {:?}", case.file, case.expected)),
            Err(error) => Some(format!("{}: {error:#}", case.file)),
        }
    };
    cases.cases.into_iter().filter_map(compare).collect()
}

fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[test]
fn committed_images_are_bit_exact_at_every_stage() {
    let fixtures = in_repository("tests/fixtures");
    let differences = differences(&fixtures.join("preprocess_cases.json"), &fixtures.join("images"));
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn goldens_are_bit_exact_at_every_stage() {
    let shared = in_repository("../shared/data");
    let cases = shared.join("golden/preprocess_cases.json");
    if !cases.exists() {
        println!("skipped: no goldens beside the repository");
        return;
    }
    let differences = differences(&cases, &shared.join("images"));
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
