//! What a listing shows of a manifest: without the tables and the archive's list, which are most of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::digest::Sha256;
use super::ids::Uid;
use super::kind::BackupKind;
use super::manifest::Manifest;

/// The facts of one backup that fit a line or a short paragraph.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// The backup's identity.
    pub uid: Uid,
    /// The whole key of the sealed dump.
    pub object_key: String,
    /// Why it was made.
    pub kind: BackupKind,
    /// The configured target's name.
    pub target: String,
    /// The database's name.
    pub database: String,
    /// What the user attached.
    pub labels: BTreeMap<String, String>,
    /// When the dump's snapshot was taken.
    #[serde(with = "time::serde::rfc3339")]
    pub started_at: OffsetDateTime,
    /// When the sealed dump was complete in the store.
    #[serde(with = "time::serde::rfc3339")]
    pub finished_at: OffsetDateTime,
    /// Bytes of the archive.
    pub plain_bytes: u64,
    /// Their digest.
    pub plain_sha256: Sha256,
    /// Bytes of the sealed object.
    pub sealed_bytes: u64,
    /// Their digest.
    pub sealed_sha256: Sha256,
    /// How the dump was compressed.
    pub compression: String,
    /// How many tables have their data in the archive.
    pub table_count: usize,
    /// Their rows; `None` where they were not counted.
    pub row_count: Option<u64>,
    /// How many large objects there are.
    pub large_objects: u64,
    /// The server's `server_version`.
    pub server_version: String,
    /// pg_dump's own line.
    pub pg_dump_version: String,
    /// What an administrator should know.
    pub warnings: Vec<String>,
    /// What was left out, as patterns.
    pub excluded_table_data: Vec<String>,
}

impl Manifest {
    /// What a listing shows of it.
    #[must_use]
    pub fn summary(&self) -> Summary {
        Summary {
            uid: self.uid,
            object_key: self.object_key.clone(),
            kind: self.kind,
            target: self.target.clone(),
            database: self.database.name.clone(),
            labels: self.labels.clone(),
            started_at: self.started_at,
            finished_at: self.finished_at,
            plain_bytes: self.plain_bytes,
            plain_sha256: self.plain_sha256,
            sealed_bytes: self.sealed_bytes,
            sealed_sha256: self.sealed_sha256,
            compression: self.compression.clone(),
            table_count: self.tables.len(),
            row_count: self.row_count(),
            large_objects: self.large_objects,
            server_version: self.versions.server.clone(),
            pg_dump_version: self.versions.pg_dump.clone(),
            warnings: self.warnings.clone(),
            excluded_table_data: self.excluded_table_data.clone(),
        }
    }
}
