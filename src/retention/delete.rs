//! Deleting one backup that has a row: the row says so first, then every version of its objects goes, then the row.

use crate::catalog::{BackupRow, Catalog, CatalogError, JobStatus, LastGood};
use crate::model::ids::BackupId;
use crate::model::object_key::ObjectKey;
use crate::store::StoreError;
use crate::vault::{Vault, VaultError};

/// Why a backup was not deleted.
#[derive(Debug, thiserror::Error)]
pub enum DeleteError {
    /// The catalog refuses, or fails.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// One of the stores refuses, or fails. The row says `deleting`, and asking again goes on.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// It has a manifest now.
    #[error("its manifest is in the store by now: it is complete")]
    Completed,
}

/// Deletes a backup, object and row; one whose deletion was interrupted is gone on with. How many versions of its objects
/// there were; `None`: somebody else, who deleted it too, was done before.
///
/// # Errors
/// Somebody needs it, the store keeps it, or either of the two fails.
pub async fn delete(
    vault: &Vault,
    catalog: &Catalog,
    id: BackupId,
    last_good: LastGood,
) -> Result<Option<u64>, DeleteError> {
    let row = catalog.begin_deletion(id, last_good).await?;
    let versions = match delete_objects(vault, &row).await {
        Ok(versions) => versions,
        Err(error) => {
            if let VaultError::Store(StoreError::Locked { until, .. }) = &error {
                catalog.deletion_locked(id, *until).await?;
            }
            return Err(error.into());
        }
    };
    let is_ours = catalog.finish_deletion(id).await?;
    Ok(is_ours.then_some(versions))
}

/// What stands under a row's key only if it is this backup's own, in either store. The key of a try that came to nothing may
/// be another backup's by now.
async fn delete_objects(vault: &Vault, row: &BackupRow) -> Result<u64, VaultError> {
    let (JobStatus::Completed, Some(key)) = (row.job.status, &row.object_key) else {
        return Ok(0);
    };
    let key = ObjectKey::parse(key).map_err(|_| VaultError::BadKey(key.clone()))?;
    let head = vault.store.head(&key).await?;
    // One without a uid is somebody else's too, where ours has one.
    let is_another = head.is_some_and(|head| row.uid.is_some() && head.uid != row.uid);
    // The copy first, as `Vault::delete_key` does it.
    let of_copy = match row.uid {
        Some(uid) => vault.delete_copy(&key, uid).await?,
        None => 0,
    };
    if is_another {
        return Ok(of_copy);
    }
    Ok(of_copy + vault.delete_here(&key).await?)
}
