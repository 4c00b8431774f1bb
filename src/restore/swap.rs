//! Mode `swap`: the database is made beside the one that is there, and both change their names at one moment.
//!
//! Until that moment nothing of the live database changes; after it, what was there is kept under another name, with a
//! record from which a rollback needs nothing else.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::fresh::Working;
use super::{Loaded, Proven, RestoreError, safety};
use crate::backup::Stages;
use crate::model::kept::{KeptAs, KeptRecord};
use crate::model::manifest::DatabaseFacts;
use crate::pg::PgError;
use crate::pg::inspect::{self, Depth, Renaming, Session};
use crate::progress::Progress;

/// Backs the target up, fills a database beside it, and swaps the two.
pub(super) async fn run(
    proven: &Proven,
    stages: &Stages,
    progress: &Arc<Progress>,
    cancel: &CancellationToken,
) -> Result<Loaded, RestoreError> {
    let safety = safety::before(proven, stages, progress, cancel).await?;
    let live;
    let facts = if let Some(manifest) = proven.fetched.manifest() {
        Some(&manifest.database)
    } else {
        // A foreign backup says nothing of the database around its content: that stays as it is.
        live = facts_of_target(proven).await;
        live.as_ref()
    };
    let mut working = Working::create(proven, facts, safety, stages, progress).await?;
    let swapped = match working
        .fill(proven, Depth::Number, stages, progress, cancel)
        .await
    {
        // From here on no signal ends it: it takes a moment, and is done or not done.
        Ok(loaded) => {
            progress.set_finishing(true);
            let swapped = swap(&mut working, proven, stages, progress).await;
            progress.set_finishing(false);
            swapped.map(|kept| Loaded {
                kept: Some(kept),
                ..loaded
            })
        }
        Err(error) => Err(error),
    };
    working.end(swapped).await
}

/// A database that cannot be looked into any more is replaced all the same.
async fn facts_of_target(proven: &Proven) -> Option<DatabaseFacts> {
    let mut session = Session::connect(&proven.to).await.ok()?;
    let facts = inspect::inventory(&mut session).await.ok();
    session.close().await;
    facts
}

/// Swaps the databases: the record of the one that stepped aside.
async fn swap(
    working: &mut Working<'_>,
    proven: &Proven,
    stages: &Stages,
    progress: &Progress,
) -> Result<KeptRecord, RestoreError> {
    progress.start_stage("swap the databases");
    let database = proven.to.database();
    let safety = working.record.safety_backup.clone();
    let failed = |source| RestoreError::Swap {
        database: database.to_owned(),
        safety: safety.clone(),
        source,
    };
    // It was looked at before, but that is as long ago as the load took.
    let hanging = inspect::hangs_on_identity(&mut working.maintenance, database)
        .await
        .map_err(failed)?;
    if !hanging.is_empty() {
        return Err(failed(PgError::Preflight(hanging)));
    }
    let comment = inspect::database_comment(&mut working.maintenance, database)
        .await
        .map_err(failed)?;
    let before = working
        .record
        .aside(KeptAs::Before, (stages.clock)(), comment);
    let (before_name, before_comment) = (before.name(), before.to_comment());
    let aside = Renaming {
        from: database,
        to: &before_name,
        comment: Some(&before_comment),
    };
    match working.take_name(database, Some(aside)).await {
        Ok(()) => Ok(before),
        Err(source @ PgError::Unanswered { .. }) => Err(RestoreError::SwapUnknown {
            database: database.to_owned(),
            safety,
            source,
        }),
        Err(source) => Err(failed(source)),
    }
}
