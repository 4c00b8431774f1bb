//! The worker's life: registered, waiting, at work, and away again.

use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::select_all;
use rand::random;

use super::alive::{self, Alive};
use super::{Stop, Until, Worker};
use crate::model::explanation::explain;
use crate::queue::QueueError;
use crate::queue::consumer::{Claim, Claimed, Registered};
use crate::queue::rq::command::WorkerCommand;
use crate::queue::rq::names::ExecutionId;
use crate::queue::rq::worker_hash::{Birth, WorkerState};
use crate::queue::watch::{Commands, Waiter};

/// The first and the longest pause after Redis or the catalog did not answer.
const PAUSE_FIRST: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// How often a suspended worker asks whether it may go on; rq's own interval.
const SUSPENDED_PAUSE: Duration = Duration::from_secs(1);

/// Why a worker does not run.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// It cannot be known to others.
    #[error("register the worker on Redis")]
    Register(#[source] QueueError),
    /// Its file for the health check.
    #[error("write the worker's sign of life in {}\nhint: BACKUP_SPOOL_DIR names a folder that it may write in", .0.display())]
    Alive(std::path::PathBuf, #[source] std::io::Error),
}

impl Worker {
    /// Makes the worker known. Redis may still be starting, so a while is spent on that.
    pub(super) async fn register(&self, stop: &Stop) -> Result<(), WorkerError> {
        self.write_alive()
            .map_err(|error| WorkerError::Alive(self.alive_folder.clone(), error))?;
        let hostname = hostname();
        let mut pause = PAUSE_FIRST;
        loop {
            let birth = Birth {
                at: self.now(),
                queues: &self.queues,
                pid: std::process::id(),
                hostname: &hostname,
                ip_address: None,
                version: env!("CARGO_PKG_VERSION"),
                python_version: concat!("none: pgseal ", env!("CARGO_PKG_VERSION")),
            };
            match self.dispatch.queue.register(&self.name, &birth).await {
                Ok(()) => return Ok(()),
                Err(error) if error.is_transient() => {
                    tracing::warn!(%error, "Worker cannot register yet");
                    if self.rests(&mut pause, stop).await {
                        return Ok(());
                    }
                }
                Err(error) => return Err(WorkerError::Register(error)),
            }
        }
    }

    /// Says goodbye. A worker that Redis does not hear is forgotten there in some minutes.
    pub(super) async fn unregister(&self) {
        let told = self
            .dispatch
            .queue
            .unregister(&self.name, &self.queues, self.now());
        if let Err(error) = told.await {
            tracing::warn!(%error, "Worker could not say goodbye to Redis");
        }
        // What is due would wait a minute for another scheduler.
        let released = self
            .dispatch
            .queue
            .release_schedule(&self.queues, &self.name);
        if let Err(error) = released.await {
            tracing::debug!(%error, "Redis keeps this worker's lock for what is due, for a minute");
        }
        // Whoever checks looks at the process as well.
        let _removed = std::fs::remove_file(alive::file(&self.alive_folder));
    }

    /// Takes one job after another.
    pub(super) async fn take_jobs(&self, until: Until, stop: &Stop) -> Result<(), WorkerError> {
        let mut waiters: Vec<Waiter> = self
            .queues
            .iter()
            .map(|queue| self.dispatch.queue.waiter(queue))
            .collect();
        let mut pause = PAUSE_FIRST;
        let mut execution = ExecutionId::from_random(random());
        loop {
            if stop.warm.is_cancelled() {
                return Ok(());
            }
            let took = self.take_one(&execution, stop).await;
            if took.is_ok() {
                execution = ExecutionId::from_random(random());
            }
            match took {
                Ok(Took::Job) => pause = PAUSE_FIRST,
                // Redis lost its data, and this worker with them.
                Ok(Took::Unregistered) => self.register(stop).await?,
                Ok(Took::Nothing) if until == Until::Empty => {
                    if !self.has_soon(stop).await {
                        return Ok(());
                    }
                }
                Ok(Took::Nothing) => {
                    pause = PAUSE_FIRST;
                    self.wait(&mut waiters, stop).await;
                }
                Ok(Took::Suspended) => {
                    self.show(WorkerState::Suspended).await;
                    self.sleep(SUSPENDED_PAUSE, stop).await;
                }
                Err(unavailable) => {
                    tracing::warn!(reason = %unavailable, "Worker takes no job for the moment");
                    self.touch();
                    if self.rests(&mut pause, stop).await {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Whether something is due by the time that a backup is tried once more, which is waited for: whoever runs a worker that ends
    /// by itself wants to know how tonight's backup ended, and not tomorrow.
    async fn has_soon(&self, stop: &Stop) -> bool {
        let queue = &self.dispatch.queue;
        let due = queue.enqueue_due(&self.queues, &self.name, self.now());
        let due = match due.await {
            Ok(due) if due.moved > 0 => return true,
            Ok(due) => due.next,
            Err(error) => {
                tracing::debug!(%error, "Redis does not say what is due");
                None
            }
        };
        let left = due.and_then(|at| Duration::try_from(at - self.now()).ok());
        match left.filter(|left| *left <= self.dispatch.retry_pause) {
            Some(left) => {
                self.sleep(left, stop).await;
                true
            }
            None => false,
        }
    }

    /// Takes and runs the next job, if there is one and the catalog can be asked about it.
    async fn take_one(&self, execution: &ExecutionId, stop: &Stop) -> Result<Took, String> {
        let catalog = self.dispatch.catalog.ping().await;
        catalog.map_err(|error| explain(&error))?;
        // After an error the same one asks again: what had been taken by it is answered again, and not lost.
        let claim = Claim {
            worker: &self.name,
            queues: &self.queues,
            execution,
            heartbeat_seconds: self.heartbeat_seconds(),
            now: self.now(),
        };
        let claimed = self.dispatch.queue.claim(&claim).await;
        match claimed.map_err(|error| explain(&error))? {
            Claimed::Nothing => Ok(Took::Nothing),
            Claimed::Suspended => Ok(Took::Suspended),
            Claimed::Unregistered => Ok(Took::Unregistered),
            Claimed::Job(taken) => {
                self.state.begin(&taken.job_id, &taken.execution);
                self.touch();
                self.run_job(&taken, stop).await;
                Ok(Took::Job)
            }
        }
    }

    /// Waits until one of the queues has something, with signs of life in between.
    async fn wait(&self, waiters: &mut [Waiter], stop: &Stop) {
        self.show(WorkerState::Idle).await;
        let something = select_all(waiters.iter_mut().map(|waiter| waiter.wait().boxed()));
        let signs = async {
            let mut since = Duration::ZERO;
            loop {
                self.touch();
                tokio::time::sleep(alive::INTERVAL).await;
                since += alive::INTERVAL;
                if since >= self.times.heartbeat {
                    since = Duration::ZERO;
                    self.show(WorkerState::Idle).await;
                }
            }
        };
        tokio::select! {
            _ = something => {}
            () = stop.warm.cancelled() => {}
            () = signs => {}
        }
    }

    /// Hears commands from now on; `None`: the worker is to end before it can. What is sent while nobody listens is lost, so
    /// that a job that is taken earlier could not be stopped.
    pub(super) async fn commands(&self, stop: &Stop) -> Option<Commands> {
        let mut pause = PAUSE_FIRST;
        loop {
            match self.dispatch.queue.commands(&self.name).await {
                Ok(commands) => return Some(commands),
                Err(error) => {
                    tracing::warn!(%error, "Worker does not hear commands yet");
                    if self.rests(&mut pause, stop).await {
                        return None;
                    }
                }
            }
        }
    }

    /// Obeys commands until the worker ends.
    pub(super) async fn listen(&self, commands: Option<Commands>, stop: &Stop) {
        let Some(mut commands) = commands else {
            return;
        };
        let heard = async {
            loop {
                match commands.next().await {
                    WorkerCommand::Shutdown => {
                        tracing::info!("Worker was told to shut down, by a command on Redis");
                        stop.request();
                    }
                    command => self.state.tell(&command),
                }
            }
        };
        let _ended = stop.house.run_until_cancelled::<_>(heard).await;
    }

    /// Shows on Redis what the worker is doing. That is only a show: that it fails changes nothing.
    async fn show(&self, state: WorkerState) {
        self.state.set(state);
        self.touch();
        let queue = &self.dispatch.queue;
        let shown = async {
            queue.set_state(&self.name, state).await?;
            queue.heartbeat_idle(&self.name, self.now()).await
        };
        match shown.await {
            Ok(Registered::Yes) => {}
            // The next claim finds that out as well, and registers again.
            Ok(Registered::No) => tracing::debug!("Redis does not know this worker any more"),
            Err(error) => tracing::debug!(%error, "Redis does not show what the worker is doing"),
        }
    }

    /// While a job runs on, RQ's tools show that the end was asked for.
    pub(super) async fn tell_shutdown_requested(&self) {
        let told = self
            .dispatch
            .queue
            .set_shutdown_requested(&self.name, self.now());
        if let Err(error) = told.await {
            tracing::debug!(%error, "Redis does not show that the worker is to end");
        }
    }

    pub(super) fn heartbeat_seconds(&self) -> u32 {
        u32::try_from(self.times.heartbeat.as_secs()).unwrap_or(u32::MAX)
    }

    /// Writes the sign of life.
    pub(super) fn touch(&self) {
        if let Err(error) = self.write_alive() {
            tracing::warn!(%error, "Worker cannot write its sign of life");
        }
    }

    fn write_alive(&self) -> std::io::Result<()> {
        let (state, job) = self.state.read();
        let alive = Alive {
            name: self.name.to_string(),
            pid: std::process::id(),
            state: state.as_str().to_owned(),
            job_id: job.map(|job| job.to_string()),
            at: self.now(),
        };
        alive.write(&alive::file(&self.alive_folder))
    }

    /// Sleeps, longer each time. Whether it was woken to end.
    async fn rests(&self, pause: &mut Duration, stop: &Stop) -> bool {
        self.sleep(*pause, stop).await;
        *pause = (*pause * 2).min(PAUSE_MAX);
        stop.warm.is_cancelled()
    }

    async fn sleep(&self, pause: Duration, stop: &Stop) {
        let _woken = stop
            .warm
            .run_until_cancelled(tokio::time::sleep(pause))
            .await;
    }
}

/// What one look at the queues gave.
enum Took {
    Job,
    Nothing,
    Suspended,
    Unregistered,
}

/// This machine's name, as the kernel has it.
#[must_use]
pub fn hostname() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}
