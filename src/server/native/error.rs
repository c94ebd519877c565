//! Errors as the service's own endpoints tell them: `{"error": {"code": "…", "message": "…"}}`.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, ResponseError};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use crate::engine::EngineError;
use crate::scoring::ScoringError;
use crate::server::{HttpError, faults};

/// An [`HttpError`] with the body of these endpoints.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(super) struct NativeError(#[from] HttpError);

impl From<ScoringError> for NativeError {
    fn from(error: ScoringError) -> Self {
        Self(error.into())
    }
}

impl From<EngineError> for NativeError {
    fn from(error: EngineError) -> Self {
        Self(error.into())
    }
}

impl ResponseError for NativeError {
    fn status_code(&self) -> StatusCode {
        self.0.status()
    }

    fn error_response(&self) -> HttpResponse {
        self.0.response(&json!({"error": {"code": self.0.code(), "message": self.0.message()}}))
    }
}

pub(super) async fn method_not_allowed() -> Result<HttpResponse, NativeError> {
    Err(HttpError::MethodNotAllowed.into())
}

/// The body of an error.
#[derive(Serialize, ToSchema)]
#[schema(as = NativeError, example = json!({"error": {"code": "bad_request", "message": "image is empty"}}))]
pub(super) struct ErrorBody {
    error: Fault,
}

/// The errors of a request for answers, for its description.
pub(super) type Faults = faults::Faults<ErrorBody>;

/// An error's code and message.
#[derive(Serialize, ToSchema)]
pub(super) struct Fault {
    /// A short name, for programs.
    code: &'static str,
    /// A sentence, for people.
    message: String,
}
