//! Asking for backups and restores: a row each, and at most one job at a time for a target.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::{Postgres, Transaction};
use time::OffsetDateTime;

use super::audit::ACCEPTED;
use super::read::{active_in, backup_in, lock_target, restore_in};
use super::rows::{BackupRow, Deletion, JobStatus, RestoreMode, RestoreRow, Task};
use super::{Catalog, CatalogError, counted_small};
use crate::model::choices::Choices;
use crate::model::ids::{BackupId, RestoreId};
use crate::model::kind::BackupKind;

/// A backup that somebody asks for.
#[derive(Clone, Debug)]
pub struct BackupRequested {
    /// The configured target's name.
    pub target: String,
    /// Why.
    pub kind: BackupKind,
    /// Who asks.
    pub requested_by: String,
    /// What is attached.
    pub labels: BTreeMap<String, String>,
    /// Patterns of tables whose data is left out.
    pub excluded_table_data: Vec<String>,
    /// How long a try may take; counts in whole seconds, at least one.
    pub time_limit: Duration,
    /// The queue that its job belongs into.
    pub queue: String,
    /// The job's id there.
    pub job_id: String,
    /// How many tries there may be, at least one.
    pub attempts_max: u32,
}

/// A restore that somebody asks for.
#[derive(Clone, Debug)]
pub struct RestoreRequested {
    /// What is to be restored.
    pub backup_id: BackupId,
    /// The configured target's name.
    pub target: String,
    /// How the target changes.
    pub mode: RestoreMode,
    /// The restore that is undone, by [`RestoreMode::Rollback`].
    pub undoes: Option<RestoreId>,
    /// What was chosen beside the mode.
    pub choices: Choices,
    /// Whether the target is backed up first.
    pub safety: Safety,
    /// Who asks.
    pub requested_by: String,
    /// How long a try may take; counts in whole seconds, at least one.
    pub time_limit: Duration,
    /// The queue that its job belongs into.
    pub queue: String,
    /// The job's id there.
    pub job_id: String,
    /// How many tries there may be, at least one.
    pub attempts_max: u32,
}

/// Whether a target is backed up before it is restored over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Safety {
    /// Yes, by a job of its own, which the restore waits for.
    Backup {
        /// The queue of that job.
        queue: String,
        /// Its id there.
        job_id: String,
        /// How long a try may take.
        time_limit: Duration,
        /// How many tries there may be.
        attempts_max: u32,
    },
    /// No: there is nothing to save, or it cannot be dumped any more.
    Skip,
}

/// What a job without a number is to do.
#[derive(Clone, Debug, PartialEq)]
pub enum OfJob {
    /// To make this backup, which is its own.
    Its(Box<BackupRow>),
    /// Nothing: this one was begun after it was asked for, and is complete.
    FulfilledBy(Box<BackupRow>),
    /// To wait for what becomes of this one, which was begun after it was asked for.
    Awaits(BackupId),
}

impl Catalog {
    /// Records a backup that somebody asks for.
    ///
    /// # Errors
    /// [`CatalogError::TargetBusy`]: the target has a job that has not ended.
    pub async fn request_backup(
        &self,
        request: &BackupRequested,
    ) -> Result<BackupRow, CatalogError> {
        let doing = "record the request of a backup";
        let mut transaction = self.begin(doing).await?;
        require_idle(&mut transaction, &request.target).await?;
        let id = insert_backup(&mut transaction, request).await?;
        let row = backup_in(&mut transaction, id).await?;
        self.record_here(&mut transaction, Task::Backup(id), ACCEPTED)
            .await?;
        transaction.commit().await.map_err(self.failed(doing))?;
        row.ok_or(CatalogError::NoSuchBackup(id))
    }

