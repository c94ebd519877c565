//! `blip2 score`: one picture, one prompt, one JSON object on standard output.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, anyhow};
use clap::Args;
use serde::Serialize;

use super::Failure;
use super::load::load;
use super::runtime_args::RuntimeArgs;
use crate::engine::{Answer, AnswerSequence, EngineError, TimingsMs};
use crate::telemetry::{self, LogTarget};

/// As typed.
#[derive(Debug, Args)]
pub(super) struct ScoreArgs {
    #[command(flatten)]
    runtime: RuntimeArgs,

    /// Picture file: JPEG, PNG, WebP, GIF, BMP or TIFF
    #[arg(long, value_name = "FILE")]
    image: PathBuf,

    /// Prompt, passed on as it is, e.g. "Question: what color is the star? Answer:"; without one: a caption
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    text: String,

    /// Generation parameters under transformers' names, e.g. '{"max_new_tokens": 5}'
    #[arg(long, value_name = "JSON", default_value = "{}")]
    params: String,
}

/// The row of output: the best sequence, and all of them when more than one was asked for.
#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    best: AnswerSequence,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    sequences: Vec<AnswerSequence>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
    timings_ms: TimingsMs,
}

impl From<Answer> for Row {
    fn from(answer: Answer) -> Self {
        let Answer { best, sequences, warnings, timings } = answer;
        Self { best, sequences, warnings, timings_ms: timings.into() }
    }
}

pub(super) fn run(args: &ScoreArgs) -> Result<(), Failure> {
    telemetry::start(LogTarget::Stderr);
    // What was typed is checked before a model is loaded, which may take seconds.
    let params = serde_json::from_str(&args.params).context("--params is not JSON").map_err(Failure::usage)?;
    let image = fs::read(&args.image)
        .with_context(|| format!("cannot read the picture {}", args.image.display()))
        .map_err(Failure::usage)?;
    let (_, engine) = load(&args.runtime.settings())?;
    let params = engine.parse_params(&params).map_err(Failure::usage)?;
    let answer = engine.score(&image, &args.text, params).map_err(|error| match error {
        EngineError::Rejected(error) => Failure::usage(anyhow!(error).context(args.image.display().to_string())),
        error => Failure::result(error),
    })?;
    let row = serde_json::to_string(&Row::from(answer)).map_err(Failure::result)?;
    println!("{row}");
    Ok(())
}
