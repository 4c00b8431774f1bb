//! What listings remember of manifests, so that a store with a thousand of them is listed in a second.
//!
//! One file for each store, sealed as the manifests are: it says nothing to whoever has no passphrase. A line counts
//! only while the manifest is the one that was read, by its ETag, and only listings use it: whatever restores, verifies or deletes
//! reads the manifest itself. A cache that cannot be read or written is only slow.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Vault, blocking, open_bytes, seal_bytes};
use crate::model::proof::Proof;
use crate::model::summary::Summary;
use crate::seal::Digester;

/// The form's version; another one is not read.
const FORMAT: u32 = 2;

/// Where listings remember manifests.
#[derive(Clone, Debug)]
pub struct ListCache {
    folder: Option<PathBuf>,
}

/// What is remembered, by the dump's key.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Remembered {
    format: u32,
    pub(super) manifests: BTreeMap<String, Known>,
}

/// A manifest as it was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Known {
    /// What changes when the manifest does.
    pub(super) content: String,
    pub(super) summary: Summary,
    #[serde(default)]
    pub(super) proof: Option<KnownProof>,
}

/// A drill's record as it was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct KnownProof {
    /// What changes when the record does.
    pub(super) content: String,
    pub(super) proof: Proof,
}

impl ListCache {
    /// In files of `folder`; `None`: nothing is remembered.
    #[must_use]
    pub const fn new(folder: Option<PathBuf>) -> Self {
        Self { folder }
    }

    fn file(&self, vault: &Vault) -> Option<PathBuf> {
        let place = format!("{} {}", vault.store.describe(), vault.layout.listing_name());
        let name = Digester::of(place.as_bytes()).to_string();
        // Half of the digest tells stores apart as well as all of it.
        Some(
            self.folder
                .as_ref()?
                .join(format!("list-{}.gpg", &name[..32])),
        )
    }

    pub(super) async fn read(&self, vault: &Vault) -> Remembered {
        let Some(path) = self.file(vault) else {
            return Remembered::default();
        };
        let passphrases = vault.passphrases.clone();
        let read = blocking(move || {
            let Ok(sealed) = std::fs::read(&path) else {
                return Ok(Remembered::default());
            };
            let json = open_bytes(sealed.into(), &passphrases)?;
            let remembered: Remembered = serde_json::from_slice(&json).unwrap_or_default();
            Ok(remembered)
        });
        match read.await {
            Ok(remembered) if remembered.format == FORMAT => remembered,
            Ok(_) => Remembered::default(),
            Err(error) => {
                tracing::debug!(%error, "what was remembered of the store cannot be read");
                Remembered::default()
            }
        }
    }

    pub(super) async fn write(&self, vault: &Vault, manifests: BTreeMap<String, Known>) {
        let (Some(path), Ok(passphrase)) = (self.file(vault), vault.current_passphrase()) else {
            return;
        };
        let passphrase = passphrase.clone();
        let remembered = Remembered {
            format: FORMAT,
            manifests,
        };
        let written = blocking(move || {
            let json = serde_json::to_vec(&remembered).unwrap_or_default();
            let sealed = seal_bytes(&json, &passphrase)?;
            Ok(replace(&path, &sealed))
        });
        if let Ok(Err(error)) = written.await {
            tracing::debug!(%error, "what is in the store was not remembered");
        }
    }
}

/// Another process may read it at the same moment, so that it is replaced as a whole.
fn replace(path: &Path, sealed: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::with_prefix_in(".list-", folder)?;
    file.write_all(sealed)?;
    file.persist(path)?;
    Ok(())
}
