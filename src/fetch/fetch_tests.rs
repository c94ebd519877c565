//! The fetcher against servers that misbehave, all of them on the own machine.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rustls::RootCertStore;
use tokio::time::timeout;

use super::address::{self, is_global};
use super::client::Outside;
use super::test_server::{Certificate, FakeNames, IMAGE, TestServer, drip, ok, redirect, wait_for_hang_up};
use super::{FetchError, FetchSettings, Fetcher, Wait};

/// A spelling of the own machine that [`local_is_public`] refuses, and that would reach it
/// nevertheless.
const FORBIDDEN: &str = "::ffff:127.0.0.1";

/// The production rule, but 127.0.0.1 plays a public host.
fn local_is_public(address: IpAddr) -> bool {
    address == Ipv4Addr::LOCALHOST || is_global(address)
}

fn settings() -> FetchSettings {
    FetchSettings { max_bytes: 64 << 10, ..FetchSettings::default() }
}

/// Times for tests that let them run out. The others keep the defaults, so that a busy machine does
/// not fail them.
fn hasty() -> FetchSettings {
    FetchSettings {
        connect_timeout: Duration::from_millis(100),
        first_byte_timeout: Duration::from_millis(150),
        timeout: Duration::from_millis(300),
        ..settings()
    }
}

/// A fetcher for which 127.0.0.1 is public.
fn fetcher(settings: FetchSettings, names: &Arc<FakeNames>) -> Fetcher {
    trusting(RootCertStore::empty(), settings, names)
}

fn trusting(authorities: RootCertStore, settings: FetchSettings, names: &Arc<FakeNames>) -> Fetcher {
    let names = Arc::clone(names);
    Fetcher::with_outside(settings, Outside { names, rule: local_is_public, authorities }).unwrap()
}

/// `image.test` and `other.test` are public, here.
fn names() -> Arc<FakeNames> {
    FakeNames::new(&[("image.test", &[&["127.0.0.1"]]), ("other.test", &[&["127.0.0.1"]])])
}

/// The fetch fails long before the default times are over, and its message keeps the secrets of the
/// URL.
async fn refused(fetcher: &Fetcher, url: &str) -> FetchError {
    let error = timeout(Duration::from_secs(2), fetcher.fetch(url)).await.expect("refused in time").unwrap_err();
    let message = error.to_string();
    assert!(!message.contains("secret"), "{message}");
    error
}

async fn refused_with(answer: impl Into<Vec<u8>>) -> FetchError {
    let server = TestServer::saying(answer);
    refused(&fetcher(settings(), &names()), &server.url("http", "image.test")).await
}

#[tokio::test]
async fn an_image_is_fetched_with_a_bare_request() {
    let server = TestServer::saying(ok("Content-Type: text/html\r\nContent-Encoding: identity\r\n", IMAGE));
    let bytes = fetcher(settings(), &names()).fetch(&server.url("http", "image.test")).await.unwrap();
    assert_eq!(bytes, IMAGE, "the bytes decide, not a media type");
    let head = &server.heads()[0];
    let port = server.port();
    assert!(head.starts_with("get /secret.png?token=secret http/1.1\r\n"), "{head}");
    for line in [
        format!("host: image.test:{port}\r\n"),
        format!("user-agent: blip2/{}\r\n", env!("CARGO_PKG_VERSION")),
        "accept-encoding: identity\r\n".to_owned(),
    ] {
        assert!(head.contains(&line), "{head}");
    }
    for name in ["cookie", "referer", "authorization", "range"] {
        assert!(!head.contains(&format!("\r\n{name}:")), "{head}");
    }
}

#[tokio::test]
async fn odd_urls_are_asked_as_they_are_or_called_odd() {
    let server = TestServer::saying(ok("", IMAGE));
    let fetcher = fetcher(settings(), &names());
    let url = format!("http://image.test:{}/ü a|b^c[d]{{e}}`\"<>?ü|g{{h}}`^'\"\\#\u{202e}", server.port());
    assert_eq!(fetcher.fetch(&url).await.unwrap(), IMAGE);
    assert_eq!(fetcher.fetch(&format!("http://image.test:{}?x\r\nA: b", server.port())).await.unwrap(), IMAGE);
    assert!(!server.heads()[1].contains("\r\na: b"), "{}", server.heads()[1]);
    for host in ["a\"b.test", "a`b.test", "a{b.test", "a'b.test", "a_b.test", "-a.test", "a*b.test"] {
        let error = refused(&fetcher, &server.url("http", host)).await;
        assert!(matches!(error.reason(), "url" | "dns"), "{host}: {error:?}");
    }
}

