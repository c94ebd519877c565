//! The URL of an image: parsed once, by the rules of browsers, then a value. The fetcher decides
//! whether its host is allowed. Pure.
//!
//! There is one parser, so the checked URL is the requested URL. It turns every spelling of an IPv4
//! address (octal, hexadecimal, one number, full-width digits) into the address, and reads `\` as
//! `/`, so no spelling hides a host.

use std::net::IpAddr;

use url::{Host, Url};

use super::error::FetchError;

/// The most bytes of a URL. Signed URLs of object stores stay below 2 KiB.
const MAX_URL_BYTES: usize = 8 << 10;

/// The most bytes of a name in DNS.
const MAX_HOST_BYTES: usize = 253;

/// An http or https URL without credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    url: Url,
    host: String,
}

impl Target {
    /// Parses a URL.
    pub(super) fn parse(text: &str) -> Result<Self, FetchError> {
        check_length(text)?;
        Self::from_url(Url::parse(text).map_err(|_| FetchError::Url)?)
    }

    /// Parses the location of a redirect, which may be relative to this URL.
    ///
    /// Rejects a redirect from https to http: it would drop the protection that the sender of the
    /// URL chose.
    pub(super) fn redirected(&self, location: &[u8]) -> Result<Self, FetchError> {
        let nowhere = || FetchError::Redirect { host: self.host.clone() };
        let location = std::str::from_utf8(location).map_err(|_| nowhere())?;
        check_length(location)?;
        let next = Self::from_url(self.url.join(location).map_err(|_| nowhere())?)?;
        if self.is_https() && !next.is_https() {
            return Err(FetchError::Downgrade { host: self.host.clone() });
        }
        Ok(next)
    }

    fn from_url(mut url: Url) -> Result<Self, FetchError> {
        // Joining and escaping can make the URL longer than the location.
        check_length(url.as_str())?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(FetchError::Scheme);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(FetchError::Credentials);
        }
        if let Some(Host::Domain(name)) = url.host() {
            // A final dot marks a complete name. Without it there is one spelling for lists, TLS
            // and messages.
            let name = name.strip_suffix('.').unwrap_or(name).to_owned();
            if name.len() > MAX_HOST_BYTES || name.split('.').any(str::is_empty) {
                return Err(FetchError::Url);
            }
            url.set_host(Some(&name)).map_err(|_| FetchError::Url)?;
        }
        let host = url.host().ok_or(FetchError::Url)?.to_string();
        Ok(Self { url, host })
    }

    /// Returns the URL.
    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    /// Returns the normalized host, for lists and messages; IPv6 in brackets.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// Returns the address, if the URL has one instead of a name.
    pub(super) fn address(&self) -> Option<IpAddr> {
        match self.url.host()? {
            Host::Domain(_) => None,
            Host::Ipv4(address) => Some(address.into()),
            Host::Ipv6(address) => Some(address.into()),
        }
    }

    /// Returns whether the scheme is https.
    pub(super) fn is_https(&self) -> bool {
        self.url.scheme() == "https"
    }
}

