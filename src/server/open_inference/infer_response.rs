//! The answer to `/v2/models/{model}/infer`: JSON, or JSON and the bytes of tensors behind it.

use actix_web::HttpResponse;
use actix_web::http::header::ContentType;
use serde::Serialize;
use utoipa::ToSchema;

use super::binary_data::{HEAD_LENGTH, push_element};
use super::model::VERSION;
use super::output::{Data, Datatype, Output, RequestedOutput};
use crate::engine::Answer;

/// Tensors of answers.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct InferResponse {
    /// The model's name.
    #[schema(example = "blip2-shapes")]
    model_name: String,
    /// Its version.
    #[schema(example = "1")]
    model_version: &'static str,
    /// The request's, if it had one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "17")]
    id: Option<String>,
    /// The tensors that were asked for, in that order.
    outputs: Vec<OutputTensor>,
    #[serde(skip)]
    binary: Vec<u8>,
}

/// A tensor with one element a row.
#[derive(Debug, Serialize, ToSchema)]
struct OutputTensor {
    /// Its name.
    #[schema(value_type = Output)]
    name: &'static str,
    /// Data type.
    datatype: Datatype,
    /// The number of rows.
    #[schema(example = json!([1]))]
    shape: [usize; 1],
    /// Of a tensor whose bytes stand behind the JSON object.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    parameters: Option<OutputParameters>,
    /// The elements, unless they stand behind the JSON object.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<Data>, example = json!(["yellow"]))]
    data: Option<Data>,
}

/// Where the bytes of a tensor end.
#[derive(Debug, Serialize, ToSchema)]
struct OutputParameters {
    /// How many bytes are its own.
    binary_data_size: usize,
}

impl InferResponse {
    pub(super) fn new(model: &str, id: Option<String>, outputs: &[RequestedOutput], answers: &[Answer]) -> Self {
        let mut binary = Vec::new();
        let tensors = outputs.iter().map(|requested| OutputTensor::new(*requested, answers, &mut binary));
        Self { outputs: tensors.collect(), model_name: model.to_owned(), model_version: VERSION, id, binary }
    }

    pub(super) fn into_http(self) -> HttpResponse {
        if self.outputs.iter().all(|output| output.parameters.is_none()) {
            return HttpResponse::Ok().json(self);
        }
        match serde_json::to_vec(&self) {
            Ok(mut body) => {
                let head_length = (HEAD_LENGTH, body.len());
                body.extend(self.binary);
                HttpResponse::Ok().content_type(ContentType::octet_stream()).insert_header(head_length).body(body)
            }
            Err(_) => HttpResponse::InternalServerError().finish(), // as `json` above; strings and numbers cannot fail
        }
    }
}

impl OutputTensor {
    fn new(requested: RequestedOutput, answers: &[Answer], binary: &mut Vec<u8>) -> Self {
        let RequestedOutput { output, is_binary } = requested;
        let (name, datatype, shape) = (output.name(), output.datatype(), [answers.len()]);
        let data = output.data(answers);
        if !is_binary {
            return Self { name, datatype, shape, parameters: None, data: Some(data) };
        }
        let start = binary.len();
        match data {
            Data::Texts(texts) => texts.iter().for_each(|text| push_element(binary, text)),
            Data::Numbers(numbers) => binary.extend(numbers.into_iter().flat_map(f32::to_le_bytes)),
        }
        let parameters = OutputParameters { binary_data_size: binary.len() - start };
        Self { name, datatype, shape, parameters: Some(parameters), data: None }
    }
}
