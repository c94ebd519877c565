//! The ids by which a request is found again: read from its headers, checked, and written into its answer and its log lines.

use std::borrow::Cow;

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

use super::HttpError;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const MS_REQUEST_ID: HeaderName = HeaderName::from_static("x-ms-request-id");
const MS_CLIENT_REQUEST_ID: HeaderName = HeaderName::from_static("x-ms-client-request-id");
const TRACE_ID: HeaderName = HeaderName::from_static("traceid");

const MAX_CHARACTERS: usize = 100;

/// The ids of one request, as its answer carries them.
#[derive(Debug, Clone)]
pub(super) struct RequestIds {
    request: HeaderValue,
    ms_request: HeaderValue,
    ms_client_request: Option<HeaderValue>,
    trace: Option<HeaderValue>,
}

impl RequestIds {
    /// The ids that a request brings, and fresh ones for those it lacks. When one of them is too long, all are fresh, so
    /// that it is not echoed, and the error says which.
    pub(super) fn read(headers: &HeaderMap) -> (Self, Result<(), HttpError>) {
        let given = |name: &HeaderName| headers.get(name).filter(|value| !value.is_empty()).cloned();
        let is_long = |name: &HeaderName| headers.get(name).is_some_and(|value| value.len() > MAX_CHARACTERS);
        let checked = if is_long(&REQUEST_ID) {
            Err(HttpError::IdTooLong { headers: "x-request-id" })
        } else if is_long(&MS_REQUEST_ID) || is_long(&MS_CLIENT_REQUEST_ID) {
            Err(HttpError::IdTooLong { headers: "x-ms-request-id and x-ms-client-request-id" })
        } else {
            Ok(())
        };
        let [request, ms_request, ms_client_request] = if checked.is_ok() {
            [&REQUEST_ID, &MS_REQUEST_ID, &MS_CLIENT_REQUEST_ID].map(given)
        } else {
            [None, None, None]
        };
        let request = request.unwrap_or_else(fresh);
        // The client's id stands in for the service's, and the other way round.
        let of_service = ms_client_request.clone().or_else(|| ms_request.clone()).unwrap_or_else(|| request.clone());
        let ids = Self {
            ms_request: ms_request.clone().unwrap_or(of_service),
            ms_client_request: ms_client_request.or(ms_request),
            request,
            trace: given(&TRACE_ID),
        };
        (ids, checked)
    }

    /// Writes them into an answer.
    pub(super) fn write(&self, headers: &mut HeaderMap) {
        headers.insert(REQUEST_ID, self.request.clone());
        headers.insert(MS_REQUEST_ID, self.ms_request.clone());
        if let Some(id) = &self.ms_client_request {
            headers.insert(MS_CLIENT_REQUEST_ID, id.clone());
        }
        if let Some(id) = &self.trace {
            headers.insert(TRACE_ID, id.clone());
        }
    }

    /// `x-request-id`, for the log.
    pub(super) fn request(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.request.as_bytes())
    }

    /// `x-ms-client-request-id`, for the log; empty when there is none.
    pub(super) fn client_request(&self) -> Cow<'_, str> {
        self.ms_client_request.as_ref().map(|id| String::from_utf8_lossy(id.as_bytes())).unwrap_or_default()
    }
}

fn fresh() -> HeaderValue {
    HeaderValue::from_str(&Uuid::new_v4().to_string()).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ids of an answer to a request with these; a fresh one is "*".
    fn answered(request: [Option<&'static str>; 3]) -> [String; 3] {
        let names = [&REQUEST_ID, &MS_REQUEST_ID, &MS_CLIENT_REQUEST_ID];
        let mut headers = HeaderMap::new();
        for (name, value) in names.into_iter().zip(request) {
            if let Some(value) = value {
                headers.insert(name.clone(), HeaderValue::from_static(value));
            }
        }
        let (ids, checked) = RequestIds::read(&headers);
        assert!(checked.is_ok());
        let mut answer = HeaderMap::new();
        ids.write(&mut answer);
        names.map(|name| {
            let value = answer.get(name).map_or("-", |value| value.to_str().unwrap());
            if Uuid::try_parse(value).is_ok() { "*".into() } else { value.to_owned() }
        })
    }

    #[test]
    fn ids_are_echoed_by_the_table_of_the_contract() {
        let (a, b, c) = (Some("A"), Some("B"), Some("C"));
        for (request, answer) in [
            ([None, None, None], ["*", "*", "-"]),
            ([a, None, None], ["A", "A", "-"]),
            ([None, b, None], ["*", "B", "B"]),
            ([None, None, c], ["*", "C", "C"]),
            ([a, b, None], ["A", "B", "B"]),
            ([a, None, c], ["A", "C", "C"]),
            ([None, b, c], ["*", "B", "C"]),
            ([a, b, c], ["A", "B", "C"]),
        ] {
            assert_eq!(answered(request), answer, "{request:?}");
        }
    }

    #[test]
    fn an_id_may_have_a_hundred_characters_and_a_longer_one_is_not_echoed() {
        for (name, len, is_ok) in [
            (&REQUEST_ID, 100, true),
            (&REQUEST_ID, 101, false),
            (&MS_REQUEST_ID, 101, false),
            (&MS_CLIENT_REQUEST_ID, 101, false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(name.clone(), HeaderValue::from_str(&"x".repeat(len)).unwrap());
            let (ids, checked) = RequestIds::read(&headers);
            assert_eq!(checked.is_ok(), is_ok);
            let mut answer = HeaderMap::new();
            ids.write(&mut answer);
            assert!(answer.iter().all(|(_, value)| value.len() <= MAX_CHARACTERS));
        }
    }
}
