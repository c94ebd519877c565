//! The HTTP service on actix-web: binds, routes, and turns engine errors into status codes. Knows no tensor.
//!
//! [`Application::build`] binds the listener and gives the port back; answers on `/` and `/livez` come at once, scoring and
//! `/readyz` say 503 until [`State::become_ready`] brings the engine.

mod access;
mod azure;
mod body;
mod error;
mod examples;
mod exchange;
mod faults;
mod gauges;
mod golden_watch;
mod health;
mod metrics;
mod mlflow;
mod native;
mod open_inference;
mod openai;
mod openapi;
mod protocol;
mod protocols;
mod quiet;
mod request_ids;
mod settings;
mod state;
mod trace;

use std::io;
use std::net::TcpListener;

use actix_web::dev::{Server, ServerHandle};
use actix_web::rt::spawn;
use actix_web::{App, HttpServer, middleware, web};
use futures_util::future::{OptionFuture, join};

pub use self::error::HttpError;
pub use self::golden_watch::GoldenWatch;
pub use self::settings::{ApiKey, ServerSettings, ServiceName};
pub use self::state::{ServedModel, State, Unready};

use self::error::{method_not_allowed, not_found};
use self::protocols::PROTOCOLS;
use self::quiet::Connections;

/// A bound, not yet running service.
pub struct Application {
    listener: TcpListener,
    /// For `/metrics` alone.
    metrics_listener: Option<TcpListener>,
    state: State,
}

impl Application {
    /// Binds the address, and that of the metrics if they have their own.
    ///
    /// # Errors
    /// When an address cannot be bound, or images cannot be fetched as the settings say.
    pub fn build(settings: ServerSettings) -> io::Result<Self> {
        let listener = TcpListener::bind((settings.host.as_str(), settings.port))?;
        let bind = |port| TcpListener::bind((settings.host.as_str(), port));
        let metrics_listener = settings.metrics_port.map(bind).transpose()?;
        let state = State::new(settings).map_err(io::Error::other)?;
        Ok(Self { listener, metrics_listener, state })
    }

    /// The port that was bound.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn port(&self) -> io::Result<u16> {
        Ok(self.listener.local_addr()?.port())
    }

    /// The port that was bound for the metrics, if they have their own.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn metrics_port(&self) -> io::Result<Option<u16>> {
        let address = self.metrics_listener.as_ref().map(TcpListener::local_addr).transpose()?;
        Ok(address.map(|address| address.port()))
    }

    /// The handle through which the engine arrives.
    #[must_use]
    pub fn state(&self) -> State {
        self.state.clone()
    }

    /// Starts to answer. The future ends when the service is stopped by the handle; signals are the caller's.
    ///
    /// # Errors
    /// When the listener cannot be used.
    pub fn start(self) -> io::Result<(ServerHandle, impl Future<Output = io::Result<()>>)> {
        let Self { listener, metrics_listener, state } = self;
        let settings = state.settings().clone();
        let metrics = metrics_listener.map(|listener| serve_metrics(listener, state.clone())).transpose()?;
        let has_own_port = metrics.is_some();
        let connections = Connections::default();
        let watched = connections.clone();
        let server = HttpServer::new(move || {
            App::new()
                .app_data(web::Data::new(state.clone()))
                .wrap(middleware::from_fn(access::around))
                .configure(|config| routes(config, has_own_port))
                .default_service(web::to(not_found))
        })
        .on_connect(move |connection, extensions| watched.add(connection, extensions))
        // A client that has closed its side has gone: what it asked for need not be computed.
        .h1_allow_half_closed(false)
        .workers(settings.http_workers.get())
        .max_connections(settings.max_connections.get())
        .client_request_timeout(settings.idle_timeout)
        .keep_alive(settings.idle_timeout)
        .shutdown_timeout(settings.shutdown_grace.as_secs())
        .disable_signals()
        .listen(listener)?
        .run();
        let handle = server.handle();
        let until_stopped = async move {
            let metrics_handle = metrics.as_ref().map(Server::handle);
            // The metrics are to be seen as long as there is anything to count.
            let server = async move {
                let watch = spawn(connections.watch(settings.idle_timeout));
                let ended = server.await;
                watch.abort();
                OptionFuture::from(metrics_handle.map(|handle| handle.stop(false))).await;
                ended
            };
            let (ended, metrics_ended) = join(server, OptionFuture::from(metrics)).await;
            ended.and(metrics_ended.unwrap_or(Ok(())))
        };
        Ok((handle, until_stopped))
    }
}

/// The listener that answers `/metrics` and nothing else, without a key: who may reach it is for the network to say.
fn serve_metrics(listener: TcpListener, state: State) -> io::Result<Server> {
    let settings = state.settings().clone();
    let server = HttpServer::new(move || {
        App::new()
            .app_data(web::Data::new(state.clone()))
            .configure(metrics::PROTOCOL.routes)
            .default_service(web::to(not_found))
    })
    .workers(1)
    .max_connections(settings.max_connections.get())
    .client_request_timeout(settings.idle_timeout)
    .keep_alive(settings.idle_timeout)
    .disable_signals()
    .listen(listener)?;
    Ok(server.run())
}

/// The routes of every protocol; those of the metrics only if they have no port of their own.
fn routes(config: &mut web::ServiceConfig, metrics_have_a_port: bool) {
    for protocol in PROTOCOLS {
        if metrics_have_a_port && protocol.name == metrics::PROTOCOL.name {
            continue;
        }
        (protocol.routes)(config);
    }
}

/// A path that answers 405 to the methods it has no route for.
fn resource(path: &str) -> actix_web::Resource {
    web::resource(path.to_owned()).default_service(web::to(method_not_allowed))
}
