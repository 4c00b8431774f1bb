//! The lock that keeps a second backup or restore of one database off.
//!
//! Advisory locks belong to a database, and a session inside the target would stand in a restore's way; so the lock is
//! taken in database `postgres` (else `template1`), keyed by the target's name. The key names the server too, by
//! being on it.

use sqlx::Row as _;

use super::preflight::require_unpooled;
use super::session::Session;
use crate::model::connection::Connection;
use crate::pg::error::PgError;

/// Held while a backup or restore of a database runs; released when it is dropped or its connection ends.
pub struct TargetLock {
    session: Session,
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
        let doing = "take the lock of the database";
        let query = |source| PgError::Query { doing, source };
        // Two keys of 32 bits: one that is ours alone ("pgse"), one of the database's name.
        let sql = "SELECT pg_catalog.pg_try_advisory_lock(1885827941, pg_catalog.hashtext($1))";
        let row = sqlx::query(sql)
            .persistent(false)
            .bind(target.database())
            .fetch_one(&mut session.inner)
            .await;
        if row
            .and_then(|row| row.try_get::<bool, _>(0))
            .map_err(query)?
        {
            return Ok(Some(Self { session }));
        }
        let pid = holder(&mut session, target.database()).await?;
        Err(PgError::Busy {
            database: target.database().to_owned(),
            pid: pid.unwrap_or(0),
        })
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
