//! Proofs: what the last drill of a backup found, sealed beside it.

use std::collections::BTreeMap;

use futures_util::{StreamExt as _, TryStreamExt as _};

use super::list::MANIFESTS_AT_ONCE;
use super::{Vault, VaultError, blocking, carries, manifest_key, open_bytes, seal_bytes};
use crate::model::explanation::explain;
use crate::model::object_key::ObjectKey;
use crate::model::proof::{PROOF_BYTES_MAX, Proof};
use crate::store::StoreError;

impl Vault {
    /// Puts a proof beside its dump, in place of an earlier one.
    ///
    /// # Errors
    /// The store fails, or the key is none that a proof can stand beside.
    pub async fn put_proof(&self, dump_key: &ObjectKey, proof: &Proof) -> Result<(), VaultError> {
        let key = proof_key(dump_key)?;
        let passphrase = self.current_passphrase()?.clone();
        let json = serde_json::to_vec_pretty(proof).expect("strings and numbers always serialise");
        let sealed = blocking(move || seal_bytes(&json, &passphrase)).await?;
        self.store.put(&key, Some(proof.uid), sealed).await?;
        Ok(())
    }

    /// Puts a proof beside the second copy too, where there is one. A second store that is away misses it: the next copy of the
    /// backup brings it.
    pub async fn put_proof_beside_copy(&self, dump_key: &ObjectKey, proof: &Proof) {
        let Some(second) = self.second().map(|second| second.in_haste()) else {
            return;
        };
        let put = async {
            let head = second.store.head(&manifest_key(dump_key)?).await?;
            if head.is_some_and(|head| carries(&head, proof.uid)) {
                second.put_proof(dump_key, proof).await?;
            }
            Ok::<_, VaultError>(())
        };
        if let Err(error) = put.await {
            let place = second.store.describe();
            let reason = explain(&error);
            tracing::warn!(
                reason,
                place,
                "What a drill found is not beside the second copy"
            );
        }
    }

    /// The proof that stands beside a dump; `None`: there is none, or none that can be read. It is a record and no part of
    /// the backup, so that a bad one is worth a line in the log and no error.
    ///
    /// # Errors
    /// The store fails.
    pub async fn read_proof(&self, dump_key: &ObjectKey) -> Result<Option<Proof>, VaultError> {
        let key = proof_key(dump_key)?;
        let sealed = match self.store.read(&key, PROOF_BYTES_MAX).await {
            Ok((_, sealed)) => sealed,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let passphrases = self.passphrases.clone();
        let opened = blocking(move || open_bytes(sealed, &passphrases)).await;
        let read = match opened {
            Ok(json) => serde_json::from_slice(&json).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        Ok(read
            .inspect_err(|reason| {
                let reason = reason.lines().next().unwrap_or_default();
                tracing::warn!(object.key = %key, reason, "A drill's record cannot be read, and counts as none");
            })
            .ok())
    }

    /// Every proof in this target's folder, by the dump's key.
    ///
    /// # Errors
    /// The store fails.
    pub async fn proofs(&self) -> Result<BTreeMap<ObjectKey, Proof>, VaultError> {
        let proven: Vec<ObjectKey> = self
            .pairs()
            .await?
            .into_iter()
            .filter_map(|(key, pair)| pair.proof.map(|_| key))
            .collect();
        futures_util::stream::iter(proven)
            .map(|key| async move {
                let proof = self.read_proof(&key).await?;
                Ok::<_, VaultError>(proof.map(|proof| (key, proof)))
            })
            .buffer_unordered(MANIFESTS_AT_ONCE)
            .try_filter_map(|found| std::future::ready(Ok(found)))
            .try_collect()
            .await
    }
}

fn proof_key(dump_key: &ObjectKey) -> Result<ObjectKey, VaultError> {
    dump_key
        .proof_key()
        .ok_or_else(|| VaultError::BadKey(dump_key.to_string()))
}
