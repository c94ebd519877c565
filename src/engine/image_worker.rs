//! The image worker: the one thread that owns vision encoder and Q-Former.
//!
//! Images are encoded in the order of their requests, as many in a run as the model takes at once.
//! Ten jobs about one image encode it once: when the second job comes up, the image has its prefix.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Instant;

use parking_lot::{FairMutex, FairMutexGuard};
use tokio::sync::oneshot;

use super::ahead::Ahead;
use super::image_table::{DecodedImage, Image, ImageTable};
use super::job::QueuedJob;
use super::stage::{Stage, Timings};
use super::traits::{EmbeddedImage, ImageEncoder, ModelError};
use super::{Embedding, EngineError, Permit};

/// A request to the worker.
#[derive(Debug)]
pub(super) enum ImageWork {
    /// An image to encode.
    Encode(EncodeWork),
    /// Pixels to embed.
    Embed(EmbedWork),
}

/// Pixels to embed. The features are not cached.
#[derive(Debug)]
pub(super) struct EmbedWork {
    pub(super) image: DecodedImage,
    pub(super) deadline: Instant,
    pub(super) since: Instant,
    pub(super) reply: oneshot::Sender<Result<Embedding, EngineError>>,
    pub(super) permit: Permit,
}

impl EmbedWork {
    fn is_over(&self) -> bool {
        self.reply.is_closed() || Instant::now() >= self.deadline
    }

    fn embed(&self, encoder: &mut impl ImageEncoder) -> Result<Embedding, EngineError> {
        let queue = self.since.elapsed();
        let failed = |source| EngineError::Model { stage: "embedding the image", source: Arc::new(source) };
        let embedded = encoder.embed(&self.image.pixel_values).map_err(failed)?;
        let EmbeddedImage { query_output, vision_encoder, qformer } = embedded;
        if !query_output.is_finite() {
            return Err(failed(ModelError::new("the features are not all finite")));
        }
        let timings = Timings::from([
            (Stage::Preprocess, self.image.took),
            (Stage::Queue, queue),
            (Stage::VisionEncoder, vision_encoder),
            (Stage::Qformer, qformer),
        ]);
        Ok(Embedding { query_output, timings })
    }

    fn finish(self, result: Result<Embedding, EngineError>) {
        let _ = self.reply.send(result); // a cancelled caller needs no answer
        drop(self.permit);
    }
}

/// An image to encode, and the purpose.
#[derive(Debug)]
pub(super) enum EncodeWork {
    /// For a job about it, which goes on to the decoder worker.
    Job(Box<QueuedJob>),
    /// For itself: to be stored.
    Image { image: Image, reply: oneshot::Sender<Result<(), EngineError>>, permit: Permit },
}

impl EncodeWork {
    fn image(&self) -> &Image {
        match self {
            Self::Job(job) => &job.image,
            Self::Image { image, .. } => image,
        }
    }

    fn is_over(&self) -> bool {
        match self {
            Self::Job(job) => job.is_over(),
            Self::Image { reply, .. } => reply.is_closed(),
        }
    }

    /// Returns the job, if its image must be encoded: it then needs a ticket to run ahead of the
    /// decoder worker.
    fn job_that_needs_ticket(&mut self) -> Option<&mut QueuedJob> {
        match self {
            Self::Job(job) if job.image.prefix().is_none() => Some(job),
            _ => None,
        }
    }

    /// Fails a request that was cancelled or has expired, and returns any other.
    fn unless_over(self) -> Option<Self> {
        if self.is_over() {
            self.fail(EngineError::DeadlineExceeded);
            return None;
        }
        Some(self)
    }

    fn fail(self, error: EngineError) {
        match self {
            Self::Job(job) => job.fail(error),
            Self::Image { reply, permit, .. } => {
                let _ = reply.send(Err(error)); // a cancelled caller needs no answer
                drop(permit);
            }
        }
    }
}

/// Runs until all engine handles are gone, or the decoder worker is.
pub(super) fn run(
    encoder: impl ImageEncoder,
    images: &ImageTable,
    requests: Receiver<ImageWork>,
    ready: &Sender<QueuedJob>,
    cores: &FairMutex<()>,
) {
    let queue = RequestQueue { requests, returned: None };
    let mut worker = ImageWorker { encoder, images, queue, ready, cores, turn: None, ahead: Arc::default() };
    while let Some(work) = worker.next() {
        match work {
            ImageWork::Embed(work) => worker.embed(work),
            ImageWork::Encode(work) => {
                if worker.encode(work).is_err() {
                    return;
                }
            }
        }
    }
}

