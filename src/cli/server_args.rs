//! The flags of the service beside those of the model: where it listens, whom it answers, what it takes.

use std::env;
use std::num::NonZeroUsize;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;

use super::Failure;
use super::seconds::Seconds;
use crate::fetch::FetchSettings;
use crate::server::{ApiKey, ServerSettings, ServiceName};

/// The port that Azure's containers are asked on.
const DEFAULT_PORT: u16 = 5001;

/// The flags of the HTTP service, as typed.
#[derive(Debug, Args)]
pub(super) struct ServerArgs {
    /// Address to listen on
    #[arg(long, env = "BLIP2_HOST", default_value = "0.0.0.0")]
    host: String,

    /// Port to listen on; 0 for any free one [default: SERVER_PORT, else 5001]
    #[arg(long, env = "BLIP2_PORT")]
    port: Option<u16>,

    /// A port of its own for /metrics, so that it need not be reachable from where requests come
    #[arg(long, value_name = "PORT", env = "BLIP2_METRICS_PORT")]
    metrics_port: Option<u16>,

    /// Threads that read requests and write answers [default: WORKER_COUNT, else 2]
    #[arg(long, value_name = "N", env = "BLIP2_HTTP_WORKERS")]
    http_workers: Option<NonZeroUsize>,

    /// Connections that each of these threads keeps open at once
    #[arg(long, value_name = "N", env = "BLIP2_MAX_CONNECTIONS", default_value = "4096")]
    max_connections: NonZeroUsize,

    /// Largest request body in bytes; larger ones are answered 413
    #[arg(long, value_name = "BYTES", env = "BLIP2_MAX_BODY_BYTES", default_value_t = 100 << 20)]
    max_body_bytes: usize,

    /// Seconds within which a request's body must arrive; later ones are answered 408
    #[arg(long, value_name = "S", env = "BLIP2_BODY_TIMEOUT_S", default_value_t = Seconds(ServerSettings::default().body_timeout))]
    body_timeout_s: Seconds,

    /// Seconds within which a request's head must arrive, and after which an idle connection is closed
    #[arg(long, value_name = "S", env = "BLIP2_IDLE_TIMEOUT_S", default_value_t = Seconds(ServerSettings::default().idle_timeout))]
    idle_timeout_s: Seconds,

    /// Seconds after SIGTERM in which new requests are still taken while /readyz says 503, so that whoever sends them notices
    #[arg(long, value_name = "S", env = "BLIP2_DRAIN_DELAY_S", default_value_t = Seconds(ServerSettings::default().drain_delay))]
    drain_delay_s: Seconds,

    /// Seconds that running requests then have to finish
    #[arg(long, value_name = "S", env = "BLIP2_SHUTDOWN_GRACE_S", default_value_t = Seconds(ServerSettings::default().shutdown_grace))]
    shutdown_grace_s: Seconds,

    /// Key that every request but probes must send as `Authorization: Bearer KEY` or `api-key: KEY`; better given in the
    /// environment, where no list of processes shows it
    #[arg(long, value_name = "KEY", env = "BLIP2_API_KEY", hide_env_values = true)]
    api_key: Option<String>,

    /// Refuse images by URL
    #[arg(long, env = "BLIP2_NO_IMAGE_URLS")]
    no_image_urls: bool,

    /// Fetch images also from private, loopback and link-local addresses: only where all callers are trusted
    #[arg(long, env = "BLIP2_ALLOW_PRIVATE_IMAGE_URLS")]
    allow_private_image_urls: bool,

    /// Hosts that images may be fetched from; `.example.org` is all of example.org [default: every public host]
    #[arg(long, value_name = "HOST,…", env = "BLIP2_IMAGE_URL_HOSTS", value_delimiter = ',')]
    image_url_hosts: Vec<String>,

    /// Seconds that fetching an image may take
    #[arg(long, value_name = "S", env = "BLIP2_IMAGE_URL_TIMEOUT_S", default_value_t = Seconds(FetchSettings::default().timeout))]
    image_url_timeout_s: Seconds,

    /// Images fetched at once; further ones wait
    #[arg(long, value_name = "N", env = "BLIP2_IMAGE_URL_FETCHES", default_value = "16")]
    image_url_fetches: NonZeroUsize,
}

impl ServerArgs {
    /// Fills in what was left out, and what Azure sets in the environment. `max_image_bytes` bounds fetched images too;
    /// `is_traced` says whether traces are sent anywhere.
    pub(super) fn settings(&self, max_image_bytes: usize, is_traced: bool) -> Result<ServerSettings, Failure> {
        let fetch = FetchSettings {
            allow_private_addresses: self.allow_private_image_urls,
            allowed_hosts: self.image_url_hosts.clone(),
            max_bytes: max_image_bytes,
            timeout: self.image_url_timeout_s.0,
            max_concurrent: self.image_url_fetches.get(),
            ..FetchSettings::default()
        };
        let api_key = self.api_key.clone().filter(|key| !key.is_empty());
        let default = ServerSettings::default();
        Ok(ServerSettings {
            host: self.host.clone(),
            port: port(self.port)?,
            metrics_port: self.metrics_port,
            http_workers: self.http_workers.map_or_else(|| variable("WORKER_COUNT", default.http_workers), Ok)?,
            max_connections: self.max_connections,
            max_body_bytes: self.max_body_bytes,
            body_timeout: self.body_timeout_s.0,
            idle_timeout: self.idle_timeout_s.0,
            scoring_timeout: scoring_timeout()?,
            drain_delay: self.drain_delay_s.0,
            shutdown_grace: self.shutdown_grace_s.0,
            api_key: api_key.map(ApiKey::new),
            cors_origins: text("AML_CORS_ORIGINS").map(|list| origins(&list)).unwrap_or_default(),
            fetch: (!self.no_image_urls).then_some(fetch),
            service: service(),
            is_traced,
            show_server_version: text("SERVER_VERSION_LOG_RESPONSE_ENABLED")
                .is_none_or(|value| value.eq_ignore_ascii_case("true")),
        })
    }
}

/// The port of the service: the flag's, else Azure's, else the default.
pub(super) fn port(flag: Option<u16>) -> Result<u16, Failure> {
    flag.map_or_else(|| variable("SERVER_PORT", DEFAULT_PORT), Ok)
}

/// A variable that Azure sets; empty counts as not set.
fn text(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// As [`text`], for what clap does not read: it takes one variable a flag.
fn variable<T: std::str::FromStr>(name: &str, default: T) -> Result<T, Failure>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let Some(value) = text(name) else { return Ok(default) };
    value.parse().with_context(|| format!("{name} is {value:?}")).map_err(Failure::usage)
}

fn scoring_timeout() -> Result<Option<Duration>, Failure> {
    let ms: u64 = variable("SCORING_TIMEOUT_MS", 0)?;
    Ok((ms > 0).then(|| Duration::from_millis(ms)))
}

fn origins(list: &str) -> Vec<String> {
    list.split(',').map(|origin| origin.trim().to_owned()).filter(|origin| !origin.is_empty()).collect()
}

fn service() -> ServiceName {
    let default = ServiceName::default();
    let prefix = text("SERVICE_PATH_PREFIX").map(|prefix| format!("/{}", prefix.trim_matches('/')));
    ServiceName {
        name: text("SERVICE_NAME").unwrap_or(default.name),
        version: text("SERVICE_VERSION").unwrap_or(default.version),
        path_prefix: prefix.filter(|prefix| prefix != "/").unwrap_or_default(),
    }
}
