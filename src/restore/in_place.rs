//! Mode `in-place`: a safety backup, and then one transaction over the content of the target.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::compare::{analyze, compare};
use super::{Loaded, Proven, RestoreError, load, plan, require, safety};
use crate::backup::Stages;
use crate::model::explanation::explain;
use crate::model::ids::Uid;
use crate::pg::inspect::{self, Depth, Watched};
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
    let (plain_bytes, mut warnings) =
        loaded(proven, safety.as_ref(), stages, progress, cancel).await?;

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

/// Loads, under a name among the sessions that nobody else has. Where that is cut short in the moment of the commit, the
/// server is asked what became of it.
async fn loaded(
    proven: &Proven,
    safety: Option<&String>,
    stages: &Stages,
    progress: &Arc<Progress>,
    cancel: &CancellationToken,
) -> Result<(u64, Vec<String>), RestoreError> {
    let name = format!("pgseal_load_{}", Uid::new((stages.clock)()).short());
    let to = proven.to.with_application_name(&name);
    let watched = Watched::new(name);
    let load = load(
        proven,
        LoadMode::InPlace(&to, &proven.list),
        stages,
        progress,
    );
    let work = async {
        tokio::select! {
            loaded = load => Ok(loaded),
            blockers = blocked(proven, &watched) => Err(blockers),
        }
    };
    let database = || proven.to.database().to_owned();
    let error = match cancel.run_until_cancelled(work).await {
        Some(Ok(Ok(loaded))) => return Ok(loaded),
        Some(Ok(Err(source))) => RestoreError::LoadInPlace {
            database: database(),
            safety: safety.cloned(),
            source,
        },
        Some(Err(blockers)) => RestoreError::LoadBlocked {
            database: database(),
            waited: proven.lock_wait,
            blockers,
            safety: safety.cloned(),
        },
        None => RestoreError::Interrupted(safety.cloned()),
    };
    match inspect::end_load(&proven.to, &watched).await {
        Ok(Some(true)) => {
            let bytes = proven
                .fetched
                .manifest()
                .map_or(0, |manifest| manifest.plain_bytes);
            let warning = format!("the load was committed, although: {}", explain(&error));
            Ok((bytes, vec![warning]))
        }
        Ok(_) => Err(error),
        Err(ending) => {
            tracing::warn!(error = %ending, "The session of the load could not be ended");
            Err(error)
        }
    }
}

/// Who keeps the load waiting for too long. Where nobody can look, the load itself will say what is wrong with the server.
async fn blocked(proven: &Proven, watched: &Watched) -> Vec<Blocker> {
    match inspect::until_blocked(&proven.to, watched, proven.lock_wait).await {
        Ok(blockers) => blockers,
        Err(error) => {
            tracing::warn!(%error, "Restore cannot see who blocks its load");
            std::future::pending().await
        }
    }
}
