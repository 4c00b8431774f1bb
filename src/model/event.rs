//! What happened, for people and programs that want to hear of it. The catalog's triggers write most of these
//! (`migrations/0010_attention.sql`), by the names that stand here.

use std::fmt;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::ids::Uid;
use super::manifest::Manifest;

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The same in every try to tell it.
    pub id: Uid,
    /// When.
    pub at: OffsetDateTime,
    /// What.
    pub kind: EventKind,
    /// To which configured target.
    pub target: String,
    /// What is known beside that.
    pub facts: Facts,
}

/// How bad an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gravity {
    /// Somebody must look.
    Alarm,
    /// Somebody wants to know.
    Notice,
    /// As it should be.
    Routine,
}

macro_rules! kinds {
    ($($(#[$documentation:meta])* $name:ident = $word:literal, $gravity:ident;)*) => {
        /// What happened.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum EventKind {
            $($(#[$documentation])* $name,)*
        }

        impl EventKind {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The word that stands for it in the catalog and in what programs get.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)*
                }
            }

            /// How bad it is.
            #[must_use]
            pub const fn gravity(self) -> Gravity {
                match self {
                    $(Self::$name => Gravity::$gravity,)*
                }
            }
        }
    };
}

kinds! {
    /// A backup began.
    BackupStarted = "backup.started", Routine;
    /// A backup is complete.
    BackupCompleted = "backup.completed", Routine;
    /// A backup came to nothing, and no try is left.
    BackupFailed = "backup.failed", Alarm;
    /// A schedule has produced nothing for too long.
    BackupOverdue = "backup.overdue", Alarm;
    /// A backup is not what one would expect: far smaller, or tables are gone.
    BackupSuspicious = "backup.suspicious", Alarm;
    /// A backup's object is not what was stored.
    BackupCorrupt = "backup.corrupt", Alarm;
    /// A backup's object is gone.
    BackupLost = "backup.lost", Alarm;
    /// A restore began.
    RestoreStarted = "restore.started", Notice;
    /// A restore is complete.
    RestoreCompleted = "restore.completed", Notice;
    /// A restore came to nothing.
    RestoreFailed = "restore.failed", Alarm;
    /// What a restore replaced is back.
    RestoreRolledBack = "restore.rolled_back", Notice;
    /// A backup could not be restored for trial.
    ProofFailed = "proof.failed", Alarm;
    /// A trial came to no verdict, for a reason that is the server's: told once after each proof.
    ProofUnverifiable = "proof.unverifiable", Alarm;
    /// No backup was proved for too long.
    ProofOverdue = "proof.overdue", Alarm;
    /// Nothing is deleted any more, because new backups look wrong.
    PruneFrozen = "prune.frozen", Alarm;
    /// A backup that was due could not be deleted; it is tried again.
    PruneFailed = "prune.failed", Alarm;
    /// A backup is complete, and its second copy is not.
    CopyFailed = "copy.failed", Alarm;
    /// Somebody tries the channels.
    Test = "test", Notice;
}

impl EventKind {
    /// Reads a kind as [`EventKind::as_str`] writes it.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == word)
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// What is known of an event. What a kind does not have is none. No secret is in it: errors were redacted where they
/// came to be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// The database's name, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// The backup's number in the catalog.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup_id: Option<i64>,
    /// Why it was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup_kind: Option<String>,
    /// What is known of its object, where the event's kind does not say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<String>,
    /// The key of its sealed dump.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object_key: Option<String>,
    /// The restore's number in the catalog.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restore_id: Option<i64>,
    /// The backup that was made before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub safety_backup_id: Option<i64>,
    /// Which try it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// Who asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requested_by: Option<String>,
    /// How long it took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// Bytes of the archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plain_bytes: Option<u64>,
    /// Bytes of the sealed object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sealed_bytes: Option<u64>,
    /// How many tables.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tables: Option<u64>,
    /// Their rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// How many things an administrator should know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warnings: Option<u64>,
    /// The kind of the event that told before of this target that backups fail.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovered_from: Option<String>,
    /// At which stage it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// Why it failed, or what is wrong; its lines that begin with `hint: ` say what to do next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Event {
    /// What people call what it happened to: the database, else the target.
    #[must_use]
    pub fn subject(&self) -> &str {
        self.facts.database.as_deref().unwrap_or(&self.target)
    }
}

impl Facts {
    /// The backup's name: the object's, without its folders and endings.
    #[must_use]
    pub fn backup_name(&self) -> Option<&str> {
        let file = self.object_key.as_deref()?.rsplit('/').next()?;
        let name = file.strip_suffix(".gpg").unwrap_or(file);
        Some(name.strip_suffix(".dump").unwrap_or(name))
    }

    /// What a backup's manifest tells.
    #[must_use]
    pub fn of_manifest(manifest: &Manifest) -> Self {
        let took = manifest.finished_at - manifest.started_at;
        Self {
            database: Some(manifest.database.name.clone()),
            backup_kind: Some(manifest.kind.as_str().to_owned()),
            object_key: Some(manifest.object_key.clone()),
            seconds: Some(took.as_seconds_f64()),
            plain_bytes: Some(manifest.plain_bytes),
            sealed_bytes: Some(manifest.sealed_bytes),
            tables: Some(manifest.tables.len() as u64),
            rows: manifest.row_count(),
            warnings: Some(manifest.warnings.len() as u64),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_word_of_its_own_that_reads_back() {
        for kind in EventKind::ALL {
            assert_eq!(EventKind::parse(kind.as_str()), Some(*kind));
        }
        assert_eq!(EventKind::parse("backup.exploded"), None);
    }

    #[test]
    fn facts_of_a_later_version_do_no_harm() {
        let facts: Facts = serde_json::from_str(
            r#"{"backup_id": 7, "of_later": [1], "object_key": "a/b/n.dump.gpg"}"#,
        )
        .unwrap();
        assert_eq!((facts.backup_id, facts.backup_name()), (Some(7), Some("n")));
        assert_eq!(
            serde_json::to_string(&facts).unwrap(),
            r#"{"backup_id":7,"object_key":"a/b/n.dump.gpg"}"#
        );
    }
}
