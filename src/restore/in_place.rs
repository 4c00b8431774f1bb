//! Mode `in-place`: a safety backup, and then one transaction over the content of the target.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::compare::{analyze, compare};
use super::{Loaded, Proven, RestoreError, load, plan, require, safety};
use crate::backup::Stages;
use crate::pg::inspect::{self, Depth};
use crate::pg::{Blocker, LoadMode};
use crate::progress::Progress;

/// Loads the backup over the target, and compares what is committed.
pub(super) async fn run(
    proven: &Proven,
    stages: &Stages,
    progress: &Arc<Progress>,
    cancel: &CancellationToken,
) -> Result<Loaded, RestoreError> {
    let safety = safety::before(proven, stages, progress, cancel).await?;
    // The safety backup took its time, and somebody may have changed the database meanwhile.
    progress.start_stage("look at the target");
    let now = plan::look(&proven.to, proven.subject(), &proven.wishes).await?;
    // Roles that were made since are part of the plan.
    let now = now.with_roles_of(&proven.plan);
    require(now, Some(&proven.plan.id))?;
    progress.start_stage("load");
    let database = proven.to.database().to_owned();
    let load = load(
        proven,
        LoadMode::InPlace(&proven.to, &proven.list),
        stages,
        progress,
    );
    let watched = async {
        tokio::select! {
            loaded = load => Ok(loaded),
            blockers = blocked(proven) => Err(blockers),
        }
    };
    let loaded = cancel.run_until_cancelled(watched).await;
    let loaded = loaded.ok_or_else(|| RestoreError::Interrupted(safety.clone()))?;
    let loaded = loaded.map_err(|blockers| RestoreError::LoadBlocked {
        database: database.clone(),
        waited: proven.lock_wait,
        blockers,
        safety: safety.clone(),
    })?;
    let (plain_bytes, mut warnings) = loaded.map_err(|source| RestoreError::LoadInPlace {
        database: database.clone(),
        safety: safety.clone(),
        source,
    })?;

    // It is committed: from here on an error says so, and an interruption comes too late.
    progress.start_stage("compare the rows");
    let compared = match compare(&proven.to, proven.counted().as_ref(), Depth::Number).await {
        Ok(Ok(compared)) => compared,
        Ok(Err(differences)) => {
            return Err(RestoreError::CountsInPlace {
                database,
                differences,
                safety,
            });
        }
        Err(source) => {
            return Err(RestoreError::Count {
                database,
                safety,
                source,
            });
        }
    };
    warnings.extend(analyze(&proven.to, progress).await);
    Ok(Loaded {
        compared,
        plain_bytes,
        safety_backup: safety,
        kept: None,
        warnings,
    })
}

/// Who keeps the load waiting for too long. Where nobody can look, the load itself will say what is wrong with the server.
async fn blocked(proven: &Proven) -> Vec<Blocker> {
    match inspect::until_blocked(&proven.to, proven.lock_wait).await {
        Ok(blockers) => blockers,
        Err(error) => {
            tracing::warn!(%error, "Restore cannot see who blocks its load");
            std::future::pending().await
        }
    }
}
