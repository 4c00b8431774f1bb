//! Why a backup could not be found, read or proved.

use crate::model::digest::Sha256;
use crate::model::manifest::ManifestError;
use crate::model::object_key::ObjectKey;
use crate::pg::PgError;
use crate::seal::SealError;
use crate::store::StoreError;

/// Why a backup could not be found, read or proved.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The second store failed. Errors of a store name the first one's settings.
    #[error(
        "the second store, {place}, failed\nhint: its settings are called BACKUP_COPY_..., as the first one's BACKUP_..."
    )]
    Second {
        /// The second store.
        place: String,
        /// What came of it.
        #[source]
        source: Box<StoreError>,
    },
    /// A message could not be sealed or opened.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// `pg_restore` failed on it.
    #[error(transparent)]
    Pg(#[from] PgError),
    /// No passphrase was given.
    #[error(
        "no passphrase is set\nhint: set BACKUP_GPG_PASSPHRASE, or BACKUP_GPG_PASSPHRASE_FILE to a file that holds it"
    )]
    NoPassphrase,
    /// Nothing in the store is called that.
    #[error(
        "no backup is called {selector}\nhint: pgseal list shows what there is; a name, the beginning of one, latest, or a whole object key"
    )]
    NotFound {
        /// What was asked for.
        selector: String,
    },
    /// There is no backup at all.
    #[error(
        "there is no complete backup yet\nhint: pgseal backup makes one; pgseal list shows what is in the store"
    )]
    NoneYet,
    /// Several are called that.
    #[error("{selector} could be any of {}\nhint: give more of the name, its target with --target, or the whole object key", .names.join(", "))]
    Ambiguous {
        /// What was asked for.
        selector: String,
        /// What it could be.
        names: Vec<String>,
    },
    /// It is no backup, because its manifest was never written.
    #[error("{0} is unfinished: its backup never completed, so there is nothing to restore")]
    Unfinished(String),
    /// The dump is gone.
    #[error("{0} is lost: its manifest is there, its sealed dump is not")]
    Lost(String),
    /// The text is no object key.
    #[error("{0:?} is no key of a sealed dump")]
    BadKey(String),
    /// The manifest cannot be opened.
    #[error("open manifest {key}")]
    SealedManifest {
        /// Its key.
        key: ObjectKey,
        /// Why.
        #[source]
        source: SealError,
    },
    /// The manifest cannot be read.
    #[error("read manifest {key}")]
    Manifest {
        /// Its key.
        key: ObjectKey,
        /// Why.
        #[source]
        source: ManifestError,
    },
    /// The manifest is another backup's.
    #[error("manifest {key} belongs to another backup, {says}: somebody moved or replaced it")]
    ForeignManifest {
        /// The manifest's key.
        key: ObjectKey,
        /// The dump it was written for.
        says: String,
    },
    /// The manifest that was read back is not the one that was written.
    #[error("manifest {key} came back changed from the store")]
    ManifestChanged {
        /// Its key.
        key: ObjectKey,
    },
    /// The object is not the one the manifest was written for.
    #[error("{name}: the sealed dump is not the one its manifest was written for ({what})")]
    Replaced {
        /// The backup.
        name: String,
        /// What differs.
        what: &'static str,
    },
    /// The sealed bytes are not those that were stored.
    #[error(
        "{name}: the sealed dump was changed or damaged: its SHA-256 is {found}, the manifest says {recorded}\nhint: a second copy or an older backup may be whole; pgseal list shows them"
    )]
    SealedDigest {
        /// The backup.
        name: String,
        /// The digest of what is there.
        found: Sha256,
        /// The digest in the manifest.
        recorded: Sha256,
    },
    /// The plain bytes are not those that were sealed.
    #[error(
        "{name}: the opened dump is not the one that was sealed: its size or SHA-256 differs from the manifest's"
    )]
    PlainDigest {
        /// The backup.
        name: String,
    },
    /// Not enough room for the sealed copy.
    #[error(
        "{folder} has {free} bytes free, the sealed backup needs {needed}\nhint: name another folder in BACKUP_SPOOL_DIR"
    )]
    NoSpace {
        /// The spool folder.
        folder: String,
        /// Free bytes.
        free: u64,
        /// Needed bytes.
        needed: u64,
    },
    /// The spool folder cannot be used.
    #[error("look at the spool folder {folder}\nhint: name another folder in BACKUP_SPOOL_DIR")]
    Spool {
        /// The folder.
        folder: String,
        /// The failure.
        #[source]
        source: std::io::Error,
    },
    /// A probe did not come back as it was written, or could not be deleted.
    #[error("the store did not give {0} back as it was written, or did not delete it")]
    Probe(ObjectKey),
    /// Reading the spooled copy, or writing the output, failed.
    #[error("{operation}")]
    Io {
        /// What was being done.
        operation: &'static str,
        /// The failure.
        #[source]
        source: std::io::Error,
    },
    /// A thread of ours panicked.
    #[error("a part of pgseal panicked; nothing was released")]
    Panicked,
}

/// What is said of a dump of the same uid and another size.
pub(super) const SIZE_DIFFERS: &str = "its size differs";

impl VaultError {
    /// Whether the object that is there is another backup's.
    #[must_use]
    pub fn is_of_another(&self) -> bool {
        matches!(self, Self::Replaced { what, .. } if *what != SIZE_DIFFERS)
    }

    /// Says which manifest a failed opening was about.
    pub(super) fn of_manifest(self, key: &ObjectKey) -> Self {
        match self {
            Self::Seal(source) => Self::SealedManifest {
                key: key.clone(),
                source,
            },
            other => other,
        }
    }

    /// Whether the backup itself is at fault: damaged, replaced, cut, or sealed with another passphrase.
    #[must_use]
    pub fn is_verdict(&self) -> bool {
        match self {
            Self::Pg(PgError::Client { ended, .. }) => !ended.is_from_outside(),
            Self::Seal(_)
            | Self::SealedManifest { .. }
            | Self::Manifest { .. }
            | Self::ForeignManifest { .. }
            | Self::Replaced { .. }
            | Self::SealedDigest { .. }
            | Self::PlainDigest { .. }
            | Self::Lost(_) => true,
            _ => false,
        }
    }

    /// Whether it is about what is inside of a backup whose bytes are what its manifest says, so that another copy, having the
    /// same bytes, is no better. Of these, only [`VaultError::PlainDigest`] cannot come from this machine, as an error of its
    /// disk.
    #[must_use]
    pub const fn is_of_content(&self) -> bool {
        matches!(
            self,
            Self::Seal(_) | Self::PlainDigest { .. } | Self::Pg(PgError::Client { .. })
        )
    }
}
