//! Probes: alive at once, ready only with an engine whose golden answers came out right.

use actix_web::{HttpResponse, Responder, web};
use serde_json::json;

use super::{HttpError, State};

/// `GET /`: Azure's liveness.
pub(super) async fn root() -> impl Responder {
    HttpResponse::Ok().content_type("text/html; charset=utf-8").body("Healthy")
}

/// `GET /livez`.
pub(super) async fn livez() -> impl Responder {
    HttpResponse::Ok().json(json!({"status": "alive"}))
}

/// `GET /readyz`.
pub(super) async fn readyz(state: web::Data<State>) -> Result<HttpResponse, HttpError> {
    state.engine()?;
    Ok(HttpResponse::Ok().json(json!({"status": "ready"})))
}
