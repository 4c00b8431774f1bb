//! Rows for what was there already: objects whose manifests were found, and another service's table.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::postgres::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::read::digest;
use super::rows::{Health, JobStatus, Origin};
use super::{Catalog, CatalogError, counted, counted_small};
use crate::model::digest::Sha256;
use crate::model::ids::{BackupId, Uid};
use crate::model::kind::BackupKind;
use crate::model::manifest::Manifest;
use crate::model::proof::Proof;

/// Who asked for a backup that the command line made: nobody else makes one without saying who.
const COMMAND_LINE: &str = "command line";

/// What a manifest became.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adopted {
    /// A row of its own.
    New(BackupId),
    /// It has a row.
    Known(BackupId),
    /// Its worker is about to complete its row.
    Running(BackupId),
    /// Another backup's row names the same object.
    KeyTaken(BackupId),
}

/// A complete backup, as far as its object can be compared with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownObject {
    /// Its number.
    pub id: BackupId,
    /// How its row came to be.
    pub origin: Origin,
    /// The manifest's identity; `None`: it never had a manifest.
    pub uid: Option<Uid>,
    /// The sealed dump's key.
    pub object_key: String,
    /// Its size.
    pub sealed_bytes: u64,
    /// Its digest.
    pub sealed_sha256: Sha256,
    /// What is known of it.
    pub health: Health,
    /// Why.
    pub health_reason: Option<String>,
}

/// A row of another service's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportedBackup {
    /// Where it stands, for messages.
    pub line: u64,
    /// Its number there, which it keeps.
    pub id: BackupId,
    /// The configured target's name.
    pub target: String,
    /// Why it was made.
    pub kind: BackupKind,
    /// How it ended: completed, failed or cancelled.
    pub status: JobStatus,
    /// Its object's key; a completed one has all three.
    pub object_key: Option<String>,
    /// Its size.
    pub sealed_bytes: Option<u64>,
    /// Its digest.
    pub sealed_sha256: Option<Sha256>,
    /// When it was made.
    pub created_at: OffsetDateTime,
    /// What its object turned out to be.
    pub health: Health,
    /// Why, where it is not well.
    pub reason: Option<String>,
}

