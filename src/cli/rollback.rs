//! `pgseal rollback`.

use clap::Args;
use serde::Serialize;

use super::Context;
use super::output::Facts;
use crate::config;
use crate::model::kept::{KeptRecord, LandingId};
use crate::restore::{self, RolledBack};

const AFTER_HELP: &str = "\
Examples:
  pgseal rollback                              the database that DATABASE_URL names
  pgseal rollback --to postgres://app@db.example/shop --id 0123abcd

It needs neither the store nor the catalog. What was live until now is kept under another name: given its id, the same \
command brings it back.";

/// Undo a restore: what it replaced takes its place again, in a moment
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(super) struct RollbackArgs {
    /// The database, as postgres://ROLE@HOST:5432/DATABASE [default: DATABASE_URL]
    #[arg(long, value_name = "DATABASE_URL")]
    to: Option<String>,
    /// Which restore, as pgseal kept list shows it; needed where there is more than one
    #[arg(long, value_name = "ID", value_parser = landing_id)]
    id: Option<LandingId>,
}

#[derive(Serialize)]
struct Report<'a> {
    database: &'a str,
    restore_id: String,
    backup: &'a str,
    was: String,
    kept_database: Option<String>,
    drop: Option<String>,
}

impl RollbackArgs {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let to = config::connection(self.to.as_deref(), "--to")?;
        // Not left by a signal: it takes a moment, and is done or not done.
        let done = restore::rollback(&to, self.id.as_ref(), None, (context.clock)()).await?;
        let report = Report {
            database: &done.database,
            restore_id: done.back.id.to_string(),
            backup: &done.back.backup,
            was: done.back.name(),
            kept_database: done.kept.as_ref().map(KeptRecord::name),
            drop: done.kept.as_ref().map(drop_command),
        };
        context.output.print(&report, || text(&done))
    }
}

/// The command that drops a kept database.
pub(super) fn drop_command(record: &KeptRecord) -> String {
    format!("pgseal kept drop {}", record.name())
}

fn text(done: &RolledBack) -> String {
    let mut facts = Facts::default();
    facts.add("was kept as", Some(done.back.name()));
    facts.add("until now", done.kept.as_ref().map(KeptRecord::name));
    facts.add("to drop that", done.kept.as_ref().map(drop_command));
    format!(
        "{} is again what it was before the restore of {}\n{}",
        done.database,
        done.back.backup,
        facts.text()
    )
}

fn landing_id(text: &str) -> Result<LandingId, String> {
    LandingId::parse(text).ok_or_else(|| "eight hexadecimal digits".to_owned())
}
