//! Rows of the catalog as clients see them. Leases, tokens of leases and names of machines stay inside.

use std::collections::BTreeMap;

use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::extract::Paging;
use crate::catalog::{BackupRow, JobFacts, RestoreRow};
use crate::model::choices::Choices;

/// A backup.
#[derive(Serialize, ToSchema)]
#[schema(as = Backup)]
pub(super) struct BackupRecord {
    #[schema(minimum = 1)]
    id: i64,
    /// The configured target that it is of.
    target: String,
    /// `manual`, `scheduled` or `pre_restore`.
    kind: &'static str,
    /// `requested`, `adopted` (its object was found) or `imported` (from another service).
    origin: &'static str,
    #[serde(flatten)]
    job: JobRecord,
    labels: BTreeMap<String, String>,
    exclude_table_data: Vec<String>,
    /// The database's name.
    database: Option<String>,
    /// The backup's name, as the command line takes it.
    name: Option<String>,
    /// The sealed object's key.
    storage_key: Option<String>,
    /// Bytes of the sealed object.
    size: Option<u64>,
    /// The sealed object's SHA-256, in hex.
    checksum: Option<String>,
    /// Bytes of the archive in it.
    plain_size: Option<u64>,
    compression: Option<String>,
    server_version: Option<String>,
    /// Tables whose data is in it.
    tables: Option<u32>,
    /// Their rows, where they were counted.
    rows: Option<u64>,
    large_objects: Option<u64>,
    warnings: Vec<String>,
    #[serde(with = "time::serde::rfc3339::option")]
    snapshot_at: Option<OffsetDateTime>,
    /// `ok`, `CORRUPT`, `ALTERED`, `SUSPICIOUS` or `lost`.
    health: &'static str,
    health_reason: Option<String>,
    /// When that was found, or a verification last found it unchanged.
    #[serde(with = "time::serde::rfc3339::option")]
    health_at: Option<OffsetDateTime>,
    /// `unproven`, `PROVEN`, `FAILED` or `UNVERIFIABLE`: whether it was restored to see.
    proof: &'static str,
    proof_reason: Option<String>,
    #[serde(with = "time::serde::rfc3339::option")]
    proof_at: Option<OffsetDateTime>,
    /// `kept`, `deleting` or `LOCKED`.
    deletion: &'static str,
    #[serde(with = "time::serde::rfc3339::option")]
    locked_until: Option<OffsetDateTime>,
    /// Its second copy: `none`, `pending`, `confirmed` (read back from the second store, digest and all) or `failed`.
    copy_state: &'static str,
    /// Since when.
    #[serde(with = "time::serde::rfc3339::option")]
    copy_at: Option<OffsetDateTime>,
    /// Why there is no copy, or why the last try came to nothing.
    copy_error: Option<String>,
    /// Whether both copies are there, each with the digest that the manifest records.
    replicated: bool,
}

/// A restore.
#[derive(Serialize, ToSchema)]
#[schema(as = Restore)]
pub(super) struct RestoreRecord {
    #[schema(minimum = 1)]
    id: i64,
    /// What is restored.
    #[schema(minimum = 1)]
    backup_id: i64,
    /// What is made first, of the target as it is.
    safety_backup_id: Option<i64>,
    /// The configured target that it goes into.
    target: String,
    /// `in-place`, `swap`, or `rollback` for one that undoes another.
    mode: &'static str,
    #[serde(flatten)]
    job: JobRecord,
    /// The restore that it undoes.
    undoes: Option<i64>,
    /// What was chosen beside the mode.
    choices: Choices,
    /// The database that has the data now.
    database: Option<String>,
    /// What was there before, under its name of now.
    kept_database: Option<String>,
    /// Tables whose rows were compared with the backup's.
    compared_tables: Option<u32>,
    /// Their rows.
    compared_rows: Option<u64>,
    /// Bytes of the archive.
    plain_size: Option<u64>,
    warnings: Vec<String>,
}

/// What backups and restores have in common.
#[derive(Serialize, ToSchema)]
#[schema(as = Job)]
pub(super) struct JobRecord {
    /// `waiting` (a restore, for its safety backup), `pending`, `running`, `completed`, `failed` or `cancelled`.
    status: &'static str,
    requested_by: String,
    job_id: Option<String>,
    /// Which try it is, from 1 on.
    attempt: u32,
    attempts_max: u32,
    /// Whether somebody wants it ended.
    cancel_requested: bool,
    /// Where it failed.
    error_stage: Option<String>,
    /// Why.
    error: Option<String>,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    started_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    finished_at: Option<OffsetDateTime>,
}

/// How far a job is.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = Status)]
pub(super) struct StatusRecord {
    #[schema(minimum = 1)]
    id: i64,
    /// As in the record.
    pub(super) status: &'static str,
    /// What it is at.
    stage: Option<String>,
    /// Bytes so far, in that stage.
    bytes: u64,
    /// Tables so far.
    tables: u32,
    /// Since it began; unknown before.
    bytes_per_second: Option<f64>,
    /// Jobs before this one in the queue; unknown where it is not in one, or Redis does not answer.
    pub(super) queue_position: Option<u64>,
    attempt: u32,
    attempts_max: u32,
    cancel_requested: bool,
    error_stage: Option<String>,
    error: Option<String>,
    /// When it last said how far it is.
    #[serde(with = "time::serde::rfc3339::option")]
    updated_at: Option<OffsetDateTime>,
}

