//! The HTTP service on actix-web: binds, routes, and turns engine errors into status codes. Knows no tensor.
//!
//! [`Application::build`] binds the listener and gives the port back; answers on `/` and `/livez` come at once, scoring and
//! `/readyz` say 503 until [`State::become_ready`] brings the engine.

mod error;
mod health;
mod image_string;
mod score;
mod score_request;
mod state;

use std::io;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use actix_web::body::MessageBody;
use actix_web::dev::{ServerHandle, ServiceRequest, ServiceResponse};
use actix_web::middleware::{self, Next};
use actix_web::{App, HttpServer, web};

pub use self::error::HttpError;
pub use self::state::State;

use self::error::{method_not_allowed, not_found};

/// A running request has this long to finish after SIGTERM; the platform kills after 30 s.
const SHUTDOWN_GRACE_S: u64 = 25;

/// Headers must arrive within this time, so that slow senders do not hold connections.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Where to listen and what to take.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// Address to bind.
    pub host: String,
    /// Port to bind; 0 for any free one.
    pub port: u16,
    /// Largest request body in bytes.
    pub max_body_bytes: usize,
    /// Threads that read requests and write answers.
    pub http_workers: usize,
}

/// The largest body in bytes, for the message: actix keeps its own copy to itself.
#[derive(Debug, Clone, Copy)]
struct BodyLimit(usize);

/// A bound, not yet running service.
pub struct Application {
    listener: TcpListener,
    settings: ServerSettings,
    state: State,
}

impl Application {
    /// Binds the address.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn build(settings: ServerSettings) -> io::Result<Self> {
        let listener = TcpListener::bind((settings.host.as_str(), settings.port))?;
        Ok(Self { listener, settings, state: State::default() })
    }

    /// The port that was bound.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn port(&self) -> io::Result<u16> {
        Ok(self.listener.local_addr()?.port())
    }

    /// The handle through which the engine arrives.
    #[must_use]
    pub fn state(&self) -> State {
        self.state.clone()
    }

    /// Starts to answer. The future ends when the service does: by SIGTERM, SIGINT, or the handle.
    ///
    /// # Errors
    /// When the listener cannot be used.
    pub fn start(self) -> io::Result<(ServerHandle, impl Future<Output = io::Result<()>>)> {
        let Self { listener, settings, state } = self;
        let limit = settings.max_body_bytes;
        let server = HttpServer::new(move || {
            App::new()
                .app_data(web::Data::new(state.clone()))
                .app_data(web::PayloadConfig::new(limit))
                .app_data(BodyLimit(limit))
                .wrap(middleware::from_fn(log_request))
                .configure(routes)
        })
        .workers(settings.http_workers)
        .client_request_timeout(HEADER_TIMEOUT)
        .shutdown_timeout(SHUTDOWN_GRACE_S)
        .listen(listener)?
        .run();
        Ok((server.handle(), server))
    }
}

fn routes(config: &mut web::ServiceConfig) {
    config
        .service(probe("/").route(web::get().to(health::root)).route(web::head().to(health::root)))
        .service(probe("/livez").route(web::get().to(health::livez)))
        .service(probe("/readyz").route(web::get().to(health::readyz)))
        .service(probe("/score").route(web::post().to(score::score)))
        .default_service(web::to(not_found));
}

fn probe(path: &str) -> actix_web::Resource {
    web::resource(path.to_owned()).default_service(web::to(method_not_allowed))
}

/// One line a request, except for liveness probes. Never the query, headers or body.
async fn log_request(
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let started = Instant::now();
    let (method, path) = (request.method().clone(), request.path().to_owned());
    let response = next.call(request).await?;
    if path != "/" && path != "/livez" {
        let ms = started.elapsed().as_secs_f64() * 1e3;
        tracing::info!(%method, path, status = response.status().as_u16(), ms = (ms * 10.0).round() / 10.0, "request");
    }
    Ok(response)
}
