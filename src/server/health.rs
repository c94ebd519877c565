//! Probes: alive at once, ready only with an engine whose golden answers came out right.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, Responder, web};
use serde_json::json;

use super::state::Unready;
use super::{HttpError, State};

/// `GET /`: Azure's liveness.
pub(super) async fn root() -> impl Responder {
    HttpResponse::Ok().content_type("text/html; charset=utf-8").body("Healthy")
}

/// `OPTIONS /`.
pub(super) async fn options() -> impl Responder {
    HttpResponse::Ok().insert_header(("Allow", "GET, HEAD, OPTIONS")).finish()
}

/// `GET /livez`.
pub(super) async fn livez() -> impl Responder {
    HttpResponse::Ok().json(json!({"status": "alive"}))
}

/// `GET /readyz`.
pub(super) async fn readyz(state: web::Data<State>) -> Result<HttpResponse, HttpError> {
    match state.unready() {
        None => Ok(HttpResponse::Ok().json(json!({"status": "ready"}))),
        Some(Unready::Loading) => Err(HttpError::NotReady),
        Some(Unready::Draining) => Err(HttpError::Draining),
        Some(Unready::Wrong) => Ok(HttpResponse::build(StatusCode::SERVICE_UNAVAILABLE)
            .json(json!({"message": "the golden answers do not come out right; see the log"}))),
    }
}
