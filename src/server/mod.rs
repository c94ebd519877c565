//! The HTTP service on actix-web: binds, routes, and turns engine errors into status codes. Knows no tensor.
//!
//! [`Application::build`] binds the listener and gives the port back; answers on `/` and `/livez` come at once, scoring and
//! `/readyz` say 503 until [`State::become_ready`] brings the engine.

mod access;
mod answering;
mod azure;
mod body;
mod error;
mod health;
mod image_source;
mod metrics;
mod mlflow;
mod native;
mod open_inference;
mod openai;
mod openapi;
mod request_ids;
mod settings;
mod state;

use std::io;
use std::net::TcpListener;

use actix_web::dev::ServerHandle;
use actix_web::{App, HttpServer, middleware, web};

pub use self::error::HttpError;
pub use self::settings::{ApiKey, ServerSettings, ServiceName};
pub use self::state::{ServedModel, State, Unready};

use self::error::{method_not_allowed, not_found};

/// A bound, not yet running service.
pub struct Application {
    listener: TcpListener,
    state: State,
}

impl Application {
    /// Binds the address.
    ///
    /// # Errors
    /// When the address cannot be bound, or images cannot be fetched as the settings say.
    pub fn build(settings: ServerSettings) -> io::Result<Self> {
        let listener = TcpListener::bind((settings.host.as_str(), settings.port))?;
        let state = State::new(settings).map_err(io::Error::other)?;
        Ok(Self { listener, state })
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

    /// Starts to answer. The future ends when the service is stopped by the handle; signals are the caller's.
    ///
    /// # Errors
    /// When the listener cannot be used.
    pub fn start(self) -> io::Result<(ServerHandle, impl Future<Output = io::Result<()>>)> {
        let Self { listener, state } = self;
        let settings = state.settings().clone();
        let server = HttpServer::new(move || {
            App::new()
                .app_data(web::Data::new(state.clone()))
                .wrap(middleware::from_fn(access::around))
                .configure(routes)
                .configure(azure::routes)
                .configure(mlflow::routes)
                .configure(native::routes)
                .configure(open_inference::routes)
                .configure(openai::routes)
                .configure(openapi::routes)
                .default_service(web::to(not_found))
        })
        .workers(settings.http_workers.get())
        .max_connections(settings.max_connections.get())
        .client_request_timeout(settings.idle_timeout)
        .keep_alive(settings.idle_timeout)
        .shutdown_timeout(settings.shutdown_grace.as_secs())
        .disable_signals()
        .listen(listener)?
        .run();
        Ok((server.handle(), server))
    }
}

fn routes(config: &mut web::ServiceConfig) {
    let options = || web::method(actix_web::http::Method::OPTIONS);
    config
        .service(
            resource("/")
                .route(web::get().to(health::root))
                .route(web::head().to(health::root))
                .route(options().to(health::options)),
        )
        .service(resource("/livez").route(web::get().to(health::livez)))
        .service(resource("/readyz").route(web::get().to(health::readyz)));
}

/// A path that answers 405 to the methods it has no route for.
fn resource(path: &str) -> actix_web::Resource {
    web::resource(path.to_owned()).default_service(web::to(method_not_allowed))
}
