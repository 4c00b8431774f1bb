//! The job that copies a backup into the second store, and the look for backups that have no copy there. Neither changes
//! how a backup ended.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::supervise::{Reason, Running, Supervised};
use super::tasks::{Ending, dict, number, panicked};
use super::{Stop, Worker};
use crate::catalog::{Again, AtFault, BackupRow, Health};
use crate::model::explanation::explain;
use crate::model::ids::BackupId;
use crate::model::manifest::Manifest;
use crate::model::object_key::ObjectKey;
use crate::progress::Progress;
use crate::queue::consumer::Taken;
use crate::queue::value::Value;
use crate::store::Store;
use crate::vault::{Copied, CopyError, VaultError, Which};

/// So many copies are asked for at once, so that they do not stand before everything else in the queue. The next look asks for
/// the next ones.
const COPIES_AT_ONCE: u32 = 5;

/// Whether more backups may wait for their copies than were asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    Nothing,
    More,
}

impl Worker {
    /// Asks for the copy of a backup that is complete, where there is a second store.
    pub(super) async fn ask_for_copy(&self, id: BackupId) {
        if self.stages.vault.second.is_none() {
            return;
        }
        let asked = async {
            let wanted = self.dispatch.catalog.copy_wanted(id).await;
            wanted.map_err(|error| explain(&error))?;
            let asked = self.dispatch.copy(id, self.now()).await;
            asked.map_err(|error| explain(&error))
        };
        if let Err(reason) = asked.await {
            tracing::warn!(backup.id = %id, reason, "The copy of a backup waits for housekeeping");
        }
    }

    /// Copies a backup, and writes what came of it into its row.
    pub(super) async fn run_copy(&self, taken: &Taken, id: BackupId, stop: &Stop) -> Ending {
        let key = match self.object_key(id).await {
            Ok(key) => key,
            Err(text) => return Ending::Failed(text).or_retry(taken),
        };
        let progress = Arc::new(Progress::default());
        let running = Running::without_row(taken, self.dispatch.time_limit, &progress);
        let cancel = running.cancel.clone();
        let known = match self.dispatch.catalog.backup(id).await {
            Ok(row) => row.filter(BackupRow::is_damaged),
            Err(error) => return Ending::Failed(explain(&error)).or_retry(taken),
        };
        let copying = self.copy_or_find(&key, known.as_ref(), &progress, &cancel);
        let work = Box::pin(self.pinned(taken, id, copying));
        match self.supervise(running, stop, work).await {
            Supervised::Done(Ok(Ok(came))) | Supervised::Ended(_, Some(Ok(Ok(came)))) => match came
            {
                Came::Copied(copied) => self.copied(taken, id, &copied).await,
                Came::Found(found) => self.found_in_second(taken, id, &found).await,
            },
            Supervised::Done(Err(error)) => Ending::Failed(explain(&error)).or_retry(taken),
            Supervised::Done(Ok(Err(error))) => self.not_copied(taken, id, &error).await,
            Supervised::Ended(Reason::ShuttingDown, _) => Ending::GivenBack,
            Supervised::Ended(Reason::TimeLimit(limit), _) => {
                let text = format!("the copy took longer than {} s", limit.as_secs());
                self.copy_failed(taken, id, (AtFault::Second, text)).await
            }
            Supervised::Ended(..) => Ending::Stopped("Job stopped by user".to_owned()),
            Supervised::Panicked(said) => {
                let text = panicked(&said);
                self.copy_failed(taken, id, (AtFault::Second, text)).await
            }
        }
    }

    /// Copies a backup; where its first copy turns out to be damaged or gone, or was known so, reads the second one to its end.
    async fn copy_or_find(
        &self,
        key: &ObjectKey,
        damaged: Option<&BackupRow>,
        progress: &Arc<Progress>,
        cancel: &CancellationToken,
    ) -> Result<Came, CopyError> {
        if let Some(row) = damaged {
            let why = row.health_reason.clone().unwrap_or_default();
            if let Some(found) = self.find(key, (row.health, why), progress, cancel).await? {
                return Ok(Came::Found(found));
            }
        }
        let vault = &self.stages.vault;
        let error = match vault.copy(key, progress, cancel).await {
            Ok(copied) => return Ok(Came::Copied(copied)),
            Err(error) => error,
        };
        let health = match &error {
            CopyError::First { source, .. } => found_out(source),
            _ => None,
        };
        let Some(health) = health else {
            return Err(error);
        };
        let found = self.find(key, (health, explain(&error)), progress, cancel);
        found.await?.map(Came::Found).ok_or(error)
    }

