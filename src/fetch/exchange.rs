//! One request and its answer: an image, a redirect, or why neither. Used by the fetcher once a hop, after the target
//! was admitted. Follows nothing by itself.

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

/// What a host has to say.
pub(super) enum Answer {
    /// The bytes of an image.
    Image(Vec<u8>),
    /// Where else to ask; not admitted yet.
    Redirect(Target),
}

/// An answer that has begun.
enum Begun<'a> {
    Redirect(Target),
    Body(Response, Body<'a>),
}

impl Client {
    /// Asks the target, and reads no more than has to be read.
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

    /// Asks, reads the head, and the first bytes of an image.
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

/// Moves what has come into the body; false at its end.
async fn read(response: &mut Response, body: &mut Body<'_>, host: &str) -> Result<bool, FetchError> {
    match response.chunk().await.map_err(|error| protocol(host, error))? {
        Some(chunk) => body.push(&chunk).map(|()| true),
        None => Ok(false),
    }
}

/// The five that name another place for a GET.
fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Whether the bytes are the image's own.
fn is_plain(headers: &HeaderMap) -> bool {
    headers
        .get_all(CONTENT_ENCODING)
        .iter()
        .all(|coding| coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity"))
}

/// Why a request got no head of an answer. The client hands the causes of its parts through, from the resolver up.
fn unsent(host: &str, settings: &FetchSettings, error: reqwest::Error) -> FetchError {
    let host = host.to_owned();
    let error = error.without_url();
    if error.is_builder() {
        // The few hosts that URLs may have and requests may not, such as `a"b`.
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

/// The first cause of type `E`. An `io::Error` skips its content when it names a source, so that is looked into.
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
