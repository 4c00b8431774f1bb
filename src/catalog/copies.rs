//! What is known of each backup's second copy. Confirmed is only what the second store gave back with the digest that the
//! manifest records; the schema holds that too.

use time::OffsetDateTime;

use super::{Catalog, CatalogError, counted};
use crate::model::digest::Sha256;
use crate::model::ids::BackupId;

/// Whether a copy that came to nothing is tried again by its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// It is: nobody has to hear of it yet.
    Yes,
    /// It is not; housekeeping asks for another one later.
    No,
}

/// Which of the two copies keeps a backup from being in both stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtFault {
    /// That in the first store.
    First,
    /// That in the second one.
    Second,
}

impl Catalog {
    /// A copy of this backup is asked for. One that failed stays so until it is there, so that nobody hears of each try.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn copy_wanted(&self, id: BackupId) -> Result<(), CatalogError> {
        let doing = "record that a copy is wanted";
        let mut session = self.session(doing).await?;
        sqlx::query!(
            "UPDATE pgseal.backups SET copy_state = 'pending', copy_at = clock_timestamp() \
             WHERE id = $1 AND status = 'completed' AND copy_state = 'none'",
            id.get()
        )
        .execute(&mut *session)
        .await
        .map(drop)
        .map_err(self.failed(doing))
    }

    /// The second store gave the whole object back. Whether the row is of a backup with this digest.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn copy_confirmed(
        &self,
        id: BackupId,
        sha256: Sha256,
        place: &str,
    ) -> Result<bool, CatalogError> {
        let doing = "record a confirmed copy";
        let mut session = self.session(doing).await?;
        let updated = sqlx::query!(
            "UPDATE pgseal.backups SET copy_state = 'confirmed', copy_at = clock_timestamp(), copy_sha256 = $2, \
                copy_place = $3, copy_error = NULL \
             WHERE id = $1 AND status = 'completed' AND sealed_sha256 = $2",
            id.get(),
            sha256.0.to_vec(),
            place
        );
        let updated = updated.execute(&mut *session).await;
        Ok(updated.map_err(self.failed(doing))?.rows_affected() > 0)
    }

    /// The complete backup with this object, if it has a row.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn backup_of_object(
        &self,
        object_key: &str,
    ) -> Result<Option<BackupId>, CatalogError> {
        let doing = "look for the backup of an object";
        let mut session = self.session(doing).await?;
        let id = sqlx::query_scalar!(
            "SELECT id FROM pgseal.backups WHERE object_key = $1 AND status = 'completed'",
            object_key
        );
        let id = id.fetch_optional(&mut *session).await;
        Ok(id.map_err(self.failed(doing))?.and_then(BackupId::new))
    }

    /// There is no good copy, and why: `of` says which of the two copies is at fault. Where it is the first, one that is
    /// confirmed in the second stays so.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn copy_failed(
        &self,
        id: BackupId,
        place: &str,
        (of, error): (AtFault, &str),
        again: Again,
    ) -> Result<(), CatalogError> {
        let doing = "record a copy that came to nothing";
        let mut session = self.session(doing).await?;
        sqlx::query!(
            "UPDATE pgseal.backups SET copy_at = clock_timestamp(), copy_sha256 = NULL, copy_place = $2, copy_error = $3, \
                copy_state = CASE WHEN $4 AND copy_state <> 'failed' THEN 'pending' ELSE 'failed' END \
             WHERE id = $1 AND status = 'completed' AND NOT ($5 AND copy_state = 'confirmed')",
            id.get(),
            place,
            error,
            again == Again::Yes,
            of == AtFault::First
        )
        .execute(&mut *session)
        .await
        .map(drop)
        .map_err(self.failed(doing))
    }

    /// Compares what the second store lists with what is confirmed there: what is gone, or has another size, has no copy any
    /// more. `keys` and `sizes` are all that it has below `prefix`; `since` is before they were asked for. What was copied into
    /// another store counts for nothing. How many copies were lost.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn compare_copies(
        &self,
        place: &str,
        prefix: &str,
        (keys, sizes): (&[String], &[u64]),
        since: OffsetDateTime,
    ) -> Result<u64, CatalogError> {
        let doing = "compare the second store with the catalog";
        let mut transaction = self.begin(doing).await?;
        sqlx::query!(
            "UPDATE pgseal.backups SET copy_state = 'none', copy_at = NULL, copy_sha256 = NULL, copy_place = NULL, \
                copy_error = NULL WHERE copy_state <> 'none' AND copy_place <> $1",
            place
        )
        .execute(&mut *transaction)
        .await
        .map_err(self.failed(doing))?;
        let sizes: Vec<i64> = sizes.iter().copied().map(counted).collect();
        let lost = sqlx::query!(
            "UPDATE pgseal.backups b SET copy_state = 'failed', copy_at = clock_timestamp(), copy_sha256 = NULL, \
                copy_error = 'it was in the second store, and is not there any more, or not all of it' \
             WHERE b.copy_state = 'confirmed' AND b.deletion <> 'deleting' AND b.copy_at < $4 \
                AND starts_with(b.object_key, $1) \
                AND NOT EXISTS (SELECT FROM unnest($2::text[], $3::bigint[]) AS there (key, bytes) \
                    WHERE there.key = b.object_key AND there.bytes = b.sealed_bytes)",
            prefix,
            keys,
            &sizes,
            since
        );
        let lost = lost.execute(&mut *transaction).await;
        let lost = lost.map_err(self.failed(doing))?.rows_affected();
        transaction.commit().await.map_err(self.failed(doing))?;
        Ok(lost)
    }

    /// Backups that should be in the second store, and are not as far as anybody knows: the newest first, and
    /// those that failed before last, as many as that.
    /// One whose own object is damaged or gone cannot be copied, nor what never had a manifest.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn not_copied(&self, most: u32) -> Result<Vec<BackupId>, CatalogError> {
        let doing = "look for backups without a second copy";
        let mut session = self.session(doing).await?;
        let ids = sqlx::query_scalar!(
            "SELECT id FROM pgseal.backups WHERE status = 'completed' AND uid IS NOT NULL AND copy_state <> 'confirmed' \
                AND deletion = 'kept' AND health NOT IN ('CORRUPT', 'ALTERED', 'lost') \
             ORDER BY copy_state = 'failed', CASE copy_state WHEN 'failed' THEN copy_at END, finished_at DESC, id DESC LIMIT $1",
            i64::from(most)
        );
        let ids = ids.fetch_all(&mut *session).await;
        let ids = ids.map_err(self.failed(doing))?.into_iter();
        Ok(ids.filter_map(BackupId::new).collect())
    }

    /// Backups whose first copy is damaged or gone, of which nobody knows that they are whole in the second store, and which it
    /// lists with their size; as many as that. One that was found wanting there is looked at again after a day.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn maybe_in_second_alone(
        &self,
        (keys, sizes): (&[String], &[u64]),
        most: u32,
    ) -> Result<Vec<BackupId>, CatalogError> {
        let doing = "look for backups that only the second store may have";
        let mut session = self.session(doing).await?;
        let sizes: Vec<i64> = sizes.iter().copied().map(counted).collect();
        let ids = sqlx::query_scalar!(
            "SELECT b.id FROM pgseal.backups b
            JOIN unnest($1::text[], $2::bigint[]) AS there (key, bytes) ON there.key = b.object_key AND there.bytes = b.sealed_bytes
            WHERE b.status = 'completed' AND b.deletion = 'kept' AND b.health IN ('CORRUPT', 'lost') AND b.copy_state <> 'confirmed'
                AND (b.copy_state <> 'failed' OR b.copy_at < clock_timestamp() - interval '1 day')
            ORDER BY b.copy_state = 'failed', b.copy_at NULLS FIRST, b.id DESC LIMIT $3",
            keys,
            &sizes,
            i64::from(most)
        );
        let ids = ids.fetch_all(&mut *session).await;
        let ids = ids.map_err(self.failed(doing))?.into_iter();
        Ok(ids.filter_map(BackupId::new).collect())
    }

    /// How many backups are not in both stores, each confirmed, the second one being `second`; and since when the oldest of
    /// them is complete.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn not_replicated(
        &self,
        second: &str,
    ) -> Result<(i64, Option<OffsetDateTime>), CatalogError> {
        let doing = "count the backups without a second copy";
        let mut session = self.session(doing).await?;
        let row = sqlx::query!(
            r#"SELECT count(*) AS "count!", min(finished_at) AS oldest FROM pgseal.backups
            WHERE status = 'completed' AND uid IS NOT NULL AND deletion <> 'deleting'
                AND (copy_state <> 'confirmed' OR copy_place <> $1 OR health IN ('CORRUPT', 'lost'))"#,
            second
        );
        let row = row.fetch_one(&mut *session).await;
        let row = row.map_err(self.failed(doing))?;
        Ok((row.count, row.oldest))
    }
}
