//! Why bucket and catalog could not be brought together.

use crate::catalog::CatalogError;
use crate::vault::VaultError;

/// Why bucket and catalog could not be brought together.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The store failed, or there is no passphrase to read its manifests with.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The catalog failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// A table that is to be taken over cannot be read. Nothing of it was.
    #[error(transparent)]
    Import(#[from] BadLine),
}

/// A line of a table that cannot be taken over.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {what}\nhint: nothing was taken over; mend the line and run it again")]
pub struct BadLine {
    /// Which, from 1 on; the header is one of them.
    pub line: u64,
    /// What is wrong with it.
    pub what: String,
}
