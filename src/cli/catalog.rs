//! `pgseal catalog`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::Context;
use super::exit::UsageError;
use super::output::{Facts, counted};
use crate::catalog::Catalog;
use crate::config;
use crate::reconcile::{self, BackupAt, Imported, Rebuilt, Reconciled};

const AFTER_HELP: &str = "\
The catalog is where the service records its jobs (pgseal migrate creates it). The store is the truth about backups: nothing \
here deletes one. The other commands work without a catalog.";

const REBUILD_HELP: &str = "\
Example, after the catalog's database was lost:
  pgseal migrate && pgseal catalog rebuild

Backups get the numbers that they had. What only the catalog knew is gone: jobs that failed, restores, proofs.";

const RECONCILE_HELP: &str = "\
A backup without a row gets one. A row whose object is gone is marked lost, and is well again once the object is back. A row \
whose object is another one, as an older version of it, is marked CORRUPT, and cannot be restored by its number any more. \
Objects that were never completed, that cannot be read, or that somebody else put there are named. Uploads that were killed a day ago are \
removed.";

const IMPORT_HELP: &str = "\
The file has a header and these columns, others beside them do no harm:
  id,type,storage_key,checksum,size,created_at,status
  17,scheduled,backups/prod/2025/11/backup_17.dump.gpg,sha256:9f86d0...,1048576,2025-11-02T02:00:00Z,completed

As PostgreSQL writes it: \\copy (SELECT id, type, storage_key, checksum, size, created_at, status FROM backups) TO backups.csv CSV HEADER

Each object of a completed backup is fetched, and its size and SHA-256 are compared: one that differs is taken over as \
CORRUPT, one that is not there as lost. A line that cannot be read, or whose number another backup has, ends it, and nothing is taken \
over. It can be run again.";

/// Look after the catalog: make it anew from the store, compare the two, take another service's table over
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(super) struct CatalogArgs {
    #[command(subcommand)]
    command: CatalogCommand,
}

#[derive(Debug, Subcommand)]
enum CatalogCommand {
    /// Make rows for the backups in the store, from their manifests alone
    #[command(after_help = REBUILD_HELP)]
    Rebuild,
    /// Compare store and catalog both ways, and record what differs
    #[command(after_help = RECONCILE_HELP)]
    Reconcile,
    /// Take over the backups that another service has in a table
    #[command(after_help = IMPORT_HELP)]
    Import {
        /// The table, as CSV; - is stdin
        #[arg(value_name = "FILE.csv")]
        file: PathBuf,
    },
}

impl CatalogArgs {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let vault = context.settings.vault().await?;
        let (connection, _) = config::catalog_address()?;
        let catalog = Catalog::open(&connection).await?;
        let (place, store) = (catalog.describe(), vault.store.describe());
        match self.command {
            CatalogCommand::Rebuild => {
                let rebuilt = reconcile::rebuild(&vault, &catalog).await?;
                said(context, &rebuilt, || {
                    format!(
                        "The catalog at {place} has every backup of {store}\n{}",
                        of_rebuilt(&rebuilt)
                    )
                })
            }
            CatalogCommand::Reconcile => {
                let done = reconcile::reconcile(&vault, &catalog).await?;
                said(context, &done, || {
                    format!(
                        "The catalog at {place} was compared with {store}\n{}",
                        of_reconciled(&done)
                    )
                })
            }
            CatalogCommand::Import { file } => {
                let imported = reconcile::import(table(&file)?, &vault, &catalog).await?;
                said(context, &imported, || {
                    format!(
                        "{} of {} are in the catalog at {place}\n{}",
                        counted(imported.lines, "line"),
                        file.display(),
                        of_imported(&imported)
                    )
                })
            }
        }
    }
}

fn said<T: Serialize>(
    context: &Context,
    result: &T,
    text: impl FnOnce() -> String,
) -> anyhow::Result<()> {
    context.output.print(result, text)
}

fn table(file: &std::path::Path) -> anyhow::Result<Box<dyn std::io::Read>> {
    if file.as_os_str() == "-" {
        return Ok(Box::new(std::io::stdin()));
    }
    let opened = std::fs::File::open(file);
    let opened = opened.map_err(|error| UsageError(format!("open {}: {error}", file.display())))?;
    Ok(Box::new(opened))
}

fn of_rebuilt(rebuilt: &Rebuilt) -> String {
    let mut facts = Facts::default();
    facts.add("complete", Some(rebuilt.complete));
    facts.add("new rows", Some(rebuilt.adopted.len()));
    facts.add("had a row", Some(rebuilt.known));
    each_backup(&mut facts, "key taken by", &rebuilt.key_taken);
    each(&mut facts, "unreadable", &rebuilt.unreadable);
    facts.text()
}

fn of_reconciled(done: &Reconciled) -> String {
    let mut facts = Facts::default();
    facts.add("complete", Some(done.complete));
    each_backup(&mut facts, "new row", &done.adopted);
    each_backup(&mut facts, "lost", &done.lost);
    each_backup(&mut facts, "CORRUPT", &done.corrupt);
    each_backup(&mut facts, "SUSPICIOUS", &done.suspicious);
    each_backup(&mut facts, "found again", &done.found_again);
    each(&mut facts, "unfinished", &done.unfinished);
    each(&mut facts, "unreadable", &done.unreadable);
    each(&mut facts, "lost, no row", &done.lost_without_row);
    each(&mut facts, "foreign", &done.foreign);
    let uploads = (done.stale_uploads_removed > 0).then_some(done.stale_uploads_removed);
    facts.add("uploads removed", uploads);
    facts.text()
}

fn of_imported(imported: &Imported) -> String {
    let mut facts = Facts::default();
    facts.add("new rows", Some(imported.new));
    facts.add("whole", Some(imported.whole));
    each_backup(&mut facts, "CORRUPT", &imported.corrupt);
    each_backup(&mut facts, "lost", &imported.lost);
    facts.add("never complete", Some(imported.incomplete));
    facts.text()
}

fn each_backup(facts: &mut Facts, name: &str, backups: &[BackupAt]) {
    for backup in backups {
        facts.add(name, Some(format!("{}  {}", backup.id, backup.object_key)));
    }
}

fn each(facts: &mut Facts, name: &str, keys: &[String]) {
    for key in keys {
        facts.add(name, Some(key));
    }
}
