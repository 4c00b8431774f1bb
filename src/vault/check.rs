//! Fetching a backup and proving it, before anybody gets a byte of it.
//!
//! Three proofs, in this order: the sealed bytes have the SHA-256 that the sealed manifest records; the whole message
//! decrypts and is authentic, and its content has the recorded SHA-256; `pg_restore` reads every block. A foreign
//! object has no manifest, so its message is decrypted once into nothing before `pg_restore` sees any of it.

use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinHandle;

use super::error::SIZE_DIFFERS;
use super::{Bare, Entry, Vault, VaultError, Which, carries};
use crate::model::digest::Sha256;
use crate::model::manifest::Manifest;
use crate::model::object_key::ObjectKey;
use crate::pg::{ArchiveLister, Client, Clients, Codec, Load, LoadMode};
use crate::pipe;
use crate::progress::{FETCH, Progress};
use crate::seal::{Digester, Opened, Opener, OutputLimit};
use crate::store::Store;

/// Opened chunks that may wait for whoever reads them, each of [`OPENED_CHUNK_BYTES`].
const OPENED_CHUNKS_WAITING: usize = 4;
const OPENED_CHUNK_BYTES: usize = 256 * 1024;

/// What a foreign object may become when it is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Plain bytes for each sealed byte.
    pub foreign_ratio: u64,
}

impl Default for Limits {
    /// 200: the default of pg_dump compresses real databases 3 to 20 times; a column of zeros does 1,000.
    fn default() -> Self {
        Self { foreign_ratio: 200 }
    }
}

/// A sealed backup at hand, its sealed digest already compared with its manifest's.
pub struct Fetched {
    file: Arc<std::fs::File>,
    sealed_bytes: u64,
    manifest: Option<Box<Manifest>>,
    name: String,
    key: ObjectKey,
    copy: Which,
    note: Option<String>,
}

impl Fetched {
    pub(super) fn of_second(self, note: Option<String>) -> Self {
        Self {
            copy: Which::Second,
            note,
            ..self
        }
    }

    /// Which copy it is.
    #[must_use]
    pub const fn copy(&self) -> Which {
        self.copy
    }

    /// Why it is not the first copy, where it is not.
    #[must_use]
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// The manifest; `None` for a foreign object.
    #[must_use]
    pub fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_deref()
    }

    /// The backup's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The sealed dump's key.
    #[must_use]
    pub const fn key(&self) -> &ObjectKey {
        &self.key
    }

    /// The sealed bytes, from their beginning.
    pub fn sealed(&self) -> impl Read + Seek + Send + 'static {
        AtPosition {
            file: Arc::clone(&self.file),
            position: 0,
            length: self.sealed_bytes,
        }
    }

    /// Size of the sealed object, in bytes.
    #[must_use]
    pub const fn sealed_bytes(&self) -> u64 {
        self.sealed_bytes
    }

    fn limit(&self, limits: Limits) -> OutputLimit {
        let sealed_bytes = self.sealed_bytes;
        let foreign = OutputLimit::Ratio {
            sealed_bytes,
            factor: limits.foreign_ratio,
        };
        self.manifest
            .as_ref()
            .map_or(foreign, |manifest| OutputLimit::Bytes(manifest.plain_bytes))
    }
}

/// A backup that was proved end to end.
pub struct Proof {
    /// What was opened.
    pub opened: Opened,
    /// The archive's own list.
    pub list: String,
    /// The client whose pg_restore read every block.
    pub reader: Client,
}

/// Opened bytes as they come, and the verdict at their end.
pub struct Opening {
    chunks: pipe::Receiver,
    verdict: JoinHandle<Result<Opened, VaultError>>,
}

impl Opening {
    /// The next plain bytes; `None` once the whole message was proved authentic and complete.
    ///
    /// # Errors
    /// The message is not what it should be.
    pub async fn next(&mut self) -> Result<Option<Bytes>, VaultError> {
        match self.chunks.receive().await {
            Ok(chunk) => Ok(chunk),
            // The thread went away without an end: it says why.
            Err(source) => match (&mut self.verdict).await {
                Ok(Err(error)) => Err(error),
                Ok(Ok(_)) => Err(VaultError::Io {
                    operation: "read the opened backup",
                    source,
                }),
                Err(_panic) => Err(VaultError::Panicked),
            },
        }
    }

    /// What was opened, once [`Opening::next`] said `None`.
    ///
    /// # Errors
    /// As [`Opening::next`].
    pub async fn finish(self) -> Result<Opened, VaultError> {
        drop(self.chunks);
        self.verdict.await.unwrap_or(Err(VaultError::Panicked))
    }
}

