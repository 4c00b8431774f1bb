//! Jobs from the request to the end: in the catalog, on Redis, in the store.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::harness::api::Api;
use crate::harness::cli::Pgseal;
use crate::harness::equality::{Content, assert_same};
use crate::harness::postgres::Postgres;
use crate::harness::service::Service;
use crate::harness::somebody::until;

#[test]
fn a_backup_that_was_asked_for_is_made_and_recorded_everywhere() {
    let service = Service::start();
    let (id, job) = service.enqueue_backup();
    assert_eq!(service.backup(id, "status"), "pending");
    assert_eq!(service.job_status(&job), "queued");
    service.burst();

    let shown = service.pgseal.json(&["show", "latest"]);
    let row = service.catalog.psql(&format!(
        "SELECT status, attempt, uid, object_key, sealed_bytes, encode(sealed_sha256, 'hex'), tables, \"rows\", lease_token IS NULL, requested_by
         FROM pgseal.backups WHERE id = {id}"
    ));
    let expected = format!(
        "completed|1|{}|{}|{}|{}|{}|{}|t|command line",
        shown["uid"].as_str().unwrap(),
        shown["object_key"].as_str().unwrap(),
        shown["sealed_bytes"],
        shown["sealed_sha256"].as_str().unwrap(),
        shown["tables"].as_array().unwrap().len(),
        shown["tables"]
            .as_array()
            .unwrap()
            .iter()
            .map(|table| table["rows"].as_u64().unwrap())
            .sum::<u64>(),
    );
    assert_eq!(row, expected);
    assert_eq!(service.job_status(&job), "finished");
    assert_eq!(service.ask(&["LLEN", "rq:queue:backups"]), "0");
    assert_eq!(service.ask(&["ZCARD", "rq:wip:backups"]), "0");
    assert_eq!(service.ask(&["SCARD", "rq:workers"]), "0");
    assert_eq!(service.pgseal.leftovers(), Vec::<String>::new());
    service.pgseal.ok(&["verify", "latest"]);
}

#[test]
fn a_restore_waits_for_its_safety_backup_and_brings_everything_back() {
    let service = Service::start();
    let server = Postgres::shared();
    let before = Content::of(server, &service.database.name);
    let (id, _) = service.enqueue_backup();
    service.burst();
    service
        .database
        .psql("DELETE FROM events; UPDATE customers SET name = 'gone'");

    let asked = service.enqueue_restore(id);
    let (restore, safety) = (
        asked["restore_id"].as_i64().unwrap(),
        asked["safety_backup_id"].as_i64().unwrap(),
    );
    assert_eq!(service.restore(restore, "status"), "waiting");
    assert_eq!(
        service.job_status(asked["job_id"].as_str().unwrap()),
        "deferred"
    );
    service.burst();

    assert_same(&before, &Content::of(server, &service.database.name));
    assert_eq!(
        service.backup(safety, "status || ' ' || kind"),
        "completed pre_restore"
    );
    assert_eq!(
        service.restore(restore, "status || ' ' || database"),
        format!("completed {}", service.database.name)
    );
    assert_eq!(
        service.job_status(asked["job_id"].as_str().unwrap()),
        "finished"
    );
    // One for the backup, one for the state that was replaced; the restore made no third one.
    assert_eq!(service.listed().len(), 2);
}

#[test]
fn where_the_safety_backup_fails_the_restore_never_starts() {
    let mut service = Service::start();
    let (id, _) = service.enqueue_backup();
    service.burst();
    service.database.psql("DELETE FROM events");
    let before = Content::of(Postgres::shared(), &service.database.name);

    service.with_pg_dump("echo 'pg_dump: error: out of luck' >&2; exit 1");
    let asked = service.enqueue_restore(id);
    service.burst();

    let restore = asked["restore_id"].as_i64().unwrap();
    assert_eq!(
        service.restore(restore, "status || ' ' || (started_at IS NULL)"),
        "failed true"
    );
    let error = service.restore(restore, "error");
    let safety = asked["safety_backup_id"].as_i64().unwrap();
    assert!(
        error.starts_with(&format!("its safety backup, {safety}, failed")),
        "{error}"
    );
    assert_eq!(
        service.backup(safety, "status || ' ' || attempt"),
        "failed 2"
    );
    assert!(service.backup(safety, "error").contains("out of luck"));
    assert_eq!(
        service.job_status(asked["job_id"].as_str().unwrap()),
        "failed"
    );
    assert_same(
        &before,
        &Content::of(Postgres::shared(), &service.database.name),
    );
}

#[test]
fn a_job_whose_row_is_not_pending_does_nothing() {
    let service = Service::start();
    let (id, job) = service.enqueue_backup();
    service.burst();
    let keys = service.pgseal.stored();
    // Requeued as rq does it, and once more under another id.
    service.ask(&["HSET", &format!("rq:job:{job}"), "status", "queued"]);
    service.ask(&["RPUSH", "rq:queue:backups", &job]);
    service.burst();
    assert_eq!(service.pgseal.stored(), keys);
    assert_eq!(service.job_status(&job), "finished");
    assert_eq!(service.backup(id, "attempt"), "1");
}

