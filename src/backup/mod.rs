//! A backup: lock, look, snapshot, stream, commit, manifest, in this order and no other.
//!
//! The commit gate: the upload is completed only after pg_dump exited with 0, its output ended, the OpenPGP message
//! was finalised and its digests are known; the manifest, written last, is what makes it a backup. Every other ending
//! aborts the upload, so that no cut dump can ever look like a backup.

mod error;
mod patience;
mod stream;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use error::BackupError;
use patience::Patience;
use stream::{Flow, Streamed};

use crate::model::connection::Connection;
use crate::model::ids::Uid;
use crate::model::kind::BackupKind;
use crate::model::manifest::{DatabaseFacts, FORMAT, Manifest, Requested, RowCounts, Versions};
use crate::model::object_key::ObjectKey;
use crate::pg::inspect::{self, Server, Session, Table, TargetLock};
use crate::pg::{Client, Clients, DumpCompression, DumpRequest, PgError, Severity};
use crate::progress::Progress;
use crate::seal::{Packing, Sealed};
use crate::store::{ObjectHead, Upload};
use crate::vault::{ListCache, Vault};

/// The fastest level that stores at most 1.15 times what pg_dump's own default does (measured; the README shows the trade).
const ZLIB_LEVEL_DEFAULT: u8 = 3;
/// The fastest of zstd's ordinary levels still stores less than zlib's default.
const ZSTD_LEVEL_DEFAULT: u8 = 1;
/// How long a backup waits for tables that somebody has locked, before it gives up.
const LOCK_WAIT_DEFAULT: Duration = Duration::from_secs(5 * 60);

/// Nothing that still goes on is without a new part for this long: one part is tried for 45 minutes.
const STALE_AFTER: Duration = Duration::from_hours(24);

/// What every backup and restore of this process works with.
#[derive(Clone)]
pub struct Stages {
    /// Where backups are, and what opens them.
    pub vault: Vault,
    /// What listings remember.
    pub list_cache: ListCache,
    /// The client programs on this machine.
    pub clients: Clients,
    /// The time: an argument, so that tests can choose it.
    pub clock: fn() -> OffsetDateTime,
    /// How backups are made.
    pub settings: BackupSettings,
}

/// How backups are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupSettings {
    /// From 1 to 9; `None`: the default of whichever compressor is used.
    pub compression_level: Option<u8>,
    /// Whether rows are counted in the dump's snapshot.
    pub row_counts: RowCounts,
    /// Whether a pg_dump may be used whose archive cannot go back into an older server.
    pub newer_client: NewerClient,
    /// How long to wait for locked tables, in all.
    pub lock_wait: Duration,
}

/// Whether a pg_dump of 17 or later may dump an older server: its archive cannot go back there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NewerClient {
    /// No.
    #[default]
    Refused,
    /// Yes; the manifest warns.
    Allowed,
}

impl Default for BackupSettings {
    fn default() -> Self {
        Self {
            compression_level: None,
            row_counts: RowCounts::Exact,
            newer_client: NewerClient::Refused,
            lock_wait: LOCK_WAIT_DEFAULT,
        }
    }
}

/// One backup.
#[derive(Clone, Debug)]
pub struct BackupRequest {
    /// Which database.
    pub connection: Connection,
    /// The configured target's name.
    pub target: String,
    /// Why.
    pub kind: BackupKind,
    /// What the user attaches.
    pub labels: BTreeMap<String, String>,
    /// Patterns of tables whose data is left out, as pg_dump reads them.
    pub exclude_table_data: Vec<String>,
    /// The catalog's row that it is made for; `None`: nobody keeps one.
    pub requested: Option<Requested>,
}

/// Makes a backup, and returns its manifest once that was read back from the store.
///
/// # Errors
/// A stage failed or `cancel` was called; then nothing of it is left in the store.
pub async fn run(
    stages: &Stages,
    request: &BackupRequest,
    progress: &Arc<Progress>,
    cancel: &CancellationToken,
) -> Result<Manifest, BackupError> {
    progress.start_stage("prepare");
    let taken = TargetLock::take(&request.connection).await;
    let lock = taken.map_err(BackupError::Prepare)?;
    let mut warnings = Vec::new();
    if lock.is_none() {
        warnings.push(
            "no lock was taken: the role may connect to neither postgres nor template1".to_owned(),
        );
    }
    let made = run_locked(stages, request, warnings, progress, cancel).await;
    if let Some(lock) = lock {
        lock.release().await;
    }
    if made.is_ok() {
        clean_up(stages).await;
    }
    made
}

