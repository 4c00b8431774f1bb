//! `pgseal drill`, and what other commands have in common with it.

use std::collections::BTreeMap;
use std::sync::Arc;

use clap::Args;
use serde::Serialize;

use super::exit::{Left, NotProven};
use super::output::{Facts, StageSeconds, bytes, counted, stage_seconds, took};
use super::service::{catalog_if_there, drills};
use super::tell::Teller;
use super::{BackupSelection, Context, ForeignArgs, TargetArgs};
use crate::backup::Stages;
use crate::catalog::{BegunDrill, Catalog, CatalogError, DrillChoice, DrillSlot};
use crate::config::{self, ConfigError, NotifyArgs, ScheduleArgs};
use crate::dispatch::{Drills, drill_of_command};
use crate::model::connection::Connection;
use crate::model::drill::{Choice, Drillable, next};
use crate::model::event::{self, EventKind};
use crate::model::explanation::explain;
use crate::model::ids::BackupId;
use crate::model::kind::BackupKind;
use crate::model::object_key::ObjectKey;
use crate::model::proof::Verdict;
use crate::model::target::TargetName;
use crate::pg::inspect::Depth;
use crate::progress::{FETCH, Progress};
use crate::queue::rq::names::JobId;
use crate::restore::{self, DrillRequest, Drilled};
use crate::vault::{Entry, Found, Limits, Selector, Vault};

const AFTER_HELP: &str = "\
Examples:
  pgseal drill latest --to postgres://drill@scratch.example/postgres
  pgseal drill latest --digests                compares contents too (backups made with BACKUP_ROW_COUNTS=digests)
  pgseal drill                                 the newest backup that no drill has tried, else in turn the one tried longest ago, \
within BACKUP_DRILL_MONTHLY_BYTES

It makes a database of its own on that server, restores into it, compares, and drops it. Roles that the server lacks are \
made without a login for as long as it takes. The verdict is put beside the backup, and pgseal list shows it:
  PROVEN        restored, every row count (and digest) is the recorded one
  FAILED        it cannot be restored, or something differs: exit code 4
  UNVERIFIABLE  this server cannot tell, for the reason that is given: exit code 5
Where there is a catalog, what it fetches counts there.";

/// Restore a backup for trial on another server, compare it with what was recorded, and drop it again
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(super) struct DrillArgs {
    /// A backup's name, the beginning of one, latest, or a whole object key [default: the one whose turn it is]
    #[arg(value_name = "BACKUP", conflicts_with = "next")]
    backup: Option<String>,
    /// The one whose turn it is, as BACKUP_DRILL_SCHEDULE would choose it
    #[arg(long)]
    next: bool,
    #[command(flatten)]
    target: TargetArgs,
    /// The server for it, as postgres://ROLE@HOST:5432/postgres [default: BACKUP_DRILL_DATABASE_URL]
    #[arg(long, value_name = "DATABASE_URL")]
    to: Option<String>,
    /// Compare the content of every table, not only its rows' number
    #[arg(long)]
    digests: bool,
    #[command(flatten)]
    foreign: ForeignArgs,
    #[command(flatten)]
    schedule: ScheduleArgs,
    #[command(flatten)]
    notify: NotifyArgs,
}

/// Which backup has its turn.
pub(super) enum Turn {
    /// This one.
    Of(ObjectKey),
    /// There is none.
    NoBackup,
    /// None fits into what the month has left.
    TooDear { bytes: u64, left: u64 },
    /// The slot has its drill.
    Settled,
}

/// A backup that is tried, and who is told.
pub(super) struct Trial {
    pub(super) found: Found,
    pub(super) server: Connection,
    pub(super) depth: Depth,
    pub(super) limits: Limits,
    /// Where it counts, and under which job's name.
    pub(super) ledger: Option<(Catalog, JobId)>,
}

