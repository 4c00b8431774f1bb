//! The worker: takes one job after another from the queue, runs it, and settles it in the catalog and on Redis.
//!
//! ```text
//! take:   wait -> claim on Redis -> claim in the catalog -> run, with signs of life -> the row ends -> the job ends
//! house:  every half minute: jobs of dead workers, jobs that Redis lost, those that are due, objects without rows
//! time:   every few seconds: what the schedules of backups and drills want, and what came to nothing
//! tell:   every few seconds: what the catalog's outbox has for e-mail, webhook, chat and dead man's switch
//! ```
//!
//! The catalog is the truth: a job whose row is not pending does nothing, and who lost the lease on a row changes it no
//! more. Redis may be lost at any time; what it has is made again from the catalog.

mod alive;
#[cfg(feature = "test-support")]
mod conformance;
mod copy;
mod drill;
mod end;
mod house;
mod prune;
mod run;
mod safety;
mod state;
mod stop;
mod supervise;
mod take;
mod tasks;
mod time;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use ::time::OffsetDateTime;

use self::time::Said;
pub use alive::{Alive, AliveError, living};
pub use state::State;
pub use stop::Stop;
pub use take::{WorkerError, hostname};

use crate::backup::Stages;
use crate::dispatch::{Dispatch, Drills, Outbox, Timetable};
use crate::model::connection::Connection;
use crate::model::policy::Policy;
use crate::model::target::TargetName;
use crate::queue::rq::names::{QueueName, WorkerName};

/// One worker: a process, a name, and one job at a time.
pub struct Worker {
    /// Under which it is known; no two alive have the same.
    pub name: WorkerName,
    /// Which queues it serves, the most important one first.
    pub queues: Vec<QueueName>,
    /// The catalog and the queue.
    pub dispatch: Dispatch,
    /// What backups and restores work with.
    pub stages: Stages,
    /// The databases of the targets.
    pub targets: BTreeMap<TargetName, Connection>,
    /// Where drills restore; `None`: nowhere, and a drill's job says so.
    pub drill_server: Option<Connection>,
    /// When backups are made without anybody asking.
    pub timetables: Vec<Timetable>,
    /// When they are tried, and what that may fetch.
    pub drills: Drills,
    /// How long they are kept, for each target.
    pub policies: BTreeMap<TargetName, Policy>,
    /// How often what is done.
    pub times: Times,
    /// What is to be told, and who hears of it.
    pub outbox: Outbox,
    /// The folder of its sign of life for a health check.
    pub alive_folder: PathBuf,
    /// What it is doing.
    pub state: State,
}

/// How often what is done, and how long what may take.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Between two signs of life on Redis.
    pub heartbeat: Duration,
    /// Between two looks after what others left.
    pub maintenance: Duration,
    /// How long the catalog waits for a silent worker.
    pub lease: Duration,
    /// Between two comparisons of bucket and catalog.
    pub reconcile: Duration,
    /// How long a database that a restore replaced is kept; `None`: until somebody drops it.
    pub keep_replaced: Option<Duration>,
    /// How long the job at hand may go on after a request to end.
    pub grace: Duration,
}

/// When a worker ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Never.
    Stopped,
    /// When its queues are empty, as `rq worker --burst`.
    Empty,
}

impl Worker {
    /// Runs jobs until it is told to end. While it does, it looks after what others left.
    ///
    /// # Errors
    /// It cannot begin: another living worker has its name, or Redis refuses it.
    pub async fn run(&self, until: Until, stop: &Stop) -> Result<(), WorkerError> {
        self.register(stop).await?;
        let commands = self.commands(stop).await;
        let work = async {
            if until == Until::Empty {
                // It must not find the queue empty and leave while the catalog has more for it.
                self.look_at_the_time(&mut Said::default()).await;
                self.settle_and_enqueue().await;
            }
            let ended = self.take_jobs(until, stop).await;
            stop.house.cancel();
            ended
        };
        let (ended, (), (), (), ()) = tokio::join!(
            Box::pin(work),
            Box::pin(self.keep_house(stop)),
            Box::pin(self.keep_time(stop)),
            self.listen(commands, stop),
            Box::pin(self.tell_of_events(until, stop))
        );
        self.unregister().await;
        ended
    }

    /// Tells what happened until the worker ends. One that ends with its queues tells what its last job has to say, too.
    async fn tell_of_events(&self, until: Until, stop: &Stop) {
        self.outbox.keep(&stop.house).await;
        if until == Until::Empty {
            self.outbox.deliver_due(&stop.warm).await;
        }
    }

    fn now(&self) -> OffsetDateTime {
        (self.stages.clock)()
    }
}
