//! The image worker: the one thread that owns vision encoder and Q-Former.
//!
//! Images are encoded in the order in which they were asked about, as many in a run as the model wants at once. Ten jobs
//! about one image encode it once: it is done when the second comes up.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Instant;

use parking_lot::FairMutex;
use tokio::sync::oneshot;

use super::ahead::Ahead;
use super::image_table::{DecodedImage, Image, ImageTable};
use super::job::Queued;
use super::stage::{Stage, Timings};
use super::traits::{EmbeddedImage, ImageEncoder, ModelError};
use super::{Embedding, EngineError, Permit};

/// What is asked of the worker.
#[derive(Debug)]
pub(super) enum ImageWork {
    /// An image to encode.
    Encode(EncodeWork),
    /// Pixels to embed.
    Embed(EmbedWork),
}

/// Pixels to embed. What comes out is not kept.
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
        let _ = self.reply.send(result); // nobody waits: nobody needs to know
        drop(self.permit);
    }
}

/// An image to encode, and what for.
#[derive(Debug)]
pub(super) enum EncodeWork {
    /// For a job about it, which goes on to the decoder worker.
    Job(Box<Queued>),
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

    fn fail(self, error: EngineError) {
        match self {
            Self::Job(job) => job.fail(error),
            Self::Image { reply, permit, .. } => {
                let _ = reply.send(Err(error)); // nobody waits: nobody needs to know
                drop(permit);
            }
        }
    }
}

/// Works until all engine handles are gone. Holds `cores` while it computes: for one run after the other, until no image is
/// waiting or the decoder worker has enough to begin with.
pub(super) fn run(
    mut encoder: impl ImageEncoder,
    images: &ImageTable,
    waiting: Receiver<ImageWork>,
    ready: &Sender<Queued>,
    cores: &FairMutex<()>,
) {
    let mut waiting = Waiting { works: waiting, next: None };
    let ahead = Arc::default();
    let mut turn = None;
    loop {
        let Some(work) = waiting.next(&mut turn) else { return };
        let first = match work {
            ImageWork::Encode(work) => work,
            ImageWork::Embed(work) => {
                let result = if work.is_over() {
                    Err(EngineError::DeadlineExceeded)
                } else {
                    turn.get_or_insert_with(|| cores.lock());
                    work.embed(&mut encoder)
                };
                turn = None; // as for an image that fails
                work.finish(result);
                continue;
            }
        };
        let Some(first) = take_up(first, |job| {
            job.ahead = Ahead::try_take(&ahead).or_else(|| {
                turn = None;
                Some(Ahead::wait(&ahead))
            });
        }) else {
            continue;
        };
        let mut works = vec![first];
        // What is known needs no cores.
        if works[0].image().prefix().is_none() {
            turn.get_or_insert_with(|| cores.lock());
            waiting.join(&mut works, encoder.images_at_once(), &ahead);
        }
        let batch: Vec<&Image> = works.iter().map(EncodeWork::image).collect();
        let encoded = images.encode(&batch, &mut encoder);
        for (work, encoded) in works.into_iter().zip(encoded) {
            match (work, encoded) {
                (work, Err(error)) => {
                    turn = None; // it counts for nothing with `ahead`, and the running rows are not to wait for many of them
                    work.fail(error);
                }
                (EncodeWork::Job(mut job), Ok(timings)) => {
                    job.encoded(timings);
                    if ready.send(*job).is_err() {
                        return; // without a decoder worker nothing can be answered; dropped jobs say so
                    }
                }
                (EncodeWork::Image { reply, permit, .. }, Ok(_)) => {
                    turn = None; // as above
                    let _ = reply.send(Ok(()));
                    drop(permit);
                }
            }
        }
    }
}

/// Work that is wanted still. A job about an image that is not known yet gets its place ahead of the decoder worker first,
/// for which it may have to wait.
fn take_up(mut work: EncodeWork, place: impl FnOnce(&mut Queued)) -> Option<EncodeWork> {
    if work.image().prefix().is_none()
        && let EncodeWork::Job(job) = &mut work
    {
        place(job);
    }
    if work.is_over() {
        work.fail(EngineError::DeadlineExceeded);
        return None;
    }
    Some(work)
}

/// How many different images are to be encoded for these works.
fn new_images(works: &[EncodeWork]) -> usize {
    let new = works.iter().filter(|work| work.image().prefix().is_none());
    new.map(|work| work.image().key()).collect::<HashSet<_>>().len()
}

/// The queue, and what was taken from it too early.
struct Waiting {
    works: Receiver<ImageWork>,
    next: Option<ImageWork>,
}

impl Waiting {
    /// The next image, for which the turn goes on if it waits already. `None` when no further one can come.
    fn next<T>(&mut self, turn: &mut Option<T>) -> Option<ImageWork> {
        self.next.take().or_else(|| self.works.try_recv().ok()).or_else(|| {
            *turn = None;
            self.works.recv().ok()
        })
    }

    /// Adds works that wait already, until they are about so many new images, as long as the decoder worker wants further ones.
    fn join(&mut self, works: &mut Vec<EncodeWork>, most: usize, ahead: &Arc<Ahead>) {
        while new_images(works) < most {
            let work = match self.works.try_recv() {
                Ok(ImageWork::Encode(work)) => work,
                Ok(other) => {
                    self.next = Some(other);
                    return;
                }
                Err(_) => return,
            };
            let needs_place = matches!(work, EncodeWork::Job(_)) && work.image().prefix().is_none();
            let place = if needs_place { Ahead::try_take(ahead) } else { None };
            if needs_place && place.is_none() {
                self.next = Some(ImageWork::Encode(work));
                return;
            }
            works.extend(take_up(work, |job| job.ahead = place));
        }
    }
}
