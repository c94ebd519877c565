//! The caches of encoded images and of KV prefixes, as jobs see them.

use super::setup::{LONG, PREFIX_BYTES, PREFIX_LEN, Setup, about};
use crate::engine::CacheCounts;

#[test]
fn questions_about_one_image_feed_its_prefix_once() {
    let running = Setup::default().start();
    for text in ["", "what?", LONG, "what is this?", ""] {
        let job = about(3, text);
        running.check(&job, &running.submit(job.clone()).wait().unwrap());
    }
    assert_eq!(running.controls.encode.runs(), 1);
    let saved = 4 * (PREFIX_LEN + 1) as u64;
    assert_eq!(running.engine.kv_prefix_cache(), CacheCounts { hits: 4, misses: 1, evictions: 0, bytes: saved });
    let counts = CacheCounts { hits: 4, misses: 1, evictions: 0, bytes: PREFIX_BYTES as u64 };
    assert_eq!(running.engine.image_cache(), counts);
}

#[test]
fn full_caches_evict_the_least_recently_used_image() {
    let bytes = (2 * PREFIX_BYTES, 4 * (PREFIX_LEN + 1));
    let running = Setup { image_cache_bytes: bytes.0, kv_prefix_cache_bytes: bytes.1, ..Setup::default() }.start();
    for file in [0, 1, 0, 2, 1, 0] {
        let job = about(file, "what?");
        running.check(&job, &running.submit(job.clone()).wait().unwrap());
    }
    let counts = |hits, misses, evictions, bytes: usize| CacheCounts { hits, misses, evictions, bytes: bytes as u64 };
    assert_eq!(running.engine.image_cache(), counts(1, 5, 3, bytes.0));
    assert_eq!(running.engine.kv_prefix_cache(), counts(0, 6, 5, bytes.1));
    assert_eq!(running.controls.encode.runs(), 5);
}
