//! Settings of the service: addresses, limits, timeouts, access. Built from the command line by `cli`.

use std::num::NonZeroUsize;
use std::time::Duration;

use crate::fetch::FetchSettings;

/// Where to listen and what to take.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// Address to bind.
    pub host: String,
    /// Port to bind; 0 for any free one.
    pub port: u16,
    /// A port of its own for `/metrics`, which then is not on `port`.
    pub metrics_port: Option<u16>,
    /// Threads that read requests and write answers.
    pub http_workers: NonZeroUsize,
    /// Connections that are open at once, for each of the threads.
    pub max_connections: NonZeroUsize,
    /// Largest request body in bytes.
    pub max_body_bytes: usize,
    /// A body must arrive within this time.
    pub body_timeout: Duration,
    /// A request's head must arrive within this time, and an idle connection is closed after it.
    pub idle_timeout: Duration,
    /// `SCORING_TIMEOUT_MS`: how long scoring may take before it is answered 500, as Azure's server does.
    pub scoring_timeout: Option<Duration>,
    /// After SIGTERM: how long new requests are still taken, so that a load balancer can notice.
    pub drain_delay: Duration,
    /// Then how long running requests may take to finish.
    pub shutdown_grace: Duration,
    /// Asked of every request but probes, when set.
    pub api_key: Option<ApiKey>,
    /// `AML_CORS_ORIGINS`: origins whose pages may call.
    pub cors_origins: Vec<String>,
    /// How image URLs are fetched; `None` when they are refused.
    pub fetch: Option<FetchSettings>,
    /// How the service calls itself in `swagger.json`.
    pub service: ServiceName,
    /// Whether requests are traced, with the tracer of the process.
    pub is_traced: bool,
    /// Whether answers carry `x-ms-server-version`.
    pub show_server_version: bool,
}

/// `SERVICE_NAME`, `SERVICE_VERSION` and `SERVICE_PATH_PREFIX`, as Azure's server reads them.
#[derive(Debug, Clone)]
pub struct ServiceName {
    /// Title.
    pub name: String,
    /// Version.
    pub version: String,
    /// Stands before the paths; empty, or `/` and a name.
    pub path_prefix: String,
}

/// The key that clients send as `Authorization: Bearer …` or `api-key: …`. It is never shown.
#[derive(Clone)]
pub struct ApiKey(String);

impl Default for ServerSettings {
    fn default() -> Self {
        const MAX_CONNECTIONS: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");
        const HTTP_WORKERS: NonZeroUsize = NonZeroUsize::new(2).expect("not zero");
        Self {
            host: "0.0.0.0".into(),
            port: 5001,
            metrics_port: None,
            http_workers: HTTP_WORKERS,
            max_connections: MAX_CONNECTIONS,
            max_body_bytes: 100 << 20,
            body_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(30),
            scoring_timeout: None,
            drain_delay: Duration::from_secs(1),
            shutdown_grace: Duration::from_secs(24),
            api_key: None,
            cors_origins: Vec::new(),
            fetch: Some(FetchSettings::default()),
            service: ServiceName::default(),
            is_traced: false,
            show_server_version: true,
        }
    }
}

impl Default for ServiceName {
    fn default() -> Self {
        Self { name: "ML service".into(), version: "1.0".into(), path_prefix: String::new() }
    }
}

impl ApiKey {
    /// Takes the key.
    #[must_use]
    pub fn new(key: String) -> Self {
        Self(key)
    }

    /// Whether this is the key. Takes the same time wherever the two differ.
    pub(super) fn is(&self, given: &str) -> bool {
        use sha2::{Digest as _, Sha256};
        use subtle::ConstantTimeEq as _;
        // Hashes are equally long, so not even the key's length can be measured.
        Sha256::digest(&self.0).ct_eq(&Sha256::digest(given)).into()
    }
}

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ApiKey(…)")
    }
}
