//! The bucket and the catalog, brought together: what one has and the other lacks is found both ways, said, and recorded.
//!
//! The bucket is the truth about backups. An object with a manifest and without a row gets a row; a row without its
//! object says so from then on; an object that is not the one that its row tells of is never taken for it. Nothing here
//! deletes a backup or a row.

mod error;
mod import;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

pub use error::{BadLine, ReconcileError};
pub use import::{Imported, import};

use crate::catalog::{Adopted, Catalog, Health, KnownObject, Origin};
use crate::model::alert::Alert;
use crate::model::ids::BackupId;
use crate::model::kind::BackupKind;
use crate::model::manifest::Manifest;
use crate::model::object_key::ObjectKey;
use crate::model::proof::Proof;
use crate::model::suspicion::{Measured, suspicion};
use crate::store::StoreError;
use crate::vault::{Entry, Vault, VaultError};

/// Nothing that still goes on is without a new part for this long: one part is tried for 45 minutes.
const STALE_AFTER: Duration = Duration::from_hours(24);
/// What a row says of an object that is not there any more.
const GONE: &str = "its object is not in the store";
/// What a row says of an object that stands there alone.
const WITHOUT_MANIFEST: &str = "its manifest is not in the store";

/// What was found and done. Backups are named by their rows' numbers, objects by their keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Reconciled {
    /// Complete backups in the store.
    pub complete: u64,
    /// Those that got a row now.
    pub adopted: Vec<BackupAt>,
    /// Rows whose object is gone, since now.
    pub lost: Vec<BackupAt>,
    /// Rows whose object is another one, since now.
    pub corrupt: Vec<BackupAt>,
    /// Rows whose object stands there without its manifest, since now; and new ones that are far smaller than the one before.
    pub suspicious: Vec<BackupAt>,
    /// Rows whose object is back, as it was.
    pub found_again: Vec<BackupAt>,
    /// Objects that were never completed.
    pub unfinished: Vec<String>,
    /// Manifests that cannot be read, or do not belong where they stand.
    pub unreadable: Vec<String>,
    /// Manifests whose dump is gone and that have no row.
    pub lost_without_row: Vec<String>,
    /// Objects that somebody else put there.
    pub foreign: Vec<String>,
    /// Uploads that were killed a day ago or longer, and are removed now.
    pub stale_uploads_removed: u64,
}

/// A row and the object that it tells of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BackupAt {
    /// The row's number.
    pub id: BackupId,
    /// The sealed dump's key.
    pub object_key: String,
}

/// What [`rebuild`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Rebuilt {
    /// Complete backups in the store.
    pub complete: u64,
    /// Those that got a row now.
    pub adopted: Vec<BackupAt>,
    /// Those that had one.
    pub known: u64,
    /// Those whose key another backup's row names: `pgseal catalog reconcile` tells more.
    pub key_taken: Vec<BackupAt>,
    /// Manifests that cannot be read, or do not belong where they stand.
    pub unreadable: Vec<String>,
}

/// Makes rows for the backups in the store from their manifests alone: under the numbers that they were made under.
///
/// # Errors
/// The store or the catalog fails; then no row was made.
pub async fn rebuild(vault: &Vault, catalog: &Catalog) -> Result<Rebuilt, ReconcileError> {
    vault.current_passphrase()?;
    let mut rebuilt = Rebuilt::default();
    let mut complete = Vec::new();
    for entry in vault.list().await? {
        match entry {
            Entry::Complete(manifest) => complete.push(*manifest),
            Entry::Unreadable { key, .. } => rebuilt.unreadable.push(key.to_string()),
            Entry::Lost(_) | Entry::Foreign(_) | Entry::Unfinished(_) => {}
        }
    }
    rebuilt.complete = complete.len() as u64;
    let proofs = vault.proofs().await?;
    for (manifest, adopted) in adopt(catalog, &complete).await? {
        if let Adopted::New(id) | Adopted::Known(id) = &adopted {
            take_proof(catalog, *id, manifest, &proofs).await?;
        }
        match adopted {
            Adopted::New(id) => rebuilt.adopted.push(at(id, &manifest.object_key)),
            Adopted::Known(_) | Adopted::Running(_) => rebuilt.known += 1,
            Adopted::KeyTaken(id) => rebuilt.key_taken.push(at(id, &manifest.object_key)),
        }
    }
    Ok(rebuilt)
}

