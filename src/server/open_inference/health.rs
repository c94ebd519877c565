//! Whether the service lives, and whether it and its model are ready: a status for probes, and a body for people.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use serde::Serialize;
use utoipa::ToSchema;

use super::error::{ErrorBody, ProtocolError};
use super::model::{ModelPath, find};
use crate::server::{HttpError, State, Unready};

/// The service lives.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Live {
    /// Always true: what does not live does not answer.
    #[schema(example = true)]
    live: bool,
}

/// The service is ready.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Ready {
    /// Always true: a service that is not ready answers with an error.
    #[schema(example = true)]
    ready: bool,
}

/// The model is ready.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ModelReady {
    /// The model's name.
    #[schema(example = "blip2-shapes")]
    name: String,
    /// Always true: a model that is not ready is an error.
    #[schema(example = true)]
    ready: bool,
}

/// Whether the service lives
#[utoipa::path(
    get, path = "/v2/health/live", operation_id = "v2_live", tag = "Open Inference Protocol",
    responses((status = 200, description = "It lives.", body = Live)),
)]
pub(super) async fn live() -> HttpResponse {
    HttpResponse::Ok().json(Live { live: true })
}

/// Whether the service is ready
#[utoipa::path(
    get, path = "/v2/health/ready", operation_id = "v2_ready", tag = "Open Inference Protocol",
    responses(
        (status = 200, description = "It is ready.", body = Ready),
        (status = 503, description = "It loads, stops, or gives wrong answers.", body = ErrorBody),
    ),
)]
pub(super) async fn ready(state: web::Data<State>) -> Result<HttpResponse, ProtocolError> {
    when_ready(&state, &Ready { ready: true })
}

/// Whether the model is ready
#[utoipa::path(
    get, path = "/v2/models/{model}/ready", operation_id = "v2_model_ready", tag = "Open Inference Protocol",
    params(("model" = String, Path, description = "The model's name.", example = "blip2-shapes")),
    responses(
        (status = 200, description = "It is ready.", body = ModelReady),
        (status = 401, description = "The API key is missing or wrong."),
        (status = 404, description = "There is no such model or version.", body = ErrorBody),
        (status = 503, description = "It loads, stops, or gives wrong answers.", body = ErrorBody),
    ),
)]
pub(super) async fn model_ready(
    state: web::Data<State>,
    path: web::Path<ModelPath>,
) -> Result<HttpResponse, ProtocolError> {
    let name = find(&state, &path)?.name.clone();
    when_ready(&state, &ModelReady { name, ready: true })
}

fn when_ready(state: &State, body: &impl Serialize) -> Result<HttpResponse, ProtocolError> {
    match state.unready() {
        None => Ok(HttpResponse::Ok().json(body)),
        Some(Unready::Loading) => Err(HttpError::NotReady.into()),
        Some(Unready::Draining) => Err(HttpError::Draining.into()),
        Some(Unready::Wrong) => {
            let error = "the golden answers do not come out right; see the log".into();
            Ok(HttpResponse::build(StatusCode::SERVICE_UNAVAILABLE).json(ErrorBody { error }))
        }
    }
}