impl Catalog {
    /// Gives every manifest a row that has none: under the number that it was made under, where that is free. All of
    /// them or, after an error, none.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn adopt(&self, manifests: &[&Manifest]) -> Result<Vec<Adopted>, CatalogError> {
        let doing = "adopt the backups of the store";
        let mut transaction = self.begin(doing).await?;
        lock(&mut transaction).await.map_err(self.failed(doing))?;
        let mut results: Vec<Option<Adopted>> = Vec::new();
        for manifest in manifests {
            results.push(known(&mut transaction, manifest).await?);
        }
        let numbered = numbered(manifests, &results);
        for (index, id) in &numbered {
            let taken = insert(&mut transaction, manifests[*index], Some(*id)).await;
            results[*index] = taken.map_err(self.failed(doing))?.map(Adopted::New);
        }
        // Only now, so that no new number is one of those.
        behind_the_largest(&mut transaction)
            .await
            .map_err(self.failed(doing))?;
        let mut adopted = Vec::new();
        for (manifest, result) in manifests.iter().zip(results) {
            adopted.push(match result {
                Some(result) => result,
                None => match insert(&mut transaction, manifest, None).await {
                    Ok(Some(id)) => Adopted::New(id),
                    Ok(None) => key_taken(&mut transaction, manifest).await?,
                    Err(error) => return Err(self.failed(doing)(error)),
                },
            });
        }
        transaction.commit().await.map_err(self.failed(doing))?;
        Ok(adopted)
    }

    /// Every complete backup that is not about to be deleted, with what its object must be.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn rows_for_reconcile(&self) -> Result<Vec<KnownObject>, CatalogError> {
        let doing = "read the complete backups";
        let mut session = self.session(doing).await?;
        let rows = sqlx::query!(
            r#"SELECT id, origin, uid, object_key AS "object_key!", sealed_bytes AS "sealed_bytes!", sealed_sha256,
                health, health_reason
            FROM pgseal.backups WHERE status = 'completed' AND deletion <> 'deleting' ORDER BY id"#
        );
        let rows = rows.fetch_all(&mut *session).await;
        let rows = rows.map_err(self.failed(doing))?.into_iter();
        rows.map(|row| {
            let strange = |column| CatalogError::Row {
                table: "backup",
                id: row.id,
                column,
            };
            Ok(KnownObject {
                id: BackupId::new(row.id).ok_or_else(|| strange("id"))?,
                origin: Origin::parse(&row.origin).ok_or_else(|| strange("origin"))?,
                uid: row.uid.map(Uid::from),
                sealed_bytes: row.sealed_bytes.unsigned_abs(),
                sealed_sha256: digest(row.sealed_sha256).ok_or_else(|| strange("sealed_sha256"))?,
                health: Health::parse(&row.health).ok_or_else(|| strange("health"))?,
                object_key: row.object_key,
                health_reason: row.health_reason,
            })
        })
        .collect()
    }

    /// Records what is known of a backup's object; whether that is news. What is altered stays that, whatever becomes of one
    /// copy, until a verification finds its content right.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn mark_health(
        &self,
        id: BackupId,
        health: Health,
        reason: Option<&str>,
    ) -> Result<bool, CatalogError> {
        let doing = "record what is known of a backup's object";
        let mut session = self.session(doing).await?;
        let updated = sqlx::query!(
            "UPDATE pgseal.backups SET health = $2, health_reason = $3, health_at = clock_timestamp() \
             WHERE id = $1 AND (health, health_reason) IS DISTINCT FROM ($2, $3) \
                AND NOT (health = 'ALTERED' AND $2 IN ('CORRUPT', 'SUSPICIOUS', 'lost'))",
            id.get(),
            health.as_str(),
            reason
        );
        let updated = updated.execute(&mut *session).await;
        Ok(updated.map_err(self.failed(doing))?.rows_affected() > 0)
    }

    /// Records what reading a backup's object to its end has shown, also where that was known before: `health_at` says since
    /// when nobody has looked.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn record_verification(
        &self,
        id: BackupId,
        health: Health,
        reason: Option<&str>,
    ) -> Result<(), CatalogError> {
        let doing = "record what a verification found";
        let mut session = self.session(doing).await?;
        let updated = sqlx::query!(
            "UPDATE pgseal.backups SET health = $2, health_reason = $3, health_at = clock_timestamp() \
             WHERE id = $1 AND NOT (health = 'ALTERED' AND $2 IN ('CORRUPT', 'lost'))",
            id.get(),
            health.as_str(),
            reason
        );
        let updated = updated.execute(&mut *session).await;
        updated.map(drop).map_err(self.failed(doing))
    }

    /// Records what a drill found, unless a later one is recorded already; whether that is news.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn record_proof(&self, id: BackupId, proof: &Proof) -> Result<bool, CatalogError> {
        let doing = "record what a drill found";
        let mut session = self.session(doing).await?;
        let updated = sqlx::query!(
            "UPDATE pgseal.backups SET proof = $2, proof_reason = $3, proof_at = $4, proof_seconds = $5 \
             WHERE id = $1 AND uid = $6 AND (proof_at IS NULL OR proof_at < $4)",
            id.get(),
            proof.verdict.as_str(),
            proof.reason.as_deref(),
            proof.at,
            proof.seconds,
            uuid::Uuid::from(proof.uid)
        );
        let updated = updated.execute(&mut *session).await;
        Ok(updated.map_err(self.failed(doing))?.rows_affected() > 0)
    }

    /// Takes another service's rows over, under their own numbers: all of them or, after an error, none. Those that
    /// were taken over before stay as they are. How many are new.
    ///
    /// # Errors
    /// [`CatalogError::NotTaken`]: a number or an object belongs to another backup. Or the catalog fails.
    pub async fn import(&self, backups: &[ImportedBackup]) -> Result<u64, CatalogError> {
        let doing = "take the backups over";
        let mut transaction = self.begin(doing).await?;
        lock(&mut transaction).await.map_err(self.failed(doing))?;
        let mut new = 0;
        for backup in backups {
            if is_imported(&mut transaction, backup).await? {
                continue;
            }
            let inserted = insert_imported(&mut transaction, backup).await;
            let inserted = inserted.map_err(self.failed(doing))?;
            if !inserted {
                return Err(CatalogError::NotTaken(format!(
                    "line {}: the object {} belongs to another backup already",
                    backup.line,
                    backup.object_key.as_deref().unwrap_or_default()
                )));
            }
            new += 1;
        }
        behind_the_largest(&mut transaction)
            .await
            .map_err(self.failed(doing))?;
        transaction.commit().await.map_err(self.failed(doing))?;
        Ok(new)
    }
}

