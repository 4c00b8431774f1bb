//! Finding the one backup that somebody means.

use std::collections::{BTreeMap, BTreeSet};

use super::list::Pair;
use super::{Entry, Vault, VaultError};
use crate::model::kind::BackupKind;
use crate::model::object_key::ObjectKey;
use crate::store::ListedObject;

/// What somebody typed for a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// The newest complete manual or scheduled backup.
    Latest,
    /// A whole object key, anywhere in the store.
    Key(ObjectKey),
    /// A name, or the beginning of one.
    Name(String),
}

impl Selector {
    /// Reads what somebody typed: `latest`, a key (it has a slash, or ends in `.gpg`), else a name.
    ///
    /// # Errors
    /// It looks like a key and is none.
    pub fn parse(text: &str) -> Result<Self, VaultError> {
        if text == "latest" {
            return Ok(Self::Latest);
        }
        if !text.contains('/') && !text.ends_with(".gpg") {
            return Ok(Self::Name(text.to_owned()));
        }
        let key = ObjectKey::parse(text).map_err(|_| VaultError::BadKey(text.to_owned()))?;
        // Somebody who copies the manifest's key from a listing means the backup.
        Ok(Self::Key(key.dump_key().unwrap_or(key)))
    }
}

impl Vault {
    /// Finds a backup.
    ///
    /// # Errors
    /// Nothing, or more than one thing, is meant by `selector`.
    pub async fn find(&self, selector: &Selector) -> Result<Entry, VaultError> {
        match selector {
            Selector::Key(key) => self.find_key(key).await,
            Selector::Name(name) => self.find_name(name).await,
            Selector::Latest => self.latest(&BTreeMap::new()).await,
        }
    }

    async fn find_key(&self, key: &ObjectKey) -> Result<Entry, VaultError> {
        let listed = async |key: Option<ObjectKey>| -> Result<Option<ListedObject>, VaultError> {
            let Some(key) = key else { return Ok(None) };
            let head = self.store.head(&key).await?;
            Ok(head.map(|head| ListedObject {
                key,
                bytes: head.bytes,
                etag: head.etag,
                modified: head.modified,
            }))
        };
        let dump = listed(Some(key.clone())).await?;
        let manifest = listed(key.manifest_key()).await?;
        let pair = Pair {
            dump,
            manifest,
            proof: None,
        };
        self.entry(key.clone(), pair).await
    }

    async fn find_name(&self, name: &str) -> Result<Entry, VaultError> {
        let pairs = self.pairs().await?;
        let named = |exact: bool| {
            pairs.keys().filter(move |key| {
                key.backup_name().is_some_and(|known| {
                    if exact {
                        known == name
                    } else {
                        known.starts_with(name)
                    }
                })
            })
        };
        let mut matches: Vec<&ObjectKey> = named(true).collect();
        if matches.is_empty() && !name.is_empty() {
            matches = named(false).collect();
        }
        match matches.as_slice() {
            [] => Err(VaultError::NotFound {
                selector: name.to_owned(),
            }),
            [key] => {
                let key = (*key).clone();
                self.find_key(&key).await
            }
            several => Err(VaultError::Ambiguous {
                selector: name.to_owned(),
                names: telling(several),
            }),
        }
    }

    /// The newest complete manual or scheduled backup. One that is lost is passed over; one that cannot be read is
    /// an error, because taking an older one in silence could restore the wrong day. One of `copies`, which the second
    /// store has, is not passed over: where it is not whole here, it is [`Entry::Lost`].
    pub(super) async fn latest(
        &self,
        copies: &BTreeMap<ObjectKey, u64>,
    ) -> Result<Entry, VaultError> {
        let mut pairs = self.pairs().await?;
        for key in copies.keys() {
            pairs.entry(key.clone()).or_default();
        }
        let mut by_second: BTreeMap<String, Vec<(ObjectKey, Pair)>> = BTreeMap::new();
        for (key, pair) in pairs {
            let is_there = pair.manifest.is_some() || copies.contains_key(&key);
            let is_ours = self.layout.is_own(&key) && is_there;
            if let (Some(second), true) = (started(&key), is_ours) {
                by_second.entry(second).or_default().push((key, pair));
            }
        }
        for (_, pairs) in by_second.into_iter().rev() {
            let mut newest: Option<Entry> = None;
            for (key, pair) in pairs {
                let is_copied = copies.contains_key(&key);
                let entry = match self.second().filter(|_| is_copied) {
                    Some(second) if pair.manifest.is_none() || pair.dump.is_none() => {
                        lost(second.find_key(&key).await?)
                    }
                    _ => self.entry(key, pair).await?,
                };
                match entry {
                    Entry::Lost(manifest) if !is_copied => {
                        tracing::warn!(
                            backup.name = manifest.name,
                            "Backup is lost: manifest without a dump"
                        );
                    }
                    // Names tell seconds; which of one second's backups is newer, their manifests know.
                    entry
                        if newest
                            .as_ref()
                            .is_none_or(|newest| newest.made_at() < entry.made_at()) =>
                    {
                        newest = Some(entry);
                    }
                    _ => {}
                }
            }
            if let Some(newest) = newest {
                return Ok(newest);
            }
        }
        Err(VaultError::NoneYet)
    }
}

