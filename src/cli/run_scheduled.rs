//! `pgseal run-scheduled`.

use std::collections::BTreeMap;
use std::sync::Arc;

use clap::Args;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::backup::copy_if_wanted;
use super::drill::{Trial, Turn, carry_out, turn_by_catalog, turn_by_store, verdict};
use super::exit::{Left, OneCopy};
use super::output::moment;
use super::service::{Service, catalog_if_there, drills, timetables};
use super::tell::Teller;
use super::{Context, TargetArgs};
use crate::backup::{self, BackupRequest, Stages};
use crate::catalog::{Catalog, DrillSlot};
use crate::config::{self, ConfigError, Due, NotifyArgs, QueueArgs, ScheduleArgs, Targets};
use crate::dispatch::{Asked, DrillAsked, DrillTimetable, Drills, drill_of_command, scheduled};
use crate::model::event::{EventKind, Facts};
use crate::model::explanation::explain;
use crate::model::ids::BackupId;
use crate::model::kind::BackupKind;
use crate::model::manifest::Manifest;
use crate::model::object_key::ObjectKey;
use crate::model::summary::Summary;
use crate::model::target::TargetName;
use crate::pg::inspect::Depth;
use crate::progress::Progress;
use crate::queue::rq::names::JobId;
use crate::retention::name;
use crate::vault::{Limits, Selector, Vault};

const AFTER_HELP: &str = "\
Examples, for a platform with a timer of its own:
  pgseal run-scheduled; pgseal prune           backs up if the last slot of BACKUP_SCHEDULE has no backup yet; watch both exit codes
  pgseal run-scheduled --target shop           that target alone; else all of them, each by its own schedule
  pgseal run-scheduled --enqueue               asks the workers instead; needs REDIS_URL and a catalog

It can be called as often as you like, each slot gets one backup; what was missed is made up for once, a second copy each time. Without BACKUP_SCHEDULE every \
call makes a backup. With BACKUP_DRILL_SCHEDULE it makes the drill that is due, too. Where pgseal worker has the schedules, it needs \
no timer.

Exit codes: 0 the slot has its backup, or it is asked for or waits for its target · 7 it has its backup, and that has no second copy · \
others as of pgseal backup and pgseal drill, for the first of several that failed";

/// The label that says which slot a backup was made for.
const SLOT_LABEL: &str = "slot";
/// A backup of another machine, whose clock is a little ahead.
const CLOCKS_DIFFER_MAX: time::Duration = time::Duration::minutes(1);

/// Make the backup that is due by now, if nobody did
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(super) struct RunScheduledArgs {
    /// Ask the workers for it, and do not wait
    #[arg(long)]
    enqueue: bool,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    schedule: ScheduleArgs,
    #[command(flatten)]
    queue: QueueArgs,
    #[command(flatten)]
    notify: NotifyArgs,
}

#[derive(Serialize)]
struct Ran {
    target: String,
    /// `backup` or `drill`.
    what: &'static str,
    #[serde(with = "time::serde::rfc3339::option")]
    slot: Option<OffsetDateTime>,
    /// `made`, `was made`, `asked for`, `was asked for`, `waits`, `nothing due`, `no backup`, `over budget`, `failed`.
    outcome: &'static str,
    name: Option<String>,
    backup_id: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verdict: Option<&'static str>,
    /// Of its second copy: `confirmed` or `failed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    copy: Option<&'static str>,
    #[serde(skip)]
    not_copied: Option<OneCopy>,
}

