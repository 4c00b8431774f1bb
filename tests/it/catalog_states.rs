//! What the schema itself makes impossible, tried by hand: no program of ours is asked.

use crate::harness::catalog::catalog_in;
use crate::harness::postgres::{Database, Postgres};

/// What the server says to a statement: how often it was done, or why it was not.
fn attempt(database: &Database<'_>, sql: &str) -> Result<(), String> {
    let output = Postgres::shared()
        .client("psql", &database.name)
        .args(["-X", "-qAt", "--set", "ON_ERROR_STOP=1", "--command", sql])
        .output()
        .unwrap();
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8(output.stderr).unwrap())
}

fn migrated(prefix: &str) -> Database<'static> {
    let database = Postgres::shared().create_database(prefix);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(catalog_in(&database));
    database
}

/// Everything that a row of this status must have, so that only the step itself can be wrong.
fn set(table: &str, from: &str, to: &str) -> String {
    let lease = if to == "running" {
        "lease_token = gen_random_uuid(), lease_worker = 'w', lease_until = now() + interval '1 hour', started_at = now()"
    } else {
        "lease_token = NULL, lease_worker = NULL, lease_until = NULL"
    };
    let facts = match (to, table) {
        ("completed", "backups") => {
            ", finished_at = now(), object_key = 'key-' || id, sealed_bytes = 1, sealed_sha256 = sha256('x'), \
             uid = gen_random_uuid()"
        }
        ("completed", _) => ", finished_at = now(), database = 'd'",
        ("failed", _) => ", error = 'e', error_stage = 's'",
        _ => "",
    };
    let attempt = if (from, to) == ("running", "pending") {
        "attempt + 1"
    } else {
        "attempt"
    };
    format!("status = '{to}', attempt = {attempt}, {lease}{facts}")
}

/// The legal steps to a status, from the beginning.
fn path(status: &str) -> &'static [&'static str] {
    match status {
        "completed" => &["running", "completed"],
        "failed" => &["running", "failed"],
        "cancelled" => &["running", "cancelled"],
        "running" => &["running"],
        _ => &[],
    }
}

fn walk(database: &Database<'_>, table: &str, id: &str, status: &str) {
    let mut from = "pending";
    for to in path(status) {
        let step = set(table, from, to);
        database.psql(&format!("UPDATE pgseal.{table} SET {step} WHERE id = {id}"));
        from = to;
    }
}

fn new_backup(database: &Database<'_>, target: &str) -> String {
    database.psql(&format!(
        "INSERT INTO pgseal.backups (target, kind, requested_by, status, time_limit_seconds, queue, job_id) \
         VALUES ('{target}', 'manual', 'x', 'pending', 60, 'q', gen_random_uuid()) RETURNING id"
    ))
}

fn new_restore(
    database: &Database<'_>,
    target: &str,
    backup: &str,
    safety: Option<&str>,
) -> String {
    let (status, safety) = safety.map_or(("pending", "NULL"), |id| ("waiting", id));
    database.psql(&format!(
        "INSERT INTO pgseal.restores (backup_id, safety_backup_id, target, mode, requested_by, status, \
            attempts_max, time_limit_seconds, queue, job_id) \
         VALUES ({backup}, {safety}, '{target}', 'new', 'x', '{status}', 2, 60, 'q', gen_random_uuid()) RETURNING id"
    ))
}

/// Row 138: of all steps between two states, those of the picture are taken and no others.
#[test]
fn every_step_that_is_no_arrow_is_refused() {
    let database = migrated("arrows");
    let arrows = [
        ("pending", "running"),
        ("pending", "failed"),
        ("pending", "cancelled"),
        ("running", "completed"),
        ("running", "failed"),
        ("running", "cancelled"),
        ("running", "pending"),
        ("waiting", "failed"),
        ("waiting", "cancelled"),
    ];
    let states = [
        "waiting",
        "pending",
        "running",
        "completed",
        "failed",
        "cancelled",
    ];
    let restored = new_backup(&database, "source");
    let mut tried = 0;
    for table in ["backups", "restores"] {
        for from in states {
            for to in states {
                if from == to || (table == "backups" && from == "waiting") {
                    continue;
                }
                let target = format!("{table}-{from}-{to}");
                let id = match (table, from) {
                    ("backups", _) => new_backup(&database, &target),
                    (_, "waiting") => {
                        let safety = new_backup(&database, &target);
                        new_restore(&database, &target, &restored, Some(&safety))
                    }
                    _ => new_restore(&database, &target, &restored, None),
                };
                walk(&database, table, &id, from);
                let step = set(table, from, to);
                let said = attempt(
                    &database,
                    &format!("UPDATE pgseal.{table} SET {step} WHERE id = {id}"),
                );
                let status = database.psql(&format!(
                    "SELECT status FROM pgseal.{table} WHERE id = {id}"
                ));
                if arrows.contains(&(from, to)) {
                    assert_eq!(
                        (said, status.as_str()),
                        (Ok(()), to),
                        "{table}: {from} to {to}"
                    );
                } else {
                    let said = said.expect_err(&format!("{table}: {from} to {to} was taken"));
                    let reason = if (from, to) == ("waiting", "pending") {
                        "a restore waits until its safety backup is complete".to_owned()
                    } else {
                        format!("a job cannot go from {from} to {to}")
                    };
                    assert!(said.contains(&reason), "{said}");
                    assert_eq!(status, from);
                }
                tried += 1;
            }
        }
    }
    assert_eq!(tried, 5 * 5 + 6 * 5);
}

