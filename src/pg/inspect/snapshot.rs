//! The snapshot that the dump and the counts share, opened behind the locks of the tables that it shows.
//!
//! Locks first, then the snapshot: TRUNCATE and ALTER TABLE do not keep older snapshots whole, so that a table must not be
//! changed between the snapshot and pg_dump's own lock. And counting must not have to ask for a lock later: it would wait
//! behind whoever waits for pg_dump's end, and then count what that one has left (measured: 60,000 rows became 0).

use std::collections::BTreeSet;
use std::time::Duration;

use sqlx::Row as _;
use sqlx::postgres::types::Oid;

use super::counts::{Table, tables};
use super::session::Session;
use crate::pg::error::{Blocker, PgError};

/// `lock_not_available`, and what a deadlock, a table or a schema that was dropped meanwhile are called: all of them pass.
const PASSING: [&str; 4] = ["55P03", "40P01", "42P01", "3F000"];
/// So many sessions stand in an error; who ends these sees the others next time.
const BLOCKERS_MAX: usize = 5;

/// Locks every table against changes of its form and against TRUNCATE, exports the snapshot, and returns its id. Both live
/// as long as the session.
///
/// # Errors
/// [`PgError::Locked`]: `wait` was not long enough; else the server refuses.
pub async fn open_snapshot(session: &mut Session, wait: Duration) -> Result<String, PgError> {
    let listed = tables(session).await?;
    let readable = readable(session, &listed).await?;
    let names: Vec<String> = listed
        .iter()
        .filter(|table| readable.contains(&table.oid))
        .map(Table::sql_name)
        .collect();
    session
        .run(
            "open the snapshot",
            "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",
        )
        .await?;
    if !names.is_empty() {
        // 0 would be for ever.
        let wait_ms = wait.as_millis().max(1);
        let only: Vec<String> = names.iter().map(|name| format!("ONLY {name}")).collect();
        let sql = format!(
            "SET LOCAL lock_timeout = {wait_ms}; LOCK TABLE {} IN ACCESS SHARE MODE; SET LOCAL lock_timeout = 0",
            only.join(", ")
        );
        if let Err(error) = session.run("lock the tables", &sql).await {
            return Err(if passes(&error) {
                session.run("end the transaction", "ROLLBACK").await?;
                PgError::Locked(blockers(session).await?)
            } else {
                error
            });
        }
    }
    session
        .value(
            "export the snapshot",
            "SELECT pg_catalog.pg_export_snapshot()",
        )
        .await
}

/// Those that the role may read: an extension may keep a table of its own from everybody, and pg_dump leaves it alone.
async fn readable(session: &mut Session, tables: &[Table]) -> Result<BTreeSet<u32>, PgError> {
    let doing = "look which tables are readable";
    let sql = "SELECT c.oid FROM pg_catalog.pg_class c WHERE c.oid = ANY ($1) \
        AND pg_catalog.has_schema_privilege(c.relnamespace, 'USAGE') AND pg_catalog.has_table_privilege(c.oid, 'SELECT')";
    let oids: Vec<Oid> = tables.iter().map(|table| Oid(table.oid)).collect();
    let rows = sqlx::query(sql)
        .persistent(false)
        .bind(oids)
        .fetch_all(&mut session.inner)
        .await;
    let read = |row: &sqlx::postgres::PgRow| row.try_get::<Oid, _>(0).map(|oid| oid.0);
    rows.and_then(|rows| rows.iter().map(read).collect())
        .map_err(|source| PgError::Query { doing, source })
}

fn passes(error: &PgError) -> bool {
    let PgError::Query {
        source: sqlx::Error::Database(error),
        ..
    } = error
    else {
        return false;
    };
    error.code().is_some_and(|code| PASSING.contains(&&*code))
}

/// Who keeps tables of this database from being read: who has one exclusively, who waits for that, and whom he waits for.
///
/// # Errors
/// The server refuses.
pub async fn blockers(session: &mut Session) -> Result<Vec<Blocker>, PgError> {
    let doing = "ask who blocks the tables";
    let sql = format!(
        "WITH exclusive AS (SELECT relation, pid, granted FROM pg_catalog.pg_locks \
            WHERE locktype = 'relation' AND mode = 'AccessExclusiveLock' AND database = \
                (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())), \
        blocking AS (SELECT relation, pid FROM exclusive WHERE granted \
            UNION SELECT relation, pid FROM exclusive WHERE NOT granted \
            UNION SELECT relation, pg_catalog.unnest(pg_catalog.pg_blocking_pids(pid)) FROM exclusive WHERE NOT granted) \
        SELECT b.relation::pg_catalog.regclass::text, b.pid, coalesce(a.usename::text, ''), \
            coalesce(a.application_name, ''), coalesce(a.state, '') \
        FROM blocking b LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = b.pid \
        WHERE b.pid <> pg_catalog.pg_backend_pid() ORDER BY a.xact_start, b.pid, 1 LIMIT {BLOCKERS_MAX}"
    );
    let read = |row: &sqlx::postgres::PgRow| -> Result<Blocker, sqlx::Error> {
        Ok(Blocker {
            table: row.try_get(0)?,
            pid: row.try_get(1)?,
            role: row.try_get(2)?,
            application: row.try_get(3)?,
            state: row.try_get(4)?,
        })
    };
    let rows = session.rows(doing, &sql).await?;
    rows.iter()
        .map(read)
        .collect::<Result<_, _>>()
        .map_err(|source| PgError::Query { doing, source })
}
