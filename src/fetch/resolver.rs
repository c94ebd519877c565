//! Resolves names to addresses, and checks all of them. The client connects only to addresses from
//! this resolver, so a name that changes between check and connection (DNS rebinding) gains
//! nothing.

use std::error::Error;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::pin::Pin;
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::Semaphore;

use super::address::AddressRule;

/// A pending lookup of a name.
pub(super) type Addresses = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;

/// A source of addresses: the system, or a test.
pub(super) trait Names: Send + Sync {
    /// Looks up a name once.
    fn addresses(&self, name: &str) -> Addresses;
}

/// The resolver of the system, with its hosts file.
pub(super) struct SystemNames {
    permits: Arc<Semaphore>,
}

impl SystemNames {
    /// Makes a resolver with at most `max_concurrent` lookups at once.
    pub(super) fn new(max_concurrent: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(max_concurrent.min(Semaphore::MAX_PERMITS))) }
    }
}

impl Names for SystemNames {
    /// The system's call blocks a thread until the name server answers, even after the caller was
    /// cancelled. So the permit belongs to the call, not to the caller, and hostile names cannot
    /// take every thread.
    fn addresses(&self, name: &str) -> Addresses {
        let permits = Arc::clone(&self.permits);
        let name = name.to_owned();
        Box::pin(async move {
            let permit = permits.acquire_owned().await.map_err(io::Error::other)?;
            let lookup = move || {
                let _permit = permit;
                (name.as_str(), 0).to_socket_addrs().map(|found| found.map(|address| address.ip()).collect())
            };
            tokio::task::spawn_blocking(lookup).await.map_err(io::Error::other)?
        })
    }
}

/// The error of a name without an allowed address. The client returns it as a cause.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unresolved {
    #[error("the name has no address")]
    Unknown(#[source] io::Error),
    #[error("the host resolves to a blocked address")]
    Refused,
}

/// The resolver of the client: every address of the name may be asked, or none is given.
pub(super) struct CheckedNames {
    names: Arc<dyn Names>,
    rule: AddressRule,
}

impl CheckedNames {
    pub(super) fn new(names: Arc<dyn Names>, rule: AddressRule) -> Self {
        Self { names, rule }
    }
}

impl Resolve for CheckedNames {
    fn resolve(&self, name: Name) -> Resolving {
        let rule = self.rule;
        let lookup = self.names.addresses(name.as_str());
        Box::pin(async move {
            let found = lookup.await.map_err(|error| boxed(Unresolved::Unknown(error)))?;
            let checked = check(name.as_str(), found, rule).map_err(boxed)?;
            // Port 0 stands for the port of the URL.
            Ok(Box::new(checked.into_iter().map(|address| SocketAddr::new(address, 0))) as Addrs)
        })
    }
}

/// Rejects a name if one of its addresses is blocked: a hostile name server may list a private
/// address beside a public one that fails.
fn check(name: &str, found: Vec<IpAddr>, rule: AddressRule) -> Result<Vec<IpAddr>, Unresolved> {
    if found.is_empty() {
        return Err(Unresolved::Unknown(io::Error::new(io::ErrorKind::NotFound, "no address")));
    }
    match found.iter().find(|address| !rule(**address)) {
        Some(address) => {
            tracing::debug!(name, %address, "the host of an image URL resolves to a blocked address");
            Err(Unresolved::Refused)
        }
        None => Ok(found),
    }
}

fn boxed(error: Unresolved) -> Box<dyn Error + Send + Sync> {
    Box::new(error)
}

#[cfg(test)]
mod tests {
    use super::super::address::{any, is_global};
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_name_with_public_addresses_has_all_of_them() {
        let found = addresses(&["1.1.1.1", "2606:4700:4700::1111"]);
        assert_eq!(check("example.org", found.clone(), is_global).unwrap(), found);
    }

    #[test]
    fn one_address_that_is_not_public_refuses_the_name() {
        for private in ["127.0.0.1", "10.0.0.1", "::1", "::ffff:10.0.0.1", "168.63.129.16"] {
            for found in [[private, "1.1.1.1"], ["1.1.1.1", private]] {
                let refusal = check("example.org", addresses(&found), is_global);
                assert!(matches!(refusal, Err(Unresolved::Refused)), "{found:?}");
            }
        }
        assert!(check("example.org", addresses(&["10.0.0.1"]), any).is_ok());
    }

    #[test]
    fn a_name_without_addresses_is_unknown() {
        assert!(matches!(check("example.org", Vec::new(), any), Err(Unresolved::Unknown(_))));
    }

    #[tokio::test]
    async fn the_system_knows_the_own_machine() {
        let found = SystemNames::new(1).addresses("localhost").await.unwrap();
        assert!(found.iter().all(IpAddr::is_loopback), "{found:?}");
        assert!(!found.is_empty());
    }
}
