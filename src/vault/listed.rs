//! A line of a listing: what is known of an object without its whole manifest.

use time::OffsetDateTime;

use super::Entry;
use crate::model::object_key::ObjectKey;
use crate::model::proof::Proof;
use crate::model::summary::Summary;
use crate::store::ListedObject;

/// Something in the store that is, or could be, a backup, as a listing shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed {
    /// The dump's key.
    pub key: String,
    /// One word for its state: as [`Entry::state`].
    pub state: &'static str,
    /// Why it cannot be read, where it cannot.
    pub reason: Option<String>,
    /// What its manifest says; `None` where it has none, or none that can be read.
    pub summary: Option<Summary>,
    /// When the store got it; what the manifest says is in `summary`.
    pub stored_at: Option<OffsetDateTime>,
    /// The dump's size in the store, of an object without a manifest.
    pub bytes: Option<u64>,
    /// What the last drill of it found; `None`: there was none.
    pub proof: Option<Proof>,
}

/// What a listing's complete backups are.
pub fn complete(listed: &[Listed]) -> impl Iterator<Item = &Summary> {
    let complete = listed.iter().filter(|listed| listed.state == "complete");
    complete.filter_map(|listed| listed.summary.as_ref())
}

impl Listed {
    /// When it was made: what the manifest says, else what the store says.
    #[must_use]
    pub fn made_at(&self) -> Option<OffsetDateTime> {
        let started = self.summary.as_ref().map(|summary| summary.started_at);
        started.or(self.stored_at)
    }

    /// A manifest's line, beside what the listing says of its dump.
    pub(super) fn of_summary(
        key: &ObjectKey,
        summary: Summary,
        dump: Option<&ListedObject>,
    ) -> Self {
        let bare = Self {
            key: key.to_string(),
            state: "complete",
            reason: None,
            summary: None,
            stored_at: None,
            bytes: None,
            proof: None,
        };
        match disagreement(summary.sealed_bytes, dump) {
            Ok(()) => Self {
                summary: Some(summary),
                ..bare
            },
            Err(Disagreement::Gone) => Self {
                state: "lost",
                summary: Some(summary),
                ..bare
            },
            Err(Disagreement::Size { reason, modified }) => Self {
                state: "unreadable",
                reason: Some(reason),
                stored_at: Some(modified),
                ..bare
            },
        }
    }
}

/// What a manifest and its dump do not agree on, as far as a listing can tell.
pub(super) enum Disagreement {
    /// There is no dump.
    Gone,
    /// It has another size.
    Size {
        reason: String,
        modified: OffsetDateTime,
    },
}

pub(super) fn disagreement(
    sealed_bytes: u64,
    dump: Option<&ListedObject>,
) -> Result<(), Disagreement> {
    match dump {
        None => Err(Disagreement::Gone),
        Some(dump) if dump.bytes != sealed_bytes => Err(Disagreement::Size {
            reason: format!(
                "the dump has {} bytes, its manifest says {sealed_bytes}",
                dump.bytes
            ),
            modified: dump.modified,
        }),
        Some(_) => Ok(()),
    }
}

impl From<&Entry> for Listed {
    fn from(entry: &Entry) -> Self {
        let bare = Self {
            key: entry.key().to_owned(),
            state: entry.state(),
            reason: None,
            summary: None,
            stored_at: None,
            bytes: None,
            proof: None,
        };
        match entry {
            Entry::Complete(manifest) | Entry::Lost(manifest) => Self {
                summary: Some(manifest.summary()),
                ..bare
            },
            Entry::Unreadable {
                reason, modified, ..
            } => Self {
                reason: Some(reason.clone()),
                stored_at: Some(*modified),
                ..bare
            },
            Entry::Foreign(object) | Entry::Unfinished(object) => Self {
                stored_at: Some(object.modified),
                bytes: Some(object.bytes),
                ..bare
            },
        }
    }
}
