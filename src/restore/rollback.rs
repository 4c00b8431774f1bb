//! A swap is undone: the database that it set aside takes its place again. It needs neither a store nor a catalog.

use time::OffsetDateTime;

use crate::model::connection::Connection;
use crate::model::kept::{KeptAs, KeptRecord, LandingId};
use crate::pg::PgError;
use crate::pg::inspect::{self, Renaming, Session, TargetLock};

/// Why a swap is not undone. The databases are as they were, unless the error says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum RollbackError {
    /// The server, or something in the database that would be left behind.
    #[error("prepare the rollback; the databases are as they were")]
    Prepare(#[source] PgError),
    /// There is nothing that could take its place.
    #[error(
        "no database is kept from before a restore of {0}\nhint: pgseal kept list shows what is; a restore in place is undone by restoring its safety backup"
    )]
    Nothing(String),
    /// That one is not there.
    #[error(
        "no database is kept from restore {id} of {database}\nhint: pgseal kept list shows what is"
    )]
    NoSuchId {
        /// The live database.
        database: String,
        /// What was asked for.
        id: LandingId,
    },
    /// Several could be meant.
    #[error(
        "several databases are kept from before restores of {database}: {}\nhint: choose one with --id",
        shown(kept)
    )]
    Ambiguous {
        /// The live database.
        database: String,
        /// What could be meant.
        kept: Vec<KeptRecord>,
    },
    /// The names could not be changed.
    #[error("swap {database} back; the databases are as they were")]
    Swap {
        /// The live database.
        database: String,
        /// Why.
        #[source]
        source: PgError,
    },
    /// The server went away when the names were to be changed, and does not answer.
    #[error("swap {database} back: whether that was done is not known")]
    Unknown {
        /// The live database.
        database: String,
        /// Why.
        #[source]
        source: PgError,
    },
}

/// What a rollback did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RolledBack {
    /// The live database.
    pub database: String,
    /// What it is again: the record that it had while it was kept.
    pub back: KeptRecord,
    /// What it was until now, under its new name; `None`: there was no live database.
    pub kept: Option<KeptRecord>,
}

/// Gives the database of `to` back what a restore replaced: that of `id`, or the only one. Given the `id` of one that was
/// undone, it is that which comes back, unless `only` says what it has to be kept as.
///
/// # Errors
/// Nothing, or more than one thing, could be meant; or the names could not be changed.
pub async fn rollback(
    to: &Connection,
    id: Option<&LandingId>,
    only: Option<KeptAs>,
    now: OffsetDateTime,
) -> Result<RolledBack, RollbackError> {
    let lock = TargetLock::take(to).await.map_err(RollbackError::Prepare)?;
    let mut session = inspect::maintenance_session(to)
        .await
        .map_err(RollbackError::Prepare)?;
    let outcome = swap_back(&mut session, to, (id, only), now).await;
    session.close().await;
    if let Some(lock) = lock {
        lock.release().await;
    }
    outcome
}

async fn swap_back(
    session: &mut Session,
    to: &Connection,
    which: (Option<&LandingId>, Option<KeptAs>),
    now: OffsetDateTime,
) -> Result<RolledBack, RollbackError> {
    let database = to.database().to_owned();
    let kept = inspect::kept_databases(session)
        .await
        .map_err(RollbackError::Prepare)?;
    let records = kept.into_iter().filter_map(|kept| kept.record);
    let back = meant(
        &database,
        which.0,
        records
            .filter(|record| record.database == database)
            .filter(|record| which.1.is_none_or(|only| record.kept_as == only))
            .collect(),
    )?;
    let is_live = inspect::database_exists(session, &database)
        .await
        .map_err(RollbackError::Prepare)?;
    let aside = if is_live {
        look(session, to).await.map_err(RollbackError::Prepare)?;
        let comment = inspect::database_comment(session, &database)
            .await
            .map_err(RollbackError::Prepare)?;
        let kept_as = match back.kept_as {
            KeptAs::Undone => KeptAs::Before,
            KeptAs::Before | KeptAs::Restore => KeptAs::Undone,
        };
        Some(back.aside(kept_as, now, comment))
    } else {
        None
    };
    let names = aside
        .as_ref()
        .map(|record| (record.name(), record.to_comment()));
    let back_name = back.name();
    let aside_step = names.as_ref().map(|(name, comment)| Renaming {
        from: &database,
        to: name,
        comment: Some(comment),
    });
    let back_step = Renaming {
        from: &back_name,
        to: &database,
        comment: back.comment.as_deref(),
    };
    let renamings: Vec<Renaming<'_>> = aside_step.into_iter().chain([back_step]).collect();
    inspect::rename_together(session, &renamings)
        .await
        .map_err(|source| {
            let database = database.clone();
            match source {
                PgError::Unanswered { .. } => RollbackError::Unknown { database, source },
                source => RollbackError::Swap { database, source },
            }
        })?;
    Ok(RolledBack {
        database,
        back,
        kept: aside,
    })
}

