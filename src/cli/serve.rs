//! `blip2 serve`: listens first, loads then, and becomes ready after the golden answers came out right. On SIGTERM it stops
//! to be ready, finishes what it has begun, and ends.

use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::rt::{System, spawn, time};
use actix_web::web;
use anyhow::Context as _;
use clap::{Args, ValueEnum};
use serde_json::Value;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Failure;
use super::runtime_args::RuntimeArgs;
use super::seconds::SecondsOrNever;
use super::server_args::ServerArgs;
use crate::bundle::{Bundle, GoldenCase};
use crate::launch::{LaunchError, Settings, open, replay_goldens};
use crate::server::{Application, GoldenWatch, ServedModel, ServerSettings, State};
use crate::telemetry::{self, LogFormat, LogTarget, Traces};

/// A tiny model replays all golden answers in this time, a large one its shortest. `blip2 verify` replays all.
const GOLDEN_BUDGET: Duration = Duration::from_secs(1);

/// The flags of `blip2 serve`, as typed.
#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    runtime: RuntimeArgs,
    #[command(flatten)]
    server: ServerArgs,

    /// Seconds between two golden answers that are replayed while the service runs, one a time; 0 replays none
    #[arg(long, value_name = "S", env = "BLIP2_GOLDEN_INTERVAL_S", default_value = "300")]
    golden_interval_s: SecondsOrNever,

    /// Format of log lines
    #[arg(long, value_enum, env = "BLIP2_LOG_FORMAT", default_value = "text")]
    log_format: LogFormatArg,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormatArg {
    /// Words and names with values
    Text,
    /// One JSON object a line
    Json,
    /// As Azure's inference server writes them
    Azure,
}

pub(super) fn run(args: &ServeArgs) -> Result<(), Failure> {
    let format = match args.log_format {
        LogFormatArg::Text => LogFormat::Text,
        LogFormatArg::Json => LogFormat::Json,
        LogFormatArg::Azure => LogFormat::Azure,
    };
    telemetry::start_with(LogTarget::Stdout, format);
    // Dropped last: the traces of the last requests are sent when all have ended.
    let traces = Traces::start().map_err(Failure::usage)?;
    let runtime = args.runtime.settings();
    let server = args.server.settings(runtime.image.max_bytes, traces.is_on())?;
    System::new().block_on(serve(server, runtime, args.golden_interval_s.0))
}

async fn serve(settings: ServerSettings, runtime: Settings, golden_interval: Duration) -> Result<(), Failure> {
    let address = format!("{}:{}", settings.host, settings.port);
    let drain_delay = settings.drain_delay;
    log(&settings);
    let application =
        Application::build(settings).with_context(|| format!("cannot listen on {address}")).map_err(Failure::start)?;
    let (state, port) = (application.state(), application.port().map_err(Failure::start)?);
    let metrics_port = application.metrics_port().map_err(Failure::start)?;
    let (handle, server) = application.start().map_err(Failure::start)?;
    // Before anybody is told that the service listens: a signal that nobody waits for would kill it.
    let [terminate, interrupt] = [SignalKind::terminate(), SignalKind::interrupt()].map(signal);
    let (terminate, interrupt) = (terminate.map_err(Failure::start)?, interrupt.map_err(Failure::start)?);
    spawn(stop_on_signal(terminate, interrupt, handle.clone(), state.clone(), drain_delay));
    tracing::info!(port, metrics_port, "listening; loading the model");
    let mut server = Box::pin(server);
    let loading = web::block(move || load_and_replay(&runtime));
    let goldens = tokio::select! {
        ended = &mut server => return ended.map_err(Failure::start),
        loaded = loading => match loaded.map_err(Failure::start)? {
            Ok(Loaded { model, planned_memory, goldens }) => {
                state.note_planned_memory(planned_memory);
                state.become_ready(model);
                goldens
            }
            Err(error) => {
                // The server hears it when it runs on; waiting for the handle here would wait for ever.
                drop(handle.stop(false));
                server.await.map_err(Failure::start)?;
                return Err(Failure::start(error));
            }
        },
    };
    tracing::info!(port, "ready");
    let watch = (!golden_interval.is_zero()).then(|| GoldenWatch::start(state, goldens, golden_interval));
    let _watch = watch.transpose().map_err(Failure::start)?;
    server.await.map_err(Failure::start)
}

/// Logs the settings, without secrets.
fn log(settings: &ServerSettings) {
    tracing::info!(
        host = settings.host,
        port = settings.port,
        metrics_port = settings.metrics_port,
        http_workers = settings.http_workers,
        max_connections = settings.max_connections,
        max_body_bytes = settings.max_body_bytes,
        body_timeout_s = settings.body_timeout.as_secs_f64(),
        idle_timeout_s = settings.idle_timeout.as_secs_f64(),
        scoring_timeout_s = settings.scoring_timeout.map(|limit| limit.as_secs_f64()),
        drain_delay_s = settings.drain_delay.as_secs_f64(),
        shutdown_grace_s = settings.shutdown_grace.as_secs_f64(),
        has_api_key = settings.api_key.is_some(),
        cors_origins = settings.cors_origins.join(","),
        fetches_images = settings.fetch.is_some(),
        is_traced = settings.is_traced,
        "settings"
    );
}

/// SIGTERM and SIGINT: readiness falls, new requests are still taken for a moment, then running ones finish. A second
/// signal ends the process at once.
async fn stop_on_signal(
    mut terminate: Signal,
    mut interrupt: Signal,
    handle: ServerHandle,
    state: State,
    drain_delay: Duration,
) {
    let name = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    };
    state.begin_draining();
    tracing::info!(signal = name, "stopping: not ready any more; running requests finish");
    spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::warn!("stopped at once by a second signal");
        std::process::exit(1);
    });
    // Nobody balances load over a service that is stopped from the keyboard.
    if name == "SIGTERM" {
        time::sleep(drain_delay).await;
    }
    handle.stop(true).await;
}

/// The loaded model, and what the service needs to know of it.
struct Loaded {
    model: ServedModel,
    /// Bytes.
    planned_memory: u64,
    /// To be replayed while the service runs.
    goldens: Vec<GoldenCase>,
}

fn load_and_replay(settings: &Settings) -> Result<Loaded, LaunchError> {
    let opened = open(settings)?;
    let planned_memory = opened.plan.total;
    let (bundle, engine) = opened.start()?;
    let goldens = replay_goldens(&bundle, &engine, Some(GOLDEN_BUDGET))?;
    tracing::info!(replayed = goldens.right, of = goldens.of, "golden answers came out right");
    let (manifest, certificate) = (document(&bundle, "manifest.json"), document(&bundle, "parity.json"));
    let name = bundle.manifest().name.clone();
    Ok(Loaded {
        model: ServedModel { engine, name, manifest: manifest.unwrap_or_default(), certificate },
        planned_memory,
        goldens: bundle.golden_cases()?,
    })
}

/// A JSON file of a bundle, as it stands.
fn document(bundle: &Bundle, name: &str) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(bundle.path(name)).ok()?).ok()
}
