//! Errors as the service's own endpoints tell them: `{"error": {"code": "…", "message": "…"}}`.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, ResponseError};
use serde::Serialize;
use serde_json::json;
use utoipa::{IntoResponses, ToSchema};

use crate::engine::EngineError;
use crate::scoring::ScoringError;
use crate::server::HttpError;

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

/// What is sent instead of an answer.
#[derive(Serialize, ToSchema)]
#[schema(as = NativeError, example = json!({"error": {"code": "bad_request", "message": "image is empty"}}))]
pub(super) struct ErrorBody {
    error: Fault,
}

/// What went wrong.
#[derive(Serialize, ToSchema)]
pub(super) struct Fault {
    /// A short name, for programs.
    code: &'static str,
    /// A sentence, for people.
    message: String,
}

/// What may come of any request, for the description of the service.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "read by the macro alone")]
pub(super) enum Faults {
    /// The request is at fault; the message names the place.
    #[response(status = 400)]
    BadRequest(ErrorBody),
    /// The API key is missing or wrong.
    #[response(status = 401)]
    Unauthorized,
    /// A stored image is not there (any more).
    #[response(status = 404)]
    NotFound(ErrorBody),
    /// The body did not arrive in time.
    #[response(status = 408)]
    BodyTimeout(ErrorBody),
    /// The body is larger than the limit.
    #[response(status = 413)]
    BodyTooLarge(ErrorBody),
    /// The body is of a type that is not read.
    #[response(status = 415)]
    UnsupportedMediaType(ErrorBody),
    /// The service is busy; `Retry-After` says when to ask again.
    #[response(status = 429)]
    Overloaded(ErrorBody),
    /// An id in the headers is too long.
    #[response(status = 431)]
    IdTooLong,
    /// The service failed; its log says why.
    #[response(status = 500)]
    Internal(ErrorBody),
    /// The model is loading, or the service is stopping; `Retry-After` says when to ask again.
    #[response(status = 503)]
    NotReady(ErrorBody),
    /// The answer was not ready in time.
    #[response(status = 504)]
    Timeout(ErrorBody),
}
