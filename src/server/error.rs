//! The only place where an error becomes a status code. What the body looks like is for each protocol to say; the default is
//! that of the catalogue's server, `{"message": …}`.

use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpResponse, ResponseError};
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::engine::{EngineError, JobError, StoreError};
use crate::scoring::ScoringError;

/// Seconds after which a client may ask again while the service loads or stops.
const RETRY_SOON: Duration = Duration::from_secs(2);

/// Why a request is not answered with 200.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The request is at fault; the text names the place.
    #[error("{0}")]
    BadRequest(String),
    /// A table lacks a column.
    #[error("{table}: columns holds no {column:?}; for captions send \"image\" as the only column")]
    MissingColumn {
        /// The table's name in the request.
        table: &'static str,
        /// The column.
        column: &'static str,
    },
    /// No key, or another one.
    #[error("the API key is missing or wrong; send it as `Authorization: Bearer KEY` or `api-key: KEY`")]
    Unauthorized,
    /// The body is larger than the limit.
    #[error("the request body is larger than the limit of {limit_bytes} bytes")]
    BodyTooLarge {
        /// The limit.
        limit_bytes: usize,
    },
    /// The body did not arrive in time.
    #[error("the request body did not arrive within {limit_s} s")]
    BodyTimeout {
        /// The limit.
        limit_s: u64,
    },
    /// The body is not declared as JSON.
    #[error("Expects Content-Type to be application/json")]
    NotJson,
    /// The body is declared as something that the route does not read.
    #[error("{0}")]
    UnsupportedMediaType(String),
    /// An id of the request is too long.
    #[error("{headers} must not exceed 100 characters")]
    IdTooLong {
        /// Which headers.
        headers: &'static str,
    },
    /// Unknown path.
    #[error(
        "The requested URL was not found on the server. If you entered the URL manually please check your spelling and try again."
    )]
    NotFound,
    /// A known path, and something named in it or in the body that is not there.
    #[error("{0}")]
    Missing(String),
    /// Known path, wrong method.
    #[error("The method is not allowed for the requested URL.")]
    MethodNotAllowed,
    /// As many images are being fetched as may be.
    #[error("{0}")]
    FetchesBusy(String),
    /// The model is still loading.
    #[error("the model is loading; try again in a moment")]
    NotReady,
    /// The service is stopping.
    #[error("the service is stopping; try again, another instance will answer")]
    Draining,
    /// `SCORING_TIMEOUT_MS` is over.
    #[error("Scoring timeout after {limit_ms} ms")]
    ScoringTimeout {
        /// The limit.
        limit_ms: u64,
    },
    /// The engine gave no answer. What a client may know of it is decided in `message`.
    #[error("the engine gave no answer")]
    Engine(#[source] EngineError),
}

/// An error, as the catalogue's server writes it.
#[derive(ToSchema)]
#[schema(as = AzureError, example = json!({"message": "row 0: image is empty"}))]
#[expect(dead_code, reason = "only described")]
pub(super) struct ErrorBody {
    /// For people; it names the row, counted from 0, the column, the key or the parameter.
    message: String,
}

/// Set on the response of a request whose scoring failed through no fault of its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct ScoringFailed;

/// Set on every response that is an error: its short name.
#[derive(Debug, Clone, Copy)]
pub(super) struct ErrorCode(pub(super) &'static str);

impl From<EngineError> for HttpError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Rejected(error) => error.into(),
            other => Self::Engine(other),
        }
    }
}

impl From<ScoringError> for HttpError {
    fn from(error: ScoringError) -> Self {
        match error {
            ScoringError::Invalid(reason) => Self::BadRequest(reason),
            ScoringError::MissingColumn { table, column } => Self::MissingColumn { table, column },
            ScoringError::UnknownImage(reason) => Self::Missing(reason),
            ScoringError::FetchesBusy(reason) => Self::FetchesBusy(reason),
            ScoringError::TimedOut { limit_ms } => Self::ScoringTimeout { limit_ms },
            ScoringError::Engine(error) => error.into(),
        }
    }
}

impl From<JobError> for HttpError {
    fn from(error: JobError) -> Self {
        Self::BadRequest(error.to_string())
    }
}