impl RunScheduledArgs {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<()> {
        context.settings.require_named_store()?;
        let targets = context.settings.targets()?;
        let names = match &self.target.target {
            Some(target) => {
                targets.require(target)?;
                vec![target.clone()]
            }
            None => targets.names(),
        };
        let mut first_error = None;
        let ran = if self.enqueue {
            self.ask(&targets, &names, context).await?
        } else {
            self.make_all(&targets, &names, context, &mut first_error)
                .await?
        };
        let texts = || ran.iter().map(text).collect::<Vec<_>>().join("\n");
        match ran.as_slice() {
            // What failed alone is an error and no result.
            [only] if only.outcome == "failed" => {}
            [only] => context.output.print(only, texts)?,
            several => context.output.print(&several, texts)?,
        }
        let not_copied = ran.into_iter().find_map(|ran| ran.not_copied);
        match first_error.or_else(|| not_copied.map(Into::into)) {
            None => Ok(()),
            Some(error) => Err(error),
        }
    }

    /// The work itself, one after the other: that one failed is no reason to leave the others out.
    async fn make_all(
        &self,
        targets: &Targets,
        names: &[TargetName],
        context: &Context,
        first_error: &mut Option<anyhow::Error>,
    ) -> anyhow::Result<Vec<Ran>> {
        let drills = drills(targets, &self.schedule)?;
        let is_due = |one: &&DrillTimetable| {
            one.schedule.is_some() && names.iter().any(|name| name.as_str() == one.target)
        };
        let due: Vec<&DrillTimetable> = drills.timetables.iter().filter(is_due).collect();
        if !due.is_empty() && config::drill_server_if_named()?.is_none() {
            return Err(ConfigError::DrillsWithoutServer.into());
        }
        let stages = context.settings.stages(context.clock).await?;
        let (mut ran, mut is_left) = (Vec::new(), false);
        let mut keep = |ran: &mut Vec<Ran>, of: Ran, done: anyhow::Result<Ran>| match done {
            Ok(done) => ran.push(done),
            Err(error) => {
                if first_error.is_some() {
                    tracing::error!(
                        target = of.target,
                        reason = explain(error.as_ref()),
                        "{} failed",
                        of.what
                    );
                }
                first_error.get_or_insert(error);
                ran.push(of);
            }
        };
        for name in names {
            if context.cancel.is_cancelled() {
                is_left = true;
                break;
            }
            let schedule = targets.schedule(name, &self.schedule);
            let due = match schedule.due()? {
                Due::Never => continue,
                Due::Unsaid => None,
                Due::By(schedule) => Some(schedule.last_slot((context.clock)())),
            };
            let slot = due.flatten();
            let made = Box::pin(self.make(targets, name, slot, &stages, context)).await;
            keep(&mut ran, Ran::new("backup", name, slot, "failed"), made);
        }
        for timetable in due {
            if context.cancel.is_cancelled() {
                is_left = true;
                break;
            }
            let Ok(name) = TargetName::parse(&timetable.target) else {
                continue;
            };
            let made = Box::pin(self.drill(&name, timetable, &drills, &stages, context)).await;
            keep(&mut ran, Ran::new("drill", &name, None, "failed"), made);
        }
        if is_left {
            first_error.get_or_insert_with(|| Left.into());
        }
        Ok(ran)
    }

    /// One target's backup, on the store alone.
    async fn make(
        &self,
        targets: &Targets,
        target: &TargetName,
        slot: Option<OffsetDateTime>,
        stages: &Stages,
        context: &Context,
    ) -> anyhow::Result<Ran> {
        let ran = |outcome| Ran::new("backup", target, slot, outcome);
        let mut stages = stages.clone();
        stages.vault = stages.vault.of_target(target)?;
        if let Some(slot) = slot {
            let found = made_for(&stages.vault, target, slot, (context.clock)()).await?;
            if let Some(found) = found {
                return copied_later(&stages.vault, found, ran("was made"), context).await;
            }
        }
        let label =
            slot.and_then(|slot| Some((SLOT_LABEL.to_owned(), slot.format(&Rfc3339).ok()?)));
        let request = BackupRequest {
            connection: targets.connection_of(target)?,
            target: target.to_string(),
            kind: BackupKind::Scheduled,
            labels: BTreeMap::from_iter(label),
            exclude_table_data: Vec::new(),
            requested: None,
        };
        let manifest = self.told(&stages, &request, target, context).await?;
        let (name, key) = (&manifest.name, &manifest.object_key);
        let (copy, not_copied) = copy_if_wanted(&stages.vault, name, key, context).await;
        if let Some(not_copied) = &not_copied {
            let failed = Facts {
                error: Some(explain(not_copied)),
                ..Facts::of_manifest(&manifest)
            };
            let teller = Teller::of(&self.notify, target, context);
            teller.tell(EventKind::CopyFailed, failed).await;
        }
        Ok(Ran {
            copy,
            not_copied,
            ..ran("made").named(manifest.name)
        })
    }

