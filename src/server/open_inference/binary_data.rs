//! The binary tensor data extension: a body is a JSON object, and behind it the bytes of tensors in their order. An element
//! of a BYTES tensor is its length in 4 bytes, little-endian, and itself.
//!
//! Lengths are the client's and are believed nowhere: what is asked for is compared with what is there. Nothing is copied.

use actix_web::http::header::{HeaderMap, HeaderName};
use actix_web::web::Bytes;

use super::error::bad;
use crate::json::shorten;
use crate::server::HttpError;

/// How many bytes of a body are JSON.
pub(super) const HEAD_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

/// How many bytes of the body are JSON, if the request says so.
pub(super) fn head_length(headers: &HeaderMap) -> Result<Option<usize>, HttpError> {
    let Some(value) = headers.get(HEAD_LENGTH) else { return Ok(None) };
    let digits = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let length = digits.and_then(|digits| digits.parse().ok());
    let shown = || shorten(&String::from_utf8_lossy(value.as_bytes()));
    length.map(Some).ok_or_else(|| bad(format!("Inference-Header-Content-Length is no number of bytes: {:?}", shown())))
}

/// The bytes after the JSON object that no tensor has consumed yet.
#[derive(Debug)]
pub(super) struct BinaryData(Bytes);

impl BinaryData {
    /// The JSON part of a body, which is all of it when no length is given, and the rest.
    pub(super) fn split(mut body: Bytes, head_length: Option<usize>) -> Result<(Bytes, Self), HttpError> {
        let length = head_length.unwrap_or(body.len());
        if length > body.len() {
            let there = body.len();
            return Err(bad(format!("Inference-Header-Content-Length is {length}, but the body has {there} bytes")));
        }
        let head = body.split_to(length);
        Ok((head, Self(body)))
    }

    /// The bytes of the next tensor. The error is a reason without a place.
    pub(super) fn take(&mut self, size: u64) -> Result<Bytes, String> {
        match usize::try_from(size) {
            Ok(size) if size <= self.0.len() => Ok(self.0.split_to(size)),
            _ => {
                let left = self.0.len();
                Err(format!("binary_data_size is {size}, but {left} bytes are left behind the JSON object"))
            }
        }
    }

    /// Refuses bytes that no tensor has taken.
    pub(super) fn finish(self) -> Result<(), HttpError> {
        match self.0.len() {
            0 => Ok(()),
            left => Err(bad(format!("{left} bytes at the end of the body belong to no tensor"))),
        }
    }
}

/// The elements of a BYTES tensor, which must be as many as its shape says. The error is a reason without a place.
pub(super) fn elements(mut tensor: Bytes, count: usize) -> Result<Vec<Bytes>, String> {
    let mut elements = Vec::with_capacity(count.min(tensor.len() / size_of::<u32>()));
    while !tensor.is_empty() {
        let number = elements.len();
        if number == count {
            return Err(format!("{} bytes are left behind its {count} elements", tensor.len()));
        }
        let Some(length) = tensor.first_chunk().map(|length| u32::from_le_bytes(*length)) else {
            return Err(format!("the length of element {number} is cut off"));
        };
        let mut rest = tensor.slice(size_of::<u32>()..);
        let there = rest.len();
        let Some(length) = usize::try_from(length).ok().filter(|length| *length <= there) else {
            return Err(format!("element {number} is said to have {length} bytes, but {there} are left"));
        };
        elements.push(rest.split_to(length));
        tensor = rest;
    }
    if elements.len() == count {
        Ok(elements)
    } else {
        Err(format!("its bytes hold {} elements, but its shape says {count}", elements.len()))
    }
}

/// Writes an element of a BYTES tensor.
pub(super) fn push_element(tensor: &mut Vec<u8>, element: &str) {
    // An answer is bounded by `max_new_tokens`, far below 4 GiB; a longer one would be cut, not misread.
    let length = u32::try_from(element.len()).unwrap_or(u32::MAX);
    tensor.extend(length.to_le_bytes());
    tensor.extend(element.bytes().take(length as usize));
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn tensor(texts: &[&str]) -> Vec<u8> {
        let mut bytes = Vec::new();
        texts.iter().for_each(|text| push_element(&mut bytes, text));
        bytes
    }

    #[test]
    fn elements_are_lengths_and_bytes() {
        assert_eq!(tensor(&["ab", "", "c"]), b"\x02\0\0\0ab\0\0\0\0\x01\0\0\0c");
        let read = elements(tensor(&["ab", "", "c"]).into(), 3).unwrap();
        assert_eq!(read, [b"ab".as_slice(), b"", b"c"]);
    }

    #[test]
    fn lengths_that_do_not_fit_are_refused() {
        let cases = [
            (b"".as_slice(), 1, "its bytes hold 0 elements, but its shape says 1"),
            (b"\x01\0\0", 1, "the length of element 0 is cut off"),
            (b"\0\0\0\0\x01\0\0", 2, "the length of element 1 is cut off"),
            (b"\x02\0\0\0a", 1, "element 0 is said to have 2 bytes, but 1 are left"),
            (b"\xff\xff\xff\xffabc", 1, "element 0 is said to have 4294967295 bytes, but 3 are left"),
            (b"\0\0\0\0\0\0\0\0", 1, "4 bytes are left behind its 1 elements"),
            (b"\0\0\0\0", usize::MAX, "its bytes hold 1 elements, but its shape says 18446744073709551615"),
        ];
        for (bytes, count, message) in cases {
            assert_eq!(elements(bytes.into(), count).unwrap_err(), message);
        }
    }

    #[test]
    fn tensors_take_their_bytes_in_order_and_nothing_may_be_left() {
        let (head, mut data) = BinaryData::split("{}abc".into(), Some(2)).unwrap();
        assert_eq!(head, "{}");
        assert_eq!(data.take(2).unwrap(), "ab");
        for size in [2, u64::MAX] {
            assert!(data.take(size).unwrap_err().contains("but 1 bytes are left"));
        }
        assert!(data.finish().unwrap_err().to_string().starts_with("1 bytes at the end"));
        assert!(BinaryData::split("{}".into(), Some(3)).unwrap_err().to_string().contains("is 3, but the body has 2"));
    }

    #[test]
    fn a_length_of_the_head_is_digits() {
        let read = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(HEAD_LENGTH, HeaderValue::from_static(text));
            head_length(&headers).map_err(|error| error.to_string())
        };
        assert_eq!(head_length(&HeaderMap::new()).unwrap(), None);
        assert_eq!((read("0"), read("17")), (Ok(Some(0)), Ok(Some(17))));
        for text in ["", "-1", "+1", "0x10", "1.5", "99999999999999999999999", "1, 2"] {
            assert!(read(text).unwrap_err().contains("is no number of bytes"), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_elements_or_an_error(bytes: Vec<u8>, count in 0_usize..8) {
            if let Ok(read) = elements(bytes.clone().into(), count) {
                prop_assert_eq!(read.len(), count);
                prop_assert_eq!(read.iter().map(|element| element.len() + 4).sum::<usize>(), bytes.len());
            }
        }

        #[test]
        fn what_is_written_is_read(texts in proptest::collection::vec(".{0,20}", 0..6)) {
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let read = elements(tensor(&texts).into(), texts.len()).unwrap();
            prop_assert!(read.iter().zip(texts).all(|(read, text)| read == text));
        }
    }
}
