//! Errors as OpenAI's clients read them: `{"error": {"message", "type", "param", "code"}}`.

use std::fmt;

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, ResponseError};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::engine::{EngineError, JobError};
use crate::server::HttpError;

/// An error, and which parameter it is about.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub(super) struct OpenAiError {
    #[source]
    error: HttpError,
    param: Option<String>,
    code: Option<&'static str>,
}

/// The body of every error.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = openai::ErrorBody)]
pub(super) struct ErrorBody {
    error: ErrorDetail,
}

/// The error in the body.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = openai::ErrorDetail)]
struct ErrorDetail {
    /// For people.
    #[schema(example = "temperature is 3, but must be a number from 0 to 2")]
    message: String,
    /// The kind of error.
    #[serde(rename = "type")]
    #[schema(example = "invalid_request_error")]
    kind: &'static str,
    /// The parameter that is at fault.
    #[schema(required, example = "temperature")]
    param: Option<String>,
    /// For programs.
    #[schema(required, value_type = Option<String>, example = "invalid_value")]
    code: Option<&'static str>,
}

impl OpenAiError {
    /// A parameter has a value that cannot be used; the message says why.
    pub(super) fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(HttpError::BadRequest(message.into()), param, "invalid_value")
    }

    /// A parameter asks for something that this service does not do.
    pub(super) fn unsupported(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(HttpError::BadRequest(message.into()), param, "unsupported_parameter")
    }

    /// A parameter that nobody knows.
    pub(super) fn unknown(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(HttpError::BadRequest(message.into()), param, "unknown_parameter")
    }

    /// A parameter without which there is nothing to answer.
    pub(super) fn missing(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(HttpError::BadRequest(message.into()), param, "missing_required_parameter")
    }

    /// A model that is not served.
    pub(super) fn no_such_model(asked: &str, served: &str) -> Self {
        let asked: String = asked.chars().take(100).collect();
        let message = format!("The model `{asked}` does not exist here; this service has `{served}`.");
        Self::new(HttpError::Missing(message), "model", "model_not_found")
    }

    /// An image that cannot be fetched, found or read.
    pub(super) fn image(place: &str, error: HttpError) -> Self {
        match &error {
            HttpError::BadRequest(_) => Self::new(error, place, "invalid_image"),
            HttpError::Missing(_) => Self::new(error, place, "image_not_found"),
            _ => error.into(),
        }
    }

    /// A job that the engine cannot run.
    pub(super) fn job(error: &JobError) -> Self {
        let (param, code) = match error {
            JobError::Image(_) => ("messages", "invalid_image"),
            JobError::Text(_) | JobError::TooLong { .. } => ("messages", "context_length_exceeded"),
            JobError::TooManyRows { .. } => ("n", "invalid_value"),
            JobError::TooManyPositions { .. } => ("max_tokens", "context_length_exceeded"),
            JobError::Candidates(_) => ("messages", "invalid_value"),
        };
        Self::new(HttpError::BadRequest(error.to_string()), param, code)
    }

    fn new(error: HttpError, param: impl Into<String>, code: &'static str) -> Self {
        Self { error, param: Some(param.into()), code: Some(code) }
    }

    pub(super) fn body(&self) -> Value {
        json!(ErrorBody {
            error: ErrorDetail {
                message: self.error.message(),
                kind: kind(self.error.status()),
                param: self.param.clone(),
                code: self.code,
            }
        })
    }

    /// For an error that comes when the status has gone out already.
    pub(super) fn log(&self) {
        self.error.log();
    }
}

impl From<HttpError> for OpenAiError {
    fn from(error: HttpError) -> Self {
        let code = match error.code() {
            "bad_request" => None,
            "overloaded" => Some("rate_limit_exceeded"),
            "unauthorized" => Some("invalid_api_key"),
            code => Some(code),
        };
        Self { error, param: None, code }
    }
}

impl From<EngineError> for OpenAiError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Rejected(error) => Self::job(&error),
            error => HttpError::from(error).into(),
        }
    }
}

impl ResponseError for OpenAiError {
    fn status_code(&self) -> StatusCode {
        self.error.status()
    }

    fn error_response(&self) -> HttpResponse {
        self.error.response(&self.body())
    }
}

fn kind(status: StatusCode) -> &'static str {
    match status {
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        status if status.is_server_error() => "server_error",
        _ => "invalid_request_error",
    }
}

/// A value in a message: enough to recognise it, and never a whole body.
pub(super) struct Shown<'a>(pub(super) &'a Value);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 40;
        // A list or an object could be large, so it is not even written out.
        match self.0 {
            Value::Array(_) | Value::Object(_) => f.write_str(crate::json::json_type(self.0)),
            Value::String(text) if text.chars().nth(SHOWN).is_some() => {
                write!(f, "{:?}…", text.chars().take(SHOWN).collect::<String>())
            }
            other => write!(f, "{other}"),
        }
    }
}
