//! How runs end: each key that the recorded ends of rq leave, and who may say so.

use std::collections::BTreeMap;
use std::time::Duration;

use pgseal::queue::consumer::{Ending, Held, Written};
use pgseal::queue::payload;
use pgseal::queue::producer::{Changed, NewJob, Position};
use pgseal::queue::rq::job_hash::Status;
use pgseal::queue::rq::moment::Lifetime;
use pgseal::queue::rq::outcome::OutcomeKind;
use pgseal::queue::value::Value;

use super::{claim, id, name, new_job, now, register, status, take};
use crate::harness::redis::{Redis, RedisDatabase};

fn written(status: Status) -> Written {
    Written::Written {
        status: Some(status),
        released: vec![],
    }
}

/// The members of a registry, and how many seconds from now their scores are.
fn registry(database: &RedisDatabase, registry: &str) -> BTreeMap<String, f64> {
    let time: Vec<f64> = database.ask(&["TIME"]);
    let key = format!("rq:{registry}:backups");
    let members: Vec<(String, f64)> = database.ask(&["ZRANGE", &key, "0", "-1", "WITHSCORES"]);
    members
        .into_iter()
        .map(|(member, score)| (member, score - time[0]))
        .collect()
}

fn in_registry(database: &RedisDatabase, name: &str, job: &str, seconds: f64) {
    let found = registry(database, name);
    let score = found[job];
    assert!(
        score.total_cmp(&seconds).is_eq() || (seconds - 3.0..=seconds).contains(&score),
        "{name}: {found:?}"
    );
}

/// Nothing tells any more that somebody runs it.
fn nobody_runs(database: &RedisDatabase, job: &str) {
    let running: Vec<String> = database
        .keys()
        .into_iter()
        .filter(|key| key.contains("execution"))
        .collect();
    assert_eq!(running, Vec::<String>::new());
    assert!(!registry(database, "wip").contains_key(job));
    assert_eq!(database.field("rq:worker:w1", "current_job"), None);
    assert_eq!(
        database.field("rq:worker:w1", "state").as_deref(),
        Some("idle")
    );
}

