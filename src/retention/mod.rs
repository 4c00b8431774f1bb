//! Retention: which backups are kept, which go, and why; and their going.
//!
//! First a plan, which is data and touches nothing, then its carrying out, which asks the catalog once more about each
//! backup. It works on a store alone as well: then nobody can be asked whether a restore needs one.

mod delete;
mod plan;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use time::OffsetDateTime;

pub use delete::{DeleteError, delete};
pub use plan::{Candidate, Circumstances, Decision, Plan, Verdict, What, name, plan};

use crate::catalog::{
    Catalog, CatalogError, Deletion, Health, LastGood, ProofState, RetainedRow, Task,
};
use crate::model::explanation::explain;
use crate::model::ids::{BackupId, Uid};
use crate::model::kind::BackupKind;
use crate::model::manifest::Manifest;
use crate::model::moment::moment;
use crate::model::object_key::ObjectKey;
use crate::model::policy::Policy;
use crate::model::proof::Proof;
use crate::model::suspicion::{Measured, suspicious};
use crate::store::StoreError;
use crate::vault::{Bare, Entry, Mark, Marks, Vault, VaultError};

/// Where retention looks, and by which policy.
#[derive(Clone)]
pub struct Retention {
    /// The target's backups.
    pub vault: Vault,
    /// Who needs them; `None`: nobody can be asked.
    pub catalog: Option<Catalog>,
    /// The target's name.
    pub target: String,
    /// How long backups are kept.
    pub policy: Policy,
    /// The one clock.
    pub clock: fn() -> OffsetDateTime,
}

/// What somebody wants beyond the policy.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wishes {
    /// Foreign objects that are old enough may go.
    pub include_foreign: bool,
    /// More may go at once than would stay.
    pub many: bool,
}

