//! Metadata of server and model, in the protocol's form and as a Triton configuration.

use actix_web::{HttpResponse, web};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::error::{ErrorBody, ProtocolError};
use super::model::{ModelPath, VERSION, find};
use super::output::{Datatype, Output};
use crate::server::State;

/// The extensions of the protocol that work here.
const EXTENSIONS: [&str; 3] = ["binary_tensor_data", "model_configuration", "parameters"];

const PLATFORM: &str = "onnxruntime_onnx";

/// Any number of rows.
const ROWS: i64 = -1;

/// The service.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ServerMetadata {
    /// Its name.
    #[schema(example = "blip2")]
    name: &'static str,
    /// Its version.
    #[schema(example = "0.1.0")]
    version: &'static str,
    /// The extensions of the protocol that it knows.
    #[schema(value_type = Vec<String>, example = json!(["binary_tensor_data", "model_configuration", "parameters"]))]
    extensions: [&'static str; 3],
}

/// The model.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ModelMetadata {
    /// Its name.
    #[schema(example = "blip2-shapes")]
    name: String,
    /// Its versions.
    #[schema(value_type = Vec<String>, example = json!(["1"]))]
    versions: [&'static str; 1],
    /// The platform that runs it.
    #[schema(example = "onnxruntime_onnx")]
    platform: &'static str,
    /// The tensors it takes; `text` may be left out.
    inputs: Vec<TensorMetadata>,
    /// The tensors it gives.
    outputs: Vec<TensorMetadata>,
}

/// A tensor.
#[derive(Debug, Serialize, ToSchema)]
struct TensorMetadata {
    /// Its name.
    #[schema(example = "image")]
    name: &'static str,
    /// Data type.
    datatype: Datatype,
    /// The sizes of its dimensions; -1 for any.
    #[schema(value_type = Vec<i64>, example = json!([-1]))]
    shape: [i64; 1],
}

/// Server metadata
#[utoipa::path(
    get, path = "/v2", operation_id = "v2_server_metadata", tag = "Open Inference Protocol",
    responses(
        (status = 200, description = "Name, version and extensions.", body = ServerMetadata),
        (status = 401, description = "The API key is missing or wrong."),
    ),
)]
pub(super) async fn server() -> HttpResponse {
    HttpResponse::Ok().json(ServerMetadata {
        name: env!("CARGO_PKG_NAME"),
        version: env!("CARGO_PKG_VERSION"),
        extensions: EXTENSIONS,
    })
}

/// Model metadata: inputs and outputs
#[utoipa::path(
    get, path = "/v2/models/{model}", operation_id = "v2_model_metadata", tag = "Open Inference Protocol",
    params(("model" = String, Path, description = "The model's name.", example = "blip2-shapes")),
    responses(
        (status = 200, description = "Its tensors.", body = ModelMetadata),
        (status = 401, description = "The API key is missing or wrong."),
        (status = 404, description = "There is no such model or version.", body = ErrorBody),
        (status = 503, description = "The model loads.", body = ErrorBody),
    ),
)]
pub(super) async fn model(state: web::Data<State>, path: web::Path<ModelPath>) -> Result<HttpResponse, ProtocolError> {
    let tensor = |(name, datatype)| TensorMetadata { name, datatype, shape: [ROWS] };
    Ok(HttpResponse::Ok().json(ModelMetadata {
        name: find(&state, &path)?.name.clone(),
        versions: [VERSION],
        platform: PLATFORM,
        inputs: inputs().map(tensor).into(),
        outputs: outputs().map(tensor).into(),
    }))
}

/// The model as a configuration of Triton
///
/// An extension, which Triton's tools ask for.
#[utoipa::path(
    get, path = "/v2/models/{model}/config", operation_id = "v2_model_config", tag = "Open Inference Protocol",
    params(("model" = String, Path, description = "The model's name.", example = "blip2-shapes")),
    responses(
        (status = 200, description = "The configuration.", body = Object),
        (status = 401, description = "The API key is missing or wrong."),
        (status = 404, description = "There is no such model or version.", body = ErrorBody),
        (status = 503, description = "The model loads.", body = ErrorBody),
    ),
)]
pub(super) async fn config(state: web::Data<State>, path: web::Path<ModelPath>) -> Result<HttpResponse, ProtocolError> {
    let tensor =
        |(name, datatype): (&str, Datatype)| json!({"name": name, "data_type": datatype.in_config(), "dims": [ROWS]});
    let input = |(name, datatype)| {
        let mut input = tensor((name, datatype));
        input["optional"] = Value::Bool(name != "image");
        input
    };
    Ok(HttpResponse::Ok().json(json!({
        "name": find(&state, &path)?.name,
        "platform": PLATFORM,
        "backend": "onnxruntime",
        "version_policy": {"latest": {"num_versions": 1}},
        // Rows are an ordinary dimension of the tensors; the service batches them on its own.
        "max_batch_size": 0,
        "input": inputs().map(input),
        "output": outputs().map(tensor),
    })))
}

fn inputs() -> [(&'static str, Datatype); 2] {
    [("image", Datatype::Bytes), ("text", Datatype::Bytes)]
}

fn outputs() -> [(&'static str, Datatype); 6] {
    Output::ALL.map(|output| (output.name(), output.datatype()))
}
