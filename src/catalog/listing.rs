//! Lists of rows, newest first, a slice at a time; and the numbers of all of them.

use time::OffsetDateTime;

use super::read::{backup_row, digest, job_facts, kind, labels, restore_row, whole_seconds};
use super::rows::{
    BackupRow, CopyState, Deletion, Health, JobFacts, JobStatus, Origin, ProofState, RestoreMode,
    RestoreRow,
};
use super::{Catalog, CatalogError};
use crate::model::ids::{BackupId, RestoreId, Uid};
use crate::model::kind::BackupKind;

/// Databases whose last success is told; there is one for each target, and those that targets had before.
const DATABASES_MAX: i64 = 1000;
/// Stages that failures are counted by; there are a dozen.
const STAGES_MAX: i64 = 100;

/// Which part of a list is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// So many rows are passed over.
    pub offset: i64,
    /// At most so many are read.
    pub limit: i64,
}

/// Which backups are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct BackupFilter {
    /// How far they are.
    pub status: Option<JobStatus>,
    /// Why they are made.
    pub kind: Option<BackupKind>,
    /// Of which database.
    pub database: Option<String>,
    /// Asked for at this moment or later.
    pub from: Option<OffsetDateTime>,
    /// Asked for before this moment.
    pub until: Option<OffsetDateTime>,
}

/// Which restores are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RestoreFilter {
    /// How far they are.
    pub status: Option<JobStatus>,
    /// Of which backup.
    pub backup: Option<BackupId>,
}

/// The newest good backup of a database.
#[derive(Clone, Debug, PartialEq)]
pub struct LastSuccess {
    /// The target.
    pub target: String,
    /// The database; unknown of some that were taken over.
    pub database: Option<String>,
    /// When it was complete.
    pub finished_at: OffsetDateTime,
    /// How long it took, in seconds; unknown where no worker made it.
    pub seconds: Option<f64>,
    /// Bytes of the archive.
    pub plain_bytes: Option<i64>,
    /// Bytes of the sealed object.
    pub sealed_bytes: Option<i64>,
    /// When a drill last proved a backup of it.
    pub proven_at: Option<OffsetDateTime>,
}

/// Numbers of the whole catalog.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Statistics {
    /// The newest good backup of each database.
    pub last_successes: Vec<LastSuccess>,
    /// How many backups there are, by status.
    pub backups: Vec<(String, i64)>,
    /// How many restores there are, by status.
    pub restores: Vec<(String, i64)>,
    /// How many backups failed, by stage.
    pub failures: Vec<(String, i64)>,
}

