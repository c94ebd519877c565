//! `POST /v2/models/{model}/infer`: tensors of images and questions in, tensors of answers out. All rows are answered, or
//! none is.

use std::time::Duration;

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};

use super::binary_data::head_length;
use super::error::{ErrorBody, ProtocolError};
use super::infer_request::InferRequest;
use super::infer_response::InferResponse;
use super::model::{ModelPath, find};
use super::schema::{BinaryBody, InferRequestBody};
use crate::engine::{Answer, EngineError};
use crate::scoring::ScoringError;
use crate::server::body::{blocking, expect_json, media_type, read};
use crate::server::faults::Faults;
use crate::server::{HttpError, State};

/// Answer rows of images and questions
///
/// Tensors are in JSON, or behind it by the binary tensor data extension: the header `Inference-Header-Content-Length` then
/// says how many bytes are JSON. If it says 0, the whole body is an image's file, and its caption is the answer.
#[utoipa::path(
    post, path = "/v2/models/{model}/infer", operation_id = "v2_infer", tag = "Open Inference Protocol",
    params(
        ("model" = String, Path, description = "The model's name.", example = "blip2-shapes"),
        ("Inference-Header-Content-Length" = Option<u64>, Header, description = "How many bytes of the body are JSON."),
    ),
    request_body(content((InferRequestBody = "application/json"), (BinaryBody = "application/octet-stream"))),
    responses(
        (status = 200, description = "An answer for every row. If a tensor was asked for in binary, the header \
            `Inference-Header-Content-Length` says how many bytes are JSON.",
            content((InferResponse = "application/json"), (BinaryBody = "application/octet-stream"))),
        Faults<ErrorBody>,
    ),
)]
pub(super) async fn post(
    request: HttpRequest,
    state: web::Data<State>,
    path: web::Path<ModelPath>,
    payload: web::Payload,
) -> Result<HttpResponse, ProtocolError> {
    let model = find(&state, &path)?;
    check_content(&request)?;
    let head_length = head_length(request.headers())?;
    let body = read(&request, &state, payload).await?.freeze();
    let scorer = state.scorer()?;
    let parsing = scorer.engine().clone();
    let parse = move || InferRequest::parse(body, head_length, |params| parsing.parse_params(params));
    let InferRequest { id, rows, params, timeout, outputs } = blocking(parse).await?;
    let answers = within(timeout, scorer.answer(rows, params, image)).await?;
    Ok(InferResponse::new(&model.name, id, &outputs, &answers).into_http())
}

/// A row is named by its image.
fn image(number: usize) -> String {
    format!("image[{number}]")
}

/// Triton's clients declare no type at all; a compressed body would be read as garbage.
fn check_content(request: &HttpRequest) -> Result<(), HttpError> {
    let encoding = request.headers().get(header::CONTENT_ENCODING);
    if encoding.is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        let message = "a body with a Content-Encoding is not supported; send it uncompressed";
        return Err(HttpError::UnsupportedMediaType(message.into()));
    }
    match media_type(request).as_deref() {
        None | Some("application/octet-stream") => Ok(()),
        Some(_) => expect_json(request).map_err(|_| {
            let message = "Content-Type must be application/json, or application/octet-stream for tensors in binary";
            HttpError::UnsupportedMediaType(message.into())
        }),
    }
}

/// The answers, unless the client's own time is over before; what is in work then ends.
async fn within(
    timeout: Option<Duration>,
    answers: impl Future<Output = Result<Vec<Answer>, ScoringError>>,
) -> Result<Vec<Answer>, HttpError> {
    let Some(timeout) = timeout else { return Ok(answers.await?) };
    let answers = tokio::time::timeout(timeout, answers).await;
    Ok(answers.map_err(|_| HttpError::Engine(EngineError::DeadlineExceeded))??)
}
