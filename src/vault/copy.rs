//! Copying a backup, sealed as it is, from the first store into the second, or back: dump, manifest, and the record of its
//! drill, byte for byte under the same keys.
//!
//! The same commit gate as a backup's: the dump's bytes are digested while they are read, the upload is completed only
//! where that is the manifest's digest, the object is read back and digested once more, and only then the manifest is
//! put, which makes it a backup there. A copy that is cut off leaves nothing that looks like one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::copy_error::CopyError;
use super::list::Pair;
use super::{Entry, Selector, Vault, VaultError, Which, carries, manifest_key};
use crate::model::digest::Sha256;
use crate::model::ids::Uid;
use crate::model::manifest::{MANIFEST_BYTES_MAX, Manifest};
use crate::model::object_key::ObjectKey;
use crate::model::proof::{PROOF_BYTES_MAX, Proof};
use crate::model::target::TargetName;
use crate::progress::Progress;
use crate::seal::Digester;
use crate::store::{ObjectHead, Reading, Store, StoreError, Upload};

/// A body that breaks off is read on from where it broke; so often in a row without a byte between.
const BREAKS_MAX: u32 = 5;
/// The pause before it is read on.
const BREAK_PAUSE: Duration = Duration::from_millis(500);

/// Nothing that still goes on is without a new part for this long: one part is tried for 45 minutes.
const STALE_AFTER: Duration = Duration::from_hours(24);

/// A backup that is in both stores, each with the digest that its manifest records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copied {
    /// The backup's name.
    pub name: String,
    /// The sealed dump's key, in both stores.
    pub key: ObjectKey,
    /// The store that it was copied into.
    pub place: String,
    /// Bytes of the sealed dump.
    pub sealed_bytes: u64,
    /// Their digest, as that store gave them back.
    pub sealed_sha256: Sha256,
    /// Whether the dump was there already, and had only to be read.
    pub was_there: bool,
}

/// What is wrong with which copy; the two are named at the end. The first is what is copied from.
enum Fault {
    First(VaultError),
    Second(VaultError),
    Interrupted,
}

fn first(error: impl Into<VaultError>) -> Fault {
    Fault::First(error.into())
}

fn second(error: impl Into<VaultError>) -> Fault {
    Fault::Second(error.into())
}

/// Which way a backup goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// From the first store into the second.
    Out,
    /// From the second store into the first.
    Back,
}

/// A backup on its way.
struct Copying<'a> {
    way: Way,
    from: &'a Vault,
    to: Vault,
    key: &'a ObjectKey,
    manifest: Manifest,
    /// The manifest's object.
    sealed: Bytes,
    progress: &'a Arc<Progress>,
    cancel: &'a CancellationToken,
}

impl Vault {
    /// Copies a backup into the second store, and reads it back there. What is there already, whole, is only read.
    ///
    /// # Errors
    /// As [`CopyError`] says: which of the two copies is at fault. Nothing that looks like a backup is then in the second
    /// store, unless there was one before that nothing is wrong with.
    pub async fn copy(
        &self,
        key: &ObjectKey,
        progress: &Arc<Progress>,
        cancel: &CancellationToken,
    ) -> Result<Copied, CopyError> {
        self.carry(key, Way::Out, progress, cancel).await
    }

    /// Copies a backup back from the second store, where it is whole, into the first one, where it is not, and reads it back
    /// there. What is there already, whole, is not sent again; both copies are read then.
    ///
    /// # Errors
    /// As [`Vault::copy`]; nothing that looks like a backup is then in the first store, unless there was one before.
    pub async fn copy_back(
        &self,
        key: &ObjectKey,
        progress: &Arc<Progress>,
        cancel: &CancellationToken,
    ) -> Result<Copied, CopyError> {
        let from = self.turned().ok_or(CopyError::NoSecond)?;
        let carried = from.carry(key, Way::Back, progress, cancel).await;
        carried.map_err(|error| match error {
            CopyError::SamePlace(_) => CopyError::SamePlace(from.store.describe()),
            other => other.turned(),
        })
    }

