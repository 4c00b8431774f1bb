//! What drills are due by a schedule, within a month's bytes; and whether a target's proof is too old.

use std::time::Duration;

use rand::random;
use time::OffsetDateTime;

use super::{Dispatch, DispatchError, RESULT_TTL, lifetime};
use crate::catalog::{Catalog, CatalogError, DrillBudget, DrillChoice, DrillSlot};
use crate::model::alert::Alert;
use crate::model::ids::BackupId;
use crate::queue::job::Job;
use crate::queue::payload::Serializer;
use crate::queue::producer::NewJob;
use crate::queue::rq::names::JobId;
use crate::schedule::{Schedule, Zone};

/// What the ids of drills begin with that a command does itself: no worker puts them into the queue.
const OF_COMMAND: &str = "command-";

/// The id of a drill that a command does itself.
#[must_use]
pub fn drill_of_command() -> JobId {
    let random = JobId::from_random(random());
    JobId::parse(&format!("{OF_COMMAND}{random}")).unwrap_or(random)
}

/// A drill whose worker was killed, or that came to no verdict, is tried once more: what it fetches then has to fit into the
/// month as well.
const DRILL_RETRIES: u32 = 1;
const DRILL_PAUSE_SECONDS: u32 = 30;

/// So many slots without a proof are too many: one drill may meet a server that is away.
const SLOTS_WITHOUT_PROOF: usize = 2;

/// The drills of all targets.
#[derive(Clone, Debug, Default)]
pub struct Drills {
    /// Of each target that has some, or whose proof must not be too old.
    pub timetables: Vec<DrillTimetable>,
    /// What all of them may fetch together.
    pub budget: Option<Budget>,
}

/// How much drills may fetch in a calendar month.
#[derive(Clone, Debug)]
pub struct Budget {
    /// So many bytes.
    pub bytes: u64,
    /// Whose calendar.
    pub zone: Zone,
}

/// When a target's backups are tried without anybody asking, and how old its last proof may be.
#[derive(Clone, Debug)]
pub struct DrillTimetable {
    /// The target's name.
    pub target: String,
    /// When; `None`: when somebody asks.
    pub schedule: Option<Schedule>,
    /// How old the last proof may be; `None`: as old as the second slot after it.
    pub proof_age_max: Option<Duration>,
    /// How long after its slot a drill may prove something.
    pub patience: Duration,
}

/// What came of a look at a drill's schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DrillAsked {
    /// Nothing is due, or it is asked for already.
    Nothing,
    /// It is asked for now.
    Now(OffsetDateTime, BackupId),
    /// There is no backup to try.
    NoBackup,
    /// The month's bytes do not suffice for any; to be said, where it is news.
    TooDear {
        /// What the cheapest would fetch.
        bytes: u64,
        /// What is left.
        left: u64,
        /// Whether nobody has said so of this slot.
        is_news: bool,
    },
}

/// A target's drills, and what has become of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrillOutlook {
    /// When one was last due.
    pub last_slot: Option<OffsetDateTime>,
    /// What has become of it.
    pub state: Option<String>,
    /// When one is due next.
    pub next_slot: Option<OffsetDateTime>,
    /// When a backup was last proved.
    pub last_proof: Option<OffsetDateTime>,
    /// By when one has to be.
    pub proof_due: Option<OffsetDateTime>,
    /// Whether that is over.
    pub is_overdue: bool,
}

/// What drills may fetch this month, and what they have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spent {
    /// What they may, in bytes.
    pub bytes_max: u64,
    /// What they have.
    pub bytes: u64,
    /// When the month began.
    pub since: OffsetDateTime,
}

impl Drills {
    /// What is allowed in the month that `now` is in.
    #[must_use]
    pub fn budget(&self, now: OffsetDateTime) -> Option<DrillBudget> {
        self.budget.as_ref().map(|budget| DrillBudget {
            bytes: budget.bytes,
            since: budget.zone.month_start(now),
        })
    }

