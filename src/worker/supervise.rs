//! Runs a job's work while its worker vouches for it, and ends it when it must end.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;

use super::{Stop, Worker};
use crate::catalog::{CatalogError, Lease, Renewed, Report, Task};
use crate::model::ids::BackupId;
use crate::progress::Progress;
use crate::queue::consumer::{Held, Taken};
use crate::queue::rq::moment::Lifetime;
use crate::queue::rq::worker_hash::busy_ttl_seconds;

/// How often the row gets the progress, and is asked whether somebody cancelled it: within seconds, as people expect.
const REPORT_INTERVAL: Duration = Duration::from_secs(2);
/// Work that was told to end has so long to clean up; after that it is dropped, which ends its children all the same.
const CLEAN_UP_WITHIN: Duration = Duration::from_secs(120);
/// The same, where somebody asked twice.
const CLEAN_UP_WITHIN_COLD: Duration = Duration::from_secs(5);

/// A job that runs.
pub(super) struct Running<'a> {
    /// What Redis has of it.
    pub(super) taken: &'a Taken,
    /// The right to change its row; a job without a row has none.
    pub(super) lease: Option<&'a Lease>,
    /// How long it may take; `None`: as long as it likes.
    pub(super) limit: Option<Duration>,
    /// How far it is.
    pub(super) progress: &'a Progress,
    /// Ends it.
    pub(super) cancel: CancellationToken,
}

impl<'a> Running<'a> {
    /// A job without a row of its own.
    pub(super) fn without_row(taken: &'a Taken, limit: Duration, progress: &'a Progress) -> Self {
        Self {
            taken,
            lease: None,
            limit: Some(limit),
            progress,
            cancel: CancellationToken::new(),
        }
    }
}

/// Why work was told to end before it was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// Somebody cancelled the row.
    Cancelled,
    /// Somebody stopped the job, as `rq` does it.
    Stopped,
    /// Somebody killed it, as `rq` calls it: it failed.
    Killed,
    /// It took too long.
    TimeLimit(Duration),
    /// The worker ends.
    ShuttingDown,
    /// Its row is another worker's, or nobody could vouch for it for too long.
    LeaseLost,
}

/// How the work ended.
pub(super) enum Supervised<T> {
    /// By itself.
    Done(T),
    /// It was told to end, and said this; `None`: it was dropped.
    Ended(Reason, Option<T>),
    /// It panicked.
    Panicked(String),
}

impl Worker {
    /// Does something with a backup's object; while it does, nobody deletes that.
    pub(super) async fn pinned<T>(
        &self,
        taken: &Taken,
        id: BackupId,
        work: impl Future<Output = T>,
    ) -> Result<T, CatalogError> {
        let (catalog, holder) = (&self.dispatch.catalog, taken.job_id.as_str());
        catalog.pin(id, holder, self.dispatch.time_limit).await?;
        let done = work.await;
        if let Err(error) = catalog.unpin(id, holder).await {
            tracing::debug!(%error, "a pin is left, and ends by itself");
        }
        Ok(done)
    }

    /// Runs `work` to its end, or to the end that somebody wants.
    pub(super) async fn supervise<T>(
        &self,
        running: Running<'_>,
        stop: &Stop,
        work: impl Future<Output = T>,
    ) -> Supervised<T> {
        let progress = running.progress;
        let ended = self.watched(running, stop, Box::pin(work)).await;
        progress.end_stage();
        ended
    }

    async fn watched<T>(
        &self,
        running: Running<'_>,
        stop: &Stop,
        work: impl Future<Output = T>,
    ) -> Supervised<T> {
        let mut work = pin!(AssertUnwindSafe(work).catch_unwind());
        let reason = tokio::select! {
            biased;
            done = &mut work => return done.map_or_else(|panic| Supervised::Panicked(said(&*panic)), Supervised::Done),
            reason = self.watch(&running, stop) => reason,
        };
        tracing::info!(?reason, "Job is told to end");
        running.cancel.cancel();
        let patience = async {
            tokio::select! {
                () = tokio::time::sleep(CLEAN_UP_WITHIN) => {}
                () = stop.cold.cancelled() => tokio::time::sleep(CLEAN_UP_WITHIN_COLD).await,
            }
            running.progress.until_leavable().await;
        };
        // While it cleans up it is still ours.
        tokio::select! {
            biased;
            done = &mut work => match done {
                // What was past its point of no return counts as what it is.
                Ok(done) => Supervised::Ended(reason, Some(done)),
                Err(panic) => Supervised::Panicked(said(&*panic)),
            },
            () = patience => Supervised::Ended(reason, None),
            never = self.vouch(&running) => never,
        }
    }