    async fn carry(
        &self,
        key: &ObjectKey,
        way: Way,
        progress: &Arc<Progress>,
        cancel: &CancellationToken,
    ) -> Result<Copied, CopyError> {
        let to = self.second().ok_or(CopyError::NoSecond)?;
        let name = key.backup_name().unwrap_or(key.as_str()).to_owned();
        progress.start_stage("look at both stores");
        let named = |fault| self.named(&name, fault);
        let (manifest, sealed) = self.to_copy(key, &name).await?;
        let copying = Copying {
            way,
            from: self,
            to,
            key,
            manifest,
            sealed,
            progress,
            cancel,
        };
        let probe = Uid::new(copying.manifest.started_at);
        if self.is_seen_in_first(probe).await.map_err(named)? {
            return Err(CopyError::SamePlace(copying.to.store.describe()));
        }
        let was_there = copying.dump().await.map_err(named)?;
        copying.manifest(was_there).await.map_err(named)?;
        copying.proof().await;
        copying.marks().await;
        Ok(Copied {
            name: name.clone(),
            key: key.clone(),
            place: copying.to.store.describe(),
            sealed_bytes: copying.manifest.sealed_bytes,
            sealed_sha256: copying.manifest.sealed_sha256,
            was_there,
        })
    }

    /// Reads one copy of a backup to its end, and compares it with its manifest. Nothing is decrypted but the manifest.
    ///
    /// # Errors
    /// It is not there, or not what its manifest says; or the store fails.
    pub async fn check_digest(
        &self,
        key: &ObjectKey,
        progress: &Arc<Progress>,
    ) -> Result<Manifest, VaultError> {
        let (manifest, _) = self.read_sealed_manifest(key).await?;
        let name = manifest.name.clone();
        let Some(head) = self.store.head(key).await? else {
            return Err(VaultError::Lost(name));
        };
        require_own(&head, &manifest)?;
        let digested = digest(&self.store, &head, progress).await?;
        require_digest(&manifest, digested)?;
        Ok(manifest)
    }

    /// The error of one copy that was looked at alone.
    #[must_use]
    pub fn at_fault(&self, name: &str, copy: Which, source: VaultError) -> CopyError {
        self.named(
            name,
            match copy {
                Which::First => Fault::First(source),
                Which::Second => Fault::Second(source),
            },
        )
    }

    /// Removes what copies that were killed have left in the second store: how much that was.
    ///
    /// # Errors
    /// It fails.
    pub async fn clean_second(&self) -> Result<u64, VaultError> {
        let Some(second) = &self.second else {
            return Ok(0);
        };
        let prefix = self.layout.listing_prefix();
        let removed = second.abort_stale_uploads(&prefix, STALE_AFTER);
        removed.await.map_err(|source| VaultError::Second {
            place: second.describe(),
            source: Box::new(source),
        })
    }

    /// What the second store lists with dump and manifest in this target's folder: the dump's size in bytes, by its key.
    /// Whether it is whole, only [`Vault::copy`] and [`Vault::check_digest`] find out.
    ///
    /// # Errors
    /// The second store fails.
    pub async fn copies(&self) -> Result<BTreeMap<ObjectKey, u64>, VaultError> {
        let Some(second) = self.second() else {
            return Ok(BTreeMap::new());
        };
        let second = second.in_haste();
        let listed = async {
            // A folder that is away lists as an empty one.
            second.store.check_bucket().await?;
            second.pairs().await
        };
        let pairs = listed.await.map_err(|error| match error {
            VaultError::Store(source) => VaultError::Second {
                place: second.store.describe(),
                source: Box::new(source),
            },
            other => other,
        })?;
        let whole =
            |(key, pair): (ObjectKey, Pair)| Some((key, pair.manifest.and(pair.dump)?.bytes));
        Ok(pairs.into_iter().filter_map(whole).collect())
    }

    /// Whether the two stores are one by two names: what is written into the second can be seen in the first.
    ///
    /// # Errors
    /// One of them fails.
    pub async fn is_one_place(&self, probe: Uid) -> Result<bool, VaultError> {
        let seen = self.is_seen_in_first(probe).await;
        seen.map_err(|fault| match fault {
            Fault::First(error) | Fault::Second(error) => error,
            // Nobody can interrupt it.
            Fault::Interrupted => VaultError::Panicked,
        })
    }

    /// As [`Vault::is_one_place`]. A second store that does not answer is known by this soon, and not only after the long
    /// patience of what carries bytes.
    async fn is_seen_in_first(&self, probe: Uid) -> Result<bool, Fault> {
        let Some(to) = self.second.as_ref().map(Store::in_haste) else {
            return Ok(false);
        };
        let key = self.layout.probe_key(&probe);
        let content = Bytes::from_static(b"are these two stores one?");
        let put = to.put(&key, Some(probe), content).await;
        put.map_err(second)?;
        let seen = self.store.head(&key).await;
        // A second store whose objects nobody can delete is a good one.
        if let Err(error) = to.delete(&key).await {
            tracing::warn!(%error, object.key = %key, place = to.describe(), "A probe stays in a store");
        }
        Ok(seen.map_err(first)?.is_some())
    }

