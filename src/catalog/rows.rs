//! What the catalog's rows say, as types.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::model::choices::Choices;
use crate::model::digest::Sha256;
use crate::model::ids::{BackupId, RestoreId, Uid};
use crate::model::kind::BackupKind;

/// An enum whose variants are words in the catalog, in JSON and in messages.
macro_rules! words {
    ($(#[$documentation:meta])* $name:ident { $($(#[$of_variant:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$documentation])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
        pub enum $name {
            $($(#[$of_variant])* #[serde(rename = $word)] $variant,)+
        }

        impl $name {
            /// The word for it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }

            /// Reads the word.
            #[must_use]
            pub fn parse(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)+ _ => None }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.pad(self.as_str())
            }
        }
    };
}

words! {
    /// How far a job is. The arrows between them stand in `migrations/0001_catalog.sql`.
    JobStatus {
        /// A restore, until its safety backup is complete.
        Waiting = "waiting",
        /// Nobody has begun it, or whoever had, gave it back.
        Pending = "pending",
        /// Somebody has it, by a lease.
        Running = "running",
        /// Done.
        Completed = "completed",
        /// It came to nothing.
        Failed = "failed",
        /// Somebody did not want it any more.
        Cancelled = "cancelled",
    }
}

impl JobStatus {
    /// Whether nothing will happen to it any more.
    #[must_use]
    pub const fn is_ended(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

words! {
    /// How a backup's row came to be.
    Origin {
        /// Somebody asked for it.
        Requested = "requested",
        /// Its object was found.
        Adopted = "adopted",
        /// It stood in another service's table.
        Imported = "imported",
    }
}

words! {
    /// What is known of a backup's second copy.
    CopyState {
        /// There is none, and nobody has asked for one.
        None = "none",
        /// Somebody has.
        Pending = "pending",
        /// It was read back, and has the digest that the manifest records.
        Confirmed = "confirmed",
        /// It is not there, or not whole.
        Failed = "failed",
    }
}

words! {
    /// What is known of a backup's object.
    Health {
        /// Nothing bad.
        Ok = "ok",
        /// It is not what was stored.
        Corrupt = "CORRUPT",
        /// It is what was stored, and its content is not: every copy is as bad.
        Altered = "ALTERED",
        /// Something is strange about it.
        Suspicious = "SUSPICIOUS",
        /// It is gone.
        Lost = "lost",
    }
}

words! {
    /// Whether a backup's object is to be deleted.
    Deletion {
        /// No.
        Kept = "kept",
        /// It has begun.
        Deleting = "deleting",
        /// It was tried, and the store does not allow it yet.
        Locked = "LOCKED",
    }
}

words! {
    /// Whether a backup was restored to see that it can be.
    ProofState {
        /// It was not.
        Unproven = "unproven",
        /// It was, and everything was equal.
        Proven = "PROVEN",
        /// It was, and something was not.
        Failed = "FAILED",
        /// It cannot be.
        Unverifiable = "UNVERIFIABLE",
    }
}

words! {
    /// How a restore changes its target.
    RestoreMode {
        /// In one transaction.
        InPlace = "in-place",
        /// Into a new database.
        New = "new",
        /// Into a new database that then takes the old one's name.
        Swap = "swap",
        /// Whichever of `swap` and `in-place` works.
        Auto = "auto",
        /// By the database that an earlier restore set aside.
        Rollback = "rollback",
    }
}

/// One job, by the row that it stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Task {
    /// A backup.
    Backup(BackupId),
    /// A restore.
    Restore(RestoreId),
}

impl Task {
    /// The number alone, for fields of logs and messages.
    #[must_use]
    pub const fn number(self) -> i64 {
        match self {
            Self::Backup(id) => id.get(),
            Self::Restore(id) => id.get(),
        }
    }
}

impl fmt::Display for Task {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Backup(id) => write!(formatter, "backup {id}"),
            Self::Restore(id) => write!(formatter, "restore {id}"),
        }
    }
}

