//! `/v1/images`: an image is sent once and asked about by its id, until it is deleted, its time is over, or room is needed.
//!
//! Ids are secrets, so there is no list of them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::{ErrorBody, Faults, NativeError};
use super::form::{Form, Kind, Part};
use super::input::{Input, image_source, read, read_json};
use crate::engine::{Engine, EngineError, ImageId, StoreOptions, StoredImage};
use crate::server::body::blocking;
use crate::server::examples::EXAMPLE_IMAGE;
use crate::server::{HttpError, State};

const DEFAULT_TTL_S: u64 = 3600;
const MAX_TTL_S: u64 = 30 * 24 * 3600;

const FORM: Form =
    Form(&[Part::new("image", Kind::Image), Part::new("ttl_s", Kind::Json), Part::new("pin", Kind::Json)]);

/// An image to store.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"image": EXAMPLE_IMAGE, "ttl_s": 600, "pin": false}))]
pub(super) struct StoreRequest {
    /// An image: base64, a data URI, a URL, or the id of a stored one, which is stored once more.
    #[schema(required = true, value_type = String)]
    image: Option<String>,
    /// Seconds until it is forgotten; an hour if not given.
    #[schema(minimum = 1, maximum = 2_592_000, default = 3600)]
    ttl_s: Option<u64>,
    /// Whether it is kept when room is needed for others.
    #[schema(default = false)]
    pin: Option<bool>,
}

/// The same as a form.
#[derive(ToSchema)]
#[expect(dead_code, reason = "read by the macro alone")]
pub(super) struct StoreForm {
    /// An image's file; or `image`.
    #[schema(required = false, format = Binary, content_media_type = "application/octet-stream", value_type = String)]
    file: Option<Vec<u8>>,
    /// An image string.
    image: Option<String>,
    /// Seconds until it is forgotten.
    ttl_s: Option<u64>,
    /// Whether it is kept when room is needed.
    pin: Option<bool>,
}

/// A change to a stored image.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PinRequest {
    /// Whether it is kept when room is needed for others.
    pin: bool,
}

/// A stored image.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "id": "image-0123456789abcdef0123456789abcdef",
    "expires_at": 1_800_000_000,
    "expires_in_s": 3600,
    "pinned": false,
    "bytes": 327_680,
}))]
pub(super) struct ImageResponse {
    /// Stands for the image wherever a request names one. Whoever knows it may ask about the image.
    #[schema(value_type = String)]
    id: ImageId,
    /// When it will be forgotten, in seconds of Unix time.
    expires_at: u64,
    /// The same in seconds from now.
    expires_in_s: u64,
    /// It is kept when room is needed for others.
    pinned: bool,
    /// Bytes of the store that it uses.
    bytes: usize,
}

impl ImageResponse {
    fn of(engine: &Engine, id: ImageId) -> Result<Self, EngineError> {
        let StoredImage { bytes, is_pinned, expires_in } = engine.describe_image(id)?;
        // Times to live are bounded, so there is an end.
        let expires_in = expires_in.unwrap_or(Duration::MAX);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let expires_at = now.saturating_add(expires_in).as_secs_f64().round() as u64;
        let expires_in_s = expires_in.as_secs_f64().round() as u64;
        Ok(Self { id, expires_at, expires_in_s, pinned: is_pinned, bytes })
    }
}

