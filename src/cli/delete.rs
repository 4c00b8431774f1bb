//! `pgseal delete`.

use clap::Args;
use serde::Serialize;

use super::output::Record;
use super::{BackupSelection, Context};
use crate::vault::Listed;

/// Delete a backup: every version of its objects, in the second store too
///
/// The manifest goes first, so that a deletion that was cut off leaves no backup that cannot be restored.
#[derive(Args, Debug)]
pub(super) struct DeleteArgs {
    #[command(flatten)]
    selection: BackupSelection,
}

#[derive(Serialize)]
struct Deleted {
    #[serde(flatten)]
    record: Record,
    versions_deleted: u64,
}

impl DeleteArgs {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let vault = context.settings.vault().await?;
        let found = self.selection.find(&vault, &context.settings).await?;
        let entry = found.entry;
        let versions_deleted = vault.delete(&entry).await?;
        let deleted = Deleted {
            record: Record::of(&Listed::from(&entry)),
            versions_deleted,
        };
        context.output.print(&deleted, || {
            let second = vault.second.as_ref().map_or_else(String::new, |second| {
                format!(", and its copy from {}", second.describe())
            });
            format!(
                "Backup {} was deleted from {}{second}",
                deleted.record.name,
                vault.store.describe()
            )
        })
    }
}
