//! Marks: what somebody said about a backup, beside it in the store, where no catalog has to remember it.
//!
//! An empty object each. Whoever can put one there can delete the backup as well, so it needs no seal.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{Vault, VaultError};
use crate::model::ids::Uid;
use crate::store::{Store, StoreError};

/// What is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// It looks wrong, and is right.
    Accepted,
    /// It is a safety backup that nobody needs any more.
    Released,
}

impl Mark {
    const fn word(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Released => "released",
        }
    }
}

/// Every mark of a target's backups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Those with [`Mark::Accepted`].
    pub accepted: BTreeSet<Uid>,
    /// Those with [`Mark::Released`].
    pub released: BTreeSet<Uid>,
}

impl Vault {
    /// Marks a backup. One that is marked already stays so. Its second copy is marked as well, where that can be.
    ///
    /// # Errors
    /// The store fails.
    pub async fn mark(&self, mark: Mark, uid: Uid) -> Result<(), VaultError> {
        let key = self.layout.mark_key(mark.word(), &uid);
        self.store.put(&key, Some(uid), Bytes::new()).await?;
        if let Some(second) = &self.second {
            let put = second.in_haste().put(&key, Some(uid), Bytes::new()).await;
            said_of_second(put.map(drop), mark);
        }
        Ok(())
    }

    /// Takes a mark away, as that of a backup that is gone.
    ///
    /// # Errors
    /// The store fails.
    pub async fn unmark(&self, mark: Mark, uid: Uid) -> Result<(), VaultError> {
        let key = self.layout.mark_key(mark.word(), &uid);
        self.store.delete(&key).await?;
        if let Some(second) = &self.second {
            said_of_second(second.in_haste().delete(&key).await.map(drop), mark);
        }
        Ok(())
    }

    /// Puts the marks of a backup that is copied beside its copy. Backups are copied when they are new, so that there rarely is
    /// one.
    pub(super) async fn copy_marks(&self, second: &Store, uid: Uid) {
        for mark in [Mark::Accepted, Mark::Released] {
            let key = self.layout.mark_key(mark.word(), &uid);
            let copied = async {
                if self.store.head(&key).await?.is_some() {
                    second.put(&key, Some(uid), Bytes::new()).await?;
                }
                Ok(())
            };
            said_of_second(copied.await, mark);
        }
    }

    /// Every mark.
    ///
    /// # Errors
    /// The store fails.
    pub async fn marks(&self) -> Result<Marks, VaultError> {
        let prefix = self.layout.marks_prefix();
        let mut marks = Marks::default();
        for object in self.store.list(&prefix).await? {
            let said = object.key.as_str().strip_prefix(&prefix);
            let Some((word, uid)) = said.and_then(|said| said.split_once('_')) else {
                continue;
            };
            let Some(uid) = Uid::parse(uid) else { continue };
            match word {
                "accepted" => marks.accepted.insert(uid),
                "released" => marks.released.insert(uid),
                // A later version's.
                _ => continue,
            };
        }
        Ok(marks)
    }
}

/// The first store's marks are what counts; the second one's are for the day when it takes the first one's place.
fn said_of_second(done: Result<(), StoreError>, mark: Mark) {
    if let Err(error) = done {
        let mark = mark.word();
        tracing::warn!(%error, mark, "A mark is not as it should be in the other store");
    }
}
