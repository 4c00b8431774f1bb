//! Finding and fetching a backup in the first store, or, where that cannot be, in the second: said each time, and compared
//! with a manifest in either.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Entry, Fetched, ListCache, Listed, Selector, Vault, VaultError};
use crate::model::explanation::explain;
use crate::model::object_key::ObjectKey;
use crate::progress::Progress;
use crate::store::StoreError;

/// One of the two copies of a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Where it was made.
    First,
    /// Where it was copied to.
    Second,
}

/// A backup that was found in one of the two stores.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// What was found.
    pub entry: Entry,
    /// In which store.
    pub copy: Which,
    /// Why not in the first one, where that is so.
    pub note: Option<String>,
}

impl From<Entry> for Found {
    fn from(entry: Entry) -> Self {
        Self {
            entry,
            copy: Which::First,
            note: None,
        }
    }
}

impl Vault {
    /// As [`Vault::find`]. Where the first store cannot be asked, or has nothing whole by that name, the second one is
    /// asked too, where there is one.
    ///
    /// # Errors
    /// As [`Vault::find`], of the first store: nothing better is in the second.
    pub async fn find_either(&self, selector: &Selector) -> Result<Found, VaultError> {
        let Some(second) = self.second() else {
            return Ok(self.find(selector).await?.into());
        };
        let hasty = self.in_haste();
        let found = match selector {
            Selector::Latest => hasty.latest_either().await,
            other => hasty.find(other).await,
        };
        let (reason, by_key) = match &found {
            Ok(Entry::Complete(_) | Entry::Foreign(_)) => return Ok(found?.into()),
            Ok(other) => (
                format!("{} is {} there", other.key(), other.state()),
                ObjectKey::parse(other.key()).ok(),
            ),
            Err(error) if may_be_elsewhere(error) => {
                let reason = explain(error);
                let newer = if matches!(selector, Selector::Latest) {
                    "; a newer backup may be in it"
                } else {
                    ""
                };
                (format!("{reason}{newer}"), None)
            }
            Err(_) => return Ok(found?.into()),
        };
        let selector = by_key.map_or_else(|| selector.clone(), Selector::Key);
        match second.find(&selector).await {
            Ok(entry @ Entry::Complete(_)) => Ok(Found {
                entry,
                copy: Which::Second,
                note: Some(self.said_of_second(&reason)),
            }),
            Ok(_) => Ok(found?.into()),
            Err(error) => {
                tracing::debug!(%error, "The second store has it neither");
                match found {
                    // Nobody else can help, so that it is worth waiting for.
                    Err(error) if passes(&error) => Ok(self.find(&selector).await?.into()),
                    found => Ok(found?.into()),
                }
            }
        }
    }

    /// As [`Vault::list_briefly`], and the store that it is a list of: the second one, where the first cannot be asked.
    ///
    /// # Errors
    /// As [`Vault::list_briefly`], of the first store: the second cannot be asked either, or has nothing.
    pub async fn list_either(&self, cache: &ListCache) -> Result<(Vec<Listed>, Which), VaultError> {
        let Some(second) = self.second() else {
            return Ok((self.list_briefly(cache).await?, Which::First));
        };
        let error = match self.in_haste().list_briefly(cache).await {
            Ok(listed) => return Ok((listed, Which::First)),
            Err(error) => error,
        };
        match second.list_briefly(cache).await {
            // A first store that is misspelt is not made good by a second one that is empty.
            Ok(listed) if listed.is_empty() => Err(error),
            Ok(listed) => {
                self.said_of_second(&explain(&error));
                Ok((listed, Which::Second))
            }
            Err(worse) => {
                tracing::warn!(
                    reason = explain(&worse),
                    "Nor can the second store be asked"
                );
                Err(error)
            }
        }
    }

    /// The newest backup that is in one of the two stores; one that only the second has whole counts as lost here.
    async fn latest_either(&self) -> Result<Entry, VaultError> {
        let copies = self.copies().await.unwrap_or_else(|error| {
            let reason = explain(&error);
            tracing::warn!(reason, "The second store cannot be asked for newer backups");
            BTreeMap::new()
        });
        self.latest(&copies).await
    }

    /// As [`Vault::fetch`], from the store where it was found; where the first copy turns out to be missing, damaged or
    /// out of reach, from the second. Either has to be what the manifest says.
    ///
    /// # Errors
    /// As [`Vault::fetch`], of the first copy: the second one is no better.
    pub async fn fetch_either(
        &self,
        found: Found,
        progress: &Arc<Progress>,
    ) -> Result<Fetched, VaultError> {
        let Found { entry, copy, note } = found;
        let Some(second) = self.second() else {
            return self.fetch(entry, progress).await;
        };
        if copy == Which::Second {
            return Ok(second.fetch(entry, progress).await?.of_second(note));
        }
        let fetched = self.in_haste().fetch(entry.clone(), progress).await;
        let (error, entry) = match (fetched, entry) {
            // Without a manifest, nothing would vouch for another object.
            (Err(error), entry @ (Entry::Complete(_) | Entry::Lost(_)))
                if is_of_this_copy(&error) =>
            {
                (error, entry)
            }
            (fetched, _) => return fetched,
        };
        let note = self.said_of_second(&explain(&error));
        let entry = match entry {
            Entry::Lost(manifest) => Entry::Complete(manifest),
            other => other,
        };
        match second.fetch(entry.clone(), progress).await {
            Ok(fetched) => Ok(fetched.of_second(Some(note))),
            Err(worse) => {
                let reason = match &worse {
                    // The manifest that is known is the first store's.
                    VaultError::Lost(name) => format!("its store has no sealed dump of {name}"),
                    worse => explain(worse),
                };
                tracing::warn!(reason, "Nor can the second copy be used");
                if passes(&error) {
                    return self.fetch(entry, progress).await;
                }
                Err(error)
            }
        }
    }

    /// Says at once that the second copy is taken, and gives the words back for the record.
    fn said_of_second(&self, reason: &str) -> String {
        let place = |store: Option<&crate::store::Store>| {
            store.map(crate::store::Store::describe).unwrap_or_default()
        };
        // Hints are for somebody who is stopped by it.
        let lines = reason.lines().filter(|line| !line.starts_with("hint: "));
        let reason = lines.collect::<Vec<_>>().join("; ");
        let note = format!(
            "the first copy, in {}, cannot be used: {reason}; the one in the second store is taken, in {}",
            self.store.describe(),
            place(self.second.as_ref()),
        );
        tracing::warn!("Attention: {note}");
        note
    }

    /// Where another copy is at hand, nobody waits long for this one.
    #[must_use]
    pub fn in_haste(&self) -> Self {
        Self {
            store: self.store.in_haste(),
            ..self.clone()
        }
    }
}

/// Whether the second store could know better.
const fn may_be_elsewhere(error: &VaultError) -> bool {
    matches!(
        error,
        VaultError::NotFound { .. } | VaultError::NoneYet | VaultError::Unfinished(_)
    ) || is_of_this_copy(error)
}

/// Whether an error says something about one copy, and nothing about another.
const fn is_of_this_copy(error: &VaultError) -> bool {
    match error {
        // Another copy needs the same room.
        VaultError::Store(StoreError::NoSpace { .. }) => false,
        VaultError::Store(_)
        | VaultError::Lost(_)
        | VaultError::Replaced { .. }
        | VaultError::SealedDigest { .. } => true,
        _ => false,
    }
}

/// Whether it may be over later.
const fn passes(error: &VaultError) -> bool {
    matches!(error, VaultError::Store(StoreError::Unavailable { .. }))
}