/// A page of a list.
#[derive(Serialize, ToSchema)]
#[expect(
    clippy::struct_field_names,
    reason = "they are what clients see, and what they ask with"
)]
pub(super) struct Page<T> {
    items: Vec<T>,
    #[schema(minimum = 1)]
    page: u32,
    #[schema(minimum = 1, maximum = 100)]
    per_page: u32,
    /// Items on all pages, as of a second ago at most.
    total: u64,
    links: Links,
}

/// Where the other pages are, as paths with their queries.
#[derive(Serialize, ToSchema)]
pub(super) struct Links {
    first: String,
    prev: Option<String>,
    next: Option<String>,
    last: String,
}

impl<T> Page<T> {
    /// `link` says where a page is.
    pub(super) fn new(
        items: Vec<T>,
        Paging { page, per_page }: Paging,
        total: u64,
        link: impl Fn(u64) -> String,
    ) -> Self {
        let last = total.div_ceil(u64::from(per_page)).max(1);
        let page_now = u64::from(page);
        Self {
            items,
            page,
            per_page,
            total,
            links: Links {
                first: link(1),
                prev: (page_now > 1).then(|| link((page_now - 1).min(last))),
                next: (page_now < last).then(|| link(page_now + 1)),
                last: link(last),
            },
        }
    }
}

impl BackupRecord {
    /// As it is known, where `second` is the second store; `None`: there is none.
    pub(super) fn of(row: BackupRow, second: Option<&str>) -> Self {
        let replicated = row.is_replicated(second);
        let name = row
            .object_key
            .as_deref()
            .and_then(|key| crate::model::object_key::ObjectKey::parse(key).ok())
            .and_then(|key| key.backup_name().map(str::to_owned));
        Self {
            id: row.id.get(),
            target: row.target,
            kind: row.kind.as_str(),
            origin: row.origin.as_str(),
            job: JobRecord::of(row.job, row.requested_by),
            labels: row.labels,
            exclude_table_data: row.excluded_table_data,
            database: row.database,
            name,
            storage_key: row.object_key,
            size: row.sealed_bytes,
            checksum: row.sealed_sha256.map(|digest| digest.to_string()),
            plain_size: row.plain_bytes,
            compression: row.compression,
            server_version: row.server_version,
            tables: row.tables,
            rows: row.rows,
            large_objects: row.large_objects,
            warnings: row.warnings,
            snapshot_at: row.snapshot_at,
            health: row.health.as_str(),
            health_reason: row.health_reason,
            health_at: row.health_at,
            proof: row.proof.as_str(),
            proof_reason: row.proof_reason.clone(),
            proof_at: row.proof_at,
            deletion: row.deletion.as_str(),
            locked_until: row.locked_until,
            copy_state: row.copy_state.as_str(),
            copy_at: row.copy_at,
            replicated,
            copy_error: row.copy_error,
        }
    }
}

impl From<RestoreRow> for RestoreRecord {
    fn from(row: RestoreRow) -> Self {
        Self {
            id: row.id.get(),
            backup_id: row.backup_id.get(),
            safety_backup_id: row.safety_backup_id.map(Into::into),
            target: row.target,
            mode: row.mode.as_str(),
            job: JobRecord::of(row.job, row.requested_by),
            undoes: row.undoes.map(Into::into),
            choices: row.choices,
            database: row.database,
            kept_database: row.kept_database,
            compared_tables: row.compared_tables,
            compared_rows: row.compared_rows,
            plain_size: row.plain_bytes,
            warnings: row.warnings,
        }
    }
}

impl JobRecord {
    fn of(job: JobFacts, requested_by: String) -> Self {
        Self {
            status: job.status.as_str(),
            requested_by,
            job_id: job.job_id,
            attempt: job.attempt,
            attempts_max: job.attempts_max,
            cancel_requested: job.cancel_requested_at.is_some(),
            error_stage: job.error_stage,
            error: job.error,
            created_at: job.created_at,
            started_at: job.started_at,
            finished_at: job.finished_at,
        }
    }
}

impl StatusRecord {
    pub(super) fn of(id: i64, job: &JobFacts) -> Self {
        // From the start to the last sign of life: a worker that is silent is not slow, and would look so.
        let seconds = job
            .started_at
            .zip(job.progress_at.or(job.finished_at))
            .map(|(from, to)| (to - from).as_seconds_f64())
            .filter(|seconds| *seconds > 0.0);
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = seconds.map(|seconds| (job.progress_bytes as f64 / seconds).round());
        Self {
            id,
            status: job.status.as_str(),
            stage: job.stage.clone(),
            bytes: job.progress_bytes,
            tables: job.progress_tables,
            bytes_per_second: rate,
            queue_position: None,
            attempt: job.attempt,
            attempts_max: job.attempts_max,
            cancel_requested: job.cancel_requested_at.is_some(),
            error_stage: job.error_stage.clone(),
            error: job.error.clone(),
            updated_at: job.progress_at,
        }
    }
}
