//! Backups: listed, asked for, looked at, verified, cancelled, deleted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use serde::{Deserialize, Serialize};
use sha2::Digest as _;
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::audit::{audited, recorded};
use super::extract::{Asking, Id, Paging, Params, Said, first_page, is_plain, items_on_a_page};
use super::problem::Problem;
use super::records::{BackupRecord, Page, StatusRecord};
use crate::catalog::{
    Act, BackupFilter, BackupRow, Cancelled, Health, JobFacts, JobStatus, KnownKey, LastGood,
    RequestKey, Task,
};
use crate::dispatch::{BackupWanted, DispatchError, Queued};
use crate::model::digest::Sha256;
use crate::model::explanation::explain;
use crate::model::ids::BackupId;
use crate::model::kind::BackupKind;
use crate::model::object_key::ObjectKey;
use crate::model::target::{TARGET_DEFAULT, TargetName};
use crate::queue::rq::names::{JobId, QueueName};
use crate::retention::{self, DeleteError};
use crate::vault::Mark;

/// Labels of one backup.
const LABELS_MAX: usize = 32;
const LABEL_NAME_CHARS_MAX: usize = 63;
const LABEL_VALUE_CHARS_MAX: usize = 255;
/// Patterns of one backup; pg_dump gets each as an argument.
const PATTERNS_MAX: usize = 32;
const PATTERN_CHARS_MAX: usize = 255;
const KEY_CHARS_MAX: usize = 255;
/// How long an answer waits for Redis, which has only the queue's length.
const QUEUE_TIME_MAX: Duration = Duration::from_millis(500);

/// What a list of backups may be asked for.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct ListParams {
    /// The page, from 1 on
    #[param(minimum = 1, maximum = 1_000_000, default = 1)]
    #[serde(default = "first_page")]
    page: u32,
    /// Items on a page
    #[param(minimum = 1, maximum = 100, default = 20)]
    #[serde(default = "items_on_a_page")]
    per_page: u32,
    /// Only those of this status
    #[param(inline)]
    status: Option<BackupStatus>,
    /// Only those of this kind
    #[param(inline)]
    kind: Option<Kind>,
    /// Only those of the database of this name
    #[param(max_length = 63)]
    database: Option<String>,
    /// Only those asked for at this moment or later, as 2026-11-25T00:00:00Z
    #[param(format = DateTime)]
    from: Option<String>,
    /// Only those asked for before this moment
    #[param(format = DateTime)]
    until: Option<String>,
}

#[derive(Clone, Copy, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum BackupStatus {
    Pending,
    Running,
    Completed,
    Failed,
    Cancelled,
}

#[derive(Clone, Copy, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Manual,
    Scheduled,
    PreRestore,
}

impl ListParams {
    fn paging(&self) -> Paging {
        Paging {
            page: self.page,
            per_page: self.per_page,
        }
    }

    fn filter(&self) -> Result<BackupFilter, Problem> {
        let moment = |text: &Option<String>| match text {
            None => Ok(None),
            Some(text) => OffsetDateTime::parse(text, &Rfc3339)
                .ok()
                // Some moments of the last day of the calendar are beyond it in UTC.
                .and_then(|at| at.checked_to_offset(UtcOffset::UTC))
                .filter(|at| (1..=9999).contains(&at.year()))
                .map(Some)
                .ok_or_else(|| {
                    Problem::invalid("from and until are moments, as 2026-11-25T00:00:00Z.")
                }),
        };
        let database = self.database.clone();
        if database.as_ref().is_some_and(|name| !is_plain(name, 63)) {
            return Err(Problem::invalid(
                "database is a name of at most 63 characters.",
            ));
        }
        Ok(BackupFilter {
            status: self.status.map(|status| match status {
                BackupStatus::Pending => JobStatus::Pending,
                BackupStatus::Running => JobStatus::Running,
                BackupStatus::Completed => JobStatus::Completed,
                BackupStatus::Failed => JobStatus::Failed,
                BackupStatus::Cancelled => JobStatus::Cancelled,
            }),
            kind: self.kind.map(|kind| match kind {
                Kind::Manual => BackupKind::Manual,
                Kind::Scheduled => BackupKind::Scheduled,
                Kind::PreRestore => BackupKind::PreRestore,
            }),
            database,
            from: moment(&self.from)?,
            until: moment(&self.until)?,
        })
    }

