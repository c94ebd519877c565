//! `GET /v1/model`: what is served, how it was checked, and what there is room for.

use actix_web::{HttpResponse, web};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::error::{Faults, NativeError};
use crate::engine::{CacheCounts, Engine};
use crate::server::{ServedModel, State};

/// A model that is served.
#[derive(Serialize, ToSchema)]
pub(super) struct ModelResponse<'a> {
    /// The bundle's name.
    name: &'a str,
    /// The bundle's manifest.
    #[schema(value_type = Object)]
    manifest: &'a Value,
    /// Its measured agreement with the reference; null if it has none.
    #[schema(value_type = Option<Object>)]
    certificate: Option<&'a Value>,
    limits: Limits,
    caches: Caches,
    /// Rows that are waiting or running.
    rows_in_work: usize,
}

/// Capacity.
#[derive(Serialize, ToSchema)]
pub(super) struct Limits {
    /// Rows decoded together, and so beams of a row.
    slots: usize,
    /// Positions of a row: image, prompt and new tokens.
    max_len: usize,
    /// Positions of all rows together.
    kv_tokens: usize,
    /// Positions that an image takes.
    prefix_len: usize,
    /// Rows that are taken at once, waiting or running.
    queue_rows: usize,
    /// How long an answer may take.
    timeout_ms: u64,
    /// The largest request.
    max_body_bytes: usize,
}

/// Sizes of the caches.
#[derive(Serialize, ToSchema)]
pub(super) struct Caches {
    /// Encoded images.
    image: CacheCounts,
    /// Keys and values of images.
    kv_prefix: CacheCounts,
    stored_images: StoredImages,
}

/// Images that were stored under an id.
#[derive(Serialize, ToSchema)]
pub(super) struct StoredImages {
    count: usize,
    bytes: usize,
    capacity_bytes: usize,
}

/// Describes the served model, its certificate and its capacity.
#[utoipa::path(
    get,
    path = "/v1/model",
    tag = "native",
    operation_id = "model",
    responses((status = 200, description = "The model.", body = ModelResponse), Faults),
)]
pub(super) async fn get(state: web::Data<State>) -> Result<HttpResponse, NativeError> {
    let ServedModel { engine, name, manifest, certificate } = state.model()?;
    Ok(HttpResponse::Ok().json(ModelResponse {
        name,
        manifest,
        certificate: certificate.as_ref(),
        limits: limits(&state, engine),
        caches: caches(engine),
        rows_in_work: engine.rows_in_work(),
    }))
}

fn limits(state: &State, engine: &Engine) -> Limits {
    let (decoder, limits) = (engine.decoder_limits(), engine.limits());
    Limits {
        slots: decoder.slots,
        max_len: decoder.max_len,
        kv_tokens: decoder.kv_tokens,
        prefix_len: decoder.prefix_len,
        queue_rows: limits.queue_rows,
        timeout_ms: limits.timeout.as_millis() as u64,
        max_body_bytes: state.settings().max_body_bytes,
    }
}

fn caches(engine: &Engine) -> Caches {
    let (count, bytes) = engine.stored_images();
    let stored_images = StoredImages { count, bytes, capacity_bytes: engine.limits().stored_image_bytes };
    Caches { image: engine.image_cache(), kv_prefix: engine.kv_prefix_cache(), stored_images }
}
