//! Errors in MLflow's words: `{"error_code": …, "message": …}`, and no stack trace.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, ResponseError};
use serde_json::json;
use utoipa::ToSchema;

use crate::server::HttpError;

/// An [`HttpError`] with the body of MLflow's server.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(super) struct MlflowError(#[from] HttpError);

impl MlflowError {
    /// One of the names that MLflow's clients know.
    fn error_code(&self) -> &'static str {
        if matches!(self.0, HttpError::MissingColumn { .. }) {
            return "INVALID_PARAMETER_VALUE";
        }
        match self.0.status() {
            StatusCode::UNAUTHORIZED => "UNAUTHENTICATED",
            StatusCode::NOT_FOUND => "RESOURCE_DOES_NOT_EXIST",
            StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => "DEADLINE_EXCEEDED",
            StatusCode::TOO_MANY_REQUESTS | StatusCode::INSUFFICIENT_STORAGE => "RESOURCE_EXHAUSTED",
            StatusCode::SERVICE_UNAVAILABLE => "TEMPORARILY_UNAVAILABLE",
            status if status.is_client_error() => "BAD_REQUEST",
            _ => "INTERNAL_ERROR",
        }
    }
}

impl ResponseError for MlflowError {
    fn status_code(&self) -> StatusCode {
        self.0.status()
    }

    fn error_response(&self) -> HttpResponse {
        self.0.response(&json!({"error_code": self.error_code(), "message": self.0.message()}))
    }
}

/// An error, as MLflow's server writes it.
#[derive(ToSchema)]
#[schema(example = json!({"error_code": "BAD_REQUEST", "message": "row 0: image is empty"}))]
#[expect(dead_code, reason = "bodies of errors are written by hand")]
pub(super) struct MlflowErrorBody {
    /// A short name, for programs.
    error_code: String,
    /// For people; it names the row, counted from 0, the column, the key or the parameter.
    message: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::EngineError;

    #[test]
    fn error_codes_are_names_that_mlflow_knows() {
        for (error, status, code) in [
            (HttpError::BadRequest(String::new()), 400, "BAD_REQUEST"),
            (HttpError::MissingColumn { table: "dataframe_split", column: "image" }, 400, "INVALID_PARAMETER_VALUE"),
            (HttpError::UnsupportedMediaType(String::new()), 415, "BAD_REQUEST"),
            (HttpError::BodyTooLarge { limit_bytes: 1 }, 413, "BAD_REQUEST"),
            (HttpError::NotReady, 503, "TEMPORARILY_UNAVAILABLE"),
            (HttpError::Engine(EngineError::DeadlineExceeded), 504, "DEADLINE_EXCEEDED"),
            (HttpError::Engine(EngineError::Stopped), 500, "INTERNAL_ERROR"),
        ] {
            let error = MlflowError::from(error);
            assert_eq!((error.status_code().as_u16(), error.error_code()), (status, code));
        }
    }
}
