//! `POST /score`: rows in, one answer a row, in order. All rows are answered, or none is.

use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;

use super::score_request::{ScoreRequest, ScoreRow};
use super::{BodyLimit, HttpError, State};
use crate::engine::{Answer, AnswerSequence, Engine, EngineError, JobError, Picture, PreparedJob, ScoreJob};
use crate::generation::GenerationParams;

/// One row of the answer. Everything but the text is sent only when `params` has `"logprobs": true`, and the sequences
/// when more than one was asked for.
#[derive(Serialize)]
#[serde(untagged)]
enum ScoreResponse {
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
struct TextOnly {
    text: String,
}

impl ScoreResponse {
    fn new(answer: Answer, is_detailed: bool) -> Self {
        let Answer { best, sequences, warnings, timings: _ } = answer;
        if is_detailed {
            return Self::Detailed { best, sequences, warnings };
        }
        let sequences = sequences.into_iter().map(|sequence| TextOnly { text: sequence.text }).collect();
        Self::Text { text: best.text, sequences }
    }
}

pub(super) async fn score(
    request: HttpRequest,
    state: web::Data<State>,
    body: Result<web::Bytes, actix_web::Error>,
) -> Result<HttpResponse, HttpError> {
    let engine = state.engine()?.clone();
    let body = checked_body(&request, body)?;
    let parsing = engine.clone();
    let parse = move || ScoreRequest::parse(&body, |params| parsing.parse_params(params));
    let ScoreRequest { rows, params } = blocking(parse).await?;
    let is_detailed = params.logprobs;
    // Before any picture is decoded, and held until the answers are there.
    let permit = engine.reserve(rows.len())?;
    let preparing = engine.clone();
    let prepared = blocking(move || prepare(&preparing, rows, &params)).await?;
    // All rows are handed over before the first answer is awaited, so that they are decoded together.
    let pending = prepared.into_iter().map(|job| engine.submit(job, &permit)).collect::<Result<Vec<_>, _>>()?;
    let mut answers = Vec::with_capacity(pending.len());
    for row in pending {
        answers.push(ScoreResponse::new(row.answer().await?, is_detailed));
    }
    Ok(HttpResponse::Ok().json(answers))
}

/// CPU work, off the threads that serve connections.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, HttpError> + Send + 'static,
) -> Result<T, HttpError> {
    web::block(work).await.map_err(|_| HttpError::Engine(EngineError::Stopped))?
}

/// Pictures and texts of all rows; the first bad row is named.
fn prepare(engine: &Engine, rows: Vec<ScoreRow>, params: &GenerationParams) -> Result<Vec<PreparedJob>, HttpError> {
    let (files, texts): (Vec<_>, Vec<_>) = rows.into_iter().map(|row| (row.image, row.text)).unzip();
    let prepare_row = |picture: Result<Picture, JobError>, text| {
        engine.prepare(&ScoreJob { picture: picture?, text, params: params.clone(), deadline: None })
    };
    let pictures = engine.open_pictures(&files);
    let prepared = pictures.into_iter().zip(texts).enumerate().map(|(row, (picture, text))| {
        prepare_row(picture, text).map_err(|error| HttpError::BadRequest(format!("row {row}: {error}")))
    });
    prepared.collect()
}

fn checked_body(request: &HttpRequest, body: Result<web::Bytes, actix_web::Error>) -> Result<web::Bytes, HttpError> {
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if !content_type.is_some_and(is_json) {
        return Err(HttpError::NotJson);
    }
    body.map_err(|error| match error.as_response_error().status_code() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            HttpError::BodyTooLarge { limit_bytes: request.app_data::<BodyLimit>().map_or(0, |limit| limit.0) }
        }
        _ => HttpError::BadRequest("the request body ended early".into()),
    })
}

/// `application/json` and `application/*+json`, any case, any parameter.
fn is_json(content_type: &str) -> bool {
    let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    media_type
        .strip_prefix("application/")
        .is_some_and(|subtype| subtype == "json" || (subtype.len() > 5 && subtype.ends_with("+json")))
}