fn check_length(text: &str) -> Result<(), FetchError> {
    if text.len() > MAX_URL_BYTES { Err(FetchError::UrlTooLong { limit: MAX_URL_BYTES }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reason(text: &str) -> &'static str {
        Target::parse(text).unwrap_err().reason()
    }

    #[test]
    fn every_spelling_of_an_address_is_that_address() {
        for (text, address) in [
            ("http://127.1/", "127.0.0.1"),
            ("http://0x7f000001/", "127.0.0.1"),
            ("http://0x7f.1/", "127.0.0.1"),
            ("http://2130706433/", "127.0.0.1"),
            ("http://017700000001/", "127.0.0.1"),
            ("http://0177.0.0.1/", "127.0.0.1"),
            ("http://127.0.0.1./", "127.0.0.1"),
            ("http://%31%32%37.0.0.1/", "127.0.0.1"),
            ("http://１２７.０.０.１/", "127.0.0.1"),
            ("http://①②⑦.⓪.⓪.①/", "127.0.0.1"),
            ("http://127。0。0。1/", "127.0.0.1"),
            ("hTTp://127.0.0.1/", "127.0.0.1"),
            ("http:127.0.0.1/", "127.0.0.1"),
            ("http:/\\127.0.0.1/", "127.0.0.1"),
            ("http:\\\\127.0.0.1\\x.png", "127.0.0.1"),
            ("\t http://127.0.\n0.1/ ", "127.0.0.1"),
            ("http://127.0.0.1#@example.org/", "127.0.0.1"),
            ("http://127.0.0.1\\@example.org/", "127.0.0.1"),
            ("http://127.0.0.1?@example.org/", "127.0.0.1"),
            ("http://0/", "0.0.0.0"),
            ("http://2852039166/", "169.254.169.254"),
            ("http://0xa9.0xfe.0xa9.0xfe/", "169.254.169.254"),
            ("http://[::1]/", "::1"),
            ("http://[0:0:0:0:0:0:0:1]/", "::1"),
            ("http://[::ffff:169.254.169.254]/", "::ffff:169.254.169.254"),
            ("http://[::ffff:a9fe:a9fe]/", "::ffff:169.254.169.254"),
            ("http://[64:ff9b::a9fe:a9fe]/", "64:ff9b::a9fe:a9fe"),
            ("http://[2002:7f00:1::]/", "2002:7f00:1::"),
        ] {
            let target = Target::parse(text).unwrap();
            assert_eq!(target.address(), Some(address.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn a_name_is_known_by_one_spelling() {
        for text in
            ["https://Example.ORG/x", "https://example.org./x", "https://example.org:443/x", "HTTPS://ｅxample.org/x"]
        {
            let target = Target::parse(text).unwrap();
            assert_eq!((target.host(), target.url().as_str()), ("example.org", "https://example.org/x"), "{text}");
        }
    }

    #[test]
    fn credentials_are_refused_wherever_they_hide() {
        for text in [
            "http://example.org@127.0.0.1/",
            "http://user:secret@example.org/",
            "http://:secret@example.org/",
            "http://example.org:80@127.0.0.1/",
            "http://example.org%40x@127.0.0.1/",
        ] {
            assert_eq!(reason(text), "credentials", "{text}");
        }
    }

    #[test]
    fn other_schemes_are_never_opened() {
        for text in [
            "ftp://example.org/x",
            "file:///etc/passwd",
            "gopher://127.0.0.1:25/_x",
            "data:image/png;base64,AA==",
            "javascript:0",
        ] {
            assert_eq!(reason(text), "scheme", "{text}");
        }
    }

    #[test]
    fn what_is_no_url_is_refused() {
        for text in [
            "",
            "example.org/x.png",
            "http://",
            "http://./",
            "http://example.org../",
            "http://.example.org/",
            "http://127.0.0.1../",
            "http://[::1",
            "http://256.256.256.256/",
            "http://a b/",
            "http://x:99999/",
            "http://exa%00mple.org/",
        ] {
            assert_eq!(reason(text), "url", "{text}");
        }
        assert_eq!(reason(&format!("http://example.org/{}", "a".repeat(MAX_URL_BYTES))), "url");
        assert_eq!(reason(&format!("http://{}.example.org/", "a.".repeat(200))), "url");
    }

    #[test]
    fn a_redirect_is_read_against_the_url_and_checked_anew() {
        let target = Target::parse("https://example.org/a/b").unwrap();
        assert_eq!(target.redirected(b"c?d").unwrap().url().as_str(), "https://example.org/a/c?d");
        assert_eq!(target.redirected(b"//other.test/x").unwrap().url().as_str(), "https://other.test/x");
        for (location, reason) in [
            (b"http://example.org/a".as_slice(), "redirect"),
            (b"ftp://example.org/a", "scheme"),
            (b"https://user@example.org/a", "credentials"),
            (b"https://[::1", "redirect"),
            (b"\xff", "redirect"),
        ] {
            assert_eq!(target.redirected(location).unwrap_err().reason(), reason);
        }
        let plain = Target::parse("http://example.org/a").unwrap();
        assert!(plain.redirected(b"https://example.org/a").is_ok(), "a step up is welcome");
    }

    #[test]
    fn messages_hold_the_host_at_most() {
        let target = Target::parse("https://example.org/secret?token=secret#secret").unwrap();
        for error in [
            target.redirected(b"http://example.org/?secret").unwrap_err(),
            Target::parse("http://user:secret@example.org/").unwrap_err(),
            Target::parse("secret://example.org/").unwrap_err(),
            Target::parse("http://secret:99999/").unwrap_err(),
        ] {
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_target_or_an_error(text in "(http|HTTPS|ftp)?:?[/\\\\]{0,3}\\PC{0,40}") {
            if let Ok(target) = Target::parse(&text) {
                prop_assert!(target.url().username().is_empty());
                prop_assert!(target.address().is_some() || target.host().parse::<IpAddr>().is_err());
            }
        }
    }
}
