//! Numbers for Prometheus, in its text format. Open to everybody, so there are no names in it but targets, databases,
//! stages and states.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use time::OffsetDateTime;

use super::Api;
use super::problem::Problem;
use crate::catalog::{CatalogError, LastSuccess, Statistics, Waiting};
use crate::dispatch::{DrillOutlook, Outlook, Spent};
use crate::model::explanation::explain;

/// A queue that has not answered by then is left out.
const QUEUE_TIME_MAX: Duration = Duration::from_secs(1);
/// As is what the catalog knows: Prometheus itself waits for ten seconds.
const CATALOG_TIME_MAX: Duration = Duration::from_secs(8);
const FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Numbers for Prometheus
#[utoipa::path(get, path = "/metrics", operation_id = "metrics", tag = "operation", responses(
    (status = 200, description = "The numbers, in Prometheus' text format", body = String, content_type = "text/plain")
))]
pub(super) async fn metrics(State(api): State<Arc<Api>>) -> Result<impl IntoResponse, Problem> {
    let text = api.metrics.get((), async {
        let dispatch = &api.parts.dispatch;
        let queue = dispatch.queue.length(&dispatch.queue_name);
        let depth = tokio::time::timeout(QUEUE_TIME_MAX, queue).await;
        let catalog = tokio::time::timeout(CATALOG_TIME_MAX, of_catalog(&api)).await;
        let catalog = match catalog {
            Ok(Ok(text)) => Some(text),
            Ok(Err(error)) => {
                let reason = explain(&error);
                tracing::warn!(reason, "The metrics are without what the catalog knows");
                None
            }
            Err(_) => {
                let reason = format!("it did not answer within {} s", CATALOG_TIME_MAX.as_secs());
                tracing::warn!(reason, "The metrics are without what the catalog knows");
                None
            }
        };
        let text = of_service(depth.ok().and_then(Result::ok), catalog.is_some());
        Ok::<_, Problem>(Arc::from(text + &catalog.unwrap_or_default()))
    });
    let text: Arc<str> = text.await?;
    Ok(([(header::CONTENT_TYPE, FORMAT)], text.to_string()))
}

/// What only the catalog knows.
async fn of_catalog(api: &Api) -> Result<String, CatalogError> {
    let catalog = &api.parts.dispatch.catalog;
    let statistics = catalog.statistics().await?;
    let mut schedules = Vec::new();
    for timetable in &api.parts.timetables {
        schedules.push((timetable.target.as_str(), timetable.look(catalog).await?));
    }
    let mut drills = Vec::new();
    for timetable in &api.parts.drills.timetables {
        drills.push((timetable.target.as_str(), timetable.look(catalog).await?));
    }
    let spent = api.parts.drills.spent(catalog).await?;
    let waiting = catalog.waiting().await?;
    let mut text = of_backups(&statistics, api.now());
    text += &of_schedules(&schedules);
    text += &of_drills(&drills, spent, api.now());
    text += &of_notifications(waiting, api.now());
    if let Some(second) = &api.parts.vault.second {
        let without = catalog.not_replicated(&second.describe()).await?;
        text += &of_copies(without, api.now());
    }
    Ok(text)
}

type Fact = fn(&LastSuccess, OffsetDateTime) -> Option<f64>;

/// What is told of each database's newest good backup.
const FACTS: [(&str, &str, Fact); 6] = [
    (
        "pgseal_last_success_timestamp_seconds",
        "When the newest good backup was complete",
        |last, _| Some(count(last.finished_at.unix_timestamp())),
    ),
    (
        "pgseal_last_success_age_seconds",
        "How long ago that was",
        |last, now| Some((now - last.finished_at).as_seconds_f64().max(0.0)),
    ),
    (
        "pgseal_last_backup_duration_seconds",
        "How long it took",
        |last, _| last.seconds,
    ),
    (
        "pgseal_last_backup_plain_bytes",
        "Bytes of its archive",
        |last, _| last.plain_bytes.map(count),
    ),
    (
        "pgseal_last_backup_sealed_bytes",
        "Bytes of its sealed object",
        |last, _| last.sealed_bytes.map(count),
    ),
    (
        "pgseal_last_proof_age_seconds",
        "How long ago a drill restored one of its good backups and found all of it",
        |last, now| Some((now - last.proven_at?).as_seconds_f64().max(0.0)),
    ),
];

