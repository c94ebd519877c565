//! The only place where an error becomes a status code. The body is always `{"message": …}`, as the catalogue's server says it.

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpResponse, ResponseError};
use serde_json::json;

use crate::engine::{EngineError, StoreError};

/// Seconds after which a refused client may try again.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// Why a request is not answered with 200.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The request is at fault; the text names the place.
    #[error("{0}")]
    BadRequest(String),
    /// The body is larger than the limit.
    #[error("the request body is larger than the limit of {limit_bytes} bytes")]
    BodyTooLarge {
        /// The limit.
        limit_bytes: usize,
    },
    /// The body is not declared as JSON.
    #[error("Expects Content-Type to be application/json")]
    NotJson,
    /// Unknown path.
    #[error(
        "The requested URL was not found on the server. If you entered the URL manually please check your spelling and try again."
    )]
    NotFound,
    /// Known path, wrong method.
    #[error("The method is not allowed for the requested URL.")]
    MethodNotAllowed,
    /// The model is still loading.
    #[error("the model is loading; try again in a moment")]
    NotReady,
    /// The engine gave no answer. What a client may know of it is decided in `message`.
    #[error("the engine gave no answer")]
    Engine(#[source] EngineError),
}

impl From<EngineError> for HttpError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Rejected(error) => Self::BadRequest(error.to_string()),
            other => Self::Engine(other),
        }
    }
}

impl HttpError {
    /// What the client reads: nothing of causes, paths or the inside of the service.
    fn message(&self) -> String {
        match self {
            Self::Engine(error @ (EngineError::DeadlineExceeded | EngineError::Store(_))) => error.to_string(),
            Self::Engine(error) if self.status_code().is_client_error() => error.to_string(),
            Self::Engine(_) => "An unexpected error occurred in scoring script. Check the logs for more info.".into(),
            other => other.to_string(),
        }
    }
}

impl ResponseError for HttpError {
    fn status_code(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NotJson => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotReady => StatusCode::SERVICE_UNAVAILABLE,
            Self::Engine(error) => match error {
                EngineError::Rejected(_) | EngineError::TooManyRows { .. } => StatusCode::BAD_REQUEST,
                EngineError::Store(StoreError::Unknown(_)) => StatusCode::NOT_FOUND,
                EngineError::Store(StoreError::Full { .. }) => StatusCode::INSUFFICIENT_STORAGE,
                EngineError::Overloaded => StatusCode::TOO_MANY_REQUESTS,
                EngineError::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
                EngineError::Model { .. }
                | EngineError::Generation(_)
                | EngineError::Detokenize(_)
                | EngineError::Stopped => StatusCode::INTERNAL_SERVER_ERROR,
            },
        }
    }

    fn error_response(&self) -> HttpResponse {
        let status = self.status_code();
        if status.is_server_error()
            && let Self::Engine(error) = self
        {
            tracing::error!(error = %with_causes(error), "a request failed");
        }
        let mut response = HttpResponse::build(status).json(json!({"message": self.message()}));
        if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        response
    }
}

/// An error and its causes on one line, for the log.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |line, cause| format!("{line}: {cause}"))
}

pub(super) async fn not_found() -> Result<HttpResponse, HttpError> {
    Err(HttpError::NotFound)
}

pub(super) async fn method_not_allowed() -> Result<HttpResponse, HttpError> {
    Err(HttpError::MethodNotAllowed)
}
