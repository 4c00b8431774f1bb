//! What a backup says about itself: the JSON that stands, sealed, beside the sealed dump.
//!
//! The manifest is the commit record: a backup exists once its manifest does. It is enough to find, check and restore
//! the backup without any other database.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::content_digest::ContentDigest;
use super::digest::Sha256;
use super::ids::{BackupId, Uid};
use super::kind::BackupKind;

/// The version of the manifest's form that this program writes, and the newest that it reads.
pub const FORMAT: u32 = 1;
/// A manifest may be this large, in bytes of JSON: a list of a million entries stays below it.
pub const MANIFEST_BYTES_MAX: u64 = 256 << 20;

/// Everything that is recorded of one backup. Fields that a later version added are kept in `unknown`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The form's version: [`FORMAT`].
    pub format: u32,
    /// The backup's identity; the dump object carries it as metadata.
    pub uid: Uid,
    /// `backup_{kind}_{YYYYMMDD_HHMMSS}`.
    pub name: String,
    /// The whole key of the sealed dump: a manifest that stands beside another object is refused.
    pub object_key: String,
    /// Why it was made.
    pub kind: BackupKind,
    /// The configured target's name.
    pub target: String,
    /// What the user attached.
    pub labels: BTreeMap<String, String>,
    /// When the dump's snapshot was taken, give or take a moment.
    #[serde(with = "time::serde::rfc3339")]
    pub started_at: OffsetDateTime,
    /// When the sealed dump was complete in the store.
    #[serde(with = "time::serde::rfc3339")]
    pub finished_at: OffsetDateTime,
    /// Which programs made it.
    pub versions: Versions,
    /// Bytes of the archive as `pg_restore` reads it.
    pub plain_bytes: u64,
    /// Their digest.
    pub plain_sha256: Sha256,
    /// Bytes of the sealed object.
    pub sealed_bytes: u64,
    /// Their digest.
    pub sealed_sha256: Sha256,
    /// The store's own id of the object's version, where it has versions.
    pub store_version_id: Option<String>,
    /// How the dump was compressed: `zstd:LEVEL` (by pg_dump) or `zlib:LEVEL` (inside the OpenPGP message).
    pub compression: String,
    /// The database as it was.
    pub database: DatabaseFacts,
    /// How rows were counted: `exact` or `digests` (both in the dump's own snapshot), or `off`.
    pub row_counts: RowCounts,
    /// Every table whose data is in the archive, with its rows.
    pub tables: Vec<TableFacts>,
    /// How many large objects the snapshot had.
    pub large_objects: u64,
    /// What `--exclude-table-data` left out, as patterns.
    pub excluded_table_data: Vec<String>,
    /// The archive's own list, as `pg_restore --list` prints it.
    pub archive_list: String,
    /// What an administrator should know about this backup.
    pub warnings: Vec<String>,
    /// Who asked for it; `None`: somebody at a command line, who needs no catalog.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Requested>,
    /// What a later version wrote; kept as it is.
    #[serde(flatten)]
    pub unknown: serde_json::Map<String, serde_json::Value>,
}

/// The row of the catalog that a backup was made for: enough to give it the same row again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requested {
    /// The row's number.
    pub backup_id: BackupId,
    /// Which try it was, from 1 on.
    pub attempt: u32,
    /// Who asked.
    pub requested_by: String,
}

/// The programs that made a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// This program's.
    pub pgseal: String,
    /// pg_dump's own line.
    pub pg_dump: String,
    /// The server's `server_version`.
    pub server: String,
    /// The server's `server_version_num`.
    pub server_num: u32,
}

/// A database's own facts, which an archive holds only in part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseFacts {
    /// Its name.
    pub name: String,
    /// Its owner.
    pub owner: String,
    /// `pg_database_size`, in bytes.
    pub size_bytes: u64,
    /// The character encoding, as in `CREATE DATABASE … ENCODING`.
    pub encoding: String,
    /// `LC_COLLATE`.
    pub collate: String,
    /// `LC_CTYPE`.
    pub ctype: String,
    /// `c` (libc), `i` (ICU) or `b` (builtin); `c` before PostgreSQL 15.
    pub locale_provider: String,
    /// The ICU or builtin locale, where there is one.
    pub locale: Option<String>,
    /// The collation's version, as the operating system or ICU told it.
    pub collation_version: Option<String>,
    /// The tablespace, where it is not the default one.
    pub tablespace: Option<String>,
    /// `CONNECTION LIMIT`; -1 is none.
    pub connection_limit: i32,
    /// The comment.
    pub comment: Option<String>,
    /// `ALTER DATABASE … SET`: `name=value` as the catalog has them.
    pub settings: Vec<String>,
    /// `ALTER ROLE … IN DATABASE … SET`: by role.
    pub role_settings: BTreeMap<String, Vec<String>>,
    /// Privileges on the database, as the catalog has them; `None`: the default ones.
    pub acl: Option<Vec<String>>,
    /// Extensions: name and version.
    pub extensions: BTreeMap<String, String>,
    /// Roles that own something or are granted something in it.
    pub roles: Vec<String>,
    /// Those among them that policies and user mappings name, each with their entries' titles: `POLICY public.orders tenant`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub bound_roles: BTreeMap<String, Vec<String>>,
    /// `IS_TEMPLATE`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_template: bool,
}

/// Whether rows were counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowCounts {
    /// Counted in the dump's own snapshot.
    Exact,
    /// Counted there, and their content digested.
    Digests,
    /// Not counted, because a second scan costs too much.
    Off,
}

/// One table whose data is in the archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableFacts {
    /// The schema.
    pub schema: String,
    /// The table.
    pub name: String,
    /// Its rows in the snapshot; `None` where they were not counted.
    pub rows: Option<u64>,
    /// The digest of what they say; `None` where only their number was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<ContentDigest>,
}

/// Why a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The bytes are no manifest.
    #[error("the manifest is not in the form this program knows")]
    Form(#[source] serde_json::Error),
    /// A later pgseal wrote it.
    #[error(
        "the manifest has form {0}, this program reads up to {FORMAT}\nhint: use the pgseal version that wrote it, or a newer one"
    )]
    TooNew(u32),
}

impl Manifest {
    /// Reads a manifest's JSON.
    ///
    /// # Errors
    /// It is none, or a later version's.
    pub fn from_json(bytes: &[u8]) -> Result<Self, ManifestError> {
        /// Read first, so that a later form is named instead of being called broken.
        #[derive(Deserialize)]
        struct Form {
            format: u32,
        }
        let form: Form = serde_json::from_slice(bytes).map_err(ManifestError::Form)?;
        if form.format > FORMAT {
            return Err(ManifestError::TooNew(form.format));
        }
        serde_json::from_slice(bytes).map_err(ManifestError::Form)
    }

    /// The manifest as JSON.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self)
            .expect("strings, numbers and maps with string keys always serialise")
    }

    /// Rows over all tables; `None` where they were not counted.
    #[must_use]
    pub fn row_count(&self) -> Option<u64> {
        self.tables.iter().map(|table| table.rows).sum()
    }
}
