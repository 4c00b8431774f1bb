//! Taking a job, and keeping it: a lease with a token, renewed by whoever has it.

use std::time::Duration;

use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::read::{active_in, backup_in, restore_in};
use super::rows::{Active, JobStatus, Task};
use super::{Catalog, CatalogError, counted, counted_small, seconds};
use crate::model::ids::Uid;

/// The primary key that keeps a second job of a target from running.
const ONE_RUNNING_JOB: &str = "one_running_job_for_a_target";

/// A job that we have. Without its token nobody changes the row while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Which job.
    pub task: Task,
    /// What fences: each lease has another one.
    pub token: Uuid,
    /// Which try it is, from 1 on.
    pub attempt: u32,
    /// How many there may be.
    pub attempts_max: u32,
    /// How long this try may take; `None`: no limit was recorded.
    pub time_limit: Option<Duration>,
}

/// What came of an attempt to take a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is ours.
    Taken(Lease),
    /// It is not to be taken: another worker has it, it ended, or it waits.
    NotPending(JobStatus),
    /// Its target has another job that runs.
    Busy(Active),
    /// There is no such row.
    Missing,
}

/// How far a job is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What it is at.
    pub stage: String,
    /// Bytes so far, in that stage.
    pub bytes: u64,
    /// Tables so far.
    pub tables: u32,
    /// Of a backup, once it is drawn: what its object carries.
    pub uid: Option<Uid>,
    /// Of a backup, once it is chosen: its object's key.
    pub object_key: Option<String>,
}

/// What came of a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewed {
    /// The job is still ours.
    Held,
    /// It is, and somebody wants it ended.
    CancelRequested,
    /// It is not: whatever is being done must be ended, and nothing of it counts.
    Lost,
}

impl Catalog {
    /// Takes a pending job for `worker`, until `lease` has passed by the database's clock.
    ///
    /// # Errors
    /// The catalog fails. It may then have been taken all the same, by a lease that nobody knows and that passes.
    pub async fn claim(
        &self,
        task: Task,
        worker: &str,
        lease: Duration,
    ) -> Result<Claim, CatalogError> {
        let doing = "take the job";
        let mut session = self.session(doing).await?;
        let taken = match task {
            Task::Backup(_) => take_backup(&mut session, task, worker, lease).await,
            Task::Restore(_) => take_restore(&mut session, task, worker, lease).await,
        };
        match taken.map_err(self.failed(doing)) {
            Ok(Some(lease)) => Ok(Claim::Taken(lease)),
            Ok(None) => self.why_not(&mut session, task).await,
            Err(error) if error.constraint() == Some(ONE_RUNNING_JOB) => {
                self.who_runs(&mut session, task).await
            }
            Err(error) => Err(error),
        }
    }

    /// Says that a job goes on, how far it is, and keeps it for another `lease`.
    ///
    /// # Errors
    /// The catalog fails. The lease is then as it was: it may be renewed until it passes.
    pub async fn renew(
        &self,
        lease: &Lease,
        duration: Duration,
        report: &Report,
    ) -> Result<Renewed, CatalogError> {
        let doing = "renew the lease";
        let mut session = self.session(doing).await?;
        let (id, token) = (lease.task.number(), lease.token);
        let (stage, bytes) = (&report.stage, counted(report.bytes));
        let tables = counted_small(report.tables as usize);
        let cancel_requested = match lease.task {
            Task::Backup(_) => {
                sqlx::query_scalar!(
                    r#"UPDATE pgseal.backups SET lease_until = clock_timestamp() + make_interval(secs => $3), stage = $4,
                        progress_bytes = $5, progress_tables = $6, progress_at = clock_timestamp(),
                        uid = coalesce($7, uid), object_key = coalesce($8, object_key)
                    WHERE id = $1 AND status = 'running' AND lease_token = $2
                    RETURNING cancel_requested_at IS NOT NULL AS "cancel_requested!""#,
                    id,
                    token,
                    seconds(duration),
                    stage,
                    bytes,
                    tables,
                    report.uid.map(Uuid::from),
                    report.object_key,
                )
                .fetch_optional(&mut *session)
                .await
            }
            Task::Restore(_) => {
                sqlx::query_scalar!(
                    r#"UPDATE pgseal.restores SET lease_until = clock_timestamp() + make_interval(secs => $3), stage = $4,
                        progress_bytes = $5, progress_tables = $6, progress_at = clock_timestamp()
                    WHERE id = $1 AND status = 'running' AND lease_token = $2
                    RETURNING cancel_requested_at IS NOT NULL AS "cancel_requested!""#,
                    id,
                    token,
                    seconds(duration),
                    stage,
                    bytes,
                    tables,
                )
                .fetch_optional(&mut *session)
                .await
            }
        };
        Ok(match cancel_requested.map_err(self.failed(doing))? {
            None => Renewed::Lost,
            Some(false) => Renewed::Held,
            Some(true) => Renewed::CancelRequested,
        })
    }

