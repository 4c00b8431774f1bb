//! Why a backup is not in both stores, and which of the two copies is at fault.

use super::VaultError;

/// Why a backup has no second copy.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// No second store.
    #[error(
        "no second store is set\nhint: set BACKUP_COPY_STORE, or BACKUP_COPY_S3_BUCKET and what belongs to it"
    )]
    NoSecond,
    /// Two names for one place.
    #[error(
        "the second store, {0}, is the first one by another name\nhint: let BACKUP_COPY_STORE or BACKUP_COPY_S3_* name another bucket, best of another provider"
    )]
    SamePlace(String),
    /// Without a manifest there is nothing to compare a copy with.
    #[error(
        "{0} has no manifest, so nobody could say whether a copy of it is whole\nhint: only backups that pgseal made are copied"
    )]
    Foreign(String),
    /// The first copy is at fault.
    #[error("the first copy of {name}, in {place}, is not there or not whole")]
    First {
        /// The backup.
        name: String,
        /// The first store.
        place: String,
        /// What is wrong with it.
        #[source]
        source: Box<VaultError>,
    },
    /// The second copy is at fault.
    #[error(
        "the second copy of {name}, in {place}, is not there or not whole\nhint: the settings of the second store are called BACKUP_COPY_..., as the first one's BACKUP_..."
    )]
    Second {
        /// The backup.
        name: String,
        /// The second store.
        place: String,
        /// What is wrong with it.
        #[source]
        source: Box<VaultError>,
    },
    /// Both were read, and one of them is whole.
    #[error("{name} can be restored, from its copy in {whole} alone\nhint: {hint}")]
    OneWhole {
        /// The backup.
        name: String,
        /// The store that has it whole.
        whole: String,
        /// What mends the other one.
        hint: String,
        /// What is wrong with the other copy.
        #[source]
        source: Box<Self>,
    },
    /// Somebody deletes it.
    #[error("{0} is being deleted, and is not copied")]
    Leaving(String),
    /// It was told to end.
    #[error("interrupted: the copy was not completed")]
    Interrupted,
}

impl CopyError {
    /// What it is where the second store is copied from.
    pub(super) fn turned(self) -> Self {
        match self {
            Self::First {
                name,
                place,
                source,
            } => Self::Second {
                name,
                place,
                source,
            },
            Self::Second {
                name,
                place,
                source,
            } => Self::First {
                name,
                place,
                source,
            },
            other => other,
        }
    }
}
