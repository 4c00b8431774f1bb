//! Asking for work: a row in the catalog first, then a job on Redis that carries the row's id.
//!
//! The row is the truth, the job a hint: where Redis is down, the row waits until a worker's housekeeping makes the job.

mod drills;
mod outbox;
mod timetable;

use std::collections::BTreeMap;
use std::time::Duration;

use rand::random;
use time::OffsetDateTime;

pub use drills::{
    Budget, DrillAsked, DrillOutlook, DrillTimetable, Drills, Spent, drill_of_command,
};
pub use outbox::Outbox;
pub use timetable::{Asked, Outlook, Timetable, scheduled};

use crate::catalog::{
    BackupRequested, BackupRow, Cancelled, Catalog, CatalogError, Dependent, JobStatus, PendingJob,
    RestoreMode, RestoreRequested, RestoreRow, Safety, Task,
};
use crate::model::choices::Choices;
use crate::model::explanation::explain;
use crate::model::ids::{BackupId, RestoreId};
use crate::model::kind::BackupKind;
use crate::queue::job::{Functions, Job};
use crate::queue::payload::Serializer;
use crate::queue::producer::{EnqueueError, Ensured, NewJob};
use crate::queue::rq::job_hash::Status;
use crate::queue::rq::moment::Lifetime;
use crate::queue::rq::names::{JobId, QueueName};
use crate::queue::{Queue, QueueError};

/// How often a backup is tried.
const BACKUP_ATTEMPTS_MAX: u32 = 2;
/// A restore is tried once: what it met is for a person to look at.
const RESTORE_ATTEMPTS_MAX: u32 = 1;
/// How often a copy is tried again, and after which pauses; later, housekeeping asks anew.
const COPY_RETRIES: u32 = 2;
const COPY_PAUSES_SECONDS: [u32; 2] = [10, 30];
/// How long a job that is done is shown by RQ's tools: a day, because its default of 500 s is over before anybody looks.
const RESULT_TTL: Lifetime = Lifetime::Seconds(24 * 60 * 60);
/// How long somebody who asks is kept waiting for Redis; the row is there already.
const ENQUEUE_WITHIN: Duration = Duration::from_secs(3);

/// Puts work into the catalog and the queue.
#[derive(Clone)]
pub struct Dispatch {
    /// The truth about jobs.
    pub catalog: Catalog,
    /// The hints.
    pub queue: Queue,
    /// How the tasks are called there.
    pub functions: Functions,
    /// Which queue new jobs are put in.
    pub queue_name: QueueName,
    /// How long a job may take.
    pub time_limit: Duration,
    /// How long after a failure a backup is tried again: what passes by itself is over in a minute, and not in a moment.
    pub retry_pause: Duration,
}

/// A backup that somebody wants.
#[derive(Clone, Debug)]
pub struct BackupWanted {
    /// The configured target's name.
    pub target: String,
    /// Why.
    pub kind: BackupKind,
    /// Who.
    pub requested_by: String,
    /// What they attach.
    pub labels: BTreeMap<String, String>,
    /// Patterns of tables whose data is left out.
    pub excluded_table_data: Vec<String>,
}

/// A restore that somebody wants.
#[derive(Clone, Debug)]
pub struct RestoreWanted {
    /// Of which backup.
    pub backup_id: BackupId,
    /// Into which configured target.
    pub target: String,
    /// How.
    pub mode: RestoreMode,
    /// Which earlier one it undoes, by [`RestoreMode::Rollback`].
    pub undoes: Option<RestoreId>,
    /// What was chosen beside the mode.
    pub choices: Choices,
    /// What is made before.
    pub safety_backup: SafetyBackup,
    /// Who.
    pub requested_by: String,
}

/// Whether the target is backed up before it is restored over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SafetyBackup {
    /// It is, and the restore waits for that.
    First,
    /// Somebody said that there is nothing to save, or that it cannot be dumped any more.
    Skipped,
}

/// Whether Redis has the job already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queued {
    /// It has.
    Now,
    /// Redis did not answer: the job is made within a minute of its return.
    Later,
}