#[test]
fn a_target_has_one_job_at_a_time() {
    let (service, gate) = Service::with_gate();
    let (id, _) = service.enqueue_backup();
    let refused = service.pgseal.fails(1, &["enqueue", "backup"]);
    assert!(refused.contains(&format!("backup {id}")), "{refused}");

    // A row that came in all the same waits for its turn, with a second worker ready to take it.
    let first = service.worker("first");
    gate.until_somebody_waits();
    service.insert_pending("of-another-program");
    let second = service.worker("second");
    service.until_job("of-another-program", "scheduled");
    assert_eq!(service.backup(id + 1, "status"), "pending");
    gate.open();
    service.until_backup(id, "completed");
    service.until_backup(id + 1, "completed");
    Service::end(first);
    Service::end(second);
    assert_eq!(service.listed().len(), 2);
}

/// Row 177: what passes by itself is over when a backup is tried once more. A worker that ends by itself waits for it, one with
/// less patience leaves it to the next; and it can be taken back meanwhile.
#[test]
fn a_backup_that_failed_is_tried_again_a_while_later() {
    let mut service = Service::start();
    let tried = service.pgseal.file("tried");
    let script = format!(
        "if [ -e '{0}' ]; then exec \"$REAL\" \"$@\"; fi; touch '{0}'; echo 'pg_dump: error: out of luck' >&2; exit 1",
        tried.display()
    );
    service.with_pg_dump(&script);
    service.pgseal.set("BACKUP_RETRY_SECONDS", "3");
    let (id, _) = service.enqueue_backup();
    service.burst();
    assert_eq!(
        service.backup(id, "status || ' ' || attempt"),
        "completed 2"
    );
    let apart = "SELECT extract(epoch FROM max(at) - min(at)) FROM pgseal.events WHERE kind = 'backup.started'";
    let apart = service.catalog.psql(apart);
    // RQ's moments are whole seconds.
    assert!(apart.parse::<f64>().unwrap() > 2.0, "{apart}");

    std::fs::remove_file(&tried).unwrap();
    service.pgseal.set("BACKUP_RETRY_SECONDS", "3600");
    let (id, job) = service.enqueue_backup();
    service.pgseal.set("BACKUP_RETRY_SECONDS", "0");
    service.burst();
    assert_eq!(service.backup(id, "status || ' ' || attempt"), "pending 2");
    assert_eq!(service.job_status(&job), "scheduled");
    let api = Api::of(service);
    api.json(202, "POST", &format!("/api/admin/backups/{id}/cancel"), "");
    assert_eq!(api.service.backup(id, "status"), "cancelled");
    assert_eq!(api.service.job_status(&job), "canceled");
}

#[test]
fn a_check_tells_whether_the_worker_of_this_machine_lives() {
    let service = Service::start();
    let none = service.pgseal.fails(1, &["worker", "--check"]);
    assert!(none.contains("no worker runs here"), "{none}");
    let worker = service.worker("healthy");
    let living = service.pgseal.json(&["worker", "--check"]);
    assert_eq!(living["workers"][0]["name"], json!("healthy"));
    worker.signal(Signal::KILL);
    // Nobody has asked yet how it ended, so that the kernel still knows its process.
    let killed = Instant::now();
    until("the dead worker to be seen", || {
        let run = service.pgseal.run(&["worker", "--check"]);
        run.code == 1 && run.stderr.contains("is gone")
    });
    assert!(killed.elapsed() < Duration::from_secs(30));
    worker.wait();
    let dead = service.pgseal.fails(1, &["worker", "--check"]);
    assert!(
        dead.contains("healthy") && dead.contains("is gone"),
        "{dead}"
    );
    // The next one lives, whatever the dead one left lying there.
    let next = service.worker("next");
    service.pgseal.ok(&["worker", "--check"]);
    Service::end(next);
}

#[test]
fn a_worker_does_not_start_on_what_it_does_not_know() {
    let service = Service::start();
    let fails = |pgseal: &Pgseal, said: &str| {
        let error = pgseal.fails(5, &["worker", "--burst"]);
        assert!(error.contains(said), "{error}");
    };
    let mut pgseal = Pgseal::new();
    fails(&pgseal, "no Redis was named");
    pgseal.set(
        "REDIS_URL",
        format!("redis://127.0.0.1:{}/0", service.redis.port),
    );
    pgseal.set("DATABASE_URL", &service.database.url);
    let empty = Postgres::shared().create_database("unmigrated");
    pgseal.set("CATALOG_DATABASE_URL", &empty.url);
    fails(&pgseal, "pgseal migrate");
    pgseal.set("CATALOG_DATABASE_URL", &service.catalog.url);
    pgseal.unset("BACKUP_STORE");
    fails(&pgseal, "no store is named");
    service
        .catalog
        .psql("INSERT INTO pgseal._sqlx_migrations VALUES (9999, 'of a later version', now(), true, '', 0)");
    fails(&service.pgseal, "use the pgseal that migrated it");
}
