//! What a worker is doing, for those that ask it: its own loops, commands from Redis, a health check.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::supervise::Reason;
use crate::queue::rq::command::WorkerCommand;
use crate::queue::rq::names::{ExecutionId, JobId};
use crate::queue::rq::worker_hash::WorkerState;

/// What it is doing.
pub struct State {
    inner: Mutex<Inner>,
    /// A command for the job at hand came.
    asked: Notify,
}

struct Inner {
    state: WorkerState,
    job: Option<(JobId, ExecutionId)>,
    asked: Option<Reason>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            inner: Mutex::new(Inner {
                state: WorkerState::Started,
                job: None,
                asked: None,
            }),
            asked: Notify::new(),
        }
    }
}

impl State {
    /// It waits, or is suspended.
    pub(super) fn set(&self, state: WorkerState) {
        let mut inner = self.inner();
        inner.state = state;
        inner.job = None;
        inner.asked = None;
    }

    /// It runs a job.
    pub(super) fn begin(&self, job: &JobId, execution: &ExecutionId) {
        let mut inner = self.inner();
        inner.state = WorkerState::Busy;
        inner.job = Some((job.clone(), execution.clone()));
        inner.asked = None;
    }

    /// What it does, and which job it runs.
    pub(super) fn read(&self) -> (WorkerState, Option<JobId>) {
        let inner = self.inner();
        (inner.state, inner.job.as_ref().map(|(job, _)| job.clone()))
    }

    /// Takes a command to the job at hand; one to another job is late, and means nothing.
    pub(super) fn tell(&self, command: &WorkerCommand) {
        let mut inner = self.inner();
        let Some((job, execution)) = &inner.job else {
            return;
        };
        let reason = match command {
            WorkerCommand::StopJob { job_id } if job_id == job => Reason::Stopped,
            WorkerCommand::StopExecution {
                job_id,
                execution_id,
            } if job_id == job && execution_id == execution => Reason::Stopped,
            WorkerCommand::KillHorse => Reason::Killed,
            _ => return,
        };
        inner.asked = Some(reason);
        drop(inner);
        self.asked.notify_waiters();
    }

    /// Waits until somebody wants the job at hand to end.
    pub(super) async fn asked(&self) -> Reason {
        loop {
            let notified = self.asked.notified();
            if let Some(reason) = self.inner().asked {
                return reason;
            }
            notified.await;
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
