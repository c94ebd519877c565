//! One test for each fault that was found after its code was tested: what it was, and where its
//! other tests are.

use blip2::image::{ImageLimits, decode};
use serde_json::json;

use crate::helpers::{fixture, spawn_app};
use crate::scripted_model::{Script, engine};

/// A JPEG with two orientation entries was turned by the last. Pillow turned by the last, too, and
/// since version 13 by the first, so the pixels differed from the reference (`image/exif.rs`).
#[test]
fn first_of_two_orientation_entries_turns_the_image() {
    let mut turned = fixture("images/jpeg-orientation-6.jpg");
    let expected = decode(&turned, &ImageLimits::default()).unwrap();
    let exif = turned.windows(6).position(|bytes| bytes == b"Exif\0\0").unwrap();
    let directory = exif + 6 + 8; // after the header of the TIFF structure
    let is_little = turned[exif + 6] == b'I';
    let count = turned[directory..directory + 2].to_vec();
    let entry = turned[directory + 2..directory + 14].to_vec();
    let number = |bytes: &[u8]| {
        let bytes = [bytes[0], bytes[1]];
        if is_little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) }
    };
    assert_eq!((number(&count), number(&entry)), (1, 274), "one entry, the orientation");
    // A second entry says 3; the length of the segment grows by it.
    let mut second = entry;
    second[8..10].copy_from_slice(&if is_little { 3_u16.to_le_bytes() } else { 3_u16.to_be_bytes() });
    turned.splice(directory + 14..directory + 14, second);
    turned[directory..directory + 2].copy_from_slice(&if is_little {
        2_u16.to_le_bytes()
    } else {
        2_u16.to_be_bytes()
    });
    let length = u16::from_be_bytes([turned[exif - 2], turned[exif - 1]]) + 12;
    turned[exif - 2..exif].copy_from_slice(&length.to_be_bytes());
    assert_eq!(decode(&turned, &ImageLimits::default()).unwrap(), expected);
}

/// `Server-Timing` called the vision encoder `vision`, and began with another stage than
/// `timings_ms` (`engine/stage.rs`).
#[test]
fn stages_have_one_name_and_order_in_header_and_body() {
    let app = spawn_app(Some(engine(Script::default(), 2, 16)));
    let request = json!({"image": crate::helpers::png_base64(), "questions": ["one"]});
    let mut reply = ureq::post(app.url("/v1/ask")).send_json(&request).unwrap();
    let header = reply.headers()["server-timing"].to_str().unwrap().to_owned();
    let in_header: Vec<&str> = header.split(", ").map(|metric| metric.split_once(';').unwrap().0).collect();
    let body: String = reply.body_mut().read_to_string().unwrap();
    let timings = &body[body.find("timings_ms").unwrap()..];
    let places: Vec<usize> = in_header.iter().map(|name| timings.find(&format!("\"{name}\"")).unwrap()).collect();
    assert!(places.is_sorted(), "{header} and {timings}");
}
