//! The committed bundle through ONNX Runtime: encoding an image, prefill, and one decode step at several numbers of rows.

#![allow(missing_docs, reason = "criterion's macros write functions without")]
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run should say where")]

use std::cell::RefCell;
use std::hint::black_box;
use std::path::{Path, PathBuf};

use blip2::bundle::Bundle;
use blip2::engine::{ImageEncoder as _, ImagePrefix, Logits, PromptPiece, StepDecoder as _};
use blip2::image::PixelValues;
use blip2::model::{Blip2, CacheSize, Decoder, Devices};
use blip2::runtime::{CpuSettings, Runtime};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};

const SLOTS: usize = 8;
const PROMPT_TOKENS: usize = 11;

fn model() -> (Blip2, PixelValues) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let library = std::env::var_os("ORT_DYLIB_PATH").map_or_else(|| root.join(".ort/libonnxruntime.so"), PathBuf::from);
    let runtime =
        Runtime::load(&library, &CpuSettings::with_threads(std::thread::available_parallelism().unwrap())).unwrap();
    let bundle = Bundle::open(&root.join("onnx/blip2-shapes")).unwrap();
    let cache = CacheSize { slots: SLOTS.try_into().unwrap(), max_len: None, kv_tokens: None };
    let image = &bundle.manifest().image;
    let pixel_values = PixelValues::zeros((3, image.height as usize, image.width as usize));
    (Blip2::open(&runtime, &bundle, cache, &Devices::CPU).unwrap(), pixel_values)
}

fn prompt() -> Vec<i64> {
    (0..PROMPT_TOKENS as i64).map(|id| 2 + id).collect()
}

fn prefill(decoder: &mut Decoder, slot: usize, prefix: &ImagePrefix) -> Logits {
    let prompt = prompt();
    let len = decoder.limits().prefix_len + prompt.len();
    decoder.prefill(slot, &[PromptPiece { image: prefix, input_ids: &prompt, positions: 0..len }]).unwrap()
}

fn fill(decoder: &mut Decoder, prefix: &ImagePrefix, rows: usize) {
    for slot in 0..rows {
        prefill(decoder, slot, prefix);
    }
}

fn benchmark(criterion: &mut Criterion) {
    let (Blip2 { mut image, decoder }, pixel_values) = model();
    criterion.bench_function("encode_image", |b| b.iter(|| image.encode(black_box(&[&pixel_values])).unwrap()));
    let prefix = image.encode(&[&pixel_values]).unwrap().remove(0).prefix;
    let decoder = RefCell::new(decoder);
    criterion.bench_function("prefill", |b| b.iter(|| prefill(&mut decoder.borrow_mut(), 0, &prefix)));
    for rows in [1, 4, SLOTS] {
        let tokens = vec![3; rows];
        criterion.bench_function(&format!("decode_step_{rows}_rows"), |b| {
            // A step grows the cache, so each one starts from fresh prompts.
            b.iter_batched(
                || fill(&mut decoder.borrow_mut(), &prefix, rows),
                |()| decoder.borrow_mut().decode(&tokens).unwrap(),
                BatchSize::PerIteration,
            );
        });
    }
}

criterion_group!(benches, benchmark);
criterion_main!(benches);
