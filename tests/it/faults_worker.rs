//! What happens to jobs when workers are killed, stopped, cut off, told to end, or given nonsense.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::service::Service;
use crate::harness::somebody::until;
use crate::harness::watch::{descendants, is_alive};

/// As fast as a person who cancels a dump expects.
const SECONDS: Duration = Duration::from_secs(20);

/// Rows 10, 63 and 138: the next worker settles what a killed one left.
#[test]
fn a_killed_worker_s_backup_is_made_by_the_next_one() {
    let (service, gate) = Service::with_gate();
    let (id, job) = service.enqueue_backup();
    let doomed = service.worker("doomed");
    gate.until_somebody_waits();
    until("the backup's identity to be told", || {
        !service.backup(id, "uid").is_empty()
    });
    // Somebody else's upload to the same place, by its name.
    let beside = service
        .pgseal
        .store()
        .join("backups/.pgseal-stage-of-somebody-else");
    std::fs::write(&beside, "").unwrap();
    let children = descendants(doomed.pid());
    doomed.signal(Signal::KILL);
    doomed.wait();
    assert_eq!(service.backup(id, "status"), "running");
    gate.open();
    // They end by themselves: nobody reads what they write.
    until("the end of the children", || {
        !children.iter().any(|pid| is_alive(*pid))
    });

    let next = service.worker("next");
    service.until_backup(id, "completed");
    service.until_job(&job, "finished");
    assert_eq!(service.backup(id, "attempt"), "2");
    assert_eq!(service.listed().len(), 1);
    let staged = |path: &String| path.contains("stage-");
    let left: Vec<String> = service
        .pgseal
        .leftovers()
        .into_iter()
        .filter(staged)
        .collect();
    assert_eq!(left, ["backups/.pgseal-stage-of-somebody-else"]);
    Service::end(next);
}

/// Row 138: a restore is tried once.
#[test]
fn a_killed_worker_s_last_attempt_is_a_failure_with_its_reason() {
    let (service, gate) = Service::with_gate();
    let (id, job) = service.enqueue_backup();
    service
        .catalog
        .psql("UPDATE pgseal.backups SET attempts_max = 1");
    let doomed = service.worker("doomed");
    gate.until_somebody_waits();
    until("the stage to be told", || {
        service.backup(id, "stage") == "dump"
    });
    doomed.signal(Signal::KILL);
    doomed.wait();
    gate.open();
    let next = service.worker("next");
    service.until_backup(id, "failed");
    service.until_job(&job, "failed");
    let error = service.backup(id, "error_stage || ': ' || error");
    assert!(
        error.starts_with("dump: ") && error.contains("the worker doomed"),
        "{error}"
    );
    assert_eq!(service.listed().len(), 0);
    Service::end(next);
}

/// Row 9: SIGTERM, and a grace period that is too short.
#[test]
fn a_worker_that_must_end_gives_its_job_back() {
    let (mut service, gate) = Service::with_gate();
    service.pgseal.set("BACKUP_SHUTDOWN_GRACE_SECONDS", "1");
    let (id, job) = service.enqueue_backup();
    let worker = service.worker("leaving");
    gate.until_somebody_waits();
    worker.signal(Signal::TERM);
    let run = worker.wait();
    assert_eq!(run.code, 0, "{run}");
    assert_eq!(service.backup(id, "status || ' ' || attempt"), "pending 2");
    assert_eq!(service.job_status(&job), "queued");
    assert_eq!(service.ask(&["LRANGE", "rq:queue:backups", "0", "-1"]), job);
    assert_eq!(service.ask(&["SCARD", "rq:workers"]), "0");
    assert_eq!(service.pgseal.stored(), Vec::<String>::new());
    gate.open();
    service.burst();
    assert_eq!(service.backup(id, "status"), "completed");
}

/// Row 9: SIGTERM twice.
#[test]
fn a_second_signal_waits_for_no_grace() {
    let (mut service, gate) = Service::with_gate();
    service.pgseal.set("BACKUP_SHUTDOWN_GRACE_SECONDS", "600");
    let (id, _) = service.enqueue_backup();
    let worker = service.worker("leaving");
    gate.until_somebody_waits();
    worker.signal(Signal::TERM);
    until("the request to be seen", || {
        service.ask(&["HEXISTS", "rq:worker:leaving", "shutdown_requested_date"]) == "1"
    });
    assert_eq!(service.backup(id, "status"), "running");
    let asked = Instant::now();
    Service::end(worker);
    assert!(asked.elapsed() < SECONDS);
    assert_eq!(service.backup(id, "status || ' ' || attempt"), "pending 2");
}

