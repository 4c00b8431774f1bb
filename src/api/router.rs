//! The routes, and what every request passes on its way to them.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use futures_util::FutureExt as _;
use tower_http::cors::{AllowOrigin, CorsLayer};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::Refused;
use super::extract::RequestFacts;
use super::limits::ANSWER_TIME_MAX;
use super::problem::Problem;
use super::{Api, audit, backups, downloads, events, health, metrics, openapi, restores, schedule};

/// The paths that need no token. Every other one does, those of no route too.
pub const OPEN: [&str; 5] = [
    "/healthz",
    "/readyz",
    "/metrics",
    "/api/openapi.json",
    "/api/docs",
];
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Every route with its description. Nothing may be routed elsewhere.
pub(super) fn routes() -> OpenApiRouter<Arc<Api>> {
    let mut router = OpenApiRouter::with_openapi(openapi::description())
        .routes(routes!(backups::list, backups::create))
        .routes(routes!(backups::show, backups::delete))
        .routes(routes!(backups::status))
        .routes(routes!(events::follow))
        .routes(routes!(downloads::download))
        .routes(routes!(backups::verify))
        .routes(routes!(backups::drill))
        .routes(routes!(backups::cancel))
        .routes(routes!(restores::create))
        .routes(routes!(restores::list))
        .routes(routes!(restores::show))
        .routes(routes!(restores::cancel))
        .routes(routes!(restores::rollback))
        .routes(routes!(schedule::list))
        .routes(routes!(backups::accept))
        .routes(routes!(audit::list))
        .routes(routes!(health::alive))
        .routes(routes!(health::ready))
        .routes(routes!(metrics::metrics))
        .routes(routes!(openapi::served))
        .routes(routes!(openapi::page));
    openapi::complete(router.get_openapi_mut());
    router
}

/// The routes behind everything that a request passes; the last layer is the outermost.
pub(super) fn router(api: &Arc<Api>) -> Router {
    let (router, _) = routes().split_for_parts();
    let router = router
        .fallback(async || Problem::of_status(StatusCode::NOT_FOUND))
        .method_not_allowed_fallback(async || Problem::of_status(StatusCode::METHOD_NOT_ALLOWED))
        .with_state(Arc::clone(api))
        .layer(from_fn_with_state(Arc::clone(api), authenticate))
        .layer(from_fn_with_state(Arc::clone(api), limit));
    let router = match cors(&api.parts.rules.origins) {
        Some(cors) => router.layer(cors),
        None => router,
    };
    router.layer(from_fn(answer))
}

/// Gives every answer its request's id, writes problems, and logs once what is for a person to see.
async fn answer(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let facts = request.extensions().get::<RequestFacts>().copied();
    let Some(facts) = facts else {
        // Only a server that forgot to say where requests come from could get here.
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let method = request.method().clone();
    // The route, not the path: what a client puts there is its own.
    let route = request.extensions().get::<MatchedPath>().cloned();
    // A mistake of ours in one request is no reason to hang up on its connection's others without a word.
    let mut response = match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => response,
        Err(_) => Problem::internal("a handler panicked").into_response(),
    };
    let status = response.status();
    let problem = response.extensions_mut().remove::<Problem>();
    if status.is_client_error() || status.is_server_error() {
        let is_own = response.headers().contains_key(header::CONTENT_TYPE) && problem.is_none();
        // Readiness says in its own words what is away.
        if !(is_own && status == StatusCode::SERVICE_UNAVAILABLE) {
            let problem = problem.unwrap_or_else(|| Problem::of_status(status));
            log_problem(&problem, facts);
            let allow = response.headers_mut().remove(header::ALLOW);
            let old = std::mem::take(response.headers_mut());
            response = problem.render(facts.id);
            for (name, value) in old {
                // Those of CORS, without which a page cannot read the problem.
                if let Some(name) = name.filter(|name| {
                    name.as_str().starts_with("access-control-") || *name == header::VARY
                }) {
                    response.headers_mut().append(name, value);
                }
            }
            if let Some(allow) = allow {
                response.headers_mut().insert(header::ALLOW, allow);
            }
        }
    }
    log_request(&method, route.as_ref(), status, started.elapsed(), facts);
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&facts.id.to_string()) {
        headers.insert(REQUEST_ID, id);
    }
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    response
}

