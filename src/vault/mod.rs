//! What a store and the passphrases hold together: which backups there are, what their manifests say, and their
//! content, handed out only after it was proved.
//!
//! The bucket is the truth: everything here works on the store alone, without a catalog.

mod cache;
mod check;
mod copy;
mod copy_error;
mod either;
mod error;
mod find;
mod list;
mod listed;
mod marks;
mod proof;

use std::path::PathBuf;

use bytes::Bytes;
use time::OffsetDateTime;
use tokio::task::JoinHandle;

pub use cache::ListCache;
pub use check::{Fetched, Limits, Proof};
pub use copy::Copied;
pub use copy_error::CopyError;
pub use either::{Found, Which};
pub use error::VaultError;
pub use find::Selector;
pub use listed::{Listed, complete};
pub use marks::{Mark, Marks};

use crate::model::ids::Uid;
use crate::model::manifest::{MANIFEST_BYTES_MAX, Manifest};
use crate::model::object_key::{Layout, ObjectKey};
use crate::model::passphrase::Passphrase;
use crate::model::target::TargetName;
use crate::seal::{Opener, OutputLimit, Packing, Sealer};
use crate::store::{ObjectHead, Store, StoreError};

/// A store, the passphrases that open what is in it, and the folder of one target's backups.
#[derive(Clone)]
pub struct Vault {
    /// Where the objects are.
    pub store: Store,
    /// Where each backup has a second copy, under the same keys; `None`: nowhere.
    pub second: Option<Store>,
    /// The current passphrase first, then the older ones.
    pub passphrases: Vec<Passphrase>,
    /// Where in the store this target's backups are.
    pub layout: Layout,
    /// Where sealed bytes may be spooled; never plain ones.
    pub spool_folder: PathBuf,
}

/// Something in the store that is, or could be, a backup.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// A backup: manifest and dump are there, and agree as far as a listing can tell.
    Complete(Box<Manifest>),
    /// A manifest whose dump is gone.
    Lost(Box<Manifest>),
    /// A manifest that no passphrase opens, or that does not belong where it stands.
    Unreadable {
        /// The dump's key.
        key: ObjectKey,
        /// Why.
        reason: String,
        /// When the store got it.
        modified: OffsetDateTime,
    },
    /// A sealed dump that somebody else put there: no manifest, no uid.
    Foreign(Bare),
    /// A dump of ours whose manifest was never written: no backup.
    Unfinished(Bare),
}

/// An object without a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bare {
    /// Its key.
    pub key: ObjectKey,
    /// Its size in bytes.
    pub bytes: u64,
    /// When the store got it.
    pub modified: OffsetDateTime,
}

impl Entry {
    /// The dump's key.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Complete(manifest) | Self::Lost(manifest) => &manifest.object_key,
            Self::Unreadable { key, .. } => key.as_str(),
            Self::Foreign(bare) | Self::Unfinished(bare) => bare.key.as_str(),
        }
    }

    /// When it was made: what the manifest says, else what the store says.
    #[must_use]
    pub fn made_at(&self) -> OffsetDateTime {
        match self {
            Self::Complete(manifest) | Self::Lost(manifest) => manifest.started_at,
            Self::Unreadable { modified, .. } => *modified,
            Self::Foreign(bare) | Self::Unfinished(bare) => bare.modified,
        }
    }

    /// One word for its state, in listings and JSON.
    #[must_use]
    pub const fn state(&self) -> &'static str {
        match self {
            Self::Complete(_) => "complete",
            Self::Lost(_) => "lost",
            Self::Unreadable { .. } => "unreadable",
            Self::Foreign(_) => "foreign",
            Self::Unfinished(_) => "unfinished",
        }
    }
}

impl Vault {
    /// The same store, with one target's folder.
    ///
    /// # Errors
    /// Its name does not fit into the objects' keys.
    pub fn of_target(&self, target: &TargetName) -> Result<Self, VaultError> {
        let layout = self.layout.of_target(target);
        let layout = layout.map_err(|_| VaultError::BadKey(target.to_string()))?;
        Ok(Self {
            layout,
            ..self.clone()
        })
    }

