//! Images by URL: [`Fetcher`] takes a URL that a stranger sent and gives the bytes of an image back, without becoming
//! the stranger's way into the network it runs in.
//!
//! ```text
//! text ── target ──▶ http(s) URL ── hosts, address ──▶ may be asked ── resolver ──▶ checked addresses ── exchange ──▶ bytes
//!                        ▲                                                                             │
//!                        └──────────────────────── a redirect is a new URL ────────────────────────────┘
//! ```
//!
//! Used by `server` and `batch`. It knows no web framework and no model. It must not ask an address that it has not
//! checked, read a proxy from the environment, keep a cookie, or read more of an answer than an image may have.
//! `docs/security.md` lists the attacks, the defences and their tests.

mod address;
mod body;
mod client;
mod error;
mod exchange;
mod hosts;
mod resolver;
mod settings;
mod target;

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::time::timeout;

pub use self::error::{FetchError, Wait};
pub use self::settings::FetchSettings;

use self::address::AddressRule;
use self::client::{Client, Outside};
use self::exchange::Answer;
use self::hosts::AllowedHosts;
use self::target::Target;

/// Fetches images by URL, guarded. A clone is the same fetcher: it shares the connections' settings and the places.
#[derive(Clone)]
pub struct Fetcher {
    shared: Arc<Shared>,
}

struct Shared {
    settings: FetchSettings,
    hosts: AllowedHosts,
    rule: AddressRule,
    client: Client,
    places: Semaphore,
}

impl Fetcher {
    /// A fetcher on the network of this machine; certificates are checked against the system's authorities.
    ///
    /// # Errors
    /// [`FetchError::Settings`] when a setting makes no sense, [`FetchError::Client`] when TLS cannot be set up.
    pub fn new(settings: FetchSettings) -> Result<Self, FetchError> {
        let outside = Outside::of_this_machine(&settings);
        Self::with_outside(settings, outside)
    }

    fn with_outside(settings: FetchSettings, outside: Outside) -> Result<Self, FetchError> {
        settings.check()?;
        let shared = Shared {
            hosts: AllowedHosts::parse(&settings.allowed_hosts)?,
            rule: outside.rule,
            client: Client::new(&settings, outside)?,
            places: Semaphore::new(settings.max_concurrent.min(Semaphore::MAX_PERMITS)),
            settings,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The bytes of the image at `url`: something that begins as an image does, at most `max_bytes` of it.
    /// Dropping the future ends the connection.
    ///
    /// # Errors
    /// [`FetchError`], whose text is meant for whoever sent the URL.
    pub async fn fetch(&self, url: &str) -> Result<Bytes, FetchError> {
        let shared = &*self.shared;
        let started = Instant::now();
        let total = shared.settings.timeout;
        let target = shared.admit(Target::parse(url)?)?;
        let host = target.host().to_owned();
        // Waiting for a place is part of the time: whoever asks has a deadline, whatever the reason.
        let Ok(place) = timeout(total, shared.places.acquire()).await else {
            return Err(FetchError::Busy);
        };
        let _place = place.expect("nobody closes the semaphore");
        let left = total.saturating_sub(started.elapsed());
        match timeout(left, shared.follow(target)).await {
            Ok(image) => image.map(Bytes::from),
            Err(_) => Err(FetchError::Timeout { host, wait: Wait::Whole, limit: total }),
        }
    }
}

impl Shared {
    /// Asks, and asks again where a redirect points to, a bounded number of times.
    async fn follow(&self, mut target: Target) -> Result<Vec<u8>, FetchError> {
        for _ in 0..=self.settings.max_redirects {
            match self.client.ask(&target, &self.settings).await? {
                Answer::Image(bytes) => return Ok(bytes),
                Answer::Redirect(next) => target = self.admit(next)?,
            }
        }
        Err(FetchError::TooManyRedirects { limit: self.settings.max_redirects })
    }

    /// What can be said before a name is resolved. Every target passes here, redirects too. An address in the URL is
    /// checked here, because the client asks the resolver about names alone.
    fn admit(&self, target: Target) -> Result<Target, FetchError> {
        if !self.hosts.allow(target.host()) {
            return Err(FetchError::HostNotAllowed { host: target.host().to_owned() });
        }
        match target.address() {
            Some(address) if !(self.rule)(address) => Err(FetchError::Address { host: target.host().to_owned() }),
            _ => Ok(target),
        }
    }
}

#[cfg(test)]
mod fetch_tests;
#[cfg(test)]
mod test_server;