    /// What drills have fetched this month; `None`: nobody bounds it.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn spent(&self, catalog: &Catalog) -> Result<Option<Spent>, CatalogError> {
        let Some(budget) = self.budget(catalog.now().await?) else {
            return Ok(None);
        };
        Ok(Some(Spent {
            bytes_max: budget.bytes,
            bytes: catalog.drill_bytes(budget.since).await?,
            since: budget.since,
        }))
    }
}

impl DrillTimetable {
    /// What the schedule is called in the catalog.
    #[must_use]
    pub fn name(&self) -> String {
        format!("drill:{}", self.target)
    }

    /// The slot that is due by the catalog's clock; `None`: nothing was yet.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn slot(&self, catalog: &Catalog) -> Result<Option<OffsetDateTime>, CatalogError> {
        let Some(schedule) = &self.schedule else {
            return Ok(None);
        };
        let Some(due) = schedule.last_slot(catalog.now().await?) else {
            return Ok(None);
        };
        let slot = catalog.note_slot(&self.name(), schedule, due).await?;
        Ok(slot.map(|slot| slot.at))
    }

    /// By when a backup has to be proved, where one was at `from`; `None`: nobody says so.
    #[must_use]
    pub fn proof_due(&self, from: OffsetDateTime) -> Option<OffsetDateTime> {
        if let Some(age_max) = self.proof_age_max {
            return from.checked_add(age_max.try_into().ok()?);
        }
        let schedule = self.schedule.as_ref()?;
        let slots =
            std::iter::successors(schedule.next_slot(from), |slot| schedule.next_slot(*slot));
        let last = slots.take(SLOTS_WITHOUT_PROOF).last()?;
        Some(last + self.patience)
    }

    /// What has become of it. Whoever first finds that a proof is overdue writes the event.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn look(&self, catalog: &Catalog) -> Result<DrillOutlook, CatalogError> {
        let now = catalog.now().await?;
        let mut state = None;
        let last_slot = self.schedule.as_ref().and_then(|one| one.last_slot(now));
        if let (Some(schedule), Some(slot)) = (&self.schedule, last_slot) {
            let noted = catalog.note_slot(&self.name(), schedule, slot).await?;
            if noted.is_some() {
                state = catalog.drill_state(&self.name()).await?;
            }
        }
        let last_proof = catalog.last_proof(&self.target).await?;
        // Nobody owes what was due before the rule was made.
        let since = self.since(catalog).await?;
        let proof_due = self.proof_due(last_proof.map_or(since, |last| last.max(since)));
        let is_overdue = proof_due.is_some_and(|due| due < now);
        if let Some(due) = proof_due.filter(|due| *due < now) {
            let alert = Alert::ProofOverdue {
                target: self.target.clone(),
                due,
                last: last_proof,
                reason: catalog.unproved_because(&self.target).await?,
            };
            // As long as nothing is proved, it is due at this same moment.
            catalog.note_overdue(&self.watch(), due, &alert).await?;
        }
        Ok(DrillOutlook {
            last_slot,
            state,
            next_slot: self.schedule.as_ref().and_then(|one| one.next_slot(now)),
            last_proof,
            proof_due,
            is_overdue,
        })
    }

    fn watch(&self) -> String {
        format!("proof:{}", self.target)
    }

    async fn since(&self, catalog: &Catalog) -> Result<OffsetDateTime, CatalogError> {
        let (rule, zone) = match (self.proof_age_max, &self.schedule) {
            (None, Some(schedule)) => (schedule.expression().to_owned(), schedule.zone()),
            (age_max, _) => {
                let days = age_max.unwrap_or_default().as_secs() / (24 * 60 * 60);
                (format!("within {days} days"), "UTC")
            }
        };
        catalog.rule_since(&self.watch(), &rule, zone).await
    }
}

