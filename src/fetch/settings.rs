//! The limits of a fetcher. Validated here; `cli` has the flags and environment variables.

use std::time::Duration;

use super::error::FetchError;

/// The limits of a fetcher.
#[derive(Debug, Clone)]
pub struct FetchSettings {
    /// Whether addresses that are not global are allowed: this machine, private networks, metadata
    /// services. All other rules stay.
    pub allow_private_addresses: bool,
    /// The allowed hosts; empty for every host. `example.org` is that host, `.example.org` also its
    /// subdomains.
    pub allowed_hosts: Vec<String>,
    /// The most bytes of an image.
    pub max_bytes: usize,
    /// The time limit for a connection: name, TCP and TLS.
    pub connect_timeout: Duration,
    /// The time limit for the first byte of the image, or the redirect, with the connection.
    pub first_byte_timeout: Duration,
    /// The time limit for the whole fetch, with all redirects and the wait for a permit.
    pub timeout: Duration,
    /// The most redirects.
    pub max_redirects: usize,
    /// The most concurrent fetches. Others wait, within `timeout`.
    pub max_concurrent: usize,
}

impl Default for FetchSettings {
    /// Public addresses only, every host. 20 MiB hold a photograph of 50 megapixels at high
    /// quality. 20 s leave time for the model within a deadline of one minute. At most 16 × 20 MiB
    /// are in memory at once.
    fn default() -> Self {
        Self {
            allow_private_addresses: false,
            allowed_hosts: Vec::new(),
            max_bytes: 20 << 20,
            connect_timeout: Duration::from_secs(5),
            first_byte_timeout: Duration::from_secs(10),
            timeout: Duration::from_secs(20),
            max_redirects: 3,
            max_concurrent: 16,
        }
    }
}

impl FetchSettings {
    /// Rejects settings that would make every fetch fail.
    pub(super) fn check(&self) -> Result<(), FetchError> {
        let zero = [
            ("max_bytes", self.max_bytes == 0),
            ("connect_timeout", self.connect_timeout.is_zero()),
            ("first_byte_timeout", self.first_byte_timeout.is_zero()),
            ("timeout", self.timeout.is_zero()),
            ("max_concurrent", self.max_concurrent == 0),
        ];
        match zero.iter().find(|(_, is_zero)| *is_zero) {
            Some((name, _)) => {
                Err(FetchError::Settings(format!("{name} is 0, so no image could be fetched; raise it")))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_make_sense_and_a_zero_is_named() {
        assert!(FetchSettings::default().check().is_ok());
        let error = FetchSettings { max_concurrent: 0, ..FetchSettings::default() }.check().unwrap_err();
        assert!(error.to_string().contains("max_concurrent"), "{error}");
        assert_eq!(error.reason(), "settings");
    }
}
