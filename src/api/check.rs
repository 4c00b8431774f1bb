//! Whether a service on this machine answers, for health checks in images that have no other client.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// A service that needs longer is not well, whatever it says then.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(4);

/// Why a service is not well.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// Nobody listens there.
    #[error(
        "no API listens on {address}\nhint: is pgseal serve running, with the same BACKUP_LISTEN?"
    )]
    Connect {
        /// Where it was looked for.
        address: SocketAddr,
        /// The failure.
        #[source]
        source: std::io::Error,
    },
    /// It closed the connection, or sent what is no HTTP.
    #[error("the API on {0} did not answer")]
    Answer(SocketAddr, #[source] hyper::Error),
    /// It took too long.
    #[error("the API on {0} did not answer within {limit} s", limit = ANSWER_TIME_MAX.as_secs())]
    Late(SocketAddr),
    /// It answered that it is not well.
    #[error("the API on {0} answered {1}")]
    Status(SocketAddr, StatusCode),
}

/// Asks the service that listens on `listen` for `/healthz`; where it listens everywhere, on loopback.
///
/// # Errors
/// It does not answer, or not with 200.
pub async fn check(listen: SocketAddr) -> Result<SocketAddr, CheckError> {
    let address = reached_at(listen);
    match tokio::time::timeout(ANSWER_TIME_MAX, ask(address)).await {
        Ok(Ok(StatusCode::OK)) => Ok(address),
        Ok(Ok(status)) => Err(CheckError::Status(address, status)),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(CheckError::Late(address)),
    }
}

async fn ask(address: SocketAddr) -> Result<StatusCode, CheckError> {
    let stream = TcpStream::connect(address).await;
    let stream = stream.map_err(|source| CheckError::Connect { address, source })?;
    let failed = |source| CheckError::Answer(address, source);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    tokio::spawn(connection);
    let request = Request::get("/healthz")
        .header(header::HOST, address.to_string())
        .body(Body::empty())
        .expect("a path and an address make a request");
    let response = sender.send_request(request).await.map_err(failed)?;
    Ok(response.status())
}

/// An address that can be connected to: "everywhere" is none.
fn reached_at(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}
