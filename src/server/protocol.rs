//! The type of a protocol: its paths, routes, description, and the shape of its errors.

use actix_web::{HttpResponse, web};
use utoipa::openapi::OpenApi;

use super::HttpError;

/// A folder of this module, as `protocols` lists it.
pub(super) struct Protocol {
    /// For people.
    pub(super) name: &'static str,
    /// Where its paths begin: a path is the protocol's that equals one of these, or goes on behind it with a slash.
    pub(super) roots: &'static [&'static str],
    /// Paths that need no key, written as the roots are: probes, and pages that a browser opens.
    pub(super) public: &'static [&'static str],
    /// Adds its routes.
    pub(super) routes: fn(&mut web::ServiceConfig),
    /// Its part of `/openapi.json`.
    pub(super) openapi: fn() -> OpenApi,
    /// An error in its shape, for what is refused before a handler.
    pub(super) refuse: fn(HttpError) -> HttpResponse,
}

/// Whether a path is `root`, or goes on behind it with a slash.
pub(super) fn is_below(path: &str, root: &str) -> bool {
    path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
