//! `pgseal list`.

use clap::Args;

use super::output::{Record, table};
use super::{Context, TargetArgs};
use crate::config;

const AFTER_HELP: &str = "\
States: complete (can be restored) · foreign (made by hand or another tool, without a manifest; can be verified, fetched \
and restored) · unfinished (never completed; cannot) · lost (the dump is gone) · unreadable (no passphrase opens its \
manifest, or it was changed)

PROOF is the verdict of the last pgseal drill, and its age.";

/// List what is in the store, newest first
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(super) struct ListArgs {
    #[command(flatten)]
    target: TargetArgs,
}

impl ListArgs {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let mut vault = context.settings.vault().await?;
        if let Some(target) = &self.target.target {
            context.settings.targets()?.require(target)?;
            vault = vault.of_target(target)?;
        }
        let listed = vault.list_briefly(&config::list_cache()).await?;
        let records: Vec<Record> = listed.iter().map(Record::of).collect();
        let now = (context.clock)();
        context.output.print(&records, || {
            if records.is_empty() {
                return format!(
                    "No backup yet in {} under {}",
                    vault.store.describe(),
                    vault.layout.listing_prefix()
                );
            }
            let header = [
                "NAME", "STATE", "STARTED", "DATABASE", "TABLES", "ROWS", "STORED", "PROOF",
            ];
            let mut text = table(header, records.iter().map(|record| record.cells(now)), 4);
            for record in &records {
                if let Some(reason) = &record.reason {
                    text += &format!("\n{}: {reason}", record.name);
                }
            }
            text
        })
    }
}