    fn link(&self, filter: &BackupFilter, page: u64) -> String {
        let mut link = format!("/api/admin/backups?page={page}&per_page={}", self.per_page);
        let given = [
            (
                "status",
                filter.status.map(|status| status.as_str().to_owned()),
            ),
            ("kind", filter.kind.map(|kind| kind.as_str().to_owned())),
            ("database", self.database.clone()),
            ("from", self.from.clone()),
            ("until", self.until.clone()),
        ];
        for (name, value) in given {
            if let Some(value) = value {
                let value = percent_encoding::utf8_percent_encode(
                    &value,
                    percent_encoding::NON_ALPHANUMERIC,
                );
                link.push_str(&format!("&{name}={value}"));
            }
        }
        link
    }
}

/// List backups, newest first
#[utoipa::path(get, path = "/api/admin/backups", operation_id = "list_backups", tag = "backups", params(ListParams), responses(
    (status = 200, description = "A page of backups", body = Page<BackupRecord>)
))]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Params(params): Params<ListParams>,
) -> Result<Json<Page<BackupRecord>>, Problem> {
    let catalog = &api.parts.dispatch.catalog;
    let filter = params.filter()?;
    let slice = params.paging().slice()?;
    let (counting, of) = (catalog.clone(), filter.clone());
    let count = move || async move { counting.count_backups(&of).await };
    let total = api.backup_totals.get_at_once(filter.clone(), count).await?;
    let rows = catalog.backups(&filter, slice).await?;
    let items = rows.into_iter().map(|row| api.record(row)).collect();
    let link = |page| params.link(&filter, page);
    Ok(Json(Page::new(items, params.paging(), total, link)))
}

/// What a backup is asked for with. All of it may be left out, and the body with it.
#[derive(Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BackupBody {
    /// The configured target that is backed up; unless said, the one that is called `default`, or the only one
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 63)]
    target: Option<String>,
    /// What is attached: at most 32 names of at most 63 characters, with texts of at most 255
    #[serde(default)]
    labels: BTreeMap<String, String>,
    /// Patterns of tables whose rows are left out, as pg_dump's --exclude-table-data takes them
    #[serde(default)]
    #[schema(max_items = 32)]
    exclude_table_data: Vec<String>,
}

impl BackupBody {
    fn check(&self) -> Result<(), Problem> {
        let good_label = |(name, value): (&String, &String)| {
            !name.is_empty()
                && is_plain(name, LABEL_NAME_CHARS_MAX)
                && is_plain(value, LABEL_VALUE_CHARS_MAX)
        };
        if self.labels.len() > LABELS_MAX || !self.labels.iter().all(good_label) {
            return Err(Problem::invalid(
                "labels are at most 32 names of 1 to 63 characters, each with a text of at most 255.",
            ));
        }
        let good_pattern =
            |pattern: &String| !pattern.is_empty() && is_plain(pattern, PATTERN_CHARS_MAX);
        if self.exclude_table_data.len() > PATTERNS_MAX
            || !self.exclude_table_data.iter().all(good_pattern)
        {
            return Err(Problem::invalid(
                "exclude_table_data has at most 32 patterns of 1 to 255 characters.",
            ));
        }
        Ok(())
    }
}

type Created = (StatusCode, [(HeaderName, String); 1], Json<BackupRecord>);

