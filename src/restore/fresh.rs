//! Mode `new`: a database that does not exist yet is created, filled, compared, and only then named.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::compare::{analyze, compare};
use super::{Loaded, Proven, RestoreError, load, roles, target};
use crate::backup::Stages;
use crate::model::ids::Uid;
use crate::pg::LoadMode;
use crate::pg::inspect;
use crate::progress::Progress;

/// Fills a database under a working name, and gives it its name once its rows are the recorded ones.
pub(super) async fn run(
    proven: &Proven,
    stages: &Stages,
    progress: &Arc<Progress>,
    cancel: &CancellationToken,
) -> Result<Loaded, RestoreError> {
    let mut maintenance = inspect::maintenance_session(&proven.to)
        .await
        .map_err(RestoreError::New)?;
    let working_name = target::working_name(proven.to.database(), Uid::new((stages.clock)()));
    progress.start_stage("create the database");
    let facts = proven.fetched.manifest().map(|manifest| &manifest.database);
    inspect::create_database(&mut maintenance, &working_name, facts)
        .await
        .map_err(RestoreError::New)?;

    let filled = cancel
        .run_until_cancelled(fill(proven, &working_name, stages, progress))
        .await;
    let finished = match filled.unwrap_or(Err(RestoreError::Interrupted(None))) {
        Ok(mut loaded) => {
            if let Some(facts) = facts {
                loaded.warnings.extend(
                    inspect::apply_properties(&mut maintenance, &working_name, facts).await,
                );
            }
            let name = proven.to.database();
            let renamed = inspect::rename_database(&mut maintenance, &working_name, name).await;
            renamed.map(|()| loaded).map_err(RestoreError::New)
        }
        Err(error) => Err(error),
    };
    if finished.is_err() {
        if let Err(error) = inspect::drop_database(&mut maintenance, &working_name).await {
            tracing::warn!(%error, database = working_name, "Restore left its unfinished database behind");
        }
    }
    maintenance.close().await;
    finished
}

/// Loads into the database under its working name, and compares.
async fn fill(
    proven: &Proven,
    working_name: &str,
    stages: &Stages,
    progress: &Arc<Progress>,
) -> Result<Loaded, RestoreError> {
    let to = proven.to.with_database(working_name);
    progress.start_stage("load");
    let loaded = load(proven, LoadMode::New(&to), stages, progress).await;
    let (plain_bytes, mut warnings) = loaded.map_err(RestoreError::LoadNew)?;
    let given = roles::hand_over(&to, &proven.plan).await;
    warnings.extend(given.map_err(RestoreError::New)?);
    progress.start_stage("compare the rows");
    let compared = compare(&to, proven.counted().as_ref())
        .await
        .map_err(RestoreError::New)?;
    let compared = compared.map_err(RestoreError::CountsNew)?;
    warnings.extend(analyze(&to, progress).await);
    Ok(Loaded {
        compared,
        plain_bytes,
        safety_backup: None,
        warnings,
    })
}
