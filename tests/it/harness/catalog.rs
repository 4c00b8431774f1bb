//! A catalog of a test's own, and requests and manifests to fill it with.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use pgseal::catalog::{
    BackupRequested, BackupRow, Catalog, Claim, CreateDatabase, JobStatus, Lease, RestoreMode,
    RestoreRequested, Safety, Task, migrate,
};
use pgseal::model::choices::Choices;
use pgseal::model::connection::Connection;
use pgseal::model::digest::Sha256;
use pgseal::model::ids::{BackupId, Uid};
use pgseal::model::kind::BackupKind;
use pgseal::model::manifest::{DatabaseFacts, FORMAT, Manifest, RowCounts, TableFacts, Versions};
use time::OffsetDateTime;

use super::postgres::Database;

/// Longer than any test.
pub const LEASE: Duration = Duration::from_secs(3600);

/// A database with the schema, and the catalog in it.
pub async fn catalog_in(database: &Database<'_>) -> Catalog {
    let connection = connection(&database.url);
    migrate(&connection, CreateDatabase::Never).await.unwrap();
    Catalog::open(&connection).await.unwrap()
}

pub fn connection(url: &str) -> Connection {
    Connection::parse(url).unwrap()
}

/// A job's id that no other test has.
pub fn job_id() -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    format!("job-{}", COUNTER.fetch_add(1, Ordering::Relaxed))
}

pub fn backup_of(target: &str) -> BackupRequested {
    BackupRequested {
        target: target.to_owned(),
        kind: BackupKind::Manual,
        requested_by: "somebody".to_owned(),
        labels: BTreeMap::from([("why".to_owned(), "test".to_owned())]),
        excluded_table_data: vec!["logs.*".to_owned()],
        time_limit: Duration::from_secs(600),
        queue: "backups".to_owned(),
        job_id: job_id(),
        attempts_max: 2,
    }
}

pub fn restore_of(backup_id: BackupId, target: &str, safety: Safety) -> RestoreRequested {
    RestoreRequested {
        backup_id,
        target: target.to_owned(),
        mode: RestoreMode::InPlace,
        undoes: None,
        choices: Choices::default(),
        safety,
        requested_by: "somebody".to_owned(),
        time_limit: Duration::from_secs(600),
        queue: "restores".to_owned(),
        job_id: job_id(),
        attempts_max: 1,
    }
}

pub fn with_safety() -> Safety {
    Safety::Backup {
        queue: "backups".to_owned(),
        job_id: job_id(),
        time_limit: Duration::from_secs(600),
        attempts_max: 2,
    }
}

pub async fn taken(catalog: &Catalog, task: Task) -> Lease {
    match catalog.claim(task, "worker-1", LEASE).await.unwrap() {
        Claim::Taken(lease) => lease,
        other => panic!("{task} was not taken: {other:?}"),
    }
}

/// A backup that is complete, by its row.
pub async fn complete(catalog: &Catalog, target: &str) -> (BackupRow, Manifest) {
    let row = catalog.request_backup(&backup_of(target)).await.unwrap();
    let lease = taken(catalog, Task::Backup(row.id)).await;
    let manifest = manifest(target);
    catalog.complete_backup(&lease, &manifest).await.unwrap();
    let row = catalog.backup(row.id).await.unwrap().unwrap();
    (row, manifest)
}

/// A manifest that no other has.
pub fn manifest(target: &str) -> Manifest {
    let now = OffsetDateTime::now_utc();
    let uid = Uid::new(now);
    let name = format!("backup_manual_20260101_000000_{}", uid.short());
    Manifest {
        format: FORMAT,
        uid,
        object_key: format!("backups/prod/2026/01/{name}.dump.gpg"),
        name,
        kind: BackupKind::Manual,
        target: target.to_owned(),
        labels: BTreeMap::from([("why".to_owned(), "test".to_owned())]),
        started_at: now,
        finished_at: now,
        versions: Versions {
            pgseal: "0.1.0".to_owned(),
            pg_dump: "pg_dump (PostgreSQL) 15".to_owned(),
            server: "15".to_owned(),
            server_num: 150_000,
        },
        plain_bytes: 1000,
        plain_sha256: Sha256([1; 32]),
        sealed_bytes: 500,
        sealed_sha256: Sha256([2; 32]),
        store_version_id: Some("v1".to_owned()),
        compression: "zlib:3".to_owned(),
        database: facts(),
        row_counts: RowCounts::Exact,
        tables: vec![TableFacts {
            schema: "public".to_owned(),
            name: "t".to_owned(),
            rows: Some(7),
            digest: None,
        }],
        large_objects: 3,
        excluded_table_data: vec!["logs.*".to_owned()],
        archive_list: String::new(),
        warnings: vec!["mind the gap".to_owned()],
        request: None,
        unknown: serde_json::Map::new(),
    }
}

fn facts() -> DatabaseFacts {
    DatabaseFacts {
        name: "shop".to_owned(),
        owner: "postgres".to_owned(),
        size_bytes: 8192,
        encoding: "UTF8".to_owned(),
        collate: "C".to_owned(),
        ctype: "C".to_owned(),
        locale_provider: "c".to_owned(),
        locale: None,
        collation_version: None,
        tablespace: None,
        connection_limit: -1,
        comment: None,
        settings: Vec::new(),
        role_settings: BTreeMap::new(),
        acl: None,
        extensions: BTreeMap::new(),
        roles: Vec::new(),
        bound_roles: BTreeMap::new(),
        is_template: false,
    }
}

/// How far a job is.
pub async fn status(catalog: &Catalog, task: Task) -> JobStatus {
    match task {
        Task::Backup(id) => catalog.backup(id).await.unwrap().unwrap().job.status,
        Task::Restore(id) => catalog.restore(id).await.unwrap().unwrap().job.status,
    }
}

/// Wants a complete row to say everything that the manifest does.
pub fn is_manifest_s(row: &BackupRow, manifest: &Manifest) {
    assert_eq!(row.job.status, JobStatus::Completed);
    assert_eq!(row.uid, Some(manifest.uid));
    assert_eq!(row.object_key.as_ref(), Some(&manifest.object_key));
    assert_eq!(row.store_version_id, manifest.store_version_id);
    assert_eq!(row.database.as_ref(), Some(&manifest.database.name));
    assert_eq!(row.server_version.as_ref(), Some(&manifest.versions.server));
    assert_eq!(
        row.pg_dump_version.as_ref(),
        Some(&manifest.versions.pg_dump)
    );
    assert_eq!(row.pgseal_version.as_ref(), Some(&manifest.versions.pgseal));
    assert_eq!(row.compression.as_ref(), Some(&manifest.compression));
    assert_eq!(row.plain_bytes, Some(manifest.plain_bytes));
    assert_eq!(row.plain_sha256, Some(manifest.plain_sha256));
    assert_eq!(row.sealed_bytes, Some(manifest.sealed_bytes));
    assert_eq!(row.sealed_sha256, Some(manifest.sealed_sha256));
    assert_eq!(
        (row.tables, row.rows, row.large_objects),
        (Some(1), Some(7), Some(3))
    );
    assert_eq!(row.warnings, manifest.warnings);
    let microseconds = |at: time::OffsetDateTime| at.unix_timestamp_nanos() / 1000;
    assert_eq!(
        row.snapshot_at.map(microseconds),
        Some(microseconds(manifest.started_at))
    );
    assert_eq!(
        row.stored_at.map(microseconds),
        Some(microseconds(manifest.finished_at))
    );
}
