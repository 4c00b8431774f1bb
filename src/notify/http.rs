//! The one client for HTTP: small requests, of which only the status matters.

use std::error::Error as _;
use std::sync::OnceLock;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderName, USER_AGENT};
use hyper::{Method, Request, StatusCode};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use super::error::NotifyError;

/// A server's status line and headers are no longer than this, or it is not talked to.
const RESPONSE_HEAD_BYTES_MAX: usize = 64 * 1024;

type Https = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// A client for HTTP, made when it is first needed: many commands have channels that they never use.
#[derive(Debug, Default)]
pub struct Http {
    client: OnceLock<Https>,
}

/// What is sent.
pub(super) struct Message<'a> {
    /// Where to: the whole URL.
    pub(super) url: &'a str,
    /// The host, for errors.
    pub(super) host: &'a str,
    /// Headers beside the usual ones.
    pub(super) headers: Vec<(&'static str, String)>,
    /// What the body is.
    pub(super) content_type: &'static str,
    /// The body.
    pub(super) body: String,
}

impl Http {
    /// Posts a message; anything but a status of success is an error. No redirect is followed.
    pub(super) async fn post(&self, message: Message<'_>) -> Result<(), NotifyError> {
        let unreachable = |why: String| NotifyError::Unreachable {
            to: message.host.to_owned(),
            why,
        };
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(message.url)
            .header(CONTENT_TYPE, message.content_type)
            .header(USER_AGENT, concat!("pgseal/", env!("CARGO_PKG_VERSION")));
        for (name, value) in message.headers {
            request = request.header(HeaderName::from_static(name), value);
        }
        let request = request
            .body(Full::new(Bytes::from(message.body)))
            .map_err(|_| NotifyError::Message("a header cannot hold its value".to_owned()))?;
        let client = if let Some(client) = self.client.get() {
            client
        } else {
            let made = client().map_err(|error| unreachable(error.to_string()))?;
            self.client.get_or_init(|| made)
        };
        let answer = client.request(request).await;
        // The innermost cause says why; what stands above it only says that a connection failed.
        let answer = answer.map_err(|error| {
            let mut why = error.to_string();
            let mut next = error.source();
            while let Some(cause) = next {
                why = cause.to_string();
                next = cause.source();
            }
            unreachable(why)
        })?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        Err(NotifyError::Status {
            to: message.host.to_owned(),
            status: status.as_u16(),
            hint: hint(status),
        })
    }
}

fn client() -> std::io::Result<Https> {
    let tls = HttpsConnectorBuilder::new()
        .with_provider_and_native_roots(rustls::crypto::ring::default_provider())?;
    let connector = tls.https_or_http().enable_http1().build();
    Ok(Client::builder(TokioExecutor::new())
        // An event is rare: a connection that is kept open is a broken one by the time of the next.
        .pool_max_idle_per_host(0)
        .http1_max_buf_size(RESPONSE_HEAD_BYTES_MAX)
        .build(connector))
}

fn hint(status: StatusCode) -> &'static str {
    if status.is_redirection() {
        return "\nhint: redirects are not followed; set the URL that it leads to";
    }
    match status.as_u16() {
        401 | 403 | 404 | 410 => "\nhint: is the URL still valid?",
        _ => "",
    }
}