    /// Whether the second store has a dump of this size and its manifest; `None`: it cannot be asked.
    pub async fn is_copied(&self, key: &ObjectKey, sealed_bytes: u64) -> Option<bool> {
        let second = self.second.as_ref()?.in_haste();
        let dump = second.head(key).await.ok()?;
        let manifest = second.head(&key.manifest_key()?).await.ok()?;
        Some(manifest.is_some() && dump.is_some_and(|dump| dump.bytes == sealed_bytes))
    }

    /// The manifest of what is to be copied, and its object.
    async fn to_copy(&self, key: &ObjectKey, name: &str) -> Result<(Manifest, Bytes), CopyError> {
        let failed = |error| self.named(name, Fault::First(error));
        let entry = self.find(&Selector::Key(key.clone())).await;
        match entry.map_err(failed)? {
            Entry::Complete(_) | Entry::Unreadable { .. } => {
                self.read_sealed_manifest(key).await.map_err(failed)
            }
            Entry::Lost(manifest) => Err(failed(VaultError::Lost(manifest.name))),
            Entry::Unfinished(bare) => Err(failed(VaultError::Unfinished(bare.key.to_string()))),
            Entry::Foreign(_) => Err(CopyError::Foreign(name.to_owned())),
        }
    }

    fn named(&self, name: &str, fault: Fault) -> CopyError {
        let name = name.to_owned();
        match fault {
            Fault::First(source) => CopyError::First {
                name,
                place: self.store.describe(),
                source: Box::new(source),
            },
            Fault::Second(source) => CopyError::Second {
                name,
                place: self
                    .second
                    .as_ref()
                    .map(Store::describe)
                    .unwrap_or_default(),
                source: Box::new(source),
            },
            Fault::Interrupted => CopyError::Interrupted,
        }
    }
}

