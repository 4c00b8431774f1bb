//! Why a restore failed, and what became of the target.

use super::plan::Plan;
use super::select::NotPicked;
use crate::backup::BackupError;
use crate::pg::inspect::Compared;
use crate::pg::{Blocker, PgError};
use crate::vault::VaultError;

/// Why a restore failed. Unless the error says otherwise, the target is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The target, before anything was fetched.
    #[error("prepare the restore")]
    Prepare(#[source] PgError),
    /// The archive comes from a pg_dump whose archives that server cannot take.
    #[error(
        "prepare the restore: the backup was made by pg_dump {archive}, the target is PostgreSQL {server}, which does not know what such an archive sets\n\
         hint: restore into a server of version {archive} or later"
    )]
    TooNew {
        /// The archive's pg_dump, major version.
        archive: u32,
        /// The target's major version.
        server: u32,
    },
    /// Roles that own or are granted something are not on the target.
    #[error(
        "prepare the restore: the backup needs roles that the target server does not have: {}\nhint: {}",
        .0.join(", "), create_roles(.0)
    )]
    MissingRoles(Vec<String>),
    /// Extensions that the target server cannot install.
    #[error(
        "prepare the restore: the target server does not have the extensions {}\nhint: install their packages on that server", .0.join(", ")
    )]
    MissingExtensions(Vec<String>),
    /// Extensions of the target that the role can neither drop nor make anew.
    #[error(
        "prepare the restore: --mode in-place makes extensions anew, and role {role} does not own {}\n\
         hint: restore as their owner or as a superuser, or use --mode new", extensions.join(", ")
    )]
    OthersExtensions {
        /// The role that restores.
        role: String,
        /// The extensions, with their owners.
        extensions: Vec<String>,
    },
    /// The plan has something in the way.
    #[error("prepare the restore: it would end in failure, so nothing was begun\n{}", .0.refusal())]
    Refused(Box<Plan>),
    /// The plan that was to be carried out is not the one that would be.
    #[error(
        "prepare the restore: what would happen is another plan by now ({}), since these changed: {}\n{}",
        now.id, differences.join(", "), now.text()
    )]
    PlanChanged {
        /// In which parts.
        differences: Vec<&'static str>,
        /// The plan as it is now.
        now: Box<Plan>,
    },
    /// What was selected is not in the backup.
    #[error("prepare the restore: {0}")]
    Selection(NotPicked),
    /// The backup could not be fetched or proved.
    #[error("verify the backup before the target is touched")]
    Verify(#[source] VaultError),
    /// No safety backup, no restore.
    #[error(
        "make the safety backup of the target; the target is as it was\n\
         hint: a database that cannot be dumped any more is restored with --no-safety-backup --confirm DATABASE"
    )]
    Safety(#[source] BackupError),
    /// The safety backup was made, but could not be proved.
    #[error("verify the safety backup {name}; the target is as it was")]
    SafetyUnproved {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: VaultError,
    },
    /// The new database could not be created, filled, finished or renamed.
    #[error(
        "restore into a new database; what was made of it was dropped again, unless a warning says otherwise"
    )]
    New(#[source] PgError),
    /// The archive could not be loaded into the new database.
    #[error(
        "load the backup into a new database; what was made of it was dropped again, unless a warning says otherwise"
    )]
    LoadNew(#[source] VaultError),
    /// The archive could not be loaded over the target; the server rolled everything back.
    #[error("load the backup over {database}: nothing was changed, the one transaction was rolled back{}", with_safety(safety.as_ref()))]
    LoadInPlace {
        /// The target.
        database: String,
        /// The safety backup's name.
        safety: Option<String>,
        /// Why.
        #[source]
        source: VaultError,
    },
    /// Somebody held a lock for longer than the load may wait.
    #[error(
        "load the backup over {database}: nothing was changed, the one transaction was rolled back, because it waited {} s for {}{}{}",
        waited.as_secs(),
        blockers.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
        blockers.first().map_or_else(String::new, |first| format!("\nhint: wait longer with --lock-wait, or end who blocks: SELECT pg_terminate_backend({})", first.pid)),
        with_safety(safety.as_ref())
    )]
    LoadBlocked {
        /// The target.
        database: String,
        /// How long it waited.
        waited: std::time::Duration,
        /// Who holds the locks.
        blockers: Vec<Blocker>,
        /// The safety backup's name.
        safety: Option<String>,
    },
    /// The databases could not be swapped.
    #[error("swap the databases: {database} is as it was, and the new one was dropped again{}", with_safety(safety.as_ref()))]
    Swap {
        /// The target.
        database: String,
        /// The safety backup's name.
        safety: Option<String>,
        /// Why.
        #[source]
        source: PgError,
    },
    /// The server went away when the swap was to be committed, and does not answer.
    #[error("swap the databases: whether {database} was swapped is not known{}", with_safety(safety.as_ref()))]
    SwapUnknown {
        /// The target.
        database: String,
        /// The safety backup's name.
        safety: Option<String>,
        /// Why.
        #[source]
        source: PgError,
    },
    /// The server went away when the new database was to get its name, and does not answer.
    #[error("name the new database: whether it is {database} by now is not known")]
    NewUnknown {
        /// The target.
        database: String,
        /// Why.
        #[source]
        source: PgError,
    },
    /// The server went away when the load was to be committed, and does not answer.
    #[error("load the backup over {database}: whether that was committed is not known: {why}\nhint: {tell}{}", with_safety(safety.as_ref()))]
    LoadUnknown {
        /// The target.
        database: String,
        /// How to find out.
        tell: String,
        /// The safety backup's name.
        safety: Option<String>,
        /// How the load ended.
        why: String,
    },
    /// pg_restore said that all went well, and it replaced nothing.
    #[error(
        "RESTORE FAILED: pg_restore ended well, but nothing of {database} was replaced\nhint: look at the pg_restore that was used: pgseal doctor names it{}", with_safety(safety.as_ref())
    )]
    NotLoaded {
        /// The target.
        database: String,
        /// The safety backup's name.
        safety: Option<String>,
    },
    /// The rows that were loaded over the target are not the recorded ones; the server rolled everything back.
    #[error(
        "load the backup over {database}: nothing was changed, the one transaction was rolled back, because its rows are not the backup's: {differs}{}",
        with_safety(safety.as_ref())
    )]
    RowsInPlace {
        /// The target.
        database: String,
        /// What differs.
        differs: String,
        /// The safety backup's name.
        safety: Option<String>,
    },
    /// The server's disk has no room for a second database.
    #[error(
        "prepare the restore: a second database of some {} does not fit where the server keeps its data: {} has {} free\n\
         hint: make room there, or restore with --mode in-place", mib(*.needed), place.display(), mib(*.free)
    )]
    NoSpace {
        /// Bytes that the backup's database had.
        needed: u64,
        /// Bytes that are free.
        free: u64,
        /// Where.
        place: std::path::PathBuf,
    },
    /// The restored rows are not the recorded ones, in a database that was dropped again.
    #[error("compare the restored rows with the manifest: {}; the new database was dropped again", shown(.0))]
    CountsNew(Vec<Difference>),
    /// The restored rows are not the recorded ones, in a database that is live.
    #[error(
        "RESTORE FAILED: {database} was replaced, but its rows are not the backup's: {}{}",
        shown(differences), with_safety(safety.as_ref())
    )]
    CountsInPlace {
        /// The target.
        database: String,
        /// What differs.
        differences: Vec<Difference>,
        /// The safety backup's name.
        safety: Option<String>,
    },
    /// The rows could not be counted after the load was committed.
    #[error("count the restored rows of {database}, which was replaced{}", with_safety(safety.as_ref()))]
    Count {
        /// The target.
        database: String,
        /// The safety backup's name.
        safety: Option<String>,
        /// Why.
        #[source]
        source: PgError,
    },
    /// The session that held the lock of the database was lost, and another backup or restore has it by now.
    #[error(
        "the restore was given up, because it lost the lock of the database; the target is as it was{}\nhint: start it again when the other one is done",
        with_safety(safety.as_ref())
    )]
    LockLost {
        /// The safety backup's name.
        safety: Option<String>,
        /// Who has it.
        #[source]
        source: PgError,
    },
    /// Somebody asked for the end.
    #[error("the restore was interrupted; the target is as it was{}", with_safety(.0.as_ref()))]
    Interrupted(Option<String>),
}