/// Ask for a backup
///
/// It is made by a worker. The same request under the same Idempotency-Key, within a day, is one backup.
#[utoipa::path(post, path = "/api/admin/backups", operation_id = "create_backup", tag = "backups", request_body = BackupBody,
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes a request that may be sent twice one request", max_length = 255)),
    responses(
        (status = 202, description = "It is recorded, and a worker makes it", body = BackupRecord,
            headers(("Location" = String, description = "Where it is"))),
        (status = 409, description = "target_busy, idempotency_key_in_use", body = super::problem::ProblemDocument, content_type = "application/problem+json"),
        (status = 422, description = "target_unknown; idempotency_key_reused: the key came with another request", body = super::problem::ProblemDocument, content_type = "application/problem+json"),
    ))]
pub(super) async fn create(
    State(api): State<Arc<Api>>,
    asking: Asking,
    headers: HeaderMap,
    Said(body): Said<BackupBody>,
) -> Result<Created, Problem> {
    const ACTION: &str = "backup.create";
    body.check()?;
    let mut act = asking.act(ACTION);
    act.key = request_key(&headers, &body)?;
    let key = act.key.clone();
    let work = async {
        let target = backed_up(&api, body.target.as_deref())?;
        if let Some(row) = known(&api, &act.subject, key.as_ref()).await? {
            return Ok(row);
        }
        let wanted = BackupWanted {
            target: target.to_string(),
            kind: BackupKind::Manual,
            requested_by: act.subject.clone(),
            labels: body.labels,
            excluded_table_data: body.exclude_table_data,
        };
        let made = recorded(&api, &act).backup(wanted, api.now()).await;
        match made {
            Ok((row, queued)) => {
                if queued == Queued::Later {
                    tracing::warn!(backup.id = %row.id, "Backup is asked for, and Redis does not answer");
                }
                tracing::info!(backup.id = %row.id, by = act.subject, "Backup was asked for");
                Ok(row)
            }
            // The very same request may have come twice at once, and the other one was first.
            Err(error) => match known(&api, &act.subject, key.as_ref()).await? {
                Some(row) => Ok(row),
                None => Err(error.into()),
            },
        }
    };
    let row = audited(&api, &asking.act(ACTION), None, Box::pin(work)).await?;
    api.forget_totals().await;
    let location = format!("/api/admin/backups/{}", row.id);
    let location = [(header::LOCATION, location)];
    Ok((StatusCode::ACCEPTED, location, Json(api.record(row))))
}

/// The target that is meant.
fn backed_up<'a>(api: &'a Api, named: Option<&str>) -> Result<&'a TargetName, Problem> {
    let mut names = api.parts.targets.keys();
    match (named, names.next(), names.next()) {
        (Some(name), ..) => Ok(api.target(name)?.0),
        (None, Some(only), None) => Ok(only),
        (None, ..) => Ok(api.target(TARGET_DEFAULT)?.0),
    }
}

/// The key of a request, with the digest of what is asked for.
fn request_key(headers: &HeaderMap, body: &BackupBody) -> Result<Option<RequestKey>, Problem> {
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let key = value.to_str().unwrap_or_default();
    if values.next().is_some() || key.is_empty() || !is_plain(key, KEY_CHARS_MAX) {
        return Err(Problem::invalid(
            "Idempotency-Key is one text of 1 to 255 printable ASCII characters.",
        ));
    }
    let asked = serde_json::to_vec(body).unwrap_or_default();
    Ok(Some(RequestKey {
        key: key.to_owned(),
        digest: Sha256(sha2::Sha256::digest(&asked).into()),
    }))
}