/// Removes what uploads that were killed have left. That it cannot be done spoils no backup.
async fn clean_up(stages: &Stages) {
    let prefix = stages.vault.layout.listing_prefix();
    match stages
        .vault
        .store
        .abort_stale_uploads(&prefix, STALE_AFTER)
        .await
    {
        Ok(0) => {}
        Ok(uploads) => tracing::info!(
            uploads,
            "Backup cleaned up after earlier ones that were killed"
        ),
        Err(error) => tracing::warn!(%error, "Backup could not clean up after earlier ones"),
    }
}

/// As [`run`], for a caller that holds the database's lock already.
pub(crate) async fn run_locked(
    stages: &Stages,
    request: &BackupRequest,
    warnings: Vec<String>,
    progress: &Arc<Progress>,
    cancel: &CancellationToken,
) -> Result<Manifest, BackupError> {
    let mut patience = Patience::new(stages.settings.lock_wait);
    loop {
        let warnings = warnings.clone();
        let made = attempt(
            stages,
            request,
            warnings,
            patience.one_try,
            progress,
            cancel,
        )
        .await;
        let Err(BackupError::Locked(reason)) = made else {
            return made;
        };
        let Some(pause) = patience.pause() else {
            return Err(BackupError::Locked(reason));
        };
        tracing::info!(%reason, "Backup waits for locked tables");
        progress.start_stage("wait for locked tables");
        let paused = cancel.run_until_cancelled(tokio::time::sleep(pause)).await;
        paused.ok_or(BackupError::Interrupted)?;
    }
}

/// One try: nothing of it is left where tables are locked for longer than `lock_wait`.
async fn attempt(
    stages: &Stages,
    request: &BackupRequest,
    warnings: Vec<String>,
    lock_wait: Duration,
    progress: &Arc<Progress>,
    cancel: &CancellationToken,
) -> Result<Manifest, BackupError> {
    let prepared = cancel
        .run_until_cancelled(prepare(stages, request, warnings, lock_wait, progress))
        .await;
    let mut prepared = prepared.ok_or(BackupError::Interrupted)??;
    progress.set_object(prepared.uid, &prepared.key);
    let started = stages
        .vault
        .store
        .upload(
            &prepared.key,
            prepared.uid,
            Some(prepared.sealed_bytes_expected()),
        )
        .await;
    let mut upload = started.map_err(BackupError::Store)?;

    let flowed = cancel
        .run_until_cancelled(flow(stages, request, &mut prepared, &mut upload, progress))
        .await;
    let streamed = match flowed.unwrap_or(Err(BackupError::Interrupted)) {
        // A request that came with the last byte counts: who lost the right to make this backup must not complete it.
        Ok(streamed) if !cancel.is_cancelled() => streamed,
        ended => {
            let error = ended.err().unwrap_or(BackupError::Interrupted);
            if let Err(abort) = upload.abort().await {
                tracing::warn!(error = %abort, object.key = %prepared.key, "Backup left an unfinished upload behind");
            }
            return Err(error);
        }
    };
    // From here on it takes moments: a request to stop comes too late, and the backup is finished.
    commit(stages, request, prepared, upload, streamed, progress).await
}

/// What was settled before the first byte.
struct Prepared {
    uid: Uid,
    key: ObjectKey,
    started_at: OffsetDateTime,
    session: Session,
    snapshot: String,
    client: Client,
    zstd: bool,
    database: DatabaseFacts,
    tables: Vec<Table>,
    large_objects: u64,
    exclude_schemas: &'static [&'static str],
    lock_wait: Duration,
    warnings: Vec<String>,
}

impl Prepared {
    /// A guess that only chooses the parts' sizes: sealed dumps are smaller than their databases, most by far.
    const fn sealed_bytes_expected(&self) -> u64 {
        self.database.size_bytes
    }

    fn compression(&self, settings: &BackupSettings) -> (DumpCompression, Packing, String) {
        if self.zstd {
            let level = settings.compression_level.unwrap_or(ZSTD_LEVEL_DEFAULT);
            return (
                DumpCompression::Zstd(level),
                Packing::Stored,
                format!("zstd:{level}"),
            );
        }
        let level = settings.compression_level.unwrap_or(ZLIB_LEVEL_DEFAULT);
        (
            DumpCompression::None,
            Packing::Zlib(level),
            format!("zlib:{level}"),
        )
    }
}