/// A table whose restored rows are not the recorded ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference(pub Compared);

impl std::fmt::Display for Difference {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Compared {
            table,
            recorded,
            restored,
            content_differs,
        } = &self.0;
        match restored {
            Some(_) if *content_differs && *restored == Some(*recorded) => {
                write!(
                    formatter,
                    "{table} has as many rows as the backup, but not the same content"
                )
            }
            Some(restored) => write!(
                formatter,
                "{table} has {restored} rows, the backup {recorded}"
            ),
            None => write!(
                formatter,
                "{table} is missing, the backup has {recorded} rows of it"
            ),
        }
    }
}

impl RestoreError {
    /// Whether it says no more than that somebody asked for the end.
    #[must_use]
    pub const fn is_interruption(&self) -> bool {
        matches!(
            self,
            Self::Interrupted(_) | Self::Safety(BackupError::Interrupted)
        )
    }

    /// Whether the target was changed by then, or may have been.
    #[must_use]
    pub const fn is_late(&self) -> bool {
        matches!(self, Self::CountsInPlace { .. } | Self::Count { .. }) || self.is_unknown()
    }

    /// Whether the server went away with what became of it.
    #[must_use]
    pub const fn is_unknown(&self) -> bool {
        matches!(
            self,
            Self::SwapUnknown { .. } | Self::NewUnknown { .. } | Self::LoadUnknown { .. }
        )
    }

    /// Whether it ended before anything was fetched, for a reason that only somebody's hand can mend.
    #[must_use]
    pub const fn is_preparation(&self) -> bool {
        matches!(
            self,
            Self::Prepare(_)
                | Self::TooNew { .. }
                | Self::MissingRoles(_)
                | Self::MissingExtensions(_)
                | Self::OthersExtensions { .. }
                | Self::Refused(_)
                | Self::PlanChanged { .. }
                | Self::Selection(_)
                | Self::NoSpace { .. }
        )
    }
}

/// So many differences are shown; the first ones say what happened.
const DIFFERENCES_SHOWN_MAX: usize = 5;

fn shown(differences: &[Difference]) -> String {
    let first: Vec<_> = differences
        .iter()
        .take(DIFFERENCES_SHOWN_MAX)
        .map(ToString::to_string)
        .collect();
    let more = match differences.len().saturating_sub(DIFFERENCES_SHOWN_MAX) {
        0 => String::new(),
        more => format!("; and {more} more tables"),
    };
    first.join("; ") + &more
}

fn with_safety(safety: Option<&String>) -> String {
    safety
        .map(|name| format!("\nhint: the database as it was before is safety backup {name}"))
        .unwrap_or_default()
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

fn create_roles(roles: &[String]) -> String {
    let statement = |role: &String| format!("CREATE ROLE \"{}\";", role.replace('"', "\"\""));
    roles.iter().map(statement).collect::<Vec<_>>().join(" ")
}