/// What a drill found stands beside the backup; a drill by the command line told no catalog.
async fn take_proof(
    catalog: &Catalog,
    id: BackupId,
    manifest: &Manifest,
    proofs: &BTreeMap<ObjectKey, Proof>,
) -> Result<bool, ReconcileError> {
    let key = ObjectKey::parse(&manifest.object_key).ok();
    match key.and_then(|key| proofs.get(&key)) {
        Some(proof) if proof.uid == manifest.uid => Ok(catalog.record_proof(id, proof).await?),
        _ => Ok(false),
    }
}

/// Compares the store with the catalog, both ways, and records what differs.
///
/// # Errors
/// The store or the catalog fails. What was recorded until then is true, and a second run goes on.
pub async fn reconcile(vault: &Vault, catalog: &Catalog) -> Result<Reconciled, ReconcileError> {
    vault.current_passphrase()?;
    let mut done = Reconciled::default();
    // The store first: a backup that is completed meanwhile has a row then whose object is looked for by itself.
    let mut entries = BTreeMap::new();
    let mut complete = Vec::new();
    for entry in vault.list().await? {
        if let Entry::Complete(manifest) = &entry {
            complete.push((**manifest).clone());
        }
        entries.insert(entry.key().to_owned(), entry);
    }
    done.complete = complete.len() as u64;
    let proofs = vault.proofs().await?;
    for (manifest, adopted) in adopt(catalog, &complete).await? {
        if let Adopted::New(id) | Adopted::Known(id) = &adopted {
            take_proof(catalog, *id, manifest, &proofs).await?;
        }
        if let Adopted::New(id) = adopted {
            done.adopted.push(at(id, &manifest.object_key));
            if look_at_the_size(catalog, id, manifest).await? {
                done.suspicious.push(at(id, &manifest.object_key));
            }
        }
    }
    let rows = catalog.rows_for_reconcile().await?;
    for row in &rows {
        let found = look(vault, row, entries.get(&row.object_key)).await?;
        record(catalog, row, found, &mut done).await?;
    }
    let has_row = |key: &str| rows.iter().any(|row| row.object_key == key);
    for (key, entry) in entries {
        match entry {
            Entry::Unfinished(_) => done.unfinished.push(key),
            Entry::Unreadable { .. } => done.unreadable.push(key),
            Entry::Lost(_) if !has_row(&key) => done.lost_without_row.push(key),
            Entry::Foreign(_) if !has_row(&key) => done.foreign.push(key),
            Entry::Complete(_) | Entry::Lost(_) | Entry::Foreign(_) => {}
        }
    }
    // What goes on for longer than a day without a part is rare; what the catalog knows to go on is left alone all the same.
    let running = catalog.running().await?;
    if running.iter().all(|job| job.is_expired) {
        let prefix = vault.layout.listing_prefix();
        let removed = vault.store.abort_stale_uploads(&prefix, STALE_AFTER).await;
        done.stale_uploads_removed = removed.map_err(VaultError::from)?;
    }
    Ok(done)
}

/// Whether a backup that the command line made is far smaller than the one before: nobody but us can say so in the catalog.
async fn look_at_the_size(
    catalog: &Catalog,
    id: BackupId,
    manifest: &Manifest,
) -> Result<bool, ReconcileError> {
    if manifest.kind == BackupKind::PreRestore {
        return Ok(false);
    }
    let before = catalog.measure_before(id).await?;
    let now = Measured::from(manifest).measure;
    let Some(reason) = before.and_then(|before| suspicion(&now, &before)) else {
        return Ok(false);
    };
    catalog
        .mark_health(id, Health::Suspicious, Some(&reason))
        .await?;
    let event = Alert::BackupSuspicious {
        target: manifest.target.clone(),
        backup: id,
        reason,
    };
    catalog.record_event(&event).await?;
    Ok(true)
}

fn at(id: BackupId, object_key: &str) -> BackupAt {
    BackupAt {
        id,
        object_key: object_key.to_owned(),
    }
}

