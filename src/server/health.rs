//! Probes: alive at once, ready only with an engine whose golden answers came out right.

use actix_web::http::{Method, StatusCode};
use actix_web::{HttpResponse, Responder, ResponseError as _, web};
use serde_json::json;
use utoipa::{OpenApi, ToSchema};

use super::error::ErrorBody;
use super::protocol::Protocol;
use super::state::Unready;
use super::{HttpError, State, resource};

/// They are asked every few seconds, by those who have no key.
pub(super) const PROBES: [&str; 3] = ["/", "/livez", "/readyz"];

/// Probes, which need no key.
pub(super) const PROTOCOL: Protocol = Protocol {
    name: "Probes",
    roots: &["/", "/livez", "/readyz"],
    public: &PROBES,
    routes,
    openapi: Api::openapi,
    refuse: |error| error.error_response(),
};

fn routes(config: &mut web::ServiceConfig) {
    config
        .service(
            resource("/")
                .route(web::get().to(root))
                .route(web::head().to(root))
                .route(web::method(Method::OPTIONS).to(options)),
        )
        .service(resource("/livez").route(web::get().to(livez)))
        .service(resource("/readyz").route(web::get().to(readyz)));
}

/// The part of these routes in `/openapi.json`.
#[derive(OpenApi)]
#[openapi(paths(root, options, livez, readyz), tags((name = "Health", description = "Probes.")))]
struct Api;

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
    operation_id = "liveness",
    tag = "Health",
    responses(
        (status = 200, description = "The process is alive.", body = String, content_type = "text/html", example = "Healthy"),
        (status = 431, description = "An id is longer than 100 characters.", body = ErrorBody),
    )
)]
async fn root() -> impl Responder {
    HttpResponse::Ok().content_type("text/html; charset=utf-8").body("Healthy")
}

/// The methods of the path.
#[utoipa::path(
    options,
    path = "/",
    operation_id = "liveness_methods",
    tag = "Health",
    responses(
        (status = 200, description = "In `Allow`."),
        (status = 431, description = "An id is longer than 100 characters.", body = ErrorBody),
    )
)]
async fn options() -> impl Responder {
    HttpResponse::Ok().insert_header(("Allow", "GET, HEAD, OPTIONS")).finish()
}

/// The process is alive.
#[utoipa::path(
    get,
    path = "/livez",
    tag = "Health",
    responses(
        (status = 200, description = "The process is alive.", body = Health),
        (status = 431, description = "An id is longer than 100 characters.", body = ErrorBody),
    )
)]
async fn livez() -> impl Responder {
    HttpResponse::Ok().json(json!({"status": "alive"}))
}

/// The model is there, and its golden answers came out right.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "Health",
    responses(
        (status = 200, description = "The model is loaded, and its golden answers came out right.", body = Health),
        (status = 431, description = "An id is longer than 100 characters.", body = ErrorBody),
        (status = 503, description = "Loading, draining, or a golden answer came out wrong.", body = ErrorBody),
    )
)]
async fn readyz(state: web::Data<State>) -> Result<HttpResponse, HttpError> {
    match state.unready() {
        None => Ok(HttpResponse::Ok().json(json!({"status": "ready"}))),
        Some(Unready::Loading) => Err(HttpError::NotReady),
        Some(Unready::Draining) => Err(HttpError::Draining),
        Some(Unready::Wrong) => Ok(HttpResponse::build(StatusCode::SERVICE_UNAVAILABLE)
            .json(json!({"message": "the golden answers do not come out right; see the log"}))),
    }
}