/// Nobody else writes until the transaction ends: what is looked up stays so. Leases are renewed a moment later.
async fn lock(session: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query!("LOCK TABLE pgseal.backups IN SHARE ROW EXCLUSIVE MODE")
        .execute(session)
        .await
        .map(drop)
}

/// The next new number is behind every number that is there, and behind every one that was ever given out.
async fn behind_the_largest(session: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "SELECT setval('pgseal.backups_id_seq', greatest(b.id, s.last_value)) \
         FROM pgseal.backups_id_seq s, (SELECT max(id) AS id FROM pgseal.backups) b WHERE b.id IS NOT NULL"
    )
    .fetch_optional(session)
    .await
    .map(drop)
}

/// The row that a manifest has already, or is about to have.
async fn known(
    session: &mut PgConnection,
    manifest: &Manifest,
) -> Result<Option<Adopted>, CatalogError> {
    let doing = "look for the row of a manifest";
    let request = manifest.request.as_ref();
    let row = sqlx::query!(
        r#"SELECT id, status FROM pgseal.backups
        WHERE (uid = $1 AND status IN ('completed', 'running'))
            OR (id = $2 AND attempt = $3 AND status = 'running')
        ORDER BY status LIMIT 1"#,
        Uuid::from(manifest.uid),
        request.map(|request| request.backup_id.get()),
        request.map(|request| counted_small(request.attempt as usize)),
    );
    let row = row.fetch_optional(session).await;
    let Some(row) = row.map_err(|source| CatalogError::Query { doing, source })? else {
        return Ok(None);
    };
    let id = BackupId::new(row.id).ok_or(CatalogError::Row {
        table: "backup",
        id: row.id,
        column: "id",
    })?;
    Ok(Some(if row.status == "running" {
        Adopted::Running(id)
    } else {
        Adopted::Known(id)
    }))
}

/// Which manifests ask for which number. Of two that were made under one number, the later try has it.
fn numbered(manifests: &[&Manifest], results: &[Option<Adopted>]) -> BTreeMap<usize, BackupId> {
    let mut asked: Vec<(u32, BackupId, usize)> = Vec::new();
    for (index, (manifest, result)) in manifests.iter().zip(results).enumerate() {
        if let (Some(request), None) = (&manifest.request, result) {
            asked.push((request.attempt, request.backup_id, index));
        }
    }
    asked.sort_by(|one, other| other.cmp(one));
    let mut given = BTreeSet::new();
    asked
        .into_iter()
        .filter(|(_, id, _)| given.insert(*id))
        .map(|(_, id, index)| (index, id))
        .collect()
}

