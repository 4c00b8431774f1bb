//! `pgseal restore`.

use std::sync::Arc;
use std::time::Instant;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::exit::{Left, ProblemsFound, UsageError};
use super::output::{Facts, StageSeconds, bytes, counted, stage_seconds, took};
use super::plan::PlanArgs;
use super::tell::Teller;
use super::{BackupSelection, Context, ForeignArgs};
use crate::backup::Stages;
use crate::config::{self, NotifyArgs, Settings};
use crate::model::connection::Connection;
use crate::model::event::{self, EventKind};
use crate::model::explanation::explain;
use crate::model::kept::KeptRecord;
use crate::model::target::TargetName;
use crate::progress::Progress;
use crate::restore::plan::{Way, Wishes};
use crate::restore::{self, Mode, RestoreRequest, Restored, Safety};
use crate::vault::Entry;

const AFTER_HELP: &str = "\
Examples:
  pgseal restore latest --to postgres://app@db.example/shop --plan              says what would happen
  pgseal restore latest --to postgres://app@db.example/shop --plan-id 1f0c-93ab-0000-7e21
  pgseal restore latest --to postgres://app@db.example/shop_copy --mode new
  pgseal restore latest --to postgres://app@db.example/shop --table public.orders
  pgseal restore latest --to postgres://app@db.example/shop --mode swap
  pgseal restore backup_manual_20260131_020000 --to postgres://app@db.example/shop --mode in-place

Before the target is touched, the whole backup was fetched, compared with its digests, decrypted, and read by pg_restore. \
A restore that fails leaves the target as it was. With swap, what was there is kept under another name, and pgseal rollback \
brings it back.";

/// Restore a backup into a database
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(super) struct RestoreArgs {
    #[command(flatten)]
    selection: BackupSelection,
    /// The database it goes to, as postgres://ROLE@HOST:5432/DATABASE, or a target's name
    #[arg(long, value_name = "DATABASE_URL")]
    to: String,
    /// How it goes there
    #[arg(long, value_enum, default_value_t = ModeArg::Auto)]
    mode: ModeArg,
    /// Do not back the target up before it is replaced
    #[arg(long)]
    no_safety_backup: bool,
    /// The name of the database that is replaced (TARGET/DATABASE where targets share it): --no-safety-backup wants it typed
    #[arg(long, value_name = "DATABASE", allow_hyphen_values = true)]
    confirm: Option<String>,
    #[command(flatten)]
    plan: PlanArgs,
    #[command(flatten)]
    foreign: ForeignArgs,
    #[command(flatten)]
    notify: NotifyArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ModeArg {
    /// Whichever fits: swap where role, slots and room allow it, else in-place; new where the database does not exist
    Auto,
    /// Create the database; refuse one that exists
    New,
    /// Make the database anew beside the one that is there, after a safety backup of that, and swap the two in a moment
    Swap,
    /// Replace the content of a database in one transaction, after a safety backup of it
    InPlace,
}

#[derive(Serialize)]
struct Report<'a> {
    backup: &'a str,
    database: &'a str,
    mode: &'static str,
    mode_reason: &'a str,
    plain_bytes: u64,
    tables_compared: Option<usize>,
    rows_compared: Option<u64>,
    safety_backup: Option<&'a str>,
    /// What was there before, and how it comes back.
    restore_id: Option<String>,
    kept_database: Option<String>,
    rollback: Option<String>,
    stages: Vec<StageSeconds>,
    warnings: &'a [String],
}

