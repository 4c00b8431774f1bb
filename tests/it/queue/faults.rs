//! Rows 44 to 47: Redis gone, emptied or cut off, and many workers that want the same jobs.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pgseal::queue::consumer::{Claim, Claimed, Ending, Held, Written};
use pgseal::queue::producer::{EnqueueError, Enqueued, Ensured, NewJob};
use pgseal::queue::rq::job_hash::Status;
use pgseal::queue::rq::keys::Keys;
use pgseal::queue::value::Value;
use pgseal::queue::{Queue, QueueError, RedisAddress};

use super::{execution, id, name, new_job, now, register, status, take, worker};
use crate::harness::link::Link;
use crate::harness::postgres::free_port;
use crate::harness::redis::{Redis, RedisDatabase};
use crate::harness::{folder, run, scale};

/// Row 44: a job that could not be enqueued is no job, and it is one once the same is asked again.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_redis_was_down_for_is_enqueued_once() {
    let redis = Redis::start(&[]);
    let database = redis.database();
    let queue = database.queue().await;
    redis.kill();
    let error = queue.enqueue(&new_job("job-a"), now()).await.unwrap_err();
    let EnqueueError::Queue(error) = error else {
        panic!("{error}");
    };
    assert!(error.is_transient(), "{error}");
    assert!(error.to_string().contains("\nhint: "), "{error}");
    redis.run();
    for made in [Enqueued::Queued, Enqueued::Exists] {
        assert_eq!(queue.enqueue(&new_job("job-a"), now()).await.unwrap(), made);
    }
    assert_eq!(queue.length(&name("backups")).await.unwrap(), 1);
}

/// Row 45: a job whose worker cannot reach Redis for a while goes on, and ends in Redis once that is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_outlives_a_restart_of_redis() {
    let redis = Redis::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let queue = redis.database().queue().await;
    let worker = register(&queue, "w1").await;
    queue.enqueue(&new_job("job-a"), now()).await.unwrap();
    let taken = take(&queue, &worker).await;
    redis.kill();
    let error = queue.heartbeat(&taken, &worker, 90, now()).await;
    assert!(error.unwrap_err().is_transient());
    redis.run();
    let held = queue.heartbeat(&taken, &worker, 90, now()).await.unwrap();
    assert_eq!(held, Held::Mine);
    let success = Ending::Success(Value::Int(42));
    let end = queue.finish(&taken, &worker, &success, now()).await;
    assert!(matches!(
        end.unwrap(),
        Written::Written {
            status: Some(Status::Finished),
            ..
        }
    ));
}

/// Row 46: what Redis lost is there again, once, and what it still has is left alone.
#[tokio::test(flavor = "multi_thread")]
async fn lost_jobs_are_made_again_and_others_left_alone() {
    let redis = Redis::start(&[]);
    let url = redis.database().url;
    let queue = RedisDatabase::of(url.clone()).queue().await;
    let jobs: Vec<NewJob> = (0..100).map(|n| new_job(&format!("job-{n}"))).collect();
    let ensured = async || {
        let each = queue.ensure_each(&jobs, now()).await.unwrap();
        each.into_iter().map(Result::unwrap).collect::<Vec<_>>()
    };
    let made = vec![Ensured::Enqueued(Enqueued::Queued); 100];
    let present = vec![Ensured::Present(Some(Status::Queued)); 100];
    assert_eq!(ensured().await, made);
    redis.kill();
    redis.run();
    assert_eq!(queue.length(&name("backups")).await.unwrap(), 0);
    assert_eq!(ensured().await, made);
    assert_eq!(ensured().await, present);
    let database = RedisDatabase::of(url);
    database.ask::<i64>(&["DEL", "rq:queue:backups"]);
    assert_eq!(ensured().await, vec![Ensured::Requeued; 100]);
    // A worker of Python has one of them in its hands.
    database.ask::<String>(&[
        "LMOVE",
        "rq:queue:backups",
        "rq:queue:backups:intermediate",
        "LEFT",
        "RIGHT",
    ]);
    assert_eq!(ensured().await, present);
    assert_eq!(queue.length(&name("backups")).await.unwrap(), 99);
    let child = NewJob {
        depends_on: vec![id("job-1")],
        ..new_job("child")
    };
    let deferred = Ensured::Enqueued(Enqueued::Deferred);
    assert_eq!(queue.ensure(&child, now()).await.unwrap(), deferred);
    database.ask::<i64>(&["DEL", "rq:deferred:backups", "rq:job:job-1:dependents"]);
    assert_eq!(
        queue.ensure(&child, now()).await.unwrap(),
        Ensured::Requeued
    );
    assert_eq!(status(&database, "child"), "deferred");
    let left: i64 = database.ask(&["EXISTS", "rq:deferred:backups", "rq:job:job-1:dependents"]);
    assert_eq!(left, 2);
}