impl Dispatch {
    /// Asks for a backup.
    ///
    /// # Errors
    /// The target is busy, or the catalog failed; then nothing is queued.
    pub async fn backup(
        &self,
        wanted: BackupWanted,
        now: OffsetDateTime,
    ) -> Result<(BackupRow, Queued), CatalogError> {
        let requested = self.backup_requested(wanted, &JobId::from_random(random()));
        let row = self.catalog.request_backup(&requested).await?;
        let queued = self.enqueue(now).await;
        Ok((row, queued))
    }

    /// The row of a backup that is asked for by this job.
    #[must_use]
    pub fn backup_requested(&self, wanted: BackupWanted, job: &JobId) -> BackupRequested {
        BackupRequested {
            target: wanted.target,
            kind: wanted.kind,
            requested_by: wanted.requested_by,
            labels: wanted.labels,
            excluded_table_data: wanted.excluded_table_data,
            time_limit: self.time_limit,
            queue: self.queue_name.to_string(),
            job_id: job.to_string(),
            attempts_max: BACKUP_ATTEMPTS_MAX,
        }
    }

    /// Asks for a restore, behind its safety backup.
    ///
    /// # Errors
    /// There is no such backup, the target is busy, or the catalog failed; then nothing is queued.
    pub async fn restore(
        &self,
        wanted: RestoreWanted,
        now: OffsetDateTime,
    ) -> Result<(RestoreRow, Queued), CatalogError> {
        let new_job = || JobId::from_random(random()).to_string();
        let queue = self.queue_name.to_string();
        let safety = match wanted.safety_backup {
            SafetyBackup::First => Safety::Backup {
                queue: queue.clone(),
                job_id: new_job(),
                time_limit: self.time_limit,
                attempts_max: BACKUP_ATTEMPTS_MAX,
            },
            SafetyBackup::Skipped => Safety::Skip,
        };
        let requested = RestoreRequested {
            backup_id: wanted.backup_id,
            target: wanted.target,
            mode: wanted.mode,
            undoes: wanted.undoes,
            choices: wanted.choices,
            safety,
            requested_by: wanted.requested_by,
            time_limit: self.time_limit,
            queue,
            job_id: new_job(),
            attempts_max: RESTORE_ATTEMPTS_MAX,
        };
        let (row, _safety) = self.catalog.request_restore(&requested).await?;
        let queued = self.enqueue(now).await;
        Ok((row, queued))
    }

    /// Asks for the proof that a backup can be read. It has no row of its own, so a job that Redis does not take is lost:
    /// the job's id.
    ///
    /// # Errors
    /// Redis failed, or did not answer in time.
    pub async fn verify(&self, id: BackupId, now: OffsetDateTime) -> Result<JobId, DispatchError> {
        self.without_row(Job::Verify(id), now).await
    }

    /// Asks for a drill of a backup. It has no row of its own either: the job's id.
    ///
    /// # Errors
    /// Redis failed, or did not answer in time.
    pub async fn drill(&self, id: BackupId, now: OffsetDateTime) -> Result<JobId, DispatchError> {
        self.without_row(Job::Drill(Some(id)), now).await
    }

    async fn without_row(&self, job: Job, now: OffsetDateTime) -> Result<JobId, DispatchError> {
        let job_id = JobId::from_random(random());
        let call = self.functions.call(job, Serializer::Pickle);
        let new = NewJob {
            timeout: lifetime(self.time_limit),
            result_ttl: Some(RESULT_TTL),
            ..NewJob::new(job_id.clone(), self.queue_name.clone(), call)
        };
        let enqueued = tokio::time::timeout(ENQUEUE_WITHIN, self.queue.enqueue(&new, now));
        enqueued.await.map_err(|_| DispatchError::Slow)??;
        Ok(job_id)
    }