/// Oldest first, so that new numbers follow the order in which the backups were made.
async fn adopt<'a>(
    catalog: &Catalog,
    complete: &'a [Manifest],
) -> Result<Vec<(&'a Manifest, Adopted)>, ReconcileError> {
    let mut oldest_first: Vec<&Manifest> = complete.iter().collect();
    oldest_first.sort_by_key(|manifest| (manifest.started_at, manifest.uid));
    let adopted = catalog.adopt(&oldest_first).await?;
    Ok(oldest_first.into_iter().zip(adopted).collect())
}

/// What became of a row's object.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Found {
    /// It is there and, as far as can be told without reading it, the one.
    Same,
    /// It is not there.
    Gone,
    /// It is there without its manifest.
    WithoutManifest,
    /// Something else is there.
    Other(String),
    /// It is there; whether it is the one cannot be told, because its manifest cannot be read.
    Unknown,
}

async fn look(
    vault: &Vault,
    row: &KnownObject,
    entry: Option<&Entry>,
) -> Result<Found, ReconcileError> {
    match entry {
        Some(Entry::Complete(manifest)) => return Ok(compare(row, manifest)),
        Some(Entry::Lost(_)) => return Ok(Found::Gone),
        _ => {}
    }
    // Without a manifest, and for what is in no listing of this target or came after it, the object is asked itself.
    let Ok(key) = ObjectKey::parse(&row.object_key) else {
        return Ok(Found::Gone);
    };
    let head = vault.store.head(&key).await;
    let Some(head) = head.map_err(VaultError::from)? else {
        return Ok(Found::Gone);
    };
    if head.bytes != row.sealed_bytes {
        return Ok(Found::Other(format!(
            "its object has {} bytes, {} were recorded",
            head.bytes, row.sealed_bytes
        )));
    }
    if let (Some(recorded), Some(carried)) = (row.uid, head.uid) {
        if recorded != carried {
            return Ok(Found::Other(format!(
                "its object carries the uid {carried}, {recorded} was recorded"
            )));
        }
    }
    Ok(match entry {
        Some(Entry::Unreadable { .. }) => Found::Unknown,
        _ if row.origin == Origin::Imported => Found::Same,
        Some(_) => Found::WithoutManifest,
        None => match vault.read_manifest(&key).await {
            Ok(manifest) => compare(row, &manifest),
            Err(VaultError::Store(StoreError::NotFound { .. })) => Found::WithoutManifest,
            Err(error) if error.is_verdict() => Found::Unknown,
            Err(error) => return Err(error.into()),
        },
    })
}

/// Row 69 of the faults: an older version of the same key is whole, and not what the row tells of.
fn compare(row: &KnownObject, manifest: &Manifest) -> Found {
    if row.uid.is_some_and(|uid| uid != manifest.uid) {
        return Found::Other(format!(
            "its object is another backup, with the uid {}",
            manifest.uid
        ));
    }
    if row.sealed_sha256 != manifest.sealed_sha256 || row.sealed_bytes != manifest.sealed_bytes {
        return Found::Other(format!(
            "its manifest says {} bytes with the SHA-256 {}, other ones were recorded",
            manifest.sealed_bytes, manifest.sealed_sha256
        ));
    }
    Found::Same
}

async fn record(
    catalog: &Catalog,
    row: &KnownObject,
    found: Found,
    done: &mut Reconciled,
) -> Result<(), ReconcileError> {
    let from_here = row.health == Health::Lost
        || row.health == Health::Suspicious
            && row.health_reason.as_deref() == Some(WITHOUT_MANIFEST);
    let (health, reason, list) = match found {
        Found::Unknown => return Ok(()),
        // What a proof or a comparison found wrong does not become right by being there.
        Found::Same if !from_here => return Ok(()),
        Found::Same => (Health::Ok, None, &mut done.found_again),
        Found::Gone | Found::WithoutManifest
            if matches!(row.health, Health::Corrupt | Health::Altered) =>
        {
            return Ok(());
        }
        Found::Gone => (Health::Lost, Some(GONE.to_owned()), &mut done.lost),
        Found::WithoutManifest => (
            Health::Suspicious,
            Some(WITHOUT_MANIFEST.to_owned()),
            &mut done.suspicious,
        ),
        Found::Other(reason) => (Health::Corrupt, Some(reason), &mut done.corrupt),
    };
    if catalog
        .mark_health(row.id, health, reason.as_deref())
        .await?
    {
        list.push(at(row.id, &row.object_key));
    }
    Ok(())
}
