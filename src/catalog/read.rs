//! Reading rows.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::postgres::PgConnection;

use super::rows::{
    Active, BackupRow, CopyState, Deletion, Health, JobFacts, JobStatus, Origin, PendingJob,
    ProofState, RestoreMode, RestoreRow, RunningJob, Task,
};
use super::{Catalog, CatalogError};
use crate::model::digest::Sha256;
use crate::model::ids::{BackupId, RestoreId, Uid};
use crate::model::kind::BackupKind;

/// Jobs that are read at once; what is beyond them comes when these are done.
const JOBS_MAX: i64 = 1000;

/// What both tables have in common.
macro_rules! job_facts {
    ($row:ident, $strange:ident) => {
        JobFacts {
            status: JobStatus::parse(&$row.status).ok_or_else(|| $strange("status"))?,
            attempt: $row.attempt.unsigned_abs(),
            attempts_max: $row.attempts_max.unsigned_abs(),
            time_limit: $row.time_limit_seconds.map(whole_seconds),
            queue: $row.queue,
            job_id: $row.job_id,
            worker: $row.lease_worker,
            lease_until: $row.lease_until,
            cancel_requested_at: $row.cancel_requested_at,
            cancel_requested_by: $row.cancel_requested_by,
            stage: $row.stage,
            progress_bytes: $row.progress_bytes.unsigned_abs(),
            progress_tables: $row.progress_tables.unsigned_abs(),
            progress_at: $row.progress_at,
            error_stage: $row.error_stage,
            error: $row.error,
            created_at: $row.created_at,
            started_at: $row.started_at,
            finished_at: $row.finished_at,
        }
    };
}

/// A backup's row out of a statement's.
macro_rules! backup_row {
    ($id:expr, $row:ident, $strange:ident) => {
        BackupRow {
            id: $id,
            kind: kind(&$row.kind).ok_or_else(|| $strange("kind"))?,
            origin: Origin::parse(&$row.origin).ok_or_else(|| $strange("origin"))?,
            labels: labels($row.labels).ok_or_else(|| $strange("labels"))?,
            uid: $row.uid.map(Uid::from),
            plain_sha256: digest($row.plain_sha256),
            sealed_sha256: digest($row.sealed_sha256),
            plain_bytes: $row.plain_bytes.map(i64::unsigned_abs),
            sealed_bytes: $row.sealed_bytes.map(i64::unsigned_abs),
            tables: $row.tables.map(i32::unsigned_abs),
            rows: $row.rows.map(i64::unsigned_abs),
            large_objects: $row.large_objects.map(i64::unsigned_abs),
            proof: ProofState::parse(&$row.proof).ok_or_else(|| $strange("proof"))?,
            health: Health::parse(&$row.health).ok_or_else(|| $strange("health"))?,
            deletion: Deletion::parse(&$row.deletion).ok_or_else(|| $strange("deletion"))?,
            job: job_facts!($row, $strange),
            target: $row.target,
            requested_by: $row.requested_by,
            excluded_table_data: $row.excluded_table_data,
            object_key: $row.object_key,
            store_version_id: $row.store_version_id,
            database: $row.database,
            server_version: $row.server_version,
            pg_dump_version: $row.pg_dump_version,
            pgseal_version: $row.pgseal_version,
            compression: $row.compression,
            warnings: $row.warnings,
            snapshot_at: $row.snapshot_at,
            stored_at: $row.stored_at,
            proof_reason: $row.proof_reason,
            proof_at: $row.proof_at,
            health_reason: $row.health_reason,
            health_at: $row.health_at,
            locked_until: $row.locked_until,
            copy_state: CopyState::parse(&$row.copy_state).ok_or_else(|| $strange("copy_state"))?,
            copy_at: $row.copy_at,
            copy_place: $row.copy_place,
            copy_error: $row.copy_error,
        }
    };
}

