//! Listing: every dump in the store with what its manifest says.

use std::collections::BTreeMap;

use futures_util::{StreamExt as _, TryStreamExt as _};

use super::{Bare, Entry, Vault, VaultError};
use crate::model::object_key::{DUMP_SUFFIX, MANIFEST_SUFFIX, ObjectKey};
use crate::store::ListedObject;

/// Manifests that are fetched and opened at once. Each takes tens of milliseconds of computing and a round trip.
const MANIFESTS_AT_ONCE: usize = 16;

/// A dump and its manifest, as far as the listing shows them.
#[derive(Default)]
pub(super) struct Pair {
    pub(super) dump: Option<ListedObject>,
    pub(super) manifest: Option<ListedObject>,
}

impl Vault {
    /// Everything in this target's folder that is or could be a backup, newest first.
    ///
    /// # Errors
    /// The store fails. A manifest that cannot be read is an entry, not an error.
    pub async fn list(&self) -> Result<Vec<Entry>, VaultError> {
        let pairs = self.pairs().await?;
        let mut entries: Vec<Entry> = futures_util::stream::iter(pairs)
            .map(|(key, pair)| self.entry(key, pair))
            .buffer_unordered(MANIFESTS_AT_ONCE)
            .try_collect()
            .await?;
        entries
            .sort_by(|one, other| (other.made_at(), other.key()).cmp(&(one.made_at(), one.key())));
        Ok(entries)
    }

    /// The dumps and manifests in this target's folder, by the dump's key.
    pub(super) async fn pairs(&self) -> Result<BTreeMap<ObjectKey, Pair>, VaultError> {
        let mut pairs: BTreeMap<ObjectKey, Pair> = BTreeMap::new();
        for object in self.store.list(&self.layout.listing_prefix()).await? {
            if let Some(dump_key) = object.key.dump_key() {
                pairs.entry(dump_key).or_default().manifest = Some(object);
            } else if object.key.backup_name().is_some() {
                let key = object.key.clone();
                pairs.entry(key).or_default().dump = Some(object);
            }
        }
        Ok(pairs)
    }

    /// What one pair is.
    pub(super) async fn entry(&self, key: ObjectKey, pair: Pair) -> Result<Entry, VaultError> {
        let Pair { dump, manifest } = pair;
        let Some(listed_manifest) = manifest else {
            return match dump {
                Some(dump) => self.bare(dump).await,
                None => Err(VaultError::NotFound {
                    selector: key.to_string(),
                }),
            };
        };
        match (self.read_manifest(&key).await, dump) {
            (Ok(manifest), None) => Ok(Entry::Lost(Box::new(manifest))),
            (Ok(manifest), Some(dump)) if dump.bytes != manifest.sealed_bytes => {
                let reason = format!(
                    "the dump has {} bytes, its manifest says {}",
                    dump.bytes, manifest.sealed_bytes
                );
                Ok(Entry::Unreadable {
                    key,
                    reason,
                    modified: dump.modified,
                })
            }
            (Ok(manifest), Some(_)) => Ok(Entry::Complete(Box::new(manifest))),
            (Err(VaultError::Store(error)), _) => Err(error.into()),
            (Err(error), _) => {
                let reason = std::error::Error::source(&error)
                    .map_or_else(|| error.to_string(), ToString::to_string);
                // A hint is for the one who opens this backup, not for a line of a table.
                let reason = reason.lines().next().unwrap_or_default().to_owned();
                Ok(Entry::Unreadable {
                    key,
                    reason,
                    modified: listed_manifest.modified,
                })
            }
        }
    }

    async fn bare(&self, dump: ListedObject) -> Result<Entry, VaultError> {
        let bare = Bare {
            key: dump.key,
            bytes: dump.bytes,
            modified: dump.modified,
        };
        // Only what ends as our dumps do can be ours, and only that costs a question.
        let ours = bare.key.as_str().ends_with(DUMP_SUFFIX)
            && self
                .store
                .head(&bare.key)
                .await?
                .is_some_and(|head| head.uid.is_some());
        Ok(if ours {
            Entry::Unfinished(bare)
        } else {
            Entry::Foreign(bare)
        })
    }
}

/// The key of a manifest is never a dump's.
const _: () = assert!(MANIFEST_SUFFIX.len() > ".gpg".len());
