//! How a command ended: its exit code, and the error as a person reads it.

use std::io::Write as _;

use super::prune::Held;
use crate::api::KeyError;
use crate::backup::BackupError;
use crate::catalog::CatalogError;
use crate::config::ConfigError;
use crate::model::explanation;
use crate::model::proof::Verdict;
use crate::pg::PgError;
use crate::reconcile::ReconcileError;
use crate::restore::{KeptError, RestoreError, RollbackError};
use crate::retention::RetentionError;
use crate::store::StoreError;
use crate::telemetry::Format;
use crate::vault::{CopyError, VaultError};

/// How a command ended. Part of the interface: scripts tell by it what to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// 0: done.
    Done,
    /// 1: failed for a reason that may pass, or that the message names.
    Failed,
    /// 2: wrong usage.
    Usage,
    /// 3: no such backup, or several that could be meant.
    NotFound,
    /// 4: the backup is damaged, replaced, cut, or sealed with another passphrase.
    Damaged,
    /// 5: a setting or the database must be changed before this can work.
    Unprepared,
    /// 6: something is due to be deleted, and was held back.
    Held,
    /// 7: the backup is complete and can be restored, and one of its two copies is missing or damaged.
    OneCopy,
    /// 130: Ctrl-C.
    Interrupted,
    /// 143: SIGTERM.
    Terminated,
}

impl From<ExitStatus> for std::process::ExitCode {
    fn from(status: ExitStatus) -> Self {
        Self::from(match status {
            ExitStatus::Done => 0_u8,
            ExitStatus::Failed => 1,
            ExitStatus::Usage => 2,
            ExitStatus::NotFound => 3,
            ExitStatus::Damaged => 4,
            ExitStatus::Unprepared => 5,
            ExitStatus::Held => 6,
            ExitStatus::OneCopy => 7,
            ExitStatus::Interrupted => 130,
            ExitStatus::Terminated => 143,
        })
    }
}

/// The doctor found something that must be mended.
#[derive(Debug, thiserror::Error)]
#[error("{0} of the findings above must be mended before backups or restores work")]
pub(super) struct ProblemsFound(pub(super) usize);

/// A drill whose verdict, which was printed, is not PROVEN.
#[derive(Debug, thiserror::Error)]
#[error("the drill's verdict is {}", .0.as_str())]
pub(super) struct NotProven(pub(super) Verdict);

/// A backup that is complete, and has one good copy where it should have two.
#[derive(Debug, thiserror::Error)]
pub(super) enum OneCopy {
    /// It is not in the second store.
    #[error(
        "backup {name} can be restored, and has only one good copy\nhint: pgseal copy {name} makes the other one; pgseal worker does that by itself"
    )]
    First {
        name: String,
        #[source]
        source: CopyError,
    },
    /// It is missing or damaged in the first store, or that one does not answer.
    #[error(
        "backup {0} can be restored, and only from its second copy\nhint: where the first one is missing or damaged, pgseal copy --back {0} mends it"
    )]
    Second(String),
}

/// Backups that were to be copied or checked, and the first one's reason.
#[derive(Debug, thiserror::Error)]
#[error("{failed} of the backups above are not in both stores")]
pub(super) struct NotCopied {
    pub(super) failed: usize,
    #[source]
    pub(super) source: CopyError,
}

/// A channel did not take the test.
#[derive(Debug, thiserror::Error)]
#[error("{0} of the channels above did not take the test")]
pub(super) struct ChannelsFailed(pub(super) usize);

/// What was typed makes no sense beyond what clap sees.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct UsageError(pub(super) String);

/// Whoever read the result went away, as `head` does. A dump that was cut so is a failure; a listing is not.
#[derive(Debug, thiserror::Error)]
#[error("the output was closed")]
pub(super) struct OutputClosed;

/// A command that can be left at any point was left, because it was told to.
#[derive(Debug, thiserror::Error)]
#[error("it was told to end")]
pub(super) struct Left;

impl ExitStatus {
    /// Says the error, if it is one, as all logs are said, and how the command ended.
    pub(super) fn of(outcome: &anyhow::Result<()>, format: Format) -> Self {
        let Err(error) = outcome else {
            return Self::Done;
        };
        if error.is::<OutputClosed>() {
            // Whoever read our output has seen enough.
            return Self::Done;
        }
        say(error, format);
        Self::code(error)
    }

