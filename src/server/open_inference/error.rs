//! Errors as the protocol's clients read them: `{"error": "…"}`.

use actix_web::error::PathError;
use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, ResponseError};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use crate::server::HttpError;

/// Any error of the service, in the protocol's shape.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(super) struct ProtocolError(#[from] HttpError);

/// The body of every error.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OpenInferenceError)]
pub(super) struct ErrorBody {
    /// For people: the place, and the reason.
    #[schema(example = "image[3]: image is empty")]
    pub(super) error: String,
}

impl ResponseError for ProtocolError {
    fn status_code(&self) -> StatusCode {
        self.0.status()
    }

    fn error_response(&self) -> HttpResponse {
        self.0.response(&json!(ErrorBody { error: self.0.message() }))
    }
}

/// The request is at fault; the text names the place.
pub(super) fn bad(message: impl Into<String>) -> HttpError {
    HttpError::BadRequest(message.into())
}

pub(super) async fn not_found() -> Result<HttpResponse, ProtocolError> {
    Err(HttpError::NotFound.into())
}

pub(super) async fn method_not_allowed() -> Result<HttpResponse, ProtocolError> {
    Err(HttpError::MethodNotAllowed.into())
}

/// A path that is no text names no model.
pub(super) fn path_error(_: PathError, _: &HttpRequest) -> actix_web::Error {
    ProtocolError(HttpError::NotFound).into()
}