    /// Asks for what retention no longer keeps to be deleted. It has no row: one that Redis does not take is not asked for,
    /// and the next scheduled backup asks again.
    ///
    /// # Errors
    /// Redis failed, or did not answer in time.
    pub async fn prune(&self, now: OffsetDateTime) -> Result<JobId, DispatchError> {
        self.without_row(Job::Prune, now).await
    }

    /// Asks for a backup's second copy. It has no row of its own either; its id is always the same, so that it is asked for
    /// once, however many workers do.
    ///
    /// # Errors
    /// Redis failed, or did not answer in time.
    pub async fn copy(&self, id: BackupId, now: OffsetDateTime) -> Result<(), DispatchError> {
        let job_id = format!("pgseal-copy-{id}");
        let job_id = JobId::parse(&job_id).unwrap_or_else(|_| JobId::from_random(random()));
        let call = self.functions.call(Job::Copy(id), Serializer::Pickle);
        let new = NewJob {
            timeout: lifetime(self.time_limit),
            result_ttl: Some(RESULT_TTL),
            retries: Some((COPY_RETRIES, COPY_PAUSES_SECONDS.to_vec())),
            ..NewJob::new(job_id, self.queue_name.clone(), call)
        };
        let ensured = async {
            let ensured = self.queue.ensure(&new, now).await?;
            if let Ensured::Present(Some(
                Status::Failed | Status::Stopped | Status::Finished | Status::Canceled,
            )) = ensured
            {
                self.queue.delete(&new.id, now).await?;
                self.queue.ensure(&new, now).await?;
            }
            Ok::<_, DispatchError>(())
        };
        tokio::time::timeout(ENQUEUE_WITHIN, ensured)
            .await
            .map_err(|_| DispatchError::Slow)?
    }

    /// Takes a job back, or asks its worker to end it.
    ///
    /// # Errors
    /// The catalog failed.
    pub async fn cancel(
        &self,
        task: Task,
        by: &str,
        now: OffsetDateTime,
    ) -> Result<Cancelled, CatalogError> {
        let cancelled = self.catalog.cancel(task, by).await?;
        // That RQ's tools show it is worth a try: a job whose row is not pending does nothing anyway.
        if let Cancelled::AtOnce { dependents } = &cancelled {
            let told =
                tokio::time::timeout(ENQUEUE_WITHIN, self.tell_cancelled(task, dependents, now));
            if !matches!(told.await, Ok(Ok(()))) {
                tracing::warn!(%task, "Cancelled in the catalog; Redis could not be told");
            }
        }
        Ok(cancelled)
    }

    async fn tell_cancelled(
        &self,
        task: Task,
        dependents: &[Dependent],
        now: OffsetDateTime,
    ) -> Result<(), DispatchError> {
        let job = match task {
            Task::Backup(id) => self.catalog.backup(id).await?.map(|row| row.job),
            Task::Restore(id) => self.catalog.restore(id).await?.map(|row| row.job),
        };
        let job = job.and_then(|job| job.job_id);
        if let Some(job) = job.and_then(|id| JobId::parse(&id).ok()) {
            self.queue.cancel(&job, now).await?;
        }
        self.fail_dependents(dependents, now).await
    }

    /// A restore whose safety backup failed never starts; rq itself would leave its job waiting for ever.
    ///
    /// # Errors
    /// Redis failed.
    pub async fn fail_dependents(
        &self,
        dependents: &[Dependent],
        now: OffsetDateTime,
    ) -> Result<(), DispatchError> {
        for dependent in dependents
            .iter()
            .filter(|one| one.status == JobStatus::Failed)
        {
            if let Ok(job) = JobId::parse(&dependent.job_id) {
                let reason = dependent
                    .error
                    .as_deref()
                    .unwrap_or("its safety backup failed");
                self.queue.fail_deferred(&job, reason, now).await?;
            }
        }
        Ok(())
    }

