//! Request bodies: bounded in bytes and time, and JSON where a protocol says so.

use std::time::Duration;

use actix_web::http::header;
use actix_web::{HttpRequest, web};
use futures_util::StreamExt as _;
use serde_json::{Map, Value};

use super::{HttpError, State};

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The whole body.
///
/// # Errors
/// [`HttpError::BodyTooLarge`] without reading when the head announces too much, [`HttpError::BodyTimeout`], or
/// [`HttpError::BadRequest`] when it ends early.
pub(super) async fn read(
    request: &HttpRequest,
    state: &State,
    payload: web::Payload,
) -> Result<web::BytesMut, HttpError> {
    check_announced(request, state)?;
    in_time(state, collect(payload, state.settings().max_body_bytes)).await
}

/// Refuses a body whose head announces too much.
pub(super) fn check_announced(request: &HttpRequest, state: &State) -> Result<(), HttpError> {
    let limit_bytes = state.settings().max_body_bytes;
    let announced = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: u64| length > limit_bytes as u64) {
        return Err(HttpError::BodyTooLarge { limit_bytes });
    }
    Ok(())
}

/// Awaits `reading`, which consumes a body, within the body timeout.
pub(super) async fn in_time<T>(
    state: &State,
    reading: impl Future<Output = Result<T, HttpError>>,
) -> Result<T, HttpError> {
    let timeout = state.settings().body_timeout;
    let body = tokio::time::timeout(timeout, reading).await;
    body.map_err(|_| HttpError::BodyTimeout { limit_s: whole_seconds(timeout) })?
}

async fn collect(mut payload: web::Payload, limit_bytes: usize) -> Result<web::BytesMut, HttpError> {
    let mut body = web::BytesMut::new();
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|_| HttpError::BadRequest("the request body ended early".into()))?;
        if body.len() + chunk.len() > limit_bytes {
            return Err(HttpError::BodyTooLarge { limit_bytes });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn whole_seconds(time: Duration) -> u64 {
    time.as_secs_f64().ceil() as u64
}

/// Refuses a body that is not declared as `application/json` or `application/*+json`, any case, any parameter.
pub(super) fn expect_json(request: &HttpRequest) -> Result<(), HttpError> {
    let media_type = media_type(request).ok_or(HttpError::NotJson)?;
    let subtype = media_type.strip_prefix("application/").ok_or(HttpError::NotJson)?;
    let is_json = subtype == "json" || (subtype.len() > "+json".len() && subtype.ends_with("+json"));
    if is_json { Ok(()) } else { Err(HttpError::NotJson) }
}

/// The content type in lower case, without parameters.
pub(super) fn media_type(request: &HttpRequest) -> Option<String> {
    let content_type = request.headers().get(header::CONTENT_TYPE)?.to_str().ok()?;
    Some(content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}

/// The object in a JSON body, in the words of Azure's server where it is none. Call it where blocking is allowed.
pub(super) fn parse_object(body: &[u8]) -> Result<Map<String, Value>, HttpError> {
    let body = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
    if body.is_empty() {
        return Err(HttpError::BadRequest("POST body is empty. Expecting a JSON dictionary.".into()));
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(HttpError::BadRequest("POST body should be a JSON dictionary.".into())),
        Err(error) => Err(HttpError::BadRequest(format!("POST body could not be decoded as JSON: {error}"))),
    }
}

/// Runs CPU work off the threads that serve connections.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, HttpError> + Send + 'static,
) -> Result<T, HttpError> {
    web::block(work).await.map_err(|_| HttpError::Engine(crate::engine::EngineError::Stopped))?
}
