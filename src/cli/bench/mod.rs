//! `blip2 bench`: what a deployment gives on this machine. It measures and does not judge.

mod decode_steps;
mod images;
mod machine;
mod requests;
mod results;
mod statistics;
mod timed_decoder;

use std::num::NonZeroUsize;

use anyhow::anyhow;
use clap::Args;
use serde_json::json;

use self::decode_steps::Comparison;
use self::machine::{Machine, Memory};
use self::requests::{Clients, QUESTIONS, Rounds};
use self::results::Results;
use self::timed_decoder::TimedDecoder;
use super::Failure;
use super::runtime_args::RuntimeArgs;
use crate::engine::{Engine, EngineError};
use crate::generation::GenerationParams;
use crate::launch::{Opened, Settings, open};
use crate::telemetry::{self, LogTarget};

const CASES: &str = "\
The cases, each measured --repeats times. Images are random, 640 x 480 pixels in a BMP file, and every request has
its own, so that no cache helps unless the case is about one. Every answer has --new-tokens tokens.

  stages       Preprocess, vision encoder, Q-Former and prefill of requests that come alone.
  decode step  One token for each of so many rows. `bare` is the model's run alone, `in engine` the same run inside the
               engine, the two taking turns; `ratio` is the second over the first. `overhead` is what the engine adds to
               each step: it chooses tokens and looks after rows. A `-` stands where so many rows do not fit.
  requests     One alone; 8 at once, each about an image of its own; 10 questions at once about one image, which is
               encoded once. The time until all are answered, what that is in requests and new tokens a second,
               percentiles of the time to the answer, and the median time to the first token. From the image file to
               the answer, without HTTP.
  memory       What the process holds at the end, the most that it ever held, and what was planned for: that is with all
               caches full and all slots in use.

A full-size model takes five minutes on two cores; --repeats 1 and --rows 1 are quicker. Whatever else runs on the
machine makes times noisy: stop it, and compare runs of one machine only. The exit code is 0 however slow it is.";

/// The flags of `blip2 bench`, as typed.
#[derive(Debug, Args)]
#[command(after_long_help = CASES, after_help = "See --help for what is measured.")]
pub(super) struct BenchArgs {
    #[command(flatten)]
    runtime: RuntimeArgs,

    /// Tokens of every answer
    #[arg(long, value_name = "N", default_value = "17")]
    new_tokens: NonZeroUsize,

    /// How often each case is measured
    #[arg(long, value_name = "N", default_value = "5")]
    repeats: NonZeroUsize,

    /// Numbers of rows to measure a decode step with
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1,2,4,8,16")]
    rows: Vec<NonZeroUsize>,

    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &BenchArgs) -> Result<(), Failure> {
    telemetry::start(LogTarget::Stderr);
    let settings = args.runtime.settings();
    let (places, at_once) = (settings.engine.queue_rows, QUESTIONS.len());
    if places < at_once {
        let message = format!("--queue-rows is {places}, but {at_once} requests come at once; give {at_once} or more");
        return Err(Failure::usage(anyhow!(message)));
    }
    let results = measure(args, &settings)?;
    if args.json {
        println!("{}", serde_json::to_string(&results).map_err(Failure::result)?);
    } else {
        print!("{results}");
    }
    Ok(())
}

fn measure(args: &BenchArgs, settings: &Settings) -> Result<Results, Failure> {
    let Opened { bundle, plan, runtime, frontend, model, limits } = open(settings)?;
    let decoder = TimedDecoder::new(model.decoder);
    let engine = Engine::start(frontend, model.image, decoder.clone(), limits).map_err(Failure::start)?;
    let machine = Machine::new(bundle.manifest(), &runtime, settings, engine.decoder_limits());
    let (new_tokens, repeats) = (args.new_tokens.get(), args.repeats.get());
    let mut clients = Clients::new(&engine, forced_length(&engine, new_tokens)?).map_err(Failure::start)?;

    // The first request touches memory that all others find touched.
    clients.rounds("warm-up", 1, requests::alone)?;
    let alone = clients.rounds("one alone", repeats, requests::alone)?;
    let mut comparison = Comparison {
        engine: &engine,
        decoder,
        image: engine.open_image(&clients.image()).map_err(Failure::usage)?,
        queue_rows: settings.engine.queue_rows,
        repeats,
    };
    let rows = args.rows.iter().map(|rows| rows.get());
    let decode_steps = rows.map(|rows| comparison.measure(rows)).collect::<Result<_, _>>()?;
    let images = clients.rounds("8 pictures at once", repeats, requests::about_many_images)?;
    let questions = clients.rounds("10 questions at once", repeats, requests::about_one_image)?;
    Ok(Results {
        machine,
        new_tokens,
        repeats,
        stages_ms: alone.stages(),
        decode_steps,
        requests: [alone, images, questions].iter().map(Rounds::summary).collect(),
        memory: Memory::now(&plan),
    })
}

/// Parameters that make every answer so long.
fn forced_length(engine: &Engine, new_tokens: usize) -> Result<GenerationParams, Failure> {
    let params = json!({"max_new_tokens": new_tokens, "min_new_tokens": new_tokens});
    engine.parse_params(&params).map_err(Failure::usage)
}

/// A job that cannot be run does not fit the flags.
fn failure(error: EngineError) -> Failure {
    match error {
        EngineError::Rejected(error) => Failure::usage(error),
        error => Failure::result(error),
    }
}
