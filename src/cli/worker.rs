//! `pgseal worker`.

use clap::Args;
use rand::random;
use serde::Serialize;

use super::Context;
use super::output::table;
use super::service::{SHARED_SWITCH, SHARED_SWITCH_FIX, Service, drills, outbox, timetables};
use crate::config::{
    self, ConfigError, NotifyArgs, QueueArgs, RetentionArgs, ScheduleArgs, WorkerTimes,
};
use crate::queue::rq::names::{QueueName, WorkerName};
use crate::worker::{self, Alive, State, Stop, Times, Until, Worker};

const AFTER_HELP: &str = "\
Examples:
  pgseal worker                                serves the queue backups
  pgseal worker --queue urgent --queue backups the first one first
  pgseal worker --burst                        ends when there is nothing left to do, nor due within BACKUP_RETRY_SECONDS
  pgseal worker --check                        for a health check: exit code 0 if the worker on this machine lives

It runs one job at a time; start several, on as many machines as you like, around one Redis and one catalog. Ctrl-C or \
SIGTERM lets the job at hand go on for BACKUP_SHUTDOWN_GRACE_SECONDS and gives it back after that; a second signal \
gives it back at once. Needs REDIS_URL, DATABASE_URL, a store that is named, and a catalog (pgseal migrate).";

/// Run jobs from the queue, as rq's own worker does
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(super) struct WorkerArgs {
    /// Serve this queue; may be repeated, the most important one first [default: BACKUP_QUEUE]
    #[arg(long = "queue", short = 'Q', value_name = "QUEUE", value_parser = config::queue_name)]
    queues: Vec<QueueName>,
    /// The worker's name [default: made from the machine's name]
    #[arg(long, value_name = "NAME", value_parser = worker_name)]
    name: Option<WorkerName>,
    /// End when the queues are empty
    #[arg(long)]
    burst: bool,
    /// Say whether a worker lives on this machine, and run none
    #[arg(long, conflicts_with_all = ["burst", "name", "queues"])]
    check: bool,
    #[command(flatten)]
    queue: QueueArgs,
    #[command(flatten)]
    times: WorkerTimes,
    #[command(flatten)]
    schedule: ScheduleArgs,
    #[command(flatten)]
    retention: RetentionArgs,
    #[command(flatten)]
    notify: NotifyArgs,
}

impl WorkerArgs {
    pub(super) async fn run(self, context: &Context, stop: &Stop) -> anyhow::Result<()> {
        if self.check {
            return check_living(context);
        }
        context.settings.require_named_store()?;
        let service = Service::open(&self.queue).await?;
        let targets = context.settings.targets()?;
        let connections = targets.connections()?;
        let drill_server = config::drill_server_if_named()?;
        let drills = drills(&targets, &self.schedule)?;
        let mut timetables_of_drills = drills.timetables.iter();
        if drill_server.is_none() && timetables_of_drills.any(|one| one.schedule.is_some()) {
            return Err(ConfigError::DrillsWithoutServer.into());
        }
        let queues = if self.queues.is_empty() {
            vec![self.queue.default_queue.clone()]
        } else {
            self.queues.clone()
        };
        let outbox = outbox(&service.dispatch, &self.notify, &targets, context)?;
        let worker = Worker {
            name: self.name.clone().unwrap_or_else(new_name),
            queues,
            dispatch: service.dispatch,
            stages: context.settings.stages(context.clock).await?,
            policies: targets
                .names()
                .into_iter()
                .map(|name| (name.clone(), targets.policy(&name, &self.retention)))
                .collect(),
            targets: connections,
            drill_server,
            timetables: timetables(&targets, &self.schedule)?,
            drills,
            times: Times {
                heartbeat: self.times.heartbeat(),
                maintenance: self.times.maintenance(),
                lease: self.times.lease(),
                reconcile: self.times.reconcile(),
                keep_replaced: self.times.keep_replaced(),
                grace: self.times.grace(),
            },
            outbox,
            alive_folder: context.settings.spool_folder(),
            state: State::default(),
        };
        if worker.outbox.notifier.shares_a_switch(&targets.names()) {
            tracing::warn!("{SHARED_SWITCH}: {SHARED_SWITCH_FIX}");
        }
        let until = if self.burst {
            Until::Empty
        } else {
            Until::Stopped
        };
        tracing::info!(worker.name = %worker.name, "Worker started");
        worker.run(until, stop).await?;
        tracing::info!(worker.name = %worker.name, "Worker ended");
        Ok(())
    }
}

fn check_living(context: &Context) -> anyhow::Result<()> {
    let living = worker::living(&context.settings.spool_folder(), (context.clock)())?;
    context
        .output
        .print(&Living { workers: &living }, || text(&living))
}

#[derive(Serialize)]
struct Living<'a> {
    workers: &'a [Alive],
}

fn text(living: &[Alive]) -> String {
    let rows = living.iter().map(|alive| {
        [
            alive.name.clone(),
            alive.pid.to_string(),
            alive.state.clone(),
            alive.job_id.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    });
    table(["WORKER", "PROCESS", "STATE", "JOB"], rows, 4)
}

/// Readable on a dashboard, and not the one that a worker with the same process id had before.
fn new_name() -> WorkerName {
    let hostname = worker::hostname();
    let name = format!("{hostname}.{}.{:08x}", std::process::id(), random::<u32>());
    WorkerName::parse(&name)
        .or_else(|_| WorkerName::parse(&format!("pgseal.{:08x}", random::<u32>())))
        .expect("letters, digits and a point are a worker's name")
}

fn worker_name(text: &str) -> Result<WorkerName, String> {
    WorkerName::parse(text).map_err(|error| error.to_string())
}
