//! `pgseal list`.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use time::OffsetDateTime;

use super::output::{Record, moment, table};
use super::{Context, TargetArgs};
use crate::config::{self, ScheduleArgs};
use crate::model::explanation::explain;
use crate::model::ids::Uid;
use crate::model::kind::BackupKind;
use crate::model::object_key::ObjectKey;
use crate::model::summary::Summary;
use crate::model::suspicion::{Measured, suspicious};
use crate::vault::{Listed, Vault, VaultError, Which};

const AFTER_HELP: &str = "\
States: complete (can be restored) · foreign (made by hand or another tool, without a manifest; can be verified, fetched \
and restored) · unfinished (never completed; cannot) · lost (the dump is gone) · unreadable (no passphrase opens its \
manifest, or it was changed) · SUSPICIOUS (complete, and far smaller than the one before: pgseal accept)

With a second store (BACKUP_COPY_STORE), a line below the table names each backup that has no copy there; where the first store \
cannot be reached, the second one is listed. pgseal copy --check reads both.

PROOF is the verdict of the last pgseal drill, and its age. With BACKUP_SCHEDULE it says whether the backup that was due \
last is overdue.";

/// List what is in the store, newest first
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(super) struct ListArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    schedule: ScheduleArgs,
}

impl ListArgs {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let mut vault = context.settings.vault().await?;
        if let Some(target) = &self.target.target {
            context.settings.targets()?.require(target)?;
            vault = vault.of_target(target)?;
        }
        let (listed, which) = vault.list_either(&config::list_cache()).await?;
        let copies = copies(&vault, which).await;
        let vault = vault.with(which);
        let now = (context.clock)();
        let strange = strange(&vault, &listed).await?;
        let records: Vec<Record> = listed
            .iter()
            .map(|listed| {
                let record = Record::of(listed).suspicious(&strange);
                record.copied(copied(listed, copies.as_ref()))
            })
            .collect();
        if let Some(late) = self.late(&listed, now)? {
            // Not among the results: programs that read them get a list.
            tracing::warn!("{late}");
        }
        context.output.print(&records, || {
            if records.is_empty() {
                return format!(
                    "No backup yet in {} under {}",
                    vault.store.describe(),
                    vault.layout.listing_prefix()
                );
            }
            let header = [
                "NAME", "STATE", "STARTED", "DATABASE", "TABLES", "ROWS", "STORED", "PROOF",
            ];
            let mut text = table(header, records.iter().map(|record| record.cells(now)), 4);
            for record in &records {
                if let Some(said) = record.copy_is_missing() {
                    text += &format!("\n{}: {said}", record.name);
                }
                if let Some(reason) = record.reason.as_ref().or(record.suspicious.as_ref()) {
                    text += &format!("\n{}: {reason}", record.name);
                }
            }
            text
        })
    }

    /// What to say where the backup that was due is not there.
    fn late(&self, listed: &[Listed], now: OffsetDateTime) -> anyhow::Result<Option<String>> {
        let Some(schedule) = self.schedule.schedule()? else {
            return Ok(None);
        };
        let complete = complete(listed).filter(|one| one.kind == BackupKind::Scheduled);
        let last = complete.map(|one| one.started_at).max();
        // Of a store that has other backups only, nobody can say since when it is owed scheduled ones.
        let overdue = schedule.overdue(last, None, now, self.schedule.overdue_after());
        Ok(overdue.map(|overdue| {
            let last = overdue.last.map_or_else(|| "none".to_owned(), moment);
            format!(
                "OVERDUE: the backup of {} was not made; the last scheduled one is of {last}",
                moment(overdue.slot)
            )
        }))
    }
}

/// What the second store has, by key; `None`: there is none, or it is what is listed. One that does not answer keeps nobody
/// from the list.
async fn copies(
    vault: &Vault,
    which: Which,
) -> Option<Result<BTreeMap<ObjectKey, u64>, VaultError>> {
    if vault.second.is_none() || which == Which::Second {
        return None;
    }
    let copies = vault.copies().await;
    if let Err(error) = &copies {
        let reason = explain(error);
        tracing::warn!(reason, "Nobody can say which backups have a second copy");
    }
    Some(copies)
}

/// One word for a backup's second copy.
fn copied(
    listed: &Listed,
    copies: Option<&Result<BTreeMap<ObjectKey, u64>, VaultError>>,
) -> Option<&'static str> {
    let summary = listed.summary.as_ref()?;
    let Ok(copies) = copies? else {
        return Some("unknown");
    };
    let key = ObjectKey::parse(&listed.key).ok()?;
    let is_there = copies.get(&key) == Some(&summary.sealed_bytes);
    Some(if is_there { "copied" } else { "none" })
}

fn complete(listed: &[Listed]) -> impl Iterator<Item = &Summary> {
    let complete = listed.iter().filter(|listed| listed.state == "complete");
    complete.filter_map(|listed| listed.summary.as_ref())
}

/// What looks wrong and was not accepted. Marks are asked for only where something does.
async fn strange(vault: &Vault, listed: &[Listed]) -> anyhow::Result<BTreeMap<Uid, String>> {
    let measured: Vec<Measured> = complete(listed).map(Measured::from).collect();
    if suspicious(&measured, &BTreeSet::new()).is_empty() {
        return Ok(BTreeMap::new());
    }
    Ok(suspicious(&measured, &vault.marks().await?.accepted))
}
