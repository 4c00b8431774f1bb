//! A restore that cannot make things worse: everything is looked at, fetched, and proved to the last byte before the
//! target is touched.
//!
//! `new` fills a database under a working name and renames it only when its rows were compared with the manifest;
//! `swap` does the same beside the live one, behind a proved safety backup, and then swaps their names; `in-place` is
//! one transaction, behind a safety backup too. `rollback` undoes a swap.

mod compare;
mod error;
mod fresh;
mod in_place;
mod kept;
mod rollback;
mod safety;
mod swap;
mod target;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

pub use error::{Difference, RestoreError};
pub use kept::{KeptError, drop_kept, drop_older, list_kept};
pub use rollback::{RollbackError, RolledBack, rollback};
use target::Target;

use crate::backup::Stages;
use crate::model::connection::Connection;
use crate::model::kept::KeptRecord;
use crate::model::object_key::ObjectKey;
use crate::pg::inspect;
use crate::pg::{Client, Codec, Load, LoadMode, dumped_by};
use crate::progress::Progress;
use crate::vault::{Entry, Fetched, Limits, VaultError};

/// Where the restored content goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Into a database that does not exist yet.
    New,
    /// Beside a database, whose place the new one takes when it is complete.
    Swap,
    /// Over the content of a database, in one transaction.
    InPlace,
}

/// Whether the target is backed up before it is replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Safety {
    /// It is, and the backup is verified.
    Backup,
    /// It was, just before; this backup is verified.
    Made(ObjectKey),
    /// Somebody said that there is nothing to save, or that it cannot be dumped any more.
    Skip,
}

/// One restore.
pub struct RestoreRequest {
    /// What is restored.
    pub entry: Entry,
    /// The database it goes to.
    pub to: Connection,
    /// How.
    pub mode: Mode,
    /// Not used by [`Mode::New`]: there is nothing to save.
    pub safety: Safety,
    /// What a foreign object may become.
    pub limits: Limits,
}

/// What was restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The backup's name.
    pub backup: String,
    /// The database it is in.
    pub database: String,
    /// Tables and rows that were compared with the manifest; `None` where it has no counts.
    pub compared: Option<(usize, u64)>,
    /// Bytes of the archive.
    pub plain_bytes: u64,
    /// The safety backup's name.
    pub safety_backup: Option<String>,
    /// What was there before, under its name of now; a rollback brings it back.
    pub kept: Option<KeptRecord>,
    /// What an administrator should know.
    pub warnings: Vec<String>,
}

/// Restores a backup.
///
/// # Errors
/// As [`RestoreError`] says; unless it says otherwise, the target is as it was.
pub async fn run(
    stages: &Stages,
    request: RestoreRequest,
    progress: &Arc<Progress>,
    cancel: &CancellationToken,
) -> Result<Restored, RestoreError> {
    let interruptible = cancel
        .run_until_cancelled(prove(stages, request, progress))
        .await;
    let proven = interruptible.ok_or(RestoreError::Interrupted(None))??;
    let database = proven.to.database().to_owned();
    let lock = inspect::TargetLock::take(&proven.to)
        .await
        .map_err(RestoreError::Prepare)?;
    let restored = match proven.mode {
        Mode::New => fresh::run(&proven, stages, progress, cancel).await,
        Mode::Swap => swap::run(&proven, stages, progress, cancel).await,
        Mode::InPlace => in_place::run(&proven, stages, progress, cancel).await,
    };
    if let Some(lock) = lock {
        lock.release().await;
    }
    let Loaded {
        compared,
        plain_bytes,
        safety_backup,
        kept,
        warnings: of_load,
    } = restored?;
    let mut warnings = proven.warnings;
    warnings.extend(of_load);
    if proven.fetched.manifest().is_none() {
        warnings.push(
            "the backup is foreign: it has no manifest, so nothing vouches for where and when it was made, or for its rows".to_owned(),
        );
    }
    Ok(Restored {
        backup: proven.fetched.name().to_owned(),
        database,
        compared,
        plain_bytes,
        safety_backup,
        kept,
        warnings,
    })
}

/// A backup that was proved, and a target that was looked at.
struct Proven {
    fetched: Fetched,
    to: Connection,
    mode: Mode,
    safety: Safety,
    limits: Limits,
    client: Client,
    list: String,
    warnings: Vec<String>,
}

struct Loaded {
    compared: Option<(usize, u64)>,
    plain_bytes: u64,
    safety_backup: Option<String>,
    kept: Option<KeptRecord>,
    warnings: Vec<String>,
}

/// The target is looked at first, because that is quick; then the whole backup is fetched and proved.
async fn prove(
    stages: &Stages,
    request: RestoreRequest,
    progress: &Arc<Progress>,
) -> Result<Proven, RestoreError> {
    let RestoreRequest {
        entry,
        to,
        mode,
        safety,
        limits,
    } = request;
    progress.start_stage("look at the target");
    let mut target = Target::look(&to, mode, &safety)
        .await
        .map_err(RestoreError::Prepare)?;
    let warnings = match &entry {
        Entry::Complete(manifest) => target.suits(manifest).await?,
        _ => Vec::new(),
    };
    let server = target.server_major();
    // The host that answered is the one that everything else talks to.
    let to = target.connection();
    target.close().await;

    let fetched = stages
        .vault
        .fetch(entry, progress)
        .await
        .map_err(RestoreError::Verify)?;
    let proof = stages
        .vault
        .verify(&fetched, &stages.clients, limits, progress)
        .await
        .map_err(RestoreError::Verify)?;
    let list = proof.list;
    let archive = dumped_by(&list).unwrap_or(server);
    target::reads(server, archive)?;
    let client = stages
        .clients
        .for_restore(server, archive, Codec::of(&list))
        .await
        .map_err(RestoreError::Prepare)?
        .clone();
    Ok(Proven {
        fetched,
        to,
        mode,
        safety,
        limits,
        client,
        list,
        warnings,
    })
}

async fn load(
    proven: &Proven,
    mode: LoadMode<'_>,
    stages: &Stages,
    progress: &Arc<Progress>,
) -> Result<(u64, Vec<String>), VaultError> {
    if let Some(manifest) = proven.fetched.manifest() {
        progress.set_tables_total(manifest.tables.len() as u64);
    }
    let load = Load::start(&proven.client, mode, progress)?;
    let (opened, warnings) = stages
        .vault
        .load(&proven.fetched, load, proven.limits, progress)
        .await?;
    Ok((opened.plain_bytes, warnings))
}
