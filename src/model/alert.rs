//! What happened that somebody wants to hear of, although no request of theirs failed.

use std::fmt;

use time::OffsetDateTime;

use super::ids::BackupId;
use super::moment::moment;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Alert {
    /// A schedule produced nothing in time.
    BackupOverdue {
        /// The target.
        target: String,
        /// When it should have been made.
        slot: OffsetDateTime,
        /// When the last one was made, if one ever was.
        last: Option<OffsetDateTime>,
    },
    /// A backup is whole, and much smaller than the one before.
    BackupSuspicious {
        /// The target.
        target: String,
        /// Its number.
        backup: BackupId,
        /// What is strange about it.
        reason: String,
    },
    /// No drill proved a backup for too long.
    ProofOverdue {
        /// The target.
        target: String,
        /// When one should have been proved.
        due: OffsetDateTime,
        /// When the last one was proved, if one ever was.
        last: Option<OffsetDateTime>,
        /// What the last drill came to, where there was one since.
        reason: Option<String>,
    },
    /// Backups are due to be deleted, and none is.
    RetentionHeld {
        /// The target.
        target: String,
        /// Why.
        reasons: Vec<String>,
    },
    /// A backup could not be deleted; it is tried again.
    DeletionFailed {
        /// The target.
        target: String,
        /// Its object's key.
        key: String,
        /// Why.
        reason: String,
    },
}

impl Alert {
    /// One word for it, for programs.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::BackupOverdue { .. } => "backup_overdue",
            Self::BackupSuspicious { .. } => "backup_suspicious",
            Self::ProofOverdue { .. } => "proof_overdue",
            Self::RetentionHeld { .. } => "retention_held",
            Self::DeletionFailed { .. } => "deletion_failed",
        }
    }

    /// Whose it is.
    #[must_use]
    pub fn target(&self) -> &str {
        match self {
            Self::BackupOverdue { target, .. }
            | Self::BackupSuspicious { target, .. }
            | Self::ProofOverdue { target, .. }
            | Self::RetentionHeld { target, .. }
            | Self::DeletionFailed { target, .. } => target,
        }
    }
}

impl fmt::Display for Alert {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BackupOverdue { slot, last, .. } => match last {
                Some(last) => write!(
                    formatter,
                    "the backup of {} was not made; the last one is of {}",
                    moment(*slot),
                    moment(*last)
                ),
                None => write!(
                    formatter,
                    "the backup of {} was not made, nor any before it",
                    moment(*slot)
                ),
            },
            Self::BackupSuspicious { backup, reason, .. } => {
                write!(formatter, "backup {backup} looks wrong: {reason}")
            }
            Self::ProofOverdue {
                due, last, reason, ..
            } => {
                write!(formatter, "no drill proved a backup by {}; ", moment(*due))?;
                match last {
                    Some(last) => write!(formatter, "the last proof is of {}", moment(*last))?,
                    None => formatter.write_str("none was ever proved")?,
                }
                match reason {
                    Some(reason) => write!(formatter, "\n{reason}"),
                    None => Ok(()),
                }
            }
            Self::RetentionHeld { reasons, .. } => {
                write!(formatter, "no backup is deleted: {}", reasons.join("; "))
            }
            Self::DeletionFailed { key, reason, .. } => {
                write!(formatter, "{key} could not be deleted: {reason}")
            }
        }
    }
}