/// Stores an image.
#[utoipa::path(
    post,
    path = "/v1/images",
    tag = "native",
    operation_id = "store_image",
    request_body(content(
        (StoreRequest = "application/json"),
        (StoreForm = "multipart/form-data"),
        (Vec<u8> = "application/octet-stream"),
        (Vec<u8> = "image/*"),
    )),
    params(
        ("ttl_s" = Option<u64>, Query, description = "As in JSON, for an image as the whole body."),
        ("pin" = Option<bool>, Query, description = "As in JSON, for an image as the whole body."),
    ),
    responses(
        (status = 201, description = "It is stored.", body = ImageResponse,
            headers(("Location" = String, description = "Where it is."))),
        (status = 507, description = "Pinned images fill the room there is.", body = ErrorBody),
        Faults,
    ),
)]
pub(super) async fn post(
    request: HttpRequest,
    state: web::Data<State>,
    payload: web::Payload,
) -> Result<HttpResponse, NativeError> {
    let scorer = state.scorer()?;
    let Input { request, files } = read::<StoreRequest>(&request, &state, payload, &FORM).await?;
    let StoreRequest { image, ttl_s, pin } = request;
    let time_to_live = time_to_live(ttl_s.unwrap_or(DEFAULT_TTL_S))?;
    let options = StoreOptions { time_to_live, is_pinned: pin.unwrap_or(false) };
    let image = blocking(move || image_source(image.as_deref(), files)).await?;
    let admitted = scorer.admit(1)?;
    let image = admitted.open_image(image, "image").await?;
    let id = scorer.engine().store_image(image, options, admitted.into_permit()).await?;
    let location = (header::LOCATION, format!("{}/v1/images/{id}", state.settings().service.path_prefix));
    Ok(HttpResponse::Created().insert_header(location).json(ImageResponse::of(scorer.engine(), id)?))
}

/// Tells whether an image is stored, and for how long.
#[utoipa::path(
    get,
    path = "/v1/images/{id}",
    tag = "native",
    operation_id = "describe_image",
    params(("id" = String, Path, description = "As it was returned when the image was stored.")),
    responses((status = 200, description = "It is there.", body = ImageResponse), Faults),
)]
pub(super) async fn get(state: web::Data<State>, id: web::Path<String>) -> Result<HttpResponse, NativeError> {
    let engine = state.scorer()?.engine();
    Ok(HttpResponse::Ok().json(ImageResponse::of(engine, parse_id(&id)?)?))
}

/// Pins an image, or lets it make room for others again.
#[utoipa::path(
    patch,
    path = "/v1/images/{id}",
    tag = "native",
    operation_id = "pin_image",
    params(("id" = String, Path, description = "As it was returned when the image was stored.")),
    request_body = PinRequest,
    responses((status = 200, description = "It is done.", body = ImageResponse), Faults),
)]
pub(super) async fn patch(
    request: HttpRequest,
    state: web::Data<State>,
    id: web::Path<String>,
    payload: web::Payload,
) -> Result<HttpResponse, NativeError> {
    let engine = state.scorer()?.engine();
    let id = parse_id(&id)?;
    let PinRequest { pin } = read_json(&request, &state, payload).await?;
    engine.pin_image(id, pin).map_err(EngineError::from)?;
    Ok(HttpResponse::Ok().json(ImageResponse::of(engine, id)?))
}

/// The same as PATCH.
#[utoipa::path(
    put,
    path = "/v1/images/{id}",
    tag = "native",
    operation_id = "put_image",
    params(("id" = String, Path, description = "As it was returned when the image was stored.")),
    request_body = PinRequest,
    responses((status = 200, description = "It is done.", body = ImageResponse), Faults),
)]
pub(super) async fn put(
    request: HttpRequest,
    state: web::Data<State>,
    id: web::Path<String>,
    payload: web::Payload,
) -> Result<HttpResponse, NativeError> {
    patch(request, state, id, payload).await
}

/// Forgets an image. What is being answered about it goes on.
#[utoipa::path(
    delete,
    path = "/v1/images/{id}",
    tag = "native",
    operation_id = "delete_image",
    params(("id" = String, Path, description = "As it was returned when the image was stored.")),
    responses((status = 204, description = "It is forgotten."), Faults),
)]
pub(super) async fn delete(state: web::Data<State>, id: web::Path<String>) -> Result<HttpResponse, NativeError> {
    let engine = state.scorer()?.engine();
    engine.delete_image(parse_id(&id)?).map_err(EngineError::from)?;
    Ok(HttpResponse::NoContent().finish())
}

fn parse_id(id: &str) -> Result<ImageId, HttpError> {
    id.parse().map_err(|error: crate::engine::ImageIdError| HttpError::Missing(error.to_string()))
}

fn time_to_live(ttl_s: u64) -> Result<Duration, HttpError> {
    if !(1..=MAX_TTL_S).contains(&ttl_s) {
        return Err(HttpError::BadRequest(format!("ttl_s is {ttl_s}, but must be from 1 to {MAX_TTL_S}, 30 days")));
    }
    Ok(Duration::from_secs(ttl_s))
}
