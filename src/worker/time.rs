//! What is due by the schedule, while the worker lives.

use std::time::Duration;

use time::OffsetDateTime;

use super::{Stop, Worker};
use crate::dispatch::Asked;
use crate::model::explanation::explain;

/// How often the catalog is asked what is due.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

impl Worker {
    /// Asks for what is due until the worker ends.
    pub(super) async fn keep_time(&self, stop: &Stop) {
        let kept = async {
            let mut waited_for = None;
            loop {
                self.look_at_the_time(&mut waited_for).await;
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
        };
        let _ended = stop.house.run_until_cancelled::<_>(kept).await;
    }

    /// Asks for what is due now, and tells what came to nothing.
    pub(super) async fn look_at_the_time(&self, waited_for: &mut Option<OffsetDateTime>) {
        let Some(timetable) = &self.timetable else {
            return;
        };
        match self.dispatch.scheduled(timetable, self.now()).await {
            Ok(Asked::Now(slot, id)) => {
                tracing::info!(backup.id = %id, %slot, "Backup of the schedule is asked for");
            }
            // Once for each slot; it is looked at every few seconds.
            Ok(Asked::Waits(slot, active)) if *waited_for != Some(slot) => {
                *waited_for = Some(slot);
                tracing::info!(%slot, %active, "Backup of the schedule waits for its target");
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(reason = explain(&error), "The schedule cannot be looked at");
            }
        }
        if let Err(error) = timetable.look(&self.dispatch.catalog).await {
            tracing::warn!(
                reason = explain(&error),
                "Nobody can say whether a backup is overdue"
            );
        }
    }
}
