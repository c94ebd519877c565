//! Requests of all kinds as one: JSON, a form (`multipart/form-data`), or an image as the whole body, with its options in
//! the query. Every kind becomes the same type, and files beside it.
//!
//! Unknown keys and wrong types are rejected by name. Messages are cut off before they could repeat an image.

use actix_web::web::Bytes;
use actix_web::{HttpRequest, web};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::form::{self, Form, Parts};
use crate::scoring::ImageSource;
use crate::server::body::{self, blocking, expect_json, media_type};
use crate::server::{HttpError, State};

/// Longer than any message that is worth reading.
const MAX_MESSAGE_CHARACTERS: usize = 300;

/// A parsed request, and the files sent with it.
#[derive(Debug)]
pub(super) struct Input<T> {
    /// The fields.
    pub(super) request: T,
    /// Files beside them; JSON has none.
    pub(super) files: Vec<Bytes>,
}

/// Reads a request of any kind.
///
/// # Errors
/// [`HttpError`] for the first fault.
pub(super) async fn read<T: DeserializeOwned + Send + 'static>(
    request: &HttpRequest,
    state: &State,
    payload: web::Payload,
    form: &'static Form,
) -> Result<Input<T>, HttpError> {
    match media_type(request).as_deref() {
        Some("multipart/form-data") => {
            let Parts { files, fields } = form::read(request, state, payload, form).await?;
            let request = blocking(move || from_fields(form.values(fields)?)).await?;
            Ok(Input { request, files })
        }
        Some(kind) if kind == "application/octet-stream" || kind.starts_with("image/") => {
            let fields = form.of_query(request.query_string())?;
            let file = body::read(request, state, payload).await?.freeze();
            Ok(Input { request: from_fields(form.values(fields)?)?, files: vec![file] })
        }
        _ => {
            expect_json(request).map_err(|_| {
                HttpError::UnsupportedMediaType(
                    "the Content-Type must be application/json, multipart/form-data, or, for an image as the whole body, \
                     image/* or application/octet-stream"
                        .into(),
                )
            })?;
            Ok(Input { request: read_json(request, state, payload).await?, files: Vec::new() })
        }
    }
}

/// Reads a request that is JSON.
///
/// # Errors
/// [`HttpError`] for the first fault.
pub(super) async fn read_json<T: DeserializeOwned + Send + 'static>(
    request: &HttpRequest,
    state: &State,
    payload: web::Payload,
) -> Result<T, HttpError> {
    expect_json(request)?;
    let body = body::read(request, state, payload).await?;
    blocking(move || from_json(&body)).await
}

/// The one image of a request: a string in it, or a file beside it. Decodes base64: call it where blocking is allowed.
pub(super) fn image_source(image: Option<&str>, files: Vec<Bytes>) -> Result<ImageSource, HttpError> {
    let mut sources = image_sources(image.as_slice(), files)?;
    match (sources.pop(), sources.is_empty()) {
        (Some(source), true) => Ok(source),
        _ => Err(HttpError::BadRequest("send one image: image or file, once".into())),
    }
}

/// All images of a request, strings in it and files beside it; at least one.
pub(super) fn image_sources(images: &[&str], files: Vec<Bytes>) -> Result<Vec<ImageSource>, HttpError> {
    let place = |number: usize| if images.len() > 1 { format!("image[{number}]: ") } else { String::new() };
    let parse = |(number, image): (usize, &&str)| {
        ImageSource::parse(image).map_err(|error| HttpError::BadRequest(format!("{}{error}", place(number))))
    };
    let mut sources = images.iter().enumerate().map(parse).collect::<Result<Vec<_>, _>>()?;
    if files.iter().any(Bytes::is_empty) {
        return Err(HttpError::BadRequest("file is empty".into()));
    }
    sources.extend(files.into_iter().map(ImageSource::File));
    if sources.is_empty() {
        return Err(HttpError::BadRequest(
            "image is missing; send base64, a data URI, a URL or the id of a stored image, or a file".into(),
        ));
    }
    Ok(sources)
}