    /// The second store alone, as if it were the only one; `None`: there is none.
    #[must_use]
    pub fn second(&self) -> Option<Self> {
        Some(Self {
            store: self.second.clone()?,
            second: None,
            ..self.clone()
        })
    }

    /// The same with the second store as the first, and the first as the second; `None`: there is no second one.
    #[must_use]
    pub fn turned(&self) -> Option<Self> {
        Some(Self {
            store: self.second.clone()?,
            second: Some(self.store.clone()),
            ..self.clone()
        })
    }

    /// The same, with that copy's store as the only one.
    #[must_use]
    pub fn with(&self, copy: Which) -> Self {
        let second = match copy {
            Which::First => None,
            Which::Second => self.second(),
        };
        second.unwrap_or_else(|| Self {
            second: None,
            ..self.clone()
        })
    }

    /// The passphrase that new backups are sealed with.
    ///
    /// # Errors
    /// None is set.
    pub fn current_passphrase(&self) -> Result<&Passphrase, VaultError> {
        self.passphrases.first().ok_or(VaultError::NoPassphrase)
    }

    /// Starts to derive the key that a manifest is sealed with, while the caller does something else. An error shows
    /// when the manifest is put.
    pub fn prepare_manifest(&self) -> ManifestSealer {
        let passphrase = self.current_passphrase().cloned();
        ManifestSealer(tokio::task::spawn_blocking(move || {
            Ok(Sealer::new(Vec::new(), &passphrase?, MANIFEST_PACKING)?)
        }))
    }

    /// Seals a manifest, puts it beside its dump, reads it back and compares: from here on the backup exists.
    ///
    /// What is to be stored is opened and compared with the manifest while the store takes it; what came back has to be
    /// these very bytes. So both are proved, and the passphrase's key is derived beside the store's work.
    ///
    /// # Errors
    /// The store fails, or what came back is not what was written, or cannot be opened.
    pub async fn put_manifest(
        &self,
        sealer: ManifestSealer,
        dump_key: &ObjectKey,
        manifest: &Manifest,
    ) -> Result<(), VaultError> {
        let key = manifest_key(dump_key)?;
        let sealed = sealer.seal(manifest.to_json()).await?;
        let passphrases = self.passphrases.clone();
        let copy = sealed.clone();
        let opening = tokio::task::spawn_blocking(move || open_bytes(copy, &passphrases));
        let stored = self.read_back(&key, manifest.uid, &sealed).await;
        let opened = finished(opening).await;
        stored?;
        let json = opened.map_err(|error| error.of_manifest(&key))?;
        if parsed(&key, dump_key, &json)? != *manifest {
            return Err(VaultError::ManifestChanged { key });
        }
        Ok(())
    }

    /// Puts a sealed manifest into the store, and reads it back to the byte.
    async fn read_back(&self, key: &ObjectKey, uid: Uid, sealed: &Bytes) -> Result<(), VaultError> {
        self.store.put(key, Some(uid), sealed.clone()).await?;
        let (_, back) = self.store.read(key, MANIFEST_BYTES_MAX).await?;
        if back != *sealed {
            return Err(VaultError::ManifestChanged { key: key.clone() });
        }
        Ok(())
    }

    /// Reads and opens the manifest that stands beside a dump, and checks that it belongs there.
    ///
    /// # Errors
    /// There is none, no passphrase opens it, it is a later version's, or another backup's.
    pub async fn read_manifest(&self, dump_key: &ObjectKey) -> Result<Manifest, VaultError> {
        let (manifest, _) = self.read_sealed_manifest(dump_key).await?;
        Ok(manifest)
    }

    /// As [`Vault::read_manifest`], with the very bytes that the store has.
    async fn read_sealed_manifest(
        &self,
        dump_key: &ObjectKey,
    ) -> Result<(Manifest, Bytes), VaultError> {
        let key = manifest_key(dump_key)?;
        self.current_passphrase()?;
        let (_, sealed) = self.store.read(&key, MANIFEST_BYTES_MAX).await?;
        let bytes = sealed.clone();
        let passphrases = self.passphrases.clone();
        let opened = blocking(move || open_bytes(sealed, &passphrases)).await;
        let json = opened.map_err(|error| error.of_manifest(&key))?;
        Ok((parsed(&key, dump_key, &json)?, bytes))
    }

