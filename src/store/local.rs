//! A folder as a store: an object is a file, named by its key.
//!
//! An object is staged beside its place, flushed to the disk, renamed without replacing anything, and the folder is
//! flushed too: only then does it exist. All of that is in one place, so that no caller can forget a step. The uid,
//! which S3 keeps as metadata, is in a hidden file beside it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use time::OffsetDateTime;

use super::error::StoreError;
use super::spool::{SpoolWriter, blocking};
use super::{Deleted, ListedObject, ObjectHead};
use crate::model::ids::Uid;
use crate::model::object_key::ObjectKey;

/// What staged files are called. Hidden, so that no listing ever shows one; known, so that old ones can be cleaned up.
const STAGE_PREFIX: &str = ".pgseal-stage-";
/// What is behind a file's name in the name of the hidden file with its uid.
const META_SUFFIX: &str = ".meta";
/// Folders may be nested so deep; keys have at most 1,024 bytes, so no real one is deeper.
const DEPTH_MAX: usize = 512;

/// A folder.
#[derive(Clone, Debug)]
pub struct LocalStore {
    root: Arc<Path>,
}

/// An object that is being staged. Dropping it removes the stage file.
pub struct LocalUpload {
    store: LocalStore,
    key: ObjectKey,
    uid: Uid,
    stage: Stage,
    spool: SpoolWriter,
}

impl LocalStore {
    pub(super) async fn open(root: PathBuf) -> Result<Self, StoreError> {
        let place = root.clone();
        blocking("open the store in", &place, move || {
            require_root(&root)?;
            // Absolute, so that what `describe` says means the same to whoever reads it.
            let root = fs::canonicalize(&root)
                .map_err(|error| StoreError::io("open the store in", &root, error))?;
            Ok(Self { root: root.into() })
        })
        .await
    }

    /// A folder that may come back, as one on a disk that is not mounted.
    pub(super) fn unopened(root: &Path) -> Result<Self, StoreError> {
        let absolute = std::path::absolute(root);
        let root = absolute.map_err(|error| StoreError::io("open the store in", root, error))?;
        Ok(Self { root: root.into() })
    }

    pub(super) fn describe(&self) -> String {
        format!("file:{}", self.root.display())
    }

    /// Whatever links lead there: both are absolute.
    pub(super) fn is_place_of(&self, other: &Self) -> bool {
        self.root == other.root
    }

    pub(super) async fn check(&self) -> Result<(), StoreError> {
        self.work("write into", &self.root, |store| {
            let stage = Stage::create(&store.root, None)
                .map_err(|error| StoreError::io("write into", &store.root, error))?;
            drop(stage);
            Ok(())
        })
        .await
    }

    pub(super) async fn head(&self, key: &ObjectKey) -> Result<Option<ObjectHead>, StoreError> {
        let key = key.clone();
        self.work("look up", &self.path(&key), move |store| {
            store.head_of(&key)
        })
        .await
    }

    pub(super) async fn put(
        &self,
        key: &ObjectKey,
        uid: Option<Uid>,
        content: Bytes,
    ) -> Result<ObjectHead, StoreError> {
        let key = key.clone();
        self.work("write", &self.path(&key), move |store| {
            let path = store.path(&key);
            let failed = |error| StoreError::io("write", &path, error);
            let mut stage = Stage::beside(&store.root, &path, uid).map_err(failed)?;
            stage.file.write_all(&content).map_err(failed)?;
            store.publish(stage, &key, uid)
        })
        .await
    }

    pub(super) async fn upload(
        &self,
        key: &ObjectKey,
        uid: Uid,
    ) -> Result<LocalUpload, StoreError> {
        if self.head(key).await?.is_some() {
            return Err(StoreError::AlreadyExists { key: key.clone() });
        }
        let path = self.path(key);
        let staged = path.clone();
        let stage = self.work("write", &path, move |store| {
            Stage::beside(&store.root, &staged, Some(uid))
                .map_err(|error| StoreError::io("write", &staged, error))
        });
        let stage = stage.await?;
        let file = stage
            .file
            .try_clone()
            .map_err(|error| StoreError::io("write", &path, error))?;
        Ok(LocalUpload {
            store: self.clone(),
            key: key.clone(),
            uid,
            stage,
            spool: SpoolWriter::new(file, &path),
        })
    }