/// The backup that the same request made before.
async fn known(
    api: &Api,
    subject: &str,
    key: Option<&RequestKey>,
) -> Result<Option<BackupRow>, Problem> {
    let Some(key) = key else { return Ok(None) };
    let catalog = &api.parts.dispatch.catalog;
    match catalog.known_key(subject, key).await? {
        None => Ok(None),
        Some(KnownKey::Same(id)) => match catalog.backup(id).await? {
            Some(row) => Ok(Some(row)),
            None => Err(Problem::new(
                StatusCode::CONFLICT,
                "backup_deleted",
                "The backup that this request made was deleted.",
            )),
        },
        Some(KnownKey::Other) => Err(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "idempotency_key_reused",
            "Another request was made with this Idempotency-Key.",
        )),
    }
}

/// Look at a backup
#[utoipa::path(get, path = "/api/admin/backups/{id}", operation_id = "show_backup", tag = "backups",
    params(("id" = i64, Path, description = "The backup's number", minimum = 1)),
    responses((status = 200, description = "The backup", body = BackupRecord)))]
pub(super) async fn show(
    State(api): State<Arc<Api>>,
    Id(id): Id<BackupId>,
) -> Result<Json<BackupRecord>, Problem> {
    Ok(Json(api.record(row(&api, id).await?)))
}

pub(super) async fn row(api: &Api, id: BackupId) -> Result<BackupRow, Problem> {
    let row = api.parts.dispatch.catalog.backup(id).await?;
    row.ok_or_else(|| Problem::no_such("backup"))
}

/// Look how far a backup is
#[utoipa::path(get, path = "/api/admin/backups/{id}/status", operation_id = "backup_status", tag = "backups",
    params(("id" = i64, Path, description = "The backup's number", minimum = 1)),
    responses((status = 200, description = "How far it is", body = StatusRecord)))]
pub(super) async fn status(
    State(api): State<Arc<Api>>,
    Id(id): Id<BackupId>,
) -> Result<Json<StatusRecord>, Problem> {
    let row = row(&api, id).await?;
    Ok(Json(status_of(&api, id.get(), &row.job).await))
}

/// How far a job is, with its place in the queue if Redis answers soon.
pub(super) async fn status_of(api: &Api, id: i64, job: &JobFacts) -> StatusRecord {
    let mut status = StatusRecord::of(id, job);
    if job.status != JobStatus::Pending {
        return status;
    }
    let queue = job
        .queue
        .as_deref()
        .and_then(|name| QueueName::parse(name).ok());
    let job = job.job_id.as_deref().and_then(|id| JobId::parse(id).ok());
    if let Some((queue, job)) = queue.zip(job) {
        let position = api.parts.dispatch.queue.position(&queue, &job);
        let position = tokio::time::timeout(QUEUE_TIME_MAX, position).await;
        status.queue_position = position.ok().and_then(Result::ok).flatten();
    }
    status
}

/// A job that was put into the queue.
#[derive(Serialize, ToSchema)]
pub(super) struct Enqueued {
    /// Which backup it is about
    #[schema(minimum = 1)]
    backup_id: i64,
    /// Its id in the queue; what it finds, it writes into the backup's `health` or `proof`
    job_id: String,
}

/// Prove that a backup can be read
///
/// A worker fetches it whole, compares its digests, opens it, and reads it to the end.
#[utoipa::path(post, path = "/api/admin/backups/{id}/verify", operation_id = "verify_backup", tag = "backups",
    params(("id" = i64, Path, description = "The backup's number", minimum = 1)),
    responses(
        (status = 202, description = "It is in the queue", body = Enqueued),
        (status = 409, description = "backup_not_complete", body = super::problem::ProblemDocument, content_type = "application/problem+json"),
    ))]
pub(super) async fn verify(
    State(api): State<Arc<Api>>,
    asking: Asking,
    Id(id): Id<BackupId>,
) -> Result<(StatusCode, Json<Enqueued>), Problem> {
    let act = asking.act("backup.verify");
    send(
        &api,
        &act,
        id,
        Box::pin(api.parts.dispatch.verify(id, api.now())),
    )
    .await
}