/// Row 9: a job that is nearly done is done.
#[test]
fn a_worker_that_is_told_to_end_finishes_its_job_and_takes_no_other() {
    let (service, gate) = Service::with_gate();
    let (id, _) = service.enqueue_backup();
    let worker = service.worker("leaving");
    gate.until_somebody_waits();
    worker.signal(Signal::TERM);
    service.insert_pending("too-late");
    gate.open();
    assert_eq!(worker.wait().code, 0);
    assert_eq!(
        service.backup(id, "status || ' ' || attempt"),
        "completed 1"
    );
    assert_eq!(service.backup(id + 1, "status"), "pending");
}

#[test]
fn a_cancelled_row_ends_its_dump_within_seconds() {
    let (service, gate) = Service::with_gate();
    let (id, job) = service.enqueue_backup();
    let worker = service.worker("at-work");
    gate.until_somebody_waits();
    let asked = Instant::now();
    service.catalog.psql(
        "UPDATE pgseal.backups SET cancel_requested_at = clock_timestamp(), cancel_requested_by = 'test'",
    );
    service.until_backup(id, "cancelled");
    assert!(asked.elapsed() < SECONDS, "{:?}", asked.elapsed());
    service.until_job(&job, "stopped");
    until("the end of its children", || {
        descendants(worker.pid()) == [worker.pid()]
    });
    assert_eq!(service.pgseal.stored(), Vec::<String>::new());
    Service::end(worker);
}

