//! Whether the service lives, and whether the parts that it needs answer. Open to everybody, so neither says why not.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::problem::Problem;

/// A part that has not answered by then counts as away.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(3);

/// The process answers.
#[derive(Serialize, ToSchema)]
pub(super) struct Alive {
    /// Always `alive`.
    status: &'static str,
    version: &'static str,
}

/// Which parts answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct Readiness {
    /// `ready` where all of them do, else `unready`.
    status: &'static str,
    /// `ok` or `away`.
    catalog: &'static str,
    /// `ok` or `away`.
    redis: &'static str,
    /// `ok` or `away`.
    store: &'static str,
}

/// Whether the process lives
#[utoipa::path(get, path = "/healthz", operation_id = "alive", tag = "operation", responses(
    (status = 200, description = "It does", body = Alive)
))]
pub(super) async fn alive() -> Result<Json<Alive>, Problem> {
    Ok(Json(Alive {
        status: "alive",
        version: env!("CARGO_PKG_VERSION"),
    }))
}

/// Whether catalog, Redis and store answer
#[utoipa::path(get, path = "/readyz", operation_id = "ready", tag = "operation", responses(
    (status = 200, description = "All of them do", body = Readiness),
    (status = 503, description = "One of them does not", body = Readiness),
))]
pub(super) async fn ready(State(api): State<Arc<Api>>) -> (StatusCode, Json<Readiness>) {
    let found = api.readiness.get(
        (),
        Box::pin(async { Ok::<_, Infallible>(look(&api).await) }),
    );
    let Ok(readiness) = found.await;
    let status = if readiness.status == "ready" {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(readiness))
}

async fn look(api: &Api) -> Readiness {
    let dispatch = &api.parts.dispatch;
    let (catalog, redis, store) = tokio::join!(
        answers("catalog", dispatch.catalog.ping()),
        answers("redis", dispatch.queue.ping()),
        answers("store", api.parts.vault.store.check_bucket()),
    );
    let all = [catalog, redis, store].iter().all(|part| *part == "ok");
    Readiness {
        status: if all { "ready" } else { "unready" },
        catalog,
        redis,
        store,
    }
}

async fn answers<E: std::error::Error>(
    part: &'static str,
    asked: impl Future<Output = Result<(), E>>,
) -> &'static str {
    match tokio::time::timeout(ANSWER_TIME_MAX, asked).await {
        Ok(Ok(())) => "ok",
        Ok(Err(error)) => {
            tracing::debug!(part, %error, "A part of the service is away");
            "away"
        }
        Err(_) => "away",
    }
}