/// Row 47: sixteen workers, a thousand jobs: each is claimed once.
#[tokio::test(flavor = "multi_thread")]
async fn many_workers_claim_each_job_once() {
    let jobs = scale(1000, 20_000);
    let redis = Redis::start(&[]);
    let database = redis.database();
    let producer = database.queue().await;
    let new: Vec<NewJob> = (0..jobs).map(|n| new_job(&format!("job-{n}"))).collect();
    for some in new.chunks(500) {
        producer.ensure_each(some, now()).await.unwrap();
    }
    let mut workers = Vec::new();
    for number in 0..16 {
        let queue = database.queue().await;
        workers.push(tokio::spawn(async move {
            let worker = register(&queue, &format!("w{number}")).await;
            let mut claimed = Vec::new();
            while let Claimed::Job(taken) = super::claim(&queue, &worker).await {
                let end = Ending::Success(Value::None);
                let end = queue.finish(&taken, &worker, &end, now()).await.unwrap();
                assert!(matches!(end, Written::Written { .. }), "{end:?}");
                claimed.push(taken.job_id);
            }
            claimed
        }));
    }
    let mut times: BTreeMap<_, u32> = BTreeMap::new();
    for worker in workers {
        for job in worker.await.unwrap() {
            *times.entry(job).or_default() += 1;
        }
    }
    assert_eq!(times.len(), jobs);
    assert!(times.values().all(|times| *times == 1));
    let finished: usize = database.ask(&["ZCARD", "rq:finished:backups"]);
    assert_eq!(finished, jobs);
    let left: i64 = database.ask(&["EXISTS", "rq:wip:backups", "rq:queue:backups"]);
    assert_eq!(left, 0);
}

