//! The image worker: the one thread that owns vision encoder and Q-Former.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};

use super::EngineError;
use super::job::{Encoded, Queued};
use super::traits::ImageEncoder;

/// Encodes one picture after the other, until all engine handles are gone.
pub(super) fn run(mut encoder: impl ImageEncoder, waiting: &Receiver<Queued>, ready: &Sender<Encoded>) {
    for mut job in waiting {
        if job.is_cancelled() {
            continue;
        }
        job.picked_up();
        match encoder.encode(&job.pixel_values) {
            Ok(image) => {
                job.timings.vision_encoder = image.vision_encoder;
                job.timings.qformer = image.qformer;
                job.put_down();
                if ready.send(Encoded { job, prefix: image.prefix }).is_err() {
                    return; // without a decoder worker nothing can be answered; dropped jobs say so
                }
            }
            Err(source) => job.fail(EngineError::Model { stage: "encoding the image", source: Arc::new(source) }),
        }
    }
}
