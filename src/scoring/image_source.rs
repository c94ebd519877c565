//! An image as requests name it in a string: base64 in all its spellings, a data URI around it, a URL, or the id of a
//! stored image.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;

use crate::engine::ImageId;

/// Unpadded, and tolerant of bits behind the last byte, as Python's decoder is.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(true),
);

/// Where an image is.
#[derive(Clone, PartialEq, Eq)]
pub enum ImageSource {
    /// Here: an image file's bytes.
    File(Bytes),
    /// Behind an http or https URL, which nobody has checked yet.
    Url(String),
    /// In the engine's store.
    Stored(ImageId),
}

impl std::fmt::Debug for ImageSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ImageSource") // its content has no place in a log
    }
}

/// Why an image string names no image. Messages never repeat the string.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ImageStringError {
    /// The empty string.
    #[error("image is empty")]
    Empty,
    /// A URL that is neither http nor https.
    #[error("image is a URL of a scheme that is never opened; use http, https or base64")]
    Scheme,
    /// A data URI that is not base64.
    #[error("image is a data URI without `;base64,`")]
    DataUri,
    /// Base64 is ASCII.
    #[error("image holds a character that is not ASCII; send the image as base64")]
    NotAscii,
    /// Not a length that whole bytes give.
    #[error("image is not base64: {symbols} characters cannot encode whole bytes; is it cut off?")]
    Length {
        /// Characters of the alphabet.
        symbols: usize,
    },
    /// No character of the alphabet.
    #[error("image is not base64: it holds no data")]
    NoData,
}

impl ImageSource {
    /// Reads an image string; base64 is decoded here, so call it where blocking is allowed.
    ///
    /// # Errors
    /// [`ImageStringError`] when the string names no image. Whether there is one at a URL is found out later.
    pub fn parse(text: &str) -> Result<Self, ImageStringError> {
        if text.is_empty() {
            return Err(ImageStringError::Empty);
        }
        if let Ok(id) = text.parse() {
            return Ok(Self::Stored(id));
        }
        let base64 = match scheme(text) {
            Some("http" | "https") => return Ok(Self::Url(text.trim().to_owned())),
            Some("data") => data_uri_content(text)?,
            Some(_) if text.contains("://") => return Err(ImageStringError::Scheme),
            _ => text,
        };
        Ok(Self::File(decode_base64(base64)?.into()))
    }
}

/// The scheme of a URL in lower case, if the text begins with one that could be meant as such.
fn scheme(text: &str) -> Option<&'static str> {
    const LONGEST: usize = 16;
    let head = text.as_bytes().iter().take(LONGEST + 1);
    let end = head.clone().position(|byte| *byte == b':')?;
    let name = text.get(..end)?.trim_start().to_ascii_lowercase();
    Some(match name.as_str() {
        "http" => "http",
        "https" => "https",
        "data" => "data",
        _ => "other",
    })
}

fn data_uri_content(text: &str) -> Result<&str, ImageStringError> {
    let (head, content) = text.split_once(',').ok_or(ImageStringError::DataUri)?;
    let is_base64 = head.len() >= 7 && head.is_char_boundary(head.len() - 7);
    if is_base64 && head[head.len() - 7..].eq_ignore_ascii_case(";base64") {
        Ok(content)
    } else {
        Err(ImageStringError::DataUri)
    }
}

/// As Python's lenient decoder: ASCII outside the alphabet is dropped, and what follows complete padding is ignored.
/// Beyond it: the URL-safe alphabet, and missing padding.
fn decode_base64(text: &str) -> Result<Vec<u8>, ImageStringError> {
    let mut symbols = Vec::with_capacity(text.len());
    let mut padding = 0;
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' => symbols.push(byte),
            b'-' => symbols.push(b'+'),
            b'_' => symbols.push(b'/'),
            b'=' => {
                padding += 1;
                if symbols.len() % 4 >= 2 && symbols.len() % 4 + padding >= 4 {
                    break;
                }
                continue;
            }
            byte if !byte.is_ascii() => return Err(ImageStringError::NotAscii),
            _ => continue,
        }
        padding = 0;
    }
    if symbols.is_empty() {
        return Err(ImageStringError::NoData);
    }
    BASE64.decode(&symbols).map_err(|_| ImageStringError::Length { symbols: symbols.len() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_spellings_of_the_same_bytes_are_read() {
        let bytes = [0xfb, 0xef, 0xff, 0x00, 0x10];
        for text in [
            "++//ABA=",
            "--__ABA=",
            "++//ABA",
            "++/\n/AB\r\nA=\n",
            " + + / / A\tBA = ",
            "++//ABA====",
            "data:image/png;base64,++//ABA=",
            "DATA:;BASE64,--__ABA",
            "data:image/png;name=a.png;base64,++//ABA=",
            "!++//ABA=",
        ] {
            assert_eq!(ImageSource::parse(text), Ok(ImageSource::File(bytes.to_vec().into())), "{text}");
        }
    }

    #[test]
    fn what_follows_complete_padding_is_ignored() {
        assert_eq!(decode_base64("QQ==QUFB"), Ok(b"A".to_vec()));
        assert_eq!(decode_base64("QQ=QUFB").map(|bytes| bytes.len()), Ok(4), "incomplete padding is dropped");
    }

    #[test]
    fn what_is_no_image_string_is_told_apart() {
        let cases = [
            ("", ImageStringError::Empty),
            ("ftp://example.org/x.png", ImageStringError::Scheme),
            ("file:///etc/passwd", ImageStringError::Scheme),
            ("data:image/png,abc", ImageStringError::DataUri),
            ("data:image/png;base64", ImageStringError::DataUri),
            ("data:image/png;base64,", ImageStringError::NoData),
            ("QUJé", ImageStringError::NotAscii),
            ("QUJDR", ImageStringError::Length { symbols: 5 }),
            ("!!!", ImageStringError::NoData),
        ];
        for (text, error) in cases {
            assert_eq!(ImageSource::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn urls_and_ids_of_stored_images_are_told_from_base64() {
        for url in ["http://example.org/x.png", "HTTPS://example.org/x.png", " http://127.0.0.1"] {
            assert_eq!(ImageSource::parse(url), Ok(ImageSource::Url(url.trim().into())));
        }
        let id = format!("image-{}", "0a".repeat(16));
        assert_eq!(ImageSource::parse(&id), Ok(ImageSource::Stored(id.parse().unwrap())));
    }
}
