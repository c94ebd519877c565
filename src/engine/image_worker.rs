//! The image worker: the one thread that owns vision encoder and Q-Former, and the cache of what they made.
//!
//! Pictures are encoded one after the other, so ten requests for one picture encode it once: nine find it in the cache.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};

use super::EngineError;
use super::byte_cache::ByteCache;
use super::job::{Encoded, Queued};
use super::picture::PictureKey;
use super::traits::{ImageEncoder, ImagePrefix};

/// What is known of pictures that were seen before.
pub(super) type ImageCache = ByteCache<PictureKey, ImagePrefix>;

/// Encodes one picture after the other, until all engine handles are gone.
pub(super) fn run(
    mut encoder: impl ImageEncoder,
    mut cache: ImageCache,
    waiting: &Receiver<Queued>,
    ready: &Sender<Encoded>,
) {
    for mut job in waiting {
        if job.is_cancelled() {
            continue;
        }
        job.picked_up();
        match prefix(&mut encoder, &mut cache, &mut job) {
            Ok(prefix) => {
                job.put_down();
                if ready.send(Encoded { job, prefix }).is_err() {
                    return; // without a decoder worker nothing can be answered; dropped jobs say so
                }
            }
            Err(error) => job.fail(error),
        }
    }
}

fn prefix(
    encoder: &mut impl ImageEncoder,
    cache: &mut ImageCache,
    job: &mut Queued,
) -> Result<ImagePrefix, EngineError> {
    if let Some(known) = cache.get(&job.picture) {
        return Ok(known.clone());
    }
    let failed = |source| EngineError::Model { stage: "encoding the image", source: Arc::new(source) };
    let image = encoder.encode(&job.pixel_values).map_err(failed)?;
    job.timings.vision_encoder = image.vision_encoder;
    job.timings.qformer = image.qformer;
    cache.put(job.picture, image.prefix.clone(), size_of_val(image.prefix.as_slice()));
    Ok(image.prefix)
}
