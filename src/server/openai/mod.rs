//! OpenAI's protocol: `/v1/chat/completions`, streamed or whole, and `/v1/models`. `docs/openai.md` says what is mapped to
//! what.
//!
//! A request goes through `chat_request` (parameters) and `conversation` (messages to an image and a prompt), an answer
//! by its visible part (`text::VisibleText`) into `chat_response`, or piece by piece into `streaming`.

mod chat;
mod chat_request;
mod chat_response;
mod conversation;
mod error;
mod models;
mod schema;
mod streaming;

use actix_web::http::Method;
use actix_web::{HttpResponse, ResponseError as _, web};
use utoipa::OpenApi;

use self::error::OpenAiError;
use super::HttpError;
use super::protocol::Protocol;

/// OpenAI's protocol.
pub(super) const PROTOCOL: Protocol = Protocol {
    name: "OpenAI",
    roots: &["/v1/chat/completions", "/v1/models"],
    public: &[],
    routes,
    openapi: Api::openapi,
    refuse: |error| OpenAiError::from(error).error_response(),
};

/// The protocol's part of `/openapi.json`.
#[derive(OpenApi)]
#[openapi(paths(chat::post, models::list, models::get), components(schemas(error::ErrorBody)), tags((name = "OpenAI", description = "OpenAI's protocol")))]
struct Api;

fn routes(config: &mut web::ServiceConfig) {
    config
        .service(resource("/v1/chat/completions").route(web::post().to(chat::post)))
        .service(resource("/v1/models").route(web::get().to(models::list)))
        // A checkpoint's id has a slash in it.
        .service(resource("/v1/models/{model:.+}").route(web::get().to(models::get)));
}

/// A path that answers preflights, and other methods than its own in the protocol's way.
fn resource(path: &str) -> actix_web::Resource {
    web::resource(path.to_owned())
        .route(web::method(Method::OPTIONS).to(HttpResponse::Ok))
        .default_service(web::to(method_not_allowed))
}

async fn method_not_allowed() -> Result<HttpResponse, OpenAiError> {
    Err(HttpError::MethodNotAllowed.into())
}
