//! Where objects are: a folder, or a bucket of an S3-compatible store. It knows keys, bytes and uids, and nothing of what
//! the bytes mean.
//!
//! An upload is nothing until its `commit` returned: then the store was asked again, and has the size and the uid that
//! were sent. Dropping one aborts it as far as that can be done without waiting; `abort` does it all.

mod endpoint;
mod error;
mod local;
mod parts;
mod reading;
mod retry;
mod s3;
mod s3_call;
mod s3_delete;
mod s3_upload;
mod spool;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use time::OffsetDateTime;

pub use endpoint::PlainHttp;
pub use error::StoreError;
pub use local::{LocalStore, LocalUpload};
pub use parts::PART_BYTES_FIRST;
pub use reading::Reading;
pub use retry::RetryPolicy;
pub use s3::{S3Settings, S3Store};
pub use s3_upload::S3Upload;

use self::s3_delete::Age;
use crate::model::ids::Uid;
use crate::model::object_key::ObjectKey;

/// Where objects are.
#[derive(Clone)]
pub enum Store {
    /// A bucket.
    S3(S3Store),
    /// A folder.
    Local(LocalStore),
}

/// How to reach a store.
pub enum StoreSettings {
    /// A folder, which must be there.
    Local {
        /// Its path.
        root: PathBuf,
    },
    /// A bucket, which must be there.
    S3(S3Settings),
}

/// What a store says of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectHead {
    /// Its name.
    pub key: ObjectKey,
    /// Its size.
    pub bytes: u64,
    /// Whose it is; `None`: somebody else's.
    pub uid: Option<Uid>,
    /// What changes when its content does.
    pub etag: Option<String>,
    /// Its version, where the store has versions.
    pub version_id: Option<String>,
    /// When the store got it.
    pub modified: OffsetDateTime,
}

/// What a listing says of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedObject {
    /// Its name.
    pub key: ObjectKey,
    /// Its size.
    pub bytes: u64,
    /// What changes when its content does.
    pub etag: Option<String>,
    /// When the store got it.
    pub modified: OffsetDateTime,
}

/// What a deletion removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deleted {
    /// How many versions of the object there were.
    pub versions: u64,
}

/// An object on its way into the store.
#[must_use = "an upload that was not committed stores nothing"]
pub enum Upload {
    /// Into a bucket.
    S3(S3Upload),
    /// Into a folder.
    Local(LocalUpload),
}

/// Each of these fails as [`StoreError`] says, after what passes by itself was repeated. The SDK's futures are large and
/// deeply nested, so they are boxed here.
impl Store {
    /// Opens a store. A bucket is not asked yet: [`Store::check_bucket`] does.
    ///
    /// # Errors
    /// The settings cannot work, or the folder is not there.
    pub async fn open(settings: StoreSettings) -> Result<Self, StoreError> {
        match settings {
            StoreSettings::Local { root } => LocalStore::open(root).await.map(Self::Local),
            StoreSettings::S3(settings) => S3Store::open(settings).await.map(Self::S3),
        }
    }

    /// As [`Store::open`], but a folder that is not there now is only missed when something is done there.
    ///
    /// # Errors
    /// The settings cannot work.
    pub async fn open_or_later(settings: StoreSettings) -> Result<Self, StoreError> {
        match settings {
            StoreSettings::Local { root } => match LocalStore::open(root.clone()).await {
                Ok(store) => Ok(Self::Local(store)),
                Err(error) => {
                    tracing::warn!(%error, "A store cannot be opened, and is gone without for now");
                    LocalStore::unopened(&root).map(Self::Local)
                }
            },
            settings @ StoreSettings::S3(_) => Self::open(settings).await,
        }
    }

