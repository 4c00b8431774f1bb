//! What retention asks: what is known of each backup, who needs it, and which deletions are not done.

use time::OffsetDateTime;

use super::read::kind;
use super::rows::{Deletion, Health, ProofState};
use super::{Catalog, CatalogError};
use crate::model::ids::{BackupId, Uid};
use crate::model::kind::BackupKind;
use crate::model::suspicion::Measure;

/// Deletions that are gone on with at once.
const DELETING_MAX: i64 = 1000;

/// A complete backup, as far as retention looks at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetainedRow {
    /// Its number.
    pub id: BackupId,
    /// The configured target's name.
    pub target: String,
    /// The manifest's identity; `None`: it never had a manifest.
    pub uid: Option<Uid>,
    /// The sealed dump's key.
    pub object_key: String,
    /// Why it was made.
    pub kind: BackupKind,
    /// What is known of it.
    pub health: Health,
    /// Why.
    pub health_reason: Option<String>,
    /// Whether it was restored for trial.
    pub proof: ProofState,
    /// When.
    pub proof_at: Option<OffsetDateTime>,
    /// Whether it is being deleted.
    pub deletion: Deletion,
    /// Until when the store does not allow that.
    pub locked_until: Option<OffsetDateTime>,
    /// Whether it is in the second store, confirmed there.
    pub is_copied: bool,
    /// Whether a restore that has not ended needs it, or somebody reads it.
    pub is_needed: bool,
}

impl Catalog {
    /// What time it is, by the database's clock.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn now(&self) -> Result<OffsetDateTime, CatalogError> {
        let doing = "ask what time it is";
        let mut session = self.session(doing).await?;
        let now = sqlx::query_scalar!(r#"SELECT clock_timestamp() AS "now!""#);
        let now = now.fetch_one(&mut *session).await;
        now.map_err(self.failed(doing))
    }

    /// Every complete backup of a target, and whichever has one of these objects, whatever its target.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn retained(
        &self,
        target: &str,
        keys: &[&str],
    ) -> Result<Vec<RetainedRow>, CatalogError> {
        let doing = "read the target's backups";
        let mut session = self.session(doing).await?;
        let rows = sqlx::query!(
            r#"SELECT id, target, uid, object_key AS "object_key!", kind, health, health_reason, proof, proof_at, deletion,
                locked_until, copy_state = 'confirmed' AS "is_copied!",
                EXISTS (SELECT FROM pgseal.restores r WHERE (r.backup_id = b.id OR r.safety_backup_id = b.id)
                    AND r.status IN ('waiting', 'pending', 'running'))
                OR EXISTS (SELECT FROM pgseal.pins p WHERE p.backup_id = b.id AND p.until > clock_timestamp())
                    AS "is_needed!"
            FROM pgseal.backups b WHERE (target = $1 OR object_key = ANY($2)) AND status = 'completed' ORDER BY id"#,
            target,
            keys as &[&str]
        );
        let rows = rows.fetch_all(&mut *session).await;
        let rows = rows.map_err(self.failed(doing))?.into_iter();
        rows.map(|row| {
            let strange = |column| CatalogError::Row {
                table: "backup",
                id: row.id,
                column,
            };
            Ok(RetainedRow {
                id: BackupId::new(row.id).ok_or_else(|| strange("id"))?,
                target: row.target,
                uid: row.uid.map(Uid::from),
                object_key: row.object_key,
                kind: kind(&row.kind).ok_or_else(|| strange("kind"))?,
                health: Health::parse(&row.health).ok_or_else(|| strange("health"))?,
                health_reason: row.health_reason,
                proof: ProofState::parse(&row.proof).ok_or_else(|| strange("proof"))?,
                proof_at: row.proof_at,
                deletion: Deletion::parse(&row.deletion).ok_or_else(|| strange("deletion"))?,
                locked_until: row.locked_until,
                is_copied: row.is_copied,
                is_needed: row.is_needed,
            })
        })
        .collect()
    }

    /// The deletions of a target that began and are not done, whoever began them; of every target: `None`.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn deleting(&self, target: Option<&str>) -> Result<Vec<BackupId>, CatalogError> {
        let doing = "look for deletions that are not done";
        let mut session = self.session(doing).await?;
        let ids = sqlx::query_scalar!(
            "SELECT id FROM pgseal.backups WHERE deletion = 'deleting' AND ($1::text IS NULL OR target = $1) \
             ORDER BY id LIMIT $2",
            target,
            DELETING_MAX
        );
        let ids = ids.fetch_all(&mut *session).await;
        let ids = ids.map_err(self.failed(doing))?.into_iter();
        Ok(ids.filter_map(BackupId::new).collect())
    }

    /// How large the last good backup was that can be compared with this one; `None`: there is none, or this is no
    /// complete backup.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn measure_before(&self, id: BackupId) -> Result<Option<Measure>, CatalogError> {
        let doing = "look for the backup before this one";
        let mut session = self.session(doing).await?;
        let row = sqlx::query!(
            r#"SELECT before.plain_bytes AS "plain_bytes!", before.tables AS "tables!", before."rows"
            FROM pgseal.backups this JOIN pgseal.backups before
                ON before.target = this.target AND before.database = this.database
                AND before.excluded_table_data = this.excluded_table_data AND before.snapshot_at < this.snapshot_at
            WHERE this.id = $1 AND before.status = 'completed' AND before.health = 'ok'
                AND before.kind <> 'pre_restore' AND before.deletion <> 'deleting'
                AND before.plain_bytes IS NOT NULL AND before.tables IS NOT NULL
            ORDER BY before.snapshot_at DESC, before.id DESC LIMIT 1"#,
            id.get()
        );
        let row = row.fetch_optional(&mut *session).await;
        Ok(row.map_err(self.failed(doing))?.map(|row| Measure {
            plain_bytes: row.plain_bytes.unsigned_abs(),
            tables: u64::from(row.tables.unsigned_abs()),
            rows: row.rows.map(i64::unsigned_abs),
        }))
    }

    /// Somebody says that a suspicious backup is as it should be. Whether it was one.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn accept(&self, id: BackupId, by: &str) -> Result<bool, CatalogError> {
        let doing = "accept the backup";
        let mut session = self.session(doing).await?;
        let updated = sqlx::query!(
            "UPDATE pgseal.backups SET health = 'ok', health_reason = 'accepted by ' || $2::text || ': ' || health_reason, \
                health_at = clock_timestamp() WHERE id = $1 AND status = 'completed' AND health = 'SUSPICIOUS'",
            id.get(),
            by
        );
        let updated = updated.execute(&mut *session).await;
        Ok(updated.map_err(self.failed(doing))?.rows_affected() > 0)
    }
}
