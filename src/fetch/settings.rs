//! What a fetcher may do, and how long and how much. Validated here, read by the rest of the module; flags and variables
//! belong to `cli`.

use std::time::Duration;

use super::error::FetchError;

/// What the fetcher may do.
#[derive(Debug, Clone)]
pub struct FetchSettings {
    /// Ask addresses that are not global too: the own machine, private networks, metadata services. All other rules stay.
    pub allow_private_addresses: bool,
    /// The hosts that may be asked; empty for every host. `example.org` is that host, `.example.org` its subdomains too.
    pub allowed_hosts: Vec<String>,
    /// The largest image in bytes.
    pub max_bytes: usize,
    /// From the start of a request to a connection: name, TCP and TLS.
    pub connect_timeout: Duration,
    /// From the start of a request to the first byte of the image, or to the redirect; the connection is part of it.
    pub first_byte_timeout: Duration,
    /// The whole fetch, with all redirects and the wait for a free place.
    pub timeout: Duration,
    /// Redirects that are followed.
    pub max_redirects: usize,
    /// Fetches that run at a time; more of them wait, within `timeout`.
    pub max_concurrent: usize,
}

impl Default for FetchSettings {
    /// Public addresses only, every host. 20 MiB is a photograph of 50 megapixels at high quality; 20 s leave a caller
    /// whose deadline is a minute time for the model. At most 16 × 20 MiB are held at once.
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
    /// Refuses what would make every fetch fail.
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
