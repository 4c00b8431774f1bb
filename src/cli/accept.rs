//! `pgseal accept` and `pgseal release`: what an operator says about a backup.

use clap::Args;
use serde::Serialize;

use super::exit::UsageError;
use super::{BackupSelection, Context};
use crate::catalog::Catalog;
use crate::config;
use crate::model::kind::BackupKind;
use crate::model::manifest::Manifest;
use crate::model::target::TargetName;
use crate::vault::{Entry, Mark};

const ACCEPT_HELP: &str = "\
A backup that is far smaller than the one before, or lacks many of its tables, looks like one of the wrong database or of an emptied one. \
Until somebody says that it is right, nothing is deleted. Look first: pgseal show BACKUP, pgseal list.";

const RELEASE_HELP: &str = "\
What was in a database before a restore is kept until somebody releases it, because it is the way back. After that its age \
counts, as of every other backup.";

/// Say that a backup is right, although it is far smaller than the one before
#[derive(Args, Debug)]
#[command(after_help = ACCEPT_HELP)]
pub(super) struct AcceptArgs {
    #[command(flatten)]
    selection: BackupSelection,
}

/// Let a safety backup go, once the restore that it was made for is known to be good
#[derive(Args, Debug)]
#[command(after_help = RELEASE_HELP)]
pub(super) struct ReleaseArgs {
    #[command(flatten)]
    selection: BackupSelection,
}

#[derive(Serialize)]
struct Marked<'a> {
    name: &'a str,
    object_key: &'a str,
    mark: &'a str,
}

impl AcceptArgs {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let manifest = mark(context, &self.selection, Mark::Accepted).await?;
        // Where there is a catalog, its row says so too; the mark alone is what counts.
        if let Ok((connection, _)) = config::catalog_address() {
            if let Ok(catalog) = Catalog::open(&connection).await {
                let rows = catalog.retained(&manifest.target, &[]).await?;
                let row = rows.iter().find(|row| row.uid == Some(manifest.uid));
                if let Some(row) = row {
                    catalog.accept(row.id, "command line").await?;
                }
            }
        }
        say(context, &manifest, "accepted", "is accepted as it is")
    }
}

impl ReleaseArgs {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let manifest = mark(context, &self.selection, Mark::Released).await?;
        say(
            context,
            &manifest,
            "released",
            "is released: from now on its age counts",
        )
    }
}

async fn mark(
    context: &Context,
    selection: &BackupSelection,
    mark: Mark,
) -> anyhow::Result<Box<Manifest>> {
    let vault = context.settings.vault().await?;
    let entry = selection.find(&vault, &context.settings).await?.entry;
    let Entry::Complete(manifest) = entry else {
        let state = entry.state();
        return Err(UsageError(format!("{} is {state}, no complete backup", entry.key())).into());
    };
    if mark == Mark::Released && manifest.kind != BackupKind::PreRestore {
        return Err(UsageError(format!("{} is no safety backup", manifest.name)).into());
    }
    // Each target's retention looks in its own folder.
    let target = TargetName::parse(&manifest.target).unwrap_or_default();
    vault.of_target(&target)?.mark(mark, manifest.uid).await?;
    Ok(manifest)
}

fn say(context: &Context, manifest: &Manifest, word: &str, said: &str) -> anyhow::Result<()> {
    let marked = Marked {
        name: &manifest.name,
        object_key: &manifest.object_key,
        mark: word,
    };
    context
        .output
        .print(&marked, || format!("Backup {} {said}", manifest.name))
}
