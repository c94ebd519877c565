//! The Open Inference Protocol, version 2, over HTTP, as KServe and Triton speak it: `/v2/…`. `docs/open-inference.md` says
//! what its tensors hold.
//!
//! A request goes through `binary_data` (where the tensors' bytes are), `input` (tensors to elements) and `parameters` into
//! `infer_request`, an answer through `output` into `infer_response`.

mod binary_data;
mod error;
mod health;
mod infer;
mod infer_request;
mod infer_response;
mod input;
mod metadata;
mod model;
mod output;
mod parameters;
mod repository;
mod schema;

#[cfg(test)]
mod infer_request_tests;

use actix_web::http::Method;
use actix_web::{HttpResponse, ResponseError as _, web};

use crate::server::protocol::Protocol;
use utoipa::OpenApi as _;

use self::error::{method_not_allowed, not_found, path_error};

/// Version 2 of the protocol.
pub(super) const PROTOCOL: Protocol = Protocol {
    name: "Open Inference Protocol",
    roots: &["/v2"],
    public: &["/v2/health/live", "/v2/health/ready"],
    routes,
    openapi: schema::Api::openapi,
    refuse: |error| error::ProtocolError::from(error).error_response(),
};

fn routes(config: &mut web::ServiceConfig) {
    let mut scope = web::scope("/v2")
        .app_data(web::PathConfig::default().error_handler(path_error))
        .service(resource("").route(web::get().to(metadata::server)))
        .service(resource("/health/live").route(web::get().to(health::live)))
        .service(resource("/health/ready").route(web::get().to(health::ready)))
        .service(resource("/repository/index").route(web::post().to(repository::index)));
    for model in ["/models/{model}", "/models/{model}/versions/{version}"] {
        scope = scope
            .service(resource(model).route(web::get().to(metadata::model)))
            .service(resource(&format!("{model}/ready")).route(web::get().to(health::model_ready)))
            .service(resource(&format!("{model}/config")).route(web::get().to(metadata::config)))
            .service(resource(&format!("{model}/infer")).route(web::post().to(infer::post)));
    }
    config.service(scope.default_service(web::to(not_found)));
}

/// A path that answers preflights, and other methods than its own in the protocol's way.
fn resource(path: &str) -> actix_web::Resource {
    web::resource(path.to_owned())
        .route(web::method(Method::OPTIONS).to(HttpResponse::Ok))
        .default_service(web::to(method_not_allowed))
}
