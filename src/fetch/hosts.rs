//! The list of allowed hosts. Pure. The fetcher applies it to the URL and to every redirect.

use url::Host;

use super::error::FetchError;

/// The allowed hosts; every host if the list is empty.
#[derive(Debug)]
pub(super) struct AllowedHosts(Vec<Entry>);

#[derive(Debug, PartialEq, Eq)]
enum Entry {
    /// This host.
    Host(String),
    /// This domain and its subdomains.
    Domain(String),
}

impl AllowedHosts {
    /// Parses `example.org` as a host and `.example.org` as a domain. Names are normalized as in
    /// URLs: lower case, punycode, no final dot.
    pub(super) fn parse(entries: &[String]) -> Result<Self, FetchError> {
        entries.iter().map(|entry| Entry::parse(entry)).collect::<Result<_, _>>().map(Self)
    }

    /// Returns whether `host` is allowed. Takes it as [`Target::host`](super::target::Target::host)
    /// returns it.
    pub(super) fn allow(&self, host: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|entry| entry.covers(host))
    }
}

impl Entry {
    fn parse(text: &str) -> Result<Self, FetchError> {
        let fault = || {
            FetchError::Settings(format!(
                "{text:?} is no host to allow; write example.org for a host, .example.org for all below it too, without \
                 scheme, port or *"
            ))
        };
        let trimmed = text.trim();
        let (is_domain, name) = match trimmed.strip_prefix('.') {
            Some(name) => (true, name),
            None => (false, trimmed),
        };
        let name = name.strip_suffix('.').unwrap_or(name);
        match Host::parse(name).map_err(|_| fault())? {
            Host::Domain(name) if name.is_empty() || name.starts_with('.') || name.contains('*') => Err(fault()),
            Host::Domain(name) if is_domain => Ok(Self::Domain(name)),
            _ if is_domain => Err(fault()),
            host => Ok(Self::Host(host.to_string())),
        }
    }

    fn covers(&self, host: &str) -> bool {
        match self {
            Self::Host(name) => host == name,
            Self::Domain(name) => {
                host.strip_suffix(name.as_str()).is_some_and(|below| below.is_empty() || below.ends_with('.'))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(entries: &[&str]) -> AllowedHosts {
        AllowedHosts::parse(&entries.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn an_empty_list_allows_every_host() {
        assert!(hosts(&[]).allow("example.org"));
    }

    #[test]
    fn a_host_is_that_host_alone() {
        let hosts = hosts(&["Example.ORG.", "bücher.example", "[::1]", "127.1"]);
        for host in ["example.org", "xn--bcher-kva.example", "[::1]", "127.0.0.1"] {
            assert!(hosts.allow(host), "{host}");
        }
        for host in ["www.example.org", "example.org.evil.test", "notexample.org", "example.com", ""] {
            assert!(!hosts.allow(host), "{host}");
        }
    }

    #[test]
    fn a_domain_is_itself_and_what_is_below() {
        let hosts = hosts(&[".example.org"]);
        for host in ["example.org", "www.example.org", "a.b.example.org"] {
            assert!(hosts.allow(host), "{host}");
        }
        for host in ["notexample.org", "example.org.evil.test", "org"] {
            assert!(!hosts.allow(host), "{host}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused_at_start() {
        for entry in [
            "",
            ".",
            "..",
            "..example.org",
            "*.example.org",
            "http://example.org",
            "a.org:80",
            "a.org/x",
            ".10.0.0.1",
            "a b",
        ] {
            let error = AllowedHosts::parse(&[entry.to_owned()]).unwrap_err();
            assert_eq!(error.reason(), "settings", "{entry}");
        }
    }
}
