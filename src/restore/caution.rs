//! What somebody should know of a backup before its content takes the place of another.

use std::time::Duration;

use crate::backup::Stages;
use crate::model::ids::Uid;
use crate::model::manifest::Manifest;
use crate::model::proof::Verdict;
use crate::model::target::TargetName;
use crate::restore::plan::Way;
use crate::vault::{Entry, Found, VaultError, Which};

/// So long a restore waits for what only makes its warnings better.
const ASKED_FOR: Duration = Duration::from_secs(10);

/// What the manifest alone says: of another database, or without the rows of some tables. A selection takes the place of a part.
pub(super) fn of_content(
    manifest: &Manifest,
    database: &str,
    way: Way,
    is_selection: bool,
) -> Vec<String> {
    let recorded = &manifest.database.name;
    let replaces = way != Way::New;
    let mut cautions = Vec::new();
    if replaces && recorded != database {
        cautions.push(if is_selection {
            format!("the backup is of database {recorded}, and not of {database}")
        } else {
            format!(
                "the backup is of database {recorded}, and takes the place of what is in {database}"
            )
        });
    }
    if let Some(left_out) = rows_left_out(manifest) {
        cautions.push(if replaces && !is_selection {
            format!("{left_out}: what {database} has of them is replaced by empty tables")
        } else {
            left_out
        });
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

/// What the store says of it beside its manifest: that it looks wrong, or could not be restored. It is said as far as it can
/// be found out soon: nobody is kept from restoring by a store that is away.
pub(super) fn of_reputation<'a>(
    stages: &'a Stages,
    found: &Found,
) -> impl Future<Output = Vec<String>> + use<'a> {
    let of = match &found.entry {
        Entry::Complete(manifest) => Some((manifest.uid, manifest.target.clone())),
        _ => None,
    };
    let copy = found.copy;
    async move {
        let Some((uid, target)) = of else {
            return Vec::new();
        };
        let asked = Box::pin(asked(stages, uid, &target, copy));
        match tokio::time::timeout(ASKED_FOR, asked).await {
            Ok(Ok(cautions)) => return cautions,
            Ok(Err(error)) => {
                tracing::debug!(%error, "It is not known what speaks against the backup");
            }
            Err(_) => {
                tracing::debug!("The store is too slow to say what speaks against the backup");
            }
        }
        Vec::new()
    }
}

async fn asked(
    stages: &Stages,
    uid: Uid,
    target: &str,
    copy: Which,
) -> Result<Vec<String>, VaultError> {
    // It lies in the folder of the target that it is of, whatever it is restored into.
    let of = TargetName::parse(target).unwrap_or_default();
    let vault = stages.vault.of_target(&of)?.with(copy).in_haste();
    let listed = vault.list_briefly(&stages.list_cache).await?;
    let mut cautions = Vec::new();
    if let Some(reason) = vault.strange(&listed).await?.get(&uid) {
        cautions.push(format!(
            "this backup is SUSPICIOUS: {reason}; pgseal list shows the others"
        ));
    }
    let proofs = listed.iter().filter_map(|listed| listed.proof.as_ref());
    let failed = proofs.filter(|proof| proof.uid == uid && proof.verdict == Verdict::Failed);
    cautions.extend(failed.map(|proof| {
        let reason = proof.reason.as_deref().unwrap_or_default();
        let reason = reason.lines().next().unwrap_or_default();
        format!("the last drill of this backup FAILED: {reason}")
    }));
    Ok(cautions)
}
