//! `POST /v2/repository/index`: the models there are, of Triton's model repository extension. None can be loaded or unloaded.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::error::{ErrorBody, ProtocolError, bad};
use super::model::VERSION;
use crate::json::json_type;
use crate::server::body::{parse_object, read};
use crate::server::{HttpError, State, Unready};

/// A model of the repository.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RepositoryModel)]
pub(super) struct IndexedModel {
    /// Its name.
    #[schema(example = "blip2-shapes")]
    name: String,
    /// Its version.
    #[schema(example = "1")]
    version: &'static str,
    /// `READY` or `UNAVAILABLE`.
    #[schema(example = "READY")]
    state: &'static str,
    /// Why it is unavailable.
    #[schema(example = "")]
    reason: &'static str,
}

/// The models there are
///
/// With `{"ready": true}` only those that are ready. While the model loads there is none.
#[utoipa::path(
    post, path = "/v2/repository/index", operation_id = "v2_repository_index", tag = "Open Inference Protocol",
    request_body(content = Option<Object>, example = json!({"ready": true})),
    responses(
        (status = 200, description = "At most one.", body = [IndexedModel]),
        (status = 400, description = "The body is at fault.", body = ErrorBody),
        (status = 401, description = "The API key is missing or wrong."),
        (status = 408, description = "The body did not arrive in time.", body = ErrorBody),
        (status = 413, description = "The body is too large.", body = ErrorBody),
    ),
)]
pub(super) async fn index(
    request: HttpRequest,
    state: web::Data<State>,
    payload: web::Payload,
) -> Result<HttpResponse, ProtocolError> {
    let body = read(&request, &state, payload).await?;
    let only_ready = if body.is_empty() { false } else { is_only_ready(&body)? };
    let (model_state, reason) = match state.unready() {
        None => ("READY", ""),
        Some(Unready::Draining) => ("UNAVAILABLE", "the service is stopping"),
        Some(Unready::Wrong) => ("UNAVAILABLE", "the golden answers do not come out right"),
        Some(Unready::Loading) => ("UNAVAILABLE", "the model is loading"),
    };
    let served = state.model().ok().filter(|_| !only_ready || reason.is_empty());
    let models =
        served.map(|served| IndexedModel { name: served.name.clone(), version: VERSION, state: model_state, reason });
    Ok(HttpResponse::Ok().json(Vec::from_iter(models)))
}

fn is_only_ready(body: &[u8]) -> Result<bool, HttpError> {
    match parse_object(body)?.get("ready") {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(ready)) => Ok(*ready),
        Some(other) => Err(bad(format!("ready must be true or false, not {}", json_type(other)))),
    }
}
