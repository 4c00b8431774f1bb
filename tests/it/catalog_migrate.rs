//! The schema comes to be, once, whoever is killed or quicker meanwhile; and a form that is not known is refused.

use pgseal::catalog::{Catalog, CatalogError, CreateDatabase, migrate};
use rustix::process::Signal;

use crate::harness::catalog::{catalog_in, connection};
use crate::harness::cli::Pgseal;
use crate::harness::postgres::{DEBIAN_MAJOR, Postgres};
use crate::harness::somebody::{Somebody, until};
use crate::harness::toll::Toll;
use crate::harness::{scale, text};

const TABLES: &str = "SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class WHERE relkind = 'r' AND relnamespace = \
     (SELECT oid FROM pg_namespace WHERE nspname = 'pgseal')";
const ALL_TABLES: &str = "_sqlx_migrations audit backups deliveries drills events idempotency_keys pins restores running_targets schedule_slots schedules";
/// How many migrations there are; they are numbered from 1 on.
const NEWEST: usize = 10;

/// The default place: a database of its own on the same server, made by the one command, and by nobody else.
#[test]
fn the_catalog_s_database_is_created_where_nobody_named_one() {
    let server = Postgres::start_major(DEBIAN_MAJOR);
    let shop = server.create_database("shop");
    let mut pgseal = Pgseal::new();
    let said = pgseal.fails(5, &["migrate"]);
    assert!(
        said.contains("CATALOG_DATABASE_URL") && said.contains("DATABASE_URL"),
        "{said}"
    );
    pgseal.set("DATABASE_URL", &shop.url);
    let said = pgseal.fails(5, &["catalog", "reconcile"]);
    assert!(
        said.contains("is not there") && said.contains("hint: run pgseal migrate"),
        "{said}"
    );

    // Many at once: one creates it, one migrates it, all succeed.
    let runs: Vec<_> = (0..6)
        .map(|_| pgseal.start(&["migrate", "--json"]))
        .collect();
    let (mut created, mut applied) = (0, 0);
    for run in runs {
        let run = run.wait();
        assert_eq!(run.code, 0, "{run}");
        let said: serde_json::Value = serde_json::from_slice(&run.stdout).unwrap();
        created += usize::from(said["created_database"] == "pgseal");
        applied += said["applied"].as_array().unwrap().len();
        assert_eq!(said["version"], NEWEST);
    }
    assert_eq!((created, applied), (1, NEWEST));
    assert_eq!(server.psql("pgseal", TABLES), ALL_TABLES);
    assert_eq!(
        shop.psql("SELECT count(*) FROM pg_namespace WHERE nspname = 'pgseal'"),
        "0"
    );
    let again = pgseal.ok(&["migrate"]);
    assert!(
        again.contains("was up to date") && !again.contains("created"),
        "{again}"
    );

    // A role that may not create databases hears of both ways out, and the second one works.
    server.psql("postgres", "CREATE ROLE app LOGIN PASSWORD 'dummy-app'");
    server.psql("postgres", "DROP DATABASE pgseal");
    server.psql(
        "postgres",
        &format!("GRANT CREATE ON DATABASE {} TO app", shop.name),
    );
    let url = server.url_as("app", "dummy-app", &shop.name);
    pgseal.set("DATABASE_URL", &url);
    let said = pgseal.fails(5, &["migrate"]);
    assert!(
        said.contains("create database pgseal") && said.contains("role app may not"),
        "{said}"
    );
    assert!(
        said.contains("to another database") && said.contains("same URL as DATABASE_URL"),
        "{said}"
    );
    assert!(!said.contains("dummy"), "{said}");
    let missing = server.url_as("app", "dummy-app", "nowhere");
    pgseal.set("CATALOG_DATABASE_URL", &missing);
    let said = pgseal.fails(5, &["migrate"]);
    assert!(said.contains("database nowhere is not there"), "{said}");
    let file = pgseal.file("catalog-url");
    std::fs::write(&file, format!("{url}\n")).unwrap();
    pgseal
        .unset("CATALOG_DATABASE_URL")
        .set("CATALOG_DATABASE_URL_FILE", &file);
    pgseal.ok(&["migrate"]);
    assert_eq!(shop.psql(TABLES), ALL_TABLES);
}

#[tokio::test]
async fn a_role_that_may_not_migrate_hears_what_to_grant() {
    let server = Postgres::shared();
    let database = server.create_database("may_not_migrate");
    server.psql("postgres", "CREATE ROLE may_not LOGIN PASSWORD 'dummy-app'");
    let url = server.url_as("may_not", "dummy-app", &database.name);
    let error = migrate(&connection(&url), CreateDatabase::Never)
        .await
        .unwrap_err();
    assert!(
        matches!(error, CatalogError::MayNotMigrate { .. }),
        "{error}"
    );
    assert!(
        error.to_string().contains("GRANT CREATE ON DATABASE"),
        "{error}"
    );
    server.psql("postgres", "DROP ROLE may_not");
}

