//! `pgseal fetch`.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;
use tempfile::NamedTempFile;

use super::exit::UsageError;
use super::output::{Output, bytes};
use super::{BackupSelection, Context, ForeignArgs};
use crate::progress::Progress;
use crate::vault::{Fetched, Limits, Vault};

/// Sealed bytes are copied in pieces of this size.
const COPY_BYTES: usize = 256 * 1024;

const AFTER_HELP: &str = "\
Examples:
  pgseal fetch latest -o - | pg_restore -d shop_copy
  pgseal fetch latest --sealed -o latest.dump.gpg

Not one byte is written before the whole backup was decrypted and authenticated. A file that exists is not replaced.";

/// Fetch a backup's dump, or the sealed object as it is
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(super) struct FetchArgs {
    #[command(flatten)]
    selection: BackupSelection,
    /// The sealed object as it is, for gpg; its digest is compared all the same
    #[arg(long)]
    sealed: bool,
    /// Where it goes; - is stdout
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    foreign: ForeignArgs,
}

#[derive(Serialize)]
struct Receipt {
    name: String,
    object_key: String,
    sealed: bool,
    file: String,
    bytes: u64,
}

impl FetchArgs {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let to_stdout = self.output.as_os_str() == "-";
        if to_stdout && std::io::stdout().is_terminal() {
            let text = "a dump is no text for a terminal: give a file, or pipe it into pg_restore";
            return Err(UsageError(text.to_owned()).into());
        }
        if !to_stdout && self.output.exists() {
            return Err(UsageError(format!("{} exists already", self.output.display())).into());
        }
        let vault = context.settings.vault().await?;
        let found = self.selection.find(&vault, &context.settings).await?;
        let progress = Arc::new(Progress::default());
        let fetching = async {
            let fetched = vault.fetch_either(found, &progress).await?;
            let written = self.write(&vault, &fetched, &progress).await?;
            anyhow::Ok((fetched, written))
        };
        let (fetched, written) = context.progress.show(&progress, fetching).await?;
        if to_stdout && context.output == Output::Text {
            return Ok(());
        }
        self.receipt(context, &fetched, written, to_stdout)
    }

    async fn write(
        &self,
        vault: &Vault,
        fetched: &Fetched,
        progress: &Arc<Progress>,
    ) -> anyhow::Result<u64> {
        if !self.sealed {
            vault
                .authenticate(fetched, self.foreign.limits(), progress)
                .await?;
        }
        progress.start_stage("write");
        if self.output.as_os_str() == "-" {
            let mut stdout = std::io::stdout();
            let written = self.copy(vault, fetched, &mut stdout).await?;
            stdout.flush().context("write the dump")?;
            return Ok(written);
        }
        let folder = self
            .output
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or_else(|| Path::new("."));
        let mut file = NamedTempFile::with_prefix_in(".pgseal-fetch-", folder)
            .with_context(|| format!("write into folder {}", folder.display()))?;
        let written = self.copy(vault, fetched, file.as_file_mut()).await?;
        file.as_file().sync_all().map_err(not_written)?;
        file.persist_noclobber(&self.output)
            .with_context(|| format!("write {}", self.output.display()))?;
        Ok(written)
    }

    async fn copy(
        &self,
        vault: &Vault,
        fetched: &Fetched,
        to: &mut impl std::io::Write,
    ) -> anyhow::Result<u64> {
        if self.sealed {
            copy_sealed(fetched, to).await
        } else {
            copy_plain(vault, fetched, self.foreign.limits(), to).await
        }
    }

    fn receipt(
        &self,
        context: &Context,
        fetched: &Fetched,
        written: u64,
        to_stdout: bool,
    ) -> anyhow::Result<()> {
        if to_stdout {
            // stdout is the dump's: a receipt there would break it.
            return Ok(());
        }
        let receipt = Receipt {
            name: fetched.name().to_owned(),
            object_key: fetched.key().to_string(),
            sealed: self.sealed,
            file: self.output.display().to_string(),
            bytes: written,
        };
        let next = if self.sealed {
            "gpg -d FILE | pg_restore -d DATABASE"
        } else {
            "pg_restore -d DATABASE FILE"
        };
        context.output.print(&receipt, || {
            format!(
                "Backup {} is in {} ({})\n  restore it with {next}",
                receipt.name,
                receipt.file,
                bytes(written)
            )
        })
    }
}

fn not_written(error: std::io::Error) -> anyhow::Error {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    let full = matches!(error.kind(), StorageFull | QuotaExceeded);
    let hint = if full {
        "\nhint: make room, or give a file on another disk"
    } else {
        ""
    };
    anyhow::Error::new(error).context(format!("write the dump{hint}"))
}

async fn copy_plain(
    vault: &Vault,
    fetched: &Fetched,
    limits: Limits,
    to: &mut impl std::io::Write,
) -> anyhow::Result<u64> {
    let mut opening = vault.open(fetched, limits);
    while let Some(chunk) = opening.next().await? {
        to.write_all(&chunk).map_err(not_written)?;
    }
    Ok(opening.finish().await?.plain_bytes)
}

async fn copy_sealed(fetched: &Fetched, to: &mut impl std::io::Write) -> anyhow::Result<u64> {
    let mut source = fetched.sealed();
    let mut buffer = vec![0; COPY_BYTES];
    let mut written = 0;
    loop {
        let read = std::io::Read::read(&mut source, &mut buffer).context("read the sealed dump")?;
        if read == 0 {
            return Ok(written);
        }
        to.write_all(&buffer[..read]).map_err(not_written)?;
        written += read as u64;
        // So that a signal is heard between two pieces.
        tokio::task::yield_now().await;
    }
}