/// What tells several backups apart: their names or, where two targets have backups of the same second, their keys.
fn telling(keys: &[&ObjectKey]) -> Vec<String> {
    let names: BTreeSet<&str> = keys.iter().filter_map(|key| key.backup_name()).collect();
    if names.len() < keys.len() {
        return keys.iter().map(ToString::to_string).collect();
    }
    names.into_iter().map(str::to_owned).collect()
}

/// What is whole in the other store alone, is lost in this one.
fn lost(elsewhere: Entry) -> Entry {
    match elsewhere {
        Entry::Complete(manifest) => Entry::Lost(manifest),
        other => other,
    }
}

/// `YYYYMMDD_HHMMSS`.
const STAMP_BYTES: usize = 15;

/// The time in a backup's name, for the kinds that `latest` may mean: `backup_{kind}_{YYYYMMDD_HHMMSS}[_suffix]`.
fn started(key: &ObjectKey) -> Option<String> {
    let rest = key.backup_name()?.strip_prefix("backup_")?;
    let kinds = [BackupKind::Manual, BackupKind::Scheduled];
    let stamp = kinds
        .iter()
        .find_map(|kind| rest.strip_prefix(kind.as_str())?.strip_prefix('_'))?;
    Some(stamp.get(..STAMP_BYTES)?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_is_understood() {
        assert_eq!(Selector::parse("latest").unwrap(), Selector::Latest);
        assert_eq!(
            Selector::parse("backup_manual_2").unwrap(),
            Selector::Name("backup_manual_2".into())
        );
        let dump = ObjectKey::parse("a/b.dump.gpg").unwrap();
        assert_eq!(
            Selector::parse("a/b.dump.gpg").unwrap(),
            Selector::Key(dump.clone())
        );
        assert_eq!(
            Selector::parse("a/b.manifest.gpg").unwrap(),
            Selector::Key(dump)
        );
        assert!(matches!(
            Selector::parse("../b.gpg"),
            Err(VaultError::BadKey(_))
        ));
    }

    #[test]
    fn backups_of_one_name_are_told_apart_by_their_keys() {
        let keys = |keys: &[&str]| -> Vec<ObjectKey> {
            let parsed = keys.iter().map(|key| ObjectKey::parse(key).unwrap());
            parsed.collect()
        };
        let told = |keys: &[ObjectKey]| telling(&keys.iter().collect::<Vec<_>>());
        let differ = keys(&["p/2026/a.dump.gpg", "p/shop/2026/b.dump.gpg"]);
        assert_eq!(told(&differ), ["a", "b"]);
        let same = ["p/2026/a.dump.gpg", "p/shop/2026/a.dump.gpg"];
        assert_eq!(told(&keys(&same)), same);
    }

    #[test]
    fn latest_means_manual_and_scheduled_ones() {
        let started =
            |name: &str| started(&ObjectKey::parse(&format!("p/{name}.dump.gpg")).unwrap());
        assert_eq!(
            started("backup_manual_20260102_030405").as_deref(),
            Some("20260102_030405")
        );
        assert_eq!(
            started("backup_scheduled_20260102_030405_0a1b2c3d").as_deref(),
            Some("20260102_030405")
        );
        assert_eq!(started("backup_pre_restore_20260102_030405"), None);
        assert_eq!(started("nightly"), None);
    }
}
