//! `blip2 serve`: listens first, loads then, and becomes ready after the golden answers came out right.

use std::env;
use std::num::NonZeroUsize;
use std::time::Duration;

use actix_web::rt::System;
use actix_web::web;
use anyhow::Context as _;
use clap::Args;

use super::Failure;
use super::load::{LoadError, load, replay_goldens};
use super::runtime_args::RuntimeArgs;
use crate::engine::Engine;
use crate::server::{Application, ServerSettings};
use crate::settings::RuntimeSettings;
use crate::telemetry::{self, LogTarget};

/// The port that Azure's containers are asked on.
const DEFAULT_PORT: u16 = 5001;

/// A tiny model replays all golden answers in this time, a large one its shortest. `blip2 verify` replays all.
const GOLDEN_BUDGET: Duration = Duration::from_secs(1);

/// As typed.
#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    runtime: RuntimeArgs,

    /// Address to listen on
    #[arg(long, env = "BLIP2_HOST", default_value = "0.0.0.0")]
    host: String,

    /// Port to listen on; 0 for any free one [default: SERVER_PORT, else 5001]
    #[arg(long, env = "BLIP2_PORT")]
    port: Option<u16>,

    /// Largest request body in bytes; larger ones are answered 413
    #[arg(long, value_name = "BYTES", env = "BLIP2_MAX_BODY_BYTES", default_value_t = 100 << 20)]
    max_body_bytes: usize,

    /// Threads that read requests and write answers
    #[arg(long, value_name = "N", env = "BLIP2_HTTP_WORKERS", default_value = "2")]
    http_workers: NonZeroUsize,
}

pub(super) fn run(args: ServeArgs) -> Result<(), Failure> {
    telemetry::start(LogTarget::Stdout);
    let server = ServerSettings {
        host: args.host.clone(),
        port: port(args.port)?,
        max_body_bytes: args.max_body_bytes,
        http_workers: args.http_workers.get(),
    };
    System::new().block_on(serve(server, args.runtime.settings()))
}

async fn serve(settings: ServerSettings, runtime: RuntimeSettings) -> Result<(), Failure> {
    let address = format!("{}:{}", settings.host, settings.port);
    let application =
        Application::build(settings).with_context(|| format!("cannot listen on {address}")).map_err(Failure::start)?;
    let (state, port) = (application.state(), application.port().map_err(Failure::start)?);
    let (handle, server) = application.start().map_err(Failure::start)?;
    tracing::info!(port, "listening; loading the model");
    let mut server = Box::pin(server);
    let loading = web::block(move || load_and_replay(&runtime));
    tokio::select! {
        ended = &mut server => return ended.map_err(Failure::start),
        loaded = loading => match loaded.map_err(Failure::start)? {
            Ok(engine) => state.become_ready(engine),
            Err(error) => {
                // The server hears it when it runs on; waiting for the handle here would wait for ever.
                drop(handle.stop(false));
                server.await.map_err(Failure::start)?;
                return Err(Failure::start(error));
            }
        },
    }
    tracing::info!(port, "ready");
    server.await.map_err(Failure::start)
}

fn load_and_replay(settings: &RuntimeSettings) -> Result<Engine, LoadError> {
    let (bundle, engine) = load(settings)?;
    let goldens = replay_goldens(&bundle, &engine, Some(GOLDEN_BUDGET))?;
    tracing::info!(replayed = goldens.right, of = goldens.of, "golden answers came out right");
    Ok(engine)
}

/// clap reads one variable per flag; Azure's own comes second.
fn port(typed: Option<u16>) -> Result<u16, Failure> {
    match (typed, env::var("SERVER_PORT")) {
        (Some(port), _) => Ok(port),
        (None, Ok(port)) => {
            port.parse().with_context(|| format!("SERVER_PORT is {port:?}, not a port")).map_err(Failure::usage)
        }
        (None, Err(_)) => Ok(DEFAULT_PORT),
    }
}
