//! The model that a path names. There is one, in one version.

use actix_web::web;
use serde::Deserialize;

use crate::json::shorten;
use crate::server::{HttpError, ServedModel, State};

/// The only version there is.
pub(super) const VERSION: &str = "1";

/// The parameters of a path.
#[derive(Debug, Deserialize)]
pub(super) struct ModelPath {
    model: String,
    version: Option<String>,
}

/// The model that the path names.
///
/// # Errors
/// [`HttpError::NotReady`] while it loads, because its name is not known before, or [`HttpError::Missing`].
pub(super) fn find<'a>(state: &'a State, path: &web::Path<ModelPath>) -> Result<&'a ServedModel, HttpError> {
    let served = state.model()?;
    let ModelPath { model, version } = &**path;
    if *model != served.name {
        let message = format!("there is no model {:?}; this service has {:?}", shorten(model), served.name);
        return Err(HttpError::Missing(message));
    }
    match version {
        Some(version) if version != VERSION => {
            let message = format!("{model:?} has no version {:?}; it has {VERSION:?}", shorten(version));
            Err(HttpError::Missing(message))
        }
        _ => Ok(served),
    }
}
