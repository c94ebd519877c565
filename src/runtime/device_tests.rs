//! Buffers and the KV cache on a device, compared with the same on the host.
//!
//! Without a GPU, the driver is a stand-in of ours (`tests/fixtures/fake_cuda.c`), which keeps its
//! memory at addresses that nobody can read but itself. It is compiled here and found by a second
//! process of this test. With BLIP2_TEST_PROVIDER=cuda the real driver is used.

use std::env;
use std::path::Path;
use std::process::Command;

use super::binding::{Element, TensorName};
use super::buffer::{Buffer, Pieces, Place};
use super::gpu::Gpu;
use super::kv_buffer::{KvBuffer, KvLayerNames, KvShape};

/// Set for the process that finds the stand-in.
const SECOND: &str = "BLIP2_TEST_FAKE_CUDA";

/// The GPU to test with, in the process that has one; the other one has run the test in a second
/// process.
fn gpu(test: &str) -> Option<Gpu> {
    let is_real = env::var("BLIP2_TEST_PROVIDER").is_ok_and(|provider| provider != "cpu");
    if is_real || env::var_os(SECOND).is_some() {
        return Some(Gpu::open(0).unwrap());
    }
    let folder = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/fake_cuda.c");
    let library = folder.path().join("libcuda.so");
    let compiled =
        Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).status().unwrap();
    assert!(compiled.success());
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", &format!("runtime::device_tests::{test}"), "--nocapture", "--test-threads", "1"])
        .env("LD_LIBRARY_PATH", folder.path())
        .env(SECOND, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
    None
}

fn counted(place: &Place, elements: usize) -> Buffer {
    let mut host = Buffer::on_host(place, elements * size_of::<f32>()).unwrap();
    host.host_mut()
        .unwrap()
        .iter_mut()
        .zip((1_u16..=999).cycle())
        .for_each(|(element, number)| *element = f32::from(number));
    host
}

/// Returns the content of a buffer, on the host or a GPU.
fn read(buffer: &Buffer) -> Vec<f32> {
    let mut host = Buffer::new(&Place::Host, buffer.bytes()).unwrap();
    host.copy_from(buffer, &Pieces::one(0, 0, buffer.bytes())).unwrap();
    host.host().unwrap().to_vec()
}

#[test]
fn what_is_copied_to_a_device_comes_back() {
    let Some(gpu) = gpu("what_is_copied_to_a_device_comes_back") else { return };
    let place = Place::Gpu(gpu.clone());
    let mut device = Buffer::new(&place, 48).unwrap();
    assert_eq!(read(&device), [0.0; 12]);
    assert!(device.host().is_none() && device.host_mut().is_none());
    let source = counted(&place, 12);
    device.copy_from(&source, &Pieces::one(8, 4, 40)).unwrap();
    assert_eq!(read(&device), [0.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 0.0]);
    // Every second pair of the source, to the end of each third.
    let pieces = Pieces { from: 0, from_pitch: 16, to: 8, to_pitch: 16, len: 8, count: 3 };
    device.copy_from(&source, &pieces).unwrap();
    assert_eq!(read(&device), [0.0, 3.0, 1.0, 2.0, 6.0, 7.0, 5.0, 6.0, 10.0, 11.0, 9.0, 10.0]);
    device.copy_within(&Pieces::one(24, 0, 8)).unwrap();
    device.wait().unwrap();
    assert_eq!(read(&device)[..2], [5.0, 6.0]);
    assert!(gpu.free_bytes().unwrap() > 0 && !gpu.name().is_empty());
}

#[test]
fn a_cache_on_a_device_does_as_one_on_the_host() {
    let Some(gpu) = gpu("a_cache_on_a_device_does_as_one_on_the_host") else { return };
    let names = |kind: &str| {
        let name = |what| TensorName::new(&format!("{what}.0.{kind}")).unwrap();
        KvLayerNames { past: name("past"), present: name("present") }
    };
    let row_len = 5;
    // Tiny ones, and pieces as far from each other as those of opt-2.7b.
    for (element, max_len, head_dim) in [(Element::F32, 7, 2), (Element::F16, 7, 2), (Element::F16, 2048, 80)] {
        let shape = KvShape { slots: 4, heads: 3, max_len, head_dim, element };
        let place = Place::Gpu(gpu.clone());
        let mut caches = [Place::Host, place.clone()]
            .map(|place| KvBuffer::new(place, vec![names("key"), names("value")], shape).unwrap());
        let row = counted(&place, row_len * caches[0].position_bytes() / size_of::<f32>());
        let save = |cache: &KvBuffer, slot: usize, len: usize, unneeded: Option<Buffer>| {
            let mut saved = cache.room_for_row(len, unneeded).unwrap();
            cache.save_row(slot, len, &mut saved).unwrap();
            saved
        };
        let saved = caches.each_mut().map(|cache| {
            cache.restore_row(3, &row, row_len, row_len).unwrap();
            cache.copy_row(3, 0, 0..4).unwrap();
            cache.copy_row(0, 2, 1..3).unwrap();
            cache.restore_row(1, &row, row_len, 2).unwrap();
            cache.release(3, 2);
            let unneeded = save(cache, 0, 2, None);
            let again = save(cache, 1, 2, Some(unneeded));
            let rows = [0, 1, 2].map(|slot| read(&save(cache, slot, shape.max_len, None)));
            (read(&again), rows)
        });
        assert_eq!(saved[0], saved[1], "{element:?}");
        assert!(saved[0].1.iter().flatten().any(|element| *element != 0.0));
        // A row that was saved on the device can be restored there.
        let [_, mut device] = caches;
        let saved = save(&device, 0, 4, None);
        device.restore_row(2, &saved, 4, 4).unwrap();
        assert_eq!(read(&save(&device, 2, 4, None)), read(&saved));
        assert_eq!(device.room_for_row(0, None).unwrap().bytes(), 0);
    }
}

#[test]
fn a_gpu_that_is_not_there_is_counted() {
    if let Some(gpu) = gpu("a_gpu_that_is_not_there_is_counted") {
        drop(gpu);
        let error = Gpu::open(99).unwrap_err().to_string();
        assert!(error.contains("no GPU 99") && error.contains("--device-id"), "{error}");
    }
}
