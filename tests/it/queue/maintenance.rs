//! What is settled and swept for workers that are gone, and what is enqueued when it is due.

use pgseal::queue::consumer::{Ending, Written};
use pgseal::queue::maintenance::{Cleaned, Settled, Verdict};
use pgseal::queue::payload;
use pgseal::queue::producer::NewJob;
use pgseal::queue::rq::job_hash::Status;
use pgseal::queue::rq::outcome::OutcomeKind;

use super::{id, name, new_job, now, register, status, take, worker};
use crate::harness::redis::{Redis, RedisDatabase};

/// As if the worker had given no sign for long.
fn let_time_pass(database: &RedisDatabase, member: &str) {
    database.ask::<i64>(&["ZADD", "rq:wip:backups", "XX", "1", member]);
}

fn nothing_runs(database: &RedisDatabase) {
    let left: i64 = database.ask(&["EXISTS", "rq:wip:backups", "rq:worker:w1:executions"]);
    assert_eq!(left, 0);
    assert_eq!(database.field("rq:worker:w1", "current_job"), None);
    let keys = database.keys();
    assert!(
        !keys.iter().any(|key| key.contains("execution")),
        "{keys:?}"
    );
}

/// Row 47: whoever comes back after its job was settled writes nothing more.
#[tokio::test(flavor = "multi_thread")]
async fn abandoned_jobs_are_settled_as_rq_does() {
    let database = Redis::shared().database();
    let queue = database.queue().await;
    let w1 = register(&queue, "w1").await;
    let job = NewJob {
        retries: Some((1, vec![])),
        ..new_job("job-a")
    };
    queue.enqueue(&job, now()).await.unwrap();
    let backups = [name("backups")];
    let taken = take(&queue, &w1).await;
    let clean = async |verdict: Verdict| {
        let decide = |_| std::future::ready(verdict.clone());
        queue.clean(&backups, now(), decide).await.unwrap()
    };
    // Its worker vouches for it.
    assert_eq!(clean(Verdict::RetryOrFail).await, Cleaned::default());
    let_time_pass(&database, "job-a");
    assert_eq!(clean(Verdict::Leave).await, Cleaned::default());
    let settled = |status| {
        let released = vec![];
        let status = Some(status);
        vec![(id("job-a"), Settled::Written { status, released })]
    };
    assert_eq!(
        clean(Verdict::RetryOrFail).await.settled,
        settled(Status::Queued)
    );
    nothing_runs(&database);
    let end = Ending::Success(pgseal::queue::value::Value::Int(1));
    let end = queue.finish(&taken, &w1, &end, now()).await.unwrap();
    assert_eq!(end, Written::LostOwnership);
    assert_eq!(status(&database, "job-a"), "queued");

    take(&queue, &w1).await;
    let_time_pass(&database, "job-a");
    assert_eq!(
        clean(Verdict::RetryOrFail).await.settled,
        settled(Status::Failed)
    );
    nothing_runs(&database);
    let outcome = queue.latest_outcome(&id("job-a")).await.unwrap().unwrap();
    assert_eq!(outcome.kind, OutcomeKind::Failed);
    let reason = payload::decode_exc_string(outcome.exc_string.unwrap().as_bytes()).unwrap();
    assert!(reason.contains("AbandonedJobError"), "{reason}");

    queue.requeue(&id("job-a"), now()).await.unwrap();
    take(&queue, &w1).await;
    let_time_pass(&database, "job-a");
    let done = Verdict::Finished(Some("gARLKi4=".into()));
    assert_eq!(clean(done).await.settled, settled(Status::Finished));
    let outcome = queue.latest_outcome(&id("job-a")).await.unwrap().unwrap();
    assert_eq!(outcome.return_value.as_deref(), Some("gARLKi4="));
    let lock: i64 = database.ask(&["EXISTS", "rq:clean_registries:backups"]);
    assert_eq!(lock, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn both_forms_of_a_running_job_are_settled_and_a_living_one_is_left() {
    let database = Redis::shared().database();
    let queue = database.queue().await;
    let w1 = register(&queue, "w1").await;
    let backups = [name("backups")];
    let clean = async || {
        let decide = |_| std::future::ready(Verdict::RetryOrFail);
        queue.clean(&backups, now(), decide).await.unwrap().settled
    };
    queue.enqueue(&new_job("job-a"), now()).await.unwrap();
    let taken = take(&queue, &w1).await;
    let member = format!("job-a:{}", taken.execution);
    database.ask::<i64>(&["ZADD", "rq:wip:backups", "1", &member]);
    assert_eq!(clean().await, [(id("job-a"), Settled::Alive)]);
    assert_eq!(status(&database, "job-a"), "started");
    let_time_pass(&database, "job-a");
    database.ask::<i64>(&["ZADD", "rq:wip:backups", "1", &member]);
    let settled = clean().await;
    assert_eq!(settled.len(), 2, "{settled:?}");
    let written = Settled::Written {
        status: Some(Status::Failed),
        released: vec![],
    };
    assert!(settled.contains(&(id("job-a"), written)));
    assert!(settled.contains(&(id("job-a"), Settled::Gone)));
    nothing_runs(&database);
    // Only what is started was abandoned.
    for gone in ["job-a", "nothing", "b:ad:form", ":"] {
        database.ask::<i64>(&["ZADD", "rq:wip:backups", "1", gone]);
    }
    let settled = clean().await;
    assert!(
        settled.iter().all(|(_, settled)| *settled == Settled::Gone),
        "{settled:?}"
    );
    let left: i64 = database.ask(&["EXISTS", "rq:wip:backups"]);
    assert_eq!(left, 0);
    assert_eq!(status(&database, "job-a"), "failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_lying_is_swept() {
    let database = Redis::shared().database();
    let queue = database.queue().await;
    register(&queue, "w1").await;
    for job in ["stuck", "done"] {
        queue.enqueue(&new_job(job), now()).await.unwrap();
        database.ask::<String>(&[
            "LMOVE",
            "rq:queue:backups",
            "rq:queue:backups:intermediate",
            "LEFT",
            "RIGHT",
        ]);
    }
    database.ask::<i64>(&["HSET", "rq:job:done", "status", "finished"]);
    database.ask::<i64>(&["RPUSH", "rq:queue:backups:intermediate", "ghost"]);
    for workers in ["rq:workers", "rq:workers:backups"] {
        database.ask::<i64>(&["SADD", workers, "rq:worker:dead"]);
    }
    for registry in ["rq:finished:backups", "rq:failed:backups"] {
        database.ask::<i64>(&["ZADD", registry, "1", "old", "+inf", "kept"]);
    }
    let backups = [name("backups")];
    let clean = async || {
        let decide = |_| std::future::ready(Verdict::RetryOrFail);
        queue.clean(&backups, now(), decide).await.unwrap()
    };
    database.ask::<redis::Value>(&["SET", "rq:clean_registries:backups", "1"]);
    assert_eq!(clean().await, Cleaned::default(), "somebody else cleans");
    database.ask::<i64>(&["DEL", "rq:clean_registries:backups"]);
    let expected = Cleaned {
        dropped: 2,
        workers: 1,
        expired: 2,
        ..Cleaned::default()
    };
    assert_eq!(clean().await, expected);
    let workers: Vec<String> = database.ask(&["SMEMBERS", "rq:workers"]);
    assert_eq!(workers, ["rq:worker:w1"]);
    let since = "rq:queue:backups:intermediate:first_seen:stuck";
    database.ask::<redis::Value>(&["SET", since, "1.5"]);
    assert_eq!(clean().await.requeued, 1);
    assert_eq!(
        queue.position(&backups[0], &id("stuck")).await.unwrap(),
        Some(0)
    );
    let left: i64 = database.ask(&["EXISTS", "rq:queue:backups:intermediate", since]);
    assert_eq!(left, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_due_is_enqueued_by_one_scheduler() {
    let database = Redis::shared().database();
    let queue = database.queue().await;
    let backups = [name("backups")];
    let [ours, other] = ["ours", "other"].map(worker);
    for (job, at) in [("due", 1), ("later", 4_000_000_000_u32), ("canceled", 2)] {
        queue.enqueue(&new_job(job), now()).await.unwrap();
        database.ask::<i64>(&["LREM", "rq:queue:backups", "1", job]);
        let key = format!("rq:job:{job}");
        database.ask::<i64>(&["HSET", &key, "status", "scheduled"]);
        database.ask::<i64>(&["ZADD", "rq:scheduled:backups", &at.to_string(), job]);
    }
    queue.cancel(&id("canceled"), now()).await.unwrap();
    let time: Vec<i64> = database.ask(&["TIME"]);
    // A producer of rq writes the job right after this; one of a minute ago never will.
    database.ask::<i64>(&[
        "ZADD",
        "rq:scheduled:backups",
        &time[0].to_string(),
        "coming",
        "3",
        "gone",
    ]);
    // rq 1 has the lock by its process.
    database.ask::<redis::Value>(&["SET", "rq:scheduler-lock:backups", "4711", "EX", "61"]);
    let due = queue.enqueue_due(&backups, &ours, now()).await.unwrap();
    assert_eq!((due.moved, due.held), (0, 1));
    database.ask::<i64>(&["DEL", "rq:scheduler-lock:backups"]);
    let due = queue.enqueue_due(&backups, &ours, now()).await.unwrap();
    assert_eq!((due.moved, due.held), (1, 0));
    assert_eq!(due.next.unwrap().unix_timestamp(), 4_000_000_000);
    assert_eq!(status(&database, "due"), "queued");
    assert_eq!(
        queue.position(&backups[0], &id("due")).await.unwrap(),
        Some(0)
    );
    let left: Vec<String> = database.ask(&["ZRANGE", "rq:scheduled:backups", "0", "-1"]);
    assert_eq!(left, ["coming", "later"]);
    let held = queue.enqueue_due(&backups, &other, now()).await.unwrap();
    assert_eq!(held.held, 1);
    queue.release_schedule(&backups, &other).await.unwrap();
    let ttl: i64 = database.ask(&["TTL", "rq:scheduler-lock:backups"]);
    assert!((59..=61).contains(&ttl), "{ttl}");
    queue.release_schedule(&backups, &ours).await.unwrap();
    let taken_over = queue.enqueue_due(&backups, &other, now()).await.unwrap();
    assert_eq!(taken_over.held, 0);
}
