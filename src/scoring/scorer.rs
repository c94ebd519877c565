//! Answers rows: places first, then images fetched, decoded or looked up, then all rows at once to the engine, so that they are
//! decoded together. The first fault ends them all.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::task::spawn_blocking;

use super::{ImageSource, Place, Row, ScoringError};
use crate::engine::{Answer, Engine, EngineError, Image, Permit, PreparedJob, ScoreJob};
use crate::fetch::{FetchError, Fetcher};
use crate::generation::GenerationParams;

/// Told what happens to rows, on the task of the caller who asked for them.
pub trait Observer: Send + Sync {
    /// An image URL was fetched; `failure` is the short name of the reason if it was not.
    fn image_fetched(&self, took: Duration, failure: Option<&'static str>);

    /// A row was answered.
    fn row_answered(&self, answer: &Answer);
}

/// The engine with the way to it. Clones share it.
#[derive(Clone)]
pub struct Scorer(Arc<Shared>);

struct Shared {
    engine: Engine,
    /// `None` when image URLs are refused.
    fetcher: Option<Fetcher>,
    /// Shorter than the engine's own, or `None`.
    timeout: Option<Duration>,
    observer: Arc<dyn Observer>,
}

/// Rows that have their places in the engine. Dropping it frees them.
pub struct Admitted {
    scorer: Scorer,
    permit: Permit,
    deadline: Instant,
}

/// An image's file, or an image that is stored.
pub enum Located {
    /// The bytes of a file.
    File(Bytes),
    /// Known to the engine.
    Stored(Image),
}

impl Scorer {
    /// A scorer that fetches images if it has a fetcher, and ends what takes longer than `timeout` if that is given.
    #[must_use]
    pub fn new(
        engine: Engine,
        fetcher: Option<Fetcher>,
        timeout: Option<Duration>,
        observer: Arc<dyn Observer>,
    ) -> Self {
        let timeout = timeout.filter(|timeout| *timeout < engine.limits().timeout);
        Self(Arc::new(Shared { engine, fetcher, timeout, observer }))
    }

    /// The engine, for what is not about rows.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.0.engine
    }

    /// Reserves places for so many rows, before anything is done for them.
    ///
    /// # Errors
    /// [`ScoringError::Engine`] when the queue is full, or would outlast the deadline.
    pub fn admit(&self, rows: usize) -> Result<Admitted, ScoringError> {
        let timeout = self.0.timeout.unwrap_or(self.engine().limits().timeout);
        let deadline = Instant::now() + timeout;
        let permit = self.engine().reserve_until(rows, deadline)?;
        Ok(Admitted { scorer: self.clone(), permit, deadline })
    }

    /// All answers, in the order of the rows.
    ///
    /// # Errors
    /// [`ScoringError`] for the first row that has none, at its place.
    pub async fn answer(
        &self,
        rows: Vec<Row>,
        params: GenerationParams,
        place: Place,
    ) -> Result<Vec<Answer>, ScoringError> {
        let admitted = self.admit(rows.len())?;
        let jobs = admitted.prepare(rows, params, place).await?;
        admitted.answers(jobs).await
    }

    async fn locate(&self, image: ImageSource) -> Result<Located, ScoringError> {
        match image {
            ImageSource::File(file) => Ok(Located::File(file)),
            ImageSource::Stored(id) => Ok(Located::Stored(self.engine().stored_image(id).map_err(EngineError::from)?)),
            ImageSource::Url(url) => Ok(Located::File(self.fetch(&url).await?)),
        }
    }

    async fn fetch(&self, url: &str) -> Result<Bytes, ScoringError> {
        let fetcher = self.0.fetcher.as_ref().ok_or_else(|| {
            ScoringError::Invalid("image is a URL, and this service does not fetch images; send it as base64".into())
        })?;
        let started = Instant::now();
        let fetched = fetcher.fetch(url).await;
        let failure = fetched.as_ref().err().map(FetchError::reason);
        self.0.observer.image_fetched(started.elapsed(), failure);
        fetched.map_err(|error| match error {
            FetchError::Busy => ScoringError::FetchesBusy(error.to_string()),
            error => ScoringError::Invalid(error.to_string()),
        })
    }
}

