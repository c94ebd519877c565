//! Probes: alive at once, ready only with an engine whose golden answers came out right.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, Responder, web};
use serde_json::json;
use utoipa::{OpenApi, ToSchema};

use super::azure::ErrorBody;
use super::state::Unready;
use super::{HttpError, State};

/// They are asked every few seconds, by those who have no key.
pub(super) const PROBES: [&str; 3] = ["/", "/livez", "/readyz"];

/// What [`super::openapi`] tells of these routes.
#[derive(OpenApi)]
#[openapi(paths(root, options, livez, readyz), tags((name = "Health", description = "Probes.")))]
pub(super) struct Api;

/// How the service is.
#[derive(ToSchema)]
#[schema(example = json!({"status": "ready"}))]
#[expect(dead_code, reason = "only described")]
struct Health {
    status: String,
}

/// Azure's liveness: the process is alive.
#[utoipa::path(
    get,
    path = "/",
    tag = "Health",
    responses(
        (status = 200, description = "It is.", body = String, content_type = "text/html", example = "Healthy"),
        (status = 431, description = "An id is longer than 100 characters.", body = ErrorBody),
    )
)]
pub(super) async fn root() -> impl Responder {
    HttpResponse::Ok().content_type("text/html; charset=utf-8").body("Healthy")
}

/// The methods of the path.
#[utoipa::path(
    options,
    path = "/",
    tag = "Health",
    responses(
        (status = 200, description = "In `Allow`."),
        (status = 431, description = "An id is longer than 100 characters.", body = ErrorBody),
    )
)]
pub(super) async fn options() -> impl Responder {
    HttpResponse::Ok().insert_header(("Allow", "GET, HEAD, OPTIONS")).finish()
}

/// The process is alive.
#[utoipa::path(
    get,
    path = "/livez",
    tag = "Health",
    responses(
        (status = 200, description = "It is.", body = Health),
        (status = 431, description = "An id is longer than 100 characters.", body = ErrorBody),
    )
)]
pub(super) async fn livez() -> impl Responder {
    HttpResponse::Ok().json(json!({"status": "alive"}))
}

/// The model is there, and its golden answers came out right.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "Health",
    responses(
        (status = 200, description = "It is ready.", body = Health),
        (status = 431, description = "An id is longer than 100 characters.", body = ErrorBody),
        (status = 503, description = "It is not, or not any more.", body = ErrorBody),
    )
)]
pub(super) async fn readyz(state: web::Data<State>) -> Result<HttpResponse, HttpError> {
    match state.unready() {
        None => Ok(HttpResponse::Ok().json(json!({"status": "ready"}))),
        Some(Unready::Loading) => Err(HttpError::NotReady),
        Some(Unready::Draining) => Err(HttpError::Draining),
        Some(Unready::Wrong) => Ok(HttpResponse::build(StatusCode::SERVICE_UNAVAILABLE)
            .json(json!({"message": "the golden answers do not come out right; see the log"}))),
    }
}