/// Inserts a manifest's row; `None` where its number or its object is taken.
async fn insert(
    session: &mut PgConnection,
    manifest: &Manifest,
    id: Option<BackupId>,
) -> Result<Option<BackupId>, sqlx::Error> {
    let request = manifest.request.as_ref();
    let requested_by = request.map_or(COMMAND_LINE, |request| &request.requested_by);
    let attempt = request.map_or(1, |request| request.attempt.max(1));
    let inserted = sqlx::query_scalar!(
        r#"INSERT INTO pgseal.backups (id, target, kind, origin, requested_by, labels, excluded_table_data, status,
            attempt, attempts_max, uid, object_key, store_version_id, database, server_version, pg_dump_version,
            pgseal_version, compression, plain_bytes, plain_sha256, sealed_bytes, sealed_sha256, tables, "rows",
            large_objects, warnings, snapshot_at, stored_at, created_at, started_at, finished_at)
        SELECT coalesce($1, nextval('pgseal.backups_id_seq')), $2, $3, 'adopted', $4, $5, $6, 'completed', $7, $7, $8,
            $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $24, $24, $25
        ON CONFLICT DO NOTHING RETURNING id"#,
        id.map(BackupId::get),
        manifest.target,
        manifest.kind.as_str(),
        requested_by,
        serde_json::json!(manifest.labels),
        &manifest.excluded_table_data,
        counted_small(attempt as usize),
        Uuid::from(manifest.uid),
        manifest.object_key,
        manifest.store_version_id,
        manifest.database.name,
        manifest.versions.server,
        manifest.versions.pg_dump,
        manifest.versions.pgseal,
        manifest.compression,
        counted(manifest.plain_bytes),
        manifest.plain_sha256.0.as_slice(),
        counted(manifest.sealed_bytes),
        manifest.sealed_sha256.0.as_slice(),
        counted_small(manifest.tables.len()),
        manifest.row_count().map(counted),
        counted(manifest.large_objects),
        &manifest.warnings,
        manifest.started_at,
        manifest.finished_at,
    );
    Ok(inserted
        .fetch_optional(session)
        .await?
        .and_then(BackupId::new))
}

/// The complete backup whose row names the object that this manifest stands beside.
async fn key_taken(
    session: &mut PgConnection,
    manifest: &Manifest,
) -> Result<Adopted, CatalogError> {
    let doing = "look for the row of an object";
    let id = sqlx::query_scalar!(
        "SELECT id FROM pgseal.backups WHERE object_key = $1 AND status = 'completed'",
        manifest.object_key
    );
    let id = id.fetch_one(session).await;
    let id = id.map_err(|source| CatalogError::Query { doing, source })?;
    let strange = CatalogError::Row {
        table: "backup",
        id,
        column: "id",
    };
    BackupId::new(id).map(Adopted::KeyTaken).ok_or(strange)
}

/// Whether this very backup was taken over before.
async fn is_imported(
    session: &mut PgConnection,
    backup: &ImportedBackup,
) -> Result<bool, CatalogError> {
    let doing = "look for a backup that was taken over before";
    let row = sqlx::query!(
        "SELECT origin, object_key, status, sealed_sha256 FROM pgseal.backups WHERE id = $1",
        backup.id.get()
    );
    let row = row.fetch_optional(session).await;
    let Some(row) = row.map_err(|source| CatalogError::Query { doing, source })? else {
        return Ok(false);
    };
    let same = row.origin == Origin::Imported.as_str()
        && row.object_key == backup.object_key
        && row.status == backup.status.as_str()
        && digest(row.sealed_sha256) == backup.sealed_sha256;
    if same {
        return Ok(true);
    }
    Err(CatalogError::NotTaken(format!(
        "line {}: the catalog has another backup {} already",
        backup.line, backup.id
    )))
}

/// Inserts a row of another service; whether its object was free.
async fn insert_imported(
    session: &mut PgConnection,
    backup: &ImportedBackup,
) -> Result<bool, sqlx::Error> {
    let failed = (backup.status == JobStatus::Failed).then_some("another service");
    let inserted = sqlx::query!(
        "INSERT INTO pgseal.backups (id, target, kind, origin, requested_by, status, object_key, sealed_bytes, \
            sealed_sha256, health, health_reason, health_at, error_stage, error, created_at, started_at, finished_at) \
         VALUES ($1, $2, $3, 'imported', 'import', $4, $5, $6, $7, $8, $9, clock_timestamp(), $10, $11, $12, $12, $12) \
         ON CONFLICT DO NOTHING",
        backup.id.get(),
        backup.target,
        backup.kind.as_str(),
        backup.status.as_str(),
        backup.object_key,
        backup.sealed_bytes.map(counted),
        backup.sealed_sha256.map(|digest| digest.0.to_vec()),
        backup.health.as_str(),
        backup.reason.as_deref().filter(|_| failed.is_none()),
        failed,
        failed.map(|_| backup.reason.as_deref().unwrap_or("it failed there")),
        backup.created_at,
    );
    Ok(inserted.execute(session).await?.rows_affected() > 0)
}
