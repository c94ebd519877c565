//! Golden answers: images and prompts with the token ids of the reference.

use std::path::Path;

use serde::Deserialize;

use super::{Bundle, BundleError, read_json};

const CASES_FILE: &str = "golden/cases.json";

/// One golden answer, with its image in memory.
#[derive(Debug, Clone)]
pub struct GoldenCase {
    /// The name, for messages.
    pub name: String,
    /// The image file.
    pub image: Vec<u8>,
    /// The prompt; empty for a caption.
    pub text: String,
    /// The most new tokens of the answer.
    pub max_new_tokens: usize,
    /// The ids after the image positions: the start token, then those of the text.
    pub prompt_ids: Vec<u32>,
    /// The expected new tokens, with the end token if it was generated.
    pub token_ids: Vec<u32>,
    /// The expected text.
    pub answer: String,
}

#[derive(Deserialize)]
struct CasesFile {
    cases: Vec<CaseEntry>,
}

#[derive(Deserialize)]
struct CaseEntry {
    name: String,
    image: String,
    text: String,
    max_new_tokens: usize,
    prompt_ids: Vec<u32>,
    token_ids: Vec<u32>,
    answer: String,
}

impl Bundle {
    /// Reads the golden answers of the bundle; none if it was never verified.
    ///
    /// # Errors
    /// [`BundleError`] when the cases or an image cannot be read.
    pub fn golden_cases(&self) -> Result<Vec<GoldenCase>, BundleError> {
        if !self.manifest().files.contains_key(CASES_FILE) {
            return Ok(Vec::new());
        }
        let file: CasesFile = read_json(&self.path(CASES_FILE))?;
        file.cases.into_iter().map(|entry| self.load_case(entry)).collect()
    }

    fn load_case(&self, entry: CaseEntry) -> Result<GoldenCase, BundleError> {
        let folder = Path::new(CASES_FILE).parent().and_then(Path::to_str).unwrap_or_default();
        let file = format!("{folder}/{}", entry.image);
        // Only files of the manifest are opened, because their hashes were checked.
        if !self.manifest().files.contains_key(&file) {
            let reason = format!("the image {} of golden case {} is not in the manifest", entry.image, entry.name);
            return Err(BundleError::Invalid { path: self.path(CASES_FILE), reason });
        }
        Ok(GoldenCase {
            image: self.read(&file)?,
            name: entry.name,
            text: entry.text,
            max_new_tokens: entry.max_new_tokens,
            prompt_ids: entry.prompt_ids,
            token_ids: entry.token_ids,
            answer: entry.answer,
        })
    }
}
