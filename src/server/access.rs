//! The layer around every request: reads and writes ids, checks the key, sets cross-origin headers, and observes the end of
//! the answer (`exchange`) with one log line, which never holds a query, a header or a body.

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{HttpMessage as _, web};

use super::error::{ErrorCode, ScoringFailed};
use super::exchange::{Exchange, Observed};
use super::protocols::{is_public, refuse};
use super::request_ids::RequestIds;
use super::trace::Trace;
use super::{HttpError, State};

const SERVER_VERSION: HeaderName = HeaderName::from_static("x-ms-server-version");
const RUN_FUNCTION_FAILED: HeaderName = HeaderName::from_static("x-ms-run-function-failed");
const API_KEY: HeaderName = HeaderName::from_static("api-key");

/// The outermost layer of every request.
pub(super) async fn around<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<Observed>, actix_web::Error> {
    let state = request.app_data::<web::Data<State>>().cloned();
    let method = request.method().clone();
    let origin = request.headers().get(header::ORIGIN).cloned();
    let asked_headers = request.headers().get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
    let (ids, checked) = RequestIds::read(request.headers());
    request.extensions_mut().insert(ids.clone());

    let state_ref = state.as_deref().map(AsRef::as_ref);
    let trace =
        state_ref.filter(|state| state.settings().is_traced).and_then(|_| Trace::begin(&request, &ids.request()));
    let mut exchange = Exchange::begin(&request, state.clone(), ids.clone(), trace);
    let admitted = checked.and_then(|()| state_ref.map_or(Ok(()), |state| check_key(&request, state)));
    let mut response = match admitted {
        Ok(()) => exchange.run(next.call(request)).await?.map_into_boxed_body(),
        Err(error) => {
            let refusal = refuse(request.path(), error);
            request.into_response(refusal)
        }
    };

    let code = response.response().extensions().get::<ErrorCode>().copied();
    let has_failed = response.response().extensions().get::<ScoringFailed>().is_some();
    let status = response.status();
    let is_options_of_score = method == Method::OPTIONS && response.request().path() == "/score";
    let headers = response.headers_mut();
    ids.write(headers);
    if let Some((name, value)) = exchange.server_timing().filter(|_| status.is_success()) {
        headers.insert(name, value);
    }
    if headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json") || is_options_of_score {
        let failed = if has_failed { "True" } else { "False" };
        headers.insert(RUN_FUNCTION_FAILED, HeaderValue::from_static(failed));
    }
    if let Some(state) = state_ref {
        if state.settings().show_server_version {
            let version = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));
            headers.insert(SERVER_VERSION, HeaderValue::from_static(version));
        }
        allow_origin(
            headers,
            &state.settings().cors_origins,
            origin,
            (method == Method::OPTIONS).then_some(asked_headers),
        );
    }
    exchange.answered(status, code);
    Ok(response.map_body(|_, body| Observed::new(body, exchange)))
}

/// Every path but public ones asks for the key, if there is one.
fn check_key(request: &ServiceRequest, state: &State) -> Result<(), HttpError> {
    let Some(key) = &state.settings().api_key else { return Ok(()) };
    if is_public(request.path()) {
        return Ok(());
    }
    // A preflight cannot carry it.
    if request.method() == Method::OPTIONS && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD) {
        return Ok(());
    }
    let text = |name: &HeaderName| request.headers().get(name).and_then(|value| value.to_str().ok());
    let bearer = text(&header::AUTHORIZATION).and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
    });
    let is_right = bearer.or_else(|| text(&API_KEY)).is_some_and(|given| key.is(given));
    if is_right { Ok(()) } else { Err(HttpError::Unauthorized) }
}

/// Lets the pages of a listed origin read the answer; `preflight` holds the headers that one asks for.
fn allow_origin(
    headers: &mut HeaderMap,
    origins: &[String],
    origin: Option<HeaderValue>,
    preflight: Option<Option<HeaderValue>>,
) {
    let Some(origin) = origin else { return };
    if !origins.iter().any(|listed| listed == "*" || listed.as_bytes() == origin.as_bytes()) {
        return;
    }
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
    if let Some(asked_headers) = preflight {
        // A route with others says so itself.
        if !headers.contains_key(header::ACCESS_CONTROL_ALLOW_METHODS) {
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
        }
        if let Some(asked_headers) = asked_headers {
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked_headers);
        }
    }
}
