//! What is due by the schedule, while the worker lives.

use std::collections::BTreeMap;
use std::time::Duration;

use time::OffsetDateTime;

use super::{Stop, Worker};
use crate::dispatch::{Asked, DrillAsked, DrillTimetable, Timetable};
use crate::model::explanation::explain;

/// How often the catalog is asked what is due.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// What was said of which slot already: each is looked at every few seconds.
#[derive(Default)]
pub(super) struct Said(BTreeMap<String, OffsetDateTime>);

impl Worker {
    /// Asks for what is due until the worker ends.
    pub(super) async fn keep_time(&self, stop: &Stop) {
        let kept = async {
            let mut said = Said::default();
            loop {
                self.look_at_the_time(&mut said).await;
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
        };
        let _ended = stop.house.run_until_cancelled::<_>(kept).await;
    }

    /// Asks for what is due now, and tells what came to nothing.
    pub(super) async fn look_at_the_time(&self, said: &mut Said) {
        for timetable in &self.timetables {
            self.look_for_backups(timetable, said).await;
        }
        for timetable in &self.drills.timetables {
            self.look_for_drills(timetable).await;
        }
    }

    async fn look_for_backups(&self, timetable: &Timetable, said: &mut Said) {
        let target = &timetable.target;
        match self.dispatch.scheduled(timetable, self.now()).await {
            Ok(Asked::Now(slot, id)) => {
                tracing::info!(backup.id = %id, %slot, %target, "Backup of the schedule is asked for");
            }
            Ok(Asked::Waits(slot, active)) if said.0.get(target) != Some(&slot) => {
                said.0.insert(target.clone(), slot);
                tracing::info!(%slot, %active, %target, "Backup of the schedule waits for its target");
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(reason = explain(&error), %target, "The schedule cannot be looked at");
            }
        }
        if let Err(error) = timetable.look(&self.dispatch.catalog).await {
            tracing::warn!(
                reason = explain(&error),
                %target,
                "Nobody can say whether a backup is overdue"
            );
        }
    }

    async fn look_for_drills(&self, timetable: &DrillTimetable) {
        let target = &timetable.target;
        let asked = self
            .dispatch
            .scheduled_drill(timetable, &self.drills, self.now());
        match asked.await {
            Ok(DrillAsked::Now(slot, id)) => {
                tracing::info!(backup.id = %id, %slot, %target, "Drill of the schedule is asked for");
            }
            Ok(DrillAsked::TooDear {
                bytes,
                left,
                is_news: true,
            }) => {
                tracing::warn!(bytes, bytes_left = left, %target,
                    "Drill of the schedule waits: it would fetch more than BACKUP_DRILL_MONTHLY_BYTES has left this month");
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(reason = explain(&error), %target, "The drills' schedule cannot be looked at");
            }
        }
        if let Err(error) = timetable.look(&self.dispatch.catalog).await {
            tracing::warn!(
                reason = explain(&error),
                %target,
                "Nobody can say whether a proof is overdue"
            );
        }
    }
}
