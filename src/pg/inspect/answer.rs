//! An answer that was lost: the connection ended while a statement was under way, and nobody said what became of it.
//!
//! The server may still be at it: a process notices that its client is gone only when it writes to it. So the process is
//! ended first, and only once it is gone what it did is settled, and can be looked at.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::Row as _;

use super::session::Session;
use crate::model::connection::Connection;
use crate::pg::error::PgError;

/// A server that went away is asked so often, once a second, before it is said that nobody knows.
pub const ANSWER_TRIES: u32 = 15;

/// A server process that was told to end may take so long, in steps of [`PAUSE`].
const END_TRIES: u32 = 40;
const PAUSE: Duration = Duration::from_millis(250);

/// The server's process of a session, told from a later one with the same number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    pid: i32,
    started: String,
}

impl Backend {
    /// That of a session.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn of(session: &mut Session) -> Result<Self, PgError> {
        let doing = "look at the session's server process";
        let sql = "SELECT pid, extract(epoch FROM backend_start)::text FROM pg_catalog.pg_stat_activity \
            WHERE pid = pg_catalog.pg_backend_pid()";
        let rows = session.rows(doing, sql).await?;
        let read = |row: &sqlx::postgres::PgRow| -> Result<Self, sqlx::Error> {
            Ok(Self {
                pid: row.try_get(0)?,
                started: row.try_get(1)?,
            })
        };
        let row = rows.first().ok_or(sqlx::Error::RowNotFound).and_then(read);
        row.map_err(|source| PgError::Query { doing, source })
    }

    /// Ends it by another session, and waits until it is gone.
    ///
    /// # Errors
    /// The server cannot be asked, or the process does not end.
    pub async fn end(&self, by: &mut Session) -> Result<(), PgError> {
        const END: &str = "SELECT count(pg_catalog.pg_terminate_backend(pid)) FROM pg_catalog.pg_stat_activity \
            WHERE pid = $1 AND extract(epoch FROM backend_start)::text = $2 AND pid <> pg_catalog.pg_backend_pid()";
        let doing = "end the server process of a lost session";
        for _ in 0..END_TRIES {
            let left: Result<i64, _> = sqlx::query_scalar(END)
                .persistent(false)
                .bind(self.pid)
                .bind(&self.started)
                .fetch_one(&mut by.inner)
                .await;
            if left.map_err(|source| PgError::Query { doing, source })? == 0 {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(PgError::Query {
            doing,
            source: sqlx::Error::WorkerCrashed,
        })
    }

    /// A new session with the same server, once this process is gone.
    ///
    /// # Errors
    /// The server does not answer.
    pub(super) async fn settled(&self, connection: &Connection) -> Result<Session, PgError> {
        let mut tries = 1;
        loop {
            let error = match self.try_to_settle(connection).await {
                Ok(session) => return Ok(session),
                Err(error) => error,
            };
            if tries == ANSWER_TRIES {
                return Err(error);
            }
            tracing::debug!(%error, "the server does not say yet what became of a statement");
            tries += 1;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    async fn try_to_settle(&self, connection: &Connection) -> Result<Session, PgError> {
        let mut session = Session::connect(connection).await?;
        self.end(&mut session).await?;
        Ok(session)
    }
}

/// What a load replaces of a database, by schema and name, each with its object id: a table that was dropped and made anew
/// has another one.
pub type Relations = BTreeMap<(String, String), u32>;

/// The tables, views and sequences of the session's database.
///
/// # Errors
/// The server refuses.
pub async fn relations(session: &mut Session) -> Result<Relations, PgError> {
    let doing = "look at the database's tables";
    let sql = "SELECT n.nspname::text, c.relname::text, c.oid FROM pg_catalog.pg_class c \
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
        WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'";
    let rows = session.rows(doing, sql).await?;
    let read = |row: &sqlx::postgres::PgRow| -> Result<((String, String), u32), sqlx::Error> {
        let oid: sqlx::postgres::types::Oid = row.try_get(2)?;
        Ok(((row.try_get(0)?, row.try_get(1)?), oid.0))
    };
    rows.iter()
        .map(read)
        .collect::<Result<_, _>>()
        .map_err(|source| PgError::Query { doing, source })
}