    /// Makes the jobs that Redis lacks, of all rows that wait for one. How many that were.
    ///
    /// # Errors
    /// The catalog or Redis failed.
    pub async fn enqueue_pending(&self, now: OffsetDateTime) -> Result<u64, DispatchError> {
        let pending = self.catalog.pending().await?;
        let (rows, jobs): (Vec<_>, Vec<_>) = pending
            .iter()
            .filter_map(|row| Some((row, self.new_job(row)?)))
            .unzip();
        let ensured = self.queue.ensure_each(&jobs, now).await?;
        let mut made = 0;
        for ((row, job), ensured) in rows.into_iter().zip(&jobs).zip(ensured) {
            match ensured {
                Ok(Ensured::Present(Some(status))) => {
                    made += self.agree(row, job, status, now).await?;
                }
                Ok(Ensured::Present(None)) => {}
                Ok(Ensured::Requeued | Ensured::Enqueued(_)) => made += 1,
                Err(error) => tracing::warn!(%error, task = %row.task, "Redis refuses a job"),
            }
        }
        Ok(made)
    }

    /// Redis has a job of a row that waits for one. Where it is over there, the two disagree: what somebody took back
    /// there is taken back here, and what ended there begins again.
    async fn agree(
        &self,
        row: &PendingJob,
        job: &NewJob,
        status: Status,
        now: OffsetDateTime,
    ) -> Result<u64, DispatchError> {
        match status {
            Status::Canceled => {
                let cancelled = self.catalog.cancel(row.task, "rq").await?;
                if let Cancelled::AtOnce { dependents } = cancelled {
                    self.fail_dependents(&dependents, now).await?;
                }
                Ok(0)
            }
            Status::Failed | Status::Stopped | Status::Finished => {
                self.queue.delete(&job.id, now).await?;
                self.queue.ensure(job, now).await?;
                Ok(1)
            }
            _ => Ok(0),
        }
    }

    async fn enqueue(&self, now: OffsetDateTime) -> Queued {
        match tokio::time::timeout(ENQUEUE_WITHIN, self.enqueue_pending(now)).await {
            Ok(Ok(_)) => Queued::Now,
            Ok(Err(error)) => {
                let reason = explain(&error);
                tracing::warn!(reason, "Redis could not be told of a new job; it will be");
                Queued::Later
            }
            Err(_) => Queued::Later,
        }
    }

    /// RQ's intervals between tries; none where it is to come at once.
    fn pauses(&self) -> Vec<u32> {
        let seconds = u32::try_from(self.retry_pause.as_secs()).unwrap_or(u32::MAX);
        Some(seconds)
            .filter(|seconds| *seconds > 0)
            .into_iter()
            .collect()
    }

    /// The job that names a row; `None` where another program wrote names into the row that Redis cannot have.
    fn new_job(&self, pending: &PendingJob) -> Option<NewJob> {
        let job = match pending.task {
            Task::Backup(id) => Job::Backup(Some(id)),
            Task::Restore(id) => Job::Restore(id),
        };
        let depends_on = pending.depends_on.as_deref().map(JobId::parse);
        let retries = pending.attempts_max.saturating_sub(pending.attempt);
        let id = JobId::parse(&pending.job_id).ok()?;
        let queue = QueueName::parse(&pending.queue).ok()?;
        let call = self.functions.call(job, Serializer::Pickle);
        Some(NewJob {
            timeout: lifetime(pending.time_limit),
            result_ttl: Some(RESULT_TTL),
            retries: (retries > 0).then(|| (retries, self.pauses())),
            depends_on: depends_on.transpose().ok()?.into_iter().collect(),
            ..NewJob::new(id, queue, call)
        })
    }
}

fn lifetime(limit: Duration) -> Lifetime {
    Lifetime::Seconds(u32::try_from(limit.as_secs()).unwrap_or(u32::MAX))
}

/// Why Redis could not be told.
#[derive(Debug, thiserror::Error)]
pub enum DispatchError {
    /// The catalog's part.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// Redis's part.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// Redis's part: nothing came back.
    #[error("Redis did not answer within {} s", ENQUEUE_WITHIN.as_secs())]
    Slow,
    /// Redis's part, of new jobs.
    #[error(transparent)]
    Enqueue(#[from] EnqueueError),
}