    pub(super) async fn list(&self, prefix: &str) -> Result<Vec<ListedObject>, StoreError> {
        let prefix = prefix.to_owned();
        self.work("list", &self.root, move |store| {
            let mut objects = Vec::new();
            // Only the folder that the prefix names is read, not the whole store.
            let folder = prefix.rsplit_once('/').map_or("", |(folder, _)| folder);
            store.collect(folder, &prefix, 0, &mut objects)?;
            objects.sort_by(|one: &ListedObject, other| one.key.cmp(&other.key));
            Ok(objects)
        })
        .await
    }

    pub(super) async fn read(
        &self,
        key: &ObjectKey,
        bytes_max: u64,
    ) -> Result<(ObjectHead, Bytes), StoreError> {
        let key = key.clone();
        self.work("read", &self.path(&key), move |store| {
            let head = store
                .head_of(&key)?
                .ok_or_else(|| StoreError::NotFound { key: key.clone() })?;
            if head.bytes > bytes_max {
                return Err(StoreError::TooLarge {
                    operation: "read",
                    key,
                    bytes: head.bytes,
                    bytes_max,
                });
            }
            let path = store.path(&key);
            let content = fs::read(&path).map_err(|error| StoreError::io("read", &path, error))?;
            Ok((head, content.into()))
        })
        .await
    }

