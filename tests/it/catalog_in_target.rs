//! A catalog inside the database that is backed up: it is neither dumped nor restored.

use crate::harness::catalog::{backup_of, catalog_in};
use crate::harness::cli::Pgseal;
use crate::harness::postgres::{Database, Postgres};
use crate::harness::service::Service;

fn tables(shown: &serde_json::Value) -> Vec<String> {
    let tables = shown["tables"].as_array().unwrap().iter();
    tables
        .map(|table| {
            format!(
                "{}.{}",
                table["schema"].as_str().unwrap(),
                table["name"].as_str().unwrap()
            )
        })
        .collect()
}

fn has_schema(database: &Database<'_>) -> bool {
    database.psql("SELECT count(*) FROM pg_namespace WHERE nspname = 'pgseal'") == "1"
}

/// Row 61: restored over, the catalog stays as it is; restored beside, it is not there.
#[tokio::test]
async fn the_catalog_is_left_alone() {
    let server = Postgres::shared();
    let database = server.create_database("catalog_inside");
    database.psql("CREATE TABLE t AS SELECT generate_series(1, 10) n; CREATE SCHEMA pgsealed; CREATE TABLE pgsealed.u ()");
    let catalog = catalog_in(&database).await;
    catalog.request_backup(&backup_of("before")).await.unwrap();
    let pgseal = Pgseal::new();
    pgseal.ok(&["backup", &database.url]);
    let shown = pgseal.json(&["show", "latest", "--contents"]);
    assert_eq!(tables(&shown), ["pgsealed.u", "public.t"]);
    let list = shown["contents"].as_str().unwrap();
    assert!(
        list.contains("pgsealed") && !list.contains(" pgseal "),
        "{list}"
    );

    catalog.request_backup(&backup_of("after")).await.unwrap();
    let rows = database.psql("SELECT * FROM pgseal.backups ORDER BY id");
    database.psql("DELETE FROM t");
    pgseal.ok(&[
        "restore",
        "latest",
        "--to",
        &database.url,
        "--mode",
        "in-place",
    ]);
    assert_eq!(database.psql("SELECT count(*) FROM t"), "10");
    assert_eq!(
        database.psql("SELECT * FROM pgseal.backups ORDER BY id"),
        rows
    );
    assert_eq!(rows.lines().count(), 2);
    let beside = server.name("catalog_beside");
    pgseal.ok(&["restore", "latest", "--to", &beside.url, "--mode", "new"]);
    assert_eq!(beside.psql("SELECT count(*) FROM t"), "10");
    assert!(!has_schema(&beside));
}

/// What hangs on it would be dumped and could not be restored: that is said before the day of the restore.
#[tokio::test]
async fn what_hangs_on_the_catalog_is_named() {
    let database = Postgres::shared().create_database("catalog_hung_on");
    catalog_in(&database).await;
    let pgseal = Pgseal::new();
    let warnings =
        |pgseal: &Pgseal| pgseal.json(&["backup", &database.url])["warnings"].to_string();
    assert_eq!(warnings(&pgseal), "[]");
    database.psql("CREATE VIEW jobs AS SELECT id, status FROM pgseal.backups");
    database.psql("CREATE TABLE notes (backup bigint REFERENCES pgseal.backups)");
    database.psql("CREATE EXTENSION hstore SCHEMA pgseal");
    let said = warnings(&pgseal);
    for name in ["view public.jobs", "table public.notes", "extension hstore"] {
        assert!(said.contains(name), "{name} is not in {said}");
    }
}

/// A schema of that name that is somebody's own is dumped like any other.
#[test]
fn a_schema_of_that_name_that_is_no_catalog_is_dumped() {
    let server = Postgres::shared();
    let database = server.create_database("own_pgseal");
    database.psql("CREATE SCHEMA pgseal; CREATE TABLE pgseal.backups AS SELECT 7 n");
    let pgseal = Pgseal::new();
    pgseal.ok(&["backup", &database.url]);
    assert_eq!(
        tables(&pgseal.json(&["show", "latest"])),
        ["pgseal.backups"]
    );
    let beside = server.name("own_pgseal_beside");
    pgseal.ok(&["restore", "latest", "--to", &beside.url, "--mode", "new"]);
    assert_eq!(beside.psql("SELECT n FROM pgseal.backups"), "7");
}

/// Jobs that were made since the backup are still there when the database has been restored, in place by itself; a swap,
/// which would leave them behind, is refused; and how each ended is recorded.
#[test]
fn a_restore_job_over_the_catalog_s_own_database_is_recorded_in_it() {
    let mut service = Service::start();
    service
        .pgseal
        .set("CATALOG_DATABASE_URL", &service.database.url);
    service.catalog = Postgres::shared().exactly(&service.database.name);
    service.pgseal.ok(&["migrate"]);
    let rows = |service: &Service| {
        service
            .database
            .psql("SELECT count(*) FROM customers WHERE name = 'gone'")
    };
    let (backup, _) = service.enqueue_backup();
    service.burst();
    let (since, _) = service.enqueue_backup();
    service.burst();
    service.database.psql("UPDATE customers SET name = 'gone'");
    assert_ne!(rows(&service), "0");
    let ask = |service: &Service, mode: &str| {
        let backup = backup.to_string();
        let asked = service
            .pgseal
            .json(&["enqueue", "restore", &backup, "--mode", mode]);
        service.burst();
        asked["restore_id"].as_i64().unwrap()
    };
    let swapped = ask(&service, "swap");
    assert_eq!(service.restore(swapped, "status"), "failed");
    let error = service.restore(swapped, "error");
    assert!(error.contains("CATALOG_DATABASE_URL"), "{error}");
    assert_ne!(rows(&service), "0");

    let restored = ask(&service, "auto");
    assert_eq!(
        service.restore(restored, "status"),
        "completed",
        "{}",
        service.restore(restored, "error")
    );
    assert_eq!(rows(&service), "0");
    for id in [backup, since] {
        assert_eq!(service.backup(id, "status"), "completed");
    }
    assert_eq!(service.restore(swapped, "status"), "failed");
    // And it goes on with the same catalog.
    let (next, _) = service.enqueue_backup();
    service.burst();
    assert_eq!(service.backup(next, "status"), "completed");
}
