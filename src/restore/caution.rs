//! What somebody should know of a backup before its content takes the place of another.

use std::time::Duration;

use crate::model::manifest::Manifest;
use crate::model::object_key::ObjectKey;
use crate::model::proof::Verdict;
use crate::restore::plan::Way;
use crate::vault::Vault;

/// So long a restore waits for what only makes its warnings better.
const ASKED_FOR: Duration = Duration::from_secs(10);

/// What the manifest alone says: of another database, or without the rows of some tables.
pub(super) fn of_content(manifest: &Manifest, database: &str, way: Way) -> Vec<String> {
    let recorded = &manifest.database.name;
    let replaces = way != Way::New;
    let mut cautions = Vec::new();
    if replaces && recorded != database {
        cautions.push(format!(
            "the backup is of database {recorded}, and takes the place of what is in {database}"
        ));
    }
    if let Some(left_out) = rows_left_out(manifest) {
        let lost = if replaces {
            format!(": what {database} has of them is in its safety backup alone then")
        } else {
            String::new()
        };
        cautions.push(format!("{left_out}{lost}"));
    }
    cautions
}

/// Tables that come without their rows, because whoever made the backup wanted it so.
pub(super) fn rows_left_out(manifest: &Manifest) -> Option<String> {
    let patterns = &manifest.excluded_table_data;
    (!patterns.is_empty()).then(|| {
        let patterns = patterns.join(", ");
        format!("the rows of {patterns} are not in this backup (--exclude-table-data)")
    })
}

/// What the store says of it beside its manifest: that it looked wrong, or could not be restored. It is said as far as
/// it can be found out soon: nobody is kept from restoring by a store that is away.
pub(super) async fn of_reputation(vault: &Vault, manifest: &Manifest) -> Vec<String> {
    let asked = tokio::time::timeout(ASKED_FOR, asked(&vault.in_haste(), manifest)).await;
    asked.unwrap_or_default()
}

async fn asked(vault: &Vault, manifest: &Manifest) -> Vec<String> {
    let mut cautions = Vec::new();
    match vault.looks_wrong(manifest).await {
        Ok(Some(reason)) => cautions.push(format!(
            "this backup is SUSPICIOUS: {reason}; pgseal list shows the others"
        )),
        Ok(None) => {}
        Err(error) => {
            tracing::debug!(%error, "It is not known whether the backup looks like those before");
        }
    }
    let Ok(key) = ObjectKey::parse(&manifest.object_key) else {
        return cautions;
    };
    match vault.read_proof(&key).await {
        Ok(Some(proof)) if proof.uid == manifest.uid && proof.verdict == Verdict::Failed => {
            let reason = proof.reason.unwrap_or_default();
            let reason = reason.lines().next().unwrap_or_default();
            cautions.push(format!("the last drill of this backup FAILED: {reason}"));
        }
        Ok(_) => {}
        Err(error) => tracing::debug!(%error, "It is not known what the last drill found"),
    }
    cautions
}
