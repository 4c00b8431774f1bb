//! Why a backup was made.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a backup was made. The word stands in its object's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackupKind {
    /// Somebody asked for it.
    Manual,
    /// A timer asked for it.
    Scheduled,
    /// The safety backup of a database that is about to be restored over.
    PreRestore,
}

impl BackupKind {
    /// Every kind, for parsers and help texts.
    pub const ALL: [Self; 3] = [Self::Manual, Self::Scheduled, Self::PreRestore];

    /// The word in object names and in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Manual => "manual",
            Self::Scheduled => "scheduled",
            Self::PreRestore => "pre_restore",
        }
    }
}

impl fmt::Display for BackupKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}
