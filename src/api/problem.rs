//! What went wrong, as a problem document (RFC 9457): a stable code, a text for the client, and one for the log alone.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::catalog::{CatalogError, Needed, Task};
use crate::model::explanation::explain;
use crate::store::StoreError;
use crate::vault::VaultError;

/// Whoever was told to come back does so after so many seconds.
const RETRY_AFTER_SECONDS: &str = "5";

/// What went wrong.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    detail: String,
    more: Map<String, Value>,
    /// Never the client's: it may have paths and SQL in it.
    pub(super) log: Option<String>,
}

/// A problem document, as clients see it.
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct ProblemDocument {
    /// Always `about:blank`: `code` tells problems apart.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The status in words.
    title: String,
    /// The status code of the answer.
    status: u16,
    /// What is wrong, for people.
    detail: String,
    /// What is wrong, for programs. It never changes.
    code: &'static str,
    /// The request, for whoever looks into the logs.
    request_id: Uuid,
    /// What the target has instead, of the code `target_busy`.
    #[serde(skip_serializing_if = "Option::is_none")]
    active: Option<Value>,
    /// Until when the store keeps the backup, of the code `backup_locked`.
    #[serde(skip_serializing_if = "Option::is_none")]
    locked_until: Option<Value>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            code,
            detail: detail.into(),
            more: Map::new(),
            log: None,
        }
    }

    /// Adds what only the log says.
    pub(super) fn because(mut self, log: impl Into<String>) -> Self {
        self.log = Some(log.into());
        self
    }

    fn with(mut self, name: &str, value: Value) -> Self {
        self.more.insert(name.to_owned(), value);
        self
    }

    pub(super) fn invalid(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", detail)
    }

    pub(super) fn no_such(what: &'static str) -> Self {
        let code = match what {
            "backup" => "backup_not_found",
            "restore" => "restore_not_found",
            _ => "not_found",
        };
        Self::new(
            StatusCode::NOT_FOUND,
            code,
            format!("There is no such {what}."),
        )
    }

    /// A part of the service does not answer; it may soon.
    pub(super) fn unavailable(code: &'static str, detail: &str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail)
    }

    pub(super) fn internal(log: impl Into<String>) -> Self {
        let detail = "Something went wrong here; the logs say more under this request id.";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail).because(log)
    }

    /// What stands for an answer that a library made.
    pub(super) fn of_status(status: StatusCode) -> Self {
        let (code, detail) = match status {
            StatusCode::NOT_FOUND => ("not_found", "There is nothing here."),
            StatusCode::METHOD_NOT_ALLOWED => (
                "method_not_allowed",
                "This cannot be done here; Allow lists what can.",
            ),
            StatusCode::PAYLOAD_TOO_LARGE => ("too_large", "The request is too large."),
            status if status.is_server_error() => return Self::internal("a library's answer"),
            _ => ("invalid_request", "The request is not in its form."),
        };
        Self::new(status, code, detail)
    }

    /// The answer, once it is known which request it was.
    pub(super) fn render(self, request_id: Uuid) -> Response {
        let Self {
            status,
            code,
            detail,
            mut more,
            ..
        } = self;
        let document = ProblemDocument {
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or("Problem").to_owned(),
            status: status.as_u16(),
            detail,
            code,
            request_id,
            active: more.remove("active"),
            locked_until: more.remove("locked_until"),
        };
        let body = serde_json::to_vec(&document).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        let json = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, json);
        if matches!(
            status,
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS
        ) {
            let seconds = HeaderValue::from_static(RETRY_AFTER_SECONDS);
            headers.insert(header::RETRY_AFTER, seconds);
        }
        if status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer realm=\"pgseal\"");
            headers.insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

/// The document is written by the outermost layer, which knows the request's id.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<CatalogError> for Problem {
    fn from(error: CatalogError) -> Self {
        let conflict = |code, detail: String| Self::new(StatusCode::CONFLICT, code, detail);
        match &error {
            CatalogError::TargetBusy { target, active } => {
                let (kind, id) = match active.task {
                    Task::Backup(id) => ("backup", id.get()),
                    Task::Restore(id) => ("restore", id.get()),
                };
                let active_json = json!({"type": kind, "id": id, "status": active.status.as_str()});
                let detail =
                    format!("The target {target} is busy: {active}. Wait for it, or cancel it.");
                conflict("target_busy", detail).with("active", active_json)
            }
            CatalogError::NoSuchBackup(_) => Self::no_such("backup"),
            CatalogError::NotRestorable { .. } => conflict(
                "backup_not_restorable",
                "The backup cannot be restored: it is not complete, is lost or damaged, or is being deleted.".to_owned(),
            )
            .because(error.to_string()),
            CatalogError::Needed { why, .. } => match why {
                Needed::ByItsJob(_) => conflict(
                    "backup_active",
                    "The backup's job has not ended. Cancel it first.".to_owned(),
                ),
                Needed::ByARestore => conflict(
                    "backup_needed",
                    "A restore that has not ended needs the backup.".to_owned(),
                ),
                Needed::ByAReader => conflict(
                    "backup_needed",
                    "The backup is being read: verified, tried out or copied.".to_owned(),
                ),
                Needed::AsTheLast => conflict(
                    "last_good_backup",
                    "It is the last good backup of its target. With force=true it is deleted all the same.".to_owned(),
                ),
            },
            CatalogError::KeyTaken => conflict(
                "idempotency_key_in_use",
                "A request with the same key is being carried out.".to_owned(),
            ),
            error if error.is_transient() || error.is_preparation() => {
                let detail = "The catalog does not answer.";
                Self::unavailable("catalog_unavailable", detail).because(explain(error))
            }
            error => Self::internal(explain(error)),
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let conflict = |code, detail| Self::new(StatusCode::CONFLICT, code, detail);
        let problem = match &error {
            StoreError::NotFound { .. } => {
                conflict("object_lost", "The backup's object is not in the store.")
            }
            StoreError::Changed { .. } => conflict(
                "object_changed",
                "The backup's object is not the one that was recorded.",
            ),
            StoreError::Locked { until, .. } => {
                let problem = conflict(
                    "backup_locked",
                    "The store keeps the backup's object locked.",
                );
                let until = until.and_then(|at| {
                    at.format(&time::format_description::well_known::Rfc3339)
                        .ok()
                });
                match until {
                    Some(until) => problem.with("locked_until", until.into()),
                    None => problem,
                }
            }
            _ => Self::unavailable(
                "store_unavailable",
                "The store does not answer as it should.",
            ),
        };
        problem.because(explain(&error))
    }
}

impl From<VaultError> for Problem {
    fn from(error: VaultError) -> Self {
        match error {
            VaultError::Store(error) => error.into(),
            VaultError::Second { place, source } => {
                let reason = format!("the second store, {place}: {}", explain(&*source));
                Self::from(*source).because(reason)
            }
            error => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "plan_unavailable",
                "The backup has no manifest that can be read, so nothing can be said before it is fetched.",
            )
            .because(explain(&error)),
        }
    }
}
