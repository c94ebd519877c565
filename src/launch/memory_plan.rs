//! Shares memory out among the stages before anything is loaded: the machine's, and the GPU's if one is used.

use std::num::NonZeroUsize;

use super::Settings;
use crate::bundle::Manifest;
use crate::memory::{MemoryKind, MemoryNeeds, MemoryPlan, MemoryShortage, available_bytes};
use crate::runtime::{Provider, Providers};

/// Bytes for CUDA, its libraries and the runs of a session, besides weights and caches. An estimate, not measured.
const GPU_WORKING_BYTES: u64 = 1 << 30;

/// How the memory is shared where the decoder is. For the other memory it is only checked that its stages fit.
///
/// `gpu_bytes` may be taken of the GPU's memory.
pub(super) fn plan_memory(
    settings: &Settings,
    manifest: &Manifest,
    providers: Providers,
    gpu_bytes: Option<u64>,
) -> Result<MemoryPlan, MemoryShortage> {
    let (decoder, engine) = (&manifest.decoder, &settings.engine);
    let limit = NonZeroUsize::new(decoder.max_positions).unwrap_or(NonZeroUsize::MIN);
    let max_len = settings.max_len.map_or(limit, |asked| asked.min(limit));
    let slots = settings.slots.map_or(MemoryNeeds::DEFAULT_SLOTS, NonZeroUsize::get);
    let (on_gpu, gpu_files) = (gpu_weights(manifest, providers), gpu_files(manifest, providers));
    let host = MemoryNeeds {
        kind: MemoryKind::Host,
        available: available_bytes(),
        weights: manifest.bytes() - gpu_files,
        working: working_bytes(manifest, slots, max_len.get()),
        encoded_images: engine.image_cache_bytes.saturating_add(engine.stored_image_bytes) as u64,
        kv_prefix_cache: engine.kv_prefix_cache_bytes as u64,
        position_bytes: decoder.position_bytes() as u64,
        max_len,
        slots: settings.slots,
        kv_tokens: settings.kv_tokens,
    };
    let Some(available) = gpu_bytes else { return host.plan() };
    let gpu = MemoryNeeds { kind: MemoryKind::Gpu, available, weights: on_gpu, working: GPU_WORKING_BYTES, ..host };
    let images = host.encoded_images;
    // Encoded images lie on the GPU if they are made and read there, keys and values where the decoder is.
    let (on_host, on_gpu) =
        if providers.qformer.is_gpu() && providers.decoder.is_gpu() { (0, images) } else { (images, 0) };
    let (host, gpu) = (MemoryNeeds { encoded_images: on_host, ..host }, MemoryNeeds { encoded_images: on_gpu, ..gpu });
    if providers.decoder.is_gpu() {
        MemoryNeeds { kv_prefix_cache: 0, ..host }.check_without_kv_cache()?;
        gpu.plan()
    } else {
        MemoryNeeds { kv_prefix_cache: 0, ..gpu }.check_without_kv_cache()?;
        host.plan()
    }
}

/// Bytes that the graphs a GPU runs take there.
fn gpu_weights(manifest: &Manifest, providers: Providers) -> u64 {
    let decoder = &manifest.decoder;
    // The logits are a product in f32, for which ONNX Runtime keeps the table of tokens once more.
    let table = if providers.decoder.is_gpu() { 4 * decoder.vocab_size * decoder.hidden_size } else { 0 };
    table as u64 + gpu_files(manifest, providers)
}

/// Bytes of the files of these graphs.
fn gpu_files(manifest: &Manifest, providers: Providers) -> u64 {
    let stages = [
        (providers.vision_encoder, &manifest.vision_encoder.file),
        (providers.qformer, &manifest.qformer.file),
        (providers.decoder, &manifest.decoder.file),
    ];
    let on_gpu = stages.into_iter().filter(|(provider, _): &(Provider, _)| provider.is_gpu());
    on_gpu.map(|(_, file)| manifest.graph_bytes(file)).sum()
}

/// Estimates the memory besides weights, caches and rows. Fitted to an int8 bundle of opt-2.7b's dimensions on the CPU, which took 267
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::bundle::Bundle;

    #[test]
    fn the_memory_of_a_gpu_holds_the_graphs_that_it_runs_and_a_table_for_the_logits() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("onnx/blip2-shapes");
        let bundle = Bundle::open(&root).unwrap();
        let manifest = bundle.manifest();
        assert_eq!(gpu_weights(manifest, Providers::CPU), 0);
        let image = Providers { vision_encoder: Provider::TensorRt, qformer: Provider::Cuda, ..Providers::CPU };
        let bytes = manifest.graph_bytes("vision_encoder.onnx") + manifest.graph_bytes("qformer.onnx");
        assert_eq!(gpu_weights(manifest, image), bytes);
        let all = Providers { decoder: Provider::Cuda, ..image };
        let table = 4 * (manifest.decoder.vocab_size * manifest.decoder.hidden_size) as u64;
        assert_eq!(gpu_weights(manifest, all), bytes + manifest.graph_bytes("decoder.onnx") + table);
        assert!(gpu_files(manifest, all) < manifest.bytes());
    }
}