    /// What a job without a number is to do. Such a job may be delivered more than once, and is one backup all the same;
    /// and however many of them there are, those that were put into the queue before a backup of everything began need no
    /// further one. `asked_at` is when that was, by the clock of whoever did; `None`: nobody knows.
    ///
    /// # Errors
    /// The catalog fails. A busy target is none: the claim finds that out.
    pub async fn backup_of_job(
        &self,
        request: &BackupRequested,
        asked_at: Option<OffsetDateTime>,
    ) -> Result<OfJob, CatalogError> {
        let doing = "record the backup of a job";
        let mut transaction = self.begin(doing).await?;
        lock_target(&mut transaction, &request.target).await?;
        let known = sqlx::query_scalar!(
            "SELECT id FROM pgseal.backups WHERE job_id = $1",
            request.job_id
        );
        let known = known.fetch_optional(&mut *transaction).await;
        if let Some(id) = known.map_err(self.failed(doing))?.and_then(BackupId::new) {
            return self.of_job(transaction, id, OfJob::Its).await;
        }
        let other = begun_since(&mut transaction, request, asked_at).await;
        match other.map_err(self.failed(doing))? {
            Some((id, JobStatus::Completed)) => {
                return self.of_job(transaction, id, OfJob::FulfilledBy).await;
            }
            Some((id, _)) => return Ok(OfJob::Awaits(id)),
            None => {}
        }
        match insert_backup(&mut transaction, request).await {
            Ok(id) => self.of_job(transaction, id, OfJob::Its).await,
            Err(CatalogError::JobTaken { .. }) => {
                // Another worker got the same job a moment earlier, and its row is there now.
                drop(transaction);
                Box::pin(self.backup_of_job(request, asked_at)).await
            }
            Err(error) => Err(error),
        }
    }

    async fn of_job(
        &self,
        mut transaction: Transaction<'_, Postgres>,
        id: BackupId,
        what: fn(Box<BackupRow>) -> OfJob,
    ) -> Result<OfJob, CatalogError> {
        let row = backup_in(&mut transaction, id).await?;
        let committed = transaction.commit().await;
        committed.map_err(self.failed("record the backup of a job"))?;
        let row = row.ok_or(CatalogError::NoSuchBackup(id))?;
        Ok(what(Box::new(row)))
    }

    /// Records a restore that somebody asks for and, unless he does not want it, the safety backup that it waits for:
    /// both or neither.
    ///
    /// # Errors
    /// [`CatalogError::TargetBusy`]: the target has a job that has not ended. [`CatalogError::NoSuchBackup`] and
    /// [`CatalogError::NotRestorable`]: about the backup.
    pub async fn request_restore(
        &self,
        request: &RestoreRequested,
    ) -> Result<(RestoreRow, Option<BackupRow>), CatalogError> {
        let doing = "record the request of a restore";
        let mut transaction = self.begin(doing).await?;
        require_idle(&mut transaction, &request.target).await?;
        // Locked, so that nobody begins to delete it meanwhile.
        let locked = sqlx::query!(
            "SELECT id FROM pgseal.backups WHERE id = $1 FOR SHARE",
            request.backup_id.get()
        );
        let locked = locked.fetch_optional(&mut *transaction).await;
        locked.map_err(self.failed(doing))?;
        let backup = backup_in(&mut transaction, request.backup_id).await?;
        let backup = backup.ok_or(CatalogError::NoSuchBackup(request.backup_id))?;
        // What undoes a restore does not read the backup.
        if request.undoes.is_none() {
            require_restorable(&backup)?;
        }
        let safety = match safety_backup(request) {
            None => None,
            Some(safety) => {
                let id = insert_backup(&mut transaction, &safety).await?;
                backup_in(&mut transaction, id).await?
            }
        };
        let safety_id = safety.as_ref().map(|row| row.id);
        let id = insert_restore(&mut transaction, request, safety_id).await?;
        let row = restore_in(&mut transaction, id).await?;
        self.record_here(&mut transaction, Task::Restore(id), ACCEPTED)
            .await?;
        transaction.commit().await.map_err(self.failed(doing))?;
        let row = row.ok_or(CatalogError::Row {
            table: "restore",
            id: id.get(),
            column: "id",
        })?;
        Ok((row, safety))
    }
}

/// Keeps every other request for this target waiting until the transaction ends, and refuses where it has a job.
pub(super) async fn require_idle(
    session: &mut PgConnection,
    target: &str,
) -> Result<(), CatalogError> {
    lock_target(session, target).await?;
    match active_in(session, target).await? {
        None => Ok(()),
        Some(active) => Err(CatalogError::TargetBusy {
            target: target.to_owned(),
            active,
        }),
    }
}

/// A backup of everything that began after a moment, or waits in the same queue, where somebody takes it. A complete one counts for ten minutes, so that
/// the clock of whoever asked, which is another machine's, makes nobody rely on an old one.
async fn begun_since(
    session: &mut PgConnection,
    request: &BackupRequested,
    asked_at: Option<OffsetDateTime>,
) -> Result<Option<(BackupId, JobStatus)>, sqlx::Error> {
    let Some(asked_at) = asked_at else {
        return Ok(None);
    };
    let found = sqlx::query!(
        "SELECT id, status FROM pgseal.backups
         WHERE target = $1 AND kind IN ('manual', 'scheduled') AND excluded_table_data = '{}'
           AND (status = 'completed' AND started_at >= $2 AND health = 'ok' AND deletion = 'kept'
                AND finished_at > clock_timestamp() - interval '10 minutes'
             OR status = 'running' AND started_at >= $2 OR status = 'pending' AND queue = $3)
         ORDER BY status = 'completed' DESC, id DESC LIMIT 1",
        request.target,
        asked_at,
        request.queue
    );
    let found = found.fetch_optional(session).await?;
    Ok(found.and_then(|found| {
        let status = JobStatus::parse(&found.status)?;
        Some((BackupId::new(found.id)?, status))
    }))
}

