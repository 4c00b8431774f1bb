//! The schedule: what was due, what is due next, and whether it is kept to.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::Api;
use super::problem::Problem;
use crate::catalog::CatalogError;
use crate::dispatch::{DrillOutlook, DrillTimetable, Spent};
use crate::model::explanation::explain;

/// How often it is looked whether a backup is overdue: also where every worker is gone, somebody has to say so.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);

/// A target's schedule, and what has become of it.
#[derive(Serialize, ToSchema)]
#[schema(as = Schedule)]
pub(super) struct ScheduleRecord {
    /// The target's name.
    target: String,
    /// The cron expression.
    expression: String,
    /// The time zone that it is in, as Europe/Berlin.
    timezone: String,
    /// When it was last due.
    #[serde(with = "time::serde::rfc3339::option")]
    last_slot: Option<OffsetDateTime>,
    /// When it is due next.
    #[serde(with = "time::serde::rfc3339::option")]
    next_slot: Option<OffsetDateTime>,
    /// When the newest complete scheduled backup was asked for.
    #[serde(with = "time::serde::rfc3339::option")]
    last_backup: Option<OffsetDateTime>,
    /// Whether a backup that was due is not complete, although its time is over.
    overdue: bool,
    /// When that one was due.
    #[serde(with = "time::serde::rfc3339::option")]
    overdue_slot: Option<OffsetDateTime>,
}

/// When a target's backups are restored for trial, and what has become of that.
#[derive(Serialize, ToSchema)]
#[schema(as = DrillSchedule)]
pub(super) struct DrillRecord {
    /// The target's name.
    target: String,
    /// The cron expression; null: drills are made when somebody asks.
    expression: Option<String>,
    /// The time zone that it is in.
    timezone: Option<String>,
    /// When one was last due.
    #[serde(with = "time::serde::rfc3339::option")]
    last_slot: Option<OffsetDateTime>,
    /// What has become of that: asked for, running, PROVEN, FAILED, UNVERIFIABLE, no verdict, given back, stopped; or why
    /// there is none: waits, no backup, over budget.
    state: Option<String>,
    /// When one is due next.
    #[serde(with = "time::serde::rfc3339::option")]
    next_slot: Option<OffsetDateTime>,
    /// When a backup was last proved.
    #[serde(with = "time::serde::rfc3339::option")]
    last_proof: Option<OffsetDateTime>,
    /// By when one has to be.
    #[serde(with = "time::serde::rfc3339::option")]
    proof_due: Option<OffsetDateTime>,
    /// Whether that is over.
    proof_overdue: bool,
}

/// What drills of all targets may fetch this month.
#[derive(Serialize, ToSchema)]
#[schema(as = DrillBudget)]
pub(super) struct BudgetRecord {
    /// When the month began.
    #[serde(with = "time::serde::rfc3339")]
    since: OffsetDateTime,
    /// What they may fetch in all, in bytes.
    bytes: u64,
    /// What they have fetched, or are about to.
    used_bytes: u64,
    /// What is left.
    left_bytes: u64,
}

/// Schedules of all targets.
#[derive(Serialize, ToSchema)]
pub(super) struct Schedules {
    items: Vec<ScheduleRecord>,
    drills: Vec<DrillRecord>,
    /// Null: nobody bounds it.
    drill_budget: Option<BudgetRecord>,
}

/// Look whether schedules are kept to
///
/// A target without a schedule is not among them.
#[utoipa::path(get, path = "/api/admin/schedules", operation_id = "list_schedules", tag = "schedules",
    responses((status = 200, description = "Each target's schedule", body = Schedules)))]
pub(super) async fn list(State(api): State<Arc<Api>>) -> Result<Json<Schedules>, Problem> {
    let catalog = &api.parts.dispatch.catalog;
    let mut items = Vec::new();
    for timetable in &api.parts.timetables {
        let outlook = timetable.look(catalog).await?;
        items.push(ScheduleRecord {
            target: timetable.target.clone(),
            expression: timetable.schedule.expression().to_owned(),
            timezone: timetable.schedule.zone().to_owned(),
            last_slot: outlook.last_slot,
            next_slot: outlook.next_slot,
            last_backup: outlook.last_backup,
            overdue: outlook.overdue.is_some(),
            overdue_slot: outlook.overdue.map(|overdue| overdue.slot),
        });
    }
    let mut drills = Vec::new();
    for timetable in &api.parts.drills.timetables {
        let outlook = timetable.look(catalog).await?;
        drills.push(DrillRecord::of(timetable, outlook));
    }
    let spent = api.parts.drills.spent(catalog).await?;
    Ok(Json(Schedules {
        items,
        drills,
        drill_budget: spent.map(BudgetRecord::from),
    }))
}

impl DrillRecord {
    fn of(timetable: &DrillTimetable, outlook: DrillOutlook) -> Self {
        let schedule = timetable.schedule.as_ref();
        Self {
            target: timetable.target.clone(),
            expression: schedule.map(|one| one.expression().to_owned()),
            timezone: schedule.map(|one| one.zone().to_owned()),
            last_slot: outlook.last_slot,
            state: outlook.state,
            next_slot: outlook.next_slot,
            last_proof: outlook.last_proof,
            proof_due: outlook.proof_due,
            proof_overdue: outlook.is_overdue,
        }
    }
}

impl From<Spent> for BudgetRecord {
    fn from(spent: Spent) -> Self {
        Self {
            since: spent.since,
            bytes: spent.bytes_max,
            used_bytes: spent.bytes,
            left_bytes: spent.bytes_max.saturating_sub(spent.bytes),
        }
    }
}

/// Looks again and again whether a backup or a proof is overdue, until the service ends.
pub(super) async fn watch(api: Arc<Api>) {
    let (timetables, drills) = (&api.parts.timetables, &api.parts.drills.timetables);
    if timetables.is_empty() && drills.is_empty() {
        return;
    }
    let catalog = &api.parts.dispatch.catalog;
    let look = async || -> Result<(), CatalogError> {
        for timetable in timetables {
            timetable.look(catalog).await?;
        }
        for timetable in drills {
            timetable.look(catalog).await?;
        }
        Ok(())
    };
    let watched = async {
        loop {
            if let Err(error) = look().await {
                tracing::debug!(
                    reason = explain(&error),
                    "Nobody can say whether a backup is overdue"
                );
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    };
    let _ended = api.ending.run_until_cancelled::<_>(watched).await;
}