/// A job that keeps its target from taking another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Active {
    /// Which.
    pub task: Task,
    /// How far it is.
    pub status: JobStatus,
}

impl fmt::Display for Active {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} is {}", self.task, self.status)
    }
}

/// What backups and restores have in common: the job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobFacts {
    /// How far it is.
    pub status: JobStatus,
    /// Which try it is, from 1 on.
    pub attempt: u32,
    /// How many tries there may be.
    pub attempts_max: u32,
    /// How long a try may take; `None`: nobody asked us for it.
    pub time_limit: Option<Duration>,
    /// The queue that it belongs into.
    pub queue: Option<String>,
    /// The job's id there.
    pub job_id: Option<String>,
    /// Who runs it.
    pub worker: Option<String>,
    /// Until when, unless renewed; by the database's clock.
    pub lease_until: Option<OffsetDateTime>,
    /// When somebody wanted it ended while it ran.
    pub cancel_requested_at: Option<OffsetDateTime>,
    /// Who.
    pub cancel_requested_by: Option<String>,
    /// What it is at.
    pub stage: Option<String>,
    /// Bytes so far, in that stage.
    pub progress_bytes: u64,
    /// Tables so far.
    pub progress_tables: u32,
    /// When it last said so.
    pub progress_at: Option<OffsetDateTime>,
    /// Where it failed.
    pub error_stage: Option<String>,
    /// Why.
    pub error: Option<String>,
    /// When it was asked for.
    pub created_at: OffsetDateTime,
    /// When the present or last try began.
    pub started_at: Option<OffsetDateTime>,
    /// When it ended.
    pub finished_at: Option<OffsetDateTime>,
}

/// A backup's row.
#[derive(Clone, Debug, PartialEq)]
pub struct BackupRow {
    /// Its number.
    pub id: BackupId,
    /// The configured target's name.
    pub target: String,
    /// Why it is made.
    pub kind: BackupKind,
    /// How the row came to be.
    pub origin: Origin,
    /// Who asked for it.
    pub requested_by: String,
    /// What was attached.
    pub labels: BTreeMap<String, String>,
    /// Patterns of tables whose data is left out.
    pub excluded_table_data: Vec<String>,
    /// The job.
    pub job: JobFacts,
    /// The manifest's identity; while it runs, that of the attempt.
    pub uid: Option<Uid>,
    /// The sealed dump's key; while it runs, that of the attempt.
    pub object_key: Option<String>,
    /// The store's own id of the object's version.
    pub store_version_id: Option<String>,
    /// The database's name.
    pub database: Option<String>,
    /// The server's `server_version`.
    pub server_version: Option<String>,
    /// pg_dump's own line.
    pub pg_dump_version: Option<String>,
    /// The pgseal that made it.
    pub pgseal_version: Option<String>,
    /// How the dump was compressed.
    pub compression: Option<String>,
    /// Bytes of the archive.
    pub plain_bytes: Option<u64>,
    /// Their digest.
    pub plain_sha256: Option<Sha256>,
    /// Bytes of the sealed object.
    pub sealed_bytes: Option<u64>,
    /// Their digest.
    pub sealed_sha256: Option<Sha256>,
    /// Tables whose data is in it.
    pub tables: Option<u32>,
    /// Their rows; `None` where they were not counted.
    pub rows: Option<u64>,
    /// Large objects.
    pub large_objects: Option<u64>,
    /// What an administrator should know.
    pub warnings: Vec<String>,
    /// When its snapshot was taken, by the clock of whoever made it.
    pub snapshot_at: Option<OffsetDateTime>,
    /// When the object was complete, by the same clock.
    pub stored_at: Option<OffsetDateTime>,
    /// Whether it was restored to see.
    pub proof: ProofState,
    /// What came of that.
    pub proof_reason: Option<String>,
    /// When.
    pub proof_at: Option<OffsetDateTime>,
    /// What is known of its object.
    pub health: Health,
    /// Why.
    pub health_reason: Option<String>,
    /// Since when.
    pub health_at: Option<OffsetDateTime>,
    /// Whether it is to be deleted.
    pub deletion: Deletion,
    /// Until when the store does not allow that.
    pub locked_until: Option<OffsetDateTime>,
    /// What is known of its second copy.
    pub copy_state: CopyState,
    /// Since when.
    pub copy_at: Option<OffsetDateTime>,
    /// The second store.
    pub copy_place: Option<String>,
    /// Why there is none.
    pub copy_error: Option<String>,
}

