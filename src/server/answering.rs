//! From rows of picture and text to answers: what every protocol does between its own request and its own answer.
//!
//! Pictures are fetched and decoded side by side, all rows are handed to the engine before the first answer is awaited, so
//! that they are decoded together, and the first fault ends them all.

use std::time::Instant;

use actix_web::web;
use futures_util::future::join_all;

use super::body::blocking;
use super::image_source::ImageSource;
use super::{HttpError, State};
use crate::engine::{Answer, Engine, EngineError, Permit, Picture, PreparedJob, ScoreJob};
use crate::fetch::FetchError;
use crate::generation::GenerationParams;

/// A picture, and what is asked about it.
#[derive(Debug)]
pub(super) struct Row {
    /// Where the picture is.
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
    let engine = state.engine()?;
    let Prepared { jobs, permit } = prepare(state, rows, params, place).await?;
    let pending = jobs.into_iter().map(|job| engine.submit(job, &permit)).collect::<Result<Vec<_>, _>>()?;
    let mut answers = Vec::with_capacity(pending.len());
    for row in pending {
        let answer = row.answer().await.map_err(|error| state.timed_out(engine, error))?;
        state.metrics().observe_answer(&answer);
        answers.push(answer);
    }
    Ok(answers)
}

/// Pictures and texts as the engine takes them. The places are reserved before any picture is fetched or decoded.
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
    let pictures = open_pictures(state, images, place).await?;
    let jobs = blocking(move || {
        let jobs = pictures.into_iter().zip(texts).enumerate();
        jobs.map(|(number, (picture, text))| {
            let job = ScoreJob { picture, text, params: params.clone(), deadline: Some(deadline) };
            engine.prepare(&job).map_err(|error| HttpError::BadRequest(format!("{}: {error}", place(number))))
        })
        .collect()
    });
    Ok(Prepared { jobs: jobs.await?, permit })
}

/// The pictures of some rows, in their order: fetched, decoded, or looked up.
pub(super) async fn open_pictures(
    state: &State,
    images: Vec<ImageSource>,
    place: Place,
) -> Result<Vec<Picture>, HttpError> {
    let engine = state.engine()?.clone();
    let located = join_all(images.into_iter().map(|image| locate(state, &engine, image))).await;
    let at_place = |(number, located): (usize, Result<Located, HttpError>)| located.map_err(|e| e.at(&place(number)));
    let located = located.into_iter().enumerate().map(at_place).collect::<Result<Vec<_>, _>>()?;
    blocking(move || {
        let files: Vec<&[u8]> = located.iter().filter_map(Located::file).collect();
        let mut opened = engine.open_pictures(&files).into_iter();
        let picture = |(number, located): (usize, &Located)| match located {
            Located::Stored(picture) => Ok(picture.clone()),
            Located::File(_) => {
                let picture = opened.next().ok_or(HttpError::Engine(EngineError::Stopped))?;
                picture.map_err(|error| HttpError::BadRequest(format!("{}: {error}", place(number))))
            }
        };
        located.iter().enumerate().map(picture).collect()
    })
    .await
}

/// A picture's file, or a picture that is stored.
enum Located {
    File(web::Bytes),
    Stored(Picture),
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
        ImageSource::Stored(id) => Ok(Located::Stored(engine.stored_picture(id).map_err(EngineError::from)?)),
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