    /// Makes a backup, and tells that it begins and what came of it.
    async fn told(
        &self,
        stages: &Stages,
        request: &BackupRequest,
        target: &TargetName,
        context: &Context,
    ) -> anyhow::Result<Manifest> {
        let teller = Teller::of(&self.notify, target, context);
        let known = Facts {
            database: Some(request.connection.database().to_owned()),
            backup_kind: Some(request.kind.as_str().to_owned()),
            ..Facts::default()
        };
        let progress = Arc::new(Progress::default());
        let making = Box::pin(backup::run(stages, request, &progress, &context.cancel));
        let made = tokio::select! {
            biased;
            made = context.progress.show(&progress, making) => made,
            never = teller.tell_on(EventKind::BackupStarted, &known) => never,
        };
        match made {
            Ok(manifest) => {
                let done = Facts::of_manifest(&manifest);
                teller.tell(EventKind::BackupCompleted, done).await;
                Ok(manifest)
            }
            Err(error) => {
                let failed = Facts {
                    stage: Some(progress.read().stage).filter(|stage| !stage.is_empty()),
                    error: Some(explain(&error)),
                    ..known
                };
                teller.tell(EventKind::BackupFailed, failed).await;
                Err(error.into())
            }
        }
    }

    /// One target's drill: by the catalog, where there is one, else by what the store says.
    async fn drill(
        &self,
        target: &TargetName,
        timetable: &DrillTimetable,
        drills: &Drills,
        stages: &Stages,
        context: &Context,
    ) -> anyhow::Result<Ran> {
        let server = config::drill_server(None)?;
        let job = drill_of_command();
        let catalog = catalog_if_there().await?;
        let (slot, turn) = if let Some(catalog) = &catalog {
            slot_by_catalog(catalog, target, timetable, drills, &job).await?
        } else {
            let now = (context.clock)();
            slot_by_store(&stages.vault, target, timetable, drills, now).await?
        };
        let ran = |outcome| Ran::new("drill", target, slot, outcome);
        let key = match turn {
            Turn::Of(key) => key,
            Turn::NoBackup => return Ok(ran("no backup")),
            Turn::TooDear { .. } => return Ok(ran("over budget")),
            Turn::Settled if slot.is_none() => return Ok(ran("nothing due")),
            Turn::Settled => return Ok(ran("was made")),
        };
        let trial = Trial {
            found: stages.vault.find_either(&Selector::Key(key)).await?,
            server,
            depth: Depth::Number,
            limits: Limits::default(),
            ledger: catalog.map(|catalog| (catalog, job)),
        };
        let progress = Arc::new(Progress::default());
        let drilled = carry_out(trial, stages, &self.notify, &progress, context).await?;
        verdict(&drilled)?;
        Ok(Ran {
            verdict: Some(drilled.verdict.as_str()),
            ..ran("made").named(drilled.backup)
        })
    }

