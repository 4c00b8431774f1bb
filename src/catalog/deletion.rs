//! Deleting backups: the row says that it has begun, the object goes, then the row. Whoever finds a row in between goes on.

use time::OffsetDateTime;

use super::read::{backup_in, lock_target};
use super::rows::{BackupRow, Deletion, Health, JobStatus, Task};
use super::{Catalog, CatalogError};
use crate::model::ids::BackupId;

/// Whether the last good backup of a target may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastGood {
    /// No.
    Kept,
    /// Somebody said so.
    Forced,
}

/// Why a backup is not deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needed {
    /// Its job has not ended.
    ByItsJob(JobStatus),
    /// A restore that has not ended reads it, or waits for it.
    ByARestore,
    /// Somebody verifies it, tries it out, or copies it.
    ByAReader,
    /// Its target would have no good backup of that database any more, or none with as much in it.
    AsTheLast,
}

impl std::fmt::Display for Needed {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ByItsJob(status) => write!(formatter, "it is {status}"),
            Self::ByARestore => formatter.write_str("a restore needs it"),
            Self::ByAReader => formatter.write_str("somebody reads it"),
            Self::AsTheLast => formatter.write_str("it is the last good backup of its target"),
        }
    }
}

impl Catalog {
    /// Begins to delete a backup: from here on nobody restores it. Its row, whose object is to go next.
    ///
    /// # Errors
    /// [`CatalogError::NoSuchBackup`] and [`CatalogError::Needed`]; or the catalog fails.
    pub async fn begin_deletion(
        &self,
        id: BackupId,
        last_good: LastGood,
    ) -> Result<BackupRow, CatalogError> {
        let doing = "begin to delete the backup";
        let mut transaction = self.begin(doing).await?;
        let missing = || CatalogError::NoSuchBackup(id);
        let row = backup_in(&mut transaction, id).await?.ok_or_else(missing)?;
        // Two that delete the last two good ones at once must not both find the other one.
        lock_target(&mut transaction, &row.target).await?;
        sqlx::query!(
            "SELECT id FROM pgseal.backups WHERE id = $1 FOR UPDATE",
            id.get()
        )
        .fetch_optional(&mut *transaction)
        .await
        .map_err(self.failed(doing))?;
        let row = backup_in(&mut transaction, id).await?.ok_or_else(missing)?;
        let needed = |why| CatalogError::Needed { backup: id, why };
        if !row.job.status.is_ended() {
            return Err(needed(Needed::ByItsJob(row.job.status)));
        }
        let others = sqlx::query!(
            r#"SELECT
                EXISTS (SELECT FROM pgseal.restores WHERE (backup_id = $1 OR safety_backup_id = $1)
                    AND status IN ('waiting', 'pending', 'running')) AS "by_a_restore!",
                EXISTS (SELECT FROM pgseal.pins WHERE backup_id = $1 AND until > clock_timestamp()) AS "by_a_reader!",
                EXISTS (SELECT FROM pgseal.backups this JOIN pgseal.backups other
                        ON other.target = this.target AND other.database IS NOT DISTINCT FROM this.database
                        AND other.excluded_table_data = this.excluded_table_data
                    WHERE this.id = $1 AND other.id <> $1 AND other.status = 'completed' AND other.health = 'ok'
                        AND other.proof <> 'FAILED' AND other.deletion <> 'deleting' AND other.kind <> 'pre_restore')
                    AS "another_is_good!""#,
            id.get()
        );
        let others = others.fetch_one(&mut *transaction).await;
        let others = others.map_err(self.failed(doing))?;
        if others.by_a_restore {
            return Err(needed(Needed::ByARestore));
        }
        if others.by_a_reader {
            return Err(needed(Needed::ByAReader));
        }
        let is_good = row.job.status == JobStatus::Completed
            && (row.health == Health::Ok || row.is_only_second())
            && row.deletion != Deletion::Deleting;
        if is_good && !others.another_is_good && last_good == LastGood::Kept {
            return Err(needed(Needed::AsTheLast));
        }
        sqlx::query!(
            "UPDATE pgseal.backups SET deletion = 'deleting', locked_until = NULL WHERE id = $1",
            id.get()
        )
        .execute(&mut *transaction)
        .await
        .map_err(self.failed(doing))?;
        self.record_here(&mut transaction, Task::Backup(id), "begun")
            .await?;
        transaction.commit().await.map_err(self.failed(doing))?;
        Ok(row)
    }

    /// The object is gone: so goes the row. `false`: somebody else was quicker, which is no error.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn finish_deletion(&self, id: BackupId) -> Result<bool, CatalogError> {
        let doing = "delete the backup's row";
        let mut transaction = self.begin(doing).await?;
        let deleted = sqlx::query!(
            "DELETE FROM pgseal.backups WHERE id = $1 AND deletion = 'deleting'",
            id.get()
        )
        .execute(&mut *transaction)
        .await
        .map_err(self.failed(doing))?;
        self.record_here(&mut transaction, Task::Backup(id), "done")
            .await?;
        transaction.commit().await.map_err(self.failed(doing))?;
        Ok(deleted.rows_affected() > 0)
    }

    /// The store keeps the object: the backup stays, and its row says until when, where the store told.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn deletion_locked(
        &self,
        id: BackupId,
        until: Option<OffsetDateTime>,
    ) -> Result<(), CatalogError> {
        let doing = "record that the store keeps the backup";
        let mut session = self.session(doing).await?;
        sqlx::query!(
            "UPDATE pgseal.backups SET deletion = CASE WHEN $2::timestamptz IS NULL THEN 'kept' ELSE 'LOCKED' END, \
             locked_until = $2, copy_state = 'none', copy_at = NULL, copy_sha256 = NULL, copy_place = NULL, copy_error = NULL \
             WHERE id = $1 AND deletion = 'deleting'",
            id.get(),
            until
        )
        .execute(&mut *session)
        .await
        .map(drop)
        .map_err(self.failed(doing))
    }
}