#[test]
fn every_row_begins_at_the_beginning() {
    let database = migrated("beginnings");
    let backup = new_backup(&database, "a");
    let insert = |origin: &str, status: &str| {
        format!(
            "INSERT INTO pgseal.backups (target, kind, origin, requested_by, status, time_limit_seconds, queue, job_id, \
                error, error_stage, finished_at, object_key, uid, sealed_bytes, sealed_sha256) \
             VALUES ('b', 'manual', '{origin}', 'x', '{status}', 60, 'q', gen_random_uuid(), 'e', 's', now(), \
                gen_random_uuid(), gen_random_uuid(), 1, sha256('x'))"
        )
    };
    for status in ["running", "completed", "failed", "cancelled"] {
        let said = attempt(&database, &insert("requested", status)).unwrap_err();
        assert!(said.contains("cannot begin"), "{said}");
    }
    for origin in ["adopted", "imported"] {
        attempt(&database, &insert(origin, "completed")).unwrap();
        for status in ["pending", "running"] {
            let said = attempt(&database, &insert(origin, status)).unwrap_err();
            assert!(said.contains("cannot begin"), "{said}");
        }
    }
    let safety = new_backup(&database, "c");
    for (status, safety) in [
        ("waiting", "NULL"),
        ("pending", safety.as_str()),
        ("running", "NULL"),
        ("completed", "NULL"),
    ] {
        let said = attempt(
            &database,
            &format!(
                "INSERT INTO pgseal.restores (backup_id, safety_backup_id, target, mode, requested_by, status, \
                    time_limit_seconds, queue, job_id) \
                 VALUES ({backup}, {safety}, 'c', 'new', 'x', '{status}', 60, 'q', gen_random_uuid())"
            ),
        );
        let said = said.unwrap_err();
        assert!(said.contains("cannot begin"), "{status}, {safety}: {said}");
    }
}

/// Row 138: what runs has a lease, what does not has none, and no lease changes hands.
#[test]
fn a_job_runs_by_one_lease() {
    let database = migrated("leases");
    let id = new_backup(&database, "a");
    let refused = |sql: &str, reason: &str| {
        let said = attempt(
            &database,
            &format!("UPDATE pgseal.backups SET {sql} WHERE id = {id}"),
        );
        let said = said.expect_err(sql);
        assert!(said.contains(reason), "{sql}: {said}");
    };
    refused("status = 'running'", "backups_lease");
    refused(
        "lease_token = gen_random_uuid()",
        "a lease cannot change hands",
    );
    refused("lease_worker = 'w'", "backups_lease");
    refused(
        "attempt = attempt + 1",
        "an attempt begins with the return to pending",
    );
    walk(&database, "backups", &id, "running");
    refused(
        "lease_token = gen_random_uuid()",
        "a lease cannot change hands",
    );
    refused("lease_until = NULL", "backups_lease");
    refused(
        "status = 'failed', error = 'e', error_stage = 's'",
        "backups_lease",
    );
    let unleased = "lease_token = NULL, lease_worker = NULL, lease_until = NULL";
    refused(&format!("status = 'pending', {unleased}"), "next attempt");
    refused(&format!("status = 'failed', {unleased}"), "backups_failed");
    refused(
        &format!("status = 'completed', {unleased}"),
        "backups_completed",
    );
    let again = |database: &Database<'_>| {
        attempt(
            database,
            &format!(
                "UPDATE pgseal.backups SET {} WHERE id = {id}",
                set("backups", "running", "pending")
            ),
        )
    };
    again(&database).unwrap();
    walk(&database, "backups", &id, "running");
    assert!(
        again(&database).unwrap_err().contains("backups_attempts"),
        "there were two tries"
    );
}

/// Row 47: two jobs of one target never run at once, whichever they are.
#[test]
fn one_job_runs_for_a_target() {
    let database = migrated("one_running");
    let done = new_backup(&database, "elsewhere");
    let [first, second, other] = ["a", "a", "b"].map(|target| new_backup(&database, target));
    let restore = new_restore(&database, "a", &done, None);
    let start = |table: &str, id: &str| {
        let step = set(table, "pending", "running");
        attempt(
            &database,
            &format!("UPDATE pgseal.{table} SET {step} WHERE id = {id}"),
        )
    };
    start("backups", &first).unwrap();
    start("backups", &other).unwrap();
    for (table, id) in [("backups", &second), ("restores", &restore)] {
        let said = start(table, id).unwrap_err();
        assert!(said.contains("one_running_job_for_a_target"), "{said}");
    }
    let step = set("backups", "running", "failed");
    database.psql(&format!(
        "UPDATE pgseal.backups SET {step} WHERE id = {first}"
    ));
    start("restores", &restore).unwrap();
    assert!(
        start("backups", &second)
            .unwrap_err()
            .contains("one_running_job_for_a_target")
    );
    let running = database
        .psql("SELECT target, backup_id, restore_id FROM pgseal.running_targets ORDER BY 1");
    assert_eq!(running, format!("a||{restore}\nb|{other}|"));
}
