//! Connections: taken, bounded, and let go in order when the service ends.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::extract::RequestFacts;
use super::limits::{CONNECTIONS_MAX, HEAD_BYTES_MAX, HEAD_FIELDS_MAX, HEAD_TIME_MAX};
use super::router::router;
use super::{Api, Parts, schedule};
use crate::model::ids::Uid;

/// How long requests that are being answered may go on when the service ends; platforms kill after ten seconds or more.
const END_TIME_MAX: Duration = Duration::from_secs(8);
/// Where no connection can be taken, as when there are too many files, the next try waits so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stop`; then takes nothing new, ends streams, and lets every other request finish.
pub async fn serve(listener: TcpListener, parts: Parts, stop: &CancellationToken) {
    let api = Arc::new(Api::new(parts, stop.child_token()));
    let router = router(&api);
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = tokio::task::JoinSet::new();
    connections.spawn(schedule::watch(Arc::clone(&api)));
    connections.spawn(tell_of_events(Arc::clone(&api)));
    loop {
        // Whoever comes when all places are taken waits in the system's queue.
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await.ok()?;
            Some((place, listener.accept().await))
        };
        let Some(next) = stop.run_until_cancelled(next).await else {
            break;
        };
        let Some((place, accepted)) = next else { break };
        while connections.try_join_next().is_some() {}
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "A connection could not be taken");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let connection = graceful.watch(connection(
            stream,
            Handler {
                router: router.clone(),
                api: Arc::clone(&api),
                from,
            },
        ));
        connections.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "A connection ended");
            }
            drop(place);
        });
    }
    drop(listener);
    if tokio::time::timeout(END_TIME_MAX, graceful.shutdown())
        .await
        .is_err()
    {
        tracing::warn!("Some requests were not answered by the end");
    }
}

/// Sends what nobody else has sent, until the service ends.
async fn tell_of_events(api: Arc<Api>) {
    if let Some(outbox) = &api.parts.outbox {
        outbox.keep(&api.ending).await;
    }
}

/// What answers the requests of one connection.
struct Handler {
    router: Router,
    api: Arc<Api>,
    from: SocketAddr,
}

impl Service<Request<Incoming>> for Handler {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(RequestFacts {
            id: Uid::new(self.api.now()).into(),
            from: self.from,
        });
        let router = self.router.clone();
        Box::pin(async move { router.oneshot(request).await })
    }
}

fn connection(
    stream: TcpStream,
    handler: Handler,
) -> http1::Connection<TokioIo<TcpStream>, Handler> {
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEAD_FIELDS_MAX)
        .serve_connection(TokioIo::new(stream), handler)
}
