//! Who reads a backup at the moment, so that nobody deletes it meanwhile.

use std::time::Duration;

use super::read::backup_in;
use super::rows::{Deletion, JobStatus};
use super::{Catalog, CatalogError, seconds};
use crate::model::ids::BackupId;

impl Catalog {
    /// Keeps a backup from being deleted until [`Catalog::unpin`], or until `at_most` has passed.
    ///
    /// # Errors
    /// [`CatalogError::NoSuchBackup`]; [`CatalogError::NotRestorable`]: it is not complete, or is being deleted. Or the
    /// catalog fails.
    pub async fn pin(
        &self,
        id: BackupId,
        holder: &str,
        at_most: Duration,
    ) -> Result<(), CatalogError> {
        let doing = "keep the backup while it is read";
        let mut transaction = self.begin(doing).await?;
        // Whoever begins to delete it locks the row too: one of us is first, and the other one sees it.
        sqlx::query!(
            "SELECT id FROM pgseal.backups WHERE id = $1 FOR SHARE",
            id.get()
        )
        .fetch_optional(&mut *transaction)
        .await
        .map_err(self.failed(doing))?;
        let row = backup_in(&mut transaction, id).await?;
        let row = row.ok_or(CatalogError::NoSuchBackup(id))?;
        // One that was found damaged or lost may be read again: that is how it is found well.
        if row.job.status != JobStatus::Completed || row.deletion == Deletion::Deleting {
            return Err(CatalogError::NotRestorable {
                backup: id,
                why: "it is not complete, or is being deleted".to_owned(),
            });
        }
        sqlx::query!(
            "INSERT INTO pgseal.pins (backup_id, holder, until) \
             VALUES ($1, $2, clock_timestamp() + make_interval(secs => $3)) \
             ON CONFLICT (backup_id, holder) DO UPDATE SET until = excluded.until",
            id.get(),
            holder,
            seconds(at_most)
        )
        .execute(&mut *transaction)
        .await
        .map_err(self.failed(doing))?;
        transaction.commit().await.map_err(self.failed(doing))
    }

    /// It is not read any more.
    ///
    /// # Errors
    /// The catalog fails; the pin then ends by itself.
    pub async fn unpin(&self, id: BackupId, holder: &str) -> Result<(), CatalogError> {
        let doing = "let go of the backup that was read";
        let mut session = self.session(doing).await?;
        sqlx::query!(
            "DELETE FROM pgseal.pins WHERE backup_id = $1 AND holder = $2",
            id.get(),
            holder
        )
        .execute(&mut *session)
        .await
        .map(drop)
        .map_err(self.failed(doing))
    }
}
