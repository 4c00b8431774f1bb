//! What every command of the service opens, the catalog and the queue, and what it knows of all targets.

use super::Context;
use crate::catalog::Catalog;
use crate::config::{self, ConfigError, NotifyArgs, QueueArgs, ScheduleArgs, Targets};
use crate::dispatch::{Dispatch, DrillTimetable, Drills, Outbox, Timetable};
use crate::queue::Queue;

/// What is said of a dead man's switch that several targets have.
pub(super) const SHARED_SWITCH: &str = "one dead man's switch hears of several targets: a backup of one hides that another's is missing";
pub(super) const SHARED_SWITCH_FIX: &str =
    "put {target} into BACKUP_PING_URL, or give targets a ping_url of their own";

/// The catalog and the queue.
pub(super) struct Service {
    pub(super) dispatch: Dispatch,
}

impl Service {
    /// Opens both. A catalog of another version is refused; a Redis that is away is not, because it comes back.
    pub(super) async fn open(queue: &QueueArgs) -> anyhow::Result<Self> {
        let address = config::redis()?;
        let (catalog, _) = config::catalog_address()?;
        let catalog = Catalog::open(&catalog).await?;
        let dispatch = Dispatch {
            catalog,
            queue: Queue::open(&address, queue.keys())?,
            functions: queue.functions(),
            queue_name: queue.default_queue.clone(),
            time_limit: queue.time_limit(),
            retry_pause: queue.retry_pause(),
        };
        Ok(Self { dispatch })
    }
}

/// When each target is backed up without anybody asking.
pub(super) fn timetables(
    targets: &Targets,
    schedule: &ScheduleArgs,
) -> Result<Vec<Timetable>, ConfigError> {
    let mut timetables = Vec::new();
    for name in targets.names() {
        let own = targets.schedule(&name, schedule);
        if let Some(schedule) = own.due()?.schedule() {
            timetables.push(Timetable {
                target: name.to_string(),
                schedule,
                overdue_after: own.overdue_after(),
            });
        }
    }
    Ok(timetables)
}

/// When each target's backups are tried, and what that may fetch.
pub(super) fn drills(targets: &Targets, schedule: &ScheduleArgs) -> Result<Drills, ConfigError> {
    let mut timetables = Vec::new();
    for name in targets.names() {
        let own = targets.schedule(&name, schedule);
        let (schedule, proof_age_max) = (own.drills_due()?.schedule(), own.proof_age_max());
        if schedule.is_some() || proof_age_max.is_some() {
            timetables.push(DrillTimetable {
                target: name.to_string(),
                schedule,
                proof_age_max,
                patience: own.overdue_after(),
            });
        }
    }
    let budget = schedule.budget()?;
    Ok(Drills { timetables, budget })
}

/// What is to be told of all targets, and to whom.
pub(super) fn outbox(
    dispatch: &Dispatch,
    notify: &NotifyArgs,
    targets: &Targets,
    context: &Context,
) -> Result<Outbox, ConfigError> {
    let databases = targets.connections()?.into_iter();
    Ok(Outbox {
        catalog: dispatch.catalog.clone(),
        notifier: notify.notifier(targets)?,
        databases: databases
            .map(|(target, connection)| (target, connection.database().to_owned()))
            .collect(),
        clock: context.clock,
    })
}

/// The catalog, where there is one.
pub(super) async fn catalog_if_there() -> anyhow::Result<Option<Catalog>> {
    let connection = match config::catalog_address() {
        Ok((connection, _)) => connection,
        Err(ConfigError::NoCatalog) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    match Catalog::open(&connection).await {
        Ok(catalog) => Ok(Some(catalog)),
        Err(error) if error.is_no_catalog() => Ok(None),
        Err(error) => Err(error.into()),
    }
}