pub(super) fn require_complete(row: &BackupRow) -> Result<ObjectKey, Problem> {
    let key = row
        .object_key
        .as_deref()
        .filter(|_| row.job.status == JobStatus::Completed);
    key.and_then(|key| ObjectKey::parse(key).ok())
        .ok_or_else(|| {
            Problem::new(
                StatusCode::CONFLICT,
                "backup_not_complete",
                "The backup is not complete.",
            )
        })
}

/// Restore a backup for trial
///
/// A worker restores it on the server that BACKUP_DRILL_DATABASE_URL names, compares it with what was recorded, and drops it
/// again. The verdict stands in the backup's `proof`.
#[utoipa::path(post, path = "/api/admin/backups/{id}/drill", operation_id = "drill_backup", tag = "backups",
    params(("id" = i64, Path, description = "The backup's number", minimum = 1)),
    responses(
        (status = 202, description = "It is in the queue", body = Enqueued),
        (status = 409, description = "backup_not_complete", body = super::problem::ProblemDocument, content_type = "application/problem+json"),
    ))]
pub(super) async fn drill(
    State(api): State<Arc<Api>>,
    asking: Asking,
    Id(id): Id<BackupId>,
) -> Result<(StatusCode, Json<Enqueued>), Problem> {
    let act = asking.act("backup.drill");
    send(
        &api,
        &act,
        id,
        Box::pin(api.parts.dispatch.drill(id, api.now())),
    )
    .await
}

/// Puts a job into the queue that has no row of its own.
async fn send(
    api: &Arc<Api>,
    act: &Act,
    id: BackupId,
    sending: impl Future<Output = Result<JobId, DispatchError>>,
) -> Result<(StatusCode, Json<Enqueued>), Problem> {
    let work = async {
        require_complete(&row(api, id).await?)?;
        // What is recorded is what was asked for; that Redis refused it is recorded beside it.
        let catalog = &api.parts.dispatch.catalog;
        catalog
            .record(act, Some(Task::Backup(id)), crate::catalog::ACCEPTED)
            .await?;
        sending.await.map_err(|error| {
            Problem::unavailable("queue_unavailable", "Redis does not answer.")
                .because(explain(&error))
        })
    };
    let job_id = audited(api, act, Some(Task::Backup(id)), work).await?;
    let enqueued = Enqueued {
        backup_id: id.get(),
        job_id: job_id.to_string(),
    };
    Ok((StatusCode::ACCEPTED, Json(enqueued)))
}

/// Say that a suspicious backup is right
///
/// One that is far smaller than the one before looks like one of the wrong database. Until somebody says that it is right,
/// retention deletes nothing.
#[utoipa::path(post, path = "/api/admin/backups/{id}/accept", operation_id = "accept_backup", tag = "backups",
    params(("id" = i64, Path, description = "The backup's number", minimum = 1)),
    responses(
        (status = 200, description = "It counts as good from now on", body = BackupRecord),
        (status = 409, description = "backup_not_suspicious", body = super::problem::ProblemDocument, content_type = "application/problem+json"),
    ))]
pub(super) async fn accept(
    State(api): State<Arc<Api>>,
    asking: Asking,
    Id(id): Id<BackupId>,
) -> Result<Json<BackupRecord>, Problem> {
    let act = asking.act("backup.accept");
    let task = Some(Task::Backup(id));
    let work = async {
        let found = row(&api, id).await?;
        let uid = found.uid.filter(|_| found.health == Health::Suspicious);
        let Some(uid) = uid else {
            return Err(Problem::new(
                StatusCode::CONFLICT,
                "backup_not_suspicious",
                "Nothing about the backup is suspicious.",
            ));
        };
        let catalog = &api.parts.dispatch.catalog;
        catalog.record(&act, task, crate::catalog::ACCEPTED).await?;
        // The mark in the store is what counts, also without a catalog.
        let target = TargetName::parse(&found.target)
            .map_err(|error| Problem::internal(format!("{}: {error}", found.target)))?;
        let vault = api.parts.vault.of_target(&target)?;
        vault.mark(Mark::Accepted, uid).await?;
        catalog.accept(id, &act.subject).await?;
        Ok(())
    };
    audited(&api, &act, task, work).await?;
    Ok(Json(api.record(row(&api, id).await?)))
}

