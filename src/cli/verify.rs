//! `pgseal verify`.

use std::sync::Arc;

use clap::Args;
use serde::Serialize;

use super::exit::OneCopy;
use super::output::{StageSeconds, bytes, stage_seconds};
use super::{BackupSelection, Context, ForeignArgs};
use crate::progress::Progress;
use crate::vault::Proof;

/// Prove that a backup is whole: fetch it, compare its digests, decrypt all of it, let pg_restore read every block
///
/// No database is needed. Where the first copy is missing or damaged, the one in the second store is verified, and the exit
/// code is 7. Exit code 4 says that the backup is damaged, replaced, cut, or sealed with another passphrase.
#[derive(Args, Debug)]
pub(super) struct VerifyArgs {
    #[command(flatten)]
    selection: BackupSelection,
    #[command(flatten)]
    foreign: ForeignArgs,
}

#[derive(Serialize)]
struct Verified {
    name: String,
    object_key: String,
    whole: bool,
    has_manifest: bool,
    plain_bytes: u64,
    plain_sha256: String,
    sealed_bytes: u64,
    read_by: String,
    /// Why it is not the first copy that was verified, where it is not.
    first_copy: Option<String>,
    stages: Vec<StageSeconds>,
}

impl VerifyArgs {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let vault = context.settings.vault().await?;
        let clients = context.settings.clients().await?;
        let found = self.selection.find(&vault, &context.settings).await?;
        let progress = Arc::new(Progress::default());
        let verifying = async {
            let fetched = vault.fetch_either(found, &progress).await?;
            let Proof { opened, reader, .. } = vault
                .verify(&fetched, &clients, self.foreign.limits(), &progress)
                .await?;
            anyhow::Ok(Verified {
                name: fetched.name().to_owned(),
                object_key: fetched.key().to_string(),
                whole: true,
                has_manifest: fetched.manifest().is_some(),
                plain_bytes: opened.plain_bytes,
                plain_sha256: opened.plain_sha256.to_string(),
                sealed_bytes: fetched.sealed_bytes(),
                read_by: reader.version,
                first_copy: fetched.note().map(str::to_owned),
                stages: stage_seconds(&progress),
            })
        };
        let verified = context.progress.show(&progress, verifying).await?;
        context.output.print(&verified, || verified.text())?;
        match verified.first_copy {
            None => Ok(()),
            Some(_) => Err(OneCopy::Second(verified.name).into()),
        }
    }
}

impl Verified {
    fn text(&self) -> String {
        let Self {
            name,
            sealed_bytes,
            plain_bytes,
            plain_sha256,
            ..
        } = self;
        let compared = if self.has_manifest {
            "equal to the manifest's"
        } else {
            "not compared: there is no manifest"
        };
        let name = if self.first_copy.is_some() {
            format!("{name}, its second copy,")
        } else {
            name.clone()
        };
        format!(
            "Backup {name} is whole\n  fetched    {}, digest {compared}\n  decrypted  {}, authentic, digest {compared}\n  \
             read       every block, by a client of version {}\n  SHA-256    {plain_sha256}",
            bytes(*sealed_bytes),
            bytes(*plain_bytes),
            self.read_by.trim_start_matches("pg_dump (PostgreSQL) "),
        )
    }
}