#[derive(Serialize)]
struct Report<'a> {
    backup: &'a str,
    verdict: &'static str,
    reason: Option<&'a str>,
    seconds: f64,
    plain_bytes: u64,
    tables_compared: Option<usize>,
    rows_compared: Option<u64>,
    contents_compared: bool,
    server_version: Option<&'a str>,
    stages: Vec<StageSeconds>,
    warnings: &'a [String],
}

/// What is said where nothing was tried.
#[derive(Serialize)]
struct Untried {
    backup: Option<String>,
    verdict: Option<String>,
    outcome: &'static str,
    bytes: Option<u64>,
    bytes_left: Option<u64>,
}

impl DrillArgs {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let server = config::drill_server(self.to.as_deref())?;
        let stages = context.settings.stages(context.clock).await?;
        let job = drill_of_command();
        let (found, catalog) = if let Some(backup) = &self.backup {
            let selection = BackupSelection {
                backup: backup.clone(),
                target: self.target.clone(),
            };
            let found = context
                .cancel
                .run_until_cancelled(selection.find(&stages.vault, &context.settings))
                .await;
            let found = found.ok_or(Left)?;
            // What nobody chose for it is tried without a catalog as well.
            let catalog = catalog_if_there().await.unwrap_or_else(|error| {
                tracing::warn!(reason = explain(error.as_ref()), "The drill counts nowhere");
                None
            });
            (found?, catalog)
        } else {
            let catalog = catalog_if_there().await?;
            let turn = self.turn(&stages.vault, catalog.as_ref(), &job, context);
            match turn.await? {
                Turn::Of(key) => {
                    let found = stages.vault.find_either(&Selector::Key(key)).await?;
                    (found, catalog)
                }
                other => return print_untried(&other, context),
            }
        };
        let trial = Trial {
            found,
            server,
            depth: if self.digests {
                Depth::Content
            } else {
                Depth::Number
            },
            limits: self.foreign.limits(),
            ledger: catalog.map(|catalog| (catalog, job)),
        };
        let progress = Arc::new(Progress::default());
        let drilled = carry_out(trial, &stages, &self.notify, &progress, context).await?;
        context
            .output
            .print(&report(&drilled, &progress), || text(&drilled, &progress))?;
        verdict(&drilled)
    }

    async fn turn(
        &self,
        vault: &Vault,
        catalog: Option<&Catalog>,
        job: &JobId,
        context: &Context,
    ) -> anyhow::Result<Turn> {
        let targets = context.settings.targets()?;
        let named = self.target.target.as_ref();
        if let Some(target) = named {
            targets.require(target)?;
        }
        let names = named.map_or_else(|| targets.names(), |target| vec![target.clone()]);
        let drills = drills(&targets, &self.schedule)?;
        match catalog {
            Some(catalog) => turn_by_catalog(catalog, &names, &drills, None, job).await,
            None => turn_by_store(vault, &names, &drills).await,
        }
    }
}

/// Whether it is PROVEN, for the exit code.
pub(super) fn verdict(drilled: &Drilled) -> anyhow::Result<()> {
    match drilled.verdict {
        Verdict::Proven => Ok(()),
        verdict => Err(NotProven(verdict).into()),
    }
}

/// The choice of the schedule, among these targets' backups.
pub(super) async fn turn_by_catalog(
    catalog: &Catalog,
    targets: &[TargetName],
    drills: &Drills,
    slot: Option<DrillSlot<'_>>,
    job: &JobId,
) -> anyhow::Result<Turn> {
    let budget = drills.budget(catalog.now().await?);
    let targets: Vec<&str> = targets.iter().map(TargetName::as_str).collect();
    let chosen = catalog.choose_drill(&targets, budget, slot, Some(job.as_str()));
    Ok(match chosen.await? {
        DrillChoice::Backup(id) => {
            let row = catalog.backup(id).await?;
            let key = row.and_then(|row| row.object_key);
            let key = key.ok_or(CatalogError::NoSuchBackup(id))?;
            Turn::Of(ObjectKey::parse(&key)?)
        }
        DrillChoice::NoBackup => Turn::NoBackup,
        DrillChoice::TooDear { bytes, left, .. } => Turn::TooDear { bytes, left },
        DrillChoice::Settled => Turn::Settled,
    })
}

