//! A restore that cannot make things worse: everything is looked at, fetched, and proved to the last byte before the
//! target is touched.
//!
//! `new` fills a database under a working name and renames it only when its rows were compared with the manifest;
//! `in-place` makes and proves a safety backup first, and then is one transaction.

mod error;
mod target;

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

pub use error::{Difference, RestoreError};
use target::Target;

use crate::backup::{self, BackupRequest, Stages};
use crate::model::connection::Connection;
use crate::model::ids::Uid;
use crate::model::kind::BackupKind;
use crate::model::manifest::{Manifest, RowCounts};
use crate::model::object_key::ObjectKey;
use crate::model::target::TargetName;
use crate::pg::inspect::{self, Compared, Session};
use crate::pg::{Client, Codec, Load, LoadMode, PgError, dumped_by};
use crate::progress::Progress;
use crate::vault::{Entry, Fetched, Limits, Selector, VaultError};

/// Where the restored content goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Into a database that does not exist yet.
    New,
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
    /// That database's name among the targets, for its safety backup.
    pub target: TargetName,
    /// How.
    pub mode: Mode,
    /// Used by [`Mode::InPlace`]; a new database has nothing to save.
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
        Mode::New => new(&proven, stages, progress, cancel).await,
        Mode::InPlace => in_place(&proven, stages, progress, cancel).await,
    };
    if let Some(lock) = lock {
        lock.release().await;
    }
    let Loaded {
        compared,
        plain_bytes,
        safety_backup,
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
        warnings,
    })
}

/// A backup that was proved, and a target that was looked at.
struct Proven {
    fetched: Fetched,
    to: Connection,
    target: TargetName,
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
        target: name,
        mode,
        safety,
        limits,
    } = request;
    progress.start_stage("look at the target");
    let mut target = Target::look(&to, mode)
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
        target: name,
        mode,
        safety,
        limits,
        client,
        list,
        warnings,
    })
}

async fn in_place(
    proven: &Proven,
    stages: &Stages,
    progress: &Arc<Progress>,
    cancel: &CancellationToken,
) -> Result<Loaded, RestoreError> {
    let safety = match &proven.safety {
        Safety::Backup => Some(safety_backup(proven, stages, progress, cancel).await?),
        Safety::Made(key) => {
            let name = key.backup_name().unwrap_or(key.as_str()).to_owned();
            Some(proved(stages, key, name, proven, progress, cancel).await?)
        }
        Safety::Skip => None,
    };
    progress.start_stage("load");
    let database = proven.to.database().to_owned();
    let load = load(
        proven,
        LoadMode::InPlace(&proven.to, &proven.list),
        stages,
        progress,
    );
    let loaded = cancel.run_until_cancelled(load).await;
    let loaded = loaded.ok_or_else(|| RestoreError::Interrupted(safety.clone()))?;
    let (plain_bytes, mut warnings) = loaded.map_err(|source| RestoreError::LoadInPlace {
        database: database.clone(),
        safety: safety.clone(),
        source,
    })?;

    // It is committed: from here on an error says so, and an interruption comes too late.
    progress.start_stage("compare the rows");
    let compared = match compare(&proven.to, proven.fetched.manifest()).await {
        Ok(Ok(compared)) => compared,
        Ok(Err(differences)) => {
            return Err(RestoreError::CountsInPlace {
                database,
                differences,
                safety,
            });
        }
        Err(source) => {
            return Err(RestoreError::Count {
                database,
                safety,
                source,
            });
        }
    };
    warnings.extend(analyze(&proven.to, progress).await);
    Ok(Loaded {
        compared,
        plain_bytes,
        safety_backup: safety,
        warnings,
    })
}

/// The target as it is now, proved the same way as the backup that replaces it.
async fn safety_backup(
    proven: &Proven,
    stages: &Stages,
    progress: &Arc<Progress>,
    cancel: &CancellationToken,
) -> Result<String, RestoreError> {
    let replaced_by = (
        "before_restore_of".to_owned(),
        proven.fetched.name().to_owned(),
    );
    let request = BackupRequest {
        connection: proven.to.clone(),
        target: proven.target.to_string(),
        kind: BackupKind::PreRestore,
        labels: BTreeMap::from([replaced_by]),
        exclude_table_data: Vec::new(),
        requested: None,
    };
    let made = backup::run_locked(stages, &request, Vec::new(), progress, cancel).await;
    let manifest = made.map_err(RestoreError::Safety)?;
    let key = ObjectKey::parse(&manifest.object_key).map_err(|_| RestoreError::SafetyUnproved {
        name: manifest.name.clone(),
        source: VaultError::BadKey(manifest.object_key.clone()),
    })?;
    proved(stages, &key, manifest.name, proven, progress, cancel).await
}