impl Vault {
    /// Fetches a backup's sealed bytes and compares them with its manifest.
    ///
    /// # Errors
    /// It is no backup, the store fails, or the bytes are not those that were stored.
    pub async fn fetch(
        &self,
        entry: Entry,
        progress: &Arc<Progress>,
    ) -> Result<Fetched, VaultError> {
        let (key, manifest) = match entry {
            Entry::Complete(manifest) => (manifest.object_key.clone(), Some(manifest)),
            Entry::Foreign(Bare { key, .. }) => (key.to_string(), None),
            Entry::Lost(manifest) => return Err(VaultError::Lost(manifest.name)),
            Entry::Unfinished(bare) => return Err(VaultError::Unfinished(bare.key.to_string())),
            // Reading the manifest again gives the error itself, with its hint.
            Entry::Unreadable { key, .. } => {
                let manifest = self.read_manifest(&key).await?;
                (key.to_string(), Some(Box::new(manifest)))
            }
        };
        let key = ObjectKey::parse(&key).map_err(|_| VaultError::BadKey(key))?;
        let name = key.backup_name().unwrap_or(key.as_str()).to_owned();
        let Some(head) = self.store.head(&key).await? else {
            return Err(VaultError::Lost(name));
        };
        if let Some(manifest) = &manifest {
            if !carries(&head, manifest.uid) {
                return Err(VaultError::Replaced {
                    name,
                    what: "its uid differs",
                });
            }
            if head.bytes != manifest.sealed_bytes {
                return Err(VaultError::Replaced {
                    name,
                    what: SIZE_DIFFERS,
                });
            }
        }
        self.require_spool_space(head.bytes)?;
        progress.start_stage(FETCH);
        let counted = Arc::clone(progress);
        let file = self
            .store
            .fetch(&head, &self.spool_folder, move |bytes| {
                counted.add_bytes(bytes);
            })
            .await?;
        let fetched = Fetched {
            file: Arc::new(file),
            sealed_bytes: head.bytes,
            manifest,
            name,
            key,
            copy: Which::First,
            note: None,
        };
        self.compare_sealed_digest(&fetched).await?;
        Ok(fetched)
    }

    /// Fetches an object that has no manifest, and hashes it: its size in bytes and its SHA-256; `None` where there is
    /// none. Whether it can be opened is not looked at.
    ///
    /// # Errors
    /// The store or the spool folder fails.
    pub async fn digest_object(
        &self,
        key: &ObjectKey,
    ) -> Result<Option<(u64, Sha256)>, VaultError> {
        let Some(head) = self.store.head(key).await? else {
            return Ok(None);
        };
        self.require_spool_space(head.bytes)?;
        let file = self.store.fetch(&head, &self.spool_folder, |_| {}).await?;
        let source = AtPosition {
            file: Arc::new(file),
            position: 0,
            length: head.bytes,
        };
        digest_of(source).await.map(Some)
    }

    /// Decrypts the whole message into nothing: it is authentic, and it is what was sealed.
    ///
    /// # Errors
    /// It is not.
    pub async fn authenticate(
        &self,
        fetched: &Fetched,
        limits: Limits,
        progress: &Arc<Progress>,
    ) -> Result<Opened, VaultError> {
        progress.start_stage("authenticate");
        let mut opening = self.open(fetched, limits);
        while let Some(chunk) = opening.next().await? {
            progress.add_bytes(chunk.len() as u64);
        }
        let opened = opening.finish().await?;
        compare_plain_digest(fetched, &opened)?;
        Ok(opened)
    }

    /// Proves a fetched backup end to end. With a manifest, its sealed digest vouches for the bytes, so that
    /// `pg_restore` may read along; a foreign object is authenticated first.
    ///
    /// # Errors
    /// It is damaged, replaced, cut, sealed with another passphrase, no archive, or one that no client reads.
    pub async fn verify(
        &self,
        fetched: &Fetched,
        clients: &Clients,
        limits: Limits,
        progress: &Arc<Progress>,
    ) -> Result<Proof, VaultError> {
        if fetched.manifest.is_none() {
            self.authenticate(fetched, limits, progress).await?;
        }
        let list = self
            .archive_list(fetched, clients.newest()?, limits)
            .await?;
        let reader = clients.for_proof(Codec::of(&list)).await?;
        progress.start_stage("verify");
        let load = Load::start(reader, LoadMode::Check, progress)?;
        let (opened, _) = self.load(fetched, load, limits, progress).await?;
        Ok(Proof {
            opened,
            list,
            reader: reader.clone(),
        })
    }