/// Row 62: killed in the middle of a migration, nothing of it stays, and the next one does it all.
#[test]
fn a_migration_that_was_killed_is_run_again() {
    let server = Postgres::shared();
    let database = server.create_database("killed_migration");
    database.psql("CREATE SCHEMA pgseal");
    let mut pgseal = Pgseal::new();
    pgseal.set("CATALOG_DATABASE_URL", &database.url);
    let mut somebody = Somebody::enter(server, &database, "blocker");
    somebody.says("BEGIN; CREATE TABLE pgseal.restores ();");
    until("somebody's table", || somebody.is_idle());
    let migrating = pgseal.start(&["migrate"]);
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' \
        AND application_name = 'pgseal'";
    until("a migration that waits in the middle", || {
        database.psql(waiting) == "1"
    });
    migrating.signal(Signal::KILL);
    assert_eq!(migrating.wait().code, -1);
    somebody.says("ROLLBACK;");
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'pgseal'";
    until("the end of its session", || database.psql(sessions) == "0");
    assert_eq!(
        database.psql(TABLES),
        "_sqlx_migrations",
        "half of a migration stayed"
    );
    assert_eq!(
        database.psql("SELECT count(*) FROM pgseal._sqlx_migrations"),
        "0"
    );
    let applied = &pgseal.json(&["migrate"])["applied"];
    assert_eq!(applied.as_array().unwrap().len(), NEWEST, "{applied}");
    assert_eq!(database.psql(TABLES), ALL_TABLES);
}

/// Row 62: killed at any word with the server, before it was heard and after, it can be run again.
#[test]
fn a_migration_may_be_killed_at_any_word() {
    let server = Postgres::shared();
    let mut pgseal = Pgseal::new();
    let mut migrate_by = |toll: &Toll, name: &str| {
        let database = server.create_database(name);
        let port = toll.to("catalog", server.port());
        pgseal.set("CATALOG_DATABASE_URL", database.url_by(port));
        (database, pgseal.start(&["migrate"]))
    };
    let whole = Toll::new();
    let (_database, run) = migrate_by(&whole, "whole_migration");
    assert_eq!(run.wait().code, 0);
    let steps = whole.passed("catalog");
    assert!(steps > 20, "{steps}");
    let direct = Pgseal::new();
    for step in (1..=steps).step_by(scale(steps / 6, 1)) {
        let toll = Toll::new();
        toll.stop_at("catalog", step);
        let (database, mut run) = migrate_by(&toll, "cut_migration");
        until("the step", || toll.has_stopped() || !run.is_running());
        run.signal(Signal::KILL);
        run.wait();
        drop(toll);
        let mut again = direct.command(&["migrate", "--json"]);
        let said = text(again.env("CATALOG_DATABASE_URL", &database.url));
        let said: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!(said["version"], NEWEST, "step {step}");
        assert_eq!(database.psql(TABLES), ALL_TABLES, "step {step}");
        let applied = "SELECT count(*) || ' ' || bool_and(success) FROM pgseal._sqlx_migrations";
        assert_eq!(
            database.psql(applied),
            format!("{NEWEST} true"),
            "step {step}"
        );
    }
}

/// Row 62: an older program on a newer schema, a newer one on an older, and one on a schema that was changed.
#[tokio::test]
async fn a_form_that_is_not_known_is_refused() {
    let database = Postgres::shared().create_database("forms");
    let url = connection(&database.url);
    let error = Catalog::open(&url).await.map(drop).unwrap_err();
    assert!(matches!(error, CatalogError::NotMigrated { .. }), "{error}");
    catalog_in(&database).await;
    let mut pgseal = Pgseal::new();
    pgseal.set("CATALOG_DATABASE_URL", &database.url);
    for (change, undo, hint) in [
        (
            "INSERT INTO pgseal._sqlx_migrations SELECT 9999, 'later', now(), true, checksum, 1 \
             FROM pgseal._sqlx_migrations LIMIT 1",
            "DELETE FROM pgseal._sqlx_migrations WHERE version = 9999",
            "use the pgseal that migrated it",
        ),
        (
            "UPDATE pgseal._sqlx_migrations SET checksum = checksum || '\\x00'",
            "UPDATE pgseal._sqlx_migrations SET checksum = substr(checksum, 1, 48)",
            "use the pgseal that migrated it",
        ),
    ] {
        database.psql(change);
        let error = Catalog::open(&url).await.map(drop).unwrap_err();
        assert!(error.to_string().contains(hint), "{error}");
        for command in [&["migrate"][..], &["catalog", "rebuild"]] {
            let said = pgseal.fails(5, command);
            assert!(said.contains(hint), "{said}");
        }
        database.psql(undo);
        Catalog::open(&url).await.unwrap();
    }
    database.psql("DELETE FROM pgseal._sqlx_migrations");
    let said = pgseal.fails(5, &["catalog", "rebuild"]);
    assert!(
        said.contains("lacks migration 1") && said.contains("run pgseal migrate"),
        "{said}"
    );
}