    /// The place, for people. No secret is in it.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::S3(store) => store.describe(),
            Self::Local(store) => store.describe(),
        }
    }

    /// Whether the other one is the same place, as far as names tell.
    #[must_use]
    pub fn is_place_of(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::S3(one), Self::S3(other)) => one.is_place_of(other),
            (Self::Local(one), Self::Local(other)) => one.is_place_of(other),
            _ => false,
        }
    }

    /// The same store for somebody who can go elsewhere: it is given up within half a minute instead of minutes.
    #[must_use]
    pub fn in_haste(&self) -> Self {
        match self {
            Self::S3(store) => Self::S3(store.in_haste()),
            Self::Local(store) => Self::Local(store.clone()),
        }
    }

    /// Whether the bucket is there, or the folder can be written: some servers take objects for buckets that do not
    /// exist (measured).
    ///
    /// # Errors
    /// It is not.
    pub async fn check_bucket(&self) -> Result<(), StoreError> {
        match self {
            Self::S3(store) => Box::pin(store.check_bucket()).await,
            Self::Local(store) => store.check().await,
        }
    }

    /// Stores a small object. One of the same uid is replaced, another's is not.
    ///
    /// # Errors
    /// The name is taken; the store fails; or it has something else than was sent.
    pub async fn put(
        &self,
        key: &ObjectKey,
        uid: Option<Uid>,
        content: Bytes,
    ) -> Result<ObjectHead, StoreError> {
        match self {
            Self::S3(store) => Box::pin(store.put(key, uid, content)).await,
            Self::Local(store) => store.put(key, uid, content).await,
        }
    }

    /// Starts to stream an object. `size_hint` only chooses the parts' sizes.
    ///
    /// # Errors
    /// The name is taken, or the store fails.
    pub async fn upload(
        &self,
        key: &ObjectKey,
        uid: Uid,
        size_hint: Option<u64>,
    ) -> Result<Upload, StoreError> {
        match self {
            Self::S3(store) => Box::pin(S3Upload::start(store, key, uid, size_hint))
                .await
                .map(Upload::S3),
            Self::Local(store) => store.upload(key, uid).await.map(Upload::Local),
        }
    }

    /// Looks an object up; `None` where there is none.
    ///
    /// # Errors
    /// The store fails.
    pub async fn head(&self, key: &ObjectKey) -> Result<Option<ObjectHead>, StoreError> {
        match self {
            Self::S3(store) => Box::pin(store.head(key)).await,
            Self::Local(store) => store.head(key).await,
        }
    }

    /// Every object whose name starts with `prefix`, by name. Names that pgseal cannot use are left out.
    ///
    /// # Errors
    /// The store fails.
    pub async fn list(&self, prefix: &str) -> Result<Vec<ListedObject>, StoreError> {
        match self {
            Self::S3(store) => Box::pin(store.list(prefix)).await,
            Self::Local(store) => store.list(prefix).await,
        }
    }

    /// Reads a small object.
    ///
    /// # Errors
    /// It is not there, has more than `bytes_max`, or the store fails.
    pub async fn read(
        &self,
        key: &ObjectKey,
        bytes_max: u64,
    ) -> Result<(ObjectHead, Bytes), StoreError> {
        match self {
            Self::S3(store) => Box::pin(store.read(key, bytes_max)).await,
            Self::Local(store) => store.read(key, bytes_max).await,
        }
    }

    /// The object as an open file without a name: a spooled copy, or the local store's own file. `counted` hears of
    /// bytes as they come.
    ///
    /// # Errors
    /// It is gone, was replaced since `head`, or the store or the spool folder fails.
    pub async fn fetch(
        &self,
        head: &ObjectHead,
        spool_folder: &Path,
        counted: impl Fn(u64),
    ) -> Result<File, StoreError> {
        match self {
            Self::S3(store) => Box::pin(store.fetch(head, spool_folder, counted)).await,
            Self::Local(store) => store.fetch(head).await,
        }
    }

    /// Starts to read `bytes` bytes of an object from the byte `first` on; both must lie inside of it.
    ///
    /// # Errors
    /// It is gone, was replaced since `head`, or the store fails.
    pub async fn reading(
        &self,
        head: &ObjectHead,
        first: u64,
        bytes: u64,
    ) -> Result<Reading, StoreError> {
        match self {
            Self::S3(store) => Box::pin(Reading::of_s3(store, head, first, bytes)).await,
            Self::Local(store) => Reading::of_local(store, head, first, bytes).await,
        }
    }

    /// Deletes an object, every version of it, and makes sure that it is gone. One that is not there is no error.
    ///
    /// # Errors
    /// It is locked, the store refuses, or it is still there.
    pub async fn delete(&self, key: &ObjectKey) -> Result<Deleted, StoreError> {
        match self {
            Self::S3(store) => Box::pin(store.delete(key)).await,
            Self::Local(store) => store.delete(key).await,
        }
    }

    /// Cleans up what the upload of one backup left whose process is known to be dead, and nobody else's: how much that was.
    /// Should it live after all, its upload can complete no more.
    ///
    /// # Errors
    /// The store fails.
    pub async fn abort_uploads_of(&self, key: &ObjectKey, uid: Uid) -> Result<u64, StoreError> {
        match self {
            // Its key is that backup's alone: a name that is taken gets a part of the uid.
            Self::S3(store) => Box::pin(store.abort_uploads(key.as_str(), Age::Any)).await,
            Self::Local(store) => store.remove_stages_of(key, uid).await,
        }
    }

    /// Cleans up what interrupted uploads left below `prefix` and nobody has added to for so long: how many there were. A
    /// bucket's own clock says how long that is, because ours may be wrong.
    ///
    /// # Errors
    /// The store fails.
    pub async fn abort_stale_uploads(
        &self,
        prefix: &str,
        for_longer_than: Duration,
    ) -> Result<u64, StoreError> {
        let age = Age::LongerThan(for_longer_than);
        match self {
            Self::S3(store) => Box::pin(store.abort_uploads(prefix, age)).await,
            Self::Local(store) => store.remove_stale_stages(for_longer_than).await,
        }
    }
}

impl Upload {
    /// The name that the object will have.
    #[must_use]
    pub const fn key(&self) -> &ObjectKey {
        match self {
            Self::S3(upload) => upload.key(),
            Self::Local(upload) => upload.key(),
        }
    }

    /// Passes the next bytes on, waiting where the store is slower.
    ///
    /// # Errors
    /// The store fails; the upload can only be aborted then.
    pub async fn write(&mut self, chunk: Bytes) -> Result<(), StoreError> {
        match self {
            Self::S3(upload) => Box::pin(upload.write(chunk)).await,
            Self::Local(upload) => upload.write(chunk).await,
        }
    }

    /// Makes the object visible, and asks the store whether it has what was sent.
    ///
    /// # Errors
    /// It has not, or cannot; then nothing of it stays where the store lets that be done.
    pub async fn commit(self) -> Result<ObjectHead, StoreError> {
        match self {
            Self::S3(upload) => Box::pin(upload.commit()).await,
            Self::Local(upload) => upload.commit().await,
        }
    }

    /// Removes everything that was sent.
    ///
    /// # Errors
    /// The store fails.
    pub async fn abort(self) -> Result<(), StoreError> {
        match self {
            Self::S3(upload) => Box::pin(upload.abort()).await,
            // Its stage file goes with it.
            Self::Local(upload) => {
                drop(upload);
                Ok(())
            }
        }
    }
}