/// The connection is cut after every so many bytes, in the middle of claims and of ends. Who asks again with the same
/// execution gets the job that the first answer was lost with; nothing is lost and nothing is run twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_cut_loses_and_doubles_nothing() {
    let jobs = scale(60, 1000);
    let redis = Redis::start(&[]);
    let database = redis.database();
    let producer = database.queue().await;
    for number in 0..jobs {
        let job = new_job(&format!("job-{number}"));
        producer.enqueue(&job, now()).await.unwrap();
    }
    let w1 = register(&producer, "w1").await;
    let link = Link::cut_after(redis.port, 700);
    let url = database
        .url
        .replace(&redis.port.to_string(), &link.port.to_string());
    let address = RedisAddress::parse(&url).unwrap();
    let queue = Queue::open(&address, Keys::default()).unwrap();
    let runs: Arc<Mutex<BTreeMap<String, u32>>> = Arc::default();
    let mut cuts = 0;
    // As a worker does: the same again until there is an answer. Every cut comes at another place.
    macro_rules! until_answered {
        ($call:expr) => {
            loop {
                match $call.await {
                    Ok(answer) => break answer,
                    Err(QueueError::Unavailable { .. }) => {
                        cuts += 1;
                        link.mend_for(700 + 37 * (cuts % 50));
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        };
    }
    loop {
        let execution = execution();
        let claim = Claim {
            worker: &w1,
            queues: &[name("backups")],
            execution: &execution,
            heartbeat_seconds: 30,
            now: now(),
        };
        let taken = match until_answered!(queue.claim(&claim)) {
            Claimed::Job(taken) => taken,
            Claimed::Nothing => break,
            other => panic!("{other:?}"),
        };
        let run = runs
            .lock()
            .unwrap()
            .entry(taken.job_id.to_string())
            .or_default()
            .to_owned();
        runs.lock()
            .unwrap()
            .insert(taken.job_id.to_string(), run + 1);
        let success = Ending::Success(Value::None);
        let end = until_answered!(queue.finish(&taken, &w1, &success, now()));
        assert!(!matches!(end, Written::LostOwnership), "{end:?}");
    }
    assert!(cuts > 20, "{cuts} cuts");
    let runs = runs.lock().unwrap();
    assert_eq!(runs.len(), jobs);
    assert!(runs.values().all(|times| *times == 1), "{runs:?}");
    let finished: usize = database.ask(&["ZCARD", "rq:finished:backups"]);
    assert_eq!(finished, jobs);
    let left: i64 = database.ask(&["EXISTS", "rq:wip:backups", "rq:queue:backups"]);
    assert_eq!(left, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_a_socket_and_tls_are_spoken() {
    let redis = Redis::start(&["--requirepass", "dummy-redis-canary"]);
    let port = redis.port;
    let socket = redis.file("socket").display().to_string();
    for url in [
        format!("redis://:dummy-redis-canary@127.0.0.1:{port}/3"),
        format!("redis://default:dummy-redis-canary@localhost:{port}"),
        format!("unix://{socket}?db=3&password=dummy-redis-canary"),
    ] {
        let address = RedisAddress::parse(&url).unwrap();
        let queue = Queue::connect(&address, Keys::default()).await.unwrap();
        queue.ping().await.unwrap();
        assert!(!format!("{queue:?}").contains("canary"));
    }
    for user in ["", ":dummy-wrong-canary@", "nobody:dummy-wrong-canary@"] {
        let address = RedisAddress::parse(&format!("redis://{user}127.0.0.1:{port}")).unwrap();
        let error = Queue::connect(&address, Keys::default()).await.unwrap_err();
        assert!(matches!(error, QueueError::Refused { .. }), "{error:?}");
        let source = std::error::Error::source(&error).unwrap();
        let said = format!("{error} {error:?} {source} {source:?}");
        assert!(!said.contains("canary"), "{said}");
    }

    let folder = folder();
    let [key, authority] = certificate(folder.path());
    let tls_port = free_port();
    let redis = Redis::start(&[
        "--tls-port",
        &tls_port.to_string(),
        "--tls-cert-file",
        &authority,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &authority,
        "--tls-auth-clients",
        "no",
    ]);
    let trusted = format!("rediss://127.0.0.1:{tls_port}/0?ssl_ca_certs={authority}");
    let address = RedisAddress::parse(&trusted).unwrap();
    let queue = Queue::connect(&address, Keys::default()).await.unwrap();
    assert_eq!(
        queue.enqueue(&new_job("job-a"), now()).await.unwrap(),
        Enqueued::Queued
    );
    let mut waiter = queue.waiter(&name("backups"));
    waiter.wait().await;
    let mut commands = queue.commands(&worker("w1")).await.unwrap();
    let quiet = tokio::time::timeout(Duration::from_millis(50), commands.next()).await;
    assert!(quiet.is_err());
    // Nobody vouches for it.
    let address = RedisAddress::parse(&format!("rediss://127.0.0.1:{tls_port}/0")).unwrap();
    let error = Queue::connect(&address, Keys::default()).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    drop(redis);
}

/// A certificate for 127.0.0.1: its key, and the certificate, which is its own authority.
fn certificate(folder: &Path) -> [String; 2] {
    let files = ["key.pem", "authority.pem"].map(|name| folder.join(name).display().to_string());
    run(Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
        ])
        .args(["-nodes", "-days", "2", "-subj", "/CN=dummy"])
        .args(["-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-keyout", &files[0], "-out", &files[1]]));
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_server_is_refused() {
    use std::io::{Read as _, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = stream.read(&mut buffer) {
                let asked = String::from_utf8_lossy(&buffer[..read]).into_owned();
                let info = "redis_version:6.0.16\r\n";
                let answer = if asked.contains("$4\r\nINFO\r\n") {
                    format!("${}\r\n{info}\r\n", info.len())
                } else {
                    "+OK\r\n".repeat(asked.matches('*').count())
                };
                stream.write_all(answer.as_bytes()).unwrap();
            }
        }
    });
    let address = RedisAddress::parse(&format!("redis://127.0.0.1:{port}")).unwrap();
    let error = Queue::connect(&address, Keys::default()).await.unwrap_err();
    let said = error.to_string();
    assert!(
        said.contains("has version 6.0.16, and 6.2 is needed"),
        "{said}"
    );
}
