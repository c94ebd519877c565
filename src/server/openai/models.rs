//! `/v1/models`: the one that is served.

use actix_web::{HttpResponse, web};
use serde::Serialize;
use utoipa::ToSchema;

use super::chat_request::ModelNames;
use super::error::{ErrorBody, OpenAiError};
use crate::server::{ServedModel, State};

/// The models of this service.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = openai::ModelList)]
pub(super) struct ModelList {
    #[schema(example = "list")]
    object: &'static str,
    /// One.
    data: Vec<Model>,
}

/// A model.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = openai::Model)]
pub(super) struct Model {
    /// The bundle's name.
    #[schema(example = "blip2-shapes")]
    id: String,
    #[schema(example = "model")]
    object: &'static str,
    /// Always 0: a bundle does not say when it was made.
    created: u64,
    /// The checkpoint that the bundle was made from, which names the model too.
    #[schema(example = "Salesforce/blip2-opt-2.7b")]
    owned_by: String,
}

impl Model {
    fn new(served: &ServedModel) -> Self {
        let ModelNames { name, checkpoint } = names(served);
        Self { owned_by: checkpoint.unwrap_or_else(|| name.clone()), id: name, object: "model", created: 0 }
    }
}

/// The names under which a model is served.
pub(super) fn names(served: &ServedModel) -> ModelNames {
    let checkpoint = served.manifest["checkpoint"]["id"].as_str().map(str::to_owned);
    ModelNames { name: served.name.clone(), checkpoint }
}

/// The model that is served
#[utoipa::path(
    get,
    path = "/v1/models",
    operation_id = "list_models",
    tag = "OpenAI",
    responses(
        (status = 200, description = "A list of one.", body = ModelList),
        (status = 401, description = "The API key is missing or wrong.", body = ErrorBody),
        (status = 503, description = "The model is loading.", body = ErrorBody),
    ),
)]
pub(super) async fn list(state: web::Data<State>) -> Result<HttpResponse, OpenAiError> {
    Ok(HttpResponse::Ok().json(ModelList { object: "list", data: vec![Model::new(state.model()?)] }))
}

/// A model by its name, or by its checkpoint's
#[utoipa::path(
    get,
    path = "/v1/models/{model}",
    operation_id = "get_model",
    tag = "OpenAI",
    params(("model" = String, Path, description = "Its name, with or without its slashes escaped.", example = "blip2-shapes")),
    responses(
        (status = 200, description = "It is served.", body = Model),
        (status = 401, description = "The API key is missing or wrong.", body = ErrorBody),
        (status = 404, description = "It is not served.", body = ErrorBody),
        (status = 503, description = "The model is loading.", body = ErrorBody),
    ),
)]
pub(super) async fn get(state: web::Data<State>, model: web::Path<String>) -> Result<HttpResponse, OpenAiError> {
    let served = state.model()?;
    names(served).check(&model)?;
    Ok(HttpResponse::Ok().json(Model::new(served)))
}
