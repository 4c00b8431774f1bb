//! Housekeeping, beside the jobs: what dead workers left, what Redis lost, what is due, what only the bucket knows.
//!
//! Every worker does it; that two do it at once changes nothing, because each step is one statement or one script that
//! looks before it writes.

use std::time::{Duration, Instant};

use super::copy::Left;
use super::safety::IN_SECOND;
use super::{Stop, Worker};
use crate::catalog::{Ended, Ending, InSecond, JobStatus, RunningJob, Settlement, Task};
use crate::model::explanation::explain;
use crate::model::ids::Uid;
use crate::model::manifest::Manifest;
use crate::model::object_key::ObjectKey;
use crate::queue::QueueError;
use crate::queue::maintenance::{Abandoned, Verdict};
use crate::queue::rq::names::{JobId, WorkerName};
use crate::reconcile;
use crate::restore;
use crate::vault::{Entry, Selector, Vault, VaultError, Which};

/// How often jobs that are due are put into their queues, where none is known to be due sooner.
const DUE_INTERVAL: Duration = Duration::from_secs(5);

/// Where more backups wait for a copy than were asked for at once, the next ones are asked for after so long.
const COPIES_PAUSE: Duration = Duration::from_secs(5 * 60);

impl Worker {
    /// Keeps house until the worker ends.
    pub(super) async fn keep_house(&self, stop: &Stop) {
        let kept = async {
            tokio::join!(self.look_after_others(), self.enqueue_due());
        };
        let _ended = stop.house.run_until_cancelled(Box::pin(kept)).await;
    }

    async fn look_after_others(&self) {
        let mut compared: Option<Instant> = None;
        let mut copied: Option<(Instant, Duration)> = None;
        loop {
            self.settle_and_enqueue().await;
            if compared.is_none_or(|at| at.elapsed() >= self.times.reconcile) {
                compared = Some(Instant::now());
                self.compare_bucket().await;
                self.drop_replaced().await;
                self.go_on_deleting().await;
            }
            if copied.is_none_or(|(at, pause)| at.elapsed() >= pause) {
                let pause = match self.replicate().await {
                    Left::Nothing => self.times.reconcile,
                    Left::More => self.times.reconcile.min(COPIES_PAUSE),
                };
                copied = Some((Instant::now(), pause));
            }
            tokio::time::sleep(self.times.maintenance).await;
        }
    }

    /// What others left and what Redis lost is in the queue again, as far as both can be reached.
    pub(super) async fn settle_and_enqueue(&self) {
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
    }

    /// Ends what dead workers began: completed from its manifest, or another attempt, or failed.
    async fn settle_dead(&self) -> Result<(), String> {
        let running = self.dispatch.catalog.running().await;
        let running = running.map_err(|error| explain(&error))?;
        let mut first = Ok(());
        for row in running.iter().filter(|row| row.is_expired) {
            // One that cannot be settled yet keeps no other from it.
            if let Err(error) = self.settle_one(row).await {
                first = first.and(Err(format!("{}: {error}", row.task)));
            }
        }
        first
    }

