//! The databases that restores left on a server: listed, and dropped by name or by age.

use time::OffsetDateTime;

use crate::model::connection::Connection;
use crate::model::kept::KeptAs;
use crate::pg::PgError;
use crate::pg::inspect::{self, KeptDatabase, Session, TargetLock};

/// Why a kept database is not listed or dropped.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// The server.
    #[error("look for databases that restores left")]
    Look(#[source] PgError),
    /// A database without a record of ours is nobody's to drop but its owner's.
    #[error(
        "{0} is no database that a restore made or set aside\nhint: pgseal kept list shows those that are; pgseal drops no other"
    )]
    NotKept(String),
    /// It may be the one that a running restore fills.
    #[error("drop {name}")]
    Busy {
        /// The database.
        name: String,
        /// Who is at work.
        #[source]
        source: PgError,
    },
    /// Somebody is connected to it, or this role may not.
    #[error("drop {name}\nhint: end the sessions in it, or drop it as its owner")]
    Drop {
        /// The database.
        name: String,
        /// Why.
        #[source]
        source: PgError,
    },
}

/// Every database that restores made or set aside on the server of `to`, the oldest first.
///
/// # Errors
/// The server cannot be asked.
pub async fn list_kept(to: &Connection) -> Result<Vec<KeptDatabase>, KeptError> {
    let mut session = inspect::maintenance_session(to)
        .await
        .map_err(KeptError::Look)?;
    let kept = inspect::kept_databases(&mut session).await;
    session.close().await;
    kept.map_err(KeptError::Look)
}

/// Drops one of them, by its name.
///
/// # Errors
/// It is none of ours, a restore of its database runs, or somebody is connected to it.
pub async fn drop_kept(to: &Connection, name: &str) -> Result<KeptDatabase, KeptError> {
    let kept = list_kept(to).await?;
    let kept = kept.into_iter().find(|kept| kept.name == name);
    let kept = kept.ok_or_else(|| KeptError::NotKept(name.to_owned()))?;
    remove(to, &kept).await?;
    Ok(kept)
}

/// Drops those of the database of `to` that are what they are since before `until`: their names, and what could not be
/// dropped.
///
/// # Errors
/// The server cannot be asked.
pub async fn drop_older(
    to: &Connection,
    until: OffsetDateTime,
) -> Result<(Vec<String>, Vec<KeptError>), KeptError> {
    let (mut dropped, mut failed) = (Vec::new(), Vec::new());
    for kept in list_kept(to).await? {
        let is_old = kept
            .record
            .as_ref()
            .is_some_and(|record| record.database == to.database() && record.at < until);
        if is_old {
            match remove(to, &kept).await {
                Ok(()) => dropped.push(kept.name),
                Err(error) => failed.push(error),
            }
        }
    }
    Ok((dropped, failed))
}

/// While a backup, restore or rollback of the live database runs, nothing of it is taken away.
async fn remove(to: &Connection, kept: &KeptDatabase) -> Result<(), KeptError> {
    let name = kept.name.clone();
    // Without a record it is not known which database it was for: its own name is locked, for want of a better one.
    let live = kept
        .record
        .as_ref()
        .map_or(&kept.name, |record| &record.database);
    let lock = TargetLock::take(&to.with_database(live)).await;
    let lock = lock.map_err(|source| KeptError::Busy {
        name: name.clone(),
        source,
    })?;
    let mut session = inspect::maintenance_session(to)
        .await
        .map_err(KeptError::Look)?;
    let dropped = drop_it(&mut session, kept).await;
    session.close().await;
    if let Some(lock) = lock {
        lock.release().await;
    }
    dropped.map_err(|source| KeptError::Drop { name, source })
}

async fn drop_it(session: &mut Session, kept: &KeptDatabase) -> Result<(), PgError> {
    let is_whole = |kept_as| kept_as != KeptAs::Restore;
    match &kept.record {
        // Somebody may be looking something up in it.
        Some(record) if is_whole(record.kept_as) => {
            inspect::drop_unused_database(session, &kept.name).await
        }
        _ => inspect::drop_database(session, &kept.name).await,
    }
}
