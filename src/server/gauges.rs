//! Gauges read when `/metrics` is scraped: the engine's work, its caches, memory, readiness.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::State;
use crate::engine::{CacheCounts, Engine, EngineStatus};
use crate::memory::resident_bytes;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Phase {
    phase: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Cache {
    cache: &'static str,
}

/// All gauges as they stand now.
pub(super) fn registry(state: &State) -> Registry {
    let mut registry = Registry::with_prefix("blip2");
    let build = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
    registry.register("build", "The program", Info::new(build));
    gauge(&mut registry, "ready", "1 when /readyz says 200", usize::from(state.unready().is_none()));
    if let Some(bytes) = resident_bytes() {
        let help = "Memory of the process that is resident";
        registry.register_with_unit("resident_memory", help, Unit::Bytes, ConstGauge::new(bytes));
    }
    if let Some(bytes) = state.planned_memory() {
        let help = "Memory that the plan made at start allows for";
        registry.register_with_unit("planned_memory", help, Unit::Bytes, ConstGauge::new(bytes));
    }
    if let Ok(model) = state.model() {
        let labels = vec![("name", model.name.clone())];
        registry.register("model", "The bundle that is served", Info::new(labels));
        of_work(&mut registry, &model.engine.status());
        of_caches(&mut registry, &model.engine);
    }
    registry
}

fn of_work(registry: &mut Registry, status: &EngineStatus) {
    let rows = Family::<Phase, Gauge>::default();
    let phases = [("waiting", status.waiting), ("prefilling", status.prefilling), ("decoding", status.decoding)];
    for (phase, count) in phases {
        rows.get_or_create(&Phase { phase }).set(as_i64(count));
    }
    registry.register("rows", "Rows of input in work, by phase", rows);
    gauge(registry, "rows_in_work", "Rows of input that hold a place in the queue", status.rows_in_work());
    gauge(registry, "queue_capacity_rows", "Places in the queue", status.queue_rows);
    gauge(registry, "slots_in_use", "Slots that hold a row", status.slots_in_use);
    gauge(registry, "slots", "Rows that are decoded together at most", status.slots);
    gauge(registry, "kv_tokens_booked", "Positions that the rows in work can reach", status.kv_tokens_booked);
    gauge(registry, "kv_tokens", "Positions that there is memory for", status.kv_tokens);
}

fn of_caches(registry: &mut Registry, engine: &Engine) {
    let [hits, misses, evictions] = [(); 3].map(|()| Family::<Cache, Counter>::default());
    let bytes = Family::<Cache, Gauge>::default();
    for (cache, counts) in [("image", engine.image_cache()), ("kv_prefix", engine.kv_prefix_cache())] {
        let (cache, counts): (_, CacheCounts) = (Cache { cache }, counts);
        hits.get_or_create(&cache).inc_by(counts.hits);
        misses.get_or_create(&cache).inc_by(counts.misses);
        evictions.get_or_create(&cache).inc_by(counts.evictions);
        bytes.get_or_create(&cache).set(i64::try_from(counts.bytes).unwrap_or(i64::MAX));
    }
    registry.register("cache_hits", "Images that were known", hits);
    registry.register("cache_misses", "Images that were not known", misses);
    registry.register("cache_evictions", "Images that were forgotten to make room", evictions);
    registry.register_with_unit("cache", "What the caches hold", Unit::Bytes, bytes);
    let (images, stored) = engine.stored_images();
    gauge(registry, "stored_images", "Images that clients have stored", images);
    registry.register_with_unit("stored_images", "What these take", Unit::Bytes, ConstGauge::new(stored));
}

fn gauge(registry: &mut Registry, name: &str, help: &str, value: usize) {
    registry.register(name, help, ConstGauge::new(value));
}

fn as_i64(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