    async fn settle_one(&self, row: &RunningJob) -> Result<(), String> {
        let stage = row.stage.clone().unwrap_or_else(|| "start".to_owned());
        let error = format!(
            "the worker {} gave no sign of life any more at the stage: {stage}",
            row.worker
        );
        let manifest = self.finished_by(row).await?;
        let settlement = match &manifest {
            Some((manifest, Which::First)) => Settlement::Completed(manifest),
            Some((manifest, Which::Second)) => {
                let in_second = InSecond {
                    read_back_from: None,
                    reason: IN_SECOND,
                };
                Settlement::CompletedInSecond(manifest, in_second)
            }
            // Where no try is left, or somebody wanted it ended, that is what it becomes.
            None => Settlement::Ended(Ending::Retried {
                stage,
                error: error.clone(),
            }),
        };
        let settled = self
            .dispatch
            .catalog
            .settle_expired(row.task, row.token, &settlement)
            .await;
        let Ended::Done { status, dependents } = settled.map_err(|error| explain(&error))? else {
            return Ok(());
        };
        tracing::warn!(task = %row.task, reason = error, %status, "Housekeeping settled a job of a dead worker");
        if manifest.is_none() {
            if let Err(reason) = self.discard_unfinished(row).await {
                tracing::warn!(task = %row.task, reason, "Housekeeping leaves an object that was never completed");
            }
        }
        self.fail_dependents(&dependents).await;
        let (Ok(job), Ok(worker)) = (JobId::parse(&row.job_id), WorkerName::parse(&row.worker))
        else {
            return Ok(());
        };
        let verdict = verdict(status, &error);
        let told = self
            .dispatch
            .queue
            .abandon_of(&worker, &job, &verdict, self.now());
        told.await.map(drop).map_err(|error| explain(&error))
    }

    /// The manifest of a backup whose worker died after it was complete, and in which store that is. What it left unfinished is
    /// taken away.
    async fn finished_by(&self, row: &RunningJob) -> Result<Option<(Manifest, Which)>, String> {
        let (Task::Backup(_), Some(uid), Some(key)) = (row.task, row.uid, &row.object_key) else {
            return Ok(None);
        };
        let Ok(key) = ObjectKey::parse(key) else {
            return Ok(None);
        };
        let vault = &self.stages.vault;
        match vault.find_either(&Selector::Key(key.clone())).await {
            Ok(found) => match found.entry {
                Entry::Complete(manifest) if manifest.uid == uid => {
                    return Ok(Some((*manifest, found.copy)));
                }
                _ => {}
            },
            Err(VaultError::NotFound { .. } | VaultError::Unfinished(_)) => {}
            Err(error) => return Err(explain(&error)),
        }
        // What was on the way, not a whole object: should the worker live on, its upload cannot complete any more.
        let aborted = vault.store.abort_uploads_of(&key, uid).await;
        aborted.map_err(|error| explain(&error))?;
        if let Some(second) = &vault.second {
            // A second store that is down keeps nothing waiting: what is left there is cleaned up by its age.
            if let Err(error) = second.in_haste().abort_uploads_of(&key, uid).await {
                tracing::debug!(%error, object.key = %key, "An upload may be left in the second store");
            }
        }
        Ok(None)
    }

    /// Deletes the whole dump of a worker that died before its manifest. Only once its row is settled: it can complete the
    /// row no more then, and takes its manifest back should it live on and write one.
    async fn discard_unfinished(&self, row: &RunningJob) -> Result<(), String> {
        let key = row.object_key.as_deref().map(ObjectKey::parse);
        let (Task::Backup(_), Some(uid), Some(Ok(key))) = (row.task, row.uid, key) else {
            return Ok(());
        };
        discard_in(&self.stages.vault.with(Which::First), &key, uid).await?;
        match self.stages.vault.second() {
            Some(second) => discard_in(&second, &key, uid).await,
            None => Ok(()),
        }
    }

    /// Jobs whose worker is silent on Redis. The catalog says what became of them, where it knows them.
    async fn clean_queues(&self) -> Result<(), String> {
        let now = self.now();
        let failed = |error: QueueError| explain(&error);
        let decide = async |job: Abandoned| match self.status_of(&job.job_id).await {
            Ok(Some(status)) => verdict(status, &format!("it is {status} in the catalog")),
            Ok(None) => Verdict::RetryOrFail,
            Err(reason) => {
                tracing::warn!(reason, job.id = %job.job_id, "Housekeeping leaves a job, since the catalog does not answer");
                Verdict::Leave
            }
        };
        let cleaned = self.dispatch.queue.clean(&self.queues, now, decide).await;
        let cleaned = cleaned.map_err(failed)?;
        if !cleaned.settled.is_empty() {
            tracing::info!(jobs = ?cleaned.settled, "Housekeeping settled jobs whose worker was silent");
        }
        for queue in &self.queues {
            for job in self.dispatch.queue.deferred(queue).await.map_err(failed)? {
                if let Some(status @ (JobStatus::Failed | JobStatus::Cancelled)) =
                    self.status_of(&job).await?
                {
                    let reason = format!("it is {status} in the catalog, so it never starts");
                    let told = self.dispatch.queue.fail_deferred(&job, &reason, now).await;
                    told.map_err(failed)?;
                }
            }
        }
        Ok(())
    }