    /// Streams an authenticated backup into a `pg_restore`, and compares what was streamed with the manifest. The
    /// caller has verified `fetched` before; here every byte is proved a second time while it flows.
    ///
    /// # Errors
    /// Opening or loading fails. The load was then ended, and what it had begun is rolled back by the server.
    pub async fn load(
        &self,
        fetched: &Fetched,
        mut load: Load,
        limits: Limits,
        progress: &Arc<Progress>,
    ) -> Result<(Opened, Vec<String>), VaultError> {
        let mut opening = self.open(fetched, limits);
        // One chunk is held back, so that pg_restore cannot come to its end, and commit, before the message's end
        // was proved.
        let mut held: Option<Bytes> = None;
        while let Some(chunk) = opening.next().await? {
            progress.add_bytes(chunk.len() as u64);
            if let Some(previous) = held.replace(chunk) {
                load.write(&previous).await?;
            }
            if !load.is_reading() {
                break;
            }
        }
        if !load.is_reading() {
            // pg_restore stopped early. Only a success that read everything it wanted is one.
            let warnings = load.finish().await?;
            while opening.next().await?.is_some() {}
            let opened = opening.finish().await?;
            compare_plain_digest(fetched, &opened)?;
            return Ok((opened, warnings));
        }
        let opened = opening.finish().await?;
        compare_plain_digest(fetched, &opened)?;
        if let Some(last) = held {
            load.write(&last).await?;
        }
        let warnings = load.finish().await?;
        Ok((opened, warnings))
    }

    /// The archive's own list. The caller has authenticated `fetched` before, or its manifest has the list.
    ///
    /// # Errors
    /// It is no archive, or opening it fails.
    pub async fn archive_list(
        &self,
        fetched: &Fetched,
        client: &Client,
        limits: Limits,
    ) -> Result<String, VaultError> {
        if let Some(manifest) = &fetched.manifest {
            return Ok(manifest.archive_list.clone());
        }
        let mut lister = ArchiveLister::start(client, None)?;
        let mut opening = self.open(fetched, limits);
        while !lister.is_done() {
            let Some(chunk) = opening.next().await? else {
                break;
            };
            lister.offer(&chunk).await;
        }
        Ok(lister.finish().await?)
    }

    /// Opens a fetched backup on a thread of its own. What comes out is proved only at its end.
    pub fn open(&self, fetched: &Fetched, limits: Limits) -> Opening {
        let (sender, chunks) = pipe::channel(OPENED_CHUNKS_WAITING);
        let (source, limit, passphrases) = (
            fetched.sealed(),
            fetched.limit(limits),
            self.passphrases.clone(),
        );
        let verdict = tokio::task::spawn_blocking(move || {
            pump(Opener::open(source, &passphrases, limit)?, sender)
        });
        Opening { chunks, verdict }
    }

    async fn compare_sealed_digest(&self, fetched: &Fetched) -> Result<(), VaultError> {
        let Some(manifest) = &fetched.manifest else {
            return Ok(());
        };
        let (_, found) = digest_of(fetched.sealed()).await?;
        let recorded = manifest.sealed_sha256;
        if found == recorded {
            return Ok(());
        }
        Err(VaultError::SealedDigest {
            name: fetched.name.clone(),
            found,
            recorded,
        })
    }

    /// A store over the network is spooled; the room is looked at before the first byte is fetched.
    fn require_spool_space(&self, needed: u64) -> Result<(), VaultError> {
        if !matches!(self.store, Store::S3(_)) {
            return Ok(());
        }
        let free = self.spool_bytes_free()?;
        if free >= needed {
            return Ok(());
        }
        Err(VaultError::NoSpace {
            folder: self.spool_folder.display().to_string(),
            free,
            needed,
        })
    }
}

async fn digest_of(mut sealed: impl Read + Send + 'static) -> Result<(u64, Sha256), VaultError> {
    super::blocking(move || {
        let mut digester = Digester::default();
        let copied = io::copy(&mut sealed, &mut digester);
        copied.map_err(|source| VaultError::Io {
            operation: "read the sealed dump",
            source,
        })?;
        Ok(digester.finish())
    })
    .await
}

/// Moves opened bytes into the queue; its end is said only after the message's own end was proved.
fn pump<R: Read + Send + 'static>(
    mut opener: Opener<R>,
    mut sender: pipe::Sender,
) -> Result<Opened, VaultError> {
    let gone = |source| VaultError::Io {
        operation: "pass the opened backup on",
        source,
    };
    let mut buffer = vec![0; OPENED_CHUNK_BYTES];
    loop {
        match opener.read(&mut buffer)? {
            0 => break,
            read => io::Write::write_all(&mut sender, &buffer[..read]).map_err(gone)?,
        }
    }
    let opened = opener.finish()?;
    // Whoever stopped listening still gets the verdict.
    let _listening = sender.end_blocking();
    Ok(opened)
}

fn compare_plain_digest(fetched: &Fetched, opened: &Opened) -> Result<(), VaultError> {
    match &fetched.manifest {
        Some(manifest)
            if manifest.plain_bytes != opened.plain_bytes
                || manifest.plain_sha256 != opened.plain_sha256 =>
        {
            Err(VaultError::PlainDigest {
                name: fetched.name.clone(),
            })
        }
        _ => Ok(()),
    }
}

/// A file read at a position of one's own, so that several readers share one open file.
struct AtPosition {
    file: Arc<std::fs::File>,
    position: u64,
    length: u64,
}

impl Read for AtPosition {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.position)?;
        self.position += read as u64;
        Ok(read)
    }
}

impl Seek for AtPosition {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(offset) => self.length.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}
