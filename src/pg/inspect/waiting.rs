//! Who keeps a load waiting: pg_restore takes `lock_timeout` back, so another session has to look.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sqlx::Row as _;

use super::session::Session;
use crate::model::connection::Connection;
use crate::pg::error::{Blocker, PgError};

/// How often it is looked.
const PAUSE: Duration = Duration::from_millis(250);

/// How long a session that was told to end may take.
const END_TRIES: u32 = 40;

/// A load that is being watched: its name among the sessions, and its transaction once it has one.
pub struct Watched {
    name: String,
    xid: AtomicU64,
}

impl Watched {
    /// A load that runs under a name of its own, so that nobody else's session is taken for it.
    #[must_use]
    pub const fn new(name: String) -> Self {
        Self {
            name,
            xid: AtomicU64::new(0),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Looks, until a load into `to` has waited for one lock after another for `wait_max`: who holds them. It never returns
/// while the load goes on.
///
/// # Errors
/// The server cannot be asked.
pub async fn until_blocked(
    to: &Connection,
    load: &Watched,
    wait_max: Duration,
) -> Result<Vec<Blocker>, PgError> {
    let mut session = Session::connect(to).await?;
    let mut waiting = None;
    loop {
        note_transaction(&mut session, load).await?;
        let blockers = blockers(&mut session, &load.name).await?;
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

/// The session's transaction, from which it can be told later whether it was committed.
async fn note_transaction(session: &mut Session, load: &Watched) -> Result<(), PgError> {
    const SQL: &str = "SELECT backend_xid::text::bigint FROM pg_catalog.pg_stat_activity \
        WHERE application_name = $1 AND usename = session_user AND backend_xid IS NOT NULL LIMIT 1";
    let doing = "look at the load's transaction";
    let found: Result<Option<i64>, _> = sqlx::query_scalar(SQL)
        .persistent(false)
        .bind(&load.name)
        .fetch_optional(&mut session.inner)
        .await;
    let found = found.map_err(|source| PgError::Query { doing, source })?;
    if let Some(xid) = found.and_then(|xid| u64::try_from(xid).ok()) {
        load.xid.store(xid, Ordering::Relaxed);
    }
    Ok(())
}

/// Ends the session of a load whose pg_restore is gone: a server does not notice that while it waits for a lock or builds an
/// index, and would keep its locks. Whether the transaction was committed all the same; `None`: that is not known.
///
/// # Errors
/// The server cannot be asked, or the session does not end.
pub async fn end_load(to: &Connection, load: &Watched) -> Result<Option<bool>, PgError> {
    const END: &str = "SELECT count(pg_catalog.pg_terminate_backend(pid)) FROM pg_catalog.pg_stat_activity \
        WHERE application_name = $1 AND usename = session_user AND pid <> pg_catalog.pg_backend_pid()";
    let doing = "end the session of the load";
    let mut session = Session::connect(to).await?;
    for attempt in 1..=END_TRIES {
        note_transaction(&mut session, load).await?;
        let left: Result<i64, _> = sqlx::query_scalar(END)
            .persistent(false)
            .bind(&load.name)
            .fetch_one(&mut session.inner)
            .await;
        match left {
            Ok(0) => break,
            Err(source) if attempt == END_TRIES => return Err(PgError::Query { doing, source }),
            _ => tokio::time::sleep(PAUSE).await,
        }
    }
    let committed = was_committed(&mut session, load.xid.load(Ordering::Relaxed)).await;
    session.close().await;
    Ok(committed)
}

/// `pg_xact_status` wants the number with its epoch, which is the current one, or the one before it.
async fn was_committed(session: &mut Session, xid: u64) -> Option<bool> {
    const SQL: &str = "SELECT pg_catalog.pg_xact_status((CASE WHEN o.x > n.next THEN o.x - 4294967296 ELSE o.x END)::text::xid8) \
        FROM (SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::bigint AS next) n, \
            LATERAL (SELECT (n.next / 4294967296) * 4294967296 + $1::bigint AS x) o";
    if xid == 0 {
        return None;
    }
    let status: Result<Option<String>, _> = sqlx::query_scalar(SQL)
        .persistent(false)
        .bind(i64::try_from(xid).ok()?)
        .fetch_one(&mut session.inner)
        .await;
    match status.ok().flatten().as_deref() {
        Some("committed") => Some(true),
        Some("aborted") => Some(false),
        // It is still going on, or too old for the server to know.
        _ => None,
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
