//! How a job with a row ended: first in the catalog, which is the truth, then for Redis.

use std::time::{Duration, Instant};

use super::Worker;
use super::supervise::Reason;
use super::tasks::Ending;
use crate::catalog::{self, CatalogError, Dependent, Ended, JobStatus, Lease};
use crate::queue::consumer::Taken;

/// The pause between two tries to tell the catalog how a job ended.
const TELL_PAUSE: Duration = Duration::from_secs(1);

/// What rq itself says of a job that somebody stopped.
const STOPPED: &str = "Job stopped by user, work-horse terminated.";
/// What rq itself says where the process that ran a job was killed.
const KILLED: &str =
    "Work-horse terminated unexpectedly; the worker was told to kill the job (kill-horse)";

impl Worker {
    /// Settles a job that failed at `stage` by itself: another try, if its producer wanted one and the row has one left.
    pub(super) async fn failed(
        &self,
        taken: &Taken,
        lease: &Lease,
        stage: &str,
        error: String,
    ) -> Ending {
        let (stage, text) = (stage.to_owned(), error.clone());
        let ending = if taken.hash.retries_left.is_some_and(|left| left > 0) {
            catalog::Ending::Retried { stage, error: text }
        } else {
            catalog::Ending::Failed { stage, error: text }
        };
        match self.settle(lease, &ending).await {
            Some(JobStatus::Pending) => Ending::Retry(error),
            Some(JobStatus::Cancelled) => Ending::Stopped(STOPPED.to_owned()),
            Some(_) => Ending::Failed(error),
            None => Ending::Lost,
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
                tracing::warn!("Job left to others: this worker lost its lease");
                Ending::Lost
            }
            Reason::Cancelled | Reason::Stopped => {
                match self.settle(lease, &catalog::Ending::Cancelled).await {
                    Some(_) => Ending::Stopped(STOPPED.to_owned()),
                    None => Ending::Lost,
                }
            }
            Reason::ShuttingDown => {
                match self.settle(lease, &catalog::Ending::GivenBack).await {
                    Some(JobStatus::Pending) => Ending::GivenBack,
                    // Somebody wanted it ended anyway.
                    Some(_) => Ending::Stopped(STOPPED.to_owned()),
                    None => Ending::Lost,
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

    /// Writes an ending into the row: what the row is now. `None`: who lost the lease ends nothing.
    async fn settle(&self, lease: &Lease, ending: &catalog::Ending) -> Option<JobStatus> {
        let ended = self
            .until_told(lease, async || {
                self.dispatch.catalog.end(lease, ending).await
            })
            .await?;
        match ended {
            Ended::Done { status, dependents } => {
                self.fail_dependents(&dependents).await;
                Some(status)
            }
            Ended::Lost => None,
        }
    }

    /// Tells Redis of restores that never start. Where it does not hear that, housekeeping tells it later.
    pub(super) async fn fail_dependents(&self, dependents: &[Dependent]) {
        let told = self.dispatch.fail_dependents(dependents, self.now()).await;
        if let Err(error) = told {
            tracing::warn!(%error, "Redis will be told later that a restore cannot start");
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
