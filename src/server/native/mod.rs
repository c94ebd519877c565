//! The service's own endpoints: likelihoods of given answers, stored images, many questions about one image, features,
//! and what is served.

mod ask;
mod embeddings;
mod error;
mod form;
mod images;
mod input;
mod model;
mod rank;

use crate::server::protocol::Protocol;
use actix_web::http::{Method, header};
use actix_web::{HttpResponse, Resource, ResponseError as _, web};
use utoipa::OpenApi;

/// The service's own endpoints.
pub(super) const PROTOCOL: Protocol = Protocol {
    name: "Native",
    roots: &["/v1"],
    public: &[],
    routes,
    openapi: Api::openapi,
    refuse: |error| error::NativeError::from(error).error_response(),
};

/// The part of these endpoints in `/openapi.json`.
#[derive(OpenApi)]
#[openapi(
    paths(
        ask::post,
        rank::post,
        embeddings::post,
        images::post,
        images::get,
        images::patch,
        images::put,
        images::delete,
        model::get,
    ),
    components(schemas(error::ErrorBody)),
    tags((name = "native", description = "The service's own endpoints."))
)]
struct Api;

fn routes(config: &mut web::ServiceConfig) {
    config
        .service(resource("/v1/ask", "POST").route(web::post().to(ask::post)))
        .service(resource("/v1/rank", "POST").route(web::post().to(rank::post)))
        .service(resource("/v1/embeddings", "POST").route(web::post().to(embeddings::post)))
        .service(resource("/v1/model", "GET").route(web::get().to(model::get)))
        .service(resource("/v1/images", "POST").route(web::post().to(images::post)))
        .service(
            resource("/v1/images/{id}", "GET, PATCH, PUT, DELETE")
                .route(web::get().to(images::get))
                .route(web::patch().to(images::patch))
                .route(web::put().to(images::put))
                .route(web::delete().to(images::delete)),
        );
}

/// A path that says to OPTIONS which methods it has, and answers 405 to others.
fn resource(path: &str, methods: &'static str) -> Resource {
    let options = move || async move {
        HttpResponse::NoContent()
            .insert_header((header::ALLOW, methods))
            .insert_header((header::ACCESS_CONTROL_ALLOW_METHODS, methods))
            .finish()
    };
    web::resource(path.to_owned())
        .default_service(web::to(error::method_not_allowed))
        .route(web::method(Method::OPTIONS).to(options))
}