impl Dispatch {
    /// Asks for the drill that is due, if nobody did, and makes its job again where Redis lost it. What time it is says the
    /// catalog; `now` is for Redis.
    ///
    /// # Errors
    /// The catalog fails, or Redis does not take the job: whoever looks next tries again.
    pub async fn scheduled_drill(
        &self,
        timetable: &DrillTimetable,
        drills: &Drills,
        now: OffsetDateTime,
    ) -> Result<DrillAsked, DispatchError> {
        let Some(schedule) = &timetable.schedule else {
            return Ok(DrillAsked::Nothing);
        };
        let (name, time) = (timetable.name(), self.catalog.now().await?);
        let Some(due) = schedule.last_slot(time) else {
            return Ok(DrillAsked::Nothing);
        };
        let Some(slot) = self.catalog.note_slot(&name, schedule, due).await? else {
            return Ok(DrillAsked::Nothing);
        };
        if let Some(job) = slot.job.as_deref().and_then(|job| JobId::parse(job).ok()) {
            if let Some(id) = self.open_in_queue(&job).await? {
                self.ensure_drill(id, job, now).await?;
            }
            return Ok(DrillAsked::Nothing);
        }
        let job = JobId::from_random(random());
        let place = DrillSlot {
            schedule: &name,
            at: slot.at,
        };
        let targets = [timetable.target.as_str()];
        let budget = drills.budget(time);
        let chosen = self
            .catalog
            .choose_drill(&targets, budget, Some(place), Some(job.as_str()));
        match chosen.await? {
            DrillChoice::Backup(id) => {
                self.ensure_drill(id, job, now).await?;
                Ok(DrillAsked::Now(slot.at, id))
            }
            DrillChoice::NoBackup => Ok(DrillAsked::NoBackup),
            DrillChoice::TooDear {
                bytes,
                left,
                is_news,
            } => Ok(DrillAsked::TooDear {
                bytes,
                left,
                is_news,
            }),
            DrillChoice::Settled => Ok(DrillAsked::Nothing),
        }
    }

    /// The backup of a drill that is to be in the queue; what a command does itself is not.
    async fn open_in_queue(&self, job: &JobId) -> Result<Option<BackupId>, DispatchError> {
        if job.as_str().starts_with(OF_COMMAND) {
            return Ok(None);
        }
        Ok(self.catalog.open_drill(job.as_str()).await?)
    }

    async fn ensure_drill(
        &self,
        id: BackupId,
        job: JobId,
        now: OffsetDateTime,
    ) -> Result<(), DispatchError> {
        let call = self
            .functions
            .call(Job::Drill(Some(id)), Serializer::Pickle);
        let new = NewJob {
            timeout: lifetime(self.time_limit),
            result_ttl: Some(RESULT_TTL),
            retries: Some((DRILL_RETRIES, vec![DRILL_PAUSE_SECONDS])),
            ..NewJob::new(job, self.queue_name.clone(), call)
        };
        let ensured = tokio::time::timeout(super::ENQUEUE_WITHIN, self.queue.ensure(&new, now));
        ensured.await.map_err(|_| DispatchError::Slow)??;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    fn timetable(schedule: Option<&str>, days: Option<u64>) -> DrillTimetable {
        DrillTimetable {
            target: "default".to_owned(),
            schedule: schedule.map(|one| Schedule::parse(one, "Europe/Berlin").unwrap()),
            proof_age_max: days.map(|days| Duration::from_secs(days * 24 * 60 * 60)),
            patience: Duration::from_secs(60 * 60),
        }
    }

    #[test]
    fn a_proof_is_due_by_the_second_slot_after_the_last_or_when_it_is_too_old() {
        let from = datetime!(2026-05-01 12:00 UTC);
        let due = |schedule, days| timetable(schedule, days).proof_due(from);
        // Sundays at four in Berlin: the 3rd, the 10th, and an hour for the drill itself.
        let weekly = Some("0 4 * * SUN");
        assert_eq!(due(weekly, None), Some(datetime!(2026-05-10 03:00 UTC)));
        assert_eq!(due(weekly, Some(3)), Some(datetime!(2026-05-04 12:00 UTC)));
        assert_eq!(due(None, Some(30)), Some(datetime!(2026-05-31 12:00 UTC)));
        assert_eq!(due(None, None), None);
    }
}