/// End a backup's job
///
/// At once where no worker has it yet; else the worker ends it within seconds.
#[utoipa::path(post, path = "/api/admin/backups/{id}/cancel", operation_id = "cancel_backup", tag = "backups",
    params(("id" = i64, Path, description = "The backup's number", minimum = 1)),
    responses(
        (status = 202, description = "It is cancelled, or its worker will hear of it", body = BackupRecord),
        (status = 409, description = "already_ended", body = super::problem::ProblemDocument, content_type = "application/problem+json"),
    ))]
pub(super) async fn cancel(
    State(api): State<Arc<Api>>,
    asking: Asking,
    Id(id): Id<BackupId>,
) -> Result<(StatusCode, Json<BackupRecord>), Problem> {
    let task = Task::Backup(id);
    cancelled(&api, &asking, task, "backup.cancel").await?;
    Ok((StatusCode::ACCEPTED, Json(api.record(row(&api, id).await?))))
}

/// Cancels a job of either kind.
pub(super) async fn cancelled(
    api: &Api,
    asking: &Asking,
    task: Task,
    action: &'static str,
) -> Result<(), Problem> {
    let act = asking.act(action);
    let work = async {
        let dispatch = recorded(api, &act);
        match dispatch.cancel(task, &act.subject, api.now()).await? {
            Cancelled::AtOnce { .. } | Cancelled::Requested => Ok(()),
            Cancelled::Ended(_) => Err(Problem::new(
                StatusCode::CONFLICT,
                "already_ended",
                "The job has ended already.",
            )),
            Cancelled::Missing => Err(Problem::no_such(match task {
                Task::Backup(_) => "backup",
                Task::Restore(_) => "restore",
            })),
        }
    };
    audited(api, &act, Some(task), work).await?;
    tracing::info!(%task, by = act.subject, "Cancelled by request");
    Ok(())
}

/// How a backup is deleted.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct DeleteParams {
    /// Delete even the last good backup of its target
    #[serde(default)]
    #[param(default = false)]
    force: bool,
}

/// Delete a backup
///
/// Every version of its object first, then its row. A deletion that was interrupted is gone on with by asking again.
#[utoipa::path(delete, path = "/api/admin/backups/{id}", operation_id = "delete_backup", tag = "backups",
    params(("id" = i64, Path, description = "The backup's number", minimum = 1), DeleteParams),
    responses(
        (status = 204, description = "It is gone"),
        (status = 409, description = "backup_active, backup_needed, last_good_backup, backup_locked", body = super::problem::ProblemDocument, content_type = "application/problem+json"),
    ))]
pub(super) async fn delete(
    State(api): State<Arc<Api>>,
    asking: Asking,
    Id(id): Id<BackupId>,
    Params(params): Params<DeleteParams>,
) -> Result<StatusCode, Problem> {
    let act = asking.act("backup.delete");
    let last_good = if params.force {
        LastGood::Forced
    } else {
        LastGood::Kept
    };
    let work = async {
        let catalog = recorded(&api, &act).catalog;
        retention::delete(&api.parts.vault, &catalog, id, last_good)
            .await
            .map_err(|error| match error {
                DeleteError::Catalog(error) => Problem::from(error),
                DeleteError::Vault(error) => Problem::from(error),
                error @ DeleteError::Completed => Problem::internal(explain(&error)),
            })?;
        Ok(())
    };
    audited(&api, &act, Some(Task::Backup(id)), work).await?;
    api.forget_totals().await;
    tracing::info!(backup.id = %id, by = act.subject, "Backup was deleted");
    Ok(StatusCode::NO_CONTENT)
}