    /// Waits for a reason to end the work.
    async fn watch(&self, running: &Running<'_>, stop: &Stop) -> Reason {
        let time_is_over = async {
            match running.limit {
                Some(limit) => {
                    tokio::time::sleep(limit).await;
                    Reason::TimeLimit(limit)
                }
                None => std::future::pending().await,
            }
        };
        let shutting_down = async {
            stop.warm.cancelled().await;
            self.tell_shutdown_requested().await;
            tokio::select! {
                () = tokio::time::sleep(self.times.grace) => {}
                () = stop.cold.cancelled() => {}
            }
            Reason::ShuttingDown
        };
        tokio::select! {
            reason = self.hold_lease(running) => reason,
            reason = self.state.asked() => reason,
            reason = time_is_over => reason,
            reason = shutting_down => reason,
            reason = self.give_signs(running) => reason,
        }
    }

    /// Signs of life for work that ends already; that nobody wants them changes nothing any more.
    async fn vouch<T>(&self, running: &Running<'_>) -> T {
        tokio::join!(self.give_signs(running), self.hold_lease(running));
        std::future::pending().await
    }

    /// Renews the lease as long as it can be renewed.
    async fn hold_lease(&self, running: &Running<'_>) -> Reason {
        let Some(lease) = running.lease else {
            return std::future::pending().await;
        };
        let mut held_until = Instant::now() + self.times.lease;
        let object = async || {
            // What the backup is going to be is told at once: whoever finds it after our death knows it by that.
            while running.progress.read().object.is_none() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let mut told = matches!(lease.task, Task::Restore(_));
        loop {
            if told {
                tokio::time::sleep(REPORT_INTERVAL).await;
            } else {
                tokio::select! {
                    () = object() => told = true,
                    () = tokio::time::sleep(REPORT_INTERVAL) => {}
                }
            }
            self.touch();
            let asked_at = Instant::now();
            let left = held_until.saturating_duration_since(asked_at);
            let report = report(running.progress);
            let renewed = self
                .dispatch
                .catalog
                .renew(lease, self.times.lease, &report);
            match tokio::time::timeout(left, renewed).await {
                Ok(Ok(Renewed::Held)) => held_until = asked_at + self.times.lease,
                Ok(Ok(Renewed::CancelRequested)) => return Reason::Cancelled,
                Ok(Err(error)) if Instant::now() < held_until => {
                    tracing::warn!(%error, "The catalog cannot be told of the progress");
                }
                // By its own clock the catalog may have given the row to somebody else by now.
                Ok(Ok(Renewed::Lost) | Err(_)) | Err(_) => return Reason::LeaseLost,
            }
        }
    }

    /// Tells Redis from time to time that the job is alive; that Redis is away ends no job.
    async fn give_signs(&self, running: &Running<'_>) -> Reason {
        loop {
            tokio::time::sleep(self.times.heartbeat).await;
            self.touch();
            let queue = &self.dispatch.queue;
            let ttl_seconds =
                busy_ttl_seconds(Lifetime::Forever, Duration::ZERO, self.heartbeat_seconds());
            let given = queue.heartbeat(running.taken, &self.name, ttl_seconds, self.now());
            match given.await {
                Ok(Held::Mine) => {}
                Ok(Held::Lost) if running.lease.is_some() => {
                    tracing::warn!(
                        "Redis does not have the job as ours any more; it goes on, since the catalog decides"
                    );
                }
                Ok(Held::Lost) => return Reason::Stopped,
                Err(error) => tracing::warn!(%error, "Redis gets no sign of life"),
            }
        }
    }
}

fn report(progress: &Progress) -> Report {
    let reading = progress.read();
    Report {
        stage: reading.stage,
        bytes: reading.bytes,
        tables: u32::try_from(reading.tables_done).unwrap_or(u32::MAX),
        uid: reading.object.as_ref().map(|object| object.uid),
        object_key: reading.object.map(|object| object.key.to_string()),
    }
}

/// What a panic said.
fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "without a word".to_owned())
}
