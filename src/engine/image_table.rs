//! The table of images: each is decoded once, encoded once, and cached.
//!
//! Equal files are the same image. Opening a file whose image is cached, or in work for another
//! job, returns a handle to the same entry, so nothing is computed twice. An entry lives as long as
//! the cache or a job holds it: an evicted image stays valid for its jobs.

use std::collections::HashMap;
use std::collections::hash_map::Entry as MapEntry;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use super::byte_cache::{ByteCache, CacheCounters};
use super::stage::{Stage, Timings};
use super::traits::{EncodedImage, ImageEncoder, ImagePrefix, ModelError};
use super::{EngineError, JobError};
use crate::image::{ImageError, PixelValues, Preprocessor};

/// The hash of an image file. With bundle and preprocessing, which never change in an engine, the
/// file determines the prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ImageKey([u8; 32]);

/// A decoded image, which jobs refer to. Clones are the same image.
#[derive(Clone)]
pub struct Image(Arc<Entry>);

struct Entry {
    key: ImageKey,
    /// The pixels, until the encoder takes them; or the error of decoding.
    decoded: OnceLock<Result<Mutex<Option<DecodedImage>>, Arc<ImageError>>>,
    /// The prefix, or the error of encoding. Written once, by the image worker.
    encoded: OnceLock<Result<ImagePrefix, Arc<ModelError>>>,
}

/// The pixels of an image, as the encoder reads them.
pub struct DecodedImage {
    pub(super) pixel_values: PixelValues,
    pub(super) took: Duration,
}

impl Image {
    pub(super) fn key(&self) -> ImageKey {
        self.0.key
    }

    /// Returns the prefix; `None` before the image is encoded, and if that failed.
    pub(super) fn prefix(&self) -> Option<&ImagePrefix> {
        self.0.encoded.get()?.as_ref().ok()
    }

    fn take_decoded(&self) -> Option<DecodedImage> {
        lock(self.0.decoded.get()?.as_ref().ok()?).take()
    }
}

impl fmt::Debug for DecodedImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DecodedImage") // no pixels in logs
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Image") // no content in logs
    }
}

/// All images that are cached or in work.
pub(super) struct ImageTable {
    preprocessor: Preprocessor,
    known: Mutex<Known>,
    counters: Arc<CacheCounters>,
}

struct Known {
    cache: ByteCache<ImageKey, Image>,
    in_work: HashMap<ImageKey, Weak<Entry>>,
}

impl ImageTable {
    pub(super) fn new(preprocessor: Preprocessor, cache_bytes: usize) -> Self {
        let cache = ByteCache::new(cache_bytes);
        let counters = cache.counters();
        Self { preprocessor, known: Mutex::new(Known { cache, in_work: HashMap::new() }), counters }
    }

    pub(super) fn counters(&self) -> &CacheCounters {
        &self.counters
    }

    /// Returns the image in a file. Decodes and resizes it on this thread unless it is cached or in
    /// work.
    pub(super) fn open(&self, file: &[u8]) -> Result<Image, JobError> {
        let key = ImageKey(Sha256::digest(file).into());
        let image = lock(&self.known).find_or_add(key);
        if image.prefix().is_none() {
            // Concurrent calls for the same image wait here for the first.
            let decoded = image.0.decoded.get_or_init(|| Ok(Mutex::new(Some(self.decode(file)?))));
            decoded.as_ref().map_err(|error| JobError::Image(Arc::clone(error)))?;
        }
        Ok(image)
    }

    /// Decodes and resizes the image in a file, also if the image is cached.
    pub(super) fn decode(&self, file: &[u8]) -> Result<DecodedImage, Arc<ImageError>> {
        let started = Instant::now();
        let pixel_values = self.preprocessor.preprocess(file)?;
        Ok(DecodedImage { pixel_values, took: started.elapsed() })
    }

