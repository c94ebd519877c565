//! The routes of `mlflow models serve`: `/invocations`, `/ping`, `/health` and `/version`, so that whoever calls such a
//! server can call this one. Rows, images and answers are those of `/score`; the bodies around them are MLflow's.

mod error;
mod invocation;

use actix_web::http::Method;
use actix_web::{HttpRequest, HttpResponse, ResponseError as _, web};
use serde_json::json;
use utoipa::{OpenApi, ToSchema};

use self::error::{MlflowError, MlflowErrorBody};
use self::invocation::{BodyType, Invocation};
use super::azure::{Prediction, ScoreResponse, Table};
use super::body::{blocking, read};
use super::examples::EXAMPLE_IMAGE;
use super::faults::Faults;
use super::protocol::Protocol;
use super::{HttpError, State, Unready, resource};
use crate::scoring::row;

/// The routes of MLflow's own server.
pub(super) const PROTOCOL: Protocol = Protocol {
    name: "MLflow",
    roots: &["/invocations", "/ping", "/health", "/version"],
    public: &["/ping", "/health", "/version"],
    routes,
    openapi: Api::openapi,
    refuse: |error| MlflowError::from(error).error_response(),
};

/// The part of these routes in `/openapi.json`.
#[derive(OpenApi)]
#[openapi(
    paths(invocations, ping, health, version),
    components(schemas(MlflowErrorBody)),
    tags((name = "MLflow", description = "The routes of `mlflow models serve`."))
)]
struct Api;

fn routes(config: &mut web::ServiceConfig) {
    let is_up = |path, get: actix_web::Route| resource(path).route(get);
    config
        .service(
            resource("/invocations").route(web::post().to(invocations)).route(web::method(Method::OPTIONS).to(options)),
        )
        .service(is_up("/ping", web::get().to(ping)).route(web::head().to(ping)))
        .service(is_up("/health", web::get().to(health)).route(web::head().to(health)))
        .service(is_up("/version", web::get().to(version)).route(web::head().to(version)));
}

/// A body of `/invocations`, for its description: one of the two tables.
#[derive(ToSchema)]
#[schema(example = json!({
    "dataframe_split": {
        "columns": ["image", "text"],
        "data": [[EXAMPLE_IMAGE, "Question: what is in the picture? Answer:"]],
    },
    "params": {"max_new_tokens": 20},
}))]
#[expect(dead_code, reason = "bodies are read by hand, so that a fault can be named")]
struct InvocationBody {
    /// Columns by name, and rows of values.
    dataframe_split: Option<Table>,
    /// Rows by column.
    dataframe_records: Option<Vec<Record>>,
    /// Generation parameters, under transformers' names.
    #[schema(value_type = Option<Object>)]
    params: Option<serde_json::Value>,
}

/// A row of `dataframe_records`.
#[derive(ToSchema)]
#[expect(dead_code, reason = "bodies are read by hand, so that a fault can be named")]
struct Record {
    /// Base64, a data URI, a URL, or the id of a stored image.
    image: String,
    /// The prompt; without it in any row the answers are captions.
    text: Option<String>,
}

/// An answer of `/invocations`.
#[derive(ToSchema)]
#[schema(example = json!({"predictions": [{"text": "a stream in the desert"}]}))]
#[expect(dead_code, reason = "answers are written as they stand")]
struct Predictions {
    /// One for every row, in their order.
    predictions: Vec<Prediction>,
}

/// Answers every row of a table: an image and a text.
///
/// The table comes as `dataframe_split`, as `dataframe_records`, or as CSV with a header line. Without a `text` column,
/// and with no other but `image`, the answers are captions.
#[utoipa::path(
    post,
    path = "/invocations",
    tag = "MLflow",
    request_body(content(
        (InvocationBody = "application/json"),
        (String = "text/csv", example = json!(format!("image,text\n{EXAMPLE_IMAGE},Question: what is it? Answer:\n"))),
    )),
    responses((status = 200, description = "An answer for every row, in their order.", body = Predictions), Faults<MlflowErrorBody>)
)]
async fn invocations(
    request: HttpRequest,
    state: web::Data<State>,
    payload: web::Payload,
) -> Result<HttpResponse, MlflowError> {
    let body_type = BodyType::of(&request)?;
    // Before the body: a client of a service that is still loading need not send it.
    let scorer = state.scorer()?;
    let parsing = scorer.engine().clone();
    let body = read(&request, &state, payload).await?;
    let parse = move || Invocation::parse(body_type, &body, |params| parsing.parse_params(params));
    let Invocation { rows, params } = blocking(parse).await?;
    let is_detailed = params.logprobs;
    let answers = scorer.answer(rows, params, row).await.map_err(HttpError::from)?;
    let predictions: Vec<_> = answers.into_iter().map(|answer| ScoreResponse::new(answer, is_detailed)).collect();
    Ok(HttpResponse::Ok().json(json!({"predictions": predictions})))
}

/// `OPTIONS /invocations`.
async fn options() -> HttpResponse {
    HttpResponse::Ok().insert_header(("Allow", "POST, OPTIONS")).finish()
}

/// Tells whether the model is there, as `/readyz` does.
#[utoipa::path(
    get,
    path = "/ping",
    operation_id = "mlflow_ping",
    tag = "MLflow",
    responses(
        (status = 200, description = "The model is there; the body is an empty line.", content_type = "application/json"),
        (status = 431, description = "An id is longer than 100 characters.", body = MlflowErrorBody),
        (status = 503, description = "The model is not there yet, or the service stops.", body = MlflowErrorBody),
    )
)]
async fn ping(state: web::Data<State>) -> Result<HttpResponse, MlflowError> {
    // MLflow's server listens when its model is there, and clients wait for this answer before they send anything.
    match state.unready() {
        None => Ok(HttpResponse::Ok().content_type("application/json").body("\n")),
        Some(Unready::Draining) => Err(HttpError::Draining.into()),
        Some(Unready::Loading | Unready::Wrong) => Err(HttpError::NotReady.into()),
    }
}

/// Tells whether the model is there, as `/ping` does.
#[utoipa::path(
    get,
    path = "/health",
    operation_id = "mlflow_health",
    tag = "MLflow",
    responses(
        (status = 200, description = "The model is there; the body is an empty line.", content_type = "application/json"),
        (status = 431, description = "An id is longer than 100 characters.", body = MlflowErrorBody),
        (status = 503, description = "The model is not there yet, or the service stops.", body = MlflowErrorBody),
    )
)]
async fn health(state: web::Data<State>) -> Result<HttpResponse, MlflowError> {
    ping(state).await
}

/// The version of this service; MLflow's server tells its own.
#[utoipa::path(
    get,
    path = "/version",
    operation_id = "mlflow_version",
    tag = "MLflow",
    responses(
        (status = 200, description = "A version.", body = String, content_type = "text/plain", example = "0.1.0"),
        (status = 431, description = "An id is longer than 100 characters.", body = MlflowErrorBody),
    )
)]
async fn version() -> HttpResponse {
    HttpResponse::Ok().content_type("text/plain; charset=utf-8").body(env!("CARGO_PKG_VERSION"))
}