impl BackupRow {
    /// Whether it is in both stores, each with the digest that its manifest records: in the first, and in `second`, which is
    /// the one that is configured.
    #[must_use]
    pub fn is_replicated(&self, second: Option<&str>) -> bool {
        self.copy_state == CopyState::Confirmed
            && self.copy_place.as_deref() == second
            && !self.is_damaged()
    }

    /// Whether its own object cannot be restored: it, or its content, is not what was stored, or it is gone.
    #[must_use]
    pub const fn is_damaged(&self) -> bool {
        matches!(
            self.health,
            Health::Corrupt | Health::Altered | Health::Lost
        )
    }

    /// Whether it can be restored from the second store alone.
    #[must_use]
    pub const fn is_only_second(&self) -> bool {
        matches!(self.copy_state, CopyState::Confirmed)
            && matches!(self.health, Health::Corrupt | Health::Lost)
    }
}

/// A restore's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreRow {
    /// Its number.
    pub id: RestoreId,
    /// What is restored.
    pub backup_id: BackupId,
    /// What is made first.
    pub safety_backup_id: Option<BackupId>,
    /// The configured target's name.
    pub target: String,
    /// How the target changes.
    pub mode: RestoreMode,
    /// Who asked for it.
    pub requested_by: String,
    /// The job.
    pub job: JobFacts,
    /// The restore that it undoes.
    pub undoes: Option<RestoreId>,
    /// What was chosen beside the mode.
    pub choices: Choices,
    /// The database that has the data now.
    pub database: Option<String>,
    /// What was there before, under its name of now.
    pub kept_database: Option<String>,
    /// Tables, or trees of partitions, whose rows were compared.
    pub compared_tables: Option<u32>,
    /// Their rows.
    pub compared_rows: Option<u64>,
    /// Bytes of the archive.
    pub plain_bytes: Option<u64>,
    /// What an administrator should know.
    pub warnings: Vec<String>,
}

/// A job that nobody runs: what the queue must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingJob {
    /// Which.
    pub task: Task,
    /// The job's id in its queue.
    pub job_id: String,
    /// The queue.
    pub queue: String,
    /// Waiting or pending.
    pub status: JobStatus,
    /// Which try comes next.
    pub attempt: u32,
    /// How many there may be.
    pub attempts_max: u32,
    /// How long a try may take.
    pub time_limit: Duration,
    /// The job that must be complete first.
    pub depends_on: Option<String>,
}

/// A job that somebody runs, or ran until his lease passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningJob {
    /// Which.
    pub task: Task,
    /// The job's id in its queue.
    pub job_id: String,
    /// The queue.
    pub queue: String,
    /// The target.
    pub target: String,
    /// Which try it is.
    pub attempt: u32,
    /// How many there may be.
    pub attempts_max: u32,
    /// Who has it.
    pub worker: String,
    /// By which lease.
    pub token: Uuid,
    /// Until when, by the database's clock.
    pub lease_until: OffsetDateTime,
    /// Whether that has passed, by the same clock.
    pub is_expired: bool,
    /// Whether somebody wants it ended.
    pub cancel_requested: bool,
    /// When the try began.
    pub started_at: OffsetDateTime,
    /// What it was at, as far as its worker told.
    pub stage: Option<String>,
    /// Of a backup: what its object carries.
    pub uid: Option<Uid>,
    /// Of a backup: its object's key.
    pub object_key: Option<String>,
}
