//! Where a backup of the service is made: a safety backup in whichever store answers, because a restore waits for it; any
//! other one in the first.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::Worker;
use crate::backup::{self, BackupError, BackupRequest, Stages};
use crate::catalog::{CatalogError, Ended, InSecond, Lease};
use crate::model::explanation::explain;
use crate::model::kind::BackupKind;
use crate::model::manifest::Manifest;
use crate::model::object_key::ObjectKey;
use crate::progress::Progress;
use crate::restore;
use crate::vault::{Vault, Which};

/// Why such a row says `lost`.
pub(super) const IN_SECOND: &str =
    "it was made in the second store, because the first one could not be used";

/// A backup that was made.
pub(super) struct Made {
    pub(super) manifest: Manifest,
    /// In which store.
    pub(super) place: Which,
    /// Whether it was read to its end there, and is what the manifest says. In the first store, that is for verifications.
    is_read_back: bool,
}

/// Makes a backup. All of it is part of what the caller vouches for: also the look for a store takes its time on a bad day.
pub(super) async fn make(
    stages: &Stages,
    request: &BackupRequest,
    progress: &Arc<Progress>,
    cancel: &CancellationToken,
) -> Result<Made, BackupError> {
    if request.kind != BackupKind::PreRestore {
        let manifest = backup::run(stages, request, progress, cancel).await?;
        return Ok(Made {
            manifest,
            place: Which::First,
            is_read_back: false,
        });
    }
    let looking = restore::with_a_store_that_answers(stages);
    let found = cancel.run_until_cancelled(looking).await;
    let (stages, place) = found.ok_or(BackupError::Interrupted)?;
    let manifest = backup::run(&stages, request, progress, cancel).await?;
    let is_read_back =
        place == Which::Second && is_whole(&stages.vault, &manifest, progress, cancel).await;
    Ok(Made {
        manifest,
        place,
        is_read_back,
    })
}

async fn is_whole(
    vault: &Vault,
    manifest: &Manifest,
    progress: &Arc<Progress>,
    cancel: &CancellationToken,
) -> bool {
    let Ok(key) = ObjectKey::parse(&manifest.object_key) else {
        return false;
    };
    let reading = vault.check_digest(&key, progress);
    match cancel.run_until_cancelled(reading).await {
        Some(Ok(_)) => true,
        // Housekeeping looks again, and the restore proves it in any case.
        Some(Err(error)) => {
            tracing::warn!(
                reason = explain(&error),
                backup.name = manifest.name,
                "The safety backup was not read back from the second store"
            );
            false
        }
        None => false,
    }
}

impl Worker {
    pub(super) async fn record_made(
        &self,
        lease: &Lease,
        made: &Made,
    ) -> Result<Ended, CatalogError> {
        let second = self.stages.vault.with(made.place).store.describe();
        let in_second = (made.place == Which::Second).then_some(InSecond {
            read_back_from: made.is_read_back.then_some(second.as_str()),
            reason: IN_SECOND,
        });
        let catalog = &self.dispatch.catalog;
        catalog
            .complete_backup_in(lease, &made.manifest, in_second)
            .await
    }
}
