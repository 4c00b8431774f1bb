//! `pgseal list`.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use time::OffsetDateTime;

use super::output::{Record, counted, moment, table};
use super::{Context, TargetArgs};
use crate::config::{self, ScheduleArgs};
use crate::dispatch::DrillTimetable;
use crate::model::explanation::explain;
use crate::model::kind::BackupKind;
use crate::model::object_key::ObjectKey;
use crate::model::proof::Verdict;
use crate::model::target::TargetName;
use crate::vault::{Listed, Vault, VaultError, Which, complete};

const AFTER_HELP: &str = "\
States: complete (can be restored) · foreign (made by hand or another tool, without a manifest; can be verified, fetched \
and restored) · unfinished (never completed; cannot) · lost (the dump is gone) · unreadable (no passphrase opens its \
manifest, or it was changed) · SUSPICIOUS (complete, and far smaller than the one before: pgseal accept)

With a second store (BACKUP_COPY_STORE), a line below the table names each backup that has no copy there, and one above it says what \
only the second one has; where the first store cannot be reached, the second one is listed. pgseal copy --check reads both.

PROOF is the verdict of the last pgseal drill, and its age. With BACKUP_SCHEDULE it says whether the backup that was due \
last is overdue, with BACKUP_DRILL_SCHEDULE or BACKUP_PROOF_MAX_AGE_DAYS whether a proof is.";

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
        let targets = context.settings.targets()?;
        let names = match &self.target.target {
            Some(target) => {
                targets.require(target)?;
                vault = vault.of_target(target)?;
                vec![target.clone()]
            }
            None => targets.names(),
        };
        let (listed, which) = vault.list_either(&config::list_cache()).await?;
        let copies = copies(&vault, which).await;
        for said in only_in_second(&listed, copies.as_ref(), &vault) {
            tracing::warn!("{said}");
        }
        let vault = vault.with(which);
        let now = (context.clock)();
        let strange = vault.strange(&listed).await?;
        let records: Vec<Record> = listed
            .iter()
            .map(|listed| {
                let record = Record::of(listed).suspicious(&strange);
                record.copied(copied(listed, copies.as_ref()))
            })
            .collect();
        for name in &names {
            let schedule = targets.schedule(name, &self.schedule);
            let of = if names.len() > 1 {
                format!(" of {name}")
            } else {
                String::new()
            };
            let late = late(&schedule, name, &listed, now)?;
            let unproved = unproved(&schedule, name, &listed, now)?;
            for said in late.into_iter().chain(unproved) {
                // Not among the results: programs that read them get a list.
                tracing::warn!("OVERDUE{of}: {said}");
            }
        }
        context.output.print(&records, || {
            if records.is_empty() {
                return format!(
                    "No backup yet in {} under {}",
                    vault.store.describe(),
                    vault.layout.listing_prefix()
                );
            }
            text(&records, now)
        })
    }
}

/// The table, and below it what has no room in it.
fn text(records: &[Record], now: OffsetDateTime) -> String {
    let targets: BTreeSet<&str> = records.iter().filter_map(Record::target).collect();
    // Two targets may well have backups of one second, and those have the same name.
    let mut text = if targets.len() > 1 {
        let header = [
            "NAME", "TARGET", "STATE", "STARTED", "DATABASE", "TABLES", "ROWS", "STORED", "PROOF",
        ];
        let cells = |record: &Record| {
            let [name, rest @ ..] = record.cells(now);
            let target = record.target().unwrap_or("-").to_owned();
            let [state, started, database, tables, rows, stored, proof] = rest;
            [
                name, target, state, started, database, tables, rows, stored, proof,
            ]
        };
        table(header, records.iter().map(cells), 5)
    } else {
        let header = [
            "NAME", "STATE", "STARTED", "DATABASE", "TABLES", "ROWS", "STORED", "PROOF",
        ];
        table(header, records.iter().map(|record| record.cells(now)), 4)
    };
    for record in records {
        let name = match record.target() {
            Some(target) if targets.len() > 1 => format!("{} of {target}", record.name),
            _ => record.name.clone(),
        };
        if let Some(said) = record.copy_is_missing() {
            text += &format!("\n{name}: {said}");
        }
        if let Some(tables) = record.rows_left_out() {
            text += &format!("\n{name}: without the rows of {tables}");
        }
        if let Some(reason) = record.reason.as_ref().or(record.suspicious.as_ref()) {
            text += &format!("\n{name}: {reason}");
        }
    }
    text
}

