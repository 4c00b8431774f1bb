//! How a job with a row ended: first in the catalog, which is the truth, then for Redis.

use std::time::{Duration, Instant};

use super::Worker;
use super::supervise::Reason;
use super::tasks::Ending;
use crate::catalog::{self, CatalogError, Lease};
use crate::queue::Taken;
use crate::queue::rq::names::JobId;

/// The pause between two tries to tell the catalog how a job ended.
const TELL_PAUSE: Duration = Duration::from_secs(1);

/// What rq itself says of a job that somebody stopped.
const STOPPED: &str = "Job stopped by user, work-horse terminated.";
/// What rq itself says where the process that ran a job was killed.
const KILLED: &str =
    "Work-horse terminated unexpectedly; the worker was told to kill the job (kill-horse)";

impl Worker {
    /// Settles a job that failed at `stage` by itself.
    pub(super) async fn failed(
        &self,
        taken: &Taken,
        lease: &Lease,
        stage: &str,
        error: String,
    ) -> Ending {
        let again = taken.hash.retries_left.is_some_and(|left| left > 0)
            && lease.attempt < lease.attempts_max;
        let row = catalog::Ending::failed(again, stage, &error);
        if !self.settle(lease, &row).await {
            return Ending::Lost;
        }
        if again {
            Ending::Retry(error)
        } else {
            Ending::Failed(error)
        }
    }

    /// Settles a job that was ended before it was done.
    pub(super) async fn ended(
        &self,
        taken: &Taken,
        lease: &Lease,
        reason: Reason,
        stage: &str,
    ) -> Ending {
        match reason {
            Reason::LeaseLost => {
                tracing::warn!(job.id = %taken.job_id, "Job left to others: this worker lost its lease");
                Ending::Lost
            }
            Reason::Cancelled | Reason::Stopped => {
                if self.settle(lease, &catalog::Ending::Cancelled).await {
                    Ending::Stopped(STOPPED.to_owned())
                } else {
                    Ending::Lost
                }
            }
            Reason::ShuttingDown => {
                if self.settle(lease, &catalog::Ending::GivenBack).await {
                    Ending::GivenBack
                } else {
                    Ending::Lost
                }
            }
            Reason::Killed => self.failed(taken, lease, stage, KILLED.to_owned()).await,
            Reason::TimeLimit(limit) => {
                let seconds = limit.as_secs();
                // rq's own words, which people and programs look for, and then ours.
                let text = format!(
                    "rq.timeouts.JobTimeoutException: Task exceeded maximum timeout value ({seconds} seconds) at the stage: {stage}\nhint: BACKUP_JOB_TIMEOUT_MINUTES gives later jobs more time"
                );
                self.failed(taken, lease, stage, text).await
            }
        }
    }

    /// Writes an ending into the row. Whether it is the row's ending now: who lost the lease ends nothing.
    pub(super) async fn settle(&self, lease: &Lease, ending: &catalog::Ending) -> bool {
        let ended = self
            .until_told(lease, async || self.dispatch.catalog.end(lease, ending).await)
            .await;
        let Some(catalog::Ended::Written { failed_restores, .. }) = ended else {
            return false;
        };
        for failed in failed_restores {
            self.fail_deferred(&failed.job_id, &failed.reason).await;
        }
        true
    }

    /// A restore whose safety backup failed never starts; rq itself would leave its job waiting for ever.
    pub(super) async fn fail_deferred(&self, job_id: &str, reason: &str) {
        let Ok(job) = JobId::parse(job_id) else {
            return;
        };
        let told = self
            .dispatch
            .queue
            .fail_deferred(&job, reason, self.now())
            .await;
        if let Err(error) = told {
            tracing::warn!(%error, job.id = %job, "Redis will be told later that a restore cannot start");
        }
    }

    /// Asks the catalog until it answers, for as long as the lease lasts; after that others settle the row.
    pub(super) async fn until_told<T>(
        &self,
        lease: &Lease,
        tell: impl AsyncFn() -> Result<T, CatalogError>,
    ) -> Option<T> {
        let until = Instant::now() + self.times.lease;
        loop {
            match tell().await {
                Ok(told) => return Some(told),
                Err(error) => {
                    tracing::warn!(%error, task = ?lease.task, "The catalog cannot be told how a job ended");
                }
            }
            if Instant::now() >= until {
                return None;
            }
            self.touch();
            tokio::time::sleep(TELL_PAUSE).await;
        }
    }
}