impl HttpError {
    /// Returns the client's message. Never reveals causes, paths or internals.
    pub(super) fn message(&self) -> String {
        match self {
            Self::Engine(error @ (EngineError::DeadlineExceeded | EngineError::Store(_))) => error.to_string(),
            Self::Engine(error) if self.status().is_client_error() => error.to_string(),
            Self::Engine(_) => "An unexpected error occurred in scoring script. Check the logs for more info.".into(),
            other => other.to_string(),
        }
    }

    /// A short name, for programs and metrics.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::BadRequest(_) | Self::MissingColumn { .. } => "bad_request",
            Self::Unauthorized => "unauthorized",
            Self::BodyTooLarge { .. } => "body_too_large",
            Self::BodyTimeout { .. } => "body_timeout",
            Self::NotJson | Self::UnsupportedMediaType(_) => "unsupported_media_type",
            Self::IdTooLong { .. } => "id_too_long",
            Self::NotFound | Self::Missing(_) => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::FetchesBusy(_) => "fetches_busy",
            Self::NotReady => "not_ready",
            Self::Draining => "draining",
            Self::ScoringTimeout { .. } => "timeout",
            Self::Engine(error) => match error {
                EngineError::Rejected(_) => "bad_request",
                EngineError::TooManyRows { .. } => "too_many_rows",
                EngineError::Store(StoreError::Unknown(_)) => "not_found",
                EngineError::Store(StoreError::Full { .. }) => "store_full",
                EngineError::Overloaded { .. } => "overloaded",
                EngineError::DeadlineExceeded => "timeout",
                EngineError::Model { .. }
                | EngineError::Generation(_)
                | EngineError::Detokenize(_)
                | EngineError::Stopped => "internal",
            },
        }
    }

    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) | Self::MissingColumn { .. } => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTimeout { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::NotJson | Self::UnsupportedMediaType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::IdTooLong { .. } => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::NotFound | Self::Missing(_) => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::FetchesBusy(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::NotReady | Self::Draining => StatusCode::SERVICE_UNAVAILABLE,
            Self::ScoringTimeout { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Engine(error) => match error {
                EngineError::Rejected(_) | EngineError::TooManyRows { .. } => StatusCode::BAD_REQUEST,
                EngineError::Store(StoreError::Unknown(_)) => StatusCode::NOT_FOUND,
                EngineError::Store(StoreError::Full { .. }) => StatusCode::INSUFFICIENT_STORAGE,
                EngineError::Overloaded { .. } => StatusCode::TOO_MANY_REQUESTS,
                EngineError::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
                EngineError::Model { .. }
                | EngineError::Generation(_)
                | EngineError::Detokenize(_)
                | EngineError::Stopped => StatusCode::INTERNAL_SERVER_ERROR,
            },
        }
    }

    /// When a client may ask again.
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::NotReady | Self::Draining | Self::FetchesBusy(_) => Some(RETRY_SOON),
            Self::Engine(EngineError::Overloaded { retry_after }) => Some(*retry_after),
            _ => None,
        }
    }

    /// Writes the cause of a failure to the log, and nowhere else.
    pub(super) fn log(&self) {
        if self.status().is_server_error()
            && let Self::Engine(error) = self
        {
            tracing::error!(error = %with_causes(error), "a request failed");
        }
    }

    /// The answer, with the body of a protocol, once the failure is logged.
    pub(super) fn response(&self, body: &Value) -> HttpResponse {
        self.log();
        let status = self.status();
        let mut response = HttpResponse::build(status).json(body);
        if let Some(time) = self.retry_after() {
            let seconds = time.as_secs_f64().ceil().max(1.0) as u64;
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        if matches!(self, Self::Unauthorized) {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if status.is_server_error() && !matches!(self, Self::NotReady | Self::Draining) {
            response.extensions_mut().insert(ScoringFailed);
        }
        response.extensions_mut().insert(ErrorCode(self.code()));
        response
    }
}

impl ResponseError for HttpError {
    fn status_code(&self) -> StatusCode {
        self.status()
    }

    fn error_response(&self) -> HttpResponse {
        self.response(&json!({"message": self.message()}))
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