/// What to say where the backup that was due is not there.
fn late(
    schedule: &ScheduleArgs,
    target: &TargetName,
    listed: &[Listed],
    now: OffsetDateTime,
) -> anyhow::Result<Option<String>> {
    let Some(due) = schedule.due()?.schedule() else {
        return Ok(None);
    };
    let complete = complete(listed).filter(|one| one.target == target.as_str());
    let complete = complete.filter(|one| one.kind == BackupKind::Scheduled);
    let last = complete.map(|one| one.started_at).max();
    // Of a store that has other backups only, nobody can say since when it is owed scheduled ones.
    let overdue = due.overdue(last, None, now, schedule.overdue_after());
    Ok(overdue.map(|overdue| {
        let last = overdue.last.map_or_else(|| "none".to_owned(), moment);
        format!(
            "the backup of {} was not made; the last scheduled one is of {last}",
            moment(overdue.slot)
        )
    }))
}

/// What to say where no drill proved anything for too long.
fn unproved(
    schedule: &ScheduleArgs,
    target: &TargetName,
    listed: &[Listed],
    now: OffsetDateTime,
) -> anyhow::Result<Option<String>> {
    let timetable = DrillTimetable {
        target: target.to_string(),
        schedule: schedule.drills_due()?.schedule(),
        proof_age_max: schedule.proof_age_max(),
        patience: schedule.overdue_after(),
    };
    let is_its = |one: &&Listed| {
        let summary = one.summary.as_ref();
        summary.is_some_and(|summary| summary.target == target.as_str())
    };
    let proofs = listed
        .iter()
        .filter(is_its)
        .filter_map(|one| one.proof.as_ref());
    let proven = proofs.filter(|proof| proof.verdict == Verdict::Proven);
    // Where nothing was ever proved, nobody can say here since when something is owed.
    let last = proven.map(|proof| proof.at).max();
    let due = last.and_then(|last| timetable.proof_due(last));
    Ok(due
        .zip(last)
        .filter(|(due, _)| *due < now)
        .map(|(due, last)| {
            format!(
                "no drill proved a backup by {}; the last proof is of {}",
                moment(due),
                moment(last)
            )
        }))
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

/// What to say where the second store has backups that the first does not have whole.
fn only_in_second(
    listed: &[Listed],
    copies: Option<&Result<BTreeMap<ObjectKey, u64>, VaultError>>,
    vault: &Vault,
) -> Vec<String> {
    let (Some(Ok(copies)), Some(second)) = (copies, &vault.second) else {
        return Vec::new();
    };
    let place = second.describe();
    let states: BTreeMap<&str, &str> = listed
        .iter()
        .map(|one| (one.key.as_str(), one.state))
        .collect();
    let state = |key: &&ObjectKey| states.get(key.as_str()).copied();
    let missing = |key: &&ObjectKey| !matches!(state(key), Some("complete" | "unreadable"));
    let missing: Vec<&ObjectKey> = copies.keys().filter(missing).collect();
    let unreadable = copies.keys().filter(|key| state(key) == Some("unreadable"));
    let unreadable: Vec<&ObjectKey> = unreadable.collect();
    let mut said = Vec::new();
    // Their keys begin with their dates, but for the targets' folders.
    if let Some(newest) = missing.last() {
        let name = newest.backup_name().unwrap_or(newest.as_str());
        said.push(format!(
            "only the second store, {place}, has {}, such as {name}: restores take it from there, and pgseal copy --back --all mends \
             the first store",
            counted(missing.len() as u64, "backup")
        ));
    }
    // What no passphrase opens here is opened there neither; what was damaged here may be.
    if let Some(newest) = unreadable.last() {
        said.push(format!(
            "the second store, {place}, has copies of {} that cannot be read in the first, such as {newest}: where that is not for \
             the passphrase, pgseal copy --back {newest} mends it",
            counted(unreadable.len() as u64, "backup")
        ));
    }
    said
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
