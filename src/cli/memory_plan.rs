//! Shares memory out among the stages before anything is loaded: the machine's, and the GPU's if one is used.

use std::num::NonZeroUsize;

use crate::bundle::Manifest;
use crate::memory::{MemoryKind, MemoryNeeds, MemoryPlan, MemoryShortage, available_bytes};
use crate::runtime::{Provider, Providers};
use crate::settings::RuntimeSettings;

/// What CUDA, its libraries and the runs of a session take beside weights and caches. An estimate: not measured.
const GPU_WORKING_BYTES: u64 = 1 << 30;

/// How the memory is shared where the decoder is. For the other memory it is only checked that its stages fit.
///
/// `gpu_bytes` may be taken of the GPU's memory.
pub(super) fn plan_memory(
    settings: &RuntimeSettings,
    manifest: &Manifest,
    providers: Providers,
    gpu_bytes: Option<u64>,
) -> Result<MemoryPlan, MemoryShortage> {
    let (decoder, engine) = (&manifest.decoder, &settings.engine);
    let limit = NonZeroUsize::new(decoder.max_positions).unwrap_or(NonZeroUsize::MIN);
    let max_len = settings.max_len.map_or(limit, |asked| asked.min(limit));
    let slots = settings.slots.map_or(MemoryNeeds::DEFAULT_SLOTS, NonZeroUsize::get);
    let on_gpu = gpu_weights(manifest, providers);
    let host = MemoryNeeds {
        kind: MemoryKind::Host,
        available: available_bytes(),
        weights: manifest.bytes() - on_gpu,
        working: working_bytes(manifest, slots, max_len.get()),
        encoded_pictures: engine.image_cache_bytes.saturating_add(engine.stored_image_bytes) as u64,
        kv_prefix_cache: engine.kv_prefix_cache_bytes as u64,
        position_bytes: decoder.position_bytes() as u64,
        max_len,
        slots: settings.slots,
        kv_tokens: settings.kv_tokens,
    };
    let Some(available) = gpu_bytes else { return host.plan() };
    let gpu = MemoryNeeds { kind: MemoryKind::Gpu, available, weights: on_gpu, working: GPU_WORKING_BYTES, ..host };
    // What is encoded lies where the decoder reads it.
    let without_caches = |needs| MemoryNeeds { encoded_pictures: 0, kv_prefix_cache: 0, ..needs };
    if providers.decoder.is_gpu() {
        without_caches(host).check_without_kv_cache()?;
        gpu.plan()
    } else {
        without_caches(gpu).check_without_kv_cache()?;
        host.plan()
    }
}

/// Bytes of the graphs that a GPU runs.
fn gpu_weights(manifest: &Manifest, providers: Providers) -> u64 {
    let stages = [
        (providers.vision_encoder, &manifest.vision_encoder.file),
        (providers.qformer, &manifest.qformer.file),
        (providers.decoder, &manifest.decoder.file),
    ];
    let on_gpu = stages.into_iter().filter(|(provider, _): &(Provider, _)| provider.is_gpu());
    on_gpu.map(|(_, file)| manifest.graph_bytes(file)).sum()
}

/// What comes on top of weights, caches and rows: fitted to what an int8 bundle of opt-2.7b's dimensions took on the CPU, 267
/// MiB at most where this says 278 (benches/results).
fn working_bytes(manifest: &Manifest, slots: usize, max_len: usize) -> u64 {
    const PIECE: usize = 64; // positions of a prompt in one run
    let (vision, decoder) = (&manifest.vision_encoder, &manifest.decoder);
    let program = 64 << 20;
    let rearranged_weights = manifest.bytes() / 32;
    let activations = 128 * (vision.num_tokens * vision.hidden_size + PIECE * decoder.hidden_size);
    let attention = 4 * decoder.num_heads * PIECE * max_len;
    let logits = 16 * slots.saturating_mul(decoder.vocab_size);
    program + rearranged_weights + (activations + attention).saturating_add(logits) as u64
}