    async fn why_not(&self, session: &mut PgConnection, task: Task) -> Result<Claim, CatalogError> {
        let status = match task {
            Task::Backup(id) => backup_in(session, id).await?.map(|row| row.job.status),
            Task::Restore(id) => restore_in(session, id).await?.map(|row| row.job.status),
        };
        Ok(match status {
            None => Claim::Missing,
            // It was given back a moment ago; whoever asks again finds it so.
            Some(status) => Claim::NotPending(status),
        })
    }

    async fn who_runs(
        &self,
        session: &mut PgConnection,
        task: Task,
    ) -> Result<Claim, CatalogError> {
        let target = match task {
            Task::Backup(id) => backup_in(session, id).await?.map(|row| row.target),
            Task::Restore(id) => restore_in(session, id).await?.map(|row| row.target),
        };
        let Some(target) = target else {
            return Ok(Claim::Missing);
        };
        Ok(match active_in(session, &target).await? {
            Some(active) => Claim::Busy(active),
            None => Claim::Missing,
        })
    }
}

async fn take_backup(
    session: &mut PgConnection,
    task: Task,
    worker: &str,
    lease: Duration,
) -> Result<Option<Lease>, sqlx::Error> {
    let row = sqlx::query!(
        r#"UPDATE pgseal.backups SET status = 'running', lease_token = gen_random_uuid(), lease_worker = $2,
            lease_until = clock_timestamp() + make_interval(secs => $3), started_at = clock_timestamp(),
            stage = NULL, progress_bytes = 0, progress_tables = 0, progress_at = NULL
        WHERE id = $1 AND status = 'pending'
        RETURNING lease_token AS "token!", attempt, attempts_max, time_limit_seconds"#,
        task.number(),
        worker,
        seconds(lease),
    )
    .fetch_optional(session)
    .await?;
    Ok(row.map(|row| Lease {
        task,
        token: row.token,
        attempt: row.attempt.unsigned_abs(),
        attempts_max: row.attempts_max.unsigned_abs(),
        time_limit: row.time_limit_seconds.map(limit),
    }))
}

async fn take_restore(
    session: &mut PgConnection,
    task: Task,
    worker: &str,
    lease: Duration,
) -> Result<Option<Lease>, sqlx::Error> {
    let row = sqlx::query!(
        r#"UPDATE pgseal.restores SET status = 'running', lease_token = gen_random_uuid(), lease_worker = $2,
            lease_until = clock_timestamp() + make_interval(secs => $3), started_at = clock_timestamp(),
            stage = NULL, progress_bytes = 0, progress_tables = 0, progress_at = NULL
        WHERE id = $1 AND status = 'pending'
        RETURNING lease_token AS "token!", attempt, attempts_max, time_limit_seconds"#,
        task.number(),
        worker,
        seconds(lease),
    )
    .fetch_optional(session)
    .await?;
    Ok(row.map(|row| Lease {
        task,
        token: row.token,
        attempt: row.attempt.unsigned_abs(),
        attempts_max: row.attempts_max.unsigned_abs(),
        time_limit: Some(limit(row.time_limit_seconds)),
    }))
}

fn limit(seconds: i32) -> Duration {
    Duration::from_secs(u64::from(seconds.unsigned_abs()))
}
