//! Asking for work: a row in the catalog first, then a job on Redis that carries the row's id.
//!
//! The row is the truth, the job a hint: where Redis is down, the row waits until a worker's housekeeping makes the job.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::random;
use time::OffsetDateTime;

use crate::catalog::{
    BackupRequested, BackupRow, Cancelled, Catalog, CatalogError, PendingJob, RestoreRequested,
    RestoreRow, Task,
};
use crate::model::kind::BackupKind;
use crate::queue::job::{Functions, Job};
use crate::queue::payload::Serializer;
use crate::queue::rq::moment::Lifetime;
use crate::queue::rq::names::{JobId, QueueName};
use crate::queue::{NewJob, Position, Queue, QueueError, Retry};

/// How often a backup is tried. A restore is tried once: what it did before it failed is for a person to look at.
const BACKUP_ATTEMPTS_MAX: u32 = 2;
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
        mut requested: RestoreRequested,
        now: OffsetDateTime,
    ) -> Result<(RestoreRow, Queued), CatalogError> {
        requested.time_limit = self.time_limit;
        requested.queue = self.queue_name.to_string();
        requested.job_id = JobId::from_random(random()).to_string();
        requested.safety_job_id = JobId::from_random(random()).to_string();
        let (row, _safety) = self.catalog.request_restore(&requested).await?;
        let queued = self.enqueue(now).await;
        Ok((row, queued))
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
        if let Cancelled::Now { job_ids } = &cancelled {
            for job in job_ids.iter().filter_map(|id| JobId::parse(id).ok()) {
                let told = tokio::time::timeout(ENQUEUE_WITHIN, self.queue.cancel(&job, now)).await;
                if !matches!(told, Ok(Ok(_))) {
                    tracing::warn!(job.id = %job, "Cancelled in the catalog; Redis could not be told");
                }
            }
        }
        Ok(cancelled)
    }

    /// Makes the jobs that Redis lacks, of all rows that wait for one.
    ///
    /// # Errors
    /// The catalog or Redis failed.
    pub async fn enqueue_pending(&self, now: OffsetDateTime) -> Result<u64, DispatchError> {
        let mut made = 0;
        for pending in self.catalog.pending().await? {
            let Some(job) = self.new_job(&pending) else {
                continue;
            };
            made += u64::from(self.queue.ensure(&job, now).await?.is_new());
        }
        Ok(made)
    }

    async fn enqueue(&self, now: OffsetDateTime) -> Queued {
        match tokio::time::timeout(ENQUEUE_WITHIN, self.enqueue_pending(now)).await {
            Ok(Ok(_)) => Queued::Now,
            Ok(Err(error)) => {
                tracing::warn!(%error, "Redis could not be told of a new job; it will be");
                Queued::Later
            }
            Err(_) => Queued::Later,
        }
    }

    /// The job that names a row; `None` where another program wrote names into the row that Redis cannot have.
    fn new_job(&self, pending: &PendingJob) -> Option<NewJob> {
        let job = match pending.task {
            Task::Backup(id) => Job::Backup(Some(id)),
            Task::Restore(id) => Job::Restore(id),
        };
        let seconds = u32::try_from(pending.time_limit.as_secs()).unwrap_or(u32::MAX);
        let depends_on = pending.depends_on.as_deref().map(JobId::parse);
        let retries = pending.attempts_max.saturating_sub(pending.attempt);
        Some(NewJob {
            id: JobId::parse(&pending.job_id).ok()?,
            queue: QueueName::parse(&pending.queue).ok()?,
            call: self.functions.call(job, Serializer::Pickle),
            description: None,
            timeout: Lifetime::Seconds(seconds),
            result_ttl: Some(RESULT_TTL),
            failure_ttl: None,
            retry: (retries > 0).then(|| Retry::times(retries)),
            depends_on: depends_on.transpose().ok()?.into_iter().collect(),
            position: Position::Back,
            meta: None,
        })
    }
}

/// Why the jobs that Redis lacks could not be made.
#[derive(Debug, thiserror::Error)]
pub enum DispatchError {
    /// The catalog's part.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// Redis's part.
    #[error(transparent)]
    Queue(#[from] QueueError),
}