/// What would be left behind stands in the way of a rollback as it does of a swap.
async fn look(session: &mut Session, to: &Connection) -> Result<(), PgError> {
    let mut found = inspect::hangs_on_identity(session, to.database()).await?;
    found.extend(inspect::may_swap(session, to.database()).await?);
    let live = session.connection().with_database(to.database());
    match inspect::holds_catalog(&live).await {
        Ok(catalog) => found.extend(catalog),
        // What is undone may be broken; that is why.
        Err(error) => tracing::warn!(%error, "The database cannot be looked into"),
    }
    if found.is_empty() {
        Ok(())
    } else {
        Err(PgError::Preflight(found))
    }
}

/// Which of a database's kept ones takes its place.
fn meant(
    database: &str,
    id: Option<&LandingId>,
    mut records: Vec<KeptRecord>,
) -> Result<KeptRecord, RollbackError> {
    let is_meant = |record: &KeptRecord| match (record.kept_as, id) {
        // What was never complete is nothing to go back to, and what was undone only by its id.
        (KeptAs::Restore, _) | (KeptAs::Undone, None) => false,
        (KeptAs::Before, None) => true,
        (_, Some(id)) => record.id == *id,
    };
    records.retain(is_meant);
    match (records.pop(), id) {
        (Some(one), _) if records.is_empty() => Ok(one),
        (Some(one), _) => {
            records.push(one);
            Err(RollbackError::Ambiguous {
                database: database.to_owned(),
                kept: records,
            })
        }
        (None, Some(id)) => Err(RollbackError::NoSuchId {
            database: database.to_owned(),
            id: id.clone(),
        }),
        (None, None) => Err(RollbackError::Nothing(database.to_owned())),
    }
}

fn shown(kept: &[KeptRecord]) -> String {
    let one = |record: &KeptRecord| {
        format!(
            "{} (since {}, restore of {})",
            record.id, record.at, record.backup
        )
    };
    kept.iter().map(one).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::Uid;

    const NOW: OffsetDateTime = time::macros::datetime!(2026-11-24 01:02:03 UTC);

    fn record(id: &LandingId, kept_as: KeptAs) -> KeptRecord {
        KeptRecord::new(id.clone(), "shop", "b", NOW).aside(kept_as, NOW, None)
    }

    #[test]
    fn one_is_meant_or_none() {
        let [one, other] = [(); 2].map(|()| LandingId::of(Uid::new(NOW)));
        let before = record(&one, KeptAs::Before);
        let undone = record(&other, KeptAs::Undone);
        let unfinished = record(&one, KeptAs::Restore);
        let all = vec![undone.clone(), before.clone(), unfinished.clone()];
        assert_eq!(meant("shop", None, all.clone()).unwrap(), before);
        assert_eq!(meant("shop", Some(&other), all.clone()).unwrap(), undone);
        assert!(matches!(
            meant("shop", None, vec![unfinished]),
            Err(RollbackError::Nothing(_))
        ));
        let two = vec![before, record(&other, KeptAs::Before)];
        let error = meant("shop", None, two.clone()).unwrap_err().to_string();
        assert!(error.contains(&one.to_string()) && error.contains(&other.to_string()));
        assert_eq!(meant("shop", Some(&one), two).unwrap().id, one);
    }
}