#[test]
fn a_stop_command_ends_its_dump_within_seconds_and_no_other() {
    let (service, gate) = Service::with_gate();
    let (id, job) = service.enqueue_backup();
    let worker = service.worker("at-work");
    gate.until_somebody_waits();
    let publish = |message: &str| service.ask(&["PUBLISH", "rq:pubsub:at-work", message]);
    publish("garbage");
    publish(r#"{"command": "stop-job", "job_id": "another"}"#);
    assert_eq!(service.backup(id, "status"), "running");
    let asked = Instant::now();
    publish(&format!(r#"{{"command": "stop-job", "job_id": "{job}"}}"#));
    service.until_backup(id, "cancelled");
    service.until_job(&job, "stopped");
    assert!(asked.elapsed() < SECONDS, "{:?}", asked.elapsed());
    assert_ne!(service.ask(&["ZSCORE", "rq:failed:backups", &job]), "");
    publish(r#"{"command": "shutdown"}"#);
    assert_eq!(worker.wait().code, 0);
}

#[test]
fn a_job_that_takes_too_long_is_ended_and_the_store_is_clean() {
    let (service, _gate) = Service::with_gate();
    let (id, job) = service.enqueue_backup();
    service
        .catalog
        .psql("UPDATE pgseal.backups SET attempts_max = 1, time_limit_seconds = 5");
    let worker = service.worker("patient");
    service.until_backup(id, "failed");
    let error = service.backup(id, "error");
    assert!(
        error.contains("Task exceeded maximum timeout value (5 seconds)"),
        "{error}"
    );
    service.until_job(&job, "failed");
    until("the end of its children", || {
        descendants(worker.pid()) == [worker.pid()]
    });
    assert_eq!(service.pgseal.stored(), Vec::<String>::new());
    Service::end(worker);
}

/// Row 48: a worker that was stopped past its lease can no longer change its row, and completes nothing.
#[test]
fn a_worker_that_lost_its_lease_changes_nothing() {
    let (service, gate) = Service::with_gate();
    let (id, _) = service.enqueue_backup();
    let frozen = service.worker("frozen");
    gate.until_somebody_waits();
    frozen.signal(Signal::STOP);
    // It would keep the target's lock for as long as it is stopped, and the second attempt is the last one.
    let held = "SELECT count(pg_terminate_backend(pid)) FROM pg_locks WHERE locktype = 'advisory' AND granted \
        AND classid = 1885827941 AND objid = (hashtext(current_database())::bigint & 4294967295)::oid";
    assert_eq!(service.database.psql(held), "1");
    let next = service.worker("next");
    until("another attempt", || service.backup(id, "attempt") == "2");
    gate.open();
    frozen.signal(Signal::CONT);
    service.until_backup(id, "completed");
    assert_eq!(service.backup(id, "attempt"), "2");
    Service::end(frozen);
    Service::end(next);
    let uid = service.backup(id, "uid");
    let shown = service.pgseal.json(&["show", "latest"]);
    assert_eq!(shown["uid"].as_str().unwrap(), uid);
    assert_eq!(service.listed().len(), 1);
}

/// Row 46: the queue is a hint.
#[test]
fn jobs_that_redis_lost_are_made_again() {
    let service = Service::start();
    let (id, job) = service.enqueue_backup();
    service.ask(&["FLUSHALL"]);
    let worker = service.worker("alone");
    service.until_backup(id, "completed");
    service.until_job(&job, "finished");
    Service::end(worker);
}

/// Row 46: a worker that ends when there is nothing left looks into the catalog first.
#[test]
fn a_burst_finds_what_redis_lost() {
    let service = Service::start();
    let (id, job) = service.enqueue_backup();
    service.ask(&["FLUSHALL"]);
    service.burst();
    assert_eq!(service.backup(id, "status"), "completed");
    assert_eq!(service.job_status(&job), "finished");
    // And leaves no lock behind, for which the next scheduler would wait.
    assert_eq!(service.ask(&["EXISTS", "rq:scheduler-lock:backups"]), "0");
}

/// Row 44: a request is kept where Redis is down.
#[test]
fn a_request_without_redis_waits_in_the_catalog() {
    let service = Service::start();
    service.redis.kill();
    let asked = service.pgseal.json(&["enqueue", "backup"]);
    assert_eq!(asked["queued"], serde_json::json!(false));
    let id = asked["backup_id"].as_i64().unwrap();
    assert_eq!(service.backup(id, "status"), "pending");
    service.redis.run();
    let worker = service.worker("alone");
    service.until_backup(id, "completed");
    Service::end(worker);
}

/// Row 45: Redis goes away while a job runs.
#[test]
fn a_job_goes_on_without_redis() {
    let (service, gate) = Service::with_gate();
    let (id, _) = service.enqueue_backup();
    let worker = service.worker("alone");
    gate.until_somebody_waits();
    service.redis.kill();
    gate.open();
    service.until_backup(id, "completed");
    service.redis.run();
    // And takes the next one once Redis is back, which has forgotten the first.
    let (next, job) = service.enqueue_backup();
    service.until_backup(next, "completed");
    service.until_job(&job, "finished");
    Service::end(worker);
    assert_eq!(service.listed().len(), 2);
}

/// Rows 51, 52 and 53: nonsense and malice in the queue.
#[test]
fn no_job_ends_a_worker_or_is_executed() {
    let service = Service::start();
    let proof = service.pgseal.file("executed");
    let evil = format!(
        "\u{80}\u{4}cos\nsystem\n(X\u{0}\u{0}\u{0}\u{0}Vtouch {}\ntR.",
        proof.display()
    );
    let payloads = [
        ("garbage", "garbage"),
        ("evil", evil.as_str()),
        ("unknown", r#"["os.system", null, ["touch /tmp/x"], {}]"#),
        (
            "missing",
            r#"["app.workers.backup_jobs.run_backup", null, [4711], {}]"#,
        ),
        (
            "negative",
            r#"["app.workers.backup_jobs.run_backup", null, [-1], {}]"#,
        ),
        (
            "wrong-kind",
            r#"["app.workers.restore_jobs.run_restore", null, [1], {}]"#,
        ),
    ];
    for (job, data) in payloads {
        let key = format!("rq:job:{job}");
        service.ask(&[
            "HSET",
            &key,
            "data",
            data,
            "origin",
            "backups",
            "status",
            "queued",
            "created_at",
            "2026-11-23T22:21:26.535286Z",
        ]);
        service.ask(&["RPUSH", "rq:queue:backups", job]);
    }
    service.ask(&["RPUSH", "rq:queue:backups", "no-such-hash", "no:job:id"]);
    let (id, job) = service.enqueue_backup();
    service.burst();
    for (job, _) in payloads {
        assert_eq!(service.job_status(job), "failed", "{job}");
    }
    assert!(!proof.exists());
    assert_eq!(service.backup(id, "status"), "completed");
    assert_eq!(service.job_status(&job), "finished");
    assert_eq!(service.ask(&["LLEN", "rq:queue:backups"]), "0");
}
