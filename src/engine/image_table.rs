//! Images on their way through the image stage: decoded once, encoded once, remembered.
//!
//! Equal files are the same image. Whoever opens one that is known, or in work for someone else, gets a handle to the
//! same entry, so that nothing is computed twice however many ask at once. An entry lives as long as its cache or a job
//! holds it; what the cache throws out stays valid for the jobs that have it.

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

/// A hash of an image file's bytes. What is made of an image depends on these, and on bundle and preprocessing, which are
/// the same for the whole life of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ImageKey([u8; 32]);

/// An image that can be asked about. Clones are the same image.
#[derive(Clone)]
pub struct Image(Arc<Entry>);

struct Entry {
    key: ImageKey,
    /// What the encoder will read, taken when it does; or why the file is no image.
    decoded: OnceLock<Result<Mutex<Option<DecodedImage>>, Arc<ImageError>>>,
    /// What the encoder made of it; set by the image worker alone.
    encoded: OnceLock<Result<ImagePrefix, Arc<ModelError>>>,
}

/// An image's pixels as the encoder reads them.
pub struct DecodedImage {
    pub(super) pixel_values: PixelValues,
    pub(super) took: Duration,
}

impl Image {
    pub(super) fn key(&self) -> ImageKey {
        self.0.key
    }

    /// What precedes the text; `None` before the image was encoded, and when that failed.
    pub(super) fn prefix(&self) -> Option<&ImagePrefix> {
        self.0.encoded.get()?.as_ref().ok()
    }

    fn take_decoded(&self) -> Option<DecodedImage> {
        lock(self.0.decoded.get()?.as_ref().ok()?).take()
    }
}

impl fmt::Debug for DecodedImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DecodedImage") // as below
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Image") // its content has no place in a log
    }
}

/// All images that are known or in work.
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

    /// The image in a file, decoded and resized on this thread unless it is known.
    pub(super) fn open(&self, file: &[u8]) -> Result<Image, JobError> {
        let key = ImageKey(Sha256::digest(file).into());
        let image = lock(&self.known).find_or_add(key);
        if image.prefix().is_none() {
            // Others who open the same image now wait here for the first.
            let decoded = image.0.decoded.get_or_init(|| Ok(Mutex::new(Some(self.decode(file)?))));
            decoded.as_ref().map_err(|error| JobError::Image(Arc::clone(error)))?;
        }
        Ok(image)
    }

    /// The pixels of the image in a file, whether it is known or not.
    pub(super) fn decode(&self, file: &[u8]) -> Result<DecodedImage, Arc<ImageError>> {
        let started = Instant::now();
        let pixel_values = self.preprocessor.preprocess(file)?;
        Ok(DecodedImage { pixel_values, took: started.elapsed() })
    }

    /// Encodes in one run those of the images that are not yet, and keeps all of them. What came of each, in their order. A
    /// failure is forgotten, so that the next request tries again. Called by the image worker alone.
    pub(super) fn encode(
        &self,
        images: &[&Image],
        encoder: &mut impl ImageEncoder,
    ) -> Vec<Result<Timings, EngineError>> {
        let is_new = |image: &&&Image| image.0.encoded.get().is_none();
        // Each is taken once, also where it stands twice.
        let new: Vec<(&Image, DecodedImage)> =
            images.iter().filter(is_new).filter_map(|image| Some((*image, image.take_decoded()?))).collect();
        let mut timings = vec![Timings::default(); images.len()];
        if !new.is_empty() {
            let pixels: Vec<&PixelValues> = new.iter().map(|(_, decoded)| &decoded.pixel_values).collect();
            let encoded: Vec<Result<EncodedImage, ModelError>> = match encoder.encode(&pixels) {
                Ok(images) if images.len() == pixels.len() => images.into_iter().map(Ok).collect(),
                Ok(images) => pixels.iter().map(|_| Err(wrong_number(images.len(), pixels.len()))).collect(),
                Err(error) if pixels.len() == 1 => vec![Err(error)],
                // One of them may be to blame, or their number.
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

    /// Remembers an image that was encoded, or forgets one that failed.
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
    /// An image is no longer in work. Of one that failed, another attempt may be by now; that one stays.
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
        self.in_work.retain(|_, entry| entry.strong_count() > 0); // cancelled before they were encoded
        self.in_work.insert(key, Arc::downgrade(&entry));
        Image(entry)
    }
}

/// A panic while the lock is held leaves maps that are whole, so it need not spread.
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