    async fn ask(
        &self,
        targets: &Targets,
        names: &[TargetName],
        context: &Context,
    ) -> anyhow::Result<Vec<Ran>> {
        let service = Service::open(&self.queue).await?;
        let (dispatch, now) = (service.dispatch, (context.clock)());
        let timetables = timetables(targets, &self.schedule)?;
        let mut ran = Vec::new();
        for name in names {
            let timetable = timetables.iter().find(|one| one.target == name.as_str());
            let asked = |slot, outcome| Ran::new("backup", name, slot, outcome);
            let Some(timetable) = timetable else {
                if matches!(targets.schedule(name, &self.schedule).due()?, Due::Unsaid) {
                    let (row, _queued) = dispatch.backup(scheduled(name.as_str()), now).await?;
                    ran.push(asked(None, "asked for").of_row(row.id));
                }
                continue;
            };
            ran.push(match dispatch.scheduled(timetable, now).await? {
                Asked::Nothing => asked(None, "nothing due"),
                Asked::Already(slot, id) => asked(Some(slot), "was asked for").of_row(id),
                Asked::Now(slot, id) => asked(Some(slot), "asked for").of_row(id),
                Asked::Waits(slot, _) => asked(Some(slot), "waits"),
            });
        }
        let drills = drills(targets, &self.schedule)?;
        for timetable in drills
            .timetables
            .iter()
            .filter(|one| one.schedule.is_some())
        {
            let Some(name) = names.iter().find(|name| name.as_str() == timetable.target) else {
                continue;
            };
            let asked = |slot, outcome| Ran::new("drill", name, slot, outcome);
            ran.push(
                match dispatch.scheduled_drill(timetable, &drills, now).await? {
                    DrillAsked::Nothing => asked(None, "nothing due"),
                    DrillAsked::Now(slot, id) => asked(Some(slot), "asked for").of_row(id),
                    DrillAsked::NoBackup => asked(None, "no backup"),
                    DrillAsked::TooDear { .. } => asked(None, "over budget"),
                },
            );
        }
        Ok(ran)
    }
}

/// The slot that is due by the catalog's clock, and whose turn it is.
async fn slot_by_catalog(
    catalog: &Catalog,
    target: &TargetName,
    timetable: &DrillTimetable,
    drills: &Drills,
    job: &JobId,
) -> anyhow::Result<(Option<OffsetDateTime>, Turn)> {
    let Some(slot) = timetable.slot(catalog).await? else {
        return Ok((None, Turn::Settled));
    };
    let place = DrillSlot {
        schedule: &timetable.name(),
        at: slot,
    };
    let targets = [target.clone()];
    let turn = turn_by_catalog(catalog, &targets, drills, Some(place), job).await?;
    Ok((Some(slot), turn))
}

/// Without a catalog a slot has its drill, when some backup was tried since.
async fn slot_by_store(
    vault: &Vault,
    target: &TargetName,
    timetable: &DrillTimetable,
    drills: &Drills,
    now: OffsetDateTime,
) -> anyhow::Result<(Option<OffsetDateTime>, Turn)> {
    let schedule = timetable.schedule.as_ref();
    let Some(slot) = schedule.and_then(|schedule| schedule.last_slot(now)) else {
        return Ok((None, Turn::Settled));
    };
    let listed = vault
        .of_target(target)?
        .list_briefly(&config::list_cache())
        .await?;
    let is_its = |one: &&crate::vault::Listed| {
        let summary = one.summary.as_ref();
        summary.is_some_and(|summary| summary.target == target.as_str())
    };
    let mut proofs = listed
        .iter()
        .filter(is_its)
        .filter_map(|one| one.proof.as_ref());
    if proofs.any(|proof| proof.at >= slot && proof.at <= now + CLOCKS_DIFFER_MAX) {
        return Ok((Some(slot), Turn::Settled));
    }
    let targets = [target.clone()];
    Ok((Some(slot), turn_by_store(vault, &targets, drills).await?))
}

impl Ran {
    fn new(
        what: &'static str,
        target: &TargetName,
        slot: Option<OffsetDateTime>,
        outcome: &'static str,
    ) -> Self {
        Self {
            target: target.to_string(),
            what,
            slot,
            outcome,
            name: None,
            backup_id: None,
            verdict: None,
            copy: None,
            not_copied: None,
        }
    }

