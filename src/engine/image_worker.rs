//! The image worker: the one thread that owns vision encoder and Q-Former.
//!
//! Pictures are encoded one after the other, in the order in which they were asked about. Ten jobs about one picture encode
//! it once: it is done when the second comes up.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};

use parking_lot::FairMutex;
use tokio::sync::oneshot;

use super::ahead::Ahead;
use super::job::Queued;
use super::picture::{Picture, PictureTable};
use super::traits::ImageEncoder;
use super::{EngineError, Permit};

/// A picture to encode, and what for.
#[derive(Debug)]
pub(super) enum ImageWork {
    /// For a job about it, which goes on to the decoder worker.
    Job(Box<Queued>),
    /// For itself: to be stored.
    Picture { picture: Picture, reply: oneshot::Sender<Result<(), EngineError>>, permit: Permit },
}

impl ImageWork {
    fn picture(&self) -> &Picture {
        match self {
            Self::Job(job) => &job.picture,
            Self::Picture { picture, .. } => picture,
        }
    }

    fn is_over(&self) -> bool {
        match self {
            Self::Job(job) => job.is_over(),
            Self::Picture { reply, .. } => reply.is_closed(),
        }
    }

    fn fail(self, error: EngineError) {
        match self {
            Self::Job(job) => job.fail(error),
            Self::Picture { reply, permit, .. } => {
                let _ = reply.send(Err(error)); // nobody waits: nobody needs to know
                drop(permit);
            }
        }
    }
}

/// Works until all engine handles are gone. Holds `cores` while it computes: for one picture after the other, until none is
/// waiting or the decoder worker has enough to begin with.
pub(super) fn run(
    mut encoder: impl ImageEncoder,
    pictures: &PictureTable,
    waiting: &Receiver<ImageWork>,
    ready: &Sender<Queued>,
    cores: &FairMutex<()>,
) {
    let ahead = Arc::default();
    let mut turn = None;
    loop {
        let Some(mut work) = next(waiting, &mut turn) else { return };
        let picture = work.picture().clone();
        let is_known = picture.prefix().is_some();
        if !is_known && let ImageWork::Job(job) = &mut work {
            job.ahead = Ahead::try_take(&ahead).or_else(|| {
                turn = None;
                Some(Ahead::wait(&ahead))
            });
        }
        if work.is_over() {
            work.fail(EngineError::DeadlineExceeded);
            continue;
        }
        // What is known needs no cores.
        if !is_known {
            turn.get_or_insert_with(|| cores.lock());
        }
        let encoded = pictures.encode(&picture, &mut encoder);
        match (work, encoded) {
            (work, Err(error)) => {
                turn = None; // it counts for nothing with `ahead`, and the running rows are not to wait for many of them
                work.fail(error);
            }
            (ImageWork::Job(mut job), Ok(timings)) => {
                job.encoded(timings);
                if ready.send(*job).is_err() {
                    return; // without a decoder worker nothing can be answered; dropped jobs say so
                }
            }
            (ImageWork::Picture { reply, permit, .. }, Ok(_)) => {
                turn = None; // as above
                let _ = reply.send(Ok(()));
                drop(permit);
            }
        }
    }
}

/// The next picture, for which the turn goes on if it waits already. `None` when no further one can come.
fn next<T>(waiting: &Receiver<ImageWork>, turn: &mut Option<T>) -> Option<ImageWork> {
    waiting.try_recv().ok().or_else(|| {
        *turn = None;
        waiting.recv().ok()
    })
}
