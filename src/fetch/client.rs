//! The HTTP client, with everything off that a stranger's URL could use: proxies, cookies, redirects of its own,
//! decompression, retries, kept connections. Set up once; [`exchange`](super::exchange) asks with it.

use std::sync::Arc;

use reqwest::header::{ACCEPT, ACCEPT_ENCODING, HeaderMap, HeaderValue};
use rustls::{ClientConfig, RootCertStore};

use super::address::{self, AddressRule};
use super::error::FetchError;
use super::resolver::{CheckedNames, Names, SystemNames};
use super::settings::FetchSettings;

const USER_AGENT: &str = concat!("blip2/", env!("CARGO_PKG_VERSION"));

/// What can be decoded; a host that offers several formats sends none of the others.
const ACCEPTED: HeaderValue =
    HeaderValue::from_static("image/jpeg, image/png, image/webp, image/gif, image/bmp, image/tiff, */*;q=0.1");

/// What the fetcher takes from outside, so that tests can bring their own.
pub(super) struct Outside {
    pub(super) names: Arc<dyn Names>,
    pub(super) rule: AddressRule,
    pub(super) authorities: RootCertStore,
}

impl Outside {
    /// The system's resolver and certificate authorities; the rule that the settings ask for.
    pub(super) fn of_this_machine(settings: &FetchSettings) -> Self {
        Self {
            names: Arc::new(SystemNames::new(settings.max_concurrent)),
            rule: if settings.allow_private_addresses { address::any } else { address::is_global },
            authorities: system_authorities(),
        }
    }
}

/// The system's authorities: an operator adds one without a new release, and a slim image with `ca-certificates` has
/// them. Without any, http works and https says what is missing.
fn system_authorities() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "certificate authorities could not be read");
    }
    let mut authorities = RootCertStore::empty();
    authorities.add_parsable_certificates(found.certs);
    if authorities.is_empty() {
        tracing::warn!("no certificate authorities found, so https images will be refused; install ca-certificates");
    }
    authorities
}

/// A client that connects to checked addresses only.
pub(super) struct Client {
    pub(super) http: reqwest::Client,
    /// Whether a certificate can be checked at all.
    pub(super) has_authorities: bool,
}

impl Client {
    pub(super) fn new(settings: &FetchSettings, outside: Outside) -> Result<Self, FetchError> {
        let has_authorities = !outside.authorities.is_empty();
        let headers = HeaderMap::from_iter([
            (ACCEPT, ACCEPTED),
            // Ten kilobytes of gzip can be ten megabytes, so nothing is unpacked, and nothing packed is asked for.
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
            // A kept connection would be asked again without a look at the name, and hostile hosts could pile them up.
            .pool_max_idle_per_host(0)
            .connect_timeout(settings.connect_timeout)
            .user_agent(USER_AGENT)
            .default_headers(headers)
            .build()
            .map_err(|error| FetchError::Client(Box::new(error)))?;
        Ok(Self { http, has_authorities })
    }
}

/// TLS 1.2 and 1.3 with the cryptography named here; the process-wide default belongs to whoever runs the process.
fn tls(authorities: RootCertStore) -> Result<ClientConfig, FetchError> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| FetchError::Client(Box::new(error)))?
        .with_root_certificates(authorities)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
