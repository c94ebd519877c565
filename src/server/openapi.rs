//! The description of the service, generated from its code: `/openapi.json`.

use actix_web::{HttpResponse, web};
use utoipa::OpenApi;

use super::{State, resource};

/// Every protocol describes itself beside its handlers; here they are put together.
#[derive(OpenApi)]
#[openapi(info(title = "BLIP-2 on ONNX Runtime", description = "Answers questions about pictures."))]
struct Api;

pub(super) fn document() -> utoipa::openapi::OpenApi {
    let mut document = Api::openapi();
    document.merge(super::metrics::Api::openapi());
    document
}

/// `GET /openapi.json`.
async fn openapi(_: web::Data<State>) -> HttpResponse {
    HttpResponse::Ok().json(document())
}

pub(super) fn routes(config: &mut web::ServiceConfig) {
    config.service(resource("/openapi.json").route(web::get().to(openapi)));
}
