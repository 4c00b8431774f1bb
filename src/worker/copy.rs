//! The job that copies a backup into the second store, and the look for backups that have no copy there. Neither changes
//! how a backup ended.

use std::sync::Arc;

use super::supervise::{Reason, Running, Supervised};
use super::tasks::{Ending, dict, number, panicked};
use super::{Stop, Worker};
use crate::catalog::{Again, Health};
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
        let copying = self.stages.vault.copy(&key, &progress, &cancel);
        let work = self.pinned(taken, id, copying);
        match self.supervise(running, stop, work).await {
            Supervised::Done(Ok(Ok(copied))) | Supervised::Ended(_, Some(Ok(Ok(copied)))) => {
                self.copied(taken, id, &copied).await
            }
            Supervised::Done(Err(error)) => Ending::Failed(explain(&error)).or_retry(taken),
            Supervised::Done(Ok(Err(error))) => self.not_copied(taken, id, &error).await,
            Supervised::Ended(Reason::ShuttingDown, _) => Ending::GivenBack,
            Supervised::Ended(Reason::TimeLimit(limit), _) => {
                let text = format!("the copy took longer than {} s", limit.as_secs());
                self.copy_failed(taken, id, text).await
            }
            Supervised::Ended(..) => Ending::Stopped("Job stopped by user".to_owned()),
            Supervised::Panicked(said) => self.copy_failed(taken, id, panicked(&said)).await,
        }
    }

    async fn copied(&self, taken: &Taken, id: BackupId, copied: &Copied) -> Ending {
        let (digest, place) = (copied.sealed_sha256, copied.place.as_str());
        let catalog = &self.dispatch.catalog;
        match catalog.copy_confirmed(id, digest, place).await {
            Ok(true) => {}
            Ok(false) => {
                let text = "the catalog records another digest than the manifest, which both stores agree on\nhint: pgseal catalog reconcile says which is right";
                return self.copy_failed(taken, id, text.to_owned()).await;
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
        match error {
            CopyError::NoSecond => return Ending::Failed(explain(error)),
            CopyError::Interrupted => return Ending::GivenBack,
            CopyError::First { source, .. } => self.first_is_damaged(id, source).await,
            _ => {}
        }
        self.copy_failed(taken, id, explain(error)).await
    }

    /// Whoever reads the first copy to its end finds out what is wrong with it.
    async fn first_is_damaged(&self, id: BackupId, error: &VaultError) {
        let health = match error {
            VaultError::Lost(_) | VaultError::NotFound { .. } => Health::Lost,
            // Not what another passphrase than ours, or a newer pgseal, has sealed: that may be as whole as ever.
            VaultError::SealedDigest { .. } | VaultError::Replaced { .. } => Health::Corrupt,
            _ => return,
        };
        self.record_health(id, health, &explain(error)).await;
    }

    async fn record_health(&self, id: BackupId, health: Health, reason: &str) {
        let catalog = &self.dispatch.catalog;
        if let Err(error) = catalog.mark_health(id, health, Some(reason)).await {
            tracing::warn!(%error, backup.id = %id, reason, "Nobody could write down that a backup is damaged");
        }
    }

    async fn copy_failed(&self, taken: &Taken, id: BackupId, text: String) -> Ending {
        let ending = Ending::Failed(text.clone()).or_retry(taken);
        let again = match ending {
            Ending::Retry(_) => Again::Yes,
            _ => Again::No,
        };
        self.record_no_copy(id, &text, again).await;
        ending
    }

    async fn record_no_copy(&self, id: BackupId, reason: &str, again: Again) {
        let place = self.stages.vault.second.as_ref().map(Store::describe);
        let place = place.unwrap_or_default();
        let recorded = self.dispatch.catalog.copy_failed(id, &place, reason, again);
        if let Err(error) = recorded.await {
            tracing::warn!(%error, backup.id = %id, reason, "Nobody could write down that a backup has no copy");
        }
        tracing::warn!(backup.id = %id, reason, "Backup has no second copy");
    }

    /// Records a safety backup that was made in the second store, because the first could not be used: there it is read to its
    /// end, and in the first one it is not.
    pub(super) async fn is_in_second_alone(&self, id: BackupId, manifest: &Manifest) {
        let Ok(key) = ObjectKey::parse(&manifest.object_key) else {
            return;
        };
        let of_second = self.look_at_second(id, &key).await.unwrap_or_default();
        let reason = format!(
            "it was made in the second store, because the first one could not be used\n{of_second}"
        );
        self.record_health(id, Health::Lost, &reason).await;
    }

    /// Where a backup's first copy was found damaged, or gone: whether the second one is whole, in words for whoever reads
    /// that. `None`: there is no second store.
    pub(super) async fn look_at_second(&self, id: BackupId, key: &ObjectKey) -> Option<String> {
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
                if let Err(error) = confirmed {
                    tracing::warn!(%error, backup.id = %id, "Nobody could write down that a backup has a copy");
                }
                Some(format!(
                    "its second copy, in {place}, is whole, and restores take it"
                ))
            }
            Err(error) => {
                let reason = explain(&error);
                // Where it could only not be looked at, it is as good as it was known to be.
                if is_found_out(&error) {
                    self.record_no_copy(id, &reason, Again::No).await;
                }
                Some(format!("nor can its second copy be used: {reason}"))
            }
        }
    }

    /// What the catalog knows as damaged or gone may be whole in the second store, by a command that copied it.
    async fn find_in_second(&self, id: BackupId, key: &str) {
        if let Ok(key) = ObjectKey::parse(key) {
            let said = self.look_at_second(id, &key).await;
            tracing::info!(backup.id = %id, reason = said, "Housekeeping looked for a damaged backup in the second store");
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
                for (id, key) in alone {
                    self.find_in_second(id, &key).await;
                }
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
                for id in missing {
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

/// Whether a copy was read and found wanting, or is not there.
const fn is_found_out(error: &VaultError) -> bool {
    matches!(error, VaultError::NotFound { .. }) || error.is_verdict()
}
