//! `pgseal drill`.

use std::sync::Arc;

use clap::Args;
use serde::Serialize;

use super::exit::NotProven;
use super::output::{Facts, StageSeconds, bytes, counted, stage_seconds, took};
use super::{BackupSelection, Context, ForeignArgs};
use crate::config;
use crate::model::proof::Verdict;
use crate::pg::inspect::Depth;
use crate::progress::Progress;
use crate::restore::{self, DrillRequest, Drilled};

const AFTER_HELP: &str = "\
Examples:
  pgseal drill latest --to postgres://drill@scratch.example/postgres
  pgseal drill latest --digests                compares contents too (backups made with BACKUP_ROW_COUNTS=digests)

It makes a database of its own on that server, restores into it, compares, and drops it. Roles that the server lacks are \
made without a login for as long as it takes. The verdict is put beside the backup, and pgseal list shows it:
  PROVEN        restored, every row count (and digest) is the recorded one
  FAILED        it cannot be restored, or something differs: exit code 4
  UNVERIFIABLE  this server cannot tell, for the reason that is given: exit code 5";

/// Restore a backup for trial on another server, compare it with what was recorded, and drop it again
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(super) struct DrillArgs {
    #[command(flatten)]
    selection: BackupSelection,
    /// The server for it, as postgres://ROLE@HOST:5432/postgres [default: BACKUP_DRILL_DATABASE_URL]
    #[arg(long, value_name = "DATABASE_URL")]
    to: Option<String>,
    /// Compare the content of every table, not only its rows' number
    #[arg(long)]
    digests: bool,
    #[command(flatten)]
    foreign: ForeignArgs,
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

impl DrillArgs {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let server = config::drill_server(self.to.as_deref())?;
        let stages = context.settings.stages(context.clock).await?;
        let found = context
            .cancel
            .run_until_cancelled(self.selection.find(&stages.vault, &context.settings))
            .await;
        let Some(found) = found else { return Ok(()) };
        let request = DrillRequest {
            found: found?,
            server,
            depth: if self.digests {
                Depth::Content
            } else {
                Depth::Number
            },
            limits: self.foreign.limits(),
        };
        let progress = Arc::new(Progress::default());
        let drilling = restore::drill(&stages, request, &progress, &context.cancel);
        let drilled = context.progress.show(&progress, drilling).await?;
        context
            .output
            .print(&report(&drilled, &progress), || text(&drilled, &progress))?;
        match drilled.verdict {
            Verdict::Proven => Ok(()),
            verdict => Err(NotProven(verdict).into()),
        }
    }
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
