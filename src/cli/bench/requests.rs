//! Requests as clients send them: alone, and several at once. From image file and prompt to the answer, without HTTP.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::runtime::{Builder, Runtime};
use tokio::task::{JoinSet, spawn_blocking};

use super::failure;
use super::images::Images;
use super::statistics::{median_ms, percentile, percentile_ms, thousandths};
use crate::cli::Failure;
use crate::engine::{Engine, EngineError, ScoreJob, Stage, StreamEvent, Timings};
use crate::generation::GenerationParams;

/// The prompt of a request, unless the case is about several.
pub(super) const PROMPT: &str = "Question: what is in the picture? Answer:";

/// Prompts about one image.
pub(super) const QUESTIONS: [&str; 10] = [
    PROMPT,
    "Question: what color is it? Answer:",
    "Question: how many people are there? Answer:",
    "Question: where was the image taken? Answer:",
    "Question: is it day or night? Answer:",
    "Question: what is the weather like? Answer:",
    "Question: is there an animal? Answer:",
    "Question: what is in the background? Answer:",
    "Question: what is written on it? Answer:",
    "Question: is it a photograph or a drawing? Answer:",
];

/// Images that are asked about at once.
const IMAGES: usize = 8;

/// A request: an image file and a prompt.
type Question = (Arc<[u8]>, &'static str);

pub(super) fn alone(images: &mut Images) -> Vec<Question> {
    vec![(images.make(), PROMPT)]
}

pub(super) fn about_many_images(images: &mut Images) -> Vec<Question> {
    (0..IMAGES).map(|_| (images.make(), PROMPT)).collect()
}

pub(super) fn about_one_image(images: &mut Images) -> Vec<Question> {
    let image = images.make();
    QUESTIONS.map(|prompt| (Arc::clone(&image), prompt)).to_vec()
}

/// Those who ask, and their images.
pub(super) struct Clients<'a> {
    engine: &'a Engine,
    params: GenerationParams,
    images: Images,
    runtime: Runtime,
}

/// The same number of requests at once, several times.
pub(super) struct Rounds {
    name: &'static str,
    rounds: Vec<Round>,
}

/// Requests that came at once.
struct Round {
    /// From the first question to the last answer.
    took: Duration,
    served: Vec<Served>,
}

/// A request that was answered.
struct Served {
    latency: Duration,
    first_token: Option<Duration>,
    new_tokens: usize,
    timings: Timings,
}

impl<'a> Clients<'a> {
    pub(super) fn new(engine: &'a Engine, params: GenerationParams) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_time().build()?;
        Ok(Self { engine, params, images: Images::default(), runtime })
    }

    /// An image that nobody has asked about.
    pub(super) fn image(&mut self) -> Arc<[u8]> {
        self.images.make()
    }

    /// Asks `repeats` times, and waits each time until all is answered.
    pub(super) fn rounds(
        &mut self,
        name: &'static str,
        repeats: usize,
        questions: fn(&mut Images) -> Vec<Question>,
    ) -> Result<Rounds, Failure> {
        let round = |repeat: usize| {
            tracing::info!(repeat, of = repeats, "{name}");
            let questions = questions(&mut self.images);
            self.runtime.block_on(ask_at_once(self.engine, questions, &self.params)).map_err(failure)
        };
        Ok(Rounds { name, rounds: (1..=repeats).map(round).collect::<Result<_, _>>()? })
    }
}

async fn ask_at_once(
    engine: &Engine,
    questions: Vec<Question>,
    params: &GenerationParams,
) -> Result<Round, EngineError> {
    let started = Instant::now();
    let mut asked = JoinSet::new();
    for question in questions {
        asked.spawn(ask(engine.clone(), question, params.clone()));
    }
    let mut served = Vec::new();
    while let Some(answered) = asked.join_next().await {
        served.push(answered.expect("asking does not panic")?);
    }
    Ok(Round { took: started.elapsed(), served })
}

async fn ask(engine: Engine, (file, text): Question, params: GenerationParams) -> Result<Served, EngineError> {
    let started = Instant::now();
    let permit = engine.reserve(1)?;
    let preparing = engine.clone();
    let prepare = move || {
        let image = preparing.open_image(&file)?;
        preparing.prepare(&ScoreJob { image, text: text.to_owned(), params, deadline: None })
    };
    let job = spawn_blocking(prepare).await.expect("preparing does not panic")?;
    let mut stream = engine.stream(job, &permit, Vec::new())?;
    let mut first_token = None;
    while let Some(event) = stream.next().await {
        first_token.get_or_insert_with(|| started.elapsed());
        if let StreamEvent::End { answer, .. } = event? {
            let (latency, new_tokens) = (started.elapsed(), answer.best.token_ids.len());
            return Ok(Served { latency, first_token, new_tokens, timings: answer.timings });
        }
    }
    unreachable!("a stream ends with its answer or an error")
}

/// Where the time of a request goes before its first token: medians.
#[derive(Debug, Serialize)]
pub(super) struct StagesMs {
    pub(super) preprocess: Option<f64>,
    pub(super) vision_encoder: Option<f64>,
    pub(super) qformer: Option<f64>,
    pub(super) prefill: Option<f64>,
}

/// The latencies and rates of several requests at once.
#[derive(Debug, Serialize)]
pub(super) struct RequestCase {
    pub(super) name: &'static str,
    /// Requests that come at once.
    pub(super) requests: usize,
    /// From the first question to the last answer: median of the rounds, as the next two.
    pub(super) seconds: Option<f64>,
    pub(super) requests_per_s: Option<f64>,
    pub(super) new_tokens_per_s: Option<f64>,
    pub(super) latency_ms: Percentiles,
    /// Median.
    pub(super) first_token_ms: Option<f64>,
}

/// Of the requests of all rounds.
#[derive(Debug, Serialize)]
pub(super) struct Percentiles {
    pub(super) p50: Option<f64>,
    pub(super) p90: Option<f64>,
    pub(super) p99: Option<f64>,
}

impl Rounds {
    fn served(&self) -> impl Iterator<Item = &Served> {
        self.rounds.iter().flat_map(|round| &round.served)
    }

    pub(super) fn stages(&self) -> StagesMs {
        let median = |stage: Stage| median_ms(self.served().map(|served| served.timings[stage]));
        StagesMs {
            preprocess: median(Stage::Preprocess),
            vision_encoder: median(Stage::VisionEncoder),
            qformer: median(Stage::Qformer),
            prefill: median(Stage::Prefill),
        }
    }

    pub(super) fn summary(&self) -> RequestCase {
        let seconds = percentile(self.rounds.iter().map(|round| round.took), 50).map(|took| took.as_secs_f64());
        // All rounds are of one size.
        let per_second = |count: usize| {
            let count = count as f64 / self.rounds.len() as f64;
            seconds.map(|seconds| thousandths(count / seconds))
        };
        let latency = |percent| percentile_ms(self.served().map(|served| served.latency), percent);
        RequestCase {
            name: self.name,
            requests: self.rounds.first().map_or(0, |round| round.served.len()),
            seconds: seconds.map(thousandths),
            requests_per_s: per_second(self.served().count()),
            new_tokens_per_s: per_second(self.served().map(|served| served.new_tokens).sum()),
            latency_ms: Percentiles { p50: latency(50), p90: latency(90), p99: latency(99) },
            first_token_ms: median_ms(self.served().filter_map(|served| served.first_token)),
        }
    }
}