fn of_service(depth: Option<u64>, has_catalog: bool) -> String {
    let mut text = Text::default();
    text.gauge("pgseal_build_info", "The version that runs");
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    text.value("pgseal_build_info", &version, 1.0);
    let up = "pgseal_catalog_up";
    text.gauge(
        up,
        "Whether the catalog answers; without it, nothing that it knows is here",
    );
    text.value(up, &[], whether(has_catalog));
    let absent = "Jobs that wait in the queue; absent where Redis does not answer";
    text.gauge("pgseal_queue_jobs", absent);
    if let Some(depth) = depth {
        let depth = count(i64::try_from(depth).unwrap_or(i64::MAX));
        text.value("pgseal_queue_jobs", &[], depth);
    }
    text.0
}

fn of_backups(statistics: &Statistics, now: OffsetDateTime) -> String {
    let mut text = Text::default();
    for (name, help, fact) in FACTS {
        text.gauge(name, help);
        for last in &statistics.last_successes {
            if let Some(value) = fact(last, now) {
                let database = last.database.as_deref().unwrap_or_default();
                let labels = [("target", last.target.as_str()), ("database", database)];
                text.value(name, &labels, value);
            }
        }
    }
    counts(&mut text, statistics);
    text.0
}

fn of_schedules(schedules: &[(&str, Outlook)]) -> String {
    let mut text = Text::default();
    if schedules.is_empty() {
        return text.0;
    }
    let overdue = "pgseal_backup_overdue";
    text.gauge(overdue, "Whether a backup that was due is not complete");
    for (target, outlook) in schedules {
        let is_overdue = whether(outlook.overdue.is_some());
        text.value(overdue, &[("target", target)], is_overdue);
    }
    let next = "pgseal_backup_next_timestamp_seconds";
    text.gauge(next, "When the next backup is due");
    for (target, outlook) in schedules {
        if let Some(slot) = outlook.next_slot {
            text.value(next, &[("target", target)], count(slot.unix_timestamp()));
        }
    }
    text.0
}

/// What is told of each target's drills.
type DrillFact = fn(&DrillOutlook, OffsetDateTime) -> Option<f64>;

const DRILL_FACTS: [(&str, &str, DrillFact); 4] = [
    (
        "pgseal_proof_age_seconds",
        "How long ago a drill proved a backup of the target; absent where none ever did",
        |outlook, now| Some((now - outlook.last_proof?).as_seconds_f64().max(0.0)),
    ),
    (
        "pgseal_proof_overdue",
        "Whether that is too long ago",
        |outlook, _| Some(whether(outlook.is_overdue)),
    ),
    (
        "pgseal_drill_next_timestamp_seconds",
        "When the next drill is due",
        |outlook, _| Some(count(outlook.next_slot?.unix_timestamp())),
    ),
    (
        "pgseal_drill_over_budget",
        "Whether the drill that was due last would fetch more than the month has left",
        |outlook, _| Some(whether(outlook.state.as_deref() == Some("over budget"))),
    ),
];

fn of_drills(drills: &[(&str, DrillOutlook)], spent: Option<Spent>, now: OffsetDateTime) -> String {
    let mut text = Text::default();
    for (name, help, fact) in DRILL_FACTS.iter().filter(|_| !drills.is_empty()) {
        text.gauge(name, help);
        for (target, outlook) in drills {
            if let Some(value) = fact(outlook, now) {
                text.value(name, &[("target", target)], value);
            }
        }
    }
    let Some(spent) = spent else { return text.0 };
    let left = spent.bytes_max.saturating_sub(spent.bytes);
    for (name, help, bytes) in [
        (
            "pgseal_drill_used_bytes",
            "Bytes that drills fetched this month",
            spent.bytes,
        ),
        (
            "pgseal_drill_left_bytes",
            "Bytes that they may still fetch this month",
            left,
        ),
    ] {
        text.gauge(name, help);
        text.value(name, &[], count(i64::try_from(bytes).unwrap_or(i64::MAX)));
    }
    text.0
}