/// The safety backup's name, once it is proved that it could be restored.
async fn proved(
    stages: &Stages,
    key: &ObjectKey,
    name: String,
    proven: &Proven,
    progress: &Arc<Progress>,
    cancel: &CancellationToken,
) -> Result<String, RestoreError> {
    let verified = cancel
        .run_until_cancelled(verify(stages, key, proven, progress))
        .await;
    match verified {
        None => Err(RestoreError::Interrupted(Some(name))),
        Some(Err(source)) => Err(RestoreError::SafetyUnproved { name, source }),
        Some(Ok(())) => Ok(name),
    }
}

async fn verify(
    stages: &Stages,
    key: &ObjectKey,
    proven: &Proven,
    progress: &Arc<Progress>,
) -> Result<(), VaultError> {
    // Found again by its key: what is verified is what the store has, not what this process remembers.
    let entry = stages.vault.find(&Selector::Key(key.clone())).await?;
    let fetched = stages.vault.fetch(entry, progress).await?;
    stages
        .vault
        .verify(&fetched, &stages.clients, proven.limits, progress)
        .await
        .map(drop)
}

async fn new(
    proven: &Proven,
    stages: &Stages,
    progress: &Arc<Progress>,
    cancel: &CancellationToken,
) -> Result<Loaded, RestoreError> {
    let mut maintenance = inspect::maintenance_session(&proven.to)
        .await
        .map_err(RestoreError::New)?;
    let working_name = target::working_name(proven.to.database(), Uid::new((stages.clock)()));
    progress.start_stage("create the database");
    let facts = proven.fetched.manifest().map(|manifest| &manifest.database);
    inspect::create_database(&mut maintenance, &working_name, facts)
        .await
        .map_err(RestoreError::New)?;

    let filled = cancel
        .run_until_cancelled(fill(proven, &working_name, stages, progress))
        .await;
    let finished = match filled.unwrap_or(Err(RestoreError::Interrupted(None))) {
        Ok(mut loaded) => {
            if let Some(facts) = facts {
                loaded.warnings.extend(
                    inspect::apply_properties(&mut maintenance, &working_name, facts).await,
                );
            }
            let name = proven.to.database();
            let renamed = inspect::rename_database(&mut maintenance, &working_name, name).await;
            renamed.map(|()| loaded).map_err(RestoreError::New)
        }
        Err(error) => Err(error),
    };
    if finished.is_err() {
        if let Err(error) = inspect::drop_database(&mut maintenance, &working_name).await {
            tracing::warn!(%error, database = working_name, "Restore left its unfinished database behind");
        }
    }
    maintenance.close().await;
    finished
}

/// Loads into the database under its working name, and compares.
async fn fill(
    proven: &Proven,
    working_name: &str,
    stages: &Stages,
    progress: &Arc<Progress>,
) -> Result<Loaded, RestoreError> {
    let to = proven.to.with_database(working_name);
    progress.start_stage("load");
    let loaded = load(proven, LoadMode::New(&to), stages, progress).await;
    let (plain_bytes, mut warnings) = loaded.map_err(RestoreError::LoadNew)?;
    progress.start_stage("compare the rows");
    let compared = compare(&to, proven.fetched.manifest())
        .await
        .map_err(RestoreError::New)?;
    let compared = compared.map_err(RestoreError::CountsNew)?;
    warnings.extend(analyze(&to, progress).await);
    Ok(Loaded {
        compared,
        plain_bytes,
        safety_backup: None,
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

/// Compares the restored rows with the manifest's: how many tables and rows are equal, or what differs. `None` where
/// there is nothing to compare with.
async fn compare(
    to: &Connection,
    manifest: Option<&Manifest>,
) -> Result<Result<Option<(usize, u64)>, Vec<Difference>>, PgError> {
    let Some(manifest) = manifest.filter(|manifest| manifest.row_counts == RowCounts::Exact) else {
        return Ok(Ok(None));
    };
    let mut session = Session::connect(to).await?;
    let compared = inspect::compare_counts(&mut session, &manifest.tables).await?;
    session.close().await;
    let differs = |table: &Compared| table.restored != Some(table.recorded);
    let differences: Vec<Difference> = compared
        .into_iter()
        .filter(differs)
        .map(Difference)
        .collect();
    if !differences.is_empty() {
        return Ok(Err(differences));
    }
    Ok(Ok(Some((
        manifest.tables.len(),
        manifest.row_count().unwrap_or(0),
    ))))
}

/// Without statistics the first queries would be slow; but the data is there, so a failure is only a warning.
async fn analyze(to: &Connection, progress: &Arc<Progress>) -> Option<String> {
    progress.start_stage("analyze");
    let analyzed = async {
        let mut session = Session::connect(to).await?;
        inspect::analyze(&mut session).await?;
        session.close().await;
        Ok::<_, PgError>(())
    };
    analyzed
        .await
        .err()
        .map(|error| format!("{error}: run ANALYZE by hand"))
}