    /// Deletes a backup, or another object that an [`Entry`] named, and its copy in the second store.
    ///
    /// # Errors
    /// As [`Vault::delete_key`].
    pub async fn delete(&self, entry: &Entry) -> Result<u64, VaultError> {
        let dump_key = ObjectKey::parse(entry.key())
            .map_err(|_| VaultError::BadKey(entry.key().to_owned()))?;
        let uid = match entry {
            Entry::Complete(manifest) | Entry::Lost(manifest) => Some(manifest.uid),
            _ => None,
        };
        self.delete_key(&dump_key, uid).await
    }

    /// As [`Vault::delete`], by the dump's key. The copy goes first: a deletion that is cut off in between leaves a backup
    /// that has no copy, as there are others, and not one that only the second store has.
    ///
    /// # Errors
    /// One of the two stores fails, or an object is locked.
    pub async fn delete_key(
        &self,
        dump_key: &ObjectKey,
        uid: Option<Uid>,
    ) -> Result<u64, VaultError> {
        // Asked before the second is touched: where this one cannot be reached, nothing goes at all.
        let head = self.store.head(dump_key).await?;
        let uid = uid.or_else(|| head?.uid);
        let of_copy = match uid {
            Some(uid) => self.delete_copy(dump_key, uid).await?,
            None => 0,
        };
        Ok(of_copy + self.delete_here(dump_key).await?)
    }

    /// Deletes a backup's copy in the second store, and nothing that is another's.
    ///
    /// # Errors
    /// The second store fails, or an object is locked there.
    pub async fn delete_copy(&self, dump_key: &ObjectKey, uid: Uid) -> Result<u64, VaultError> {
        let Some(second) = self.second() else {
            return Ok(0);
        };
        let deleted = async {
            for key in [dump_key.manifest_key(), Some(dump_key.clone())] {
                let Some(key) = key else { continue };
                let head = second.store.head(&key).await?;
                if head.is_some_and(|head| !carries(&head, uid)) {
                    return Ok(0);
                }
            }
            second.delete_here(dump_key).await
        };
        deleted.await.map_err(|error| match error {
            // Who asks again when knows by the lock itself.
            VaultError::Store(error @ StoreError::Locked { .. }) => error.into(),
            VaultError::Store(source) => VaultError::Second {
                place: second.store.describe(),
                source: Box::new(source),
            },
            other => other,
        })
    }

    /// Deletes a backup's objects in this store alone: the manifest first, so that a half-done deletion leaves no backup that
    /// cannot be restored.
    ///
    /// # Errors
    /// The store fails, or an object is locked.
    pub async fn delete_here(&self, dump_key: &ObjectKey) -> Result<u64, VaultError> {
        let mut versions = self.delete_backup(dump_key).await?;
        if let Some(proof) = dump_key.proof_key() {
            if self.store.head(&proof).await?.is_some() {
                versions += self.store.delete(&proof).await?.versions;
            }
        }
        Ok(versions)
    }

    /// As [`Vault::delete_here`], and what a drill found stays.
    async fn delete_backup(&self, dump_key: &ObjectKey) -> Result<u64, VaultError> {
        let mut versions = 0;
        if let Some(manifest) = dump_key.manifest_key() {
            if self.store.head(&manifest).await?.is_some() {
                versions += self.store.delete(&manifest).await?.versions;
            }
        }
        if self.store.head(dump_key).await?.is_some() {
            versions += self.store.delete(dump_key).await?.versions;
        }
        Ok(versions)
    }
}

impl Vault {
    /// Writes, reads and deletes a small object: the store can do all that backups need.
    ///
    /// # Errors
    /// It cannot.
    pub async fn probe(&self, uid: Uid) -> Result<(), VaultError> {
        const CONTENT: &[u8] = b"pgseal doctor was here";
        self.store.check_bucket().await?;
        let key = self.layout.probe_key(&uid);
        self.store
            .put(&key, Some(uid), Bytes::from_static(CONTENT))
            .await?;
        let back = self.store.read(&key, CONTENT.len() as u64).await;
        self.store.delete(&key).await?;
        let (_, back) = back?;
        if back != CONTENT || self.store.head(&key).await?.is_some() {
            return Err(VaultError::Probe(key));
        }
        Ok(())
    }

