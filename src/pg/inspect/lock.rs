//! The lock that keeps a second backup or restore of one database off.
//!
//! Advisory locks belong to a database, and a session inside the target would stand in a restore's way; so the lock is
//! taken in database `postgres` (else `template1`), keyed by the target's name. The key names the server too, by
//! being on it.

use std::time::Duration;

use sqlx::Row as _;

use super::answer::Backend;
use super::preflight::require_unpooled;
use super::session::Session;
use crate::model::connection::Connection;
use crate::pg::error::PgError;

/// So often the lock is asked for while it is held, and so long the answer may take.
const LOOK_EVERY: Duration = Duration::from_secs(2);
const ANSWER_WAIT: Duration = Duration::from_secs(20);

/// Held while a backup or restore of a database runs; released when it is dropped or its connection ends.
pub struct TargetLock {
    session: Session,
    /// The server's process of `session`, which may hold the lock on when the connection is lost.
    backend: Backend,
    target: Connection,
    is_held: bool,
}

impl TargetLock {
    /// Takes the lock, or says who has it. `None`: the role may connect to neither maintenance database, so there is
    /// no lock, which the caller reports.
    ///
    /// # Errors
    /// Another backup or restore holds it.
    pub async fn take(target: &Connection) -> Result<Option<Self>, PgError> {
        let Ok(mut session) = maintenance_session(target).await else {
            return Ok(None);
        };
        // A pooler would keep the lock in a session that nobody ends, and every later backup would find it taken.
        require_unpooled(&mut session).await?;
        let backend = Backend::of(&mut session).await?;
        let mut lock = Self {
            session,
            backend,
            target: target.clone(),
            is_held: false,
        };
        lock.claim().await?;
        Ok(Some(lock))
    }

    async fn claim(&mut self) -> Result<(), PgError> {
        let doing = "take the lock of the database";
        // Two keys of 32 bits: one that is ours alone ("pgse"), one of the database's name.
        let sql = "SELECT pg_catalog.pg_try_advisory_lock(1885827941, pg_catalog.hashtext($1))";
        let taken: Result<bool, _> = sqlx::query_scalar(sql)
            .persistent(false)
            .bind(self.target.database())
            .fetch_one(&mut self.session.inner)
            .await;
        self.is_held = taken.map_err(|source| PgError::Query { doing, source })?;
        if self.is_held {
            return Ok(());
        }
        let pid = holder(&mut self.session, self.target.database()).await?;
        Err(PgError::Busy {
            database: self.target.database().to_owned(),
            pid: pid.unwrap_or(0),
        })
    }

    /// Waits until another backup or restore has the lock, which is the error: where its session is lost, by a server
    /// that was started anew or a person who ends sessions, the lock is taken again.
    pub async fn lost(&mut self) -> PgError {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let answer = self.session.value::<i32>("keep the lock", "SELECT 1");
            let answered = tokio::time::timeout(ANSWER_WAIT, answer).await;
            if self.is_held && matches!(answered, Ok(Ok(_))) {
                continue;
            }
            match self.take_again().await {
                Ok(()) => {
                    let database = self.target.database();
                    tracing::warn!(
                        database,
                        "The session that held the lock was lost; the lock is taken again"
                    );
                }
                Err(busy @ PgError::Busy { .. }) => return busy,
                // Whoever else wants it meets the same server.
                Err(error) => tracing::debug!(%error, "the lock cannot be taken again yet"),
            }
        }
    }

    /// In the same database as before: in another one nobody looks for it.
    async fn take_again(&mut self) -> Result<(), PgError> {
        self.is_held = false;
        let mut session = Session::connect(self.session.connection()).await?;
        self.backend.end(&mut session).await?;
        self.backend = Backend::of(&mut session).await?;
        self.session = session;
        self.claim().await
    }

    /// Gives the lock back.
    pub async fn release(self) {
        self.session.close().await;
    }
}

/// The server process of the backup or restore that is at work on a database; `None`: none is.
///
/// # Errors
/// The server refuses.
pub async fn holder(maintenance: &mut Session, database: &str) -> Result<Option<i32>, PgError> {
    let doing = "look for the lock of the database";
    let sql = "SELECT pid FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND granted \
               AND classid = 1885827941 AND objid::bigint = (pg_catalog.hashtext($1)::bigint & 4294967295)";
    let holder = sqlx::query(sql)
        .persistent(false)
        .bind(database)
        .fetch_optional(&mut maintenance.inner)
        .await;
    holder
        .and_then(|row| row.map(|row| row.try_get(0)).transpose())
        .map_err(|source| PgError::Query { doing, source })
}

/// A session beside the target, in a database that every server has: what works on a whole database cannot run inside
/// it.
///
/// # Errors
/// The role may connect to neither; the error is that of the last one.
pub async fn maintenance_session(target: &Connection) -> Result<Session, PgError> {
    match Session::connect(&target.with_database("postgres")).await {
        Ok(session) => Ok(session),
        Err(error) => {
            tracing::debug!(%error, "no session in database postgres");
            Session::connect(&target.with_database("template1")).await
        }
    }
}
