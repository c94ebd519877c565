//! An image as the contract writes it in JSON: base64 in all its spellings, or a data URI around it.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// Unpadded, and tolerant of bits behind the last byte, as Python's decoder is.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(true),
);

/// Why an image string holds no file. Messages never repeat the string.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum ImageStringError {
    #[error("image is empty")]
    Empty,
    #[error("image is a URL; this version does not fetch images, send the picture as base64")]
    Url,
    #[error("image is a URL of a scheme that is never opened; send the picture as base64")]
    Scheme,
    #[error("image is a data URI without `;base64,`")]
    DataUri,
    #[error("image holds a character that is not ASCII; send the picture as base64")]
    NotAscii,
    #[error("image is not base64: {symbols} symbols is a length that no file has")]
    Length { symbols: usize },
    #[error("image is not base64: it holds no data")]
    NoData,
}

/// The bytes of the file.
pub(super) fn decode(text: &str) -> Result<Vec<u8>, ImageStringError> {
    if text.is_empty() {
        return Err(ImageStringError::Empty);
    }
    match scheme(text) {
        Some("http" | "https") => return Err(ImageStringError::Url),
        Some("data") => return decode_base64(data_uri_content(text)?),
        Some(_) if text.contains("://") => return Err(ImageStringError::Scheme),
        _ => {}
    }
    decode_base64(text)
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
            assert_eq!(decode(text), Ok(bytes.to_vec()), "{text}");
        }
    }

    #[test]
    fn what_follows_complete_padding_is_ignored() {
        assert_eq!(decode("QQ==QUFB"), Ok(b"A".to_vec()));
        assert_eq!(decode("QQ=QUFB").map(|bytes| bytes.len()), Ok(4), "incomplete padding is dropped");
    }

    #[test]
    fn what_is_no_image_string_is_told_apart() {
        let cases = [
            ("", ImageStringError::Empty),
            ("http://example.org/x.png", ImageStringError::Url),
            ("HTTPS://example.org/x.png", ImageStringError::Url),
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
            assert_eq!(decode(text), Err(error), "{text}");
        }
    }
}
