//! The protocol's part of `/openapi.json`.

use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::{Object, OpenApi as Document, Required, Type};
use utoipa::{Modify, OpenApi, ToSchema};

use super::output::Output;
use super::{health, infer, metadata, repository};

/// Its operations, those about a model also with a version in the path.
#[derive(OpenApi)]
#[openapi(
    paths(
        metadata::server, health::live, health::ready, metadata::model, health::model_ready, metadata::config, infer::post,
        repository::index,
    ),
    components(schemas(super::error::ErrorBody)),
    tags((name = "Open Inference Protocol", description = "Version 2, as KServe and Triton speak it")),
    modifiers(&Versions),
)]
pub(super) struct Api;

const MODEL: &str = "/v2/models/{model}";

/// Adds the forms of the paths that name a version.
struct Versions;

impl Modify for Versions {
    fn modify(&self, document: &mut Document) {
        let paths = &mut document.paths.paths;
        let of_models =
            paths.iter().filter_map(|(path, item)| Some((path.strip_prefix(MODEL)?.to_owned(), item.clone())));
        for (rest, mut item) in of_models.collect::<Vec<_>>() {
            for operation in [&mut item.get, &mut item.post].into_iter().flatten() {
                let id = operation.operation_id.as_deref().unwrap_or_default();
                operation.operation_id = Some(format!("{id}_of_version"));
                operation.parameters.get_or_insert_default().push(version());
            }
            paths.insert(format!("{MODEL}/versions/{{version}}{rest}"), item);
        }
    }
}

fn version() -> Parameter {
    ParameterBuilder::new()
        .name("version")
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .description(Some("The model's version, of which there is one."))
        .schema(Some(Object::with_type(Type::String)))
        .example(Some("1".into()))
        .build()
}

/// A JSON object, and the bytes of tensors behind it.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
pub(super) struct BinaryBody(#[expect(dead_code, reason = "it describes and is never made")] Vec<u8>);

// A request is read from JSON values, not into these types, so that a message can name the place of a fault.

/// Tensors of images and questions.
#[derive(ToSchema)]
#[schema(as = InferRequest, example = json!({
    "inputs": [
        {"name": "image", "shape": [1], "datatype": "BYTES", "data": ["iVBORw0KGgoAAAANSUhEUgAAAAgAAAAGCAIAAABxZ0isAAAAFElEQVR4nGPU0NBgwAaYsIrSSQIASXoAhK9MVXgAAAAASUVORK5CYII="]},
        {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["Question: what is in the picture? Answer:"]},
    ],
    "outputs": [{"name": "text"}, {"name": "score"}],
    "parameters": {"max_new_tokens": 20},
}))]
#[expect(dead_code, reason = "it describes and is never made")]
pub(super) struct InferRequestBody {
    /// Repeated in the answer.
    id: Option<String>,
    /// Parameters of generation under transformers' names; `binary_data_output` for all outputs in binary; `timeout` in
    /// microseconds; `priority`, which has no effect.
    #[schema(value_type = Option<Object>)]
    parameters: Option<()>,
    /// `image`, and `text` unless captions are asked for.
    inputs: Vec<InputTensor>,
    /// The tensors to answer with; all, if none is named.
    outputs: Option<Vec<OutputRequest>>,
}

/// A tensor with one element a row.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it describes and is never made")]
struct InputTensor {
    /// Its name.
    name: InputName,
    /// `[n]` or `[n, 1]`.
    shape: Vec<u64>,
    /// Data type.
    datatype: InputDatatype,
    /// Of a tensor whose bytes stand behind the JSON object.
    parameters: Option<InputParameters>,
    /// Images as base64, data URI, http or https URL, or id of a stored image; texts as they are.
    data: Option<Vec<String>>,
}

/// A tensor of a request.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "it describes and is never made")]
enum InputName {
    /// Images.
    Image,
    /// Questions; absent for captions.
    Text,
}

/// Data type of a request's tensor.
#[derive(ToSchema)]
#[schema(rename_all = "UPPERCASE")]
#[expect(dead_code, reason = "it describes and is never made")]
enum InputDatatype {
    /// Strings of bytes.
    Bytes,
}

/// Where the bytes of a tensor end.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it describes and is never made")]
struct InputParameters {
    /// How many bytes are its own.
    binary_data_size: Option<u64>,
}

/// A tensor to answer with.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it describes and is never made")]
struct OutputRequest {
    /// Its name.
    name: Output,
    /// How it is to be sent.
    parameters: Option<OutputRequestParameters>,
}

/// How a tensor is to be sent.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it describes and is never made")]
struct OutputRequestParameters {
    /// Behind the JSON object.
    binary_data: Option<bool>,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_path_of_a_model_is_described_with_and_without_a_version() {
        let document = Api::openapi();
        let paths = &document.paths.paths;
        for rest in ["", "/ready", "/config", "/infer"] {
            let versioned = &paths[&format!("{MODEL}/versions/{{version}}{rest}")];
            let operation = versioned.get.as_ref().or(versioned.post.as_ref()).unwrap();
            let parameters = operation.parameters.as_ref().unwrap();
            assert!(parameters.iter().any(|parameter| parameter.name == "version"), "{rest}");
            assert!(paths.contains_key(&format!("{MODEL}{rest}")), "{rest}");
        }
    }

    #[test]
    fn operations_have_ids_of_their_own() {
        let document = Api::openapi();
        let operations = document.paths.paths.values().flat_map(|item| [&item.get, &item.post]).flatten();
        let ids: Vec<_> = operations.filter_map(|operation| operation.operation_id.clone()).collect();
        assert_eq!((ids.len(), ids.iter().collect::<BTreeSet<_>>().len()), (12, 12));
    }
}