/// A restore's row out of a statement's.
macro_rules! restore_row {
    ($id:expr, $row:ident, $strange:ident) => {
        RestoreRow {
            id: $id,
            backup_id: BackupId::new($row.backup_id).ok_or_else(|| $strange("backup_id"))?,
            safety_backup_id: $row.safety_backup_id.and_then(BackupId::new),
            mode: RestoreMode::parse(&$row.mode).ok_or_else(|| $strange("mode"))?,
            compared_tables: $row.compared_tables.map(i32::unsigned_abs),
            compared_rows: $row.compared_rows.map(i64::unsigned_abs),
            plain_bytes: $row.plain_bytes.map(i64::unsigned_abs),
            job: job_facts!($row, $strange),
            target: $row.target,
            requested_by: $row.requested_by,
            undoes: $row.undoes.and_then(RestoreId::new),
            choices: serde_json::from_value($row.choices).map_err(|_| $strange("choices"))?,
            database: $row.database,
            kept_database: $row.kept_database,
            warnings: $row.warnings,
        }
    };
}

pub(super) use {backup_row, job_facts, restore_row};

impl Catalog {
    /// A backup's row; `None` where no backup has that number.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn backup(&self, id: BackupId) -> Result<Option<BackupRow>, CatalogError> {
        let mut session = self.session("read the backup").await?;
        backup_in(&mut session, id).await
    }

    /// A restore's row; `None` where no restore has that number.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn restore(&self, id: RestoreId) -> Result<Option<RestoreRow>, CatalogError> {
        let mut session = self.session("read the restore").await?;
        restore_in(&mut session, id).await
    }

    /// How far the row is that a job of the queue belongs to; `None`: it belongs to none.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn status_of_job(&self, job_id: &str) -> Result<Option<JobStatus>, CatalogError> {
        let doing = "look for the row of a job";
        let mut session = self.session(doing).await?;
        let status = sqlx::query_scalar!(
            r#"SELECT status AS "status!" FROM pgseal.backups WHERE job_id = $1
            UNION ALL SELECT status FROM pgseal.restores WHERE job_id = $1"#,
            job_id
        );
        let status = status.fetch_optional(&mut *session).await;
        let status = status.map_err(self.failed(doing))?;
        Ok(status.and_then(|word| JobStatus::parse(&word)))
    }

    /// The job that keeps a target from taking another one.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn active(&self, target: &str) -> Result<Option<Active>, CatalogError> {
        let mut session = self.session("look whether the target is busy").await?;
        active_in(&mut session, target).await
    }

    /// The jobs that nobody runs, oldest first, at most 1,000 of them: what the queue must hold.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn pending(&self) -> Result<Vec<PendingJob>, CatalogError> {
        let doing = "read the pending jobs";
        let mut session = self.session(doing).await?;
        let rows = sqlx::query!(
            r#"SELECT id AS "id!", is_restore AS "is_restore!", job_id AS "job_id!", queue AS "queue!",
                status AS "status!", attempt AS "attempt!", attempts_max AS "attempts_max!",
                time_limit_seconds AS "time_limit_seconds!", depends_on
            FROM (
                SELECT id, false AS is_restore, job_id, queue, status, attempt, attempts_max, time_limit_seconds,
                    NULL AS depends_on, created_at
                FROM pgseal.backups WHERE status = 'pending'
                UNION ALL
                SELECT r.id, true, r.job_id, r.queue, r.status, r.attempt, r.attempts_max, r.time_limit_seconds,
                    CASE r.status WHEN 'waiting' THEN b.job_id END, r.created_at
                FROM pgseal.restores r LEFT JOIN pgseal.backups b ON b.id = r.safety_backup_id
                WHERE r.status IN ('waiting', 'pending')
            ) jobs ORDER BY created_at, is_restore, id LIMIT $1"#,
            JOBS_MAX
        );
        let rows = rows.fetch_all(&mut *session).await;
        let rows = rows.map_err(self.failed(doing))?.into_iter();
        rows.map(|row| {
            let (task, strange) = named(row.is_restore, row.id)?;
            Ok(PendingJob {
                task,
                job_id: row.job_id,
                queue: row.queue,
                status: JobStatus::parse(&row.status).ok_or_else(|| strange("status"))?,
                attempt: row.attempt.unsigned_abs(),
                attempts_max: row.attempts_max.unsigned_abs(),
                time_limit: whole_seconds(row.time_limit_seconds),
                depends_on: row.depends_on,
            })
        })
        .collect()
    }

    /// The jobs that somebody runs, or ran until his lease passed; oldest first.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn running(&self) -> Result<Vec<RunningJob>, CatalogError> {
        let doing = "read the running jobs";
        let mut session = self.session(doing).await?;
        let rows = sqlx::query!(
            r#"SELECT id AS "id!", is_restore AS "is_restore!", job_id AS "job_id!", queue AS "queue!",
                target AS "target!", attempt AS "attempt!", attempts_max AS "attempts_max!",
                lease_worker AS "worker!", lease_token AS "token!", lease_until AS "lease_until!",
                lease_until <= clock_timestamp() AS "is_expired!",
                cancel_requested_at IS NOT NULL AS "cancel_requested!", started_at AS "started_at!", stage, uid, object_key
            FROM (
                SELECT id, false AS is_restore, job_id, queue, target, attempt, attempts_max, lease_worker,
                    lease_token, lease_until, cancel_requested_at, started_at, stage, uid, object_key
                FROM pgseal.backups WHERE status = 'running'
                UNION ALL
                SELECT id, true, job_id, queue, target, attempt, attempts_max, lease_worker,
                    lease_token, lease_until, cancel_requested_at, started_at, stage, NULL, NULL
                FROM pgseal.restores WHERE status = 'running'
            ) jobs ORDER BY started_at, is_restore, id"#
        );
        let rows = rows.fetch_all(&mut *session).await;
        let rows = rows.map_err(self.failed(doing))?.into_iter();
        rows.map(|row| {
            let (task, _) = named(row.is_restore, row.id)?;
            Ok(RunningJob {
                task,
                job_id: row.job_id,
                queue: row.queue,
                target: row.target,
                attempt: row.attempt.unsigned_abs(),
                attempts_max: row.attempts_max.unsigned_abs(),
                worker: row.worker,
                token: row.token,
                lease_until: row.lease_until,
                is_expired: row.is_expired,
                cancel_requested: row.cancel_requested,
                started_at: row.started_at,
                stage: row.stage,
                uid: row.uid.map(Uid::from),
                object_key: row.object_key,
            })
        })
        .collect()
    }
}

