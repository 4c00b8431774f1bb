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

/// Schedules of all targets.
#[derive(Serialize, ToSchema)]
pub(super) struct Schedules {
    items: Vec<ScheduleRecord>,
}

/// Look whether schedules are kept to
///
/// A target without a schedule is not among them.
#[utoipa::path(get, path = "/api/admin/schedules", operation_id = "list_schedules", tag = "schedules",
    responses((status = 200, description = "Each target's schedule", body = Schedules)))]
pub(super) async fn list(State(api): State<Arc<Api>>) -> Result<Json<Schedules>, Problem> {
    let mut items = Vec::new();
    if let Some(timetable) = &api.parts.timetable {
        let outlook = timetable.look(&api.parts.dispatch.catalog).await?;
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
    Ok(Json(Schedules { items }))
}

/// Looks again and again whether a backup is overdue, until the service ends.
pub(super) async fn watch(api: Arc<Api>) {
    let Some(timetable) = &api.parts.timetable else {
        return;
    };
    let watched = async {
        loop {
            if let Err(error) = timetable.look(&api.parts.dispatch.catalog).await {
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
