//! The description of the service, generated from its code: `/openapi.json`, and `/docs`, a page over it that needs no
//! other server.

use std::sync::{Arc, LazyLock};

use actix_web::http::header;
use actix_web::{HttpResponse, ResponseError as _, web};
use utoipa::openapi::security::{ApiKeyValue, Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_swagger_ui::Config;

use super::protocol::Protocol;
use super::protocols::PROTOCOLS;
use super::{HttpError, resource};

/// The description and its page. A browser opens them without a key; what the page then asks for needs it.
pub(super) const PROTOCOL: Protocol = Protocol {
    name: "Documents",
    roots: &["/openapi.json", "/docs"],
    public: &["/openapi.json", "/docs"],
    routes,
    openapi: utoipa::openapi::OpenApi::default,
    refuse: |error| error.error_response(),
};

/// Every protocol describes itself beside its handlers; here they are put together.
#[derive(OpenApi)]
#[openapi(modifiers(&ApiKey), info(
    title = "BLIP-2 on ONNX Runtime",
    description = "Answers questions about images: Azure's scoring contract, the protocols of MLflow, OpenAI and the Open \
                   Inference Protocol, and endpoints of its own.",
    license(name = "MIT", identifier = "MIT"),
))]
struct Api;

/// Put together once: it is the same for every request.
static DOCUMENT: LazyLock<utoipa::openapi::OpenApi> = LazyLock::new(|| {
    PROTOCOLS.into_iter().fold(Api::openapi(), |mut document, protocol| {
        document.merge((protocol.openapi)());
        document
    })
});

/// The key that `--api-key` asks for, in both forms; without that flag none is needed.
struct ApiKey;

impl Modify for ApiKey {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        let header = SecurityScheme::ApiKey(utoipa::openapi::security::ApiKey::Header(ApiKeyValue::new("api-key")));
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("bearer", bearer);
        components.add_security_scheme("api-key", header);
        let none = SecurityRequirement::default();
        let keys = ["bearer", "api-key"].map(|name| SecurityRequirement::new(name, Vec::<String>::new()));
        document.security = Some([none].into_iter().chain(keys).collect());
    }
}

/// `GET /openapi.json`.
async fn openapi() -> HttpResponse {
    HttpResponse::Ok().json(&*DOCUMENT)
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

fn routes(config: &mut web::ServiceConfig) {
    // Relative, so that it works behind a path prefix.
    let page_config = Arc::new(Config::from("../openapi.json"));
    config
        .app_data(web::Data::from(page_config))
        .service(resource("/openapi.json").route(web::get().to(openapi)))
        .service(resource("/docs").route(web::get().to(redirect)))
        .service(resource("/docs/{path:.*}").route(web::get().to(page)));
}
