//! Connections that keep quiet: actix-web's own timers close one that sends nothing after an answer, and one whose first head
//! comes slowly, but not one whose second head does. Those are cut off here.
//!
//! A second handle to the socket is what can end a connection from outside, so each takes two file descriptors.

use std::any::Any;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use actix_web::dev::Extensions;
use actix_web::rt::{self, time};

/// A connection, and since when it is without a request.
pub(super) struct Connection {
    socket: TcpStream,
    quiet_since: Mutex<Option<Instant>>,
}

impl Connection {
    /// A request came, or its answer has ended.
    pub(super) fn note(&self, is_busy: bool) {
        *self.quiet_since.lock().unwrap_or_else(PoisonError::into_inner) = (!is_busy).then(Instant::now);
    }

    fn is_quiet_for(&self, time: Duration) -> bool {
        self.quiet_since.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|since| since.elapsed() > time)
    }
}

/// All connections of a service.
#[derive(Clone, Default)]
pub(super) struct Connections(Arc<Mutex<Vec<Weak<Connection>>>>);

impl Connections {
    /// Takes note of a connection; for `HttpServer::on_connect`.
    pub(super) fn add(&self, connection: &dyn Any, extensions: &mut Extensions) {
        let Some(stream) = connection.downcast_ref::<rt::net::TcpStream>() else { return };
        // Without a further descriptor the connection lives as if nobody watched it.
        let Ok(socket) = stream.as_fd().try_clone_to_owned() else { return };
        let connection = Connection { socket: socket.into(), quiet_since: Mutex::new(Some(Instant::now())) };
        let connection = Arc::new(connection);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&connection));
        extensions.insert(connection);
    }

    /// Cuts off those that are quiet for twice the time after which an idle connection is closed. Ends with the service.
    pub(super) async fn watch(self, idle_timeout: Duration) {
        loop {
            time::sleep(idle_timeout / 2).await;
            self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|connection| {
                let Some(connection) = connection.upgrade() else { return false };
                if connection.is_quiet_for(2 * idle_timeout) {
                    let _ = connection.socket.shutdown(Shutdown::Both); // it may have ended by itself
                }
                true
            });
        }
    }
}
