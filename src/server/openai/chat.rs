//! `POST /v1/chat/completions`: one conversation about one image.

use actix_web::{HttpRequest, HttpResponse, web};

use super::chat_request::ChatRequest;
use super::chat_response::{ChatCompletion, Chunk, Head, Visible};
use super::conversation::Conversation;
use super::error::{ErrorBody, OpenAiError};
use super::models::names;
use super::schema::ChatCompletionRequest;
use super::streaming;
use crate::engine::{PreparedJob, ScoreJob};
use crate::generation::GenerationParams;
use crate::scoring::{Admitted, Scorer};
use crate::server::body::{blocking, expect_json, read};
use crate::server::faults::Faults;
use crate::server::{HttpError, State};

/// A conversation that the engine can take, and its place.
pub(super) struct Prepared {
    pub(super) head: Head,
    pub(super) job: PreparedJob,
    pub(super) admitted: Admitted,
    pub(super) prompt_tokens: usize,
    pub(super) stops: Vec<Vec<u8>>,
    pub(super) with_logprobs: bool,
}

/// Answers a conversation about an image
///
/// Exactly one image, in an `image_url` part: an https URL, a data URI, base64, or the id of a stored image. A text
/// becomes `Question: … Answer:` unless it is written so already, no text asks for a caption, and earlier turns stand in
/// front. Without `temperature` the answer is greedy.
#[utoipa::path(
    post,
    path = "/v1/chat/completions",
    operation_id = "chat_completions",
    tag = "OpenAI",
    request_body = ChatCompletionRequest,
    responses(
        (status = 200, description = "The answer. With `stream`, chunks as server-sent events; the last is `[DONE]`.", content(
            (ChatCompletion = "application/json"),
            (Chunk = "text/event-stream"),
        )),
        Faults<ErrorBody>,
    ),
)]
pub(super) async fn post(
    request: HttpRequest,
    state: web::Data<State>,
    payload: web::Payload,
) -> Result<HttpResponse, OpenAiError> {
    expect_json(&request)?;
    let body = read(&request, &state, payload).await?;
    let (served, scorer) = (state.model()?, state.scorer()?);
    let (head, names, engine) = (Head::new(served), names(served), scorer.engine().clone());
    let parse = move || Ok(ChatRequest::parse(&body, &names, |params| engine.parse_params(params)));
    let ChatRequest { conversation, params, stops, stream } = blocking(parse).await??;
    let prepared = prepare(scorer, head, conversation, params, stops).await?;
    match stream {
        Some(options) => streaming::respond(state, prepared, options).await,
        None => whole(prepared).await,
    }
}

/// A place is reserved before the image is fetched or decoded.
async fn prepare(
    scorer: &Scorer,
    head: Head,
    conversation: Conversation,
    params: GenerationParams,
    stops: Vec<Vec<u8>>,
) -> Result<Prepared, OpenAiError> {
    let Conversation { image, image_place, text } = conversation;
    let admitted = scorer.admit(1).map_err(HttpError::from)?;
    let opened = admitted.open_image(image, "image_url").await;
    let image = opened.map_err(|error| OpenAiError::image(&image_place, error.into()))?;
    let with_logprobs = params.logprobs;
    let (engine, deadline) = (scorer.engine().clone(), admitted.deadline());
    let prepare = move || {
        let job = ScoreJob { image, text, params, deadline: Some(deadline) };
        Ok(engine.prepare(&job).map_err(|error| OpenAiError::job(&error)))
    };
    let job = blocking(prepare).await??;
    let prompt_tokens = scorer.engine().decoder_limits().prefix_len + job.text_tokens();
    Ok(Prepared { head, job, admitted, prompt_tokens, stops, with_logprobs })
}

async fn whole(prepared: Prepared) -> Result<HttpResponse, OpenAiError> {
    let Prepared { head, job, admitted, prompt_tokens, stops, with_logprobs } = prepared;
    let answer = admitted.answers(vec![job]).await.map_err(HttpError::from)?.remove(0);
    let visible = Visible { tokenizer: admitted.engine().tokenizer(), stops: &stops, with_logprobs };
    Ok(HttpResponse::Ok().json(ChatCompletion::new(head, answer, prompt_tokens, &visible)))
}
