//! Images by URL: [`Fetcher`] takes an untrusted URL and returns the bytes of an image, without
//! giving access to the network that it runs in.
//!
//! ```text
//! text ── target ──▶ http(s) URL ── hosts, address ──▶ allowed host ── resolver ──▶ allowed addresses ── exchange ──▶ bytes
//!                        ▲                                                                             │
//!                        └──────────────────────── a redirect is a new URL ────────────────────────────┘
//! ```
//!
//! Knows no web framework and no model. It never connects to an address that it has not checked,
//! uses no proxy from the environment, keeps no cookies, and never reads more of a response than
//! the largest image has. `docs/security.md` lists the attacks, the defences and their tests.

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

/// Fetches images by untrusted URLs. Clones share the client and the limit on concurrent fetches.
#[derive(Clone)]
pub struct Fetcher {
    shared: Arc<Shared>,
}

struct Shared {
    settings: FetchSettings,
    hosts: AllowedHosts,
    rule: AddressRule,
    client: Client,
    permits: Semaphore,
}

impl Fetcher {
    /// Makes a fetcher with this machine's resolver and certificate authorities.
    ///
    /// # Errors
    /// [`FetchError::Settings`] when a setting would make every fetch fail, [`FetchError::Client`]
    /// when TLS cannot be set up.
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
            permits: Semaphore::new(settings.max_concurrent.min(Semaphore::MAX_PERMITS)),
            settings,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Fetches the image at `url`: at most `max_bytes` bytes that begin like an image. Dropping the
    /// future closes the connection.
    ///
    /// # Errors
    /// [`FetchError`], whose text is meant for the sender of the URL.
    pub async fn fetch(&self, url: &str) -> Result<Bytes, FetchError> {
        let shared = &*self.shared;
        let started = Instant::now();
        let total = shared.settings.timeout;
        let target = shared.admit(Target::parse(url)?)?;
        let host = target.host().to_owned();
        // Waiting for a permit counts, because callers have a deadline.
        let Ok(permit) = timeout(total, shared.permits.acquire()).await else {
            return Err(FetchError::Busy);
        };
        let _permit = permit.expect("the semaphore is never closed");
        let left = total.saturating_sub(started.elapsed());
        match timeout(left, shared.follow(target)).await {
            Ok(image) => image.map(Bytes::from),
            Err(_) => Err(FetchError::Timeout { host, wait: Wait::Whole, limit: total }),
        }
    }
}

impl Shared {
    /// Sends the request, and follows a bounded number of redirects.
    async fn follow(&self, mut target: Target) -> Result<Vec<u8>, FetchError> {
        for _ in 0..=self.settings.max_redirects {
            match self.client.ask(&target, &self.settings).await? {
                Answer::Image(bytes) => return Ok(bytes),
                Answer::Redirect(next) => target = self.admit(next)?,
            }
        }
        Err(FetchError::TooManyRedirects { limit: self.settings.max_redirects })
    }

    /// Admits a target by host and scheme, before its name is resolved. Every target passes here,
    /// also those of redirects. Addresses in URLs are checked here, because the client resolves
    /// only names.
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
