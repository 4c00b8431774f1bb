//! The outbox: events that the schema's triggers wrote beside what they tell of, and their deliveries.
//!
//! An event is told at least once. A delivery is leased while it is sent, so that no two workers send it at once; one
//! that died between sending and recording leaves it to be sent again, under the same id.

use std::time::Duration;

use sqlx::postgres::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Catalog, CatalogError, seconds};
use crate::model::event::{Event, EventKind, Facts};
use crate::model::ids::Uid;

/// So many events are routed in one transaction.
const EVENTS_AT_ONCE: i64 = 100;
/// The pauses between two tries: the first, doubled each time up to the last.
const PAUSE_FIRST: Duration = Duration::from_secs(10);
const PAUSE_MAX: Duration = Duration::from_secs(60 * 60);
/// What cannot be delivered within three days, a long weekend, is old news; it stays in the list of what was given up.
const GIVE_UP_AFTER: Duration = Duration::from_secs(3 * 24 * 60 * 60);
/// How long an event is remembered.
const REMEMBERED_FOR: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// A channel that an event is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The channel's name.
    pub channel: String,
    /// Whether older events of the same target that it has not sent yet mean nothing any more: of a state, only the
    /// newest counts.
    pub supersedes: bool,
}

/// An event that a worker is to send now.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// What.
    pub event: Event,
    /// By which channel.
    pub channel: String,
    /// Which try it is, from 1 on.
    pub attempt: u32,
    /// What fences.
    token: Uuid,
}

/// What becomes of a delivery that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// It is tried again.
    Again,
    /// It was tried for days.
    GivenUp,
    /// It is another worker's by now, or was superseded.
    Lost,
}

/// How much is not told yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Deliveries that are not made.
    pub deliveries: u64,
    /// When the oldest of their events happened.
    pub oldest: Option<OffsetDateTime>,
}

/// A delivery that was not made yet, or never will be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undelivered {
    /// The event.
    pub event_id: Uid,
    /// When it happened.
    pub at: OffsetDateTime,
    /// What.
    pub kind: String,
    /// To which target.
    pub target: String,
    /// By which channel it was to be told.
    pub channel: String,
    /// `waiting` or `given up`.
    pub status: String,
    /// How often it was tried.
    pub attempts: u32,
    /// When it is tried again.
    pub next_at: Option<OffsetDateTime>,
    /// Why the last try failed.
    pub error: Option<String>,
}

impl Catalog {
    /// Records an event and a delivery for each of its routes, for whoever knows both: workers see to the rest.
    ///
    /// # Errors
    /// The catalog fails; then nobody is told by it.
    pub async fn tell_by(
        &self,
        told: &Event,
        routes: impl IntoIterator<Item = Route>,
    ) -> Result<(), CatalogError> {
        let doing = "record an event for its channels";
        let mut transaction = self.begin(doing).await?;
        let row = sqlx::query!(
            "INSERT INTO pgseal.events (id, kind, target, facts, routed_at) VALUES ($1, $2, $3, $4, clock_timestamp()) \
             RETURNING at",
            Uuid::from(told.id),
            told.kind.as_str(),
            told.target,
            serde_json::json!(told.facts)
        );
        let row = row.fetch_one(&mut *transaction).await;
        let at = row.map_err(self.failed(doing))?.at;
        let event = Event { at, ..told.clone() };
        for route in routes {
            insert(&mut transaction, &event, route)
                .await
                .map_err(self.failed(doing))?;
        }
        transaction.commit().await.map_err(self.failed(doing))
    }

