//! Rows 51 to 53, without a catalog: whatever stands in Redis, a worker goes on with the next job.

use pgseal::queue::QueueError;
use pgseal::queue::consumer::{Claimed, Ending, Written};
use pgseal::queue::job::Functions;
use pgseal::queue::payload::PayloadError;
use pgseal::queue::producer::{Changed, EnqueueError, NewJob};
use pgseal::queue::rq::job_hash::Status;
use pgseal::queue::value::{Limit, Value};

use super::{claim, id, name, new_job, now, register, status, take};
use crate::harness::redis::Redis;

/// Row 51: payloads that are none fail, by name and without their bytes; the worker takes the next job.
#[tokio::test(flavor = "multi_thread")]
async fn poison_fails_and_the_next_job_is_run() {
    let database = Redis::shared().database();
    let queue = database.queue().await;
    let worker = register(&queue, "w1").await;
    let deep = b"]".repeat(1 << 20);
    let payloads: [&[u8]; 6] = [
        b"",
        b"canary",
        b"\x78\x9c\xff\xff",
        b"[\"canary\"]",
        // os.system("canary") by __reduce__.
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x06canary\x85R.",
        &[b"\x80\x04", &deep[..], b"."].concat(),
    ];
    for (number, payload) in payloads.iter().enumerate() {
        let job = format!("poison-{number}");
        let key = format!("rq:job:{job}");
        database.ask_bytes::<i64>(
            "HSET",
            &[key.as_bytes(), b"data", payload, b"status", b"queued"],
        );
        database.ask::<i64>(&["RPUSH", "rq:queue:backups", &job]);
    }
    queue.enqueue(&new_job("good"), now()).await.unwrap();
    for _ in payloads {
        let taken = take(&queue, &worker).await;
        let error = taken.call().unwrap_err();
        assert!(!format!("{error} {error:?}").contains("canary"));
        let failed = Ending::FailedFinally(error.to_string());
        let end = queue.finish(&taken, &worker, &failed, now()).await.unwrap();
        assert!(matches!(
            end,
            Written::Written {
                status: Some(Status::Failed),
                ..
            }
        ));
    }
    let taken = take(&queue, &worker).await;
    assert_eq!(taken.job_id, id("good"));
    let failed: usize = database.ask(&["ZCARD", "rq:failed:backups"]);
    assert_eq!(failed, payloads.len());
}

/// Row 52: a payload of a hundred megabytes is refused without being fetched, and so is one that would grow to a gigabyte.
#[tokio::test(flavor = "multi_thread")]
async fn huge_fields_are_not_fetched() {
    let redis = Redis::start(&[]);
    let database = redis.database();
    let queue = database.queue().await;
    let worker = register(&queue, "w1").await;
    let huge = vec![b'x'; 100 << 20];
    for field in ["data", "meta", "description", "worker_name", "status"] {
        let job = format!("huge-{field}").replace('_', "-");
        queue.enqueue(&new_job(&job), now()).await.unwrap();
        let key = format!("rq:job:{job}");
        database.ask_bytes::<i64>("HSET", &[key.as_bytes(), field.as_bytes(), &huge]);
    }
    let sent = || {
        let stats: String = database.ask(&["INFO", "stats"]);
        let mut lines = stats.lines();
        let bytes = lines.find_map(|line| line.strip_prefix("total_net_output_bytes:"));
        bytes.unwrap().trim().parse::<u64>().unwrap()
    };
    let before = sent();
    for field in ["data", "meta", "description", "worker_name", "status"] {
        let taken = take(&queue, &worker).await;
        let call = taken.call();
        if field == "data" {
            assert_eq!(call, Err(PayloadError::Limit(Limit::Bytes)));
        } else {
            assert!(call.is_ok(), "{field}");
        }
        let end = Ending::Success(Value::None);
        let end = queue.finish(&taken, &worker, &end, now()).await.unwrap();
        assert!(matches!(end, Written::Written { .. }), "{field}: {end:?}");
        queue.job(&taken.job_id).await.unwrap().unwrap();
    }
    let fetched = sent() - before;
    assert!(fetched < 1 << 20, "{fetched} bytes");
}