impl RestoreArgs {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let (named, to) = self.to(&context.settings)?;
        let target = named.clone().unwrap_or_default();
        let chosen = &self.plan.choices;
        let wishes = Wishes::of(self.way(), &chosen.choices()?);
        let plan_id = chosen.plan_id()?;
        let mut stages = context.settings.stages(context.clock).await?;
        let found = context
            .cancel
            .run_until_cancelled(self.selection.find(&stages.vault, &context.settings))
            .await;
        let found = found.ok_or(Left)?;
        stages.vault = stages.vault.of_target(&target)?;
        let limits = self.foreign.limits();
        if self.plan.plan {
            let progress = Arc::new(Progress::default());
            let planning = Box::pin(restore::planned(
                &stages, found?, &to, &wishes, limits, &progress,
            ));
            let planned = context.cancel.run_until_cancelled(planning);
            let planned = context.progress.show(&progress, planned).await;
            let plan = planned.ok_or(Left)??;
            context.output.print(&plan, || plan.text())?;
            return if plan.is_possible {
                Ok(())
            } else {
                Err(ProblemsFound(plan.obstacles.len() + plan.blockers.len()).into())
            };
        }
        if self.no_safety_backup && self.mode != ModeArg::New {
            let wanted = self.confirmed_by(&context.settings, &to)?;
            require_typed(self.confirm.as_deref(), &wanted)?;
        }
        let request = RestoreRequest {
            found: found?,
            to,
            target,
            mode: Mode::of(self.way()),
            safety: if self.no_safety_backup {
                Safety::Skip
            } else {
                Safety::Backup
            },
            limits,
            wishes,
            plan: plan_id,
            lock_wait: self.plan.lock_wait(),
        };
        // Whose backup it is, where it goes to no target.
        let concerned = named.or_else(|| match &request.found.entry {
            Entry::Complete(manifest) => TargetName::parse(&manifest.target).ok(),
            _ => None,
        });
        let teller = Teller::of(&self.notify, &concerned.unwrap_or_default(), context);
        self.carry_out(&stages, request, &teller, context).await
    }

    /// Restores, says what came of it, and tells who wants to hear of it.
    async fn carry_out(
        &self,
        stages: &Stages,
        request: RestoreRequest,
        teller: &Teller,
        context: &Context,
    ) -> anyhow::Result<()> {
        let known = event::Facts {
            database: Some(request.to.database().to_owned()),
            object_key: Some(request.found.entry.key().to_owned()),
            ..event::Facts::default()
        };
        let progress = &context.work;
        let started = Instant::now();
        let restoring = Box::pin(restore::run(stages, request, progress, &context.cancel));
        // Whoever is told of the beginning must not hold the restore up.
        let restored = tokio::select! {
            biased;
            restored = context.progress.show(progress, restoring) => restored,
            never = teller.tell_on(EventKind::RestoreStarted, &known) => never,
        };
        let known = event::Facts {
            seconds: Some(started.elapsed().as_secs_f64()),
            ..known
        };
        let restored = match restored {
            Ok(restored) => restored,
            Err(error) => {
                let failed = event::Facts {
                    stage: Some(progress.read().stage).filter(|stage| !stage.is_empty()),
                    error: Some(explain(&error)),
                    ..known
                };
                teller.tell(EventKind::RestoreFailed, failed).await;
                return Err(error.into());
            }
        };
        let printed = context
            .output
            .print(&Self::report(&restored, progress), || {
                text(&restored, progress)
            });
        let done = event::Facts {
            plain_bytes: Some(restored.plain_bytes),
            tables: restored.compared.map(|(tables, _)| tables as u64),
            rows: restored.compared.map(|(_, rows)| rows),
            warnings: Some(restored.warnings.len() as u64),
            ..known
        };
        teller.tell(EventKind::RestoreCompleted, done).await;
        printed
    }

    /// Where it goes, and which target that is, if it is one. No URL is a target's name: it has a colon.
    fn to(&self, settings: &Settings) -> anyhow::Result<(Option<TargetName>, Connection)> {
        if let Ok(target) = TargetName::parse(&self.to) {
            let to = settings.targets()?.connection(&target)?;
            return Ok((Some(target), to));
        }
        let to = config::connection(Some(&self.to), "--to")?;
        // What is wrong with the targets keeps nobody from a restore into another place.
        let target = settings.targets().ok();
        Ok((target.and_then(|targets| targets.that_is(&to)), to))
    }

    fn confirmed_by(&self, settings: &Settings, to: &Connection) -> anyhow::Result<String> {
        Ok(match TargetName::parse(&self.to) {
            Ok(target) => settings.targets()?.confirmed_by(&target)?,
            Err(_) => to.database().to_owned(),
        })
    }

    const fn way(&self) -> Way {
        match self.mode {
            ModeArg::Auto => Way::Auto,
            ModeArg::New => Way::New,
            ModeArg::Swap => Way::Swap,
            ModeArg::InPlace => Way::InPlace,
        }
    }

    fn report<'a>(restored: &'a Restored, progress: &Progress) -> Report<'a> {
        Report {
            backup: &restored.backup,
            database: &restored.database,
            mode: Way::from(restored.mode).as_str(),
            mode_reason: &restored.mode_reason,
            plain_bytes: restored.plain_bytes,
            tables_compared: restored.compared.map(|(tables, _)| tables),
            rows_compared: restored.compared.map(|(_, rows)| rows),
            safety_backup: restored.safety_backup.as_deref(),
            restore_id: restored.kept.as_ref().map(|kept| kept.id.to_string()),
            kept_database: restored.kept.as_ref().map(KeptRecord::name),
            rollback: restored.kept.as_ref().map(rollback_command),
            stages: stage_seconds(progress),
            warnings: &restored.warnings,
        }
    }
}

/// Without a safety backup a slip of the hand is for good, so that the name is typed once more.
pub(super) fn require_typed(typed: Option<&str>, wanted: &str) -> Result<(), UsageError> {
    let said = match typed {
        Some(typed) if typed == wanted => return Ok(()),
        Some(typed) => format!("--confirm says {typed}, and this replaces {wanted}"),
        None => format!("--no-safety-backup replaces {wanted} with nothing to go back to"),
    };
    Err(UsageError(format!(
        "{said}\nhint: leave --no-safety-backup out, or say --confirm {wanted}"
    )))
}

fn text(restored: &Restored, progress: &Progress) -> String {
    let mut facts = Facts::default();
    let mode = Way::from(restored.mode).as_str();
    facts.add("mode", Some(format!("{mode} ({})", restored.mode_reason)));
    facts.add("loaded", Some(bytes(restored.plain_bytes)));
    let compared = restored.compared.map_or_else(
        || "no: the backup has no row counts".to_owned(),
        |(tables, rows)| {
            format!(
                "{}, {}, all equal",
                counted(tables as u64, "table"),
                counted(rows, "row")
            )
        },
    );
    facts.add("compared", Some(compared));
    facts.add("safety backup", restored.safety_backup.as_deref());
    facts.add("kept as", restored.kept.as_ref().map(KeptRecord::name));
    facts.add("to undo it", restored.kept.as_ref().map(rollback_command));
    facts.add("took", Some(took(progress)));
    for warning in &restored.warnings {
        facts.add("warning", Some(warning));
    }
    format!(
        "Restore of {} into {} is complete\n{}",
        restored.backup,
        restored.database,
        facts.text()
    )
}

/// The command that undoes a swap. The URL is not repeated: it may have held a password.
fn rollback_command(kept: &KeptRecord) -> String {
    format!("pgseal rollback --to DATABASE_URL --id {}", kept.id)
}
