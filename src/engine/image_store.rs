//! The image store: encoded images under an id, until they are deleted, expire or are evicted.
//!
//! Methods take the time as an argument, so that tests need not wait.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use lru::LruCache;
use serde::{Serialize, Serializer};

use super::Image;

/// The id of a stored image: 128 random bits, which cannot be guessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ImageId(u128);

/// A text that is not an id.
#[derive(Debug, thiserror::Error)]
#[error("an image id is \"image-\" and 32 hexadecimal digits, as it was returned when the image was stored")]
pub struct ImageIdError;

/// The options of a stored image.
#[derive(Debug, Clone, Copy)]
pub struct StoreOptions {
    /// The time from storing until the image expires.
    pub time_to_live: Duration,
    /// Whether the image is exempt from eviction.
    pub is_pinned: bool,
}

/// An error of the image store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The id is unknown, or no longer known.
    #[error("there is no stored image {0}: it was deleted, has expired or was evicted; store it again")]
    Unknown(ImageId),
    /// Pinned images leave no room.
    #[error(
        "pinned images take {pinned} of the {capacity} bytes for stored images; delete or unpin some, or start the \
         service with more --stored-images-mib"
    )]
    Full {
        /// Bytes of pinned images.
        pinned: usize,
        /// The capacity of the store in bytes.
        capacity: usize,
    },
}

/// The properties of a stored image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredImage {
    /// Its size in bytes.
    pub bytes: usize,
    /// Whether it is exempt from eviction.
    pub is_pinned: bool,
    /// The time until it expires; `None` for never.
    pub expires_in: Option<Duration>,
}

pub(super) struct ImageStore {
    images: LruCache<ImageId, Stored>,
    capacity: usize,
    bytes: usize,
}

struct Stored {
    image: Image,
    bytes: usize,
    /// `None` if the time to live exceeds the range of the clock.
    expires: Option<Instant>,
    is_pinned: bool,
}

impl Stored {
    fn is_expired(&self, now: Instant) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

impl ImageStore {
    /// Makes a store for at most `capacity` bytes of encoded images.
    pub(super) fn new(capacity: usize) -> Self {
        Self { images: LruCache::unbounded(), capacity, bytes: 0 }
    }

    /// Stores an image of `bytes` bytes. Removes expired images first, then evicts the least
    /// recently used ones that are not pinned.
    pub(super) fn put(
        &mut self,
        image: Image,
        bytes: usize,
        options: StoreOptions,
        now: Instant,
    ) -> Result<ImageId, StoreError> {
        let pinned: usize =
            self.alive(now).filter(|(_, stored)| stored.is_pinned).map(|(_, stored)| stored.bytes).sum();
        if pinned.saturating_add(bytes) > self.capacity {
            return Err(StoreError::Full { pinned, capacity: self.capacity });
        }
        self.make_room(bytes, now);
        let id = ImageId(rand::random());
        let expires = now.checked_add(options.time_to_live);
        self.images.put(id, Stored { image, bytes, expires, is_pinned: options.is_pinned });
        self.bytes += bytes;
        Ok(id)
    }

    /// Returns an image, and marks it as recently used.
    pub(super) fn get(&mut self, id: ImageId, now: Instant) -> Result<Image, StoreError> {
        Ok(self.find(id, now)?.image.clone())
    }

    /// Returns the properties of an image, without marking it as recently used.
    pub(super) fn describe(&self, id: ImageId, now: Instant) -> Result<StoredImage, StoreError> {
        let stored = self.images.peek(&id).filter(|stored| !stored.is_expired(now));
        let Stored { bytes, expires, is_pinned, .. } = stored.ok_or(StoreError::Unknown(id))?;
        let expires_in = expires.map(|expires| expires.saturating_duration_since(now));
        Ok(StoredImage { bytes: *bytes, is_pinned: *is_pinned, expires_in })
    }

    /// Pins or unpins an image.
    pub(super) fn set_pinned(&mut self, id: ImageId, is_pinned: bool, now: Instant) -> Result<(), StoreError> {
        self.find(id, now)?.is_pinned = is_pinned;
        Ok(())
    }

    /// Deletes an image. Jobs about it go on.
    pub(super) fn delete(&mut self, id: ImageId, now: Instant) -> Result<(), StoreError> {
        self.find(id, now)?;
        self.remove(id);
        Ok(())
    }

    /// Returns the number of images, and their bytes.
    pub(super) fn usage(&mut self, now: Instant) -> (usize, usize) {
        self.remove_expired(now);
        (self.images.len(), self.bytes)
    }

    fn find(&mut self, id: ImageId, now: Instant) -> Result<&mut Stored, StoreError> {
        self.remove_expired(now);
        self.images.get_mut(&id).ok_or(StoreError::Unknown(id))
    }

    fn alive(&self, now: Instant) -> impl Iterator<Item = (&ImageId, &Stored)> {
        self.images.iter().filter(move |(_, stored)| !stored.is_expired(now))
    }

    fn remove_expired(&mut self, now: Instant) {
        let expired = self.images.iter().filter(|(_, stored)| stored.is_expired(now)).map(|(id, _)| *id);
        for id in expired.collect::<Vec<_>>() {
            self.remove(id);
        }
    }

