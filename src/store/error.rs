//! What can go wrong between pgseal and a store, in words that say what to change.

use std::io;
use std::path::{Path, PathBuf};

use time::OffsetDateTime;

use crate::model::moment::moment;
use crate::model::object_key::ObjectKey;

/// The cause below a [`StoreError`].
pub(super) type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why a store did not do what it was asked. Display never holds the source, and never a secret.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no object of that name.
    #[error("find {key}: the store has no such object")]
    NotFound {
        /// The object that was asked for.
        key: ObjectKey,
    },
    /// Another object (one with another uid) has the name. It was left as it is.
    #[error("write {key}: another object has this name already")]
    AlreadyExists {
        /// The name that is taken.
        key: ObjectKey,
    },
    /// The object is not the one that was looked up before.
    #[error("read {key}: the object was replaced or changed since it was looked up")]
    Changed {
        /// The object that was asked for.
        key: ObjectKey,
    },
    /// Object Lock, or a legal hold, keeps the object. Trying again before `until` is of no use.
    #[error("delete {key}: the store keeps it locked{}", until.map(|until| format!(" until {}", moment(until))).unwrap_or_default())]
    Locked {
        /// The object that stays.
        key: ObjectKey,
        /// When the lock ends; `None` where it has no end, or where the store does not tell.
        until: Option<OffsetDateTime>,
    },
    /// The store refuses the credentials, or what they may do.
    #[error(
        "{operation} {subject}: the store refuses the credentials, or this operation for them\nhint: check BACKUP_S3_ACCESS_KEY_ID and BACKUP_S3_SECRET_ACCESS_KEY, and what the key may do in BACKUP_S3_BUCKET"
    )]
    PermissionDenied {
        /// What was done, as a verb phrase.
        operation: &'static str,
        /// The key, prefix or bucket it was done to.
        subject: String,
        /// The store's answer.
        #[source]
        source: Cause,
    },
    /// A setting is missing or cannot work. The text names it.
    #[error("{0}")]
    Configuration(String),
    /// A folder's root is not there.
    #[error("the folder {} is not there\nhint: create it, or mount the disk that it is on", root.display())]
    NoFolder {
        /// The root.
        root: PathBuf,
    },
    /// More bytes than a limit allows.
    #[error("{operation} {key}: {bytes} bytes are more than the limit of {bytes_max}")]
    TooLarge {
        /// What was done, as a verb phrase.
        operation: &'static str,
        /// The object.
        key: ObjectKey,
        /// What it has, or would have.
        bytes: u64,
        /// What it may have.
        bytes_max: u64,
    },
    /// The store did not answer, or only with errors that pass by themselves, until the time for trying was over.
    #[error(
        "{operation} {subject}: the store was unavailable, tried {attempts} times\nhint: check BACKUP_S3_ENDPOINT_URL and the network, then run it again"
    )]
    Unavailable {
        /// What was done, as a verb phrase.
        operation: &'static str,
        /// The key, prefix or bucket it was done to.
        subject: String,
        /// How often it was tried.
        attempts: u32,
        /// What came of the last attempt.
        #[source]
        source: Cause,
    },
    /// Not even a request can be made; most often there are no credentials to sign it with.
    #[error(
        "{operation} {subject}: no request can be made\nhint: set BACKUP_S3_ACCESS_KEY_ID and BACKUP_S3_SECRET_ACCESS_KEY, or give this machine credentials that the AWS SDK finds"
    )]
    Unsigned {
        /// What was done, as a verb phrase.
        operation: &'static str,
        /// The key, prefix or bucket it was done to.
        subject: String,
        /// Why.
        #[source]
        source: Cause,
    },
    /// The store answered something that breaks its own rules, or that pgseal cannot go on with.
    #[error("{operation} {subject}: {detail}")]
    Protocol {
        /// What was done, as a verb phrase.
        operation: &'static str,
        /// The key, prefix or bucket it was done to.
        subject: String,
        /// What was wrong with the answer.
        detail: String,
        /// The answer itself, where there was one.
        #[source]
        source: Option<Cause>,
    },
    /// The disk of a local store, or of the spool folder, is full.
    #[error(
        "{operation} {}: no space is left on that disk\nhint: free some, or name another place with BACKUP_STORE or BACKUP_SPOOL_DIR", path.display()
    )]
    NoSpace {
        /// What was done, as a verb phrase.
        operation: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Another error of a local file or folder.
    #[error("{operation} {}", path.display())]
    Io {
        /// What was done, as a verb phrase.
        operation: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl StoreError {
    /// Whether the same call can succeed later without anybody changing anything. Such a call was already repeated
    /// for as long as the retry policy allows.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    /// Wraps an error of the file system; a full disk gets a variant of its own.
    pub(super) fn io(operation: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace {
                operation,
                path,
                source,
            },
            _ => Self::Io {
                operation,
                path,
                source,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_names_the_path_and_the_way_out() {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let error = StoreError::io("write", Path::new("/spool/x"), full);
        let text = error.to_string();
        assert!(text.starts_with("write /spool/x: no space"), "{text}");
        assert!(text.contains("BACKUP_SPOOL_DIR"), "{text}");
        assert!(!error.is_transient());
    }
}