fn from_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, HttpError> {
    let not_json = |error: serde_json::Error| bad(format!("the body is not JSON: {error}"));
    match body.trim_ascii_start().first() {
        None => return Err(bad("the body is empty; send a JSON object".into())),
        // Of a list, fields would be read by their order.
        Some(first) if *first != b'{' => {
            let value: Value = serde_json::from_slice(body).map_err(not_json)?;
            return Err(bad(format!("the body must be a JSON object, not {}", crate::json::json_type(&value))));
        }
        Some(_) => {}
    }
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut deserializer)
        .map_err(|error| if error.inner().is_data() { at_path(&error) } else { not_json(error.into_inner()) })?;
    deserializer.end().map_err(not_json)?;
    Ok(value)
}

fn from_fields<T: DeserializeOwned>(fields: Map<String, Value>) -> Result<T, HttpError> {
    serde_path_to_error::deserialize(Value::Object(fields)).map_err(|error| at_path(&error))
}

fn at_path(error: &serde_path_to_error::Error<serde_json::Error>) -> HttpError {
    let reason = error.inner();
    match error.path().to_string().as_str() {
        "." => bad(reason.to_string()),
        path => bad(format!("{path}: {reason}")),
    }
}

fn bad(message: String) -> HttpError {
    let is_long = message.char_indices().nth(MAX_MESSAGE_CHARACTERS);
    HttpError::BadRequest(match is_long {
        Some((end, _)) => format!("{}…", &message[..end]),
        None => message,
    })
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Request {
        image: Option<String>,
        #[serde(default)]
        candidates: Vec<String>,
        pin: Option<bool>,
    }

    fn parse(body: &str) -> Result<Request, String> {
        from_json(body.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_fault_names_the_key_and_the_known_ones() {
        for (body, part) in [
            ("", "the body is empty"),
            (" \n", "the body is empty"),
            ("{not json", "the body is not JSON: "),
            ("{} x", "the body is not JSON: "),
            ("{\"pin\": tru", "the body is not JSON: "),
            ("[\"a\", [], true]", "the body must be a JSON object, not a list"),
            ("7", "not a number"),
            (r#"{"imag": "x"}"#, "unknown field `imag`, expected one of `image`, `candidates`, `pin`"),
            (r#"{"image": 7}"#, "image: invalid type: integer `7`, expected a string"),
            (r#"{"candidates": ["a", 7]}"#, "candidates[1]: invalid type: integer `7`, expected a string"),
            (r#"{"pin": "yes"}"#, "pin: invalid type: string \"yes\", expected a boolean"),
            (r#"{"pin": true, "pin": false}"#, "duplicate field `pin`"),
        ] {
            let message = parse(body).unwrap_err();
            assert!(message.contains(part), "{body}: {message}");
        }
    }

    #[test]
    fn null_is_as_if_the_key_were_not_there() {
        let request = parse(r#"{"image": null, "pin": null}"#).unwrap();
        assert!(request.image.is_none() && request.candidates.is_empty() && request.pin.is_none());
    }

    #[test]
    fn an_image_in_the_wrong_place_is_not_repeated() {
        let message = parse(&format!(r#"{{"pin": "{}"}}"#, "é".repeat(10_000))).unwrap_err();
        assert_eq!(message.chars().count(), MAX_MESSAGE_CHARACTERS + 1);
    }

    #[test]
    fn a_request_for_one_image_has_one() {
        let file = || Bytes::from_static(b"ABC");
        let message = |image: Option<&str>, files| image_source(image, files).unwrap_err().to_string();
        assert_eq!(image_source(Some("QUJD"), vec![]).unwrap(), ImageSource::File(file()));
        assert_eq!(image_source(None, vec![file()]).unwrap(), ImageSource::File(file()));
        assert!(message(None, vec![]).contains("image is missing"));
        assert!(message(Some("QUJD"), vec![file()]).contains("one image"));
        assert!(message(None, vec![file(), file()]).contains("one image"));
        assert!(message(None, vec![Bytes::new()]).contains("file is empty"));
        assert_eq!(message(Some(""), vec![]), "image is empty");
    }

    #[test]
    fn of_many_images_the_one_at_fault_is_named() {
        let message = image_sources(&["QUJD", "QUJDR"], vec![]).unwrap_err().to_string();
        assert!(message.starts_with("image[1]: image is not base64"), "{message}");
    }
}