/// Told only where there is a second store.
fn of_copies((without, oldest): (i64, Option<OffsetDateTime>), now: OffsetDateTime) -> String {
    let mut text = Text::default();
    let name = "pgseal_backups_not_replicated";
    text.gauge(
        name,
        "Complete backups that are not in both stores, each confirmed",
    );
    text.value(name, &[], count(without));
    let age = "pgseal_not_replicated_age_seconds";
    text.gauge(age, "How long ago the oldest of them was complete");
    if let Some(oldest) = oldest {
        text.value(age, &[], (now - oldest).as_seconds_f64().max(0.0));
    }
    text.0
}

fn of_notifications(waiting: Waiting, now: OffsetDateTime) -> String {
    let mut text = Text::default();
    let name = "pgseal_notifications_waiting";
    text.gauge(name, "Notifications that some channel has not taken yet");
    let number = i64::try_from(waiting.deliveries).unwrap_or(i64::MAX);
    text.value(name, &[], count(number));
    let name = "pgseal_notifications_oldest_age_seconds";
    text.gauge(name, "How old the oldest of them is; 0 where none waits");
    let age = waiting.oldest.map_or(0.0, |at| (now - at).as_seconds_f64());
    text.value(name, &[], age.max(0.0));
    text.0
}

const fn whether(so: bool) -> f64 {
    if so { 1.0 } else { 0.0 }
}

fn counts(text: &mut Text, statistics: &Statistics) {
    let lists = [
        (
            "pgseal_backups",
            "Backups in the catalog",
            "status",
            &statistics.backups,
        ),
        (
            "pgseal_restores",
            "Restores in the catalog",
            "status",
            &statistics.restores,
        ),
        (
            "pgseal_backup_failures",
            "Backups in the catalog that failed",
            "stage",
            &statistics.failures,
        ),
    ];
    for (name, help, label, list) in lists {
        text.gauge(name, help);
        for (word, number) in list {
            text.value(name, &[(label, word)], count(*number));
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus has doubles alone")]
const fn count(number: i64) -> f64 {
    number as f64
}

/// <https://prometheus.io/docs/instrumenting/exposition_formats/>
#[derive(Default)]
struct Text(String);

impl Text {
    fn gauge(&mut self, name: &str, help: &str) {
        self.0
            .push_str(&format!("# HELP {name} {help}.\n# TYPE {name} gauge\n"));
    }

    fn value(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let labels: Vec<String> = labels
            .iter()
            .map(|(label, value)| {
                let value = value
                    .replace('\\', "\\\\")
                    .replace('"', "\\\"")
                    .replace('\n', "\\n");
                format!("{label}=\"{value}\"")
            })
            .collect();
        let labels = if labels.is_empty() {
            String::new()
        } else {
            format!("{{{}}}", labels.join(","))
        };
        self.0.push_str(&format!("{name}{labels} {value}\n"));
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn odd_names_stay_inside_their_quotes() {
        let statistics = Statistics {
            last_successes: vec![LastSuccess {
                target: "default".to_owned(),
                database: Some("a\"b\\c\nd".to_owned()),
                finished_at: datetime!(2026-11-25 05:00 UTC),
                seconds: None,
                plain_bytes: Some(7),
                sealed_bytes: None,
                proven_at: None,
            }],
            failures: vec![("dump".to_owned(), 2)],
            ..Statistics::default()
        };
        let text =
            of_service(None, true) + &of_backups(&statistics, datetime!(2026-11-25 05:01 UTC));
        let age = r#"pgseal_last_success_age_seconds{target="default",database="a\"b\\c\nd"} 60"#;
        assert!(text.lines().any(|line| line == age), "{text}");
        assert!(
            text.contains("pgseal_backup_failures{stage=\"dump\"} 2\n"),
            "{text}"
        );
        assert!(!text.contains("\npgseal_queue_jobs "), "{text}");
        for line in text.lines() {
            assert!(
                line.starts_with("# ") || line.starts_with("pgseal_"),
                "{line}"
            );
        }
    }
}