async fn prepare(
    stages: &Stages,
    request: &BackupRequest,
    mut warnings: Vec<String>,
    lock_wait: Duration,
    progress: &Arc<Progress>,
) -> Result<Prepared, BackupError> {
    stages
        .vault
        .current_passphrase()
        .map_err(BackupError::Passphrase)?;
    stages
        .vault
        .store
        .check_bucket()
        .await
        .map_err(BackupError::PrepareStore)?;
    let mut session = Session::connect(&request.connection)
        .await
        .map_err(BackupError::Prepare)?;
    let client =
        choose_client(stages, session.server(), &mut warnings).map_err(BackupError::Prepare)?;
    look(&mut session, &mut warnings)
        .await
        .map_err(BackupError::Prepare)?;
    let zstd = client.has_zstd().await;

    progress.start_stage("take the snapshot");
    let started_at = (stages.clock)();
    let snapshot = inspect::open_snapshot(&mut session, lock_wait)
        .await
        .map_err(not_prepared)?;
    let database = inspect::inventory(&mut session)
        .await
        .map_err(BackupError::Prepare)?;
    let tables = inspect::tables(&mut session)
        .await
        .map_err(BackupError::Prepare)?;
    let large_objects = inspect::large_objects(&mut session)
        .await
        .map_err(BackupError::Prepare)?;
    let exclude_schemas = inspect::catalog_schemas(&mut session)
        .await
        .map_err(BackupError::Prepare)?;
    let uid = Uid::new(started_at);
    let key = free_key(stages, request.kind, started_at, uid).await?;
    Ok(Prepared {
        uid,
        key,
        started_at,
        session,
        snapshot,
        client,
        zstd,
        database,
        tables,
        large_objects,
        exclude_schemas,
        lock_wait,
        warnings,
    })
}

fn not_prepared(error: PgError) -> BackupError {
    match error {
        locked @ PgError::Locked(_) => BackupError::Locked(locked),
        other => BackupError::Prepare(other),
    }
}

fn choose_client(
    stages: &Stages,
    server: &Server,
    warnings: &mut Vec<String>,
) -> Result<Client, PgError> {
    let major = server.major();
    let client = stages
        .clients
        .for_dump(major, stages.settings.newer_client == NewerClient::Allowed)?;
    if client.major != major {
        warnings.push(format!(
            "pg_dump {} dumped a PostgreSQL {major} server: install postgresql-client-{major} to be able to restore into that version",
            client.major
        ));
    }
    Ok(client.clone())
}

/// Problems end the backup before it starts; warnings go into its manifest.
async fn look(session: &mut Session, warnings: &mut Vec<String>) -> Result<(), PgError> {
    let findings = inspect::preflight_dump(session).await?;
    let (problems, rest): (Vec<_>, Vec<_>) = findings
        .into_iter()
        .partition(|finding| finding.severity == Severity::Problem);
    if !problems.is_empty() {
        return Err(PgError::Preflight(problems));
    }
    let worth_saying = rest
        .into_iter()
        .filter(|finding| finding.severity == Severity::Warning);
    warnings.extend(worth_saying.map(|finding| format!("{}: {}", finding.subject, finding.found)));
    Ok(())
}

/// The backup's name, with a part of its uid where the plain one is taken, by a dump or by a manifest alone.
async fn free_key(
    stages: &Stages,
    kind: BackupKind,
    started_at: OffsetDateTime,
    uid: Uid,
) -> Result<ObjectKey, BackupError> {
    let store = &stages.vault.store;
    let plain = stages.vault.layout.dump_key(kind, started_at, None);
    let mut taken = store
        .head(&plain)
        .await
        .map_err(BackupError::PrepareStore)?
        .is_some();
    if let (false, Some(manifest)) = (taken, plain.manifest_key()) {
        taken = store
            .head(&manifest)
            .await
            .map_err(BackupError::PrepareStore)?
            .is_some();
    }
    Ok(if taken {
        stages.vault.layout.dump_key(kind, started_at, Some(&uid))
    } else {
        plain
    })
}

