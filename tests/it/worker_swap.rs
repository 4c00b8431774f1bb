//! Restores by swap, and their rollback, as jobs: asked for over the API or the command line, carried out by a worker.

use serde_json::{Value, json};

use crate::harness::api::Api;
use crate::harness::equality::{Content, assert_same};
use crate::harness::postgres::Postgres;
use crate::harness::service::Service;
use crate::harness::somebody::until;
use crate::swap::Kept;

const BACKUPS: &str = "/api/admin/backups";

/// A swap that was asked for over the API is recorded with what it kept, and a rollback is a job that brings that back, once.
#[test]
fn a_swap_is_asked_for_and_undone_over_the_api() {
    let api = Api::start();
    let server = Postgres::shared();
    let database = &api.service.database;
    let kept = Kept(server, &database.name);
    let first = Content::of(server, &database.name);
    let made = api.json(202, "POST", BACKUPS, "");
    api.service.burst();
    database.psql("UPDATE customers SET name = 'gone'");
    let second = Content::of(server, &database.name);

    let restore = format!("{BACKUPS}/{}/restore", made["id"]);
    let plan = api.json(200, "POST", &restore, r#"{"mode": "swap", "plan": true}"#);
    assert_eq!(plan["mode"], "swap");
    let asked = api.json(202, "POST", &restore, r#"{"mode": "swap"}"#);
    assert_eq!(
        (&asked["status"], &asked["mode"]),
        (&json!("waiting"), &json!("swap"))
    );
    api.service.burst();
    let location = format!("{BACKUPS}/restores/{}", asked["id"]);
    let restored = api.json(200, "GET", &location, "");
    assert_eq!(restored["status"], "completed", "{restored}");
    assert_eq!(kept.names(), [restored["kept_database"].as_str().unwrap()]);
    assert_same(&first, &Content::of(server, &database.name));

    let rollback = format!("{location}/rollback");
    let undoing = api.json(202, "POST", &rollback, "");
    assert_eq!(
        (&undoing["mode"], &undoing["undoes"]),
        (&json!("rollback"), &restored["id"])
    );
    assert_eq!(undoing["safety_backup_id"], Value::Null);
    api.service.burst();
    let undone = api.json(
        200,
        "GET",
        &format!("{BACKUPS}/restores/{}", undoing["id"]),
        "",
    );
    assert_eq!(undone["status"], "completed", "{undone}");
    assert_eq!(kept.names(), [undone["kept_database"].as_str().unwrap()]);
    assert_same(&second, &Content::of(server, &database.name));

    // Asked for once more, it must not bring back what was undone; nor when that is dropped.
    let twice = api.json(202, "POST", &rollback, "");
    api.service.burst();
    let twice = api.json(
        200,
        "GET",
        &format!("{BACKUPS}/restores/{}", twice["id"]),
        "",
    );
    assert_eq!(twice["status"], "failed", "{twice}");
    assert_same(&second, &Content::of(server, &database.name));
    api.service.pgseal.ok(&["kept", "drop", &kept.names()[0]]);
    let again = api.json(202, "POST", &rollback, "");
    api.service.burst();
    let again = api.json(
        200,
        "GET",
        &format!("{BACKUPS}/restores/{}", again["id"]),
        "",
    );
    assert_eq!(again["status"], "failed", "{again}");
    assert!(
        again["error"]
            .as_str()
            .unwrap()
            .contains("pgseal kept list"),
        "{again}"
    );
    assert_same(&second, &Content::of(server, &database.name));
}

/// A worker drops what a restore of its target replaced once that is old enough, and nothing else.
#[test]
fn what_was_replaced_is_dropped_after_its_days() {
    let mut service = Service::start();
    let server = Postgres::shared();
    let kept = Kept(server, &service.database.name);
    let (id, _) = service.enqueue_backup();
    service.burst();
    let swap = |service: &Service| {
        let asked = service.pgseal.json(&[
            "enqueue",
            "restore",
            &id.to_string(),
            "--mode",
            "swap",
            "--no-safety-backup",
            "--confirm",
            &service.database.name,
        ]);
        service.burst();
        let restore = asked["restore_id"].as_i64().unwrap();
        assert_eq!(
            service.restore(restore, "status"),
            "completed",
            "{}",
            service.restore(restore, "error")
        );
        service.restore(restore, "kept_database")
    };
    let (old, young) = (swap(&service), swap(&service));
    let comment = |name: &str| {
        server.psql("postgres", &format!(
            "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = '{name}'"))
    };
    let mut record: Value = serde_json::from_str(&comment(&old)).unwrap();
    record["at"] = json!("2020-01-01T00:00:00Z");
    let aged = |name: &str, record: &Value| {
        server.psql(
            "postgres",
            &format!("COMMENT ON DATABASE \"{name}\" IS '{record}'"),
        );
    };
    aged(&old, &record);
    // As old, but a restore of another database set it aside; and one without a record.
    let other = server.name("another_before");
    let stranger = format!("{}_before_0123abcd", service.database.name);
    record["database"] = json!("another");
    record["id"] = json!("0123abcd");
    let others = server.exactly("another_before_0123abcd");
    for name in [&others.name, &stranger] {
        server.psql("postgres", &format!("CREATE DATABASE \"{name}\""));
    }
    aged(&others.name, &record);
    drop(other);

    service.pgseal.set("BACKUP_KEEP_REPLACED_DAYS", "0");
    service.burst();
    assert!(kept.names().contains(&old), "it was told to keep it");
    service.pgseal.set("BACKUP_KEEP_REPLACED_DAYS", "1");
    let worker = service.worker("keeper");
    until("the old one to be dropped", || !kept.names().contains(&old));
    Service::end(worker);
    let mut left = kept.names();
    left.sort();
    let mut expected = [stranger, young];
    expected.sort();
    assert_eq!(left, expected);
    assert!(others.exists());
}
