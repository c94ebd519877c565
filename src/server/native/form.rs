//! Forms, as `curl -F` and browsers send them: `multipart/form-data`, bounded in parts, names and bytes.
//!
//! A part becomes the value of a key, as if the request had been JSON; `file` is an image's file.

use actix_multipart::{Field, Multipart, MultipartError};
use actix_web::error::PayloadError;
use actix_web::web::{Bytes, BytesMut};
use actix_web::{HttpRequest, web};
use futures_util::StreamExt as _;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::server::body::{check_announced, in_time};
use crate::server::{HttpError, State};

/// More than any endpoint takes.
const MAX_PARTS: usize = 300;

/// A part that is neither a file nor an image string.
const MAX_TEXT_BYTES: usize = 64 << 10;

/// The name of files.
const FILE: &str = "file";

/// The parts that an endpoint reads besides `file`.
pub(super) struct Form(pub(super) &'static [Part]);

/// A part of a form.
pub(super) struct Part {
    /// As it is sent.
    pub(super) name: &'static str,
    /// As JSON calls it.
    pub(super) key: &'static str,
    /// The kind of its content.
    pub(super) kind: Kind,
}

/// The kind of a part's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// An image string, as long as the body may be.
    Image,
    /// The same, any number of times.
    Images,
    /// A text.
    Text,
    /// A text, any number of times.
    Texts,
    /// A number, `true`, `false`, or whatever else JSON knows.
    Json,
}

/// The parts of a form that was sent.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// Files, in order.
    pub(super) files: Vec<Bytes>,
    /// All else: which part it is, and its content.
    pub(super) fields: Vec<(usize, Bytes)>,
}

impl Part {
    /// A part that is called as the key is.
    pub(super) const fn new(name: &'static str, kind: Kind) -> Self {
        Self { name, key: name, kind }
    }

    fn limit_bytes(&self) -> usize {
        match self.kind {
            Kind::Image | Kind::Images => usize::MAX, // the body's limit is nearer
            Kind::Text | Kind::Texts | Kind::Json => MAX_TEXT_BYTES,
        }
    }

    fn is_list(&self) -> bool {
        matches!(self.kind, Kind::Images | Kind::Texts)
    }

    fn value(&self, content: &[u8]) -> Result<Value, HttpError> {
        let text = str::from_utf8(content).map_err(|_| bad(format!("{} is not UTF-8", self.name)))?;
        match self.kind {
            Kind::Json => {
                serde_json::from_str(text).map_err(|error| bad(format!("{} is not JSON: {error}", self.name)))
            }
            Kind::Image | Kind::Images | Kind::Text | Kind::Texts => Ok(text.into()),
        }
    }
}

impl Form {
    /// Which part has this name.
    fn find(&self, name: &str) -> Result<usize, HttpError> {
        self.0.iter().position(|part| part.name == name).ok_or_else(|| {
            let known: Vec<_> = self.0.iter().map(|part| part.name).collect();
            let name: String = name.chars().take(40).collect();
            bad(format!("unknown part {name:?}; known are {FILE}, {}", known.join(", ")))
        })
    }

    /// The fields of a query, as if they were parts.
    pub(super) fn of_query(&self, query: &str) -> Result<Vec<(usize, Bytes)>, HttpError> {
        let pairs = url::form_urlencoded::parse(query.as_bytes());
        pairs.map(|(name, value)| Ok((self.find(&name)?, value.into_owned().into()))).collect()
    }

    /// The parts as the JSON that would ask the same. Call it where blocking is allowed.
    pub(super) fn values(&self, parts: Vec<(usize, Bytes)>) -> Result<Map<String, Value>, HttpError> {
        let mut values = Map::new();
        for (number, content) in parts {
            let part = &self.0[number];
            let value = part.value(&content)?;
            match values.get_mut(part.key) {
                None if part.is_list() => drop(values.insert(part.key.into(), vec![value].into())),
                None => drop(values.insert(part.key.into(), value)),
                Some(Value::Array(values)) if part.is_list() => values.push(value),
                Some(_) => return Err(bad(format!("{} is there more than once", part.name))),
            }
        }
        Ok(values)
    }
}