/// What changes something is worth a line; what only looks, to whoever wants to see everything.
fn log_request(
    method: &Method,
    route: Option<&MatchedPath>,
    status: StatusCode,
    took: Duration,
    facts: RequestFacts,
) {
    let (method, looks) = (method.as_str(), method.is_safe());
    let route = route.map_or("none", MatchedPath::as_str);
    let status = status.as_u16();
    let duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    if looks {
        tracing::debug!(request.id = %facts.id, method, route, status, duration_ms, "Request");
    } else {
        tracing::info!(request.id = %facts.id, method, route, status, duration_ms, "Request");
    }
}

fn log_problem(problem: &Problem, facts: RequestFacts) {
    let reason = problem.log.as_deref().unwrap_or("-");
    let code = problem.code;
    if problem.status.is_server_error() {
        tracing::warn!(request.id = %facts.id, code, reason, "Request failed");
    } else {
        tracing::debug!(request.id = %facts.id, code, reason, from = %facts.from.ip(), "Request was refused");
    }
}

/// Bounds how many requests are answered at once, and how long an answer takes to begin.
async fn limit(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let Ok(_place) = Arc::clone(&api.requests).try_acquire_owned() else {
        return Problem::unavailable("overloaded", "Too many requests are being answered.")
            .into_response();
    };
    match tokio::time::timeout(ANSWER_TIME_MAX, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::unavailable("too_slow", "The answer took too long.").into_response(),
    }
}

/// Lets administrators through, and everybody on the open list.
async fn authenticate(State(api): State<Arc<Api>>, mut request: Request, next: Next) -> Response {
    if OPEN.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    let mut given = request.headers().get_all(header::AUTHORIZATION).iter();
    let caller = match (given.next(), given.next()) {
        (Some(value), None) => api.parts.tokens.caller(value.as_bytes(), api.now()),
        (None, _) => Err(Refused::Unproved("no token")),
        (Some(_), Some(_)) => Err(Refused::Unproved("two tokens")),
    };
    let too_fast = || {
        Problem::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too_many_requests",
            "Asked too fast.",
        )
    };
    let now = Instant::now();
    match caller {
        Ok(caller) if api.rates.may_ask(&caller.subject, now) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Ok(_) => too_fast().into_response(),
        Err(refused) => {
            let from = request
                .extensions()
                .get::<RequestFacts>()
                .map(|facts| facts.from.ip());
            if !from.is_none_or(|from| api.rates.may_be_refused(from, now)) {
                return too_fast().into_response();
            }
            refusal(refused).into_response()
        }
    }
}

/// Why exactly is for the log: whoever tries tokens out learns nothing.
fn refusal(refused: Refused) -> Problem {
    match refused {
        Refused::Unproved(why) => Problem::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "This needs a bearer token that is valid.",
        )
        .because(why),
        Refused::NoAdmin => Problem::new(
            StatusCode::FORBIDDEN,
            "forbidden",
            "This needs an administrator's token.",
        ),
    }
}

/// Only for the pages of the origins that are configured; for none, unless some are.
fn cors(origins: &[String]) -> Option<CorsLayer> {
    let origins: Vec<HeaderValue> = origins
        .iter()
        .filter_map(|origin| HeaderValue::from_str(origin.trim_end_matches('/')).ok())
        .filter(|origin| !origin.is_empty())
        .collect();
    if origins.is_empty() {
        return None;
    }
    let cors = CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins))
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            header::RANGE,
            IDEMPOTENCY_KEY,
        ])
        .expose_headers([
            header::LOCATION,
            header::CONTENT_RANGE,
            header::ETAG,
            header::RETRY_AFTER,
            REQUEST_ID,
        ])
        .max_age(std::time::Duration::from_secs(600));
    Some(cors)
}
