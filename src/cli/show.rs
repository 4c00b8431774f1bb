//! `pgseal show`.

use std::sync::Arc;

use clap::Args;
use serde::Serialize;

use super::output::{Record, count, table};
use super::{BackupSelection, Context, ForeignArgs};
use crate::model::manifest::TableFacts;
use crate::model::object_key::ObjectKey;
use crate::model::proof::Proof;
use crate::progress::Progress;
use crate::vault::{Entry, Found, Listed, Vault, Which};

/// Show what a backup holds
#[derive(Args, Debug)]
pub(super) struct ShowArgs {
    #[command(flatten)]
    selection: BackupSelection,
    /// Show the archive's own list too, as pg_restore --list prints it
    #[arg(long)]
    contents: bool,
    #[command(flatten)]
    foreign: ForeignArgs,
}

/// A backup with its tables, and with its list where that was asked for.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    record: Record,
    tables: Vec<TableFacts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    contents: Option<String>,
}

impl ShowArgs {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let vault = context.settings.vault().await?;
        let found = self.selection.find(&vault, &context.settings).await?;
        let copy = copy_of(&found, &vault).await;
        let vault = vault.with(found.copy);
        let entry = found.entry;
        let record = Record::of(&Listed {
            proof: proof_of(&entry, &vault).await?,
            ..Listed::from(&entry)
        })
        .copied(copy);
        let tables = match &entry {
            Entry::Complete(manifest) | Entry::Lost(manifest) => manifest.tables.clone(),
            _ => Vec::new(),
        };
        let contents = if self.contents {
            Some(self.contents_of(entry, &vault, context).await?)
        } else {
            None
        };
        let shown = Shown {
            record,
            tables,
            contents,
        };
        context.output.print(&shown, || text(&shown))
    }

    /// A manifest holds the list; a foreign object has to be fetched and authenticated for it.
    async fn contents_of(
        &self,
        entry: Entry,
        vault: &Vault,
        context: &Context,
    ) -> anyhow::Result<String> {
        if let Entry::Complete(manifest) | Entry::Lost(manifest) = entry {
            return Ok(manifest.archive_list);
        }
        let progress = Arc::new(Progress::default());
        let limits = self.foreign.limits();
        let clients = context.settings.clients().await?;
        let listed = async {
            let fetched = vault.fetch(entry, &progress).await?;
            vault.authenticate(&fetched, limits, &progress).await?;
            vault
                .archive_list(&fetched, clients.newest()?, limits)
                .await
        };
        Ok(context.progress.show(&progress, listed).await?)
    }
}

/// One word for its second copy, where there is a second store.
async fn copy_of(found: &Found, vault: &Vault) -> Option<&'static str> {
    let (Entry::Complete(manifest), Which::First) = (&found.entry, found.copy) else {
        return None;
    };
    vault.second.as_ref()?;
    let key = ObjectKey::parse(&manifest.object_key).ok()?;
    Some(match vault.is_copied(&key, manifest.sealed_bytes).await {
        Some(true) => "copied",
        Some(false) => "none",
        None => "unknown",
    })
}

async fn proof_of(entry: &Entry, vault: &Vault) -> anyhow::Result<Option<Proof>> {
    let Entry::Complete(manifest) = entry else {
        return Ok(None);
    };
    let proof = vault
        .read_proof(&ObjectKey::parse(&manifest.object_key)?)
        .await?;
    Ok(proof.filter(|proof| proof.uid == manifest.uid))
}

fn text(shown: &Shown) -> String {
    let mut parts = vec![format!(
        "{}\n{}",
        shown.record.name,
        shown.record.facts().text()
    )];
    if !shown.tables.is_empty() {
        let rows = shown.tables.iter().map(|facts| {
            let rows = facts.rows.map_or_else(|| "-".to_owned(), count);
            [format!("{}.{}", facts.schema, facts.name), rows]
        });
        parts.push(table(["TABLE", "ROWS"], rows, 1));
    }
    parts.extend(
        shown
            .contents
            .as_ref()
            .map(|list| list.trim_end().to_owned()),
    );
    parts.join("\n\n")
}
