//! `pgseal enqueue`.

use clap::{Args, Subcommand};
use serde::Serialize;

use super::backup::{KindArg, label, labels};
use super::plan::ChoiceArgs;
use super::restore::{ModeArg, require_typed};
use super::service::Service;
use super::{Context, TargetArgs};
use crate::catalog::{CatalogError, RestoreMode};
use crate::config::QueueArgs;
use crate::dispatch::{BackupWanted, Queued, RestoreWanted, SafetyBackup};
use crate::model::ids::BackupId;
use crate::model::target::TargetName;

const AFTER_HELP: &str = "\
Examples:
  pgseal enqueue backup --kind scheduled       for a timer
  pgseal enqueue restore 42                    behind a safety backup of what is there now

The request stands in the catalog before this command ends; where Redis is away, a worker starts it once Redis is back.
A target has one job at a time: while one is asked for or runs, another is refused with exit code 1.";

/// Ask the workers for a backup or a restore
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(super) struct EnqueueArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Ask for a backup of the database that the workers' DATABASE_URL names, or of another target
    Backup(BackupArgs),
    /// Ask for a restore of a backup into the target that it is of, or into another one
    Restore(RestoreArgs),
}

#[derive(Args, Debug)]
struct BackupArgs {
    /// Why it is made; stands in its name
    #[arg(long, value_enum, default_value_t = KindArg::Manual)]
    kind: KindArg,
    #[command(flatten)]
    target: TargetArgs,
    /// Attach a label; may be repeated
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// Leave the rows of matching tables out, as pg_dump does; may be repeated
    #[arg(long, value_name = "PATTERN")]
    exclude_table_data: Vec<String>,
    #[command(flatten)]
    queue: QueueArgs,
}

#[derive(Args, Debug)]
struct RestoreArgs {
    /// The backup's number in the catalog
    #[arg(value_name = "BACKUP_ID", value_parser = backup_id)]
    backup_id: BackupId,
    #[command(flatten)]
    target: TargetArgs,
    /// How the database changes
    #[arg(long, value_enum, default_value_t = ModeArg::Auto)]
    mode: ModeArg,
    /// Make no safety backup first: for a database that cannot be dumped any more
    #[arg(long)]
    no_safety_backup: bool,
    /// The name of the database that is replaced (TARGET/DATABASE where targets share it): --no-safety-backup wants it typed
    #[arg(long, value_name = "DATABASE", allow_hyphen_values = true)]
    confirm: Option<String>,
    #[command(flatten)]
    choices: ChoiceArgs,
    #[command(flatten)]
    queue: QueueArgs,
}

/// What was asked for.
#[derive(Serialize)]
struct Asked {
    #[serde(skip_serializing_if = "Option::is_none")]
    backup_id: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    restore_id: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    safety_backup_id: Option<i64>,
    job_id: String,
    /// Whether Redis has it already.
    queued: bool,
}

impl EnqueueArgs {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let (asked, said) = match self.what {
            What::Backup(arguments) => arguments.run(context).await?,
            What::Restore(arguments) => arguments.run(context).await?,
        };
        context.output.print(&asked, || {
            let later =
                "\nRedis has not taken the job yet: it is made within a minute of when it does";
            format!("{said}{}", if asked.queued { "" } else { later })
        })
    }
}

impl BackupArgs {
    async fn run(self, context: &Context) -> anyhow::Result<(Asked, String)> {
        let target = self.target.target.unwrap_or_default();
        context.settings.targets()?.require(&target)?;
        let wanted = BackupWanted {
            target: target.to_string(),
            kind: self.kind.into(),
            requested_by: requested_by(),
            labels: labels(&self.labels)?,
            excluded_table_data: self.exclude_table_data,
        };
        let service = Service::open(&self.queue).await?;
        let (row, queued) = service.dispatch.backup(wanted, (context.clock)()).await?;
        let said = format!("Backup {} is asked for", row.id);
        let asked = Asked {
            backup_id: Some(row.id.get()),
            restore_id: None,
            safety_backup_id: None,
            job_id: row.job.job_id.unwrap_or_default(),
            queued: queued == Queued::Now,
        };
        Ok((asked, said))
    }
}

impl RestoreArgs {
    async fn run(self, context: &Context) -> anyhow::Result<(Asked, String)> {
        if let Some(target) = &self.target.target {
            context.settings.targets()?.require(target)?;
        }
        let service = Service::open(&self.queue).await?;
        let target = if let Some(target) = self.target.target {
            target.to_string()
        } else {
            // A backup of another database must not go into the default one because nobody said otherwise.
            let row = service.dispatch.catalog.backup(self.backup_id).await?;
            row.ok_or(CatalogError::NoSuchBackup(self.backup_id))?
                .target
        };
        if self.no_safety_backup && self.mode != ModeArg::New {
            let name = TargetName::parse(&target).unwrap_or_default();
            let wanted = context.settings.targets()?.confirmed_by(&name)?;
            require_typed(self.confirm.as_deref(), &wanted)?;
        }
        let wanted = RestoreWanted {
            backup_id: self.backup_id,
            target,
            mode: match self.mode {
                ModeArg::Auto => RestoreMode::Auto,
                ModeArg::New => RestoreMode::New,
                ModeArg::Swap => RestoreMode::Swap,
                ModeArg::InPlace => RestoreMode::InPlace,
            },
            undoes: None,
            choices: self.choices.choices()?,
            safety_backup: if self.no_safety_backup || self.mode == ModeArg::New {
                SafetyBackup::Skipped
            } else {
                SafetyBackup::First
            },
            requested_by: requested_by(),
        };
        let (row, queued) = service.dispatch.restore(wanted, (context.clock)()).await?;
        let behind = row
            .safety_backup_id
            .map(|id| format!(", behind safety backup {id}"));
        let said = format!(
            "Restore {} of backup {} is asked for{}",
            row.id,
            row.backup_id,
            behind.unwrap_or_default()
        );
        let asked = Asked {
            backup_id: Some(row.backup_id.get()),
            restore_id: Some(row.id.get()),
            safety_backup_id: row.safety_backup_id.map(BackupId::get),
            job_id: row.job.job_id.unwrap_or_default(),
            queued: queued == Queued::Now,
        };
        Ok((asked, said))
    }
}

/// Who asked, as far as a command line knows.
fn requested_by() -> String {
    "command line".to_owned()
}

fn backup_id(text: &str) -> Result<BackupId, String> {
    let number: i64 = text
        .parse()
        .map_err(|_| "a number, as pgseal enqueue printed it".to_owned())?;
    BackupId::new(number).ok_or_else(|| "a number from 1 on".to_owned())
}
