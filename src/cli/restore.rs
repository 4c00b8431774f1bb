//! `pgseal restore`.

use std::sync::Arc;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::output::{Facts, StageSeconds, bytes, counted, stage_seconds, took};
use super::{BackupSelection, Context, ForeignArgs};
use crate::config::{self, Settings};
use crate::model::connection::Connection;
use crate::model::target::TargetName;
use crate::progress::Progress;
use crate::restore::{self, Mode, RestoreRequest, Restored, Safety};

const AFTER_HELP: &str = "\
Examples:
  pgseal restore latest --to postgres://app@db.example/shop_copy --mode new
  pgseal restore backup_manual_20260131_020000 --to postgres://app@db.example/shop --mode in-place

Before the target is touched, the whole backup was fetched, compared with its digests, decrypted, and read by pg_restore. \
A restore that fails leaves the target as it was.";

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
    #[arg(long, value_enum)]
    mode: ModeArg,
    /// Do not back the target up before it is replaced
    #[arg(long)]
    no_safety_backup: bool,
    #[command(flatten)]
    foreign: ForeignArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ModeArg {
    /// Create the database; refuse one that exists
    New,
    /// Replace the content of a database in one transaction, after a safety backup of it
    InPlace,
}

#[derive(Serialize)]
struct Report<'a> {
    backup: &'a str,
    database: &'a str,
    mode: &'static str,
    plain_bytes: u64,
    tables_compared: Option<usize>,
    rows_compared: Option<u64>,
    safety_backup: Option<&'a str>,
    stages: Vec<StageSeconds>,
    warnings: &'a [String],
}

impl RestoreArgs {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let (target, to) = self.to(&context.settings)?;
        let mut stages = context.settings.stages(context.clock).await?;
        let found = context
            .cancel
            .run_until_cancelled(self.selection.find(&stages.vault, &context.settings))
            .await;
        let Some(entry) = found else { return Ok(()) };
        stages.vault = stages.vault.of_target(&target)?;
        let request = RestoreRequest {
            entry: entry?,
            to,
            target,
            mode: match self.mode {
                ModeArg::New => Mode::New,
                ModeArg::InPlace => Mode::InPlace,
            },
            safety: if self.no_safety_backup {
                Safety::Skip
            } else {
                Safety::Backup
            },
            limits: self.foreign.limits(),
        };
        let progress = Arc::new(Progress::default());
        let restoring = restore::run(&stages, request, &progress, &context.cancel);
        let restored = context.progress.show(&progress, restoring).await?;
        context
            .output
            .print(&self.report(&restored, &progress), || {
                text(&restored, &progress)
            })
    }

    /// No URL is a target's name: it has a colon.
    fn to(&self, settings: &Settings) -> anyhow::Result<(TargetName, Connection)> {
        Ok(match TargetName::parse(&self.to) {
            Ok(target) => {
                let to = settings.targets()?.connection(&target)?;
                (target, to)
            }
            Err(_) => (
                TargetName::default(),
                config::connection(Some(&self.to), "--to")?,
            ),
        })
    }

    fn report<'a>(&self, restored: &'a Restored, progress: &Progress) -> Report<'a> {
        Report {
            backup: &restored.backup,
            database: &restored.database,
            mode: match self.mode {
                ModeArg::New => "new",
                ModeArg::InPlace => "in-place",
            },
            plain_bytes: restored.plain_bytes,
            tables_compared: restored.compared.map(|(tables, _)| tables),
            rows_compared: restored.compared.map(|(_, rows)| rows),
            safety_backup: restored.safety_backup.as_deref(),
            stages: stage_seconds(progress),
            warnings: &restored.warnings,
        }
    }
}

fn text(restored: &Restored, progress: &Progress) -> String {
    let mut facts = Facts::default();
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
