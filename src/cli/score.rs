//! `blip2 score`: one image, one prompt, one JSON object on standard output.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, anyhow};
use clap::Args;
use serde::Serialize;

use super::Failure;
use super::runtime_args::RuntimeArgs;
use crate::engine::{Answer, AnswerSequence, Engine, EngineError, RankJob, RankedCandidate, Ranking, TimingsMs};
use crate::launch::open;
use crate::telemetry::{self, LogTarget};
use crate::text::Prompt;

/// The flags of `blip2 score`, as typed.
#[derive(Debug, Args)]
pub(super) struct ScoreArgs {
    #[command(flatten)]
    runtime: RuntimeArgs,

    /// Image file: JPEG, PNG, WebP, GIF, BMP or TIFF
    #[arg(long, value_name = "FILE")]
    image: PathBuf,

    /// Prompt, passed on as it is, e.g. "Question: what color is the star? Answer:"; without one: a caption
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    text: String,

    /// Question, set into the template that the model knows: "Question: … Answer:"
    #[arg(long, value_name = "TEXT", conflicts_with = "text")]
    question: Option<String>,

    /// Generation parameters under transformers' names, e.g. '{"max_new_tokens": 5}'
    #[arg(long, value_name = "JSON", default_value = "{}")]
    params: String,

    /// Answer to rank by its likelihood, instead of generating one; repeat the flag for each
    #[arg(long = "candidate", value_name = "TEXT", conflicts_with = "params")]
    candidates: Vec<String>,

    /// Count the end token as the last one of each candidate, so that "cat" is not favoured over "cat food"
    #[arg(long, requires = "candidates")]
    with_end_token: bool,
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

/// The output when candidates are ranked.
#[derive(Serialize)]
struct RankingRow {
    candidates: Vec<RankedCandidate>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
    timings_ms: TimingsMs,
}

impl From<Ranking> for RankingRow {
    fn from(ranking: Ranking) -> Self {
        let Ranking { candidates, warnings, timings } = ranking;
        Self { candidates, warnings, timings_ms: timings.into() }
    }
}

pub(super) fn run(args: &ScoreArgs) -> Result<(), Failure> {
    telemetry::start(LogTarget::Stderr);
    // Check the flags before loading a model, which may take seconds.
    let params = serde_json::from_str(&args.params).context("--params is not JSON").map_err(Failure::usage)?;
    let image = fs::read(&args.image)
        .with_context(|| format!("cannot read the image {}", args.image.display()))
        .map_err(Failure::usage)?;
    let (_, engine) = open(&args.runtime.settings())?.start()?;
    let params = engine.parse_params(&params).map_err(Failure::usage)?;
    let text = args.question.clone().map_or_else(|| args.text.clone(), |question| Prompt::Question(question).text());
    let row = if args.candidates.is_empty() {
        engine.score(&image, &text, params).map(|answer| serde_json::to_string(&Row::from(answer)))
    } else {
        rank(&engine, &image, text, args).map(|ranking| serde_json::to_string(&RankingRow::from(ranking)))
    };
    let row = row.map_err(|error| match error {
        EngineError::Rejected(error) => Failure::usage(anyhow!(error).context(args.image.display().to_string())),
        error => Failure::result(error),
    })?;
    println!("{}", row.map_err(Failure::result)?);
    Ok(())
}

fn rank(engine: &Engine, image: &[u8], text: String, args: &ScoreArgs) -> Result<Ranking, EngineError> {
    let permit = engine.reserve(1)?;
    let image = engine.open_image(image)?;
    let (candidates, with_end_token) = (args.candidates.clone(), args.with_end_token);
    engine.rank(&RankJob { image, text, candidates, with_end_token, deadline: None }, &permit)?.wait()
}