    async fn status_of(&self, job: &JobId) -> Result<Option<JobStatus>, String> {
        let status = self.dispatch.catalog.status_of_job(job.as_str()).await;
        status.map_err(|error| explain(&error))
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
                Ok(due) => due
                    .next
                    .and_then(|at| Duration::try_from(at - self.now()).ok())
                    .map_or(DUE_INTERVAL, |left| {
                        left.clamp(Duration::from_millis(100), DUE_INTERVAL)
                    }),
                Err(error) => {
                    tracing::debug!(%error, "Redis does not say what is due");
                    DUE_INTERVAL
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Drops what restores and rollbacks set aside, once it is old enough; of this worker's own targets only.
    async fn drop_replaced(&self) {
        let Some(keep) = self.times.keep_replaced else {
            return;
        };
        for database in self.targets.values() {
            match restore::drop_older(database, self.now() - keep).await {
                Ok((dropped, failed)) => {
                    for database in dropped {
                        tracing::info!(
                            database,
                            "Housekeeping dropped what a restore had replaced"
                        );
                    }
                    for error in failed {
                        tracing::warn!(reason = explain(&error), "Housekeeping: a kept database");
                    }
                }
                Err(error) => {
                    tracing::warn!(reason = explain(&error), "Housekeeping: kept databases");
                }
            }
        }
    }

    async fn compare_bucket(&self) {
        let done = reconcile::reconcile(&self.stages.vault, &self.dispatch.catalog);
        match done.await {
            Ok(done) => tracing::info!(
                complete = done.complete,
                adopted = done.adopted.len(),
                lost = done.lost.len(),
                corrupt = done.corrupt.len(),
                suspicious = done.suspicious.len(),
                found_again = done.found_again.len(),
                "Housekeeping compared bucket and catalog"
            ),
            Err(error) => {
                tracing::warn!(reason = explain(&error), "Housekeeping: bucket and catalog");
            }
        }
    }
}

/// Of one of the two stores.
async fn discard_in(vault: &Vault, key: &ObjectKey, uid: Uid) -> Result<(), String> {
    match vault.find(&Selector::Key(key.clone())).await {
        Ok(Entry::Unfinished(_)) => {}
        Ok(_) | Err(VaultError::NotFound { .. }) => return Ok(()),
        Err(error) => return Err(explain(&error)),
    }
    let head = vault.store.head(key).await;
    let head = head.map_err(|error| explain(&error))?;
    // Without its uid it is somebody else's, however it is called.
    if head.is_some_and(|head| head.uid == Some(uid)) {
        let deleted = vault.store.delete(key).await;
        deleted.map_err(|error| explain(&error))?;
        tracing::info!(object.key = %key, "Housekeeping deleted an object that was never completed");
    }
    Ok(())
}

/// What becomes of a job on Redis whose row is in this state.
fn verdict(status: JobStatus, reason: &str) -> Verdict {
    match status {
        // A row that nobody renews is settled first, and then the job.
        JobStatus::Running => Verdict::Leave,
        JobStatus::Completed => Verdict::Finished(None),
        JobStatus::Pending | JobStatus::Waiting => Verdict::Requeue,
        JobStatus::Failed | JobStatus::Cancelled => Verdict::Fail(reason.to_owned()),
    }
}
