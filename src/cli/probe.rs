//! `blip2 probe`: asks the service on this machine whether it is ready. The health check of images that hold no other client.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use clap::Args;
use reqwest::{Client, StatusCode, redirect};
use tokio::runtime::Builder;

use super::Failure;
use super::seconds::Seconds;
use super::server_args::port;

/// Of an answer that is not 200, this much is shown. Those of the probes are shorter.
const MOST_SHOWN: usize = 200;

/// The flags of `blip2 probe`, as typed.
#[derive(Debug, Args)]
pub(super) struct ProbeArgs {
    /// Address that the service listens on; of 0.0.0.0 and :: the loopback address is asked
    #[arg(long, env = "BLIP2_HOST", default_value = "127.0.0.1")]
    host: String,

    /// Port that it listens on [default: SERVER_PORT, else 5001]
    #[arg(long, env = "BLIP2_PORT")]
    port: Option<u16>,

    /// Path to request: /readyz checks readiness, / and /livez check liveness
    #[arg(long, default_value = "/readyz")]
    path: String,

    /// Seconds to wait for the answer
    #[arg(long, value_name = "S", default_value = "5")]
    timeout_s: Seconds,
}

pub(super) fn run(args: &ProbeArgs) -> Result<(), Failure> {
    let port = port(args.port)?;
    if port == 0 {
        return Err(Failure::usage(anyhow!("port 0 stands for any; give --port the one that the service listens on")));
    }
    if !args.path.starts_with('/') {
        return Err(Failure::usage(anyhow!("--path {:?} does not begin with /", args.path)));
    }
    let url = format!("http://{}:{port}{}", reachable(&args.host), args.path);
    // Only plain HTTP is spoken here, but the client does not start without a provider of cryptography.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = Builder::new_current_thread().enable_all().build().map_err(Failure::result)?;
    let (status, body) = runtime
        .block_on(ask(&url, args.timeout_s.0))
        .with_context(|| format!("cannot ask {url}"))
        .map_err(Failure::result)?;
    let body: String = body.trim().chars().take(MOST_SHOWN).collect();
    if status == StatusCode::OK {
        println!("{body}");
        Ok(())
    } else {
        Err(Failure::result(anyhow!("{url} answers {}: {body}", status.as_u16())))
    }
}

/// A service that listens on every address is asked on the one of this machine.
fn reachable(host: &str) -> String {
    match host.trim_start_matches('[').trim_end_matches(']').parse() {
        Ok(IpAddr::V4(Ipv4Addr::UNSPECIFIED)) => Ipv4Addr::LOCALHOST.to_string(),
        Ok(IpAddr::V6(Ipv6Addr::UNSPECIFIED)) => format!("[{}]", Ipv6Addr::LOCALHOST),
        Ok(IpAddr::V6(address)) => format!("[{address}]"),
        _ => host.to_owned(),
    }
}

async fn ask(url: &str, timeout: Duration) -> Result<(StatusCode, String), reqwest::Error> {
    let client = Client::builder().no_proxy().redirect(redirect::Policy::none()).timeout(timeout).build()?;
    let answer = client.get(url).send().await?;
    Ok((answer.status(), answer.text().await?))
}

#[cfg(test)]
mod tests {
    use super::reachable;

    #[test]
    fn a_service_on_every_address_is_asked_on_loopback() {
        for (host, asked) in [
            ("0.0.0.0", "127.0.0.1"),
            ("::", "[::1]"),
            ("[::]", "[::1]"),
            ("::1", "[::1]"),
            ("10.0.0.7", "10.0.0.7"),
            ("localhost", "localhost"),
        ] {
            assert_eq!(reachable(host), asked);
        }
    }
}
