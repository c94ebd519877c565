//! The description of the service, generated from its code: `/openapi.json`, and `/docs`, a page over it that needs no
//! other server.

use std::sync::Arc;

use actix_web::http::header;
use actix_web::{HttpResponse, web};
use utoipa::OpenApi;
use utoipa_swagger_ui::Config;

use super::{HttpError, azure, health, mlflow, resource};

/// A picture of 8 × 6 pixels, so that the example works when it is posted back.
pub(super) const EXAMPLE_IMAGE: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAGCAIAAABxZ0isAAAAFElEQVR4nGPU0NBgwAaYsIrSSQIASXoAhK9MVXgAAAAASUVORK5CYII=";

/// Every protocol describes itself beside its handlers; here they are put together.
#[derive(OpenApi)]
#[openapi(info(
    title = "BLIP-2 on ONNX Runtime",
    description = "Answers questions about pictures: Azure's scoring contract, the protocols of MLflow, OpenAI and the Open \
                   Inference Protocol, and endpoints of its own.",
    license(name = "MIT", identifier = "MIT"),
))]
struct Api;

pub(super) fn document() -> utoipa::openapi::OpenApi {
    let mut document = Api::openapi();
    document.merge(health::Api::openapi());
    document.merge(azure::Api::openapi());
    document.merge(mlflow::Api::openapi());
    document.merge(super::native::Api::openapi());
    document.merge(super::open_inference::Api::openapi());
    document.merge(super::openai::Api::openapi());
    document.merge(super::metrics::Api::openapi());
    document
}

/// `GET /openapi.json`.
async fn openapi() -> HttpResponse {
    HttpResponse::Ok().json(document())
}

/// `GET /docs`: Swagger UI, whose files are in the binary.
async fn page(path: web::Path<String>, config: web::Data<Config<'static>>) -> Result<HttpResponse, HttpError> {
    match utoipa_swagger_ui::serve(&path, config.into_inner()) {
        Ok(Some(file)) => Ok(HttpResponse::Ok().content_type(file.content_type).body(file.bytes.into_owned())),
        Ok(None) | Err(_) => Err(HttpError::NotFound),
    }
}

/// The page's files are relative to a folder.
async fn redirect() -> HttpResponse {
    HttpResponse::TemporaryRedirect().insert_header((header::LOCATION, "docs/")).finish()
}

pub(super) fn routes(config: &mut web::ServiceConfig) {
    // Relative, so that it works behind a path prefix.
    let page_config = Arc::new(Config::from("../openapi.json"));
    config
        .app_data(web::Data::from(page_config))
        .service(resource("/openapi.json").route(web::get().to(openapi)))
        .service(resource("/docs").route(web::get().to(redirect)))
        .service(resource("/docs/{path:.*}").route(web::get().to(page)));
}
