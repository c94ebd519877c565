//! JSON values in the words of a message. Used wherever a request is refused for its types.

use serde_json::Value;

/// The type with its article, as in "must be a list, not a string".
pub(crate) fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A string of a request as a message shows it: its first 40 characters.
pub(crate) fn shorten(text: &str) -> String {
    text.chars().take(40).collect()
}