#[tokio::test]
async fn chunked_and_unmeasured_bodies_are_read_to_their_end() {
    let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nGIF89\r\n8\r\na1234567\r\n0\r\n\r\n";
    let unmeasured = b"HTTP/1.0 200 OK\r\n\r\nGIF89a1234567";
    for answer in [chunked.as_slice(), unmeasured] {
        let server = TestServer::saying(answer);
        let bytes = fetcher(settings(), &names()).fetch(&server.url("http", "image.test")).await;
        assert_eq!(&bytes.unwrap()[..], b"GIF89a1234567");
    }
}

#[tokio::test]
async fn the_default_refuses_every_spelling_of_the_own_machine_without_a_connection() {
    let server = TestServer::saying(ok("", IMAGE));
    let fetcher = Fetcher::new(settings()).unwrap();
    for host in [
        "127.0.0.1",
        "127.1",
        "0x7f000001",
        "2130706433",
        "017700000001",
        "127.0.0.1.",
        "１２７.０.０.１",
        "0",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::127.0.0.1]",
        "localhost",
        "LOCALHOST.",
    ] {
        let error = refused(&fetcher, &server.url("hTTp", host)).await;
        assert_eq!(error.reason(), "address", "{host}: {error}");
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn metadata_services_are_refused_in_every_spelling() {
    let fetcher = Fetcher::new(settings()).unwrap();
    for host in [
        "169.254.169.254",
        "2852039166",
        "0xa9fea9fe",
        "169.254.43518",
        "[::ffff:169.254.169.254]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:a9fe:a9fe::]",
        "[fd00:ec2::254]",
        "168.63.129.16",
        "100.100.100.200",
        "192.0.0.192",
    ] {
        let error = refused(&fetcher, &format!("http://{host}/latest/meta-data/")).await;
        assert_eq!(error.reason(), "address", "{host}: {error}");
    }
}

#[tokio::test]
async fn private_addresses_are_asked_when_the_operator_says_so_and_the_other_rules_stay() {
    let server = TestServer::saying(ok("", IMAGE));
    let fetcher = Fetcher::new(FetchSettings { allow_private_addresses: true, ..settings() }).unwrap();
    assert_eq!(fetcher.fetch(&server.url("http", "127.1")).await.unwrap(), IMAGE);
    // Shows that what the other tests forbid could be reached; a machine without IPv6 cannot show
    // it.
    if TcpStream::connect((FORBIDDEN, server.port())).is_ok() {
        let forbidden = server.url("http", &format!("[{FORBIDDEN}]"));
        assert_eq!(fetcher.fetch(&forbidden).await.unwrap(), IMAGE);
    }
    assert_eq!(refused(&fetcher, &server.url("http", "user@127.0.0.1")).await.reason(), "credentials");
    assert_eq!(refused(&fetcher, &server.url("ftp", "127.0.0.1")).await.reason(), "scheme");
    let page = TestServer::saying(ok("", b"<!DOCTYPE html>"));
    assert_eq!(refused(&fetcher, &page.url("http", "127.0.0.1")).await.reason(), "not_an_image");
}

#[tokio::test]
async fn a_name_with_one_private_address_is_refused_without_a_connection() {
    let server = TestServer::saying(ok("", IMAGE));
    let names = FakeNames::new(&[
        ("last.test", &[&["127.0.0.1", FORBIDDEN]]),
        ("first.test", &[&[FORBIDDEN, "127.0.0.1"]]),
        ("alone.test", &[&[FORBIDDEN]]),
        ("internal.test", &[&["10.11.12.13"]]),
    ]);
    let fetcher = fetcher(settings(), &names);
    for host in ["last.test", "first.test", "alone.test", "internal.test"] {
        let error = refused(&fetcher, &server.url("http", host)).await;
        assert!(matches!(&error, FetchError::Address { host: named } if named == host), "{error:?}");
        assert!(!error.to_string().contains("10.11"), "{error}");
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn a_name_that_changes_is_asked_at_the_address_that_was_checked() {
    // Keeps the connection open, in case somebody wants to use it again.
    let server = TestServer::start(|_, wire| {
        wire.write_all(&ok("", IMAGE))?;
        wait_for_hang_up(wire)
    });
    let names = FakeNames::new(&[("rebinding.test", &[&["127.0.0.1"], &[FORBIDDEN]])]);
    let fetcher = fetcher(settings(), &names);
    let url = server.url("http", "rebinding.test");
    assert_eq!(fetcher.fetch(&url).await.unwrap(), IMAGE);
    assert_eq!(names.asked(), ["rebinding.test"], "one lookup for check and connection");
    assert_eq!(refused(&fetcher, &url).await.reason(), "address", "and none is remembered");
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn an_unknown_name_and_a_closed_port_are_told_apart() {
    let fetcher = fetcher(settings(), &names());
    let error = refused(&fetcher, "http://unknown.test/secret").await;
    assert!(matches!(&error, FetchError::Dns { host, .. } if host == "unknown.test"), "{error:?}");
    // Bound and dropped, so nobody listens there.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = refused(&fetcher, &format!("http://image.test:{port}/secret")).await;
    assert_eq!(error.reason(), "connect", "{error:?}");
}

#[tokio::test]
async fn redirects_are_followed_three_times() {
    let image = TestServer::saying(ok("", IMAGE));
    let third = TestServer::redirecting(308, &image.url("http", "other.test"));
    let second = TestServer::redirecting(307, &third.url("http", "127.0.0.1"));
    let first = TestServer::redirecting(303, &second.url("http", "image.test"));
    let zeroth = TestServer::redirecting(301, &first.url("http", "image.test"));
    let fetcher = fetcher(settings(), &names());
    assert_eq!(fetcher.fetch(&first.url("http", "image.test")).await.unwrap(), IMAGE);
    let head = image.heads()[0].clone();
    assert!(!head.contains("cookie") && !head.contains("referer"), "{head}");
    let error = refused(&fetcher, &zeroth.url("http", "image.test")).await;
    assert!(matches!(error, FetchError::TooManyRedirects { limit: 3 }), "{error:?}");
    assert_eq!(image.connections(), 1);
}

#[tokio::test]
async fn a_relative_redirect_stays_on_its_host() {
    let server = TestServer::start(|head, wire| {
        if head.starts_with("get /there.png ") {
            wire.write_all(&ok("", IMAGE))
        } else {
            wire.write_all(redirect(302, "there.png").as_bytes())
        }
    });
    assert_eq!(fetcher(settings(), &names()).fetch(&server.url("http", "image.test")).await.unwrap(), IMAGE);
}

#[tokio::test]
async fn a_redirect_loop_ends() {
    let server = TestServer::redirecting(302, "/secret");
    let error = refused(&fetcher(settings(), &names()), &server.url("http", "image.test")).await;
    assert!(matches!(error, FetchError::TooManyRedirects { limit: 3 }), "{error:?}");
    assert_eq!(server.connections(), 4);
}

#[tokio::test]
async fn a_redirect_to_what_may_not_be_asked_is_refused_without_a_connection() {
    let forbidden = TestServer::saying(ok("", IMAGE));
    let names = FakeNames::new(&[("image.test", &[&["127.0.0.1"]]), ("inside.test", &[&[FORBIDDEN]])]);
    let fetcher = fetcher(settings(), &names);
    for (location, reason) in [
        (forbidden.url("http", "[::ffff:127.0.0.1]"), "address"),
        (forbidden.url("http", "inside.test"), "address"),
        ("http://169.254.169.254/latest/meta-data/".to_owned(), "address"),
        ("//2852039166/latest/meta-data/".to_owned(), "address"),
        ("http://[fd00:ec2::254]/".to_owned(), "address"),
        ("http:\\\\127.2\\".to_owned(), "address"),
        (forbidden.url("http", "user:secret@image.test"), "credentials"),
        ("file:///etc/passwd".to_owned(), "scheme"),
        ("gopher://image.test/".to_owned(), "scheme"),
        (format!("/{}", "secret".repeat(2000)), "url"),
        ("http://[".to_owned(), "redirect"),
    ] {
        let server = TestServer::redirecting(302, &location);
        let error = refused(&fetcher, &server.url("http", "image.test")).await;
        assert_eq!(error.reason(), reason, "{location}: {error}");
    }
    assert_eq!(forbidden.connections(), 0);
    assert_eq!(refused_with("HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n").await.reason(), "redirect");
}

#[tokio::test]
async fn the_list_of_hosts_holds_for_every_hop() {
    let other = TestServer::saying(ok("", IMAGE));
    let server = TestServer::redirecting(302, &other.url("http", "other.test"));
    let allowed = |entry: &str| FetchSettings { allowed_hosts: vec![entry.to_owned()], ..settings() };

    let names = names();
    let image_alone = fetcher(allowed("image.test"), &names);
    let error = refused(&image_alone, &server.url("http", "image.test")).await;
    assert!(matches!(&error, FetchError::HostNotAllowed { host } if host == "other.test"), "{error:?}");
    assert_eq!(refused(&image_alone, &other.url("http", "127.0.0.1")).await.reason(), "host");
    assert_eq!(other.connections(), 0);
    assert_eq!(names.asked(), ["image.test"], "other names are not even looked up");

    let both = fetcher(allowed(".test"), &names);
    assert_eq!(both.fetch(&server.url("http", "IMAGE.test.")).await.unwrap(), IMAGE);
    let error = Fetcher::new(allowed("http://image.test/")).err().unwrap();
    assert_eq!(error.reason(), "settings");
}

#[tokio::test]
async fn an_endless_body_ends_at_the_limit() {
    for head in ["HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"] {
        let server = TestServer::start(move |_, wire| {
            wire.write_all(head.as_bytes())?;
            let chunk = [IMAGE, &[0; 1024][IMAGE.len()..]].concat();
            loop {
                if head.contains("chunked") {
                    wire.write_all(b"400\r\n")?;
                }
                wire.write_all(&chunk)?;
                if head.contains("chunked") {
                    wire.write_all(b"\r\n")?;
                }
            }
        });
        let error = refused(&fetcher(settings(), &names()), &server.url("http", "image.test")).await;
        assert!(matches!(error, FetchError::TooLarge { limit: 65536, .. }), "{error:?}");
    }
}

#[tokio::test]
async fn an_announced_size_above_the_limit_is_refused_at_once() {
    for length in ["65537", "1099511627776", "18446744073709551615"] {
        let server = TestServer::start(move |_, wire| {
            wire.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").as_bytes())?;
            wait_for_hang_up(wire)
        });
        let error = refused(&fetcher(settings(), &names()), &server.url("http", "image.test")).await;
        assert!(matches!(error.reason(), "too_large" | "protocol"), "{length}: {error:?}");
    }
}

#[tokio::test]
async fn a_slow_body_ends_with_the_time_for_all() {
    let server = TestServer::start(|_, wire| {
        wire.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n")?;
        drip(wire, IMAGE)
    });
    let error = refused(&fetcher(hasty(), &names()), &server.url("http", "image.test")).await;
    assert!(matches!(error, FetchError::Timeout { wait: Wait::Whole, .. }), "{error:?}");
}

#[tokio::test]
async fn slow_heads_silence_and_slow_redirects_end_with_the_time_for_the_first_byte() {
    let silent = TestServer::start(|_, wire| wait_for_hang_up(wire));
    let slow_head = TestServer::start(|_, wire| {
        wire.write_all(b"HTTP/1.1 200 OK\r\n")?;
        drip(wire, b"X-A: b\r\n")
    });
    let headless = TestServer::start(|_, wire| {
        wire.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n")?;
        wait_for_hang_up(wire)
    });
    let continuing = TestServer::start(|_, wire| {
        loop {
            wire.write_all(b"HTTP/1.1 103 Early Hints\r\n\r\n")?;
            thread::sleep(Duration::from_millis(10));
        }
    });
    let fetcher = fetcher(hasty(), &names());
    for server in [&silent, &slow_head, &headless, &continuing] {
        let error = refused(&fetcher, &server.url("http", "image.test")).await;
        assert!(matches!(error, FetchError::Timeout { wait: Wait::FirstByte, .. }), "{error:?}");
    }
    let slow_redirect = TestServer::start(|_, wire| {
        thread::sleep(Duration::from_millis(100));
        wire.write_all(redirect(302, "/secret").as_bytes())
    });
    let error = refused(&fetcher, &slow_redirect.url("http", "image.test")).await;
    assert!(matches!(error, FetchError::Timeout { wait: Wait::Whole, .. }), "redirects share the time: {error:?}");
}

#[tokio::test]
async fn a_silent_name_server_ends_with_the_time_to_connect() {
    let error = refused(&fetcher(hasty(), &names()), "http://silent.test/secret").await;
    assert!(matches!(error, FetchError::Timeout { wait: Wait::Connect, .. }), "{error:?}");
}

#[tokio::test]
async fn packed_answers_are_refused() {
    for coding in ["gzip", "br", "identity, gzip", "deflate"] {
        let answer = ok(&format!("Content-Encoding: {coding}\r\n"), b"\x1f\x8b\x08\0\0\0\0\0\0\0\0\0");
        assert_eq!(refused_with(answer).await.reason(), "encoding", "{coding}");
    }
}

#[tokio::test]
async fn what_is_no_image_is_refused_without_the_rest() {
    let server = TestServer::start(|_, wire| {
        wire.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: 60000\r\n\r\n<!DOCTYPE html>")?;
        wait_for_hang_up(wire)
    });
    let error = refused(&fetcher(settings(), &names()), &server.url("http", "image.test")).await;
    assert!(matches!(error, FetchError::NotAnImage { .. }), "{error:?}");
}

#[tokio::test]
async fn other_statuses_are_named() {
    for status in [201, 300, 304, 305, 401, 404, 500, 503] {
        let answer = format!("HTTP/1.1 {status} Secret\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n");
        let error = refused_with(answer).await;
        if status == 201 {
            assert_eq!(error.reason(), "empty");
        } else {
            assert_eq!(error.reason(), "status", "{status}");
            assert!(error.to_string().contains(&status.to_string()), "{error}");
        }
    }
}

#[tokio::test]
async fn nothing_is_refused() {
    for answer in
        ["HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.0 200 OK\r\n\r\n"]
    {
        assert_eq!(refused_with(answer).await.reason(), "empty", "{answer}");
    }
}

#[tokio::test]
async fn broken_answers_are_refused() {
    let truncated = [b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n", IMAGE].concat();
    let chunk = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n";
    let many_headers = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X-A: b\r\n".repeat(1000));
    for answer in [truncated.as_slice(), chunk, many_headers.as_bytes(), b"220 mail.test ESMTP\r\n", b""] {
        let error = refused_with(answer).await;
        assert_eq!(error.reason(), "protocol", "{error:?}");
    }
}

#[tokio::test]
async fn no_more_fetches_run_than_there_are_places() {
    let running = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let running_there = Arc::clone(&running);
    let most_there = Arc::clone(&most);
    let server = TestServer::start(move |_, wire| {
        most_there.fetch_max(running_there.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        thread::sleep(Duration::from_millis(50));
        running_there.fetch_sub(1, Ordering::SeqCst);
        wire.write_all(&ok("", IMAGE))
    });
    let settings = FetchSettings { max_concurrent: 3, ..settings() };
    let fetcher = fetcher(settings, &names());
    let fetches: Vec<_> = (0..12)
        .map(|_| {
            let fetcher = fetcher.clone();
            let url = server.url("http", "image.test");
            tokio::spawn(async move { fetcher.fetch(&url).await })
        })
        .collect();
    for fetch in fetches {
        assert_eq!(fetch.await.unwrap().unwrap(), IMAGE);
    }
    assert_eq!(most.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn waiting_for_a_place_is_part_of_the_time_and_a_dropped_fetch_frees_its_place() {
    let silent = TestServer::start(|_, wire| wait_for_hang_up(wire));
    let server = TestServer::saying(ok("", IMAGE));
    let fetcher = fetcher(FetchSettings { max_concurrent: 1, timeout: Duration::from_secs(1), ..settings() }, &names());
    let held = fetcher.shared.permits.acquire().await.unwrap();
    assert_eq!(refused(&fetcher, &server.url("http", "image.test")).await.reason(), "busy");
    drop(held);

    let url = silent.url("http", "image.test");
    let dropped = timeout(Duration::from_millis(50), fetcher.fetch(&url)).await;
    assert!(dropped.is_err());
    assert_eq!(fetcher.fetch(&server.url("http", "image.test")).await.unwrap(), IMAGE);
}

#[tokio::test]
async fn https_needs_a_certificate_for_the_name_from_a_known_authority() {
    let certificate = Certificate::for_name("image.test");
    let server = TestServer::start_tls(&certificate, |_, wire| {
        wire.write_all(&ok("", IMAGE))?;
        wire.flush()
    });
    let fetcher = trusting(certificate.authority(), settings(), &names());
    assert_eq!(fetcher.fetch(&server.url("https", "image.test")).await.unwrap(), IMAGE);
    let error = refused(&fetcher, &server.url("https", "other.test")).await;
    assert!(matches!(error, FetchError::Tls { .. }), "another name: {error:?}");

    let stranger = Certificate::for_name("image.test");
    let fetcher = trusting(stranger.authority(), settings(), &names());
    let error = refused(&fetcher, &server.url("https", "image.test")).await;
    assert!(matches!(error, FetchError::Tls { .. }), "another authority: {error:?}");

    let plain = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = plain.local_addr().unwrap().port();
    thread::spawn(move || plain.accept().unwrap().0.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n"));
    let error = refused(&fetcher, &format!("https://image.test:{port}/secret")).await;
    assert!(matches!(error, FetchError::Tls { .. }), "no TLS at all: {error:?}");

    let fetcher = trusting(RootCertStore::empty(), settings(), &names());
    let error = refused(&fetcher, &server.url("https", "image.test")).await;
    assert!(matches!(error, FetchError::NoAuthorities), "{error:?}");
}

#[tokio::test]
async fn a_redirect_may_step_up_to_https_and_never_down() {
    let certificate = Certificate::for_name("image.test");
    let plain = TestServer::saying(ok("", IMAGE));
    let down = redirect(302, &plain.url("http", "image.test"));
    let server = TestServer::start_tls(&certificate, move |_, wire| wire.write_all(down.as_bytes()));
    let fetcher = trusting(certificate.authority(), settings(), &names());
    let error = refused(&fetcher, &server.url("https", "image.test")).await;
    assert!(matches!(error, FetchError::Downgrade { .. }), "{error:?}");
    assert_eq!(plain.connections(), 0);

    let safe = TestServer::start_tls(&certificate, |_, wire| wire.write_all(&ok("", IMAGE)));
    let up = TestServer::redirecting(301, &safe.url("https", "image.test"));
    assert_eq!(fetcher.fetch(&up.url("http", "image.test")).await.unwrap(), IMAGE);
}

/// The variables are those of a process, so the test runs itself once more with them.
#[test]
fn proxies_of_the_environment_are_not_asked() {
    const URL: &str = "BLIP2_TEST_IMAGE_URL";
    if let Ok(url) = std::env::var(URL) {
        let outside = Outside { names: names(), rule: address::any, authorities: RootCertStore::empty() };
        let fetcher = Fetcher::with_outside(settings(), outside).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        assert_eq!(runtime.block_on(fetcher.fetch(&url)).unwrap(), IMAGE);
        return;
    }
    let proxy = TestServer::saying(ok("", IMAGE));
    let server = TestServer::saying(ok("", IMAGE));
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "fetch::fetch_tests::proxies_of_the_environment_are_not_asked"]);
    child.env(URL, server.url("http", "image.test"));
    for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        child.env(name, format!("http://127.0.0.1:{}", proxy.port()));
    }
    let output = child.env_remove("NO_PROXY").env_remove("no_proxy").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!((server.connections(), proxy.connections()), (1, 0));
}
