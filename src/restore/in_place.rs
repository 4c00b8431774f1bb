//! Mode `in-place`: a safety backup, and then one transaction over the content of the target.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::compare::{analyze, compare};
use super::{Loaded, Proven, RestoreError, load, safety};
use crate::backup::Stages;
use crate::pg::LoadMode;
use crate::progress::Progress;

/// Loads the backup over the target, and compares what is committed.
pub(super) async fn run(
    proven: &Proven,
    stages: &Stages,
    progress: &Arc<Progress>,
    cancel: &CancellationToken,
) -> Result<Loaded, RestoreError> {
    let safety = safety::before(proven, stages, progress, cancel).await?;
    progress.start_stage("load");
    let database = proven.to.database().to_owned();
    let load = load(
        proven,
        LoadMode::InPlace(&proven.to, &proven.list),
        stages,
        progress,
    );
    let loaded = cancel.run_until_cancelled(load).await;
    let loaded = loaded.ok_or_else(|| RestoreError::Interrupted(safety.clone()))?;
    let (plain_bytes, mut warnings) = loaded.map_err(|source| RestoreError::LoadInPlace {
        database: database.clone(),
        safety: safety.clone(),
        source,
    })?;

    // It is committed: from here on an error says so, and an interruption comes too late.
    progress.start_stage("compare the rows");
    let compared = match compare(&proven.to, proven.fetched.manifest()).await {
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