    /// How much is not told yet, and since when.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn waiting(&self) -> Result<Waiting, CatalogError> {
        let doing = "count the notifications that wait";
        let mut session = self.session(doing).await?;
        let row = sqlx::query!(
            r#"SELECT count(*) AS "deliveries!", min(e.at) AS oldest
            FROM pgseal.deliveries d JOIN pgseal.events e ON e.id = d.event_id WHERE d.status = 'waiting'"#
        );
        let row = row.fetch_one(&mut *session).await;
        let row = row.map_err(self.failed(doing))?;
        Ok(Waiting {
            deliveries: row.deliveries.unsigned_abs(),
            oldest: row.oldest,
        })
    }

    /// Makes a delivery of each new event for each of its routes. How many events there were.
    ///
    /// # Errors
    /// The catalog fails; then the events are as new as before.
    pub async fn route_events(
        &self,
        routes: impl Fn(&Event) -> Vec<Route>,
    ) -> Result<usize, CatalogError> {
        let doing = "route the new events";
        let mut transaction = self.begin(doing).await?;
        let rows = sqlx::query!(
            "UPDATE pgseal.events e SET routed_at = clock_timestamp() \
             FROM (SELECT id FROM pgseal.events WHERE routed_at IS NULL ORDER BY at LIMIT $1 FOR UPDATE SKIP LOCKED) n \
             WHERE e.id = n.id RETURNING e.id, e.at, e.kind, e.target, e.facts",
            EVENTS_AT_ONCE
        );
        let rows = rows.fetch_all(&mut *transaction).await;
        let mut rows = rows.map_err(self.failed(doing))?;
        rows.sort_by_key(|row| row.at);
        let routed = rows.len();
        for row in rows {
            // One of a later version's kind is told by whoever knows it, or by nobody.
            let Some(event) = event(row.id, row.at, &row.kind, row.target, row.facts) else {
                tracing::warn!(event.id = %row.id, event.kind = row.kind, "An event is not known here");
                continue;
            };
            for route in routes(&event) {
                insert(&mut transaction, &event, route)
                    .await
                    .map_err(self.failed(doing))?;
            }
        }
        transaction.commit().await.map_err(self.failed(doing))?;
        Ok(routed)
    }

    /// Takes the next delivery of a channel that is due, for `lease`.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn claim_delivery(
        &self,
        channel: &str,
        lease: Duration,
    ) -> Result<Option<Delivery>, CatalogError> {
        let doing = "take a notification to send";
        let mut session = self.session(doing).await?;
        let row = sqlx::query!(
            r#"UPDATE pgseal.deliveries d SET attempts = d.attempts + 1, lease_token = gen_random_uuid(),
                lease_until = clock_timestamp() + make_interval(secs => $2)
            FROM (SELECT event_id, channel FROM pgseal.deliveries WHERE channel = $1 AND status = 'waiting'
                    AND next_at <= clock_timestamp() AND (lease_until IS NULL OR lease_until <= clock_timestamp())
                ORDER BY next_at LIMIT 1 FOR UPDATE SKIP LOCKED) n, pgseal.events e
            WHERE (d.event_id, d.channel) = (n.event_id, n.channel) AND e.id = d.event_id
            RETURNING d.lease_token AS "token!", d.attempts, e.id, e.at, e.kind, e.target, e.facts"#,
            channel,
            seconds(lease),
        );
        let row = row.fetch_optional(&mut *session).await;
        let Some(row) = row.map_err(self.failed(doing))? else {
            return Ok(None);
        };
        let delivery =
            event(row.id, row.at, &row.kind, row.target, row.facts).map(|event| Delivery {
                event,
                channel: channel.to_owned(),
                attempt: row.attempts.unsigned_abs(),
                token: row.token,
            });
        Ok(delivery)
    }

    /// Records that a delivery was made. `false`: it is another worker's by now, which makes it once more.
    ///
    /// # Errors
    /// The catalog fails; the delivery is then made once more when its lease has passed.
    pub async fn delivered(&self, delivery: &Delivery) -> Result<bool, CatalogError> {
        let doing = "record a notification that was sent";
        let mut session = self.session(doing).await?;
        let updated = sqlx::query!(
            "UPDATE pgseal.deliveries SET status = 'sent', ended_at = clock_timestamp(), error = NULL, \
                lease_token = NULL, lease_until = NULL \
             WHERE event_id = $1 AND channel = $2 AND status = 'waiting' AND lease_token = $3",
            Uuid::from(delivery.event.id),
            delivery.channel,
            delivery.token,
        );
        let updated = updated.execute(&mut *session).await;
        Ok(updated.map_err(self.failed(doing))?.rows_affected() > 0)
    }

    /// Records that a delivery failed, and when it is tried again.
    ///
    /// # Errors
    /// The catalog fails; the delivery is then tried again when its lease has passed.
    pub async fn not_delivered(
        &self,
        delivery: &Delivery,
        error: &str,
    ) -> Result<Failed, CatalogError> {
        let doing = "record a notification that could not be sent";
        let mut session = self.session(doing).await?;
        let status = sqlx::query_scalar!(
            "UPDATE pgseal.deliveries d SET status = n.status, error = $4, lease_token = NULL, lease_until = NULL, \
                next_at = clock_timestamp() + make_interval(secs => $5), \
                ended_at = CASE n.status WHEN 'waiting' THEN NULL ELSE clock_timestamp() END \
             FROM (SELECT id, CASE WHEN at + make_interval(secs => $6) <= clock_timestamp() THEN 'given up' ELSE 'waiting' END \
                AS status FROM pgseal.events WHERE id = $1) n \
             WHERE d.event_id = n.id AND d.channel = $2 AND d.status = 'waiting' AND d.lease_token = $3 RETURNING d.status",
            Uuid::from(delivery.event.id),
            delivery.channel,
            delivery.token,
            error,
            seconds(pause(delivery.attempt)),
            seconds(GIVE_UP_AFTER),
        );
        let status = status.fetch_optional(&mut *session).await;
        Ok(match status.map_err(self.failed(doing))?.as_deref() {
            None => Failed::Lost,
            Some("waiting") => Failed::Again,
            Some(_) => Failed::GivenUp,
        })
    }

    /// What waits to be told, or was given up: the newest first.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn undelivered(&self, limit: u32) -> Result<Vec<Undelivered>, CatalogError> {
        let doing = "read the notifications that were not sent";
        let mut session = self.session(doing).await?;
        let rows = sqlx::query!(
            r#"SELECT e.id, e.at, e.kind, e.target, d.channel, d.status, d.attempts, d.error,
                CASE d.status WHEN 'waiting' THEN d.next_at END AS next_at
            FROM pgseal.deliveries d JOIN pgseal.events e ON e.id = d.event_id
            WHERE d.status IN ('waiting', 'given up') ORDER BY e.at DESC, d.channel LIMIT $1"#,
            i64::from(limit)
        );
        let rows = rows.fetch_all(&mut *session).await;
        let rows = rows.map_err(self.failed(doing))?.into_iter();
        let undelivered = rows.map(|row| Undelivered {
            event_id: Uid::from(row.id),
            at: row.at,
            kind: row.kind,
            target: row.target,
            channel: row.channel,
            status: row.status,
            attempts: row.attempts.unsigned_abs(),
            next_at: row.next_at,
            error: row.error,
        });
        Ok(undelivered.collect())
    }

    /// Gives up what waits too long for a channel that no worker has any more, and forgets what is months old.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn clean_outbox(&self) -> Result<(), CatalogError> {
        let doing = "clean the outbox";
        let mut session = self.session(doing).await?;
        // Twice as long as anybody tries: whoever has the channel gives it up itself, with the reason.
        let given_up = sqlx::query!(
            "UPDATE pgseal.deliveries d SET status = 'given up', ended_at = clock_timestamp(), lease_token = NULL, \
                lease_until = NULL, error = coalesce(d.error, 'no worker has this channel') \
             FROM pgseal.events e WHERE e.id = d.event_id AND d.status = 'waiting' \
                AND e.at + make_interval(secs => $1) <= clock_timestamp()",
            seconds(GIVE_UP_AFTER * 2)
        );
        let given_up = given_up.execute(&mut *session).await;
        given_up.map_err(self.failed(doing))?;
        let forgotten = sqlx::query!(
            "DELETE FROM pgseal.events WHERE at + make_interval(secs => $1) <= clock_timestamp()",
            seconds(REMEMBERED_FOR)
        );
        let forgotten = forgotten.execute(&mut *session).await;
        forgotten.map(drop).map_err(self.failed(doing))
    }
}