    /// The object's own file: an open file keeps its content, whatever becomes of its name.
    pub(super) async fn fetch(&self, head: &ObjectHead) -> Result<File, StoreError> {
        let head = head.clone();
        self.work("read", &self.path(&head.key), move |store| {
            let path = store.path(&head.key);
            let file = match File::open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(StoreError::NotFound { key: head.key });
                }
                Err(error) => return Err(StoreError::io("read", &path, error)),
            };
            let metadata = file
                .metadata()
                .map_err(|error| StoreError::io("read", &path, error))?;
            if head.etag.is_some_and(|etag| etag != etag_of(&metadata)) {
                return Err(StoreError::Changed { key: head.key });
            }
            Ok(file)
        })
        .await
    }

    pub(super) async fn delete(&self, key: &ObjectKey) -> Result<Deleted, StoreError> {
        let key = key.clone();
        self.work("delete", &self.path(&key), move |store| {
            let path = store.path(&key);
            let failed = |error| StoreError::io("delete", &path, error);
            let existed = remove(&path).map_err(failed)?;
            remove(&meta_path(&path)).map_err(failed)?;
            if existed {
                sync_folder(&path).map_err(failed)?;
            }
            Ok(Deleted {
                versions: u64::from(existed),
            })
        })
        .await
    }

    /// Removes what was staged of one backup: its process is gone.
    pub(super) async fn remove_stages_of(
        &self,
        key: &ObjectKey,
        uid: Uid,
    ) -> Result<u64, StoreError> {
        let folder = self.path(key).parent().map(Path::to_owned);
        let folder = folder.unwrap_or_else(|| self.root.to_path_buf());
        let subject = folder.clone();
        self.work("clean up", &subject, move |_| {
            let failed = |error| StoreError::io("clean up", &folder, error);
            let entries = match fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
                Err(error) => return Err(failed(error)),
            };
            let prefix = stage_prefix(uid);
            let mut removed = 0;
            for entry in entries {
                let path = entry.map_err(failed)?.path();
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                if name.starts_with(&prefix) && remove(&path).map_err(failed)? {
                    removed += 1;
                }
            }
            Ok(removed)
        })
        .await
    }

    /// Removes stage files that nobody has written to for so long: their process is gone.
    pub(super) async fn remove_stale_stages(
        &self,
        for_longer_than: Duration,
    ) -> Result<u64, StoreError> {
        self.work("clean up", &self.root, move |store| {
            let mut removed = 0;
            visit(&store.root, 0, &mut |path, metadata| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let age = metadata.modified().ok().and_then(|at| at.elapsed().ok());
                let is_stale = age.is_some_and(|age| age > for_longer_than);
                if name.starts_with(STAGE_PREFIX)
                    && is_stale
                    && remove(path).map_err(|error| StoreError::io("clean up", path, error))?
                {
                    removed += 1;
                }
                Ok(())
            })?;
            Ok(removed)
        })
        .await
    }

    /// File work, as far as the root is there: without it everything would look as if it had never been stored.
    async fn work<T: Send + 'static>(
        &self,
        operation: &'static str,
        subject: &Path,
        work: impl FnOnce(&Self) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = self.clone();
        blocking(operation, subject, move || {
            require_root(&store.root)?;
            work(&store)
        })
        .await
    }

    fn path(&self, key: &ObjectKey) -> PathBuf {
        self.root.join(key.as_str())
    }

    fn head_of(&self, key: &ObjectKey) -> Result<Option<ObjectHead>, StoreError> {
        let path = self.path(key);
        let metadata = match fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() => metadata,
            Ok(_) => return Ok(None),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(StoreError::io("look up", &path, error)),
        };
        let uid = fs::read_to_string(meta_path(&path))
            .ok()
            .and_then(|text| Uid::parse(text.trim_end()));
        Ok(Some(ObjectHead {
            key: key.clone(),
            bytes: metadata.len(),
            uid,
            etag: Some(etag_of(&metadata)),
            version_id: None,
            modified: modified(&metadata),
        }))
    }

    /// From stage file to object. The uid is there first: an object that has none would be taken for somebody else's.
    fn publish(
        &self,
        stage: Stage,
        key: &ObjectKey,
        uid: Option<Uid>,
    ) -> Result<ObjectHead, StoreError> {
        let path = self.path(key);
        let failed = |error| StoreError::io("write", &path, error);
        stage.file.sync_all().map_err(failed)?;
        match self.head_of(key)? {
            Some(there) if uid.is_none() || there.uid != uid => {
                return Err(StoreError::AlreadyExists { key: key.clone() });
            }
            Some(_) => {
                // The same backup's own object, written again.
                remove(&path).map_err(failed)?;
            }
            None => {}
        }
        if let Some(uid) = uid {
            write_meta(&path, uid).map_err(|error| failed(unnamed(&path, error)))?;
        }
        match stage.publish(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(StoreError::AlreadyExists { key: key.clone() });
            }
            Err(error) => return Err(failed(unnamed(&path, error))),
        }
        if let Err(error) = sync_folder(&path) {
            // It is there, but not sure to stay: to the caller it failed, so nobody may find it.
            let error = match remove(&path) {
                Ok(_) => error,
                Err(stays) => stays,
            };
            return Err(failed(unnamed(&path, error)));
        }
        self.head_of(key)?
            .ok_or_else(|| StoreError::NotFound { key: key.clone() })
    }

    fn collect(
        &self,
        folder: &str,
        prefix: &str,
        depth: usize,
        objects: &mut Vec<ListedObject>,
    ) -> Result<(), StoreError> {
        visit(&self.root.join(folder), depth, &mut |path, metadata| {
            let relative = path
                .strip_prefix(&*self.root)
                .ok()
                .and_then(Path::to_str)
                .unwrap_or_default();
            // Hidden files are this store's own; names that are no keys are somebody else's.
            if let (true, Ok(key)) = (relative.starts_with(prefix), ObjectKey::parse(relative)) {
                let etag = Some(etag_of(metadata));
                objects.push(ListedObject {
                    key,
                    bytes: metadata.len(),
                    etag,
                    modified: modified(metadata),
                });
            }
            Ok(())
        })
    }
}

impl LocalUpload {
    pub(super) const fn key(&self) -> &ObjectKey {
        &self.key
    }

    pub(super) async fn write(&mut self, chunk: Bytes) -> Result<(), StoreError> {
        self.spool.write(chunk).await
    }

    pub(super) async fn commit(self) -> Result<ObjectHead, StoreError> {
        let Self {
            store,
            key,
            uid,
            stage,
            spool,
        } = self;
        let bytes = spool.bytes();
        drop(spool.finish().await?);
        let path = store.path(&key);
        let head = blocking("write", &path, move || {
            store.publish(stage, &key, Some(uid))
        })
        .await?;
        if head.bytes == bytes {
            return Ok(head);
        }
        let detail = format!("{bytes} bytes were written, the file has {}", head.bytes);
        Err(StoreError::Protocol {
            operation: "confirm",
            subject: head.key.to_string(),
            detail,
            source: None,
        })
    }
}

