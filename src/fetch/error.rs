//! Why an image could not be fetched. The text of every variant is shown to whoever sent the URL: it names the host at
//! most, never the path, the query, a password or an address behind a name. Causes are kept for the log.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Not a URL.
    #[error("the image URL cannot be read; send an absolute http or https URL, or the image as base64")]
    Url,
    /// More bytes than a URL may have.
    #[error("the image URL is longer than {limit} bytes; use a shorter one, or send the image as base64")]
    UrlTooLong {
        /// Bytes that a URL may have.
        limit: usize,
    },
    /// A scheme that is never opened.
    #[error("the image URL is neither http nor https; other schemes are never opened, send the image as base64")]
    Scheme,
    /// User name or password in the URL.
    #[error("the image URL holds a user name or a password; send it without, or send the image as base64")]
    Credentials,
    /// Not on the list of hosts.
    #[error(
        "images are not fetched from {host}; send the image as base64, or start the service with {host} among its \
         --image-url-hosts"
    )]
    HostNotAllowed {
        /// Host that was to be asked.
        host: String,
    },
    /// An address that is not global, or a name with such an address.
    #[error(
        "{host} is not at a public address; use a public host, send the image as base64, or start the service with \
         --allow-private-image-urls"
    )]
    Address {
        /// Host that was to be asked.
        host: String,
    },
    /// The name has no address.
    #[error("{host} cannot be found; check the host in the image URL")]
    Dns {
        /// Host that was to be asked.
        host: String,
        /// What the resolver said.
        #[source]
        source: io::Error,
    },
    /// No connection.
    #[error("{host} takes no connection; check host and port in the image URL, or send the image as base64")]
    Connect {
        /// Host that was asked.
        host: String,
        /// What the network said.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// No connection that can be trusted.
    #[error(
        "{host} offers no TLS that can be trusted; it needs a certificate for this name from a known authority, or send the \
         image as base64"
    )]
    Tls {
        /// Host that was asked.
        host: String,
        /// What is wrong with it.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The machine knows no authority, so that no certificate can be checked.
    #[error(
        "https images cannot be fetched because the service found no certificate authorities; install ca-certificates \
         where it runs, or send the image as base64"
    )]
    NoAuthorities,
    /// Too slow.
    #[error("{host} {wait} within {limit:?}; use a faster host or send the image as base64")]
    Timeout {
        /// Host that was asked; the first one when it is about the whole fetch.
        host: String,
        /// What did not come.
        wait: Wait,
        /// How long was waited.
        limit: Duration,
    },
    /// No place became free in time.
    #[error("too many images are being fetched; try again in a moment, or send the image as base64")]
    Busy,
    /// Too many redirects, or a loop of them.
    #[error("the image URL was redirected more than {limit} times; send the URL of the image itself")]
    TooManyRedirects {
        /// Redirects that are followed.
        limit: usize,
    },
    /// A redirect to nowhere.
    #[error("{host} redirects without saying where to; send the URL of the image itself")]
    Redirect {
        /// Host that was asked.
        host: String,
    },
    /// A redirect from https to http.
    #[error("{host} redirects from https to http, which is not followed; send the URL of the image itself")]
    Downgrade {
        /// Host that was asked.
        host: String,
    },
    /// Neither success nor redirect.
    #[error("{host} answered {status} instead of an image; check that the image URL can be read without logging in")]
    Status {
        /// Host that was asked.
        host: String,
        /// Its answer.
        status: u16,
    },
    /// A compressed answer, although none was asked for.
    #[error("{host} sends the image in a content encoding that was not asked for; use another host or base64")]
    Encoding {
        /// Host that was asked.
        host: String,
    },
    /// More bytes than an image may have.
    #[error("the image at {host} is larger than {limit} bytes; send a smaller image")]
    TooLarge {
        /// Host that was asked.
        host: String,
        /// Bytes that an image may have.
        limit: usize,
    },
    /// No bytes.
    #[error("{host} answered with nothing; check the image URL")]
    Empty {
        /// Host that was asked.
        host: String,
    },
    /// Something else than an image.
    #[error("what {host} sends is not a JPEG, PNG, WebP, GIF, BMP or TIFF image; send the URL of the image itself")]
    NotAnImage {
        /// Host that was asked.
        host: String,
    },
    /// The answer is no HTTP, or ended before its end.
    #[error("the answer of {host} is broken or incomplete; try again, or send the image as base64")]
    Protocol {
        /// Host that was asked.
        host: String,
        /// What is wrong with it.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// A setting makes no sense. Comes from [`Fetcher::new`](super::Fetcher::new) alone.
    #[error("fetching images: {0}")]
    Settings(String),
    /// The client cannot be set up. Comes from [`Fetcher::new`](super::Fetcher::new) alone.
    #[error("fetching images: the HTTP client cannot be set up")]
    Client(#[source] Box<dyn Error + Send + Sync>),
}

/// What a host was waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Name, TCP and TLS.
    Connect,
    /// Head of the answer and first byte of the image.
    FirstByte,
    /// The image, redirects included.
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
    /// A short label for a metric, out of a small set.
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