    /// The second copy, read to its end; `None`: it is not there, or not whole.
    async fn find(
        &self,
        key: &ObjectKey,
        (health, why): (Health, String),
        progress: &Arc<Progress>,
        cancel: &CancellationToken,
    ) -> Result<Option<Found>, CopyError> {
        let second = self.stages.vault.with(Which::Second);
        let reading = second.check_digest(key, progress);
        match cancel.run_until_cancelled(reading).await {
            Some(Ok(manifest)) => Ok(Some(Found {
                manifest: Box::new(manifest),
                place: second.store.describe(),
                health,
                why,
            })),
            Some(Err(worse)) => {
                tracing::info!(reason = explain(&worse), "The second copy is not whole");
                Ok(None)
            }
            None => Err(CopyError::Interrupted),
        }
    }

    async fn found_in_second(&self, taken: &Taken, id: BackupId, found: &Found) -> Ending {
        self.record_health(id, found.health, &found.why).await;
        let digest = found.manifest.sealed_sha256;
        let catalog = &self.dispatch.catalog;
        match catalog.copy_confirmed(id, digest, &found.place).await {
            Ok(true) => {}
            Ok(false) => {
                let text = other_digest();
                return self.copy_failed(taken, id, (AtFault::Second, text)).await;
            }
            Err(error) => return Ending::Failed(explain(&error)).or_retry(taken),
        }
        tracing::warn!(backup.id = %id, backup.name = found.manifest.name, place = found.place, reason = found.why,
            "Backup is in the second store alone");
        Ending::Success(dict(&[
            ("backup_id", Value::Int(id.get())),
            ("copy", Value::Text("confirmed".to_owned())),
            ("health", Value::Text(found.health.to_string())),
            ("checksum", Value::Text(digest.to_string())),
        ]))
    }

    async fn copied(&self, taken: &Taken, id: BackupId, copied: &Copied) -> Ending {
        let (digest, place) = (copied.sealed_sha256, copied.place.as_str());
        let catalog = &self.dispatch.catalog;
        match catalog.copy_confirmed(id, digest, place).await {
            Ok(true) => {}
            Ok(false) => {
                let text = other_digest();
                return self.copy_failed(taken, id, (AtFault::Second, text)).await;
            }
            Err(error) => return Ending::Failed(explain(&error)).or_retry(taken),
        }
        tracing::info!(backup.id = %id, backup.name = copied.name, size_bytes = copied.sealed_bytes, place,
            was_there = copied.was_there, "Backup is in both stores");
        Ending::Success(dict(&[
            ("backup_id", Value::Int(id.get())),
            ("copy", Value::Text("confirmed".to_owned())),
            ("size", number(copied.sealed_bytes)),
            ("checksum", Value::Text(digest.to_string())),
        ]))
    }

    async fn not_copied(&self, taken: &Taken, id: BackupId, error: &CopyError) -> Ending {
        let of = match error {
            CopyError::NoSecond => return Ending::Failed(explain(error)),
            CopyError::Interrupted => return Ending::GivenBack,
            CopyError::First { source, .. } => {
                // Whoever reads the first copy to its end finds out what is wrong with it.
                if let Some(health) = found_out(source) {
                    self.record_health(id, health, &explain(source)).await;
                }
                AtFault::First
            }
            _ => AtFault::Second,
        };
        self.copy_failed(taken, id, (of, explain(error))).await
    }

    async fn record_health(&self, id: BackupId, health: Health, reason: &str) {
        let catalog = &self.dispatch.catalog;
        if let Err(error) = catalog.mark_health(id, health, Some(reason)).await {
            tracing::warn!(%error, backup.id = %id, reason, "Nobody could write down that a backup is damaged");
        }
    }

    async fn copy_failed(
        &self,
        taken: &Taken,
        id: BackupId,
        (of, text): (AtFault, String),
    ) -> Ending {
        let ending = Ending::Failed(text.clone()).or_retry(taken);
        let again = match ending {
            Ending::Retry(_) => Again::Yes,
            _ => Again::No,
        };
        self.record_no_copy(id, (of, &text), again).await;
        ending
    }

    async fn record_no_copy(&self, id: BackupId, (of, reason): (AtFault, &str), again: Again) {
        let place = self.stages.vault.second.as_ref().map(Store::describe);
        let place = place.unwrap_or_default();
        let why = (of, reason);
        let recorded = self.dispatch.catalog.copy_failed(id, &place, why, again);
        if let Err(error) = recorded.await {
            tracing::warn!(%error, backup.id = %id, reason, "Nobody could write down that a backup has no copy");
        }
        tracing::warn!(backup.id = %id, reason, "Backup has no second copy");
    }