/// What was carried out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Keys of what is gone.
    pub deleted: Vec<String>,
    /// Versions of objects that were deleted with them.
    pub versions: u64,
    /// What was needed after all, and why.
    pub needed: Vec<(String, String)>,
    /// What the store does not let go yet, and what it said.
    pub locked: Vec<(String, String)>,
    /// What could not be deleted, and why. It is tried again.
    pub failed: Vec<(String, String)>,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum RetentionError {
    /// The catalog fails.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The store fails, or no passphrase is set.
    #[error(transparent)]
    Vault(#[from] VaultError),
}

impl Retention {
    /// Decides about everything that is in the store.
    ///
    /// # Errors
    /// The store or the catalog fails: nothing is decided from half of the facts.
    pub async fn plan(&self, wishes: Wishes) -> Result<Plan, RetentionError> {
        self.vault.current_passphrase()?;
        let marks = self.vault.marks().await?;
        let entries = self.vault.list().await?;
        let mut known = Known {
            proofs: self.vault.proofs().await?,
            ..self.known(&entries).await?
        };
        // Half of the facts is what only one of the two stores says.
        let copies = self.vault.copies().await?;
        // Nor is a copy there because it once was.
        for (key, row) in &mut known.rows {
            row.is_copied &= ObjectKey::parse(key).is_ok_and(|key| copies.contains_key(&key));
        }
        let in_rows = known.rows.values().filter_map(|row| row.uid).collect();
        let measured: Vec<Measured> = complete(&entries).map(Measured::from).collect();
        let strange = suspicious(&measured, &marks.accepted);
        let now = (self.clock)();
        let candidates = entries
            .iter()
            .filter_map(|entry| candidate(entry, &known, &marks, &strange, now))
            .map(|candidate| kept_for_its_copy(candidate, &copies))
            .collect();
        let store_now = self.vault.store_time(Uid::new(now)).await?;
        let circumstances = Circumstances {
            policy: self.policy,
            now,
            store_now: Some(store_now),
            include_foreign: wishes.include_foreign,
            many: wishes.many,
        };
        Ok(Plan {
            stale_marks: stale(&marks, &entries, &in_rows),
            ..plan(candidates, &circumstances)
        })
    }

    /// Deletes what is due, unless the plan is held. One that cannot be deleted keeps no other from it.
    ///
    /// # Errors
    /// The catalog cannot be asked which deletions are not done, or the store lists nothing.
    pub async fn carry_out(&self, plan: &Plan) -> Result<Pruned, RetentionError> {
        let mut pruned = Pruned::default();
        self.go_on(&mut pruned).await?;
        if plan.held.is_empty() {
            for decision in plan.due() {
                let of = &decision.of;
                let deleted = self.delete_one(of).await;
                sort_in(&of.key, deleted, &mut pruned);
            }
        }
        for (mark, uid) in &plan.stale_marks {
            self.vault.unmark(*mark, *uid).await?;
        }
        Ok(pruned)
    }

    /// Goes on with deletions that were interrupted, whoever began them.
    ///
    /// # Errors
    /// The catalog cannot be asked which.
    pub async fn go_on(&self, pruned: &mut Pruned) -> Result<(), RetentionError> {
        let Some(catalog) = &self.catalog else {
            return Ok(());
        };
        for id in catalog.deleting(Some(&self.target)).await? {
            let row = catalog.backup(id).await?;
            let key = row.and_then(|row| row.object_key);
            let key = key.unwrap_or_else(|| format!("backup {id}"));
            let deleted = delete(&self.vault, catalog, id, LastGood::Kept).await;
            sort_in(&key, deleted, pruned);
        }
        Ok(())
    }

    async fn delete_one(&self, of: &Candidate) -> Result<Option<u64>, DeleteError> {
        let key = ObjectKey::parse(&of.key).map_err(|_| VaultError::BadKey(of.key.clone()))?;
        if matches!(of.what, What::Unfinished | What::Foreign) {
            let manifest = key.manifest_key();
            if let Some(manifest) = manifest {
                let head = self.vault.store.head(&manifest).await;
                if head.map_err(VaultError::from)?.is_some() {
                    return Err(DeleteError::Completed);
                }
            }
        }
        if let (Some(catalog), Some(id)) = (&self.catalog, of.id) {
            return delete(&self.vault, catalog, id, LastGood::Kept).await;
        }
        // What has no manifest has no copy either, or one that is better than it.
        if matches!(of.what, What::Unfinished | What::Foreign | What::Headless) {
            return Ok(Some(self.vault.delete_here(&key).await?));
        }
        Ok(Some(self.vault.delete_key(&key, of.uid).await?))
    }

    /// Every complete backup gets a row first, as housekeeping would give it one: without, nobody could keep it from being
    /// deleted.
    async fn known(&self, entries: &[Entry]) -> Result<Known, RetentionError> {
        let Some(catalog) = &self.catalog else {
            return Ok(Known::default());
        };
        let mut oldest_first: Vec<&Manifest> = complete(entries).collect();
        oldest_first.sort_by_key(|manifest| (manifest.started_at, manifest.uid));
        catalog.adopt(&oldest_first).await?;
        let keys: Vec<&str> = entries.iter().map(Entry::key).collect();
        let rows = catalog.retained(&self.target, &keys).await?;
        let running = catalog.running().await?.into_iter();
        Ok(Known {
            target: Some(self.target.clone()),
            rows: rows
                .into_iter()
                .map(|row| (row.object_key.clone(), row))
                .collect(),
            running: running
                .filter_map(|row| match row.task {
                    Task::Backup(id) => Some((row.object_key?, id)),
                    Task::Restore(_) => None,
                })
                .collect(),
            proofs: BTreeMap::new(),
        })
    }
}

/// What is known beside the manifests, by the dump's key.
#[derive(Default)]
struct Known {
    /// The target whose rows these are; `None`: there is no catalog.
    target: Option<String>,
    rows: BTreeMap<String, RetainedRow>,
    running: BTreeMap<String, BackupId>,
    /// What drills found, as it stands beside the dumps.
    proofs: BTreeMap<ObjectKey, Proof>,
}

fn complete(entries: &[Entry]) -> impl Iterator<Item = &Manifest> {
    entries.iter().filter_map(|entry| match entry {
        Entry::Complete(manifest) => Some(&**manifest),
        _ => None,
    })
}

/// Marks of backups that are gone say nothing any more. Where a manifest cannot be read, nobody knows whose they are; and what
/// has a row may be in the second store.
fn stale(marks: &Marks, entries: &[Entry], rows: &BTreeSet<Uid>) -> Vec<(Mark, Uid)> {
    let mut there = rows.clone();
    for entry in entries {
        match entry {
            Entry::Complete(manifest) | Entry::Lost(manifest) => there.insert(manifest.uid),
            Entry::Unreadable { .. } => return Vec::new(),
            Entry::Foreign(_) | Entry::Unfinished(_) => continue,
        };
    }
    let of = |mark, marked: &BTreeSet<Uid>| -> Vec<(Mark, Uid)> {
        marked.difference(&there).map(|uid| (mark, *uid)).collect()
    };
    let mut stale = of(Mark::Accepted, &marks.accepted);
    stale.extend(of(Mark::Released, &marks.released));
    stale
}

/// An entry as a plan looks at it; `None`: it is being deleted, and no plan may count on it.
fn candidate(
    entry: &Entry,
    known: &Known,
    marks: &Marks,
    strange: &BTreeMap<Uid, String>,
    now: OffsetDateTime,
) -> Option<Candidate> {
    let row = known.rows.get(entry.key());
    if row.is_some_and(|row| row.deletion == Deletion::Deleting) {
        return None;
    }
    let mut proven_at = None;
    let (uid, bytes, what) = match entry {
        Entry::Complete(manifest) => {
            let row = row.filter(|row| is_of(row, manifest));
            let key = ObjectKey::parse(entry.key()).ok();
            let beside = key.and_then(|key| known.proofs.get(&key));
            let (proof, proof_at) = trial(manifest.uid, row, beside);
            proven_at = proof_at.filter(|_| proof == ProofState::Proven);
            let strange = strange.get(&manifest.uid).cloned();
            (
                Some(manifest.uid),
                manifest.sealed_bytes,
                what(manifest.kind, row, proof, strange),
            )
        }
        Entry::Lost(manifest) => (
            Some(manifest.uid),
            0,
            What::Unknown("its dump is not in the store".to_owned()),
        ),
        Entry::Unreadable { reason, .. } => (
            None,
            0,
            What::Unknown(format!("its manifest cannot be read: {reason}")),
        ),
        // One whose row has no uid never had a manifest.
        Entry::Unfinished(bare) | Entry::Foreign(bare)
            if row.is_some_and(|row| row.uid.is_some()) =>
        {
            (None, bare.bytes, What::Headless)
        }
        Entry::Foreign(bare) => (None, bare.bytes, What::Foreign),
        Entry::Unfinished(bare) => (None, bare.bytes, What::Unfinished),
    };
    let group = match entry {
        Entry::Complete(manifest) => Some(Measured::from(&**manifest).of),
        _ => None,
    };
    Some(Candidate {
        key: entry.key().to_owned(),
        uid,
        id: row.map(|row| row.id),
        what,
        group,
        made_at: entry.made_at(),
        bytes,
        proven_at,
        pins: pins(entry, row, known, marks, now),
    })
}

/// What lost its manifest here is no litter where the second store has the whole backup.
fn kept_for_its_copy(candidate: Candidate, copies: &BTreeMap<ObjectKey, u64>) -> Candidate {
    let is_bare = matches!(candidate.what, What::Unfinished | What::Headless);
    let key = ObjectKey::parse(&candidate.key).ok();
    if !is_bare || !key.is_some_and(|key| copies.contains_key(&key)) {
        return candidate;
    }
    Candidate {
        what: What::Unknown("its manifest is in the second store alone".to_owned()),
        ..candidate
    }
}

/// Whether a row is this backup's: one of another object under the same key tells nothing of it.
fn is_of(row: &RetainedRow, manifest: &Manifest) -> bool {
    row.uid.is_none_or(|uid| uid == manifest.uid)
}

/// What the last drill found, and when. The row does not know those that asked no catalog, and what stands beside the dump
/// may be an older one.
fn trial(
    uid: Uid,
    row: Option<&RetainedRow>,
    beside: Option<&Proof>,
) -> (ProofState, Option<OffsetDateTime>) {
    let of_row = row.map_or((ProofState::Unproven, None), |row| {
        (row.proof, row.proof_at)
    });
    let beside = beside.filter(|proof| proof.uid == uid);
    let beside = beside.and_then(|proof| {
        let state = ProofState::parse(proof.verdict.as_str())?;
        Some((state, Some(proof.at)))
    });
    match beside {
        Some(beside) if beside.1 > of_row.1 => beside,
        _ => of_row,
    }
}

fn what(
    kind: BackupKind,
    row: Option<&RetainedRow>,
    proof: ProofState,
    strange: Option<String>,
) -> What {
    let reason = |row: &RetainedRow| {
        row.health_reason
            .clone()
            .unwrap_or_else(|| row.health.to_string())
    };
    // What looks wrong holds everything, and a damaged one does not: being both must not let the good ones go.
    if let Some(strange) = strange {
        return What::Suspicious(kind, strange);
    }
    match row {
        Some(row) if row.health == Health::Suspicious => What::Suspicious(kind, reason(row)),
        // It is as good as its copy.
        Some(row) if matches!(row.health, Health::Corrupt | Health::Lost) && row.is_copied => {
            What::Good(kind)
        }
        Some(row) if !matches!(row.health, Health::Ok) => What::Damaged(kind, reason(row)),
        _ if proof == ProofState::Failed => What::Damaged(kind, "its trial failed".to_owned()),
        _ => What::Good(kind),
    }
}

/// Why an entry must stay whatever the policy.
fn pins(
    entry: &Entry,
    row: Option<&RetainedRow>,
    known: &Known,
    marks: &Marks,
    now: OffsetDateTime,
) -> Vec<String> {
    let mut pins = Vec::new();
    if row.is_some_and(|row| row.is_needed) {
        pins.push("a restore needs it, or somebody reads it".to_owned());
    }
    let locked = row.and_then(|row| row.locked_until);
    if let Some(until) = locked.filter(|until| *until > now) {
        pins.push(format!("the store keeps it until {}", moment(until)));
    }
    if let (Some(target), Some(row)) = (&known.target, row) {
        if row.target != *target {
            pins.push(format!("the catalog has it under target {}", row.target));
        }
    }
    match entry {
        Entry::Complete(manifest)
            if known.target.is_some() && !row.is_some_and(|row| is_of(row, manifest)) =>
        {
            pins.push("the catalog does not have it, so nobody can say who needs it".to_owned());
        }
        Entry::Complete(manifest)
            if manifest.kind == BackupKind::PreRestore
                && !marks.released.contains(&manifest.uid) =>
        {
            pins.push(format!(
                "what was there before a restore; pgseal release {} lets it go",
                manifest.name
            ));
        }
        Entry::Unfinished(Bare { key, .. }) if known.running.contains_key(key.as_str()) => {
            pins.push("it is being made".to_owned());
        }
        _ => {}
    }
    pins
}

fn sort_in(key: &str, deleted: Result<Option<u64>, DeleteError>, pruned: &mut Pruned) {
    let key = key.to_owned();
    match deleted {
        Ok(Some(versions)) => {
            pruned.versions += versions;
            pruned.deleted.push(key);
        }
        // Somebody else deleted it meanwhile.
        Ok(None) | Err(DeleteError::Catalog(CatalogError::NoSuchBackup(_))) => {}
        Err(error @ DeleteError::Completed) => pruned.needed.push((key, explain(&error))),
        Err(DeleteError::Catalog(error @ CatalogError::Needed { .. })) => {
            pruned.needed.push((key, explain(&error)));
        }
        Err(error @ DeleteError::Vault(VaultError::Store(StoreError::Locked { .. }))) => {
            pruned.locked.push((key, explain(&error)));
        }
        Err(error) => pruned.failed.push((key, explain(&error))),
    }
}
