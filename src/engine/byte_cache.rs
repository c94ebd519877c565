//! A cache bounded in bytes, which evicts the least recently used value. Other threads can read its
//! counters.

use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lru::LruCache;
use serde::Serialize;
use utoipa::ToSchema;

/// A snapshot of a cache's counters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct CacheCounts {
    /// Lookups that found a value.
    pub hits: u64,
    /// Lookups that found none.
    pub misses: u64,
    /// Values evicted to make room.
    pub evictions: u64,
    /// Bytes of the values in the cache.
    pub bytes: u64,
}

/// The live counters behind [`CacheCounts`].
#[derive(Debug, Default)]
pub(super) struct CacheCounters {
    hits: AtomicU64,
    misses: AtomicU64,
    evictions: AtomicU64,
    bytes: AtomicU64,
}

impl CacheCounters {
    pub(super) fn read(&self) -> CacheCounts {
        CacheCounts {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            evictions: self.evictions.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }
}

#[derive(Debug)]
pub(super) struct ByteCache<K: Hash + Eq, V> {
    entries: LruCache<K, (V, usize)>,
    capacity: usize,
    bytes: usize,
    counters: Arc<CacheCounters>,
}

impl<K: Hash + Eq, V> ByteCache<K, V> {
    /// Makes a cache for at most `capacity` bytes. With 0 it caches nothing.
    pub(super) fn new(capacity: usize) -> Self {
        Self { entries: LruCache::unbounded(), capacity, bytes: 0, counters: Arc::default() }
    }

    /// Returns the capacity in bytes.
    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    pub(super) fn counters(&self) -> Arc<CacheCounters> {
        Arc::clone(&self.counters)
    }

    pub(super) fn get(&mut self, key: &K) -> Option<&V> {
        let found = self.entries.get(key).map(|(value, _)| value);
        let counter = if found.is_some() { &self.counters.hits } else { &self.counters.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// Returns whether a value is cached, without counting or marking it as used.
    pub(super) fn holds(&self, key: &K) -> bool {
        self.entries.contains(key)
    }

    /// Counts a hit for a value that is still being computed, and not cached yet.
    pub(super) fn count_hit(&self) {
        self.counters.hits.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns whether a value of `bytes` bytes would be cached.
    pub(super) fn fits(&self, bytes: usize) -> bool {
        bytes <= self.capacity
    }

    /// Caches a value of `bytes` bytes. Drops a value that is larger than the whole cache.
    pub(super) fn put(&mut self, key: K, value: V, bytes: usize) {
        if !self.fits(bytes) {
            return;
        }
        if let Some((_, replaced)) = self.entries.pop_entry(&key).map(|(_, replaced)| replaced) {
            self.bytes -= replaced;
        }
        self.make_room(bytes);
        self.entries.put(key, (value, bytes));
        self.bytes += bytes;
        self.counters.bytes.store(self.bytes as u64, Ordering::Relaxed);
    }

    /// Evicts values until `bytes` bytes fit. Returns the last evicted one, whose memory can be
    /// reused.
    pub(super) fn make_room(&mut self, bytes: usize) -> Option<V> {
        let mut last = None;
        while self.bytes.saturating_add(bytes) > self.capacity {
            let Some((_, (value, evicted))) = self.entries.pop_lru() else { break };
            self.bytes -= evicted;
            self.counters.evictions.fetch_add(1, Ordering::Relaxed);
            last = Some(value);
        }
        self.counters.bytes.store(self.bytes as u64, Ordering::Relaxed);
        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eviction_takes_the_least_recently_used_value() {
        let mut cache = ByteCache::new(10);
        cache.put('a', 1, 4);
        cache.put('b', 2, 4);
        assert_eq!(cache.get(&'a'), Some(&1));
        cache.put('c', 3, 4);
        assert_eq!(['b', 'a', 'c'].map(|key| cache.get(&key).copied()), [None, Some(1), Some(3)]);
        assert_eq!(cache.counters().read(), CacheCounts { hits: 3, misses: 1, evictions: 1, bytes: 8 });
    }

    #[test]
    fn bytes_never_exceed_the_capacity() {
        let mut cache = ByteCache::new(100);
        for number in 0..1000_usize {
            cache.put(number % 37, (), (number * 31) % 120);
            assert!(cache.counters().read().bytes <= 100);
        }
        let mut nothing = ByteCache::new(0);
        nothing.put('a', (), 1);
        assert_eq!(nothing.get(&'a'), None);
    }

    #[test]
    fn replaced_value_is_counted_once() {
        let mut cache = ByteCache::new(10);
        cache.put('a', 1, 6);
        cache.put('a', 2, 8);
        assert_eq!(cache.get(&'a'), Some(&2));
        assert_eq!(cache.counters().read().bytes, 8);
    }
}