fn require_restorable(backup: &BackupRow) -> Result<(), CatalogError> {
    let why = if backup.job.status != JobStatus::Completed {
        format!("it is {}", backup.job.status)
    } else if backup.is_damaged() && !backup.is_only_second() {
        let reason = backup
            .health_reason
            .as_deref()
            .unwrap_or("no reason is recorded");
        format!("it is {}: {reason}", backup.health)
    } else if backup.deletion == Deletion::Deleting {
        "it is being deleted".to_owned()
    } else {
        return Ok(());
    };
    Err(CatalogError::NotRestorable {
        backup: backup.id,
        why,
    })
}

fn safety_backup(request: &RestoreRequested) -> Option<BackupRequested> {
    let Safety::Backup {
        queue,
        job_id,
        time_limit,
        attempts_max,
    } = request.safety.clone()
    else {
        return None;
    };
    let replaced_by = (
        "before_restore_of".to_owned(),
        request.backup_id.to_string(),
    );
    Some(BackupRequested {
        target: request.target.clone(),
        kind: BackupKind::PreRestore,
        requested_by: request.requested_by.clone(),
        labels: BTreeMap::from([replaced_by]),
        excluded_table_data: Vec::new(),
        time_limit,
        queue,
        job_id,
        attempts_max,
    })
}

pub(super) async fn insert_backup(
    session: &mut PgConnection,
    request: &BackupRequested,
) -> Result<BackupId, CatalogError> {
    let doing = "insert the backup";
    let inserted = sqlx::query_scalar!(
        "INSERT INTO pgseal.backups (target, kind, requested_by, labels, excluded_table_data, status, attempts_max, \
            time_limit_seconds, queue, job_id) \
         VALUES ($1, $2, $3, $4, $5, 'pending', $6, $7, $8, $9) ON CONFLICT (job_id) DO NOTHING RETURNING id",
        request.target,
        request.kind.as_str(),
        request.requested_by,
        serde_json::json!(request.labels),
        &request.excluded_table_data,
        tries(request.attempts_max),
        limit_seconds(request.time_limit),
        request.queue,
        request.job_id,
    );
    let inserted = inserted.fetch_optional(session).await;
    let inserted = inserted.map_err(|source| CatalogError::Query { doing, source })?;
    inserted
        .and_then(BackupId::new)
        .ok_or_else(|| CatalogError::JobTaken {
            job_id: request.job_id.clone(),
        })
}

async fn insert_restore(
    session: &mut PgConnection,
    request: &RestoreRequested,
    safety: Option<BackupId>,
) -> Result<RestoreId, CatalogError> {
    let doing = "insert the restore";
    let status = match safety {
        Some(_) => JobStatus::Waiting,
        None => JobStatus::Pending,
    };
    let inserted = sqlx::query_scalar!(
        "INSERT INTO pgseal.restores (backup_id, safety_backup_id, target, mode, requested_by, status, attempts_max, \
            time_limit_seconds, queue, job_id, undoes, choices) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) ON CONFLICT (job_id) DO NOTHING RETURNING id",
        request.backup_id.get(),
        safety.map(BackupId::get),
        request.target,
        request.mode.as_str(),
        request.requested_by,
        status.as_str(),
        tries(request.attempts_max),
        limit_seconds(request.time_limit),
        request.queue,
        request.job_id,
        request.undoes.map(RestoreId::get),
        serde_json::json!(request.choices),
    );
    let inserted = inserted.fetch_optional(session).await;
    let inserted = inserted.map_err(|source| CatalogError::Query { doing, source })?;
    inserted
        .and_then(RestoreId::new)
        .ok_or_else(|| CatalogError::JobTaken {
            job_id: request.job_id.clone(),
        })
}

fn tries(attempts_max: u32) -> i32 {
    counted_small(attempts_max.max(1) as usize)
}

fn limit_seconds(limit: Duration) -> i32 {
    i32::try_from(limit.as_secs().max(1)).unwrap_or(i32::MAX)
}
