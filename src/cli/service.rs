//! What every command of the service opens: the catalog and the queue.

use crate::catalog::Catalog;
use crate::config::{self, ConfigError, QueueArgs, ScheduleArgs};
use crate::dispatch::{Dispatch, Timetable};
use crate::model::target::TARGET_DEFAULT;
use crate::queue::Queue;

/// The catalog and the queue.
pub(super) struct Service {
    pub(super) dispatch: Dispatch,
}

impl Service {
    /// Opens both. A catalog of another version is refused; a Redis that is away is not, because it comes back.
    pub(super) async fn open(queue: &QueueArgs) -> anyhow::Result<Self> {
        let address = queue.redis()?;
        let (catalog, _) = config::catalog_address()?;
        let catalog = Catalog::open(&catalog).await?;
        let dispatch = Dispatch {
            catalog,
            queue: Queue::open(&address, queue.keys())?,
            functions: queue.functions(),
            queue_name: queue.default_queue.clone(),
            time_limit: queue.time_limit(),
        };
        Ok(Self { dispatch })
    }
}

/// When the default target is backed up; `None`: when somebody asks.
pub(super) fn timetable(schedule: &ScheduleArgs) -> Result<Option<Timetable>, ConfigError> {
    let overdue_after = schedule.overdue_after();
    let timetable = |schedule| Timetable {
        target: TARGET_DEFAULT.to_owned(),
        schedule,
        overdue_after,
    };
    Ok(schedule.schedule()?.map(timetable))
}
