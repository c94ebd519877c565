//! The body of a response while it arrives: counts the bytes, and rejects other content than an
//! image as early as possible. Pure.

use super::error::FetchError;
use crate::image::{MAGIC_BYTES, format_of};

/// The bytes allocated at first, whatever length the host announces.
const FIRST_BYTES: usize = 64 << 10;

/// An image that is being received.
pub(super) struct Body<'a> {
    host: &'a str,
    limit: usize,
    bytes: Vec<u8>,
    is_image: bool,
}

impl<'a> Body<'a> {
    /// Begins the body of a response of `host`, of at most `limit` bytes. `announced` is its
    /// declared length.
    pub(super) fn new(host: &'a str, limit: usize, announced: Option<u64>) -> Result<Self, FetchError> {
        let announced = usize::try_from(announced.unwrap_or(0)).unwrap_or(usize::MAX);
        if announced > limit {
            return Err(FetchError::TooLarge { host: host.to_owned(), limit });
        }
        Ok(Self { host, limit, bytes: Vec::with_capacity(announced.min(FIRST_BYTES)), is_image: false })
    }

    /// Takes the next bytes.
    pub(super) fn push(&mut self, chunk: &[u8]) -> Result<(), FetchError> {
        if chunk.len() > self.limit - self.bytes.len() {
            return Err(FetchError::TooLarge { host: self.host.to_owned(), limit: self.limit });
        }
        self.bytes.extend_from_slice(chunk);
        if !self.is_image && self.bytes.len() >= MAGIC_BYTES {
            self.check_format()?;
            self.is_image = true;
        }
        Ok(())
    }

    /// Ends the body, and returns the image.
    pub(super) fn finish(self) -> Result<Vec<u8>, FetchError> {
        if self.bytes.is_empty() {
            return Err(FetchError::Empty { host: self.host.to_owned() });
        }
        self.check_format()?;
        Ok(self.bytes)
    }

    fn check_format(&self) -> Result<(), FetchError> {
        match format_of(&self.bytes) {
            Some(_) => Ok(()),
            None => Err(FetchError::NotAnImage { host: self.host.to_owned() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn collect(limit: usize, chunks: &[&[u8]]) -> Result<Vec<u8>, &'static str> {
        let mut body = Body::new("example.org", limit, None).map_err(|error| error.reason())?;
        for chunk in chunks {
            body.push(chunk).map_err(|error| error.reason())?;
        }
        body.finish().map_err(|error| error.reason())
    }

    #[test]
    fn every_format_is_known_by_its_first_bytes() {
        for magic in [
            b"\xff\xd8\xff\xe0".as_slice(),
            b"\x89PNG\r\n\x1a\n",
            b"RIFF\x10\0\0\0WEBPVP8 ",
            b"GIF87a",
            b"GIF89a",
            b"BM",
            b"II*\0",
            b"MM\0*",
        ] {
            assert_eq!(collect(100, &[magic]), Ok(magic.to_vec()));
        }
    }

    #[test]
    fn something_else_is_refused_as_soon_as_it_can_be_told() {
        for bytes in [
            b"<!DOCTYPE html>".as_slice(),
            b"{\"error\": 1234}",
            b"RIFF\x10\0\0\0WAVEfmt ",
            b"<svg xmlns=\"http",
            b"%PDF-1.7 1234",
        ] {
            let mut body = Body::new("example.org", 100, None).unwrap();
            assert_eq!(body.push(bytes).unwrap_err().reason(), "not_an_image");
        }
        assert_eq!(collect(100, &[b"<html>"]), Err("not_an_image"), "too short to be told before the end");
    }

    #[test]
    fn an_image_may_come_in_single_bytes() {
        let image = b"RIFF\x10\0\0\0WEBPVP8 0123";
        let chunks: Vec<_> = image.chunks(1).collect();
        assert_eq!(collect(100, &chunks), Ok(image.to_vec()));
    }

    #[test]
    fn nothing_is_no_image() {
        assert_eq!(collect(100, &[]), Err("empty"));
        assert_eq!(collect(100, &[b""]), Err("empty"));
    }

    #[test]
    fn a_size_above_the_limit_is_refused_when_announced_and_when_sent() {
        let announced = Body::new("example.org", 10, Some(11)).err().unwrap();
        assert_eq!(announced.reason(), "too_large");
        assert!(Body::new("example.org", 10, Some(u64::MAX)).is_err());
        assert_eq!(collect(12, &[b"BM5678901234"]).map(|bytes| bytes.len()), Ok(12));
        assert_eq!(collect(11, &[b"BM5678901234"]), Err("too_large"));
    }

    proptest! {
        #[test]
        fn never_more_than_the_limit_is_kept(chunks in prop::collection::vec(0..50_usize, 0..20), limit in 2..200_usize) {
            let mut body = Body::new("example.org", limit, None).unwrap();
            prop_assert!(body.push(b"BM").is_ok());
            for len in chunks {
                let _ = body.push(&vec![0; len]);
                prop_assert!(body.bytes.len() <= limit);
            }
        }
    }
}