impl Copying<'_> {
    /// The dump is in the second store, and was read back: whether it was there before.
    async fn dump(&self) -> Result<bool, Fault> {
        self.require_free().await?;
        let head = self.to.store.head(self.key).await.map_err(second)?;
        if let Some(head) = head {
            let is_another_s = || {
                second(StoreError::AlreadyExists {
                    key: self.key.clone(),
                })
            };
            if !carries(&head, self.manifest.uid) {
                return Err(is_another_s());
            }
            if self.read_back(&head).await?.is_ok() {
                if self.way == Way::Back {
                    // Where nothing had to be mended, nobody has read the second one yet.
                    self.require_first().await?;
                }
                return Ok(true);
            }
            // What does not say whose it is may be anybody's.
            if head.uid.is_none() {
                return Err(is_another_s());
            }
            self.require_first().await?;
            tracing::warn!(
                backup.name = self.manifest.name,
                place = self.to.store.describe(),
                "The copy there is damaged, and is made anew"
            );
            self.discard().await?;
        }
        self.send().await?;
        self.progress.start_stage("read the copy back");
        let head = self.to.store.head(self.key).await.map_err(second)?;
        let lost = || second(VaultError::Lost(self.manifest.name.clone()));
        let head = head.ok_or_else(lost)?;
        if let Err(error) = self.read_back(&head).await? {
            self.discard().await?;
            return Err(second(error));
        }
        Ok(false)
    }

    /// No manifest of another backup is in the way: what is sent would be taken for that one's.
    async fn require_free(&self) -> Result<(), Fault> {
        let key = manifest_key(self.key).map_err(second)?;
        match self.to.store.head(&key).await.map_err(second)? {
            Some(head) if head.uid == Some(self.manifest.uid) => Ok(()),
            // One that does not say whose it is cannot be replaced.
            Some(head) if head.uid.is_none() => {
                let read = self.to.store.read(&key, MANIFEST_BYTES_MAX).await;
                match read.map_err(second)? {
                    (_, there) if there == self.sealed => Ok(()),
                    _ => Err(second(StoreError::AlreadyExists { key })),
                }
            }
            Some(_) => Err(second(StoreError::AlreadyExists { key })),
            None => Ok(()),
        }
    }

    /// Nothing is taken away before it is known that there is something better.
    async fn require_first(&self) -> Result<(), Fault> {
        let head = self.from.store.head(self.key).await.map_err(first)?;
        let lost = || first(VaultError::Lost(self.manifest.name.clone()));
        let head = head.ok_or_else(lost)?;
        require_own(&head, &self.manifest).map_err(first)?;
        let reading = digest(&self.from.store, &head, self.progress);
        let digested = self.cancel.run_until_cancelled(reading).await;
        let digested = digested.ok_or(Fault::Interrupted)?.map_err(first)?;
        require_digest(&self.manifest, digested).map_err(first)
    }

    /// What is wrong with the second store's dump, as it gives it back.
    async fn read_back(&self, head: &ObjectHead) -> Result<Result<(), VaultError>, Fault> {
        if let Err(error) = require_own(head, &self.manifest) {
            return Ok(Err(error));
        }
        let reading = digest(&self.to.store, head, self.progress);
        let digested = self.cancel.run_until_cancelled(reading).await;
        let digested = digested.ok_or(Fault::Interrupted)?.map_err(second)?;
        Ok(require_digest(&self.manifest, digested))
    }

    /// Streams the dump from store to store; what is sent is completed only if it is what the manifest says.
    async fn send(&self) -> Result<(), Fault> {
        let head = self.from.store.head(self.key).await.map_err(first)?;
        let lost = || first(VaultError::Lost(self.manifest.name.clone()));
        let head = head.ok_or_else(lost)?;
        require_own(&head, &self.manifest).map_err(first)?;
        self.progress.start_stage("copy");
        let started = self
            .to
            .store
            .upload(self.key, self.manifest.uid, Some(head.bytes));
        let mut upload = started.await.map_err(second)?;
        let flowing = self.flow(&head, &mut upload);
        let flowed = self.cancel.run_until_cancelled(flowing).await;
        match flowed.unwrap_or(Err(Fault::Interrupted)) {
            Ok(()) => {}
            Err(fault) => {
                if let Err(error) = upload.abort().await {
                    tracing::warn!(%error, object.key = %self.key, "The copy left an unfinished upload behind");
                }
                return Err(fault);
            }
        }
        upload.commit().await.map(drop).map_err(second)
    }

    async fn flow(&self, head: &ObjectHead, upload: &mut Upload) -> Result<(), Fault> {
        let mut digester = Digester::default();
        let mut source = Source::new(&self.from.store, head);
        while let Some(chunk) = source.next().await.map_err(first)? {
            digester.update(&chunk);
            self.progress.add_bytes(chunk.len() as u64);
            upload.write(chunk).await.map_err(second)?;
        }
        let (_, digest) = digester.finish();
        require_digest(&self.manifest, digest).map_err(first)
    }

    /// Last: with it, the copy is a backup.
    async fn manifest(&self, was_there: bool) -> Result<(), Fault> {
        let key = manifest_key(self.key).map_err(second)?;
        let there = match self.to.store.read(&key, MANIFEST_BYTES_MAX).await {
            Ok((_, there)) => there == self.sealed,
            Err(StoreError::NotFound { .. } | StoreError::TooLarge { .. }) => false,
            Err(error) => return Err(second(error)),
        };
        if there {
            return Ok(());
        }
        // Who deletes a backup meanwhile must not find it again.
        if self.from.store.head(&key).await.map_err(first)?.is_none() {
            if !was_there {
                self.discard().await?;
            }
            return Err(first(VaultError::Unfinished(self.key.to_string())));
        }
        self.progress.start_stage("write the manifest");
        let put = self
            .to
            .read_back(&key, self.manifest.uid, &self.sealed)
            .await;
        if let Err(error) = put {
            let is_another_s =
                matches!(&error, VaultError::Store(StoreError::AlreadyExists { .. }));
            if is_another_s {
                // Nothing of it is ours but the dump, unless that one is whoever's copies the same backup at this moment.
                let head = self.to.store.head(&key).await.map_err(second)?;
                let is_ours = head.is_some_and(|head| head.uid == Some(self.manifest.uid));
                if !was_there && !is_ours {
                    self.to.store.delete(self.key).await.map_err(second)?;
                }
            } else if was_there {
                // The dump is whole; only what may be half a manifest goes.
                self.to.store.delete(&key).await.map_err(second)?;
            } else {
                self.discard().await?;
            }
            return Err(second(error));
        }
        Ok(())
    }

    /// What a drill found is no part of the backup: that it cannot be copied spoils none. A drill of either copy is recorded
    /// beside that one, so that either may be the newer.
    async fn proof(&self) {
        let Some(key) = self.key.proof_key() else {
            return;
        };
        let copied = async {
            let proof = match self.from.store.read(&key, PROOF_BYTES_MAX).await {
                Ok((_, proof)) => proof,
                Err(StoreError::NotFound { .. }) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            if self.to.store.head(&key).await?.is_some() {
                let there = self.to.read_proof(self.key).await?;
                let here = self.from.read_proof(self.key).await?;
                let at = |proof: Option<Proof>| {
                    let own = proof.filter(|proof| proof.uid == self.manifest.uid);
                    own.map(|proof| proof.at)
                };
                if at(here) <= at(there) {
                    return Ok(());
                }
            }
            let uid = Some(self.manifest.uid);
            self.to.store.put(&key, uid, proof).await?;
            Ok::<_, VaultError>(())
        };
        if let Err(error) = copied.await {
            tracing::warn!(%error, object.key = %key, "What a drill found was not copied");
        }
    }

    /// Marks are no part of it either. Each target's are in its own folder.
    async fn marks(&self) {
        let target = TargetName::parse(&self.manifest.target).unwrap_or_default();
        match self.from.of_target(&target) {
            Ok(from) => {
                from.copy_marks(&self.to.store, self.manifest.uid).await;
            }
            Err(error) => tracing::warn!(%error, "What was said of a backup was not copied"),
        }
    }

    /// Takes away what must not stay where it was copied to: the manifest first. What a drill found stays in the first store.
    async fn discard(&self) -> Result<(), Fault> {
        match self.way {
            Way::Out => self.to.delete_here(self.key).await.map(drop),
            Way::Back => self.to.delete_backup(self.key).await.map(drop),
        }
        .map_err(second)
    }
}