    /// What time it is for the store: when it got a small object that is gone again afterwards.
    ///
    /// # Errors
    /// The store fails.
    pub async fn store_time(&self, uid: Uid) -> Result<OffsetDateTime, VaultError> {
        let key = self.layout.probe_key(&uid);
        let content = Bytes::from_static(b"what time is it?");
        self.store.put(&key, Some(uid), content).await?;
        let head = self.store.head(&key).await;
        self.store.delete(&key).await?;
        let head = head?.ok_or(VaultError::Probe(key))?;
        Ok(head.modified)
    }

    /// Free bytes in the spool folder.
    ///
    /// # Errors
    /// It is not there, or cannot be asked.
    pub fn spool_bytes_free(&self) -> Result<u64, VaultError> {
        let stat = rustix::fs::statvfs(&self.spool_folder).map_err(|source| VaultError::Spool {
            folder: self.spool_folder.display().to_string(),
            source: source.into(),
        })?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// Whether an object carries this uid, as far as the store can say: a store without metadata says nothing.
fn carries(head: &ObjectHead, uid: Uid) -> bool {
    head.uid.is_none_or(|carried| carried == uid)
}

fn manifest_key(dump_key: &ObjectKey) -> Result<ObjectKey, VaultError> {
    dump_key
        .manifest_key()
        .ok_or_else(|| VaultError::BadKey(dump_key.to_string()))
}

/// Manifests are text: zlib's own default level halves them many times over at no cost that counts.
const MANIFEST_PACKING: Packing = Packing::Zlib(6);

fn seal_bytes(plain: &[u8], passphrase: &Passphrase) -> Result<Bytes, VaultError> {
    sealed_by(
        Sealer::new(Vec::new(), passphrase, MANIFEST_PACKING)?,
        plain,
    )
}

fn sealed_by(mut sealer: Sealer<Vec<u8>>, plain: &[u8]) -> Result<Bytes, VaultError> {
    sealer.write(plain)?;
    Ok(Bytes::from(sealer.finish()?.1))
}

/// What will seal one manifest: its key is being derived, or was.
#[must_use = "it seals one manifest"]
pub struct ManifestSealer(JoinHandle<Result<Sealer<Vec<u8>>, VaultError>>);

impl ManifestSealer {
    async fn seal(self, plain: Vec<u8>) -> Result<Bytes, VaultError> {
        let sealer = finished(self.0).await?;
        blocking(move || sealed_by(sealer, &plain)).await
    }
}

/// The manifest that was in a sealed message, which must be the one of this dump.
fn parsed(key: &ObjectKey, dump_key: &ObjectKey, json: &[u8]) -> Result<Manifest, VaultError> {
    let manifest = Manifest::from_json(json).map_err(|source| VaultError::Manifest {
        key: key.clone(),
        source,
    })?;
    if manifest.object_key != dump_key.as_str() {
        return Err(VaultError::ForeignManifest {
            key: key.clone(),
            says: manifest.object_key,
        });
    }
    Ok(manifest)
}

fn open_bytes(sealed: Bytes, passphrases: &[Passphrase]) -> Result<Vec<u8>, VaultError> {
    let limit = OutputLimit::Bytes(MANIFEST_BYTES_MAX);
    let mut opener = Opener::open(std::io::Cursor::new(sealed), passphrases, limit)?;
    let (mut plain, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
    loop {
        match opener.read(&mut buffer)? {
            0 => break,
            read => plain.extend_from_slice(&buffer[..read]),
        }
    }
    opener.finish()?;
    Ok(plain)
}

/// Deriving a key takes tens of milliseconds of computing, which must not stop the runtime's other work.
async fn blocking<T, F>(work: F) -> Result<T, VaultError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, VaultError> + Send + 'static,
{
    finished(tokio::task::spawn_blocking(work)).await
}

async fn finished<T>(work: JoinHandle<Result<T, VaultError>>) -> Result<T, VaultError> {
    work.await.unwrap_or(Err(VaultError::Panicked))
}
