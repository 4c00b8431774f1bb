//! `pgseal kept`.

use clap::{Args, Subcommand};
use serde::Serialize;
use time::OffsetDateTime;

use super::Context;
use super::output::{bytes, moment, table};
use crate::config;
use crate::pg::inspect::KeptDatabase;
use crate::restore;

const AFTER_HELP: &str = "\
Examples:
  pgseal kept list
  pgseal kept drop shop_before_0123abcd

A restore with --mode swap keeps what it replaced as {database}_before_{id}, a rollback what it undid as \
{database}_undone_{id}; {database}__restore_{id} is what a restore that was interrupted had filled so far. Each is known \
by a record in its comment; no other database is ever listed or dropped. A worker drops those of its own target after \
BACKUP_KEEP_REPLACED_DAYS.";

/// Show or drop the databases that restores and rollbacks set aside
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(super) struct KeptArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List them, with their age and size
    List(ListArgs),
    /// Drop one, unless somebody is connected to it
    Drop(DropArgs),
}

#[derive(Args, Debug)]
struct ListArgs {
    /// The server, by the URL of any database of it [default: DATABASE_URL]
    #[arg(long, value_name = "DATABASE_URL")]
    to: Option<String>,
}

#[derive(Args, Debug)]
struct DropArgs {
    /// The whole name of the database
    #[arg(value_name = "NAME")]
    name: String,
    /// The server, by the URL of any database of it [default: DATABASE_URL]
    #[arg(long, value_name = "DATABASE_URL")]
    to: Option<String>,
}

/// A kept database as JSON. What is not known is null.
#[derive(Serialize)]
struct Line<'a> {
    name: &'a str,
    kept_as: &'static str,
    id: Option<String>,
    database: Option<&'a str>,
    backup: Option<&'a str>,
    safety_backup: Option<&'a str>,
    #[serde(with = "time::serde::rfc3339::option")]
    since: Option<OffsetDateTime>,
    size_bytes: Option<u64>,
}

impl KeptArgs {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<()> {
        match self.what {
            What::List(arguments) => {
                let to = config::connection(arguments.to.as_deref(), "--to")?;
                let kept = restore::list_kept(&to).await?;
                let lines: Vec<Line<'_>> = kept.iter().map(Line::of).collect();
                context.output.print(&lines, || text(&lines))
            }
            What::Drop(arguments) => {
                let to = config::connection(arguments.to.as_deref(), "--to")?;
                let dropped = restore::drop_kept(&to, &arguments.name).await?;
                let line = Line::of(&dropped);
                context
                    .output
                    .print(&line, || format!("{} is dropped", line.name))
            }
        }
    }
}

impl<'a> Line<'a> {
    fn of(kept: &'a KeptDatabase) -> Self {
        let record = kept.record.as_ref();
        Self {
            name: &kept.name,
            kept_as: record.map_or("restore", |record| record.kept_as.as_str()),
            id: record.map(|record| record.id.to_string()),
            database: record.map(|record| record.database.as_str()),
            backup: record.map(|record| record.backup.as_str()),
            safety_backup: record.and_then(|record| record.safety_backup.as_deref()),
            since: record.map(|record| record.at),
            size_bytes: kept.size_bytes,
        }
    }
}

fn text(lines: &[Line<'_>]) -> String {
    if lines.is_empty() {
        return "No database is kept on this server".to_owned();
    }
    let dash = || "-".to_owned();
    let rows = lines.iter().map(|line| {
        [
            line.name.to_owned(),
            line.kept_as.to_owned(),
            line.database.unwrap_or("-").to_owned(),
            line.since.map_or_else(dash, moment),
            line.backup.unwrap_or("-").to_owned(),
            line.size_bytes.map_or_else(dash, bytes),
        ]
    });
    table(
        ["NAME", "KEPT AS", "OF", "SINCE", "RESTORE OF", "SIZE"],
        rows,
        5,
    )
}