/// An object that is read to its end, also where the connection breaks on the way.
struct Source<'a> {
    store: &'a Store,
    head: &'a ObjectHead,
    position: u64,
    reading: Option<Reading>,
    breaks: u32,
}

impl<'a> Source<'a> {
    const fn new(store: &'a Store, head: &'a ObjectHead) -> Self {
        Self {
            store,
            head,
            position: 0,
            reading: None,
            breaks: 0,
        }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        loop {
            if self.position == self.head.bytes {
                return Ok(None);
            }
            match self.chunk().await {
                Ok(Some(chunk)) => {
                    self.position += chunk.len() as u64;
                    self.breaks = 0;
                    return Ok(Some(chunk));
                }
                // It ended before its end.
                Ok(None) => self.reading = None,
                Err(StoreError::Unavailable { .. } | StoreError::Protocol { .. })
                    if self.breaks < BREAKS_MAX && self.reading.is_some() =>
                {
                    self.breaks += 1;
                    self.reading = None;
                    tokio::time::sleep(BREAK_PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        if self.reading.is_none() {
            let left = self.head.bytes - self.position;
            let reading = self.store.reading(self.head, self.position, left).await?;
            self.reading = Some(reading);
        }
        match &mut self.reading {
            Some(reading) => reading.next().await,
            None => Ok(None),
        }
    }
}

async fn digest(
    store: &Store,
    head: &ObjectHead,
    progress: &Progress,
) -> Result<Sha256, StoreError> {
    let mut digester = Digester::default();
    let mut source = Source::new(store, head);
    while let Some(chunk) = source.next().await? {
        digester.update(&chunk);
        progress.add_bytes(chunk.len() as u64);
    }
    Ok(digester.finish().1)
}

/// Whether a dump can be the one that its manifest was written for.
fn require_own(head: &ObjectHead, manifest: &Manifest) -> Result<(), VaultError> {
    let what = if !carries(head, manifest.uid) {
        "its uid differs"
    } else if head.bytes != manifest.sealed_bytes {
        "its size differs"
    } else {
        return Ok(());
    };
    Err(VaultError::Replaced {
        name: manifest.name.clone(),
        what,
    })
}

fn require_digest(manifest: &Manifest, found: Sha256) -> Result<(), VaultError> {
    let recorded = manifest.sealed_sha256;
    if found == recorded {
        return Ok(());
    }
    Err(VaultError::SealedDigest {
        name: manifest.name.clone(),
        found,
        recorded,
    })
}
