//! Azure's scoring contract: `/score` and `/swagger.json`, as the catalogue model's server answers them.

mod api;
mod score;
mod score_request;
mod swagger;

use actix_web::{ResponseError as _, web};
use utoipa::OpenApi;

pub(super) use self::api::{Prediction, Table};
pub(super) use self::score::ScoreResponse;

use super::error::ErrorBody;
use super::protocol::Protocol;
use super::resource;

/// The contract of the catalogue's server.
pub(super) const PROTOCOL: Protocol = Protocol {
    name: "Azure",
    roots: &["/score", "/swagger.json"],
    public: &[],
    routes,
    openapi: Api::openapi,
    refuse: |error| error.error_response(),
};

/// The part of these routes in `/openapi.json`.
#[derive(OpenApi)]
#[openapi(
    paths(score::post, score::get, score::options, swagger::swagger),
    components(schemas(ErrorBody)),
    tags((name = "Azure", description = "The contract of Azure's catalogue model."))
)]
struct Api;

fn routes(config: &mut web::ServiceConfig) {
    config
        .service(
            resource("/score")
                .route(web::post().to(score::post))
                .route(web::get().to(score::get))
                .route(web::method(actix_web::http::Method::OPTIONS).to(score::options)),
        )
        .service(resource("/swagger.json").route(web::get().to(swagger::swagger)));
}
