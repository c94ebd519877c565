//! One request and its response: an image, a redirect, or an error. The fetcher uses it once for
//! each hop, after it has admitted the target. It follows no redirects itself.

use std::error::Error;
use std::io;

use reqwest::header::{CONTENT_ENCODING, HeaderMap, LOCATION};
use reqwest::{Response, StatusCode};
use tokio::time::timeout;

use super::body::Body;
use super::client::Client;
use super::error::{FetchError, Wait};
use super::resolver::Unresolved;
use super::settings::FetchSettings;
use super::target::Target;

/// The response of a host.
pub(super) enum Answer {
    /// The bytes of an image.
    Image(Vec<u8>),
    /// The target of a redirect, not admitted yet.
    Redirect(Target),
}

/// A response whose head was read.
enum Begun<'a> {
    Redirect(Target),
    Body(Response, Body<'a>),
}

impl Client {
    /// Sends the request, and reads no more of the response than necessary.
    pub(super) async fn ask(&self, target: &Target, settings: &FetchSettings) -> Result<Answer, FetchError> {
        let host = target.host();
        if target.is_https() && !self.has_authorities {
            return Err(FetchError::NoAuthorities);
        }
        let limit = settings.first_byte_timeout;
        let late = || FetchError::Timeout { host: host.to_owned(), wait: Wait::FirstByte, limit };
        let begun = timeout(limit, self.begin(target, settings)).await.map_err(|_| late())??;
        match begun {
            Begun::Redirect(next) => Ok(Answer::Redirect(next)),
            Begun::Body(mut response, mut body) => {
                while read(&mut response, &mut body, host).await? {}
                body.finish().map(Answer::Image)
            }
        }
    }

    /// Sends the request, then reads the head and the first bytes of an image.
    async fn begin<'a>(&self, target: &'a Target, settings: &FetchSettings) -> Result<Begun<'a>, FetchError> {
        let host = target.host();
        let request = self.http.get(target.url().clone());
        let mut response = request.send().await.map_err(|error| unsent(host, settings, error))?;
        if is_redirect(response.status()) {
            let location = response.headers().get(LOCATION);
            let location = location.ok_or_else(|| FetchError::Redirect { host: host.to_owned() })?;
            return target.redirected(location.as_bytes()).map(Begun::Redirect);
        }
        if !response.status().is_success() {
            return Err(FetchError::Status { host: host.to_owned(), status: response.status().as_u16() });
        }
        if !is_plain(response.headers()) {
            return Err(FetchError::Encoding { host: host.to_owned() });
        }
        let mut body = Body::new(host, settings.max_bytes, response.content_length())?;
        read(&mut response, &mut body, host).await?;
        Ok(Begun::Body(response, body))
    }
}

/// Moves the next bytes into the body. Returns false at the end.
async fn read(response: &mut Response, body: &mut Body<'_>, host: &str) -> Result<bool, FetchError> {
    match response.chunk().await.map_err(|error| protocol(host, error))? {
        Some(chunk) => body.push(&chunk).map(|()| true),
        None => Ok(false),
    }
}

/// Returns whether a status redirects a GET.
fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Returns whether the body is not compressed.
fn is_plain(headers: &HeaderMap) -> bool {
    headers
        .get_all(CONTENT_ENCODING)
        .iter()
        .all(|coding| coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity"))
}

/// Returns the error of a request without a response. The client passes on the causes of its parts,
/// from the resolver up.
fn unsent(host: &str, settings: &FetchSettings, error: reqwest::Error) -> FetchError {
    let host = host.to_owned();
    let error = error.without_url();
    if error.is_builder() {
        // A host that is valid in URLs but not in requests, such as `a"b`.
        return FetchError::Url;
    }
    match cause::<Unresolved>(&error) {
        Some(Unresolved::Refused) => return FetchError::Address { host },
        Some(Unresolved::Unknown(source)) => {
            let source = io::Error::new(source.kind(), source.to_string());
            return FetchError::Dns { host, source };
        }
        None => {}
    }
    if !error.is_connect() {
        return protocol(&host, error);
    }
    if error.is_timeout() {
        return FetchError::Timeout { host, wait: Wait::Connect, limit: settings.connect_timeout };
    }
    let source = Box::new(error);
    if cause::<rustls::Error>(&*source).is_some() {
        FetchError::Tls { host, source }
    } else {
        FetchError::Connect { host, source }
    }
}

fn protocol(host: &str, error: reqwest::Error) -> FetchError {
    FetchError::Protocol { host: host.to_owned(), source: Box::new(error.without_url()) }
}

/// Returns the first cause of type `E`. Looks into each `io::Error`, whose `source` skips its own
/// content.
fn cause<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(content) => Some(content),
            None => error.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    #[test]
    fn only_identity_is_plain() {
        let with = |codings: &[&'static str]| {
            codings.iter().map(|coding| (CONTENT_ENCODING, HeaderValue::from_static(coding))).collect::<HeaderMap>()
        };
        assert!(is_plain(&with(&[])));
        assert!(is_plain(&with(&["Identity"])));
        for codings in
            [&["gzip"][..], &["identity, gzip"], &["br"], &["deflate"], &["zstd"], &[""], &["identity", "gzip"]]
        {
            let mut headers = HeaderMap::new();
            for coding in codings {
                headers.append(CONTENT_ENCODING, HeaderValue::from_static(coding));
            }
            assert!(!is_plain(&headers), "{codings:?}");
        }
    }
}
