//! What a drill found out about a backup: the JSON that stands, sealed, beside the backup, so that it is known wherever
//! the backup is.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::ids::Uid;

/// A proof may be this large, in bytes of JSON; it is a few hundred.
pub const PROOF_BYTES_MAX: u64 = 1 << 20;

/// What a drill found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// It was restored, and everything that was compared is as recorded.
    Proven,
    /// It cannot be restored, or what comes out is not what was recorded.
    Failed,
    /// Nothing can be said, by this server or of this backup.
    Unverifiable,
}

impl Verdict {
    /// The word in listings, JSON and the catalog.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Proven => "PROVEN",
            Self::Failed => "FAILED",
            Self::Unverifiable => "UNVERIFIABLE",
        }
    }
}

/// The last drill of a backup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Proof {
    /// The backup's identity: one that stands beside another backup says nothing about it.
    pub uid: Uid,
    /// What was found.
    pub verdict: Verdict,
    /// Why it is not PROVEN.
    pub reason: Option<String>,
    /// When it ended.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// From the first byte that was fetched to a database that could be used: the measured recovery time.
    pub seconds: f64,
    /// Tables that were compared.
    pub tables: Option<u64>,
    /// Their rows.
    pub rows: Option<u64>,
    /// Whether contents were compared too, and not only numbers.
    pub digests: bool,
    /// The `server_version` of the server that it was restored on; `None`: it did not come so far.
    pub server: Option<String>,
}