/// The same choice by what the store says alone. What was fetched nobody remembers then.
pub(super) async fn turn_by_store(
    vault: &Vault,
    targets: &[TargetName],
    drills: &Drills,
) -> anyhow::Result<Turn> {
    if drills.budget.is_some() {
        return Err(ConfigError::BudgetWithoutCatalog.into());
    }
    let mut backups: BTreeMap<bool, Vec<Drillable>> = BTreeMap::new();
    for target in targets {
        let listed = vault
            .of_target(target)?
            .list_briefly(&config::list_cache())
            .await?;
        for one in listed.iter().filter(|one| one.state == "complete") {
            let Some(summary) = &one.summary else {
                continue;
            };
            // The default target's folder has the other targets' in it.
            if summary.target != target.as_str() {
                continue;
            }
            let is_safety = summary.kind == BackupKind::PreRestore;
            backups.entry(is_safety).or_default().push(Drillable {
                key: one.key.clone(),
                made_at: summary.started_at,
                tried_at: one.proof.as_ref().map(|proof| proof.at),
                sealed_bytes: summary.sealed_bytes,
            });
        }
    }
    // Safety backups have their turn where there is nothing else.
    let backups = backups.into_values().next().unwrap_or_default();
    Ok(match next(&backups, None) {
        Choice::Newest(backup) | Choice::InTurn(backup) => Turn::Of(ObjectKey::parse(&backup.key)?),
        Choice::NoBackup => Turn::NoBackup,
        Choice::TooDear { bytes, left } => Turn::TooDear { bytes, left },
    })
}

/// Tries a backup; what it fetches counts before it is fetched, and the verdict is written down and told.
pub(super) async fn carry_out(
    trial: Trial,
    stages: &Stages,
    notify: &NotifyArgs,
    progress: &Arc<Progress>,
    context: &Context,
) -> anyhow::Result<Drilled> {
    let manifest = match &trial.found.entry {
        Entry::Complete(manifest) | Entry::Lost(manifest) => Some(manifest.clone()),
        _ => None,
    };
    let target = manifest.as_ref().map(|manifest| manifest.target.clone());
    let target = target.and_then(|target| TargetName::parse(&target).ok());
    let target = target.unwrap_or_default();
    let ledger = match &trial.ledger {
        Some((catalog, job)) => begin(catalog, trial.found.entry.key(), &target, job).await,
        None => None,
    };
    let request = DrillRequest {
        found: trial.found,
        server: trial.server,
        depth: trial.depth,
        limits: trial.limits,
    };
    let drilling = restore::drill(stages, request, progress, &context.cancel);
    let drilled = context.progress.show(progress, Box::pin(drilling)).await;
    let mut is_recorded = false;
    if let Some((catalog, id, drill)) = &ledger {
        let outcome = drilled
            .as_ref()
            .map_or("no verdict", |drilled| drilled.verdict.as_str());
        let ended = catalog
            .end_drill(*drill, outcome, progress.has_been_at(FETCH))
            .await;
        let tried = drilled.as_ref().ok().filter(|drilled| drilled.is_tried);
        let proof = tried.zip(manifest.as_ref());
        let recorded = match proof {
            Some((drilled, manifest)) => {
                let proof = drilled.proof(manifest.uid);
                catalog.record_proof(*id, &proof).await
            }
            None => Ok(false),
        };
        match (ended, recorded) {
            (Ok(()), Ok(recorded)) => is_recorded = recorded,
            (Err(error), _) | (_, Err(error)) => {
                tracing::warn!(
                    reason = explain(&error),
                    "The catalog was not told of the drill"
                );
            }
        }
    }
    let drilled = drilled?;
    // What is written into the catalog, its outbox tells.
    if drilled.verdict == Verdict::Failed && !is_recorded {
        let known = manifest.as_ref().map(|one| event::Facts::of_manifest(one));
        let facts = event::Facts {
            error: drilled.reason.clone(),
            object_key: Some(drilled.object_key.clone()),
            seconds: Some(drilled.took.as_secs_f64()),
            ..known.unwrap_or_default()
        };
        let teller = Teller::of(notify, &target, context);
        teller.tell(EventKind::ProofFailed, facts).await;
    }
    Ok(drilled)
}

