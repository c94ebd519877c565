//! From rows of image and text to answers: what every protocol does between its own request and its own answer.
//!
//! Images are fetched and decoded side by side, all rows are handed to the engine before the first answer is awaited, so
//! that they are decoded together, and the first fault ends them all.

use std::time::Instant;

use actix_web::web;
use futures_util::future::join_all;

use super::body::blocking;
use super::image_source::ImageSource;
use super::{HttpError, State};
use crate::engine::{Answer, Engine, EngineError, Image, Permit, PreparedJob, ScoreJob};
use crate::fetch::FetchError;
use crate::generation::GenerationParams;

/// An image, and what is asked about it.
#[derive(Debug)]
pub(super) struct Row {
    /// Where the image is.
    pub(super) image: ImageSource,
    /// The prompt; empty for a caption.
    pub(super) text: String,
}

/// How a protocol names the place of a row in its own requests: `row 3`, `messages`.
pub(super) type Place = fn(usize) -> String;

/// Rows that the engine can take, and the places that they hold.
pub(super) struct Prepared {
    pub(super) jobs: Vec<PreparedJob>,
    pub(super) permit: Permit,
}

/// `row N`, counted from 0.
pub(super) fn row(number: usize) -> String {
    format!("row {number}")
}

/// All answers, in the order of the rows.
///
/// # Errors
/// [`HttpError`] for the first row that has none.
pub(super) async fn answer(
    state: &State,
    rows: Vec<Row>,
    params: GenerationParams,
    place: Place,
) -> Result<Vec<Answer>, HttpError> {
    let Prepared { jobs, permit } = prepare(state, rows, params, place).await?;
    answers(state, jobs, &permit).await
}

/// The answers to jobs, all of which are handed over before the first is awaited.
pub(super) async fn answers(state: &State, jobs: Vec<PreparedJob>, permit: &Permit) -> Result<Vec<Answer>, HttpError> {
    let engine = state.engine()?;
    let pending = jobs.into_iter().map(|job| engine.submit(job, permit)).collect::<Result<Vec<_>, _>>()?;
    let mut answers = Vec::with_capacity(pending.len());
    for row in pending {
        let answer = row.answer().await.map_err(|error| state.timed_out(engine, error))?;
        state.metrics().observe_answer(&answer);
        answers.push(answer);
    }
    Ok(answers)
}

/// Images and texts as the engine takes them. The places are reserved before any image is fetched or decoded.
pub(super) async fn prepare(
    state: &State,
    rows: Vec<Row>,
    params: GenerationParams,
    place: Place,
) -> Result<Prepared, HttpError> {
    let engine = state.engine()?.clone();
    let deadline = state.deadline(&engine);
    let permit = engine.reserve_until(rows.len(), deadline)?;
    let (images, texts): (Vec<_>, Vec<_>) = rows.into_iter().map(|row| (row.image, row.text)).unzip();
    let images = open_images(state, images, place).await?;
    let jobs = prepare_jobs(engine, images.into_iter().zip(texts).collect(), params, deadline, place).await?;
    Ok(Prepared { jobs, permit })
}

/// Images that are open, and texts about them, as the engine takes them.
pub(super) async fn prepare_jobs(
    engine: Engine,
    rows: Vec<(Image, String)>,
    params: GenerationParams,
    deadline: Instant,
    place: impl Fn(usize) -> String + Send + 'static,
) -> Result<Vec<PreparedJob>, HttpError> {
    blocking(move || {
        let jobs = rows.into_iter().enumerate();
        jobs.map(|(number, (image, text))| {
            let job = ScoreJob { image, text, params: params.clone(), deadline: Some(deadline) };
            engine.prepare(&job).map_err(|error| HttpError::BadRequest(format!("{}: {error}", place(number))))
        })
        .collect()
    })
    .await
}

/// The images of some rows, in their order: fetched, decoded, or looked up.
pub(super) async fn open_images(
    state: &State,
    images: Vec<ImageSource>,
    place: Place,
) -> Result<Vec<Image>, HttpError> {
    let engine = state.engine()?.clone();
    let located = locate_all(state, images, place).await?;
    blocking(move || {
        let files: Vec<&[u8]> = located.iter().filter_map(Located::file).collect();
        let mut opened = engine.open_images(&files).into_iter();
        let image = |(number, located): (usize, &Located)| match located {
            Located::Stored(image) => Ok(image.clone()),
            Located::File(_) => {
                let image = opened.next().ok_or(HttpError::Engine(EngineError::Stopped))?;
                image.map_err(|error| HttpError::BadRequest(format!("{}: {error}", place(number))))
            }
        };
        located.iter().enumerate().map(image).collect()
    })
    .await
}

/// The files of some images, in their order: fetched, or sent along; or images that are stored.
pub(super) async fn locate_all(
    state: &State,
    images: Vec<ImageSource>,
    place: Place,
) -> Result<Vec<Located>, HttpError> {
    let engine = state.engine()?;
    let located = join_all(images.into_iter().map(|image| locate(state, engine, image))).await;
    let at_place = |(number, located): (usize, Result<Located, HttpError>)| located.map_err(|e| e.at(&place(number)));
    located.into_iter().enumerate().map(at_place).collect()
}

/// An image's file, or an image that is stored.
pub(super) enum Located {
    File(web::Bytes),
    Stored(Image),
}

impl Located {
    fn file(&self) -> Option<&[u8]> {
        match self {
            Self::File(file) => Some(file),
            Self::Stored(_) => None,
        }
    }
}

async fn locate(state: &State, engine: &Engine, image: ImageSource) -> Result<Located, HttpError> {
    match image {
        ImageSource::File(file) => Ok(Located::File(file)),
        ImageSource::Stored(id) => Ok(Located::Stored(engine.stored_image(id).map_err(EngineError::from)?)),
        ImageSource::Url(url) => {
            let fetcher = state.fetcher().ok_or_else(|| {
                HttpError::BadRequest(
                    "image is a URL, and this service does not fetch images; send it as base64".into(),
                )
            })?;
            let started = Instant::now();
            let fetched = fetcher.fetch(&url).await;
            state.metrics().observe_fetch(started.elapsed(), fetched.as_ref().err().map(|error| error.reason()));
            let file = fetched.map_err(|error| match error {
                FetchError::Busy => HttpError::FetchesBusy(error.to_string()),
                error => HttpError::BadRequest(error.to_string()),
            })?;
            Ok(Located::File(file))
        }
    }
}
