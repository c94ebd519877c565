//! The body of `/v2/models/{model}/infer`, parsed and checked. A handler never sees a raw body. Messages name the tensor, the
//! element (from 0) or the key that is at fault, and never hold the image.

use std::time::Duration;

use actix_web::web::Bytes;
use serde_json::Value;

use super::binary_data::BinaryData;
use super::error::bad;
use super::input::Inputs;
use super::output::RequestedOutput;
use super::parameters::{Parameters, refuse_unknown};
use crate::generation::{GenerationParams, ParamError};
use crate::json::json_type;
use crate::scoring::Row;
use crate::server::HttpError;
use crate::server::body::parse_object;

/// The keys of a request. Examples of the protocol repeat model and version in the body; the path's are the ones that count.
const KEYS: [&str; 6] = ["id", "parameters", "inputs", "outputs", "model_name", "model_version"];

/// A parsed request.
#[derive(Debug)]
pub(super) struct InferRequest {
    /// The client's name for the request, which the answer repeats.
    pub(super) id: Option<String>,
    /// The rows, in order; at least one.
    pub(super) rows: Vec<Row>,
    /// The parameters that all rows share.
    pub(super) params: GenerationParams,
    /// How long the answer may take, if the client says so.
    pub(super) timeout: Option<Duration>,
    /// The tensors to answer with, in order; at least one.
    pub(super) outputs: Vec<RequestedOutput>,
}

impl InferRequest {
    /// Reads a body of which the first `head_length` bytes are JSON, or all of it.
    pub(super) fn parse(
        body: Bytes,
        head_length: Option<usize>,
        parse_params: impl Fn(&Value) -> Result<GenerationParams, ParamError>,
    ) -> Result<Self, HttpError> {
        if head_length == Some(0) {
            return Self::of_image(body, parse_params);
        }
        let (head, mut binary) = BinaryData::split(body, head_length)?;
        let mut fields = parse_object(&head)?;
        refuse_unknown(&fields, &KEYS).map_err(bad)?;
        let id = match fields.remove("id") {
            None | Some(Value::Null) => None,
            Some(Value::String(id)) => Some(id),
            Some(other) => return Err(bad(format!("id must be a string, not {}", json_type(&other)))),
        };
        let Parameters { is_binary, timeout, generation } =
            Parameters::read(fields.remove("parameters"), parse_params)?;
        let outputs = RequestedOutput::read_all(fields.remove("outputs"), is_binary)?;
        let inputs = Inputs::read(fields.remove("inputs"), &mut binary)?;
        binary.finish()?;
        Ok(Self { id, rows: inputs.rows()?, params: generation, timeout, outputs })
    }

    /// Triton's raw binary request: no JSON, the body is the only element of the only tensor.
    fn of_image(
        file: Bytes,
        parse_params: impl Fn(&Value) -> Result<GenerationParams, ParamError>,
    ) -> Result<Self, HttpError> {
        let Parameters { is_binary, timeout, generation } = Parameters::read(None, parse_params)?;
        let outputs = RequestedOutput::read_all(None, is_binary)?;
        Ok(Self { id: None, rows: Inputs::of_image(file).rows()?, params: generation, timeout, outputs })
    }
}