    fn make_room(&mut self, bytes: usize, now: Instant) {
        self.remove_expired(now);
        let oldest_first = self.images.iter().rev().filter(|(_, stored)| !stored.is_pinned).map(|(id, _)| *id);
        for id in oldest_first.collect::<Vec<_>>() {
            if self.bytes + bytes <= self.capacity {
                break;
            }
            self.remove(id);
        }
    }

    fn remove(&mut self, id: ImageId) {
        if let Some(stored) = self.images.pop(&id) {
            self.bytes -= stored.bytes;
        }
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "image-{:032x}", self.0)
    }
}

impl FromStr for ImageId {
    type Err = ImageIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix("image-").filter(|digits| digits.len() == 32).ok_or(ImageIdError)?;
        if !digits.bytes().all(|digit| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit)) {
            return Err(ImageIdError); // the parser would take a sign and capitals
        }
        u128::from_str_radix(digits, 16).map(Self).map_err(|_| ImageIdError)
    }
}

impl Serialize for ImageId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn put(store: &mut ImageStore, bytes: usize, is_pinned: bool, now: Instant) -> Result<ImageId, StoreError> {
        store.put(Image::for_tests(), bytes, StoreOptions { time_to_live: HOUR, is_pinned }, now)
    }

    #[test]
    fn image_is_found_by_its_id_until_it_expires() {
        let mut store = ImageStore::new(100);
        let now = Instant::now();
        let id = put(&mut store, 10, true, now).unwrap();
        assert!(store.get(id, now + HOUR / 2).is_ok());
        assert!(matches!(store.get(id, now + HOUR), Err(StoreError::Unknown(_))));
        assert_eq!(store.usage(now + HOUR), (0, 0));
    }

    #[test]
    fn eviction_takes_the_least_recently_used_image_that_is_not_pinned() {
        let mut store = ImageStore::new(30);
        let now = Instant::now();
        let pinned = put(&mut store, 10, true, now).unwrap();
        let [first, second] = [(); 2].map(|()| put(&mut store, 10, false, now).unwrap());
        store.get(first, now).unwrap();
        let third = put(&mut store, 10, false, now).unwrap();
        assert_eq!([pinned, first, second, third].map(|id| store.get(id, now).is_ok()), [true, true, false, true]);
        store.set_pinned(first, true, now).unwrap();
        store.set_pinned(pinned, false, now).unwrap();
        put(&mut store, 20, false, now).unwrap();
        assert_eq!([pinned, first, third].map(|id| store.get(id, now).is_ok()), [false, true, false]);
    }

    #[test]
    fn store_full_of_pinned_images_refuses_and_loses_nothing() {
        let mut store = ImageStore::new(30);
        let now = Instant::now();
        let kept = [10, 10].map(|bytes| put(&mut store, bytes, true, now).unwrap());
        let loose = put(&mut store, 10, false, now).unwrap();
        assert!(matches!(put(&mut store, 11, false, now), Err(StoreError::Full { pinned: 20, capacity: 30 })));
        assert!([kept[0], kept[1], loose].iter().all(|id| store.get(*id, now).is_ok()));
        assert!(put(&mut store, 30, false, now + HOUR).is_ok(), "they have expired");
    }

    #[test]
    fn describing_an_image_does_not_mark_it_as_used() {
        let mut store = ImageStore::new(20);
        let now = Instant::now();
        let [first, second] = [(); 2].map(|()| put(&mut store, 10, false, now).unwrap());
        let described = store.describe(first, now + HOUR / 4).unwrap();
        let expected = StoredImage { bytes: 10, is_pinned: false, expires_in: Some(HOUR * 3 / 4) };
        assert_eq!(described, expected);
        put(&mut store, 10, true, now).unwrap();
        assert!(matches!(store.describe(first, now), Err(StoreError::Unknown(unknown)) if unknown == first));
        assert!(store.describe(second, now).is_ok());
        assert!(matches!(store.describe(second, now + HOUR), Err(StoreError::Unknown(_))));
    }

    #[test]
    fn deleted_image_is_unknown() {
        let mut store = ImageStore::new(30);
        let now = Instant::now();
        let id = put(&mut store, 10, true, now).unwrap();
        store.delete(id, now).unwrap();
        assert!(matches!(store.delete(id, now), Err(StoreError::Unknown(unknown)) if unknown == id));
        assert_eq!(store.usage(now), (0, 0));
    }

    #[test]
    fn id_is_parsed_in_the_form_in_which_it_is_written_and_no_other() {
        let id = ImageId(0xab);
        assert_eq!(id.to_string(), format!("image-{}ab", "0".repeat(30)));
        assert_eq!(id.to_string().parse::<ImageId>().unwrap(), id);
        let capitals = id.to_string().to_uppercase();
        for text in ["", "image-", "image-ab", "ab", &format!("image-+{}", "0".repeat(31)), &capitals] {
            assert!(text.parse::<ImageId>().is_err(), "{text}");
        }
    }
}
