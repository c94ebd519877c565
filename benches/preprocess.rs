//! Preprocessing against its floor: the same libraries decoding and resizing, and nothing else. The difference is what
//! `image` adds: header, limits, orientation and normalization.

use std::hint::black_box;

use blip2::image::{ImageLimits, Preprocessor, PreprocessorConfig};
use criterion::{Criterion, criterion_group, criterion_main};
use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};

const WIDTH: u32 = 1024;
const HEIGHT: u32 = 768;
const SIZE: u32 = 224;

/// A synthetic image, the same everywhere: gradients, stripes and noise, so that the file has a photo's size.
fn jpeg() -> Vec<u8> {
    let mut noise = 1u32;
    let mut samples = Vec::with_capacity((WIDTH * HEIGHT * 3) as usize);
    for y in 0..HEIGHT {
        for x in 0..WIDTH {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let stripe = if (x / 64 + y / 48) % 2 == 0 { 40 } else { 0 };
            let grain = noise >> 28;
            samples.push((x * 200 / WIDTH + grain + stripe) as u8);
            samples.push((y * 200 / HEIGHT + grain) as u8);
            samples.push(((x + y) * 200 / (WIDTH + HEIGHT) + grain + stripe / 2) as u8);
        }
    }
    let mut compress = mozjpeg::Compress::new(mozjpeg::ColorSpace::JCS_RGB);
    compress.set_size(WIDTH as usize, HEIGHT as usize);
    compress.set_fastest_defaults();
    compress.set_quality(85.0);
    let mut started = compress.start_compress(Vec::new()).expect("memory can be written to");
    started.write_scanlines(&samples).expect("the samples fill the image");
    started.finish().expect("memory can be written to")
}

fn decode_and_resize(bytes: &[u8]) -> Vec<u8> {
    let decoder = mozjpeg::Decompress::new_mem(bytes).expect("a whole file");
    let mut decoder = decoder.rgb().expect("a colour file");
    let samples = decoder.read_scanlines::<u8>().expect("a whole file");
    let source = ImageRef::new(WIDTH, HEIGHT, &samples, PixelType::U8x3).expect("three bytes a pixel");
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom));
    let mut resizer = Resizer::new();
    let mut narrow = Image::new(SIZE, HEIGHT, PixelType::U8x3);
    resizer.resize(&source, &mut narrow, &options).expect("one pixel type");
    let mut small = Image::new(SIZE, SIZE, PixelType::U8x3);
    resizer.resize(&narrow, &mut small, &options).expect("one pixel type");
    small.into_vec()
}

fn preprocess(criterion: &mut Criterion) {
    let bytes = jpeg();
    let config = PreprocessorConfig {
        height: SIZE,
        width: SIZE,
        mean: [0.48145466, 0.4578275, 0.40821073],
        std: [0.26862954, 0.26130258, 0.27577711],
    };
    let preprocessor = Preprocessor::new(&config, ImageLimits::default()).expect("a valid configuration");
    criterion.bench_function("floor_decode_and_resize_jpeg_1024x768", |bencher| {
        bencher.iter(|| decode_and_resize(black_box(&bytes)));
    });
    criterion.bench_function("preprocess_jpeg_1024x768", |bencher| {
        bencher.iter(|| preprocessor.preprocess(black_box(&bytes)));
    });
}

criterion_group!(benches, preprocess);
criterion_main!(benches);