/// The decoder worker has ended, so no job can be answered. Jobs that are dropped tell their
/// callers.
struct DecoderWorkerGone;

struct ImageWorker<'a, E> {
    encoder: E,
    images: &'a ImageTable,
    queue: RequestQueue,
    /// To the decoder worker.
    ready: &'a Sender<QueuedJob>,
    cores: &'a FairMutex<()>,
    /// The lock on `cores`.
    ///
    /// It is kept from one run to the next as long as runs bring jobs to the decoder worker, which
    /// then begins them together. `ahead` bounds their number. Any other run ends the turn: however
    /// many of those are waiting, a decode step of the active rows comes between two of them.
    turn: Option<FairMutexGuard<'a, ()>>,
    ahead: Arc<Ahead>,
}

impl<E: ImageEncoder> ImageWorker<'_, E> {
    /// Returns the next request. Ends the turn while it waits for one. `None` when all engine
    /// handles are gone.
    fn next(&mut self) -> Option<ImageWork> {
        self.queue.try_next().or_else(|| {
            self.turn = None;
            self.queue.requests.recv().ok()
        })
    }

    fn take_turn(&mut self) {
        if self.turn.is_none() {
            self.turn = Some(self.cores.lock());
        }
    }

    fn embed(&mut self, work: EmbedWork) {
        let result = if work.is_over() {
            Err(EngineError::DeadlineExceeded)
        } else {
            self.take_turn();
            work.embed(&mut self.encoder)
        };
        self.turn = None;
        work.finish(result);
    }

    /// Encodes an image, together with others that are waiting, and hands the jobs on.
    fn encode(&mut self, first: EncodeWork) -> Result<(), DecoderWorkerGone> {
        let mut first = first;
        if let Some(job) = first.job_that_needs_ticket() {
            job.ahead = Some(match Ahead::try_take(&self.ahead) {
                Some(ticket) => ticket,
                None => {
                    self.turn = None;
                    Ahead::wait(&self.ahead)
                }
            });
        }
        let Some(first) = first.unless_over() else { return Ok(()) };
        let is_known = first.image().prefix().is_some();
        let mut batch = vec![first];
        if !is_known {
            self.take_turn();
            self.queue.join(&mut batch, self.encoder.images_at_once(), &self.ahead);
        }
        let images: Vec<&Image> = batch.iter().map(EncodeWork::image).collect();
        let encoded = self.images.encode(&images, &mut self.encoder);
        batch.into_iter().zip(encoded).try_for_each(|(work, encoded)| self.hand_on(work, encoded))
    }

    /// Sends a job with its encoded image to the decoder worker, or answers a request that ends
    /// here.
    fn hand_on(&mut self, work: EncodeWork, encoded: Result<Timings, EngineError>) -> Result<(), DecoderWorkerGone> {
        match (work, encoded) {
            (EncodeWork::Job(mut job), Ok(timings)) => {
                job.encoded(timings);
                self.ready.send(*job).map_err(|_| DecoderWorkerGone)?;
            }
            (EncodeWork::Image { reply, permit, .. }, Ok(_)) => {
                self.turn = None;
                let _ = reply.send(Ok(())); // a cancelled caller needs no answer
                drop(permit);
            }
            (work, Err(error)) => {
                self.turn = None;
                work.fail(error);
            }
        }
        Ok(())
    }
}

/// Returns the number of different images that must be encoded for these requests.
fn new_images(batch: &[EncodeWork]) -> usize {
    let new = batch.iter().filter(|work| work.image().prefix().is_none());
    new.map(|work| work.image().key()).collect::<HashSet<_>>().len()
}

/// The waiting requests.
struct RequestQueue {
    requests: Receiver<ImageWork>,
    /// A request that was received and cannot join the present run.
    returned: Option<ImageWork>,
}

impl RequestQueue {
    /// Returns the next request if one is waiting.
    fn try_next(&mut self) -> Option<ImageWork> {
        self.returned.take().or_else(|| self.requests.try_recv().ok())
    }

    /// Adds waiting requests to a batch until it needs `most` new images, or the decoder worker
    /// wants no further job.
    fn join(&mut self, batch: &mut Vec<EncodeWork>, most: usize, ahead: &Arc<Ahead>) {
        while new_images(batch) < most {
            let mut work = match self.try_next() {
                Some(ImageWork::Encode(work)) => work,
                other => {
                    self.returned = other;
                    return;
                }
            };
            if let Some(job) = work.job_that_needs_ticket() {
                job.ahead = Ahead::try_take(ahead);
                if job.ahead.is_none() {
                    self.returned = Some(ImageWork::Encode(work));
                    return;
                }
            }
            batch.extend(work.unless_over());
        }
    }
}
