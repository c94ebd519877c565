//! Azure's scoring contract: `/score` and `/swagger.json`, as the catalogue model's server answers them.

mod score;
mod score_request;
mod swagger;

use actix_web::web;

pub(super) use self::score_request::{row_of_values, rows_of_table};

use super::resource;

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