/// Reads a form while it arrives.
///
/// # Errors
/// [`HttpError::BodyTooLarge`], [`HttpError::BodyTimeout`], or [`HttpError::BadRequest`] for the first part at fault.
pub(super) async fn read(
    request: &HttpRequest,
    state: &State,
    payload: web::Payload,
    form: &Form,
) -> Result<Parts, HttpError> {
    check_announced(request, state)?;
    let limit_bytes = state.settings().max_body_bytes;
    let mut left = limit_bytes;
    let bounded = payload.map(move |chunk| {
        let chunk = chunk?;
        left = left.checked_sub(chunk.len()).ok_or(PayloadError::Overflow)?;
        Ok(chunk)
    });
    let multipart = Multipart::new(request.headers(), bounded);
    in_time(state, collect(multipart, form, limit_bytes)).await
}

async fn collect(mut multipart: Multipart, form: &Form, limit_bytes: usize) -> Result<Parts, HttpError> {
    let mut parts = Parts::default();
    while let Some(field) = multipart.next().await {
        let mut field = field.map_err(|error| unreadable(&error, limit_bytes))?;
        if parts.files.len() + parts.fields.len() == MAX_PARTS {
            return Err(bad(format!("the form has more than {MAX_PARTS} parts")));
        }
        let name = field.name().unwrap_or_default().to_owned();
        if name == FILE {
            parts.files.push(content(&mut field, FILE, usize::MAX, limit_bytes).await?);
        } else {
            let number = form.find(&name)?;
            let part = &form.0[number];
            parts.fields.push((number, content(&mut field, part.name, part.limit_bytes(), limit_bytes).await?));
        }
    }
    Ok(parts)
}

async fn content(
    field: &mut Field,
    name: &str,
    part_limit_bytes: usize,
    limit_bytes: usize,
) -> Result<Bytes, HttpError> {
    let mut content = BytesMut::new();
    while let Some(chunk) = field.next().await {
        let chunk = chunk.map_err(|error| unreadable(&error, limit_bytes))?;
        if content.len() + chunk.len() > part_limit_bytes {
            return Err(bad(format!("{name} is longer than {part_limit_bytes} bytes")));
        }
        content.extend_from_slice(&chunk);
    }
    Ok(content.freeze())
}

fn unreadable(error: &MultipartError, limit_bytes: usize) -> HttpError {
    match error {
        MultipartError::Payload(PayloadError::Overflow) => HttpError::BodyTooLarge { limit_bytes },
        other => bad(format!("the form cannot be read: {other}")),
    }
}

fn bad(message: String) -> HttpError {
    HttpError::BadRequest(message)
}

/// A file in a form, for its description: a string of bytes, for which a page offers a file picker.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary, content_media_type = "application/octet-stream")]
pub(super) struct FileBytes(#[expect(dead_code, reason = "it describes and is never made")] Vec<u8>);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const FORM: Form = Form(&[
        Part::new("image", Kind::Image),
        Part { name: "question", key: "questions", kind: Kind::Texts },
        Part::new("params", Kind::Json),
    ]);

    fn values(query: &str) -> Result<Value, String> {
        FORM.of_query(query).and_then(|parts| FORM.values(parts)).map(Value::Object).map_err(|error| error.to_string())
    }

    #[test]
    fn parts_become_the_json_that_asks_the_same() {
        assert_eq!(values("").unwrap(), json!({}));
        assert_eq!(
            values("question=what+is+this%3F&params=%7B%22num_beams%22%3A3%7D&question=7&image=QUJD").unwrap(),
            json!({"questions": ["what is this?", "7"], "params": {"num_beams": 3}, "image": "QUJD"})
        );
    }

    #[test]
    fn a_part_that_is_unknown_repeated_or_unreadable_is_named() {
        for (query, part) in [
            ("questions=a", "unknown part \"questions\"; known are file, image, question, params"),
            ("image=a&image=b", "image is there more than once"),
            ("params=%7B", "params is not JSON: "),
        ] {
            let message = values(query).unwrap_err();
            assert!(message.contains(part), "{query}: {message}");
        }
        let message = FORM.values(vec![(1, Bytes::from_static(b"\xff"))]).unwrap_err().to_string();
        assert_eq!(message, "question is not UTF-8");
    }
}
