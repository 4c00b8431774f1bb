//! One job, from what Redis has of it to how it ended there.

use std::time::{Duration, Instant};

use tracing::Instrument as _;
use tracing::field::Empty;

use super::tasks::Ending;
use super::{Stop, Worker};
use crate::catalog::Task;
use crate::model::explanation::explain;
use crate::queue::consumer::{Ending as Told, Taken, Written};
use crate::queue::job::Job;
use crate::queue::payload::Call;

/// The pauses between two tries to tell Redis how a job ended.
const TELL_PAUSE: Duration = Duration::from_secs(1);
/// For so long it is tried. After that, another worker's housekeeping finds the job, and the catalog tells it the end.
const TELL_WITHIN: Duration = Duration::from_secs(10 * 60);

/// What is still so is said again after this, and not with every try.
const SAY_AGAIN: Duration = Duration::from_secs(60);

impl Worker {
    /// Runs a job that was claimed, and settles it. Every line that is logged meanwhile names the job and, where somebody
    /// asked for it by the API, that request.
    pub(super) async fn run_job(&self, taken: &Taken, stop: &Stop) {
        let span = tracing::info_span!("job", job.id = %taken.job_id, request.id = Empty);
        self.run_named(taken, stop).instrument(span).await;
    }

    async fn run_named(&self, taken: &Taken, stop: &Stop) {
        let started = Instant::now();
        tracing::info!(queue = %taken.queue, "Job started");
        let ending = match taken.call() {
            // Nothing of the payload is repeated: whoever wrote it chose it.
            Err(error) => Ending::Failed(explain(&error)),
            Ok(call) => self.run_call(taken, &call, stop).await,
        };
        let duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        match &ending {
            Ending::Success(_) => tracing::info!(duration_ms, "Job finished"),
            Ending::Failed(text) | Ending::Retry(text) => {
                tracing::warn!(duration_ms, reason = text, "Job failed");
            }
            other => {
                tracing::info!(duration_ms, ending = other.word(), "Job ended");
            }
        }
        if let Some(told) = ending.told() {
            self.tell(taken, &told, stop).await;
        }
    }

    /// Names the request of the API that asked for this, from here on; `action`: for a job that has no row of its own.
    pub(super) async fn name_request(&self, task: Task, action: Option<&'static str>) {
        match self.dispatch.catalog.request_of(task, action).await {
            Ok(Some(id)) => {
                tracing::Span::current().record("request.id", tracing::field::display(id));
            }
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "Nobody knows which request asked for it"),
        }
    }

    async fn run_call(&self, taken: &Taken, call: &Call, stop: &Stop) -> Ending {
        #[cfg(feature = "test-support")]
        if let Some(ending) = self.run_test_function(taken, call, stop).await {
            return ending;
        }
        let job = match self.dispatch.functions.job(call) {
            Ok(job) => job,
            Err(error) => return Ending::Failed(explain(&error)).or_retry(taken),
        };
        // Each in a box: together they are more than a thread's stack should hold.
        match job {
            Job::Backup(id) => Box::pin(self.run_backup(taken, id, stop)).await,
            Job::Restore(id) => Box::pin(self.run_restore(taken, id, stop)).await,
            Job::Verify(id) => Box::pin(self.run_verify(taken, id, stop)).await,
            Job::Drill(id) => Box::pin(self.run_drill(taken, id, stop)).await,
            Job::Prune => Box::pin(self.run_prune(taken, stop)).await,
            Job::Copy(id) => Box::pin(self.run_copy(taken, id, stop)).await,
        }
    }

    /// Tells Redis how the job ended, as long as it takes.
    async fn tell(&self, taken: &Taken, ending: &Told, stop: &Stop) {
        let until = Instant::now() + TELL_WITHIN;
        let mut said: Option<Instant> = None;
        loop {
            let told = self
                .dispatch
                .queue
                .finish(taken, &self.name, ending, self.now())
                .await;
            match told {
                Ok(Written::Written { .. } | Written::Repeated | Written::Canceled) => return,
                Ok(Written::LostOwnership) => {
                    return tracing::warn!(
                        "Redis gave the job up meanwhile; how it ended stands in the catalog"
                    );
                }
                Err(error) if said.is_none_or(|at| at.elapsed() >= SAY_AGAIN) => {
                    said = Some(Instant::now());
                    tracing::warn!(%error, "Redis cannot be told how a job ended; it is tried every second");
                }
                Err(_) => {}
            }
            self.touch();
            if Instant::now() >= until || stop.cold.is_cancelled() {
                return;
            }
            let _woken = stop
                .cold
                .run_until_cancelled(tokio::time::sleep(TELL_PAUSE))
                .await;
        }
    }
}