    fn code(error: &anyhow::Error) -> Self {
        if error.is::<UsageError>() {
            return Self::Usage;
        }
        if error.is::<ConfigError>() || error.is::<KeyError>() || error.is::<ProblemsFound>() {
            return Self::Unprepared;
        }
        if error.is::<Held>() {
            return Self::Held;
        }
        if error.is::<OneCopy>() {
            return Self::OneCopy;
        }
        if let Some(NotCopied { source, .. }) = error.downcast_ref() {
            return of_copy(source);
        }
        if let Some(error) = error.downcast_ref::<CopyError>() {
            return of_copy(error);
        }
        match error.downcast_ref::<NotProven>() {
            Some(NotProven(Verdict::Unverifiable)) => return Self::Unprepared,
            Some(NotProven(_)) => return Self::Damaged,
            None => {}
        }
        match error.downcast_ref::<RetentionError>() {
            Some(RetentionError::Vault(error)) => return of_vault(error),
            Some(RetentionError::Catalog(error)) => return of_catalog(error),
            None => {}
        }
        if let Some(error) = error.downcast_ref::<VaultError>() {
            return of_vault(error);
        }
        if let Some(error) = error.downcast_ref::<CatalogError>() {
            return of_catalog(error);
        }
        match error.downcast_ref::<ReconcileError>() {
            Some(ReconcileError::Vault(error)) => return of_vault(error),
            Some(ReconcileError::Catalog(error)) => return of_catalog(error),
            Some(ReconcileError::Import(_)) => return Self::Unprepared,
            None => {}
        }
        match error.downcast_ref::<RestoreError>() {
            Some(error) if error.is_preparation() => return Self::Unprepared,
            Some(RestoreError::Verify(error)) => return of_vault(error),
            _ => {}
        }
        match error.downcast_ref::<RollbackError>() {
            Some(RollbackError::Prepare(_)) => return Self::Unprepared,
            Some(RollbackError::Swap { .. } | RollbackError::Unknown { .. }) => {
                return Self::Failed;
            }
            Some(_) => return Self::NotFound,
            None => {}
        }
        if let Some(KeptError::NotKept(_)) = error.downcast_ref() {
            return Self::NotFound;
        }
        match error.downcast_ref::<BackupError>() {
            Some(error) if error.is_preparation() => Self::Unprepared,
            _ => Self::Failed,
        }
    }
}

/// Whether the work ended because it was told to.
pub(super) fn was_interrupted(outcome: &anyhow::Result<()>, format: Format) -> bool {
    match outcome {
        // It was done before it heard of that: what it printed is so.
        Ok(()) => false,
        Err(error) if error.is::<Left>() => true,
        Err(error) => {
            let interrupted = matches!(error.downcast_ref(), Some(BackupError::Interrupted))
                || matches!(error.downcast_ref(), Some(CopyError::Interrupted))
                || matches!(
                    error.downcast_ref(),
                    Some(
                        RestoreError::Interrupted(_)
                            | RestoreError::Safety(BackupError::Interrupted)
                    )
                );
            if interrupted {
                say(error, format);
            }
            interrupted
        }
    }
}

fn of_copy(error: &CopyError) -> ExitStatus {
    match error {
        CopyError::NoSecond | CopyError::SamePlace(_) => ExitStatus::Unprepared,
        CopyError::Foreign(_) => ExitStatus::NotFound,
        CopyError::First { source, .. } | CopyError::Second { source, .. } => of_vault(source),
        CopyError::OneWhole { .. } => ExitStatus::OneCopy,
        CopyError::Leaving(_) | CopyError::Interrupted => ExitStatus::Failed,
    }
}

fn of_vault(error: &VaultError) -> ExitStatus {
    match error {
        VaultError::NotFound { .. }
        | VaultError::Ambiguous { .. }
        | VaultError::NoneYet
        | VaultError::BadKey(_)
        | VaultError::Unfinished(_) => ExitStatus::NotFound,
        VaultError::Second { source, .. } => of_store(source),
        VaultError::Store(error) => of_store(error),
        VaultError::NoPassphrase
        | VaultError::NoSpace { .. }
        | VaultError::Pg(PgError::NoClient { .. } | PgError::NoCodec { .. }) => {
            ExitStatus::Unprepared
        }
        error if error.is_verdict() => ExitStatus::Damaged,
        _ => ExitStatus::Failed,
    }
}

const fn of_store(error: &StoreError) -> ExitStatus {
    match error {
        StoreError::Configuration(_)
        | StoreError::NoFolder { .. }
        | StoreError::PermissionDenied { .. }
        | StoreError::Unsigned { .. } => ExitStatus::Unprepared,
        _ => ExitStatus::Failed,
    }
}

const fn of_catalog(error: &CatalogError) -> ExitStatus {
    match error {
        CatalogError::NoSuchBackup(_) => ExitStatus::NotFound,
        CatalogError::NotTaken(_) => ExitStatus::Unprepared,
        error if error.is_preparation() => ExitStatus::Unprepared,
        _ => ExitStatus::Failed,
    }
}

fn say(error: &anyhow::Error, format: Format) {
    match format {
        Format::Json => {
            let reason = explanation::explain(error.as_ref());
            tracing::error!(reason, "The command ended with an error");
        }
        Format::Text => {
            // Nobody is left to tell where stderr is closed.
            let _said = writeln!(std::io::stderr().lock(), "{}", explain(error));
        }
    }
}

fn explain(error: &anyhow::Error) -> String {
    format!("error: {}", explanation::explain(error.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_stand_at_the_end() {
        let error =
            anyhow::Error::new(VaultError::NoPassphrase).context("do something\nhint: try again");
        let text = explain(&error);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "error: do something");
        assert_eq!(lines[1], "  because: no passphrase is set");
        assert_eq!(lines[2], "hint: try again");
        assert!(
            lines[3].starts_with("hint: set BACKUP_GPG_PASSPHRASE"),
            "{text}"
        );
    }

    #[test]
    fn causes_decide_the_code() {
        let code = |error: anyhow::Error| ExitStatus::code(&error);
        assert_eq!(code(VaultError::NoneYet.into()), ExitStatus::NotFound);
        assert_eq!(
            code(VaultError::Lost("x".into()).into()),
            ExitStatus::Damaged
        );
        assert_eq!(code(ConfigError::NoDatabase.into()), ExitStatus::Unprepared);
        assert_eq!(code(BackupError::Panicked.into()), ExitStatus::Failed);
        let damaged = RestoreError::Verify(VaultError::PlainDigest { name: "x".into() });
        assert_eq!(code(damaged.into()), ExitStatus::Damaged);
    }
}