/// Counts what a trial fetches, where the catalog knows the backup.
async fn begin(
    catalog: &Catalog,
    key: &str,
    target: &TargetName,
    job: &JobId,
) -> Option<(Catalog, BackupId, i64)> {
    let begun = async {
        let rows = catalog.retained(target.as_str(), &[key]).await?;
        let Some(row) = rows.iter().find(|row| row.object_key == key) else {
            return Ok(None);
        };
        // Somebody named it, or it was chosen within what the month has left: either way it may.
        match catalog
            .begin_drill(row.id, None, Some(job.as_str()))
            .await?
        {
            BegunDrill::Begun(drill) => Ok(Some((catalog.clone(), row.id, drill))),
            BegunDrill::TooDear { .. } => Ok(None),
        }
    };
    let begun: Result<_, CatalogError> = begun.await;
    begun.unwrap_or_else(|error| {
        tracing::warn!(reason = explain(&error), "The drill counts nowhere");
        None
    })
}

fn print_untried(turn: &Turn, context: &Context) -> anyhow::Result<()> {
    let (outcome, costs, said) = match turn {
        Turn::TooDear { bytes: dear, left } => (
            "over budget",
            Some((*dear, *left)),
            format!(
                "No drill: it would fetch {}, and BACKUP_DRILL_MONTHLY_BYTES has {} left this month",
                bytes(*dear),
                bytes(*left)
            ),
        ),
        _ => (
            "no backup",
            None,
            "No drill: there is no complete backup".to_owned(),
        ),
    };
    let untried = Untried {
        backup: None,
        verdict: None,
        outcome,
        bytes: costs.map(|(bytes, _)| bytes),
        bytes_left: costs.map(|(_, left)| left),
    };
    context.output.print(&untried, || said)
}
fn report<'a>(drilled: &'a Drilled, progress: &Progress) -> Report<'a> {
    Report {
        backup: &drilled.backup,
        verdict: drilled.verdict.as_str(),
        reason: drilled.reason.as_deref(),
        seconds: drilled.took.as_secs_f64(),
        plain_bytes: drilled.plain_bytes,
        tables_compared: drilled.compared.map(|(tables, _)| tables),
        rows_compared: drilled.compared.map(|(_, rows)| rows),
        contents_compared: drilled.digests && drilled.compared.is_some(),
        server_version: drilled.server.as_deref(),
        stages: stage_seconds(progress),
        warnings: &drilled.warnings,
    }
}

fn text(drilled: &Drilled, progress: &Progress) -> String {
    let mut facts = Facts::default();
    facts.add("because", drilled.reason.as_deref());
    let compared = drilled.compared.map(|(tables, rows)| {
        let what = if drilled.digests {
            "numbers and contents"
        } else {
            "numbers"
        };
        format!(
            "{}, {}, {what}",
            counted(tables as u64, "table"),
            counted(rows, "row")
        )
    });
    facts.add("compared", compared);
    if drilled.plain_bytes > 0 {
        facts.add("loaded", Some(bytes(drilled.plain_bytes)));
    }
    facts.add("server", drilled.server.as_deref());
    facts.add(
        "recovery takes",
        Some(format!("{:.1} s", drilled.took.as_secs_f64())),
    );
    facts.add("took", Some(took(progress)));
    for warning in &drilled.warnings {
        facts.add("warning", Some(warning));
    }
    format!(
        "Backup {} is {}\n{}",
        drilled.backup,
        drilled.verdict.as_str(),
        facts.text()
    )
}
