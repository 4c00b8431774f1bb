//! Who keeps a load waiting: pg_restore takes `lock_timeout` back, so another session has to look.

use std::time::Duration;

use sqlx::Row as _;

use super::session::Session;
use crate::model::connection::Connection;
use crate::pg::error::{Blocker, PgError};

/// How often it is looked.
const PAUSE: Duration = Duration::from_millis(250);

/// Looks, until a load into `to` has waited for one lock after another for `wait_max`: who holds them. It never returns
/// while the load goes on.
///
/// # Errors
/// The server cannot be asked.
pub async fn until_blocked(to: &Connection, wait_max: Duration) -> Result<Vec<Blocker>, PgError> {
    let mut session = Session::connect(to).await?;
    let name = to.setting("application_name").unwrap_or("pg_restore");
    let mut waiting = None;
    loop {
        let blockers = blockers(&mut session, name).await?;
        if blockers.is_empty() {
            waiting = None;
        } else {
            let since = *waiting.get_or_insert_with(tokio::time::Instant::now);
            if since.elapsed() >= wait_max {
                session.close().await;
                return Ok(blockers);
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn blockers(session: &mut Session, application: &str) -> Result<Vec<Blocker>, PgError> {
    const SQL: &str = "SELECT coalesce((SELECT l.relation::pg_catalog.regclass::text FROM pg_catalog.pg_locks l \
                WHERE l.pid = w.pid AND NOT l.granted AND l.relation IS NOT NULL LIMIT 1), 'an object'), \
            b.pid, coalesce(b.usename::text, ''), coalesce(b.application_name, ''), coalesce(b.state, '') \
        FROM pg_catalog.pg_stat_activity w, LATERAL pg_catalog.unnest(pg_catalog.pg_blocking_pids(w.pid)) k(pid) \
        LEFT JOIN pg_catalog.pg_stat_activity b ON b.pid = k.pid \
        WHERE w.datname = pg_catalog.current_database() AND w.application_name = $1 AND w.usename = session_user \
            AND b.pid IS NOT NULL AND w.wait_event_type = 'Lock' ORDER BY b.xact_start, b.pid LIMIT 5";
    let read = |row: &sqlx::postgres::PgRow| -> Result<Blocker, sqlx::Error> {
        Ok(Blocker {
            table: row.try_get(0)?,
            pid: row.try_get(1)?,
            role: row.try_get(2)?,
            application: row.try_get(3)?,
            state: row.try_get(4)?,
        })
    };
    let rows = sqlx::query(SQL)
        .persistent(false)
        .bind(application)
        .fetch_all(&mut session.inner)
        .await;
    rows.and_then(|rows| rows.iter().map(read).collect())
        .map_err(|source| PgError::Query {
            doing: "look who blocks the load",
            source,
        })
}
