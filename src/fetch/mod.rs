//! Images behind URLs.

use std::time::Duration;

use bytes::Bytes;

/// How images are fetched.
#[derive(Debug, Clone)]
pub struct FetchSettings {
    /// Also from addresses that are not public.
    pub allow_private_addresses: bool,
    /// Hosts that may be asked; every public one when empty.
    pub allowed_hosts: Vec<String>,
    /// Largest file.
    pub max_bytes: usize,
    /// Until the connection stands.
    pub connect_timeout: Duration,
    /// Until the head of the answer is there.
    pub first_byte_timeout: Duration,
    /// In all.
    pub timeout: Duration,
    /// Redirects to follow.
    pub max_redirects: usize,
    /// Fetches at once.
    pub max_concurrent: usize,
}

impl Default for FetchSettings {
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

/// Fetches images.
#[derive(Clone)]
pub struct Fetcher;

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
#[error("images are not fetched")]
pub struct FetchError;

impl FetchError {
    /// A short name.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        "none"
    }
}

impl Fetcher {
    /// With these settings.
    ///
    /// # Errors
    /// Never.
    pub fn new(_settings: FetchSettings) -> Result<Self, FetchError> {
        Ok(Self)
    }

    /// The file behind a URL.
    ///
    /// # Errors
    /// Always.
    pub async fn fetch(&self, _url: &str) -> Result<Bytes, FetchError> {
        Err(FetchError)
    }
}