fn ttl(database: &RedisDatabase, key: &str) -> i64 {
    database.ask(&["TTL", key])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_success_is_kept_as_long_as_its_producer_wished() {
    for (result_ttl, kept) in [
        (None, Some((500.0, 500))),
        (Some(Lifetime::Seconds(60)), Some((60.0, 60))),
        (Some(Lifetime::Forever), Some((f64::INFINITY, -1))),
        (Some(Lifetime::Seconds(0)), None),
    ] {
        let database = Redis::shared().database();
        let queue = database.queue().await;
        let worker = register(&queue, "w1").await;
        let job = NewJob {
            result_ttl,
            ..new_job("job-a")
        };
        queue.enqueue(&job, now()).await.unwrap();
        let taken = take(&queue, &worker).await;
        let ending = Ending::Success(Value::Int(42));
        let end = queue.finish(&taken, &worker, &ending, now()).await.unwrap();
        assert_eq!(end, written(Status::Finished));
        nobody_runs(&database, "job-a");
        let counts = ["successful_job_count", "failed_job_count"];
        let counts = counts.map(|field| database.field("rq:worker:w1", field));
        assert_eq!(counts, [Some("1".to_owned()), None]);
        let Some((seconds, expected)) = kept else {
            let left: Vec<String> = database.keys();
            assert!(!left.iter().any(|key| key.contains("job-a")), "{left:?}");
            assert!(!left.contains(&"rq:finished:backups".to_owned()));
            continue;
        };
        assert_eq!(status(&database, "job-a"), "finished");
        in_registry(&database, "finished", "job-a", seconds);
        let outcome = queue.latest_outcome(&id("job-a")).await.unwrap().unwrap();
        assert_eq!(outcome.kind, OutcomeKind::Success);
        assert_eq!(outcome.return_value.as_deref(), Some("gARLKi4="));
        assert_eq!(outcome.execution.unwrap().id, taken.execution);
        for key in ["rq:job:job-a", "rq:results:job-a"] {
            let found = ttl(&database, key);
            assert!((expected - 2..=expected).contains(&found), "{key}: {found}");
        }
        // The answer was lost: the same again is no other end.
        let again = queue.finish(&taken, &worker, &ending, now()).await.unwrap();
        assert_eq!(again, Written::Repeated);
        let length: i64 = database.ask(&["XLEN", "rq:results:job-a"]);
        assert_eq!(length, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_tried_again_as_often_as_its_producer_wished() {
    let database = Redis::shared().database();
    let queue = database.queue().await;
    let worker = register(&queue, "w1").await;
    let job = NewJob {
        retries: Some((3, vec![0, 7])),
        ..new_job("job-a")
    };
    queue.enqueue(&job, now()).await.unwrap();
    let failed = Ending::Failed("no space left".into());
    // intervals[max(2 - retries_left, 0)], with 3, 2 and 1 left.
    for (interval, left) in [(0, "2"), (0, "1"), (7, "0")] {
        let taken = take(&queue, &worker).await;
        let end = queue.finish(&taken, &worker, &failed, now()).await.unwrap();
        nobody_runs(&database, "job-a");
        let found = database.field("rq:job:job-a", "retries_left");
        assert_eq!(found.as_deref(), Some(left));
        if interval == 0 {
            assert_eq!(end, written(Status::Queued));
        } else {
            assert_eq!(end, written(Status::Scheduled));
            in_registry(&database, "scheduled", "job-a", f64::from(interval));
            database.ask::<i64>(&["ZADD", "rq:scheduled:backups", "1", "job-a"]);
            let scheduler = super::worker("scheduler");
            let due = queue
                .enqueue_due(&[name("backups")], &scheduler, now())
                .await;
            assert_eq!(due.unwrap().moved, 1);
        }
        assert_eq!(queue.latest_outcome(&id("job-a")).await.unwrap(), None);
    }
    let taken = take(&queue, &worker).await;
    let end = queue.finish(&taken, &worker, &failed, now()).await.unwrap();
    assert_eq!(end, written(Status::Failed));
    in_registry(&database, "failed", "job-a", 31_536_000.0);
    let outcome = queue.latest_outcome(&id("job-a")).await.unwrap().unwrap();
    let reason = payload::decode_exc_string(outcome.exc_string.unwrap().as_bytes());
    assert_eq!(reason.as_deref(), Ok("no space left"));
    let count = database.field("rq:worker:w1", "failed_job_count");
    assert_eq!(count.as_deref(), Some("4"));

    let done = Changed::Done { released: vec![] };
    assert_eq!(queue.requeue(&id("job-a"), now()).await.unwrap(), done);
    assert_eq!(ttl(&database, "rq:job:job-a"), -1);
    assert_eq!(queue.length(&name("backups")).await.unwrap(), 1);
    let again = queue.requeue(&id("job-a"), now()).await.unwrap();
    assert_eq!(again, Changed::Other(Some(Status::Queued)));
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_given_back_and_put_off() {
    let database = Redis::shared().database();
    let queue = database.queue().await;
    let worker = register(&queue, "w1").await;
    let job = NewJob {
        retries: Some((1, vec![])),
        ..new_job("job-a")
    };
    queue.enqueue(&job, now()).await.unwrap();
    queue.enqueue(&new_job("job-b"), now()).await.unwrap();

    let taken = take(&queue, &worker).await;
    let end = queue
        .finish(&taken, &worker, &Ending::Requeued, now())
        .await;
    assert_eq!(end.unwrap(), written(Status::Queued));
    nobody_runs(&database, "job-a");
    let first = queue.position(&name("backups"), &id("job-a")).await;
    assert_eq!(first.unwrap(), Some(0));

    let taken = take(&queue, &worker).await;
    let later = Ending::Delayed(Duration::from_secs(30));
    let end = queue.finish(&taken, &worker, &later, now()).await;
    assert_eq!(end.unwrap(), written(Status::Scheduled));
    in_registry(&database, "scheduled", "job-a", 30.0);
    nobody_runs(&database, "job-a");
    for field in ["successful_job_count", "failed_job_count"] {
        assert_eq!(database.field("rq:worker:w1", field), None);
    }
    let left = database.field("rq:job:job-a", "retries_left");
    assert_eq!(left.as_deref(), Some("1"));

    let taken = take(&queue, &worker).await;
    let stopped = Ending::Stopped("Job stopped by user, work-horse terminated.".into());
    let end = queue.finish(&taken, &worker, &stopped, now()).await;
    assert_eq!(end.unwrap(), written(Status::Stopped));
    in_registry(&database, "failed", "job-b", 31_536_000.0);
    assert_eq!(
        claim(&queue, &worker).await,
        pgseal::queue::consumer::Claimed::Nothing
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn dependents_are_released_once_nothing_is_missing() {
    let database = Redis::shared().database();
    let queue = database.queue().await;
    let worker = register(&queue, "w1").await;
    for parent in ["a", "b", "c"] {
        queue.enqueue(&new_job(parent), now()).await.unwrap();
    }
    let child = |name: &str, parents: &[&str]| NewJob {
        depends_on: parents.iter().map(|parent| id(parent)).collect(),
        ..new_job(name)
    };
    let others = name("others");
    for job in [
        child("of-a-and-b", &["a", "b"]),
        NewJob {
            queue: others.clone(),
            position: Position::Front,
            ..child("of-a", &["a"])
        },
        child("of-c", &["c"]),
        child("of-c-even-failed", &["c"]),
        child("canceled", &["a"]),
    ] {
        queue.enqueue(&job, now()).await.unwrap();
    }
    database.ask::<i64>(&[
        "HSET",
        "rq:job:of-c-even-failed",
        "allow_dependency_failures",
        "1",
    ]);
    queue.cancel(&id("canceled"), now()).await.unwrap();
    database.ask::<i64>(&["RPUSH", "rq:queue:others", "last"]);
    let success = Ending::Success(Value::None);
    let failure = Ending::Failed("no".into());
    let mut released = Vec::new();
    for ending in [&success, &success, &failure] {
        let taken = take(&queue, &worker).await;
        match queue.finish(&taken, &worker, ending, now()).await.unwrap() {
            Written::Written { released: ids, .. } => released.push(ids),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(
        released,
        [
            vec![id("of-a")],
            vec![id("of-a-and-b")],
            vec![id("of-c-even-failed")]
        ]
    );
    assert_eq!(queue.position(&others, &id("of-a")).await.unwrap(), Some(0));
    assert_eq!(status(&database, "of-c"), "deferred");
    assert_eq!(status(&database, "canceled"), "canceled");
    let waiting: Vec<String> = database.ask(&["SMEMBERS", "rq:job:c:dependents"]);
    assert_eq!(waiting, ["of-c"]);
    let deferred: Vec<String> = database.ask(&["ZRANGE", "rq:deferred:backups", "0", "-1"]);
    assert_eq!(deferred, ["of-c"]);

    let reason = "the backup before it failed";
    let end = queue.fail_deferred(&id("of-c"), reason, now()).await;
    assert_eq!(end.unwrap(), Changed::Done { released: vec![] });
    assert_eq!(status(&database, "of-c"), "failed");
    in_registry(&database, "failed", "of-c", 31_536_000.0);
    let outcome = queue.latest_outcome(&id("of-c")).await.unwrap().unwrap();
    let found = payload::decode_exc_string(outcome.exc_string.unwrap().as_bytes());
    assert_eq!(found.as_deref(), Ok(reason));
    let left: i64 = database.ask(&["EXISTS", "rq:deferred:backups", "rq:job:c:dependents"]);
    assert_eq!(left, 0);
}

/// Row 47: who was canceled, deleted, declared abandoned or replaced writes nothing over what came after.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_lost_its_job_changes_nothing() {
    let database = Redis::shared().database();
    let queue = database.queue().await;
    let worker = register(&queue, "w1").await;
    let success = Ending::Success(Value::Int(1));

    queue.enqueue(&new_job("canceled"), now()).await.unwrap();
    let taken = take(&queue, &worker).await;
    let held = queue.heartbeat(&taken, &worker, 90, now()).await.unwrap();
    assert_eq!(held, Held::Mine);
    queue.cancel(&id("canceled"), now()).await.unwrap();
    let held = queue.heartbeat(&taken, &worker, 90, now()).await.unwrap();
    assert_eq!(held, Held::Lost);
    let end = queue
        .finish(&taken, &worker, &success, now())
        .await
        .unwrap();
    assert_eq!(end, Written::Canceled);
    assert_eq!(status(&database, "canceled"), "canceled");
    nobody_runs(&database, "canceled");

    queue.enqueue(&new_job("deleted"), now()).await.unwrap();
    let taken = take(&queue, &worker).await;
    queue.delete(&id("deleted"), now()).await.unwrap();
    let held = queue.heartbeat(&taken, &worker, 90, now()).await.unwrap();
    assert_eq!(held, Held::Lost);
    let end = queue
        .finish(&taken, &worker, &success, now())
        .await
        .unwrap();
    assert_eq!(end, Written::LostOwnership);
    let left: i64 = database.ask(&["EXISTS", "rq:job:deleted", "rq:results:deleted"]);
    assert_eq!(left, 0);
    nobody_runs(&database, "deleted");

    // Declared abandoned, and another process of the same name runs it now.
    queue.enqueue(&new_job("taken-over"), now()).await.unwrap();
    let old = take(&queue, &worker).await;
    let given_back = queue.finish(&old, &worker, &Ending::Requeued, now()).await;
    given_back.unwrap();
    let new = take(&queue, &worker).await;
    assert_eq!(new.job_id, old.job_id);
    let held = queue.heartbeat(&old, &worker, 90, now()).await.unwrap();
    assert_eq!(held, Held::Lost);
    database.ask::<i64>(&["HDEL", "rq:worker:w1", "settled_execution"]);
    let end = queue.finish(&old, &worker, &success, now()).await.unwrap();
    assert_eq!(end, Written::LostOwnership);
    assert_eq!(status(&database, "taken-over"), "started");
    let current = database.field("rq:worker:w1", "current_job");
    assert_eq!(current.as_deref(), Some("taken-over"));
    let held = queue.heartbeat(&new, &worker, 90, now()).await.unwrap();
    assert_eq!(held, Held::Mine);
}