impl Catalog {
    /// A slice of the backups, newest first.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn backups(
        &self,
        filter: &BackupFilter,
        slice: Slice,
    ) -> Result<Vec<BackupRow>, CatalogError> {
        let doing = "list the backups";
        let mut session = self.session(doing).await?;
        // The slice is found in an index alone; the wide rows are read for it, and not for what it passes over.
        let rows = sqlx::query!(
            r#"SELECT id, target, kind, origin, requested_by, labels, excluded_table_data, status, attempt, attempts_max,
                time_limit_seconds, queue, job_id, lease_worker, lease_until, cancel_requested_at, cancel_requested_by,
                stage, progress_bytes, progress_tables, progress_at, uid, object_key, store_version_id, database,
                server_version, pg_dump_version, pgseal_version, compression, plain_bytes, plain_sha256, sealed_bytes,
                sealed_sha256, tables, "rows", large_objects, warnings, snapshot_at, stored_at, error_stage, error, proof,
                proof_reason, proof_at, health, health_reason, health_at, deletion, locked_until, copy_state, copy_at, copy_place,
                copy_error, created_at, started_at, finished_at
            FROM pgseal.backups WHERE id IN (
                SELECT b.id FROM pgseal.backups b
                WHERE ($1::text IS NULL OR b.status = $1) AND ($2::text IS NULL OR b.kind = $2)
                    AND ($3::text IS NULL OR b.database = $3)
                    AND ($4::timestamptz IS NULL OR b.created_at >= $4) AND ($5::timestamptz IS NULL OR b.created_at < $5)
                ORDER BY b.created_at DESC, b.id DESC LIMIT $6 OFFSET $7
            ) ORDER BY created_at DESC, id DESC"#,
            filter.status.map(JobStatus::as_str),
            filter.kind.map(BackupKind::as_str),
            filter.database,
            filter.from,
            filter.until,
            slice.limit,
            slice.offset
        );
        let rows = rows.fetch_all(&mut *session).await;
        let rows = rows.map_err(self.failed(doing))?.into_iter();
        rows.map(|row| {
            let number = row.id;
            let strange = |column| CatalogError::Row {
                table: "backup",
                id: number,
                column,
            };
            let id = BackupId::new(number).ok_or_else(|| strange("id"))?;
            Ok(backup_row!(id, row, strange))
        })
        .collect()
    }

    /// How many backups there are.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn count_backups(&self, filter: &BackupFilter) -> Result<u64, CatalogError> {
        let doing = "count the backups";
        let mut session = self.session(doing).await?;
        let count = sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM pgseal.backups
            WHERE ($1::text IS NULL OR status = $1) AND ($2::text IS NULL OR kind = $2)
                AND ($3::text IS NULL OR database = $3)
                AND ($4::timestamptz IS NULL OR created_at >= $4) AND ($5::timestamptz IS NULL OR created_at < $5)"#,
            filter.status.map(JobStatus::as_str),
            filter.kind.map(BackupKind::as_str),
            filter.database,
            filter.from,
            filter.until
        );
        let count = count.fetch_one(&mut *session).await;
        Ok(count.map_err(self.failed(doing))?.unsigned_abs())
    }

    /// A slice of the restores, newest first.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn restores(
        &self,
        filter: &RestoreFilter,
        slice: Slice,
    ) -> Result<Vec<RestoreRow>, CatalogError> {
        let doing = "list the restores";
        let mut session = self.session(doing).await?;
        let rows = sqlx::query!(
            r#"SELECT id, backup_id, safety_backup_id, target, mode, requested_by, status, attempt, attempts_max,
                time_limit_seconds AS "time_limit_seconds?", queue AS "queue?", job_id AS "job_id?", lease_worker,
                lease_until, cancel_requested_at, cancel_requested_by, stage, progress_bytes, progress_tables,
                progress_at, undoes, choices, database, kept_database, compared_tables, compared_rows, plain_bytes, warnings,
                error_stage, error, created_at, started_at, finished_at
            FROM pgseal.restores
            WHERE ($1::text IS NULL OR status = $1) AND ($2::bigint IS NULL OR backup_id = $2)
            ORDER BY created_at DESC, id DESC LIMIT $3 OFFSET $4"#,
            filter.status.map(JobStatus::as_str),
            filter.backup.map(BackupId::get),
            slice.limit,
            slice.offset
        );
        let rows = rows.fetch_all(&mut *session).await;
        let rows = rows.map_err(self.failed(doing))?.into_iter();
        rows.map(|row| {
            let number = row.id;
            let strange = |column| CatalogError::Row {
                table: "restore",
                id: number,
                column,
            };
            let id = RestoreId::new(number).ok_or_else(|| strange("id"))?;
            Ok(restore_row!(id, row, strange))
        })
        .collect()
    }

    /// How many restores there are.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn count_restores(&self, filter: &RestoreFilter) -> Result<u64, CatalogError> {
        let doing = "count the restores";
        let mut session = self.session(doing).await?;
        let count = sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM pgseal.restores
            WHERE ($1::text IS NULL OR status = $1) AND ($2::bigint IS NULL OR backup_id = $2)"#,
            filter.status.map(JobStatus::as_str),
            filter.backup.map(BackupId::get)
        );
        let count = count.fetch_one(&mut *session).await;
        Ok(count.map_err(self.failed(doing))?.unsigned_abs())
    }

    /// Numbers of the whole catalog, for who watches it.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn statistics(&self) -> Result<Statistics, CatalogError> {
        let doing = "count what is in the catalog";
        let mut session = self.session(doing).await?;
        let last_successes = sqlx::query_as!(
            LastSuccess,
            r#"SELECT DISTINCT ON (target, database) target, database, finished_at AS "finished_at!",
                extract(epoch FROM finished_at - started_at)::float8 AS seconds, plain_bytes, sealed_bytes,
                max(proof_at) FILTER (WHERE proof = 'PROVEN') OVER (PARTITION BY target, database) AS proven_at
            FROM pgseal.backups WHERE status = 'completed' AND health = 'ok' AND kind <> 'pre_restore'
            ORDER BY target, database, finished_at DESC LIMIT $1"#,
            DATABASES_MAX
        );
        let last_successes = last_successes.fetch_all(&mut *session).await;
        let counts = sqlx::query!(
            r#"SELECT 'backups' AS "of!", status AS "word!", count(*) AS "count!" FROM pgseal.backups GROUP BY status
            UNION ALL SELECT 'restores', status, count(*) FROM pgseal.restores GROUP BY status
            UNION ALL (SELECT 'failures', error_stage, count(*) FROM pgseal.backups WHERE status = 'failed'
                GROUP BY error_stage ORDER BY count(*) DESC LIMIT $1)"#,
            STAGES_MAX
        );
        let counts = counts.fetch_all(&mut *session).await;
        let mut statistics = Statistics {
            last_successes: last_successes.map_err(self.failed(doing))?,
            ..Statistics::default()
        };
        for row in counts.map_err(self.failed(doing))? {
            let list = match row.of.as_str() {
                "backups" => &mut statistics.backups,
                "restores" => &mut statistics.restores,
                _ => &mut statistics.failures,
            };
            list.push((row.word, row.count));
        }
        Ok(statistics)
    }
}
