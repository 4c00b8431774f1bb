//! Why a backup failed: at which stage, and below it what happened there.

use crate::pg::PgError;
use crate::seal::SealError;
use crate::store::StoreError;
use crate::vault::VaultError;

/// Why a backup failed. Nothing of it is visible in the store, except where the error says so.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// Before anything was started.
    #[error("prepare the backup")]
    Prepare(#[source] PgError),
    /// The store was asked before anything was started.
    #[error("prepare the backup: ask the store")]
    PrepareStore(#[source] StoreError),
    /// A backup needs a passphrase, and a readable one.
    #[error("prepare the backup")]
    Passphrase(#[source] VaultError),
    /// Somebody had tables locked for longer than was to be waited.
    #[error("lock the tables; no try within the wait succeeded")]
    Locked(#[source] PgError),
    /// `pg_dump` failed, or what it wrote is no archive.
    #[error("dump the database")]
    Dump(#[source] PgError),
    /// The archive's own list could not be read.
    #[error("list what the dump holds")]
    List(#[source] PgError),
    /// The archive's own list is empty.
    #[error("list what the dump holds: pg_restore finds nothing in it")]
    NoList,
    /// The rows could not be counted in the dump's snapshot.
    #[error(
        "count the rows in the dump's snapshot\nhint: BACKUP_ROW_COUNTS=off makes backups without counts"
    )]
    Count(#[source] PgError),
    /// Compressing or encrypting failed.
    #[error("seal the dump")]
    Seal(#[source] SealError),
    /// The sealed dump could not be stored.
    #[error("store the sealed dump")]
    Store(#[source] StoreError),
    /// The store says another size than was sent.
    #[error(
        "store the sealed dump: {sent} bytes were sent, the store has {stored}; it was deleted again"
    )]
    Size {
        /// What was sealed.
        sent: u64,
        /// What the store says.
        stored: u64,
    },
    /// The manifest could not be written, so there is no backup; the dump was deleted again.
    #[error("write the manifest")]
    Manifest(#[source] VaultError),
    /// A thread of ours panicked.
    #[error("a part of pgseal panicked while sealing; nothing was stored")]
    Panicked,
    /// Somebody asked for the end.
    #[error("the backup was interrupted; nothing of it was kept")]
    Interrupted,
}

impl BackupError {
    /// Whether it failed before pg_dump was started, for a reason that only somebody's hand can mend.
    #[must_use]
    pub const fn is_preparation(&self) -> bool {
        matches!(
            self,
            Self::Prepare(_) | Self::PrepareStore(_) | Self::Passphrase(_)
        )
    }

    /// Whether the same backup can succeed later without anybody changing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Store(error)
            | Self::PrepareStore(error)
            | Self::Manifest(VaultError::Store(error)) => error.is_transient(),
            Self::Locked(_) => true,
            _ => false,
        }
    }
}