/// Row 52: what an attacker pushes by hand is dropped where it is no job.
#[tokio::test(flavor = "multi_thread")]
async fn ids_that_are_no_jobs_are_dropped() {
    let database = Redis::shared().database();
    let queue = database.queue().await;
    let worker = register(&queue, "w1").await;
    let long = "a".repeat(1 << 20);
    let hostile = [
        "", "a:b", "../x", "a b", "\n", "ghost", "string", &long, "%s{}",
    ];
    for job in hostile {
        database.ask::<i64>(&["RPUSH", "rq:queue:backups", job]);
    }
    database.ask_bytes::<i64>("RPUSH", &[b"rq:queue:backups", b"\xff\xfe\x00"]);
    database.ask::<redis::Value>(&["SET", "rq:job:string", "x"]);
    for over in ["finished", "started", "canceled"] {
        let key = format!("rq:job:{over}");
        database.ask::<i64>(&["HSET", &key, "data", "x", "status", over]);
        database.ask::<i64>(&["RPUSH", "rq:queue:backups", over]);
    }
    // More than are looked at in one step.
    let flood: Vec<String> = (0..2500).map(|number| format!("flood-{number}")).collect();
    let mut push = vec!["RPUSH", "rq:queue:backups"];
    push.extend(flood.iter().map(String::as_str));
    database.ask::<i64>(&push);
    queue.enqueue(&new_job("good"), now()).await.unwrap();
    assert_eq!(take(&queue, &worker).await.job_id, id("good"));
    assert_eq!(claim(&queue, &worker).await, Claimed::Nothing);
}

/// Row 53: an id that looks right but names another function, or nothing that the catalog has, is only a call to judge.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_pushed_by_hand_is_judged_by_its_call() {
    let database = Redis::shared().database();
    let queue = database.queue().await;
    let worker = register(&queue, "w1").await;
    let mut call = super::run_backup(42);
    call.function = "os.system".into();
    let data = call.encode().unwrap();
    database.ask_bytes::<i64>("HSET", &[b"rq:job:by-hand", b"data", &data]);
    database.ask::<i64>(&["RPUSH", "rq:queue:backups", "by-hand"]);
    let taken = take(&queue, &worker).await;
    let error = Functions::default()
        .job(&taken.call().unwrap())
        .unwrap_err();
    assert!(error.to_string().contains("os.system"));
    assert_eq!(taken.hash.origin, Some(name("backups")));
}

/// Row 51: every key beside the job is somebody else's, of another type. The job is run and ends all the same, or it is
/// said which key stands in the way.
#[tokio::test(flavor = "multi_thread")]
async fn keys_of_other_types_end_nothing() {
    let database = Redis::shared().database();
    let queue = database.queue().await;
    let worker = register(&queue, "w1").await;
    let squat = |keys: &[&str]| {
        for key in keys {
            database.ask::<redis::Value>(&["SET", key, "x"]);
        }
    };
    squat(&["rq:job:taken", "rq:queue:others"]);
    let to_others = NewJob {
        queue: name("others"),
        ..new_job("job-a")
    };
    for (job, foreign) in [
        (new_job("taken"), "rq:job:taken"),
        (to_others, "rq:queue:others"),
    ] {
        let error = queue.enqueue(&job, now()).await.unwrap_err();
        let EnqueueError::Queue(QueueError::ForeignKey { key }) = error else {
            panic!("{error}");
        };
        assert_eq!(key, foreign);
    }
    let left: i64 = database.ask(&["EXISTS", "rq:job:job-a"]);
    assert_eq!(left, 0);
    queue.enqueue(&new_job("parent"), now()).await.unwrap();
    squat(&[
        "rq:wip:backups",
        "rq:executions:parent",
        "rq:worker:w1:executions",
        "rq:results:parent",
        "rq:finished:backups",
        "rq:job:parent:dependents",
        "rq:job::parent:dependencies",
        "rq:queue:backups:intermediate",
        "rq:queue:empty",
    ]);
    let taken = take(&queue, &worker).await;
    queue.heartbeat(&taken, &worker, 90, now()).await.unwrap();
    let end = Ending::Success(Value::Int(1));
    let end = queue.finish(&taken, &worker, &end, now()).await.unwrap();
    assert!(matches!(end, Written::Written { .. }), "{end:?}");
    assert_eq!(status(&database, "parent"), "finished");
    queue.workers().await.unwrap();
    let foreign = queue.length(&name("empty")).await.unwrap_err();
    assert!(matches!(foreign, QueueError::Server { .. }), "{foreign}");
    let gone = queue.delete(&id("parent"), now()).await.unwrap();
    assert_eq!(gone, Changed::Done { released: vec![] });
}
