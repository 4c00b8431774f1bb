//! Listing: every dump in the store with what its manifest says.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt as _, TryStreamExt as _};

use super::cache::{Known, KnownProof, ListCache};
use super::listed::{Disagreement, Listed, complete, disagreement};
use super::{Bare, Entry, Vault, VaultError};
use crate::model::ids::Uid;
use crate::model::object_key::{DUMP_SUFFIX, MANIFEST_SUFFIX, ObjectKey};
use crate::model::proof::Proof;
use crate::model::suspicion::{Measured, suspicious};
use crate::model::target::TargetName;
use crate::store::ListedObject;

/// Manifests that are fetched and opened at once. Each takes tens of milliseconds of computing and a round trip.
pub(super) const MANIFESTS_AT_ONCE: usize = 16;

/// A dump and its manifest, as far as the listing shows them.
#[derive(Default)]
pub(super) struct Pair {
    pub(super) dump: Option<ListedObject>,
    pub(super) manifest: Option<ListedObject>,
    /// What the last drill of it found; no part of the backup.
    pub(super) proof: Option<ListedObject>,
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

    /// As [`Vault::list`], for people and scripts who look: manifests that are remembered as they still are, are not
    /// read again.
    ///
    /// # Errors
    /// As [`Vault::list`].
    pub async fn list_briefly(&self, cache: &ListCache) -> Result<Vec<Listed>, VaultError> {
        let (pairs, known) = tokio::join!(self.pairs(), cache.read(self));
        let known = known.manifests;
        let mut lines: Vec<(Listed, Contents)> = futures_util::stream::iter(pairs?)
            .map(|(key, pair)| self.line(key, pair, &known))
            .buffer_unordered(MANIFESTS_AT_ONCE)
            .try_collect()
            .await?;
        lines.sort_by(|(one, _), (other, _)| {
            (other.made_at(), &other.key).cmp(&(one.made_at(), &one.key))
        });
        let now_known: BTreeMap<String, Known> = lines.iter().filter_map(remembered).collect();
        if now_known != known {
            cache.write(self, now_known).await;
        }
        Ok(lines.into_iter().map(|(listed, _)| listed).collect())
    }

    /// One line, and what tells the objects that it comes from from others.
    async fn line(
        &self,
        key: ObjectKey,
        pair: Pair,
        known: &BTreeMap<String, Known>,
    ) -> Result<(Listed, Contents), VaultError> {
        let contents = Contents {
            manifest: pair.manifest.as_ref().map(content),
            proof: pair.proof.as_ref().map(content),
        };
        let known = known.get(key.as_str());
        let remembered = known.filter(|known| Some(&known.content) == contents.manifest.as_ref());
        let mut listed = match remembered {
            Some(known) => Listed::of_summary(&key, known.summary.clone(), pair.dump.as_ref()),
            None => Listed::from(&self.entry(key.clone(), pair).await?),
        };
        // Of a backup that cannot be read, nobody could say whether the record is its own.
        if let Some(uid) = listed.summary.as_ref().map(|summary| summary.uid) {
            let proof = self.line_proof(&key, &contents, known).await?;
            listed.proof = proof.filter(|proof| proof.uid == uid);
        }
        Ok((listed, contents))
    }

    async fn line_proof(
        &self,
        key: &ObjectKey,
        contents: &Contents,
        known: Option<&Known>,
    ) -> Result<Option<Proof>, VaultError> {
        let Some(content) = &contents.proof else {
            return Ok(None);
        };
        match known.and_then(|known| known.proof.as_ref()) {
            Some(known) if known.content == *content => Ok(Some(known.proof.clone())),
            _ => self.read_proof(key).await,
        }
    }

    /// What looks wrong beside what is before it in a listing, and was not accepted. Marks are asked for only where something
    /// does, in the folder of the target that it is of.
    ///
    /// # Errors
    /// The store fails.
    pub async fn strange(&self, listed: &[Listed]) -> Result<BTreeMap<Uid, String>, VaultError> {
        let measured: Vec<Measured> = complete(listed).map(Measured::from).collect();
        let strange = suspicious(&measured, &BTreeSet::new());
        if strange.is_empty() {
            return Ok(strange);
        }
        let of_strange = measured.iter().filter(|one| strange.contains_key(&one.uid));
        let targets: BTreeSet<&String> = of_strange.map(|one| &one.of.0).collect();
        let mut accepted = BTreeSet::new();
        for target in targets {
            let target = TargetName::parse(target).unwrap_or_default();
            accepted.extend(self.of_target(&target)?.marks().await?.accepted);
        }
        Ok(suspicious(&measured, &accepted))
    }

    /// The dumps and manifests in this target's folder, by the dump's key.
    pub(super) async fn pairs(&self) -> Result<BTreeMap<ObjectKey, Pair>, VaultError> {
        let mut pairs: BTreeMap<ObjectKey, Pair> = BTreeMap::new();
        let mut objects = self.store.list(&self.layout.listing_prefix()).await?;
        // The folder of the target `default` has those of the others in it.
        objects.retain(|object| self.layout.is_in_reach(&object.key));
        for object in objects {
            if let Some(dump_key) = object.key.proven_key() {
                pairs.entry(dump_key).or_default().proof = Some(object);
            } else if let Some(dump_key) = object.key.dump_key() {
                pairs.entry(dump_key).or_default().manifest = Some(object);
            } else if object.key.backup_name().is_some() {
                let key = object.key.clone();
                pairs.entry(key).or_default().dump = Some(object);
            }
        }
        // A deletion that was cut short may leave the record of a backup that is gone.
        pairs.retain(|_, pair| pair.dump.is_some() || pair.manifest.is_some());
        Ok(pairs)
    }

    /// What one pair is.
    pub(super) async fn entry(&self, key: ObjectKey, pair: Pair) -> Result<Entry, VaultError> {
        let Pair { dump, manifest, .. } = pair;
        let Some(listed_manifest) = manifest else {
            return match dump {
                Some(dump) => self.bare(dump).await,
                None => Err(VaultError::NotFound {
                    selector: key.to_string(),
                }),
            };
        };
        match self.read_manifest(&key).await {
            Ok(manifest) => Ok(match disagreement(manifest.sealed_bytes, dump.as_ref()) {
                Ok(()) => Entry::Complete(Box::new(manifest)),
                Err(Disagreement::Gone) => Entry::Lost(Box::new(manifest)),
                Err(Disagreement::Size { reason, modified }) => Entry::Unreadable {
                    key,
                    reason,
                    modified,
                },
            }),
            Err(VaultError::Store(error)) => Err(error.into()),
            Err(error) => {
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

/// What changes when an object's content does: its ETag; in the listings of a server that leaves it out, size and time.
fn content(object: &ListedObject) -> String {
    let otherwise = || format!("{} {}", object.bytes, object.modified.unix_timestamp());
    object.etag.clone().unwrap_or_else(otherwise)
}

/// What changes when the two objects that a line comes from do.
struct Contents {
    manifest: Option<String>,
    proof: Option<String>,
}

/// What is worth remembering of a line: a manifest that was read, with what tells whether it is still the same.
fn remembered((listed, contents): &(Listed, Contents)) -> Option<(String, Known)> {
    let proof = contents.proof.clone().zip(listed.proof.clone());
    let known = Known {
        content: contents.manifest.clone()?,
        summary: listed.summary.clone()?,
        proof: proof.map(|(content, proof)| KnownProof { content, proof }),
    };
    Some((listed.key.clone(), known))
}

/// The key of a manifest is never a dump's.
const _: () = assert!(MANIFEST_SUFFIX.len() > ".gpg".len());
