//! A row as every caller has it: an image, and the text that is asked about it.

use serde_json::Value;

use super::ImageSource;
use crate::json::json_type;

/// An image, and what is asked about it.
#[derive(Debug)]
pub struct Row {
    /// Where the image is.
    pub image: ImageSource,
    /// The prompt; empty for a caption.
    pub text: String,
}

/// How a caller names the place of a row in messages: `row 3`, `image[3]`.
pub type Place = fn(usize) -> String;

/// `row N`, counted from 0.
#[must_use]
pub fn row(number: usize) -> String {
    format!("row {number}")
}

impl Row {
    /// A row of an image string and a text, which is absent for captions. Decodes base64. The error is a reason without a place.
    pub(super) fn of_values(image: &Value, text: Option<&Value>) -> Result<Self, String> {
        let image = match image {
            Value::String(image) => ImageSource::parse(image).map_err(|error| error.to_string())?,
            other => return Err(format!("image must be a string, not {}", json_type(other))),
        };
        let text = match text {
            None => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => return Err(format!("text must be a string, not {}", json_type(other))),
        };
        Ok(Self { image, text })
    }
}