impl Admitted {
    /// The engine that has the places.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        self.scorer.engine()
    }

    /// The places of the rows.
    #[must_use]
    pub fn permit(&self) -> &Permit {
        &self.permit
    }

    /// Gives the places away, to what ends later than this.
    #[must_use]
    pub fn into_permit(self) -> Permit {
        self.permit
    }

    /// When the answers must be there.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Fetches or looks up images, side by side, in their order.
    ///
    /// # Errors
    /// [`ScoringError`] for the first that cannot be had, at its place.
    pub async fn locate(&self, images: Vec<ImageSource>, place: Place) -> Result<Vec<Located>, ScoringError> {
        let located = join_all(images.into_iter().map(|image| self.scorer.locate(image))).await;
        let at_place = |(number, located): (usize, Result<_, ScoringError>)| located.map_err(|e| e.at(&place(number)));
        located.into_iter().enumerate().map(at_place).collect()
    }

    /// One image, opened: fetched or looked up, and decoded unless it is known.
    ///
    /// # Errors
    /// [`ScoringError`], at `place`.
    pub async fn open_image(&self, image: ImageSource, place: &'static str) -> Result<Image, ScoringError> {
        let located = self.scorer.locate(image).await.map_err(|error| error.at(place))?;
        let engine = self.scorer.engine().clone();
        let mut opened = blocking(move || open_images(&engine, &[located], |_| place.into())).await?;
        Ok(opened.remove(0))
    }

    /// Opens the images of rows and makes jobs of them, in one turn on a thread that may block.
    ///
    /// # Errors
    /// [`ScoringError`] for the first row at fault, at its place.
    pub async fn prepare(
        &self,
        rows: Vec<Row>,
        params: GenerationParams,
        place: Place,
    ) -> Result<Vec<PreparedJob>, ScoringError> {
        let (images, texts): (Vec<_>, Vec<_>) = rows.into_iter().map(|row| (row.image, row.text)).unzip();
        let located = self.locate(images, place).await?;
        let (engine, deadline) = (self.scorer.engine().clone(), self.deadline);
        blocking(move || {
            let images = open_images(&engine, &located, place)?;
            let rows = images.into_iter().zip(texts).collect();
            prepare_jobs(&engine, rows, &params, deadline, place)
        })
        .await
    }

    /// Makes jobs of texts about images that are open.
    ///
    /// # Errors
    /// [`ScoringError::Invalid`] for the first row at fault, at its place.
    pub async fn prepare_jobs(
        &self,
        rows: Vec<(Image, String)>,
        params: GenerationParams,
        place: impl Fn(usize) -> String + Send + 'static,
    ) -> Result<Vec<PreparedJob>, ScoringError> {
        let (engine, deadline) = (self.scorer.engine().clone(), self.deadline);
        blocking(move || prepare_jobs(&engine, rows, &params, deadline, place)).await
    }

    /// The answers to jobs, all of which are handed over before the first is awaited.
    ///
    /// # Errors
    /// [`ScoringError`] of the first that has none.
    pub async fn answers(&self, jobs: Vec<PreparedJob>) -> Result<Vec<Answer>, ScoringError> {
        let engine = self.scorer.engine();
        let pending = jobs.into_iter().map(|job| engine.submit(job, &self.permit)).collect::<Result<Vec<_>, _>>()?;
        let mut answers = Vec::with_capacity(pending.len());
        for row in pending {
            let answer = row.answer().await.map_err(|error| self.failed(error))?;
            self.scorer.0.observer.row_answered(&answer);
            answers.push(answer);
        }
        Ok(answers)
    }

    /// An engine's error; one about time says which limit it was.
    #[must_use]
    pub fn failed(&self, error: EngineError) -> ScoringError {
        match (error, self.scorer.0.timeout) {
            (EngineError::DeadlineExceeded, Some(limit)) => {
                ScoringError::TimedOut { limit_ms: limit.as_millis().try_into().unwrap_or(u64::MAX) }
            }
            (error, _) => error.into(),
        }
    }
}

/// Decodes the files among some images, several at once, on this thread and the engine's.
fn open_images(
    engine: &Engine,
    located: &[Located],
    place: impl Fn(usize) -> String,
) -> Result<Vec<Image>, ScoringError> {
    let files: Vec<&[u8]> = located.iter().filter_map(Located::file).collect();
    let mut opened = engine.open_images(&files).into_iter();
    let image = |(number, located): (usize, &Located)| match located {
        Located::Stored(image) => Ok(image.clone()),
        Located::File(_) => {
            let image = opened.next().expect("the engine opens every file that it is given");
            image.map_err(|error| ScoringError::from(error).at(&place(number)))
        }
    };
    located.iter().enumerate().map(image).collect()
}

/// Tokenizes and checks texts about images.
fn prepare_jobs(
    engine: &Engine,
    rows: Vec<(Image, String)>,
    params: &GenerationParams,
    deadline: Instant,
    place: impl Fn(usize) -> String,
) -> Result<Vec<PreparedJob>, ScoringError> {
    let jobs = rows.into_iter().enumerate().map(|(number, (image, text))| {
        let job = ScoreJob { image, text, params: params.clone(), deadline: Some(deadline) };
        engine.prepare(&job).map_err(|error| ScoringError::from(error).at(&place(number)))
    });
    jobs.collect()
}

impl Located {
    fn file(&self) -> Option<&[u8]> {
        match self {
            Self::File(file) => Some(file),
            Self::Stored(_) => None,
        }
    }
}

/// Runs CPU work off the threads that serve connections.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ScoringError> + Send + 'static,
) -> Result<T, ScoringError> {
    spawn_blocking(work).await.map_err(|_| ScoringError::Engine(EngineError::Stopped))?
}
