//! Housekeeping, beside the jobs: what dead workers left, what Redis lost, what is due, what only the bucket knows.
//!
//! Every worker does it; that two do it at once changes nothing, because each step is one statement or one script that
//! looks before it writes.

use std::time::{Duration, Instant};

use super::{Stop, Worker};
use crate::catalog::{self, Expired, JobStatus, Task};
use crate::model::explanation::explain;
use crate::model::object_key::ObjectKey;
use crate::queue::Verdict;
use crate::queue::rq::names::JobId;
use crate::reconcile;
use crate::vault::{Entry, Selector};

/// How often jobs that are due are put into their queues, where none is known to be due sooner.
const DUE_INTERVAL: Duration = Duration::from_secs(5);

impl Worker {
    /// Keeps house until the worker ends.
    pub(super) async fn keep_house(&self, stop: &Stop) {
        let kept = async {
            tokio::join!(self.look_after_others(), self.enqueue_due());
        };
        let _ended = stop.house.run_until_cancelled(kept).await;
    }

    async fn look_after_others(&self) {
        let mut compared: Option<Instant> = None;
        loop {
            if let Err(error) = self.settle_dead().await {
                tracing::warn!(reason = %error, "Housekeeping: rows of dead workers");
            }
            if let Err(error) = self.clean_queues().await {
                tracing::warn!(reason = %error, "Housekeeping: the queue");
            }
            match self.dispatch.enqueue_pending(self.now()).await {
                Ok(0) => {}
                Ok(jobs) => tracing::info!(jobs, "Housekeeping made jobs that Redis did not have"),
                Err(error) => tracing::warn!(%error, "Housekeeping: jobs that Redis may lack"),
            }
            if compared.is_none_or(|at| at.elapsed() >= self.times.reconcile) {
                compared = Some(Instant::now());
                self.compare_bucket().await;
            }
            tokio::time::sleep(self.times.maintenance).await;
        }
    }

    /// Ends what dead workers began: completed from its manifest, or another attempt, or failed.
    async fn settle_dead(&self) -> Result<(), String> {
        let expired = self.dispatch.catalog.expired().await;
        for row in expired.map_err(|error| explain(&error))? {
            self.settle_one(&row).await?;
        }
        Ok(())
    }

    async fn settle_one(&self, row: &Expired) -> Result<(), String> {
        let stage = row.stage.clone().unwrap_or_else(|| "start".to_owned());
        let text = format!(
            "the worker {} gave no sign of life any more while it was at: {stage}",
            row.worker
        );
        let (ending, verdict) = match self.finished_by(row).await? {
            Some(manifest) => (
                catalog::Ending::Completed(Box::new(manifest)),
                Verdict::Finished(None),
            ),
            None if row.cancel_requested => (
                catalog::Ending::Cancelled,
                Verdict::Failed("Job stopped by user, and its worker died".to_owned()),
            ),
            None if row.attempt < row.attempts_max => (
                catalog::Ending::failed(true, &stage, &text),
                Verdict::Requeue,
            ),
            None => (
                catalog::Ending::failed(false, &stage, &text),
                Verdict::Failed(text.clone()),
            ),
        };
        let settled = self.dispatch.catalog.settle_expired(row, &ending).await;
        let catalog::Ended::Written { failed_restores, .. } =
            settled.map_err(|error| explain(&error))?
        else {
            return Ok(());
        };
        tracing::warn!(task = %row.task, reason = text, "Housekeeping settled a job of a dead worker");
        for failed in failed_restores {
            self.fail_deferred(&failed.job_id, &failed.reason).await;
        }
        if let Ok(job) = JobId::parse(&row.job_id) {
            let told = self.dispatch.queue.abandon(&job, &verdict, self.now()).await;
            told.map_err(|error| explain(&error))?;
        }
        Ok(())
    }

    /// The manifest of a backup whose worker died after it was complete. What it left unfinished is taken away.
    async fn finished_by(
        &self,
        row: &Expired,
    ) -> Result<Option<crate::model::manifest::Manifest>, String> {
        let (Task::Backup(_), Some(uid), Some(key)) = (row.task, row.uid, &row.object_key) else {
            return Ok(None);
        };
        let Ok(key) = ObjectKey::parse(key) else {
            return Ok(None);
        };
        let vault = &self.stages.vault;
        match vault.find(&Selector::Key(key.clone())).await {
            Ok(Entry::Complete(manifest)) if manifest.uid == uid => return Ok(Some(*manifest)),
            Ok(_) | Err(crate::vault::VaultError::NotFound { .. } | crate::vault::VaultError::Unfinished(_)) => {}
            Err(error) => return Err(explain(&error)),
        }
        // Its parts, not a whole object: should the worker live on, its upload cannot complete any more.
        let aborted = vault.store.abort_stale_uploads(key.as_str(), self.now()).await;
        aborted.map_err(|error| explain(&error))?;
        Ok(None)
    }

    /// Jobs whose worker is silent on Redis. The catalog says what became of them, where it knows them.
    async fn clean_queues(&self) -> Result<(), String> {
        let now = self.now();
        let failed = |error: crate::queue::QueueError| explain(&error);
        let abandoned = self.dispatch.queue.clean(&self.queues, now).await.map_err(failed)?;
        for job in abandoned {
            let row = self.dispatch.catalog.status_of_job(job.as_str()).await;
            let verdict = match row.map_err(|error| explain(&error))? {
                // Its worker is silent on Redis alone; and a row that nobody renews is settled first.
                Some(JobStatus::Running) => continue,
                Some(JobStatus::Completed) => Verdict::Finished(None),
                Some(JobStatus::Pending | JobStatus::Waiting) => Verdict::Requeue,
                Some(status) => Verdict::Failed(format!("it is {status} in the catalog")),
                None => Verdict::AsProducerWanted,
            };
            self.dispatch.queue.abandon(&job, &verdict, now).await.map_err(failed)?;
        }
        for queue in &self.queues {
            for job in self.dispatch.queue.deferred(queue).await.map_err(failed)? {
                let row = self.dispatch.catalog.status_of_job(job.as_str()).await;
                let status = row.map_err(|error| explain(&error))?;
                if let Some(status @ (JobStatus::Failed | JobStatus::Cancelled)) = status {
                    let reason = format!("it is {status} in the catalog, so it never starts");
                    self.fail_deferred(job.as_str(), &reason).await;
                }
            }
        }
        Ok(())
    }

    /// Puts jobs into their queues when their time has come.
    async fn enqueue_due(&self) {
        loop {
            let due = self
                .dispatch
                .queue
                .enqueue_due(&self.queues, &self.name, self.now())
                .await;
            let pause = match due {
                Ok(next) => next
                    .and_then(|at| Duration::try_from(at - self.now()).ok())
                    .map_or(DUE_INTERVAL, |left| left.clamp(Duration::from_millis(100), DUE_INTERVAL)),
                Err(error) => {
                    tracing::debug!(%error, "Redis does not say what is due");
                    DUE_INTERVAL
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn compare_bucket(&self) {
        let done = reconcile::reconcile(&self.stages.vault, &self.dispatch.catalog, self.now());
        match done.await {
            Ok(done) if done.is_nothing() => {}
            Ok(done) => tracing::info!(%done, "Housekeeping compared bucket and catalog"),
            Err(error) => tracing::warn!(reason = explain(&error), "Housekeeping: bucket and catalog"),
        }
    }
}
