//! The errors of fetching an image. The sender of the URL sees the text of every variant. It may
//! name the host, and never the path, the query, a password or the address of a name. The log gets
//! the causes.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

/// An error in place of an image.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The text is not a URL.
    #[error("the image URL cannot be read; send an absolute http or https URL, or the image as base64")]
    Url,
    /// The URL is too long.
    #[error("the image URL is longer than {limit} bytes; use a shorter one, or send the image as base64")]
    UrlTooLong {
        /// The most bytes of a URL.
        limit: usize,
    },
    /// The scheme is neither http nor https.
    #[error("the image URL is neither http nor https; other schemes are not supported; send the image as base64")]
    Scheme,
    /// The URL holds a user name or password.
    #[error("the image URL holds a user name or a password; send it without, or send the image as base64")]
    Credentials,
    /// The host is not on the list of allowed hosts.
    #[error(
        "images are not fetched from {host}; send the image as base64, or start the service with {host} among its \
         --image-url-hosts"
    )]
    HostNotAllowed {
        /// The host.
        host: String,
    },
    /// The host is, or resolves to, a blocked address.
    #[error(
        "{host} is not at a public address; use a public host, send the image as base64, or start the service with \
         --allow-private-image-urls"
    )]
    Address {
        /// The host.
        host: String,
    },
    /// The name does not resolve.
    #[error("{host} cannot be found; check the host in the image URL")]
    Dns {
        /// The host.
        host: String,
        /// The error of the resolver.
        #[source]
        source: io::Error,
    },
    /// The host refuses the connection, or is unreachable.
    #[error("{host} takes no connection; check host and port in the image URL, or send the image as base64")]
    Connect {
        /// The host.
        host: String,
        /// The error of the network.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The TLS handshake fails.
    #[error(
        "{host} offers no TLS that can be trusted; it needs a certificate for this name from a known authority, or send the \
         image as base64"
    )]
    Tls {
        /// The host.
        host: String,
        /// The error of TLS.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The machine has no certificate authorities.
    #[error(
        "https images cannot be fetched because the service found no certificate authorities; install ca-certificates \
         where it runs, or send the image as base64"
    )]
    NoAuthorities,
    /// The host is too slow.
    #[error("{host} {wait} within {limit:?}; use a faster host or send the image as base64")]
    Timeout {
        /// The host; the first one if the whole fetch took too long.
        host: String,
        /// The event that was waited for.
        wait: Wait,
        /// The time limit.
        limit: Duration,
    },
    /// Too many concurrent fetches.
    #[error("too many images are being fetched; try again in a moment, or send the image as base64")]
    Busy,
    /// There are too many redirects.
    #[error("the image URL was redirected more than {limit} times; send the URL of the image itself")]
    TooManyRedirects {
        /// The most redirects.
        limit: usize,
    },
    /// A redirect has no valid location.
    #[error("{host} redirects without saying where to; send the URL of the image itself")]
    Redirect {
        /// The host.
        host: String,
    },
    /// A redirect leads from https to http.
    #[error("{host} redirects from https to http, which is not followed; send the URL of the image itself")]
    Downgrade {
        /// The host.
        host: String,
    },
    /// The status is neither success nor redirect.
    #[error("{host} answered {status} instead of an image; check that the image URL can be read without logging in")]
    Status {
        /// The host.
        host: String,
        /// The status.
        status: u16,
    },
    /// The response is compressed, although that was not requested.
    #[error("{host} sends the image in a content encoding that was not asked for; use another host or base64")]
    Encoding {
        /// The host.
        host: String,
    },
    /// The image is too large.
    #[error("the image at {host} is larger than {limit} bytes; send a smaller image")]
    TooLarge {
        /// The host.
        host: String,
        /// The most bytes of an image.
        limit: usize,
    },
    /// The body is empty.
    #[error("{host} answered with nothing; check the image URL")]
    Empty {
        /// The host.
        host: String,
    },
    /// The body is not an image.
    #[error("what {host} sends is not a JPEG, PNG, WebP, GIF, BMP or TIFF image; send the URL of the image itself")]
    NotAnImage {
        /// The host.
        host: String,
    },
    /// The response is not valid HTTP, or ends early.
    #[error("the answer of {host} is broken or incomplete; try again, or send the image as base64")]
    Protocol {
        /// The host.
        host: String,
        /// The error of the client.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// A setting would make every fetch fail. Only from [`Fetcher::new`](super::Fetcher::new).
    #[error("fetching images: {0}")]
    Settings(String),
    /// The client cannot be set up. Only from [`Fetcher::new`](super::Fetcher::new).
    #[error("fetching images: the HTTP client cannot be set up")]
    Client(#[source] Box<dyn Error + Send + Sync>),
}

/// The event that a fetch waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// The connection: name, TCP and TLS.
    Connect,
    /// The head of the response and the first byte of the image.
    FirstByte,
    /// The whole image, with redirects.
    Whole,
}

impl fmt::Display for Wait {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Connect => "took no connection",
            Self::FirstByte => "sent no image",
            Self::Whole => "did not send the whole image",
        })
    }
}

impl FetchError {
    /// Returns a short label for metrics, from a fixed set.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Url | Self::UrlTooLong { .. } => "url",
            Self::Scheme => "scheme",
            Self::Credentials => "credentials",
            Self::HostNotAllowed { .. } => "host",
            Self::Address { .. } => "address",
            Self::Dns { .. } => "dns",
            Self::Connect { .. } => "connect",
            Self::Tls { .. } | Self::NoAuthorities => "tls",
            Self::Timeout { .. } => "timeout",
            Self::Busy => "busy",
            Self::TooManyRedirects { .. } | Self::Redirect { .. } | Self::Downgrade { .. } => "redirect",
            Self::Status { .. } => "status",
            Self::Encoding { .. } => "encoding",
            Self::TooLarge { .. } => "too_large",
            Self::Empty { .. } => "empty",
            Self::NotAnImage { .. } => "not_an_image",
            Self::Protocol { .. } => "protocol",
            Self::Settings(_) | Self::Client(_) => "settings",
        }
    }
}
