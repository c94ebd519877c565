//! A small HTTP server on the own machine, and names that resolve as a test wants. Tests alone use
//! it; it can answer in ways that no decent server would.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::resolver::{Addresses, Names};

/// The first bytes of a PNG: enough for an image here.
pub(super) const IMAGE: &[u8] = b"\x89PNG\r\n\x1a\n0123456789";

/// A connection, plain or encrypted.
pub(super) trait Wire: Read + Write {}
impl<T: Read + Write> Wire for T {}

/// Handles a request; takes the head as text.
type Reply = dyn Fn(&str, &mut dyn Wire) -> io::Result<()> + Send + Sync;

/// A server that runs until the process ends.
pub(super) struct TestServer {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    heads: Arc<Mutex<Vec<String>>>,
}

impl TestServer {
    pub(super) fn start(reply: impl Fn(&str, &mut dyn Wire) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self::start_on(None, Arc::new(reply))
    }

    pub(super) fn start_tls(
        certificate: &Certificate,
        reply: impl Fn(&str, &mut dyn Wire) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self::start_on(Some(certificate.server()), Arc::new(reply))
    }

    /// Answers every request with these bytes and hangs up.
    pub(super) fn saying(answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        Self::start(move |_, wire| wire.write_all(&answer))
    }

    /// Answers every request with a redirect.
    pub(super) fn redirecting(status: u16, location: &str) -> Self {
        Self::saying(redirect(status, location))
    }

    fn start_on(tls: Option<Arc<ServerConfig>>, reply: Arc<Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server =
            Self { address: listener.local_addr().unwrap(), connections: Arc::default(), heads: Arc::default() };
        let connections = Arc::clone(&server.connections);
        let heads = Arc::clone(&server.heads);
        thread::spawn(move || {
            for stream in listener.incoming() {
                connections.fetch_add(1, Ordering::SeqCst);
                let tls = tls.clone();
                let reply = Arc::clone(&reply);
                let heads = Arc::clone(&heads);
                // A client that hangs up is an error of the connection and what many tests want.
                thread::spawn(move || serve(stream?, tls, &heads, &*reply));
            }
        });
        server
    }

    pub(super) fn port(&self) -> u16 {
        self.address.port()
    }

    /// A URL of this server under another name of its host.
    pub(super) fn url(&self, scheme: &str, host: &str) -> String {
        format!("{scheme}://{host}:{}/secret.png?token=secret#secret", self.port())
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// The heads of all requests so far, in lower case.
    pub(super) fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

fn serve(
    stream: TcpStream,
    tls: Option<Arc<ServerConfig>>,
    heads: &Mutex<Vec<String>>,
    reply: &Reply,
) -> io::Result<()> {
    let mut wire: Box<dyn Wire> = match tls {
        None => Box::new(stream),
        Some(config) => Box::new(StreamOwned::new(ServerConnection::new(config).map_err(io::Error::other)?, stream)),
    };
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        wire.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    heads.lock().unwrap().push(head.clone());
    reply(&head, &mut *wire)
}

/// A whole answer with a body.
pub(super) fn ok(headers: &str, body: &[u8]) -> Vec<u8> {
    let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{headers}\r\n", body.len()).into_bytes();
    answer.extend_from_slice(body);
    answer
}

pub(super) fn redirect(status: u16, location: &str) -> String {
    format!("HTTP/1.1 {status} There\r\nLocation: {location}\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n")
}

/// Waits for the client to hang up, so that no test leaves a thread asleep.
pub(super) fn wait_for_hang_up(wire: &mut dyn Wire) -> io::Result<()> {
    while wire.read(&mut [0; 64])? > 0 {}
    Ok(())
}

/// Sends the bytes one by one, slowly, again and again, until the client hangs up.
pub(super) fn drip(wire: &mut dyn Wire, bytes: &[u8]) -> io::Result<()> {
    for byte in bytes.iter().cycle() {
        wire.write_all(&[*byte])?;
        wire.flush()?;
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// A certificate that signs itself.
pub(super) struct Certificate {
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Certificate {
    pub(super) fn for_name(name: &str) -> Self {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        Self { certificate: made.cert.der().clone(), key: made.signing_key.serialize_der() }
    }

    /// Returns the authority that a client must trust.
    pub(super) fn authority(&self) -> rustls::RootCertStore {
        let mut authorities = rustls::RootCertStore::empty();
        authorities.add(self.certificate.clone()).unwrap();
        authorities
    }

    fn server(&self) -> Arc<ServerConfig> {
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], PrivatePkcs8KeyDer::from(self.key.clone()).into())
            .unwrap();
        Arc::new(config)
    }
}

/// Names of a test. Each has a list of answers: one a lookup, the last one for ever.
#[derive(Default)]
pub(super) struct FakeNames {
    answers: Mutex<HashMap<String, VecDeque<Vec<IpAddr>>>>,
    asked: Mutex<Vec<String>>,
}

impl FakeNames {
    pub(super) fn new(names: &[(&str, &[&[&str]])]) -> Arc<Self> {
        let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let answers = names
            .iter()
            .map(|(name, answers)| ((*name).to_owned(), answers.iter().map(|texts| addresses(texts)).collect()))
            .collect();
        Arc::new(Self { answers: Mutex::new(answers), asked: Mutex::default() })
    }

    /// Every name that was looked up.
    pub(super) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Names for FakeNames {
    fn addresses(&self, name: &str) -> Addresses {
        self.asked.lock().unwrap().push(name.to_owned());
        if name == "silent.test" {
            return Box::pin(std::future::pending());
        }
        let mut answers = self.answers.lock().unwrap();
        let answer = answers
            .get_mut(name)
            .and_then(|answers| if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() });
        let answer = answer.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no such name"));
        Box::pin(std::future::ready(answer))
    }
}
