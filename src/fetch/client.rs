//! The HTTP client, without features that a hostile URL could use: proxies, cookies, automatic
//! redirects, decompression, retries, connection reuse. Set up once; [`exchange`](super::exchange)
//! sends requests with it.

use std::sync::Arc;

use reqwest::header::{ACCEPT, ACCEPT_ENCODING, HeaderMap, HeaderValue};
use rustls::{ClientConfig, RootCertStore};

use super::address::{self, AddressRule};
use super::error::FetchError;
use super::resolver::{CheckedNames, Names, SystemNames};
use super::settings::FetchSettings;

const USER_AGENT: &str = concat!("blip2/", env!("CARGO_PKG_VERSION"));

/// The formats that can be decoded, for hosts that offer several.
const ACCEPTED: HeaderValue =
    HeaderValue::from_static("image/jpeg, image/png, image/webp, image/gif, image/bmp, image/tiff, */*;q=0.1");

/// The dependencies of the fetcher, which tests replace.
pub(super) struct Outside {
    pub(super) names: Arc<dyn Names>,
    pub(super) rule: AddressRule,
    pub(super) authorities: RootCertStore,
}

impl Outside {
    /// Returns the system's resolver and certificate authorities, and the address rule of the
    /// settings.
    pub(super) fn of_this_machine(settings: &FetchSettings) -> Self {
        Self {
            names: Arc::new(SystemNames::new(settings.max_concurrent)),
            rule: if settings.allow_private_addresses { address::any } else { address::is_global },
            authorities: system_authorities(),
        }
    }
}

/// Loads the system's certificate authorities. Operators can add one without a new release, and
/// slim container images get them with `ca-certificates`. Without any, http works, and https fails
/// with the remedy.
fn system_authorities() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "cannot read a certificate authority");
    }
    let mut authorities = RootCertStore::empty();
    authorities.add_parsable_certificates(found.certs);
    if authorities.is_empty() {
        tracing::warn!(
            "no certificate authorities found, so images cannot be fetched by https; install ca-certificates"
        );
    }
    authorities
}

/// A client that connects to allowed addresses only.
pub(super) struct Client {
    pub(super) http: reqwest::Client,
    /// Whether there are certificate authorities.
    pub(super) has_authorities: bool,
}

impl Client {
    pub(super) fn new(settings: &FetchSettings, outside: Outside) -> Result<Self, FetchError> {
        let has_authorities = !outside.authorities.is_empty();
        let headers = HeaderMap::from_iter([
            (ACCEPT, ACCEPTED),
            // Ten kilobytes of gzip can expand to ten megabytes, so compressed responses are
            // neither requested nor unpacked.
            (ACCEPT_ENCODING, HeaderValue::from_static("identity")),
        ]);
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls(outside.authorities)?)
            .dns_resolver(CheckedNames::new(outside.names, outside.rule))
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .http1_only()
            // A reused connection would skip the check of the name, and hostile hosts could pile up
            // connections.
            .pool_max_idle_per_host(0)
            .connect_timeout(settings.connect_timeout)
            .user_agent(USER_AGENT)
            .default_headers(headers)
            .build()
            .map_err(|error| FetchError::Client(Box::new(error)))?;
        Ok(Self { http, has_authorities })
    }
}

/// Returns TLS 1.2 and 1.3 with an explicit crypto provider. The process-wide default belongs to
/// the application.
fn tls(authorities: RootCertStore) -> Result<ClientConfig, FetchError> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| FetchError::Client(Box::new(error)))?
        .with_root_certificates(authorities)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
