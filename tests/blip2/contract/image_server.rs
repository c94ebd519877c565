//! An image behind a URL of this machine: `/x.png`, and 404 for anything else. Counts its connections.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::helpers::fixture;

pub(super) struct ImageServer {
    port: u16,
    hits: Arc<AtomicUsize>,
}

impl ImageServer {
    /// Serves until the process ends.
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let hits = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&hits);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                counted.fetch_add(1, Ordering::SeqCst);
                let _ = serve(&stream); // who hangs up early is the case's concern
            }
        });
        Self { port, hits }
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn hits(&self) -> usize {
        self.hits.load(Ordering::SeqCst)
    }
}

fn serve(mut stream: &TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let head: Vec<_> =
        BufReader::new(stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    let is_image = head.first().is_some_and(|line| line.starts_with("GET /x.png "));
    let (status, body) =
        if is_image { ("200 OK", fixture("images/png-rgb.png")) } else { ("404 Not Found", Vec::new()) };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: image/png\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )?;
    stream.write_all(&body)
}