async fn flow(
    stages: &Stages,
    request: &BackupRequest,
    prepared: &mut Prepared,
    upload: &mut Upload,
    progress: &Arc<Progress>,
) -> Result<Streamed, BackupError> {
    progress.start_stage("dump");
    let (dump_compression, packing, _) = prepared.compression(&stages.settings);
    let passphrase = stages
        .vault
        .current_passphrase()
        .map_err(BackupError::Passphrase)?;
    let connection = prepared.session.connection().clone();
    let dump = DumpRequest {
        client: &prepared.client,
        connection: &connection,
        snapshot: &prepared.snapshot,
        exclude_table_data: &request.exclude_table_data,
        encoding: &prepared.database.encoding,
        exclude_schemas: prepared.exclude_schemas,
        compression: dump_compression,
        // We have the locks already: it can only wait behind somebody who waits for us, which no waiting ends.
        lock_wait: prepared.lock_wait,
    };
    let flow = Flow {
        dump,
        packing,
        passphrase,
        row_counts: stages.settings.row_counts,
        progress,
    };
    let started = Instant::now();
    let flowed = flow
        .run(&mut prepared.session, &prepared.tables, upload)
        .await;
    match flowed {
        // Sooner, it is another fault of the same statement.
        Err(BackupError::Dump(error))
            if error.is_about_table_locks() && started.elapsed() >= prepared.lock_wait =>
        {
            let blockers = inspect::blockers(&mut prepared.session).await;
            let blockers = blockers.map_err(BackupError::Prepare)?;
            Err(BackupError::Locked(PgError::Locked(blockers)))
        }
        flowed => flowed,
    }
}

async fn commit(
    stages: &Stages,
    request: &BackupRequest,
    prepared: Prepared,
    upload: Upload,
    streamed: Streamed,
    progress: &Arc<Progress>,
) -> Result<Manifest, BackupError> {
    progress.start_stage("complete the upload");
    // The manifest needs the upload's end, its key does not: it is derived while the store flushes.
    let sealer = stages.vault.prepare_manifest();
    let head = upload.commit().await.map_err(BackupError::Store)?;
    let key = prepared.key.clone();
    if head.bytes != streamed.sealed.sealed_bytes {
        discard(stages, &key).await;
        return Err(BackupError::Size {
            sent: streamed.sealed.sealed_bytes,
            stored: head.bytes,
        });
    }
    progress.start_stage("write the manifest");
    let finished_at = (stages.clock)();
    let (manifest, session) = manifest(stages, request, prepared, streamed, &head, finished_at);
    session.close().await;
    if let Err(error) = stages.vault.put_manifest(sealer, &key, &manifest).await {
        discard(stages, &key).await;
        return Err(BackupError::Manifest(error));
    }
    Ok(manifest)
}

/// Deletes what must not stay. Where even that fails, the object stays unfinished: never offered, cleaned up later.
async fn discard(stages: &Stages, key: &ObjectKey) {
    if let Err(error) = stages.vault.delete_here(key).await {
        tracing::warn!(%error, object.key = %key, "Backup left an unfinished object behind");
    }
}

fn manifest(
    stages: &Stages,
    request: &BackupRequest,
    prepared: Prepared,
    streamed: Streamed,
    head: &ObjectHead,
    finished_at: OffsetDateTime,
) -> (Manifest, Session) {
    let (_, _, compression) = prepared.compression(&stages.settings);
    let Sealed {
        plain_bytes,
        plain_sha256,
        sealed_bytes,
        sealed_sha256,
    } = streamed.sealed;
    let mut warnings = prepared.warnings;
    warnings.extend(streamed.warnings);
    let server = prepared.session.server();
    let manifest = Manifest {
        format: FORMAT,
        uid: prepared.uid,
        name: prepared.key.backup_name().unwrap_or_default().to_owned(),
        object_key: prepared.key.to_string(),
        kind: request.kind,
        target: request.target.clone(),
        labels: request.labels.clone(),
        started_at: prepared.started_at,
        finished_at,
        versions: Versions {
            pgseal: env!("CARGO_PKG_VERSION").to_owned(),
            pg_dump: prepared.client.version.clone(),
            server: server.version.clone(),
            server_num: server.version_num,
        },
        plain_bytes,
        plain_sha256,
        sealed_bytes,
        sealed_sha256,
        store_version_id: head.version_id.clone(),
        compression,
        database: prepared.database,
        row_counts: stages.settings.row_counts,
        tables: streamed.tables,
        large_objects: prepared.large_objects,
        excluded_table_data: request.exclude_table_data.clone(),
        archive_list: streamed.archive_list,
        warnings,
        request: request.requested.clone(),
        unknown: serde_json::Map::new(),
    };
    (manifest, prepared.session)
}
