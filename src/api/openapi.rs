//! The description of the API, made from its handlers, and a page that shows it. Both are served by the program itself
//! and need nothing from elsewhere.

use std::sync::{Arc, OnceLock};

use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{Html, IntoResponse};
use utoipa::OpenApi as _;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Content, OpenApi, Ref, RefOr, Response, ResponseBuilder};

use super::problem::{Problem, ProblemDocument};
use super::router::{OPEN, routes};

/// The page runs its own script alone, and asks nobody else.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const PAGE: &str = include_str!("page.html");

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "pgseal",
        description = "PostgreSQL backup and restore: what administrators ask for. Errors are problem documents (RFC 9457); their code never changes.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    components(schemas(ProblemDocument)),
    tags(
        (name = "backups", description = "Backups, as the catalog has them"),
        (name = "restores", description = "Restores into configured targets"),
        (name = "audit", description = "Who did what"),
        (name = "operation", description = "For machines that look after the service; no token is needed"),
    ),
)]
struct Description;

/// What every request may be refused with, beside what its handler says.
const REFUSALS: [(&str, &str); 6] = [
    ("400", "invalid_request: the request is not in its form"),
    ("401", "unauthorized: no token, or none that is believed"),
    ("403", "forbidden: the token is not an administrator's"),
    (
        "429",
        "too_many_requests: asked too fast; Retry-After says when to come back",
    ),
    ("500", "internal: the logs say more under the request's id"),
    (
        "503",
        "catalog_unavailable, store_unavailable, queue_unavailable, overloaded: a part does not answer now",
    ),
];
/// And what a request with a body may.
const BODY_REFUSALS: [(&str, &str); 3] = [
    ("408", "body_too_slow: the body did not arrive in time"),
    ("413", "too_large: the body is too large"),
    ("415", "not_json: the body is not said to be JSON"),
];

/// The description, as it is served and as it stands in `docs/openapi.json`.
#[must_use]
pub fn document() -> String {
    let (_, described) = routes().split_for_parts();
    let mut text = described.to_pretty_json().unwrap_or_default();
    text.push('\n');
    text
}

/// What the routes are added to.
pub(super) fn description() -> OpenApi {
    let mut description = Description::openapi();
    let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    let components = description.components.get_or_insert_default();
    components.add_security_scheme("token", bearer);
    description
}

/// Says of every route what all have in common.
pub(super) fn complete(description: &mut OpenApi) {
    for (path, item) in &mut description.paths.paths {
        let is_open = OPEN.contains(&path.as_str());
        let has_id = path.contains("{id}");
        let operations = [&mut item.get, &mut item.post, &mut item.delete];
        for operation in operations.into_iter().flatten() {
            if is_open {
                refuse(operation, &REFUSALS[4..]);
                continue;
            }
            operation.security = Some(vec![SecurityRequirement::new(
                "token",
                Vec::<String>::new(),
            )]);
            refuse(operation, &REFUSALS);
            if has_id {
                refuse(operation, &[("404", "backup_not_found, restore_not_found")]);
            }
            // Each of them may be left out.
            if let Some(RefOr::T(body)) = &mut operation.request_body {
                body.required = None;
                refuse(operation, &BODY_REFUSALS);
            }
        }
    }
}

fn refuse(operation: &mut Operation, refusals: &[(&str, &str)]) {
    for (status, description) in refusals {
        let response: Response = ResponseBuilder::new()
            .description(*description)
            .content(
                "application/problem+json",
                Content::new(Some(Ref::from_schema_name("Problem"))),
            )
            .build();
        let responses = &mut operation.responses.responses;
        if !responses.contains_key(*status) {
            responses.insert((*status).to_owned(), response.into());
        }
    }
}

/// The description of the API
#[utoipa::path(get, path = "/api/openapi.json", operation_id = "description", tag = "operation", responses(
    (status = 200, description = "OpenAPI 3.1", body = serde_json::Value)
))]
pub(super) async fn served() -> Result<impl IntoResponse, Problem> {
    static DOCUMENT: OnceLock<Arc<str>> = OnceLock::new();
    let text = DOCUMENT.get_or_init(|| Arc::from(document()));
    Ok((
        [(header::CONTENT_TYPE, "application/json")],
        text.to_string(),
    ))
}

/// A page that shows the description
#[utoipa::path(get, path = "/api/docs", operation_id = "page", tag = "operation", responses(
    (status = 200, description = "The page", body = String, content_type = "text/html")
))]
pub(super) async fn page() -> Result<impl IntoResponse, Problem> {
    let policy: (HeaderName, HeaderValue) = (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(PAGE_POLICY),
    );
    Ok(([policy], Html(PAGE)))
}
