//! The queue on a real Redis, judged by its keys: what each step leaves, what faults lose, and what garbage does.

mod endings;
mod faults;
mod garbage;
mod maintenance;
mod waiting;

use std::collections::BTreeMap;

use pgseal::queue::Queue;
use pgseal::queue::QueueError;
use pgseal::queue::consumer::{Claim, Claimed, Taken};
use pgseal::queue::payload::{Call, Serializer};
use pgseal::queue::producer::{Changed, Enqueued, NewJob, Position};
use pgseal::queue::rq::job_hash::Status;
use pgseal::queue::rq::names::{ExecutionId, JobId, QueueName, WorkerName};
use pgseal::queue::rq::worker_hash::Birth;
use pgseal::queue::value::Value;
use time::OffsetDateTime;

use crate::harness::redis::{Redis, RedisDatabase};

pub fn id(text: &str) -> JobId {
    JobId::parse(text).unwrap()
}

pub fn name(text: &str) -> QueueName {
    QueueName::parse(text).unwrap()
}

pub fn worker(text: &str) -> WorkerName {
    WorkerName::parse(text).unwrap()
}

pub fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

pub fn execution() -> ExecutionId {
    ExecutionId::from_random(rand::random())
}

pub fn run_backup(number: i64) -> Call {
    Call {
        function: "app.workers.backup_jobs.run_backup".to_owned(),
        args: vec![Value::Int(number)],
        kwargs: Vec::new(),
        serializer: Serializer::Pickle,
    }
}

pub fn new_job(job: &str) -> NewJob {
    NewJob::new(id(job), name("backups"), run_backup(42))
}

pub async fn register(queue: &Queue, worker_name: &str) -> WorkerName {
    let worker = worker(worker_name);
    let queues = [name("backups")];
    let birth = Birth {
        at: now(),
        queues: &queues,
        pid: 19272,
        hostname: "vm",
        ip_address: None,
        version: "0.1.0",
        python_version: "none",
    };
    queue.register(&worker, &birth).await.unwrap();
    worker
}

pub async fn claim(queue: &Queue, worker: &WorkerName) -> Claimed {
    let claim = Claim {
        worker,
        queues: &[name("backups")],
        execution: &execution(),
        heartbeat_seconds: 30,
        now: now(),
    };
    queue.claim(&claim).await.unwrap()
}

pub async fn take(queue: &Queue, worker: &WorkerName) -> Taken {
    match claim(queue, worker).await {
        Claimed::Job(taken) => *taken,
        other => panic!("no job: {other:?}"),
    }
}

/// A hash without the fields that hold a time.
pub fn hash(database: &RedisDatabase, key: &str) -> BTreeMap<String, Vec<u8>> {
    let mut hash: BTreeMap<String, Vec<u8>> = database.ask(&["HGETALL", key]);
    hash.retain(|field, _| !field.ends_with("_at") && field != "last_heartbeat");
    hash
}

pub fn status(database: &RedisDatabase, job: &str) -> String {
    database
        .field(&format!("rq:job:{job}"), "status")
        .unwrap_or_default()
}

fn is_date(text: &str) -> bool {
    let shape: String = text
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    shape == "0000-00-00T00:00:00.000000Z"
}

