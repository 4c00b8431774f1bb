//! `pgseal run-scheduled`.

use std::collections::BTreeMap;
use std::sync::Arc;

use clap::Args;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Context;
use super::backup::copy_if_wanted;
use super::exit::OneCopy;
use super::output::moment;
use super::service::{Service, timetable};
use crate::backup::{self, BackupRequest};
use crate::config::{self, QueueArgs, ScheduleArgs};
use crate::dispatch::{Asked, scheduled};
use crate::model::ids::BackupId;
use crate::model::kind::BackupKind;
use crate::model::target::TARGET_DEFAULT;
use crate::progress::Progress;
use crate::retention::name;
use crate::vault::Vault;

const AFTER_HELP: &str = "\
Examples, for a platform with a timer of its own:
  pgseal run-scheduled && pgseal prune         backs up if the last slot of BACKUP_SCHEDULE has no backup yet
  pgseal run-scheduled --enqueue               asks the workers instead; needs REDIS_URL and a catalog

It can be called as often as you like, each slot gets one backup; what was missed is made up for once. Without BACKUP_SCHEDULE every \
call makes a backup. Where pgseal worker has BACKUP_SCHEDULE, it needs no timer.

Exit codes: 0 the slot has its backup, or it is asked for or waits for its target · 7 it has its backup, and that has no second copy · others as of pgseal backup";

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
    schedule: ScheduleArgs,
    #[command(flatten)]
    queue: QueueArgs,
}

#[derive(Serialize)]
struct Ran {
    #[serde(with = "time::serde::rfc3339::option")]
    slot: Option<OffsetDateTime>,
    /// `made`, `was made`, `asked for`, `was asked for`, `waits`, `nothing due`.
    outcome: &'static str,
    name: Option<String>,
    backup_id: Option<i64>,
    /// Of its second copy: `confirmed` or `failed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    copy: Option<&'static str>,
    #[serde(skip)]
    not_copied: Option<OneCopy>,
}

impl RunScheduledArgs {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<()> {
        context.settings.require_named_store()?;
        let ran = if self.enqueue {
            self.ask(context).await?
        } else {
            self.make(context).await?
        };
        context.output.print(&ran, || text(&ran))?;
        match ran.not_copied {
            None => Ok(()),
            Some(not_copied) => Err(not_copied.into()),
        }
    }

    /// The work itself, on the store alone.
    async fn make(&self, context: &Context) -> anyhow::Result<Ran> {
        let schedule = self.schedule.schedule()?;
        let stages = context.settings.stages(context.clock).await?;
        let slot = schedule.and_then(|schedule| schedule.last_slot((context.clock)()));
        if let Some(slot) = slot {
            if let Some(name) = made_for(&stages.vault, slot, (context.clock)()).await? {
                return Ok(Ran::new(Some(slot), "was made").named(name));
            }
        }
        let label =
            slot.and_then(|slot| Some((SLOT_LABEL.to_owned(), slot.format(&Rfc3339).ok()?)));
        let request = BackupRequest {
            connection: config::connection(None, "DATABASE_URL")?,
            target: TARGET_DEFAULT.to_owned(),
            kind: BackupKind::Scheduled,
            labels: BTreeMap::from_iter(label),
            exclude_table_data: Vec::new(),
            requested: None,
        };
        let progress = Arc::new(Progress::default());
        let made = backup::run(&stages, &request, &progress, &context.cancel);
        let manifest = context.progress.show(&progress, made).await?;
        let (copy, not_copied) = copy_if_wanted(&stages.vault, &manifest, context).await;
        Ok(Ran {
            copy,
            not_copied,
            ..Ran::new(slot, "made").named(manifest.name)
        })
    }

    async fn ask(&self, context: &Context) -> anyhow::Result<Ran> {
        let service = Service::open(&self.queue).await?;
        let (dispatch, now) = (service.dispatch, (context.clock)());
        let Some(timetable) = timetable(&self.schedule)? else {
            let (row, _queued) = dispatch.backup(scheduled(TARGET_DEFAULT), now).await?;
            return Ok(Ran::new(None, "asked for").of_row(row.id));
        };
        Ok(match dispatch.scheduled(&timetable, now).await? {
            Asked::Nothing => Ran::new(None, "nothing due"),
            Asked::Already(slot, id) => Ran::new(Some(slot), "was asked for").of_row(id),
            Asked::Now(slot, id) => Ran::new(Some(slot), "asked for").of_row(id),
            Asked::Waits(slot, _) => Ran::new(Some(slot), "waits"),
        })
    }
}

impl Ran {
    const fn new(slot: Option<OffsetDateTime>, outcome: &'static str) -> Self {
        Self {
            slot,
            outcome,
            name: None,
            backup_id: None,
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

/// The name of the scheduled backup that was made for a slot. One of a clock that was ahead is none: it would stand for
/// every slot until then.
async fn made_for(
    vault: &Vault,
    slot: OffsetDateTime,
    now: OffsetDateTime,
) -> anyhow::Result<Option<String>> {
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
        summary.kind == BackupKind::Scheduled && summary.target == TARGET_DEFAULT && is_for_it
    });
    Ok(found.map(|summary| name(&summary.object_key).to_owned()))
}

fn text(ran: &Ran) -> String {
    let of = ran
        .slot
        .map_or_else(String::new, |slot| format!(" of {}", moment(slot)));
    match (ran.outcome, &ran.name, ran.backup_id) {
        ("made", Some(name), _) => format!("Backup {name} is complete; it is the one{of}"),
        ("was made", Some(name), _) => format!("Backup {name} is the one{of} already"),
        ("was asked for", _, Some(id)) => format!("Backup {id}{of} was asked for already"),
        ("asked for", _, Some(id)) => format!("Backup {id}{of} is asked for"),
        ("waits", ..) => format!("The backup{of} waits: its target has another job"),
        _ => "Nothing is due yet".to_owned(),
    }
}
