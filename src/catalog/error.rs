//! Why the catalog could not do its part, each with what to do next.

use super::deletion::Needed;
use super::migrate::{EMPTY, NOT_THERE};
use super::rows::Active;
use crate::model::ids::BackupId;
use crate::reach::ReachError;

/// Why the catalog could not do its part.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// Its server could not be reached, or refused us.
    #[error("open the catalog")]
    Reach(#[from] ReachError),
    /// It could be reached before, and cannot now.
    #[error("{doing}: the catalog at {to} does not answer")]
    Unreachable {
        /// What was being done.
        doing: &'static str,
        /// Role, host, port and database.
        to: String,
        /// The failure.
        #[source]
        source: sqlx::Error,
    },
    /// There is no catalog, or one that lacks what this program needs.
    #[error("the catalog at {to} {lacks}\nhint: run pgseal migrate")]
    NotMigrated {
        /// Role, host, port and database.
        to: String,
        /// What is missing, as the end of a sentence.
        lacks: String,
    },
    /// Another version of this program changed its form in a way that this one does not know.
    #[error(
        "the catalog at {to} {has}, which this pgseal does not know\nhint: use the pgseal that migrated it, or a newer one"
    )]
    Unknown {
        /// Role, host, port and database.
        to: String,
        /// What is strange about it, as the middle of a sentence.
        has: String,
    },
    /// The database that the catalog is in by default is not there, and this role may not create it.
    #[error(
        "create database {database} for the catalog: role {role} may not\n\
         hint: set CATALOG_DATABASE_URL to another database that is there\n\
         hint: or set CATALOG_DATABASE_URL to the same URL as DATABASE_URL: the catalog then has a schema of its own there"
    )]
    MayNotCreateDatabase {
        /// Its name.
        database: String,
        /// Who may not.
        role: String,
    },
    /// The database that was named is not there.
    #[error(
        "database {database} is not there\nhint: create it, or name another one in CATALOG_DATABASE_URL"
    )]
    NoDatabase {
        /// Its name.
        database: String,
    },
    /// The role may not create or change the schema.
    #[error(
        "migrate the catalog at {to}: role {role} may not\n\
         hint: as the database's owner: GRANT CREATE ON DATABASE ... TO {role}; or name another database in CATALOG_DATABASE_URL"
    )]
    MayNotMigrate {
        /// Role, host, port and database.
        to: String,
        /// Who may not.
        role: String,
        /// The server's refusal.
        #[source]
        source: sqlx::Error,
    },
    /// A migration failed; nothing of it was kept.
    #[error("migrate the catalog at {to}")]
    Migrate {
        /// Role, host, port and database.
        to: String,
        /// The failure.
        #[source]
        source: sqlx::migrate::MigrateError,
    },
    /// The target has a job already.
    #[error("target {target} is busy: {active}\nhint: wait for it, or cancel it")]
    TargetBusy {
        /// The target.
        target: String,
        /// What it has.
        active: Active,
    },
    /// No backup has that number.
    #[error("there is no backup {0}")]
    NoSuchBackup(BackupId),
    /// The backup is there, and cannot be restored.
    #[error("backup {backup} cannot be restored: {why}")]
    NotRestorable {
        /// Which.
        backup: BackupId,
        /// Why not.
        why: String,
    },
    /// Another request has this job's id.
    #[error("job {job_id} belongs to another request already")]
    JobTaken {
        /// The job.
        job_id: String,
    },
    /// A row says something that this program cannot read.
    #[error("{table} {id}: its {column} is not what this pgseal knows")]
    Row {
        /// `backup` or `restore`.
        table: &'static str,
        /// Its number.
        id: i64,
        /// The column.
        column: &'static str,
    },
    /// Something still needs the backup.
    #[error("backup {backup} is not deleted: {why}")]
    Needed {
        /// Which.
        backup: BackupId,
        /// What needs it.
        why: Needed,
    },
    /// Another request took this one's key a moment ago.
    #[error("another request has the same key")]
    KeyTaken,
    /// A row that is to be taken over cannot be.
    #[error("{0}")]
    NotTaken(String),
    /// A statement failed.
    #[error("{doing}")]
    Query {
        /// What was being done.
        doing: &'static str,
        /// The failure.
        #[source]
        source: sqlx::Error,
    },
}

impl CatalogError {
    /// Whether there is no catalog at all; one that lacks migrations is one.
    #[must_use]
    pub fn is_no_catalog(&self) -> bool {
        match self {
            Self::NoDatabase { .. } => true,
            Self::NotMigrated { lacks, .. } => lacks == EMPTY || lacks == NOT_THERE,
            _ => false,
        }
    }

    /// Whether the same may succeed later without anybody changing anything. A statement that ended so may have been
    /// carried out all the same: whoever repeats it must be able to bear that.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        /// Connection exceptions, a transaction that was rolled back for others, no room or too many sessions, and a
        /// server that is ended or starts.
        const CLASSES: [&str; 4] = ["08", "40", "53", "57"];
        let by_code = |code: &str| CLASSES.contains(&code.get(..2).unwrap_or_default());
        match self {
            Self::Unreachable { .. } => true,
            Self::Reach(error) => match error {
                ReachError::Connect { .. } => {
                    error.code().is_none_or(|code| by_code(&code)) && !error.is_configuration()
                }
                _ => false,
            },
            Self::Query { source, .. } => match source {
                sqlx::Error::Database(error) => error.code().is_some_and(|code| by_code(&code)),
                source => is_lost_connection(source),
            },
            _ => false,
        }
    }

    /// Whether a setting or the database must be changed before anything can work.
    #[must_use]
    pub const fn is_preparation(&self) -> bool {
        matches!(
            self,
            Self::Reach(_)
                | Self::NotMigrated { .. }
                | Self::Unknown { .. }
                | Self::MayNotCreateDatabase { .. }
                | Self::NoDatabase { .. }
                | Self::MayNotMigrate { .. }
        )
    }

    /// The constraint that a statement broke.
    pub(super) fn constraint(&self) -> Option<&str> {
        match self {
            Self::Query {
                source: sqlx::Error::Database(error),
                ..
            } => error.constraint(),
            _ => None,
        }
    }
}

/// Whether the connection ended, or there was none to be had.
pub(super) const fn is_lost_connection(source: &sqlx::Error) -> bool {
    matches!(
        source,
        sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
    )
}