    /// Where a backup's first copy was found damaged, or gone: whether the second one is whole, in words for whoever reads
    /// that. `None`: there is no second store.
    pub(super) async fn look_at_second(&self, id: BackupId, key: &ObjectKey) -> Option<Second> {
        let second = self.stages.vault.with(Which::Second);
        self.stages.vault.second.as_ref()?;
        let place = second.store.describe();
        let progress = Arc::new(Progress::default());
        match second.check_digest(key, &progress).await {
            Ok(manifest) => {
                let digest = manifest.sealed_sha256;
                let confirmed = self
                    .dispatch
                    .catalog
                    .copy_confirmed(id, digest, &place)
                    .await;
                match confirmed {
                    Ok(true) => {}
                    Ok(false) => {
                        let text = other_digest();
                        let why = (AtFault::Second, text.as_str());
                        self.record_no_copy(id, why, Again::No).await;
                        let said = format!("nor can its second copy be used: {text}");
                        return Some(Second::Worse(said));
                    }
                    Err(error) => {
                        tracing::warn!(%error, backup.id = %id, "Nobody could write down that a backup has a copy");
                    }
                }
                Some(Second::Whole(format!(
                    "its second copy, in {place}, is whole, and restores take it; pgseal copy --back mends the first one from it"
                )))
            }
            Err(error) => {
                let reason = explain(&error);
                // Where it could only not be looked at, it is as good as it was known to be.
                if is_found_out(&error) {
                    let why = (AtFault::Second, reason.as_str());
                    self.record_no_copy(id, why, Again::No).await;
                }
                let said = format!("nor can its second copy be used: {reason}");
                Some(Second::Worse(said))
            }
        }
    }

    /// Asks for copies of backups that have none, and finds out which have lost theirs.
    pub(super) async fn replicate(&self) -> Left {
        let vault = &self.stages.vault;
        let Some(second) = &vault.second else {
            return Left::Nothing;
        };
        let looked = async {
            let catalog = &self.dispatch.catalog;
            let since = catalog.now().await.map_err(|error| explain(&error))?;
            let copies = vault.copies().await.map_err(|error| explain(&error))?;
            let (keys, sizes): (Vec<String>, Vec<u64>) = copies
                .into_iter()
                .map(|(key, bytes)| (key.to_string(), bytes))
                .unzip();
            let prefix = vault.layout.listing_prefix();
            let there = (keys.as_slice(), sizes.as_slice());
            let lost = catalog
                .compare_copies(&second.describe(), &prefix, there, since)
                .await
                .map_err(|error| explain(&error))?;
            if let Err(error) = vault.clean_second().await {
                let reason = explain(&error);
                tracing::warn!(
                    reason,
                    "Housekeeping: what killed copies left in the second store"
                );
            }
            let missing = catalog.not_copied(COPIES_AT_ONCE).await;
            let alone = catalog.maybe_in_second_alone(there, COPIES_AT_ONCE).await;
            Ok::<_, String>((
                lost,
                missing.map_err(|error| explain(&error))?,
                alone.map_err(|error| explain(&error))?,
            ))
        };
        match looked.await {
            Ok((lost, missing, alone)) => {
                if lost > 0 {
                    tracing::warn!(lost, "Housekeeping: the second store has lost copies");
                }
                if !missing.is_empty() {
                    tracing::info!(backups = missing.len(), "Housekeeping asks for copies");
                }
                let left = if missing.len() < COPIES_AT_ONCE as usize {
                    Left::Nothing
                } else {
                    Left::More
                };
                // What the catalog knows as damaged or gone may be whole there, by a command that copied it: the job looks.
                for id in missing.into_iter().chain(alone) {
                    self.ask_for_copy(id).await;
                }
                left
            }
            Err(reason) => {
                tracing::warn!(reason, "Housekeeping: the second store");
                Left::Nothing
            }
        }
    }
}

/// What is to be said of a second copy, where the first was found wanting.
pub(super) enum Second {
    /// It is whole.
    Whole(String),
    /// It is not, or nobody could look at it.
    Worse(String),
}

/// What came of a copy's job.
enum Came {
    /// The backup is in both stores.
    Copied(Copied),
    /// It is in the second one alone.
    Found(Found),
}

/// A backup that only the second store has whole.
struct Found {
    manifest: Box<Manifest>,
    place: String,
    /// What that says of the first copy, and why.
    health: Health,
    why: String,
}

/// What reading the first copy to its end has shown; `None`: nothing, it could only not be read.
const fn found_out(error: &VaultError) -> Option<Health> {
    match error {
        VaultError::Lost(_) | VaultError::NotFound { .. } => Some(Health::Lost),
        // Not what another passphrase than ours, or a newer pgseal, has sealed: that may be as whole as ever.
        VaultError::SealedDigest { .. } | VaultError::Replaced { .. } => Some(Health::Corrupt),
        _ => None,
    }
}

fn other_digest() -> String {
    "the catalog records another digest than the manifest\nhint: pgseal catalog reconcile says which is right".to_owned()
}

/// Whether a copy was read and found wanting, or is not there.
fn is_found_out(error: &VaultError) -> bool {
    match error {
        VaultError::NotFound { .. } => true,
        // What another passphrase, or a newer pgseal, has sealed may be as whole as ever.
        VaultError::SealedManifest { .. } | VaultError::Manifest { .. } => false,
        error => error.is_verdict(),
    }
}
