//! What is due by the schedule: each slot is asked for once over all workers, and one that came to nothing is told.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::random;
use time::OffsetDateTime;

use super::{BackupWanted, Dispatch};
use crate::catalog::{Active, Catalog, CatalogError};
use crate::model::alert::Alert;
use crate::model::ids::BackupId;
use crate::model::kind::BackupKind;
use crate::queue::rq::names::JobId;
use crate::schedule::{Overdue, Schedule};

/// Who asks.
const REQUESTED_BY: &str = "schedule";

/// When a target's backups are made without anybody asking.
#[derive(Clone, Debug)]
pub struct Timetable {
    /// The target's name.
    pub target: String,
    /// When.
    pub schedule: Schedule,
    /// How long after that they are overdue.
    pub overdue_after: Duration,
}

/// What came of a look at the schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Nothing was due yet.
    Nothing,
    /// This slot was asked for before.
    Already(OffsetDateTime, BackupId),
    /// It is asked for now.
    Now(OffsetDateTime, BackupId),
    /// Its target has another job that has not ended.
    Waits(OffsetDateTime, Active),
}

/// A schedule, and what has become of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outlook {
    /// When it was last due.
    pub last_slot: Option<OffsetDateTime>,
    /// When it is due next.
    pub next_slot: Option<OffsetDateTime>,
    /// When the newest complete scheduled backup was asked for.
    pub last_backup: Option<OffsetDateTime>,
    /// Whether a slot came to nothing.
    pub overdue: Option<Overdue>,
}

impl Timetable {
    /// What the schedule is called in the catalog.
    fn name(&self) -> String {
        format!("backup:{}", self.target)
    }

    /// What has become of the schedule. Whoever first finds that a slot came to nothing writes the event.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn look(&self, catalog: &Catalog) -> Result<Outlook, CatalogError> {
        let (name, schedule) = (self.name(), &self.schedule);
        let now = catalog.now().await?;
        let last_slot = schedule.last_slot(now);
        if let Some(slot) = last_slot {
            // So that it is known since when something is owed, also where no worker ever ran.
            catalog.note_slot(&name, schedule, slot).await?;
        }
        let last_backup = catalog.last_scheduled(&self.target).await?;
        let since = catalog.schedule_since(&name, schedule).await?;
        let overdue = schedule.overdue(last_backup, since, now, self.overdue_after);
        if let Some(overdue) = overdue {
            let alert = Alert::BackupOverdue {
                target: self.target.clone(),
                slot: overdue.slot,
                last: overdue.last,
            };
            catalog.note_overdue(&name, overdue.slot, &alert).await?;
        }
        Ok(Outlook {
            last_slot,
            next_slot: schedule.next_slot(now),
            last_backup,
            overdue,
        })
    }
}

impl Dispatch {
    /// Asks for what is due, if nobody did. What time it is says the catalog; `now` is for Redis.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn scheduled(
        &self,
        timetable: &Timetable,
        now: OffsetDateTime,
    ) -> Result<Asked, CatalogError> {
        let (name, schedule) = (timetable.name(), &timetable.schedule);
        let Some(due) = schedule.last_slot(self.catalog.now().await?) else {
            return Ok(Asked::Nothing);
        };
        let Some(slot) = self.catalog.note_slot(&name, schedule, due).await? else {
            return Ok(Asked::Nothing);
        };
        if let Some(id) = slot.backup {
            return Ok(Asked::Already(slot.at, id));
        }
        let wanted = scheduled(&timetable.target);
        let requested = self.backup_requested(wanted, &JobId::from_random(random()));
        let asked = self.catalog.request_of_slot(&name, slot.at, &requested);
        match asked.await {
            Ok(Some(row)) => {
                self.enqueue(now).await;
                Ok(Asked::Now(slot.at, row.id))
            }
            // Another worker was quicker.
            Ok(None) => Ok(Asked::Nothing),
            Err(CatalogError::TargetBusy { active, .. }) => Ok(Asked::Waits(slot.at, active)),
            Err(error) => Err(error),
        }
    }
}

/// What a schedule wants.
#[must_use]
pub fn scheduled(target: &str) -> BackupWanted {
    BackupWanted {
        target: target.to_owned(),
        kind: BackupKind::Scheduled,
        requested_by: REQUESTED_BY.to_owned(),
        labels: BTreeMap::new(),
        excluded_table_data: Vec::new(),
    }
}