    /// Encodes the new images among these in one run, and caches all of them. Returns the times or
    /// the error of each, in order. A failure is not cached, so the next request tries again. Only
    /// the image worker calls this.
    pub(super) fn encode(
        &self,
        images: &[&Image],
        encoder: &mut impl ImageEncoder,
    ) -> Vec<Result<Timings, EngineError>> {
        // An image that stands in the list twice gives its pixels once.
        let new: Vec<(&Image, DecodedImage)> = images
            .iter()
            .filter(|image| image.0.encoded.get().is_none())
            .filter_map(|image| Some((*image, image.take_decoded()?)))
            .collect();
        let mut timings = vec![Timings::default(); images.len()];
        if !new.is_empty() {
            let pixels: Vec<&PixelValues> = new.iter().map(|(_, decoded)| &decoded.pixel_values).collect();
            let encoded: Vec<Result<EncodedImage, ModelError>> = match encoder.encode(&pixels) {
                Ok(images) if images.len() == pixels.len() => images.into_iter().map(Ok).collect(),
                Ok(images) => pixels.iter().map(|_| Err(wrong_number(images.len(), pixels.len()))).collect(),
                Err(error) if pixels.len() == 1 => vec![Err(error)],
                // One of the images may be at fault, or the size of the batch.
                Err(_) => pixels.iter().map(|pixels| encode_alone(encoder, pixels)).collect(),
            };
            for ((image, decoded), encoded) in new.into_iter().zip(encoded) {
                let prefix = encoded.map_err(Arc::new).map(|EncodedImage { prefix, vision_encoder, qformer }| {
                    if let Some(place) = images.iter().position(|other| Arc::ptr_eq(&other.0, &image.0)) {
                        timings[place] = Timings::from([
                            (Stage::Preprocess, decoded.took),
                            (Stage::VisionEncoder, vision_encoder),
                            (Stage::Qformer, qformer),
                        ]);
                    }
                    prefix
                });
                let _ = image.0.encoded.set(prefix); // only this worker sets it
            }
        }
        images.iter().zip(timings).map(|(image, timings)| self.keep(image).map(|()| timings)).collect()
    }

    /// Caches an encoded image, or removes one that failed.
    fn keep(&self, image: &Image) -> Result<(), EngineError> {
        let encoded = image.0.encoded.get().expect("an image is decoded when it is opened, and was encoded just now");
        let mut known = lock(&self.known);
        known.is_done(image);
        match encoded {
            Ok(prefix) => {
                known.cache.put(image.key(), image.clone(), prefix.bytes());
                Ok(())
            }
            Err(source) => Err(EngineError::Model { stage: "encoding the image", source: Arc::clone(source) }),
        }
    }
}

fn encode_alone(encoder: &mut impl ImageEncoder, pixels: &PixelValues) -> Result<EncodedImage, ModelError> {
    encoder.encode(&[pixels])?.pop().ok_or_else(|| wrong_number(0, 1))
}

fn wrong_number(returned: usize, images: usize) -> ModelError {
    ModelError::new(format!("the encoder returned {returned} prefixes for {images} images"))
}

impl Known {
    /// Removes an image from those in work. After a failure another attempt may be there already,
    /// which stays.
    fn is_done(&mut self, image: &Image) {
        if let MapEntry::Occupied(in_work) = self.in_work.entry(image.key())
            && in_work.get().as_ptr() == Arc::as_ptr(&image.0)
        {
            in_work.remove();
        }
    }

    fn find_or_add(&mut self, key: ImageKey) -> Image {
        let in_work = self.in_work.get(&key).and_then(Weak::upgrade);
        if let Some(entry) = in_work {
            self.cache.count_hit();
            return Image(entry);
        }
        if let Some(image) = self.cache.get(&key) {
            return image.clone();
        }
        let entry = Arc::new(Entry { key, decoded: OnceLock::new(), encoded: OnceLock::new() });
        self.in_work.retain(|_, entry| entry.strong_count() > 0); // jobs that were cancelled before their image was encoded
        self.in_work.insert(key, Arc::downgrade(&entry));
        Image(entry)
    }
}

/// Locks, also after a panic of another holder, which leaves the maps whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
impl Image {
    pub(super) fn for_tests() -> Self {
        let key = ImageKey(rand::random());
        Self(Arc::new(Entry { key, decoded: OnceLock::new(), encoded: OnceLock::new() }))
    }
}