/// What was told is not told again while both are so.
#[derive(Clone, Copy, Debug)]
pub(super) struct OnceSince {
    /// It was told within this time.
    pub(super) within: Duration,
    /// And after this moment, where one is named: what was told before it is another story.
    pub(super) moment: Option<OffsetDateTime>,
}

/// Records an event that no row's change of state tells, in the transaction of the change that it tells of. `once_since`: not
/// where the target has had the same kind since then. Whether it was recorded.
pub(super) async fn tell_in(
    session: &mut PgConnection,
    kind: EventKind,
    target: &str,
    facts: &Facts,
    once_since: Option<OnceSince>,
) -> Result<bool, sqlx::Error> {
    // Two that find the same at once take turns, and the second one sees what the first one wrote.
    sqlx::query!(
        "SELECT pg_advisory_xact_lock(hashtextextended($1 || ' ' || $2, 0))",
        kind.as_str(),
        target
    )
    .fetch_one(&mut *session)
    .await?;
    let inserted = sqlx::query!(
        "INSERT INTO pgseal.events (kind, target, facts) SELECT $1, $2, $3 \
         WHERE NOT EXISTS (SELECT FROM pgseal.events WHERE kind = $1 AND target = $2 \
            AND at > greatest(clock_timestamp() - make_interval(secs => $4), $5::timestamptz))",
        kind.as_str(),
        target,
        serde_json::json!(facts),
        once_since.map_or(0.0, |once| seconds(once.within)),
        once_since.and_then(|once| once.moment),
    );
    Ok(inserted.execute(session).await?.rows_affected() > 0)
}

async fn insert(
    session: &mut PgConnection,
    event: &Event,
    route: Route,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO pgseal.deliveries (event_id, channel) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        Uuid::from(event.id),
        route.channel
    )
    .execute(&mut *session)
    .await?;
    if route.supersedes {
        // Whoever sends an older one at this moment finds its lease gone, and does not try again.
        sqlx::query!(
            "UPDATE pgseal.deliveries d SET status = 'superseded', ended_at = clock_timestamp(), lease_token = NULL, \
                lease_until = NULL \
             FROM pgseal.events e WHERE e.id = d.event_id AND d.channel = $1 AND d.status = 'waiting' \
                AND e.target = $2 AND e.at < $3",
            route.channel,
            event.target,
            event.at
        )
        .execute(session)
        .await?;
    }
    Ok(())
}

fn event(
    id: Uuid,
    at: OffsetDateTime,
    kind: &str,
    target: String,
    facts: serde_json::Value,
) -> Option<Event> {
    Some(Event {
        id: Uid::from(id),
        at,
        kind: EventKind::parse(kind)?,
        target,
        facts: serde_json::from_value(facts).ok()?,
    })
}

/// How long after so many tries the next one is made.
fn pause(attempts: u32) -> Duration {
    let doublings = attempts.saturating_sub(1).min(16);
    (PAUSE_FIRST * 2_u32.pow(doublings)).min(PAUSE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_an_hour() {
        let pauses = [1, 2, 3, 9, 10, u32::MAX].map(|tries| pause(tries).as_secs());
        assert_eq!(pauses, [10, 20, 40, 2560, 3600, 3600]);
    }
}