/// The recorded enqueue of rq 1.16.2, key by key.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_job_is_as_rq_writes_it() {
    let database = Redis::shared().database();
    let queue = database.queue().await;
    let made = queue.enqueue(&new_job("job-a"), now()).await.unwrap();
    assert_eq!(made, Enqueued::Queued);
    assert_eq!(
        database.keys(),
        ["rq:job:job-a", "rq:queue:backups", "rq:queues"]
    );
    let queues: Vec<String> = database.ask(&["SMEMBERS", "rq:queues"]);
    assert_eq!(queues, ["rq:queue:backups"]);
    let waiting: Vec<String> = database.ask(&["LRANGE", "rq:queue:backups", "0", "-1"]);
    assert_eq!(waiting, ["job-a"]);
    let found = hash(&database, "rq:job:job-a");
    let expected = [
        ("success_callback_name", ""),
        ("failure_callback_name", ""),
        ("stopped_callback_name", ""),
        ("worker_name", ""),
        ("origin", "backups"),
        ("description", "app.workers.backup_jobs.run_backup(42)"),
        ("timeout", "180"),
        ("status", "queued"),
    ];
    for (field, value) in expected {
        assert_eq!(found[field], value.as_bytes(), "{field}");
    }
    assert_eq!(found.len(), expected.len() + 1, "and data: {found:?}");
    for field in ["created_at", "enqueued_at"] {
        assert!(is_date(&database.field("rq:job:job-a", field).unwrap()));
    }
    let ttl: i64 = database.ask(&["TTL", "rq:job:job-a"]);
    assert_eq!(ttl, -1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_id_twice_is_one_job() {
    let database = Redis::shared().database();
    let queue = database.queue().await;
    queue.enqueue(&new_job("job-a"), now()).await.unwrap();
    let before = hash(&database, "rq:job:job-a");
    let other = NewJob {
        queue: name("others"),
        timeout: pgseal::queue::rq::moment::Lifetime::Forever,
        ..new_job("job-a")
    };
    assert_eq!(
        queue.enqueue(&other, now()).await.unwrap(),
        Enqueued::Exists
    );
    assert_eq!(hash(&database, "rq:job:job-a"), before);
    assert_eq!(queue.length(&name("others")).await.unwrap(), 0);
    assert_eq!(queue.length(&name("backups")).await.unwrap(), 1);
    // What a late sign of a worker of Python leaves of a deleted job is none.
    database.ask::<i64>(&["HSET", "rq:job:ghost", "last_heartbeat", "x"]);
    let made = queue.enqueue(&new_job("ghost"), now()).await.unwrap();
    assert_eq!(made, Enqueued::Queued);
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_wait_for_every_parent_and_in_order() {
    let database = Redis::shared().database();
    let queue = database.queue().await;
    let child = NewJob {
        depends_on: vec![id("job-a"), id("job-b")],
        position: Position::Front,
        ..new_job("job-c")
    };
    let error = queue.enqueue(&child, now()).await.unwrap_err();
    assert!(error.to_string().contains("the job job-a"), "{error}");
    assert_eq!(database.keys(), Vec::<String>::new());
    for parent in ["job-a", "job-b"] {
        queue.enqueue(&new_job(parent), now()).await.unwrap();
    }
    let made = queue.enqueue(&child, now()).await.unwrap();
    assert_eq!(made, Enqueued::Deferred);
    assert_eq!(status(&database, "job-c"), "deferred");
    assert_eq!(database.field("rq:job:job-c", "enqueued_at"), None);
    let mut parents: Vec<String> = database.ask(&["SMEMBERS", "rq:job::job-c:dependencies"]);
    parents.sort();
    assert_eq!(parents, ["job-a", "job-b"]);
    for parent in ["job-a", "job-b"] {
        let key = format!("rq:job:{parent}:dependents");
        let waiting: Vec<String> = database.ask(&["SMEMBERS", &key]);
        assert_eq!(waiting, ["job-c"]);
    }
    let deferred: Vec<String> = database.ask(&["ZRANGE", "rq:deferred:backups", "0", "-1"]);
    assert_eq!(deferred, ["job-c"]);

    let front = NewJob {
        position: Position::Front,
        ..new_job("job-d")
    };
    queue.enqueue(&front, now()).await.unwrap();
    let places = ["job-d", "job-a", "job-b"];
    for (place, job) in places.into_iter().enumerate() {
        let found = queue.position(&name("backups"), &id(job)).await.unwrap();
        assert_eq!(found, Some(place as u64), "{job}");
    }
    let found = queue.position(&name("backups"), &id("job-c")).await;
    assert_eq!(found.unwrap(), None);
}

/// The recorded start, in the profile that every version of rq reads.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_starts_the_job_in_every_registry() {
    let database = Redis::shared().database();
    let queue = database.queue().await;
    let worker = register(&queue, "w1").await;
    queue.enqueue(&new_job("job-a"), now()).await.unwrap();
    database.ask::<i64>(&["EXPIRE", "rq:job:job-a", "1000"]);
    let taken = take(&queue, &worker).await;
    assert_eq!(
        (taken.job_id.as_str(), taken.queue.as_str()),
        ("job-a", "backups")
    );
    assert_eq!(taken.call().unwrap(), run_backup(42));
    assert_eq!(taken.hash.status, Some(Status::Started));
    let run = taken.execution.as_str();
    let member = format!("job-a:{run}");
    let mut expected = [
        format!("rq:execution:{member}"),
        "rq:executions:job-a".into(),
        "rq:job:job-a".into(),
        "rq:queues".into(),
        "rq:wip:backups".into(),
        "rq:worker:w1".into(),
        "rq:worker:w1:executions".into(),
        "rq:workers".into(),
        "rq:workers:backups".into(),
    ];
    expected.sort();
    assert_eq!(database.keys(), expected);
    let time: Vec<i64> = database.ask(&["TIME"]);
    let near = |found: i64, wanted: i64| (wanted - 2..=wanted).contains(&found);
    let wip: Vec<(String, i64)> =
        database.ask(&["ZRANGE", "rq:wip:backups", "0", "-1", "WITHSCORES"]);
    assert!(
        wip.len() == 1 && wip[0].0 == "job-a" && near(wip[0].1, time[0] + 90),
        "{wip:?}"
    );
    let runs: Vec<(String, i64)> =
        database.ask(&["ZRANGE", "rq:executions:job-a", "0", "-1", "WITHSCORES"]);
    assert!(
        runs.len() == 1 && runs[0].0 == run && near(runs[0].1, time[0] + 150),
        "{runs:?}"
    );
    let of_worker: Vec<String> = database.ask(&["SMEMBERS", "rq:worker:w1:executions"]);
    assert_eq!(of_worker, [member.as_str()]);
    let execution = hash(&database, &format!("rq:execution:{member}"));
    assert_eq!(execution["id"], run.as_bytes());
    assert_eq!(execution["job_id"], b"job-a");
    assert_eq!(execution["worker_name"], b"w1");
    for (key, ttl) in [
        ("rq:worker:w1".to_owned(), 90),
        (format!("rq:execution:{member}"), 90),
        ("rq:executions:job-a".to_owned(), 150),
        ("rq:worker:w1:executions".to_owned(), 150),
        ("rq:job:job-a".to_owned(), -1),
    ] {
        let found: i64 = database.ask(&["TTL", &key]);
        assert!(near(found, ttl), "{key} lives for {found} s");
    }
    for (field, value) in [
        ("state", "busy"),
        ("current_job", "job-a"),
        ("current_job_working_time", "0"),
    ] {
        assert_eq!(
            database.field("rq:worker:w1", field).as_deref(),
            Some(value)
        );
    }
    assert_eq!(claim(&queue, &worker).await, Claimed::Nothing);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_comes_and_goes_as_recorded() {
    let database = Redis::shared().database();
    let queue = database.queue().await;
    let worker = register(&queue, "w1").await;
    let found = hash(&database, "rq:worker:w1");
    for (field, value) in [
        ("queues", "backups"),
        ("pid", "19272"),
        ("hostname", "vm"),
        ("ip_address", "unknown"),
        ("state", "started"),
    ] {
        assert_eq!(found[field], value.as_bytes(), "{field}");
    }
    let members: Vec<String> = database.ask(&["SMEMBERS", "rq:workers:backups"]);
    assert_eq!(members, ["rq:worker:w1"]);
    let ttl: i64 = database.ask(&["TTL", "rq:worker:w1"]);
    assert!((478..=480).contains(&ttl), "{ttl}");

    let queues = [name("backups")];
    let other = Birth {
        at: now(),
        queues: &queues,
        pid: 1,
        hostname: "other",
        ip_address: None,
        version: "",
        python_version: "",
    };
    let error = queue.register(&worker, &other).await.unwrap_err();
    assert!(matches!(error, QueueError::NameTaken { .. }), "{error}");
    let workers = queue.workers().await.unwrap();
    assert_eq!(workers.len(), 1);
    assert_eq!(workers[0].1.hostname.as_deref(), Some("vm"));

    queue.unregister(&worker, &queues, now()).await.unwrap();
    let ttl: i64 = database.ask(&["TTL", "rq:worker:w1"]);
    assert!((58..=60).contains(&ttl), "{ttl}");
    assert!(is_date(&database.field("rq:worker:w1", "death").unwrap()));
    assert_eq!(queue.workers().await.unwrap(), []);
    assert_eq!(claim(&queue, &worker).await, Claimed::Unregistered);
    queue.register(&worker, &other).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_taken_back_is_not_run() {
    let database = Redis::shared().database();
    let queue = database.queue().await;
    let worker = register(&queue, "w1").await;
    for job in ["job-a", "job-b"] {
        queue.enqueue(&new_job(job), now()).await.unwrap();
    }
    let done = Changed::Done { released: vec![] };
    assert_eq!(queue.cancel(&id("job-a"), now()).await.unwrap(), done);
    assert_eq!(status(&database, "job-a"), "canceled");
    let canceled: Vec<String> = database.ask(&["ZRANGE", "rq:canceled:backups", "0", "-1"]);
    assert_eq!(canceled, ["job-a"]);
    let again = queue.cancel(&id("job-a"), now()).await.unwrap();
    assert_eq!(again, Changed::Other(Some(Status::Canceled)));
    // Popped by somebody a moment before, and pushed back: the claim sees that it is canceled.
    database.ask::<i64>(&["LPUSH", "rq:queue:backups", "job-a", "job-a"]);
    assert_eq!(take(&queue, &worker).await.job_id, id("job-b"));
    let running = queue.cancel(&id("job-b"), now()).await.unwrap();
    assert_eq!(running, Changed::Running(Some(worker)));
    for job in ["job-a", "job-b"] {
        assert_eq!(queue.delete(&id(job), now()).await.unwrap(), done);
        let again = queue.delete(&id(job), now()).await.unwrap();
        assert_eq!(again, Changed::Missing);
    }
    let left: Vec<String> = database.keys();
    let left: Vec<_> = left.iter().filter(|key| key.contains("job-")).collect();
    assert_eq!(left, Vec::<&String>::new());
}
