//! The audit: acts are written into it where they are done, refusals here; administrators read it.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::Api;
use super::extract::{Paging, Params, first_page, is_plain, items_on_a_page};
use super::problem::Problem;
use super::records::Page;
use crate::catalog::{Act, AuditFilter, AuditRow, Task};
use crate::dispatch::Dispatch;
use crate::model::explanation::explain;

/// The catalog and the queue, with an act that is recorded in the transaction that carries it out.
pub(super) fn recorded(api: &Api, act: &Act) -> Dispatch {
    let dispatch = api.parts.dispatch.clone();
    Dispatch {
        catalog: dispatch.catalog.acting(act.clone()),
        ..dispatch
    }
}

/// Does it, and records that it was refused where it was. That something was done, whoever does it records.
pub(super) async fn audited<T>(
    api: &Api,
    act: &Act,
    about: Option<Task>,
    work: impl Future<Output = Result<T, Problem>>,
) -> Result<T, Problem> {
    let done = work.await;
    if let Err(problem) = &done {
        let catalog = &api.parts.dispatch.catalog;
        if let Err(error) = catalog.record(act, about, problem.code).await {
            tracing::warn!(
                reason = explain(&error),
                action = act.action,
                by = act.subject,
                outcome = problem.code,
                "A refused act could not be recorded"
            );
        }
    }
    done
}

/// What the audit may be asked for.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct AuditParams {
    /// The page, from 1 on
    #[param(minimum = 1, maximum = 1_000_000, default = 1)]
    #[serde(default = "first_page")]
    page: u32,
    /// Items on a page
    #[param(minimum = 1, maximum = 100, default = 20)]
    #[serde(default = "items_on_a_page")]
    per_page: u32,
    /// Only what this subject did
    #[param(max_length = 255)]
    subject: Option<String>,
    /// Only this act, as backup.delete
    #[param(max_length = 63)]
    action: Option<String>,
    /// Only what was done to this backup
    #[param(minimum = 1)]
    backup_id: Option<i64>,
}

/// One act.
#[derive(Serialize, ToSchema)]
#[schema(as = Act)]
pub(super) struct ActRecord {
    id: i64,
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
    /// Whose token it was.
    subject: String,
    /// What was done, as backup.delete.
    action: String,
    backup_id: Option<i64>,
    restore_id: Option<i64>,
    /// The address that it came from; behind a proxy, the proxy's.
    origin: String,
    request_id: Uuid,
    /// `accepted`, `begun`, `done`, or the code of the problem that it ended in.
    outcome: String,
}

/// List who did what, newest first
#[utoipa::path(get, path = "/api/admin/audit", operation_id = "list_acts", tag = "audit", params(AuditParams), responses(
    (status = 200, description = "A page of acts", body = Page<ActRecord>)
))]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Params(params): Params<AuditParams>,
) -> Result<Json<Page<ActRecord>>, Problem> {
    let paging = Paging {
        page: params.page,
        per_page: params.per_page,
    };
    let slice = paging.slice()?;
    let texts = [(&params.subject, 255), (&params.action, 63)];
    let plain = |(text, chars_max): (&Option<String>, usize)| {
        text.as_ref().is_none_or(|text| is_plain(text, chars_max))
    };
    let all_plain = texts.into_iter().all(plain);
    if !all_plain || params.backup_id.is_some_and(|id| id < 1) {
        return Err(Problem::invalid(
            "subject has at most 255 characters, action at most 63, and backup_id is a number from 1 on.",
        ));
    }
    let filter = AuditFilter {
        subject: params.subject,
        action: params.action,
        backup_id: params.backup_id,
    };
    let catalog = &api.parts.dispatch.catalog;
    let total = catalog.count_audit(&filter).await?;
    let rows = catalog.audit(&filter, slice).await?;
    let link = |page| {
        let mut link = format!("/api/admin/audit?page={page}&per_page={}", paging.per_page);
        for (name, value) in [("subject", &filter.subject), ("action", &filter.action)] {
            if let Some(value) = value {
                let value = percent_encoding::utf8_percent_encode(
                    value,
                    percent_encoding::NON_ALPHANUMERIC,
                );
                link.push_str(&format!("&{name}={value}"));
            }
        }
        if let Some(id) = filter.backup_id {
            link.push_str(&format!("&backup_id={id}"));
        }
        link
    };
    let items = rows.into_iter().map(ActRecord::from).collect();
    Ok(Json(Page::new(items, paging, total, link)))
}

impl From<AuditRow> for ActRecord {
    fn from(row: AuditRow) -> Self {
        Self {
            id: row.id,
            at: row.at,
            subject: row.subject,
            action: row.action,
            backup_id: row.backup_id,
            restore_id: row.restore_id,
            origin: row.origin,
            request_id: row.request_id,
            outcome: row.outcome,
        }
    }
}