/// Keeps every other request for this target waiting until the transaction ends.
pub(super) async fn lock_target(
    session: &mut PgConnection,
    target: &str,
) -> Result<(), CatalogError> {
    let doing = "wait for the target's other requests";
    // The first key is ours alone ("pgsc"), the second the target's.
    sqlx::query!(
        "SELECT pg_advisory_xact_lock(1885827939, hashtext($1))",
        target
    )
    .execute(session)
    .await
    .map(drop)
    .map_err(|source| CatalogError::Query { doing, source })
}

/// As [`Catalog::active`]; what runs before what does not, then the older one.
pub(super) async fn active_in(
    session: &mut PgConnection,
    target: &str,
) -> Result<Option<Active>, CatalogError> {
    let doing = "look whether the target is busy";
    let row = sqlx::query!(
        r#"SELECT id AS "id!", is_restore AS "is_restore!", status AS "status!" FROM (
            SELECT id, false AS is_restore, status, created_at FROM pgseal.backups
            WHERE target = $1 AND status IN ('pending', 'running')
            UNION ALL
            SELECT id, true, status, created_at FROM pgseal.restores
            WHERE target = $1 AND status IN ('waiting', 'pending', 'running')
        ) jobs ORDER BY status <> 'running', created_at, is_restore, id LIMIT 1"#,
        target
    );
    let row = row.fetch_optional(session).await;
    let Some(row) = row.map_err(|source| CatalogError::Query { doing, source })? else {
        return Ok(None);
    };
    let (task, strange) = named(row.is_restore, row.id)?;
    let status = JobStatus::parse(&row.status).ok_or_else(|| strange("status"))?;
    Ok(Some(Active { task, status }))
}