    fn of_row(self, id: BackupId) -> Self {
        Self {
            backup_id: Some(id.get()),
            ..self
        }
    }

    fn named(self, name: String) -> Self {
        Self {
            name: Some(name),
            ..self
        }
    }
}

/// A slot that has its backup: one that has no second copy yet gets it now. That it failed was told when it was made.
async fn copied_later(
    vault: &Vault,
    found: Summary,
    ran: Ran,
    context: &Context,
) -> anyhow::Result<Ran> {
    let ran = ran.named(name(&found.object_key).to_owned());
    let key = ObjectKey::parse(&found.object_key)?;
    if vault.is_copied(&key, found.sealed_bytes).await != Some(false) {
        return Ok(ran);
    }
    let name = ran.name.clone().unwrap_or_default();
    let (copy, not_copied) = copy_if_wanted(vault, &name, &found.object_key, context).await;
    Ok(Ran {
        copy,
        not_copied,
        ..ran
    })
}

/// The scheduled backup that was made for a slot. One of a clock that was ahead is none: it would stand for
/// every slot until then.
async fn made_for(
    vault: &Vault,
    target: &TargetName,
    slot: OffsetDateTime,
    now: OffsetDateTime,
) -> anyhow::Result<Option<Summary>> {
    let listed = vault.list_briefly(&config::list_cache()).await?;
    let complete = listed
        .into_iter()
        .filter(|listed| listed.state == "complete");
    let mut summaries = complete.filter_map(|listed| listed.summary);
    let found = summaries.find(|summary| {
        let is_for_it = match summary.labels.get(SLOT_LABEL) {
            Some(label) => OffsetDateTime::parse(label, &Rfc3339).is_ok_and(|label| label == slot),
            None => summary.started_at >= slot && summary.started_at <= now + CLOCKS_DIFFER_MAX,
        };
        let is_its = summary.target == target.as_str();
        summary.kind == BackupKind::Scheduled && is_its && is_for_it
    });
    Ok(found)
}

fn text(ran: &Ran) -> String {
    let target = TargetName::parse(&ran.target).unwrap_or_default();
    let of_target = if target.is_default() {
        String::new()
    } else {
        format!(" of {target}")
    };
    let of = ran
        .slot
        .map_or_else(String::new, |slot| format!(" of {}", moment(slot)));
    let (name, id) = (
        ran.name.as_deref().unwrap_or("?"),
        ran.backup_id.unwrap_or(0),
    );
    if ran.what == "drill" {
        let verdict = ran.verdict.unwrap_or_default();
        return match ran.outcome {
            "made" => format!("Backup {name} is {verdict}; it is the drill{of_target}{of}"),
            "was made" => format!("The drill{of_target}{of} was made already"),
            "asked for" => format!("The drill{of_target}{of} is asked for: backup {id}"),
            "no backup" => format!("The drill{of_target}{of} waits: there is no backup"),
            "over budget" => format!(
                "The drill{of_target}{of} waits: it would fetch more than BACKUP_DRILL_MONTHLY_BYTES has left this month"
            ),
            "failed" => format!("The drill{of_target}{of} FAILED"),
            _ => format!("No drill{of_target} is due"),
        };
    }
    match ran.outcome {
        "made" => format!("Backup {name} is complete; it is the one{of_target}{of}"),
        "was made" => format!("Backup {name} is the one{of_target}{of} already"),
        "was asked for" => format!("Backup {id}{of_target}{of} was asked for already"),
        "asked for" => format!("Backup {id}{of_target}{of} is asked for"),
        "waits" => format!("The backup{of_target}{of} waits: its target has another job"),
        "failed" => format!("The backup{of_target}{of} FAILED"),
        _ => format!("Nothing{of_target} is due yet"),
    }
}
