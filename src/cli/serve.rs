//! `blip2 serve`: listens first, loads then, and becomes ready after the golden answers came out right. On SIGTERM it stops
//! to be ready, finishes what it has begun, and ends.

use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::rt::{System, spawn, time};
use actix_web::web;
use anyhow::Context as _;
use clap::Args;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use super::Failure;
use super::load::{LoadError, load, replay_goldens};
use super::runtime_args::RuntimeArgs;
use super::server_args::ServerArgs;
use crate::bundle::Bundle;
use crate::server::{Application, ServedModel, ServerSettings, State};
use crate::settings::RuntimeSettings;
use crate::telemetry::{self, LogTarget};

/// A tiny model replays all golden answers in this time, a large one its shortest. `blip2 verify` replays all.
const GOLDEN_BUDGET: Duration = Duration::from_secs(1);

/// As typed.
#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    runtime: RuntimeArgs,
    #[command(flatten)]
    server: ServerArgs,
}

pub(super) fn run(args: &ServeArgs) -> Result<(), Failure> {
    telemetry::start(LogTarget::Stdout);
    let runtime = args.runtime.settings();
    let server = args.server.settings(runtime.image.max_bytes)?;
    System::new().block_on(serve(server, runtime))
}

async fn serve(settings: ServerSettings, runtime: RuntimeSettings) -> Result<(), Failure> {
    let address = format!("{}:{}", settings.host, settings.port);
    let (drain_delay, metrics_port) = (settings.drain_delay, settings.metrics_port);
    tracing::info!(?settings, "settings");
    let application =
        Application::build(settings).with_context(|| format!("cannot listen on {address}")).map_err(Failure::start)?;
    let (state, port) = (application.state(), application.port().map_err(Failure::start)?);
    let (handle, server) = application.start().map_err(Failure::start)?;
    spawn(stop_on_signal(handle.clone(), state.clone(), drain_delay));
    tracing::info!(port, metrics_port, "listening; loading the model");
    let mut server = Box::pin(server);
    let loading = web::block(move || load_and_replay(&runtime));
    tokio::select! {
        ended = &mut server => return ended.map_err(Failure::start),
        loaded = loading => match loaded.map_err(Failure::start)? {
            Ok(model) => state.become_ready(model),
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

/// SIGTERM and SIGINT: readiness falls, new requests are still taken for a moment, then running ones finish. A second
/// signal ends the process at once.
async fn stop_on_signal(handle: ServerHandle, state: State, drain_delay: Duration) {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("signals cannot be received; the service can only be killed");
        return;
    };
    let name = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    };
    state.begin_draining();
    tracing::info!(signal = name, "stopping: not ready any more; running requests finish");
    // Nobody balances load over a service that is stopped from the keyboard.
    if name == "SIGTERM" {
        time::sleep(drain_delay).await;
    }
    spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::warn!("stopped at once by a second signal");
        std::process::exit(1);
    });
    handle.stop(true).await;
}

fn load_and_replay(settings: &RuntimeSettings) -> Result<ServedModel, LoadError> {
    let (bundle, engine) = load(settings)?;
    let goldens = replay_goldens(&bundle, &engine, Some(GOLDEN_BUDGET))?;
    tracing::info!(replayed = goldens.right, of = goldens.of, "golden answers came out right");
    let (manifest, certificate) = (document(&bundle, "manifest.json"), document(&bundle, "parity.json"));
    Ok(ServedModel {
        engine,
        name: bundle.manifest().name.clone(),
        manifest: manifest.unwrap_or_default(),
        certificate,
    })
}

/// A JSON file of a bundle, as it stands.
fn document(bundle: &Bundle, name: &str) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(bundle.path(name)).ok()?).ok()
}
