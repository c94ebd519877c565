//! `/score`: rows in, one answer a row, in order. All rows are answered, or none is.

use std::time::Instant;

use actix_web::http::header::HeaderName;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::api::{Prediction, ScoreBody};
use super::score_request::ScoreRequest;
use crate::engine::{Answer, AnswerSequence};
use crate::scoring::{Scorer, row};
use crate::server::body::{blocking, expect_json, read};
use crate::server::error::ErrorBody;
use crate::server::examples::EXAMPLE_IMAGE;
use crate::server::faults::Faults;
use crate::server::{HttpError, State};

/// How long scoring took, as Azure's server writes it.
const EXEC_MS: HeaderName = HeaderName::from_static("x-ms-run-fn-exec-ms");

/// One row of the answer. Everything but the text is sent only when `params` has `"logprobs": true`, and the sequences
/// when more than one was asked for.
#[derive(Serialize)]
#[serde(untagged)]
pub(in crate::server) enum ScoreResponse {
    Text {
        text: String,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        sequences: Vec<TextOnly>,
    },
    Detailed {
        #[serde(flatten)]
        best: AnswerSequence,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        sequences: Vec<AnswerSequence>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        warnings: Vec<String>,
    },
}

#[derive(Serialize)]
pub(in crate::server) struct TextOnly {
    text: String,
}

impl ScoreResponse {
    pub(in crate::server) fn new(answer: Answer, is_detailed: bool) -> Self {
        let Answer { best, sequences, warnings, timings: _ } = answer;
        if is_detailed {
            return Self::Detailed { best, sequences, warnings };
        }
        let sequences = sequences.into_iter().map(|sequence| TextOnly { text: sequence.text }).collect();
        Self::Text { text: best.text, sequences }
    }
}

/// Answers every row: an image and a text.
#[utoipa::path(
    post,
    path = "/score",
    operation_id = "score",
    tag = "Azure",
    request_body = ScoreBody,
    responses(
        (
            status = 200,
            description = "An answer for every row, in their order.",
            body = Vec<Prediction>,
            example = json!([{"text": "a stream in the desert"}]),
        ),
        Faults<ErrorBody>,
    )
)]
pub(super) async fn post(
    request: HttpRequest,
    state: web::Data<State>,
    payload: web::Payload,
) -> Result<HttpResponse, HttpError> {
    expect_json(&request)?;
    // Before the body: a client of a service that is still loading need not send it.
    let scorer = state.scorer()?;
    let parsing = scorer.engine().clone();
    let body = read(&request, &state, payload).await?;
    let parse = move || ScoreRequest::parse(&body, |params| parsing.parse_params(params));
    respond(scorer, blocking(parse).await?).await
}

/// Answers every row of a table in the query: the fields of the body, as JSON.
#[utoipa::path(
    get,
    path = "/score",
    operation_id = "score_query",
    tag = "Azure",
    params(
        (
            "input_data" = String,
            Query,
            description = "The table.",
            example = json!(json!({"columns": ["image"], "data": [[EXAMPLE_IMAGE]]}).to_string()),
        ),
        ("params" = Option<String>, Query, description = "Generation parameters.", example = "{\"max_new_tokens\": 20}"),
    ),
    responses(
        (
            status = 200,
            description = "An answer for every row, in their order.",
            body = Vec<Prediction>,
            example = json!([{"text": "a stream in the desert"}]),
        ),
        Faults<ErrorBody>,
    )
)]
pub(super) async fn get(request: HttpRequest, state: web::Data<State>) -> Result<HttpResponse, HttpError> {
    let query = request.query_string().to_owned();
    let scorer = state.scorer()?;
    let parsing = scorer.engine().clone();
    let parse = move || ScoreRequest::read(&fields_of_query(&query), |params| parsing.parse_params(params));
    respond(scorer, blocking(parse).await?).await
}

/// Answers the preflight of a page on another origin.
#[utoipa::path(
    options,
    path = "/score",
    operation_id = "score_preflight",
    tag = "Azure",
    responses(
        (status = 200, description = "With the headers that listed origins need."),
        (status = 401, description = "The API key is missing or wrong.", body = ErrorBody),
        (status = 431, description = "An id is longer than 100 characters.", body = ErrorBody),
    )
)]
pub(super) async fn options() -> HttpResponse {
    HttpResponse::Ok().finish()
}

async fn respond(scorer: &Scorer, request: ScoreRequest) -> Result<HttpResponse, HttpError> {
    let started = Instant::now();
    let ScoreRequest { rows, params } = request;
    let is_detailed = params.logprobs;
    let answers = scorer.answer(rows, params, row).await?;
    let answers: Vec<_> = answers.into_iter().map(|answer| ScoreResponse::new(answer, is_detailed)).collect();
    let ms = format!("{:.3}", started.elapsed().as_secs_f64() * 1e3);
    Ok(HttpResponse::Ok().insert_header((EXEC_MS, ms)).json(answers))
}

/// Values that are not JSON are strings, and a repeated parameter is a list, as in Azure's server.
fn fields_of_query(query: &str) -> Map<String, Value> {
    let mut fields = Map::new();
    for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
        let value = serde_json::from_str(&value).unwrap_or_else(|_| Value::String(value.into_owned()));
        match fields.get_mut(key.as_ref()) {
            None => drop(fields.insert(key.into_owned(), value)),
            Some(Value::Array(values)) => values.push(value),
            Some(first) => *first = Value::Array(vec![first.take(), value]),
        }
    }
    fields
}
