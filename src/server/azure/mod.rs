//! Azure's scoring contract: `/score` and `/swagger.json`, as the catalogue model's server answers them.

mod api;
mod score;
mod score_request;
mod swagger;

use actix_web::web;
use utoipa::OpenApi;

pub(super) use self::api::{ErrorBody, Prediction, Table};
pub(super) use self::score::ScoreResponse;

use super::resource;

/// What [`super::openapi`] tells of these routes.
#[derive(OpenApi)]
#[openapi(
    paths(score::post, score::get, score::options, swagger::swagger),
    tags((name = "Azure", description = "The contract of Azure's catalogue model."))
)]
pub(super) struct Api;

pub(super) fn routes(config: &mut web::ServiceConfig) {
    config
        .service(
            resource("/score")
                .route(web::post().to(score::post))
                .route(web::get().to(score::get))
                .route(web::method(actix_web::http::Method::OPTIONS).to(score::options)),
        )
        .service(resource("/swagger.json").route(web::get().to(swagger::swagger)));
}
