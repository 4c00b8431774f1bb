//! The backup of what a restore replaces: made, and proved the same way as what replaces it.

use std::collections::BTreeMap;
use std::sync::Arc;

use time::Duration;
use tokio_util::sync::CancellationToken;

use super::{Proven, RestoreError, Safety};
use crate::backup::{self, BackupRequest, Stages};
use crate::model::explanation::explain;
use crate::model::kind::BackupKind;
use crate::model::object_key::ObjectKey;
use crate::progress::Progress;
use crate::vault::{Entry, Selector, VaultError, Which};

/// A restore follows its safety backup at once, unless no worker is free or the target is busy.
const RECENT: Duration = Duration::minutes(15);

/// Sees to the safety backup as the request has it; its name, unless there is none to make.
pub(super) async fn before(
    proven: &Proven,
    stages: &Stages,
    progress: &Arc<Progress>,
    cancel: &CancellationToken,
) -> Result<Option<String>, RestoreError> {
    match &proven.safety {
        Safety::Made(key) if is_recent(key, proven, stages).await? => {
            let name = key.backup_name().unwrap_or(key.as_str()).to_owned();
            proved(stages, key, name, proven, progress, cancel)
                .await
                .map(Some)
        }
        // One that was made waited for so long that much may have been written since.
        Safety::Backup | Safety::Made(_) => safety_backup(proven, stages, progress, cancel)
            .await
            .map(Some),
        Safety::Skip => Ok(None),
    }
}

/// Whether a safety backup is of this database, and of just now.
async fn is_recent(
    key: &ObjectKey,
    proven: &Proven,
    stages: &Stages,
) -> Result<bool, RestoreError> {
    let found = stages.vault.find_either(&Selector::Key(key.clone())).await;
    let found = found.map_err(|source| RestoreError::SafetyUnproved {
        name: key.backup_name().unwrap_or(key.as_str()).to_owned(),
        source,
    })?;
    let Entry::Complete(manifest) = found.entry else {
        // What is wrong with it is said when it is proved.
        return Ok(true);
    };
    let age = (stages.clock)() - manifest.finished_at;
    Ok(manifest.database.name == proven.to.database() && age < RECENT)
}

/// The target as it is now, proved the same way as the backup that replaces it.
async fn safety_backup(
    proven: &Proven,
    stages: &Stages,
    progress: &Arc<Progress>,
    cancel: &CancellationToken,
) -> Result<String, RestoreError> {
    let replaced_by = (
        "before_restore_of".to_owned(),
        proven.fetched.name().to_owned(),
    );
    let request = BackupRequest {
        connection: proven.to.clone(),
        target: proven.target.to_string(),
        kind: BackupKind::PreRestore,
        labels: BTreeMap::from([replaced_by]),
        exclude_table_data: Vec::new(),
        requested: None,
    };
    let (stages, _) = &with_a_store_that_answers(stages).await;
    let made = backup::run_locked(stages, &request, Vec::new(), progress, cancel).await;
    let manifest = made.map_err(RestoreError::Safety)?;
    let key = ObjectKey::parse(&manifest.object_key).map_err(|_| RestoreError::SafetyUnproved {
        name: manifest.name.clone(),
        source: VaultError::BadKey(manifest.object_key.clone()),
    })?;
    proved(stages, &key, manifest.name, proven, progress, cancel).await
}

/// What a safety backup is made with, and in which store: on the day when the first one is down, what is replaced is saved
/// in the second.
pub async fn with_a_store_that_answers(stages: &Stages) -> (Stages, Which) {
    let mut stages = stages.clone();
    let Some(second) = stages.vault.second() else {
        return (stages, Which::First);
    };
    let first = stages.vault.store.in_haste();
    if let Err(error) = first.check_bucket().await {
        if second.store.in_haste().check_bucket().await.is_ok() {
            tracing::warn!(
                reason = explain(&error),
                "Attention: the first store cannot be used; the safety backup goes into the second one, {}, alone",
                second.store.describe()
            );
            stages.vault = second;
            return (stages, Which::Second);
        }
    }
    (stages, Which::First)
}

/// The safety backup's name, once it is proved that it could be restored.
async fn proved(
    stages: &Stages,
    key: &ObjectKey,
    name: String,
    proven: &Proven,
    progress: &Arc<Progress>,
    cancel: &CancellationToken,
) -> Result<String, RestoreError> {
    let verified = cancel
        .run_until_cancelled(verify(stages, key, proven, progress))
        .await;
    match verified {
        None => Err(RestoreError::Interrupted(Some(name))),
        Some(Err(source)) => Err(RestoreError::SafetyUnproved { name, source }),
        Some(Ok(())) => Ok(name),
    }
}

async fn verify(
    stages: &Stages,
    key: &ObjectKey,
    proven: &Proven,
    progress: &Arc<Progress>,
) -> Result<(), VaultError> {
    // Found again by its key: what is verified is what the store has, not what this process remembers.
    let found = stages
        .vault
        .find_either(&Selector::Key(key.clone()))
        .await?;
    let fetched = stages.vault.fetch_either(found, progress).await?;
    stages
        .vault
        .verify(&fetched, &stages.clients, proven.limits, progress)
        .await
        .map(drop)
}