/// What the staged files of one backup are called: whoever knows that it is dead finds them by that.
fn stage_prefix(uid: Uid) -> String {
    format!("{STAGE_PREFIX}{uid}-")
}

/// A file that is being written beside its place. Dropping it removes it.
struct Stage {
    file: File,
    path: Option<PathBuf>,
}

impl Stage {
    fn beside(root: &Path, path: &Path, uid: Option<Uid>) -> io::Result<Self> {
        let folder = path.parent().unwrap_or(path);
        create_folder(root, folder)?;
        Self::create(folder, uid)
    }

    fn create(folder: &Path, uid: Option<Uid>) -> io::Result<Self> {
        let prefix = uid.map_or_else(|| STAGE_PREFIX.to_owned(), stage_prefix);
        let (file, path) = tempfile::Builder::new()
            .prefix(&prefix)
            .tempfile_in(folder)?
            .keep()?;
        Ok(Self {
            file,
            path: Some(path),
        })
    }

    /// Gives the file its name; fails where the name is taken.
    fn publish(mut self, to: &Path) -> io::Result<()> {
        let Some(from) = self.path.as_deref() else {
            return Ok(());
        };
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            Ok(()) => {
                self.path = None;
                Ok(())
            }
            // Some network file systems cannot do that; a hard link does not replace anything either.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => fs::hard_link(from, to),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(path) = self.path.take() {
            if let Err(error) = remove(&path) {
                tracing::warn!(%error, path = %path.display(), "a stage file stayed behind");
            }
        }
    }
}

/// Calls `file` for every file below a folder, as far as they do not go away meanwhile.
fn visit(
    folder: &Path,
    depth: usize,
    file: &mut impl FnMut(&Path, &fs::Metadata) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let failed = |error| StoreError::io("list", folder, error);
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let path = entry.path();
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            // It went away while the folder was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed(error)),
        };
        if metadata.is_dir() && depth < DEPTH_MAX {
            visit(&path, depth + 1, file)?;
        } else if metadata.is_file() {
            file(&path, &metadata)?;
        }
    }
    Ok(())
}

fn write_meta(path: &Path, uid: Uid) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(meta_path(path))?;
    writeln!(file, "{uid}")?;
    file.sync_all()
}

fn meta_path(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}{META_SUFFIX}"))
}

/// Takes the uid away again from a name that got no object; the error is the one that kept it from that.
fn unnamed(path: &Path, error: io::Error) -> io::Error {
    if let Err(stays) = remove(&meta_path(path)) {
        tracing::warn!(error = %stays, path = %path.display(), "the file with an object's uid stayed behind");
    }
    error
}

/// Whether there was something to remove.
fn remove(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Refuses a root that is not there. It is never made: a mistyped one would be a new store on the wrong disk, and so would
/// one on a disk that is not mounted.
fn require_root(root: &Path) -> Result<(), StoreError> {
    let missing = || StoreError::NoFolder {
        root: root.to_owned(),
    };
    match fs::metadata(root) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(missing()),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Err(missing())
        }
        Err(error) => Err(StoreError::io("open the store in", root, error)),
    }
}

/// Creates a folder and those between it and the root, each flushed into the one that holds it.
fn create_folder(root: &Path, folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    match folder.parent() {
        Some(above) if folder != root => create_folder(root, above)?,
        _ => return Err(io::ErrorKind::NotFound.into()),
    }
    match DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => sync_folder(folder),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Flushes the folder that holds `path`: a new name is only then sure to outlive a power failure.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or_else(|| Path::new(".")))?.sync_all()
}

fn modified(metadata: &fs::Metadata) -> OffsetDateTime {
    metadata
        .modified()
        .map_or(OffsetDateTime::UNIX_EPOCH, OffsetDateTime::from)
}

/// What changes when the content does: size, time and the file itself.
fn etag_of(metadata: &fs::Metadata) -> String {
    format!(
        "{:x}-{:x}-{:x}.{:09}",
        metadata.ino(),
        metadata.len(),
        metadata.mtime(),
        metadata.mtime_nsec()
    )
}