/// As [`Catalog::backup`], in a transaction.
pub(super) async fn backup_in(
    session: &mut PgConnection,
    id: BackupId,
) -> Result<Option<BackupRow>, CatalogError> {
    let doing = "read the backup";
    let row = sqlx::query!(
        r#"SELECT target, kind, origin, requested_by, labels, excluded_table_data, status, attempt, attempts_max,
            time_limit_seconds, queue, job_id, lease_worker, lease_until, cancel_requested_at, cancel_requested_by,
            stage, progress_bytes, progress_tables, progress_at, uid, object_key, store_version_id, database,
            server_version, pg_dump_version, pgseal_version, compression, plain_bytes, plain_sha256, sealed_bytes,
            sealed_sha256, tables, "rows", large_objects, warnings, snapshot_at, stored_at, error_stage, error, proof,
            proof_reason, proof_at, health, health_reason, health_at, deletion, locked_until, copy_state, copy_at, copy_place,
            copy_error, created_at, started_at, finished_at
        FROM pgseal.backups WHERE id = $1"#,
        id.get()
    );
    let row = row.fetch_optional(session).await;
    let Some(row) = row.map_err(|source| CatalogError::Query { doing, source })? else {
        return Ok(None);
    };
    let strange = |column| CatalogError::Row {
        table: "backup",
        id: id.get(),
        column,
    };
    Ok(Some(backup_row!(id, row, strange)))
}

/// As [`Catalog::restore`], in a transaction.
pub(super) async fn restore_in(
    session: &mut PgConnection,
    id: RestoreId,
) -> Result<Option<RestoreRow>, CatalogError> {
    let doing = "read the restore";
    let row = sqlx::query!(
        r#"SELECT backup_id, safety_backup_id, target, mode, requested_by, status, attempt, attempts_max,
            time_limit_seconds AS "time_limit_seconds?", queue AS "queue?", job_id AS "job_id?", lease_worker,
            lease_until, cancel_requested_at, cancel_requested_by, stage, progress_bytes, progress_tables, progress_at,
            undoes, choices, database, kept_database, compared_tables, compared_rows, plain_bytes, warnings, error_stage, error, created_at,
            started_at, finished_at
        FROM pgseal.restores WHERE id = $1"#,
        id.get()
    );
    let row = row.fetch_optional(session).await;
    let Some(row) = row.map_err(|source| CatalogError::Query { doing, source })? else {
        return Ok(None);
    };
    let strange = |column| CatalogError::Row {
        table: "restore",
        id: id.get(),
        column,
    };
    Ok(Some(restore_row!(id, row, strange)))
}

/// The task of a row, and how to say that it cannot be read.
pub(super) fn named(
    is_restore: bool,
    id: i64,
) -> Result<(Task, impl Fn(&'static str) -> CatalogError), CatalogError> {
    let table = if is_restore { "restore" } else { "backup" };
    let strange = move |column| CatalogError::Row { table, id, column };
    let task = if is_restore {
        RestoreId::new(id).map(Task::Restore)
    } else {
        BackupId::new(id).map(Task::Backup)
    };
    Ok((task.ok_or_else(|| strange("id"))?, strange))
}

pub(super) fn kind(word: &str) -> Option<BackupKind> {
    BackupKind::ALL
        .into_iter()
        .find(|kind| kind.as_str() == word)
}

pub(super) fn labels(json: serde_json::Value) -> Option<BTreeMap<String, String>> {
    serde_json::from_value(json).ok()
}

/// The schema holds it to 32 bytes.
pub(super) fn digest(bytes: Option<Vec<u8>>) -> Option<Sha256> {
    bytes?.try_into().ok().map(Sha256)
}

pub(super) fn whole_seconds(seconds: i32) -> Duration {
    Duration::from_secs(u64::from(seconds.unsigned_abs()))
}
