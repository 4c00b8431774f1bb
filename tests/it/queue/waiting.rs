//! Waiting: a waiter wakes by whatever brings a job, changes nothing, and outlives its connection; so do commands.

use std::time::{Duration, Instant};

use pgseal::queue::rq::command::WorkerCommand;
use pgseal::queue::watch::Waiter;
use rustix::process::Signal;

use super::{id, name, new_job, now, worker};
use crate::harness::redis::{Redis, RedisDatabase};
use crate::harness::somebody::until;

/// How many clients wait in a blocking command.
fn blocked(database: &RedisDatabase) -> usize {
    let clients: String = database.ask(&["CLIENT", "LIST"]);
    clients
        .lines()
        .filter(|line| line.contains(" cmd=blmove") && line.contains("flags=b"))
        .count()
}

/// Waits with many waiters, brings a job, and returns how long the last one took to wake.
async fn wake(database: &RedisDatabase, waiters: Vec<Waiter>, bring: impl FnOnce()) -> Duration {
    let count = waiters.len();
    let waits: Vec<_> = waiters
        .into_iter()
        .map(|mut waiter| tokio::spawn(async move { waiter.wait().await }))
        .collect();
    tokio::task::block_in_place(|| until("all to wait", || blocked(database) == count));
    let started = Instant::now();
    bring();
    for wait in waits {
        wait.await.unwrap();
    }
    started.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_bring_a_job_wakes_every_waiter() {
    let redis = Redis::start(&[]);
    let database = redis.database();
    let queue = database.queue().await;
    let backups = name("backups");
    let list = "rq:queue:backups";
    let lua = format!("redis.call('SADD', 'x', 'y'); return redis.call('LPUSH', '{list}', 'j')");
    let ways: [&[&[&str]]; 4] = [
        &[&["RPUSH", list, "j"]],
        &[&["LPUSH", list, "j"]],
        &[
            &["MULTI"],
            &["SADD", "x", "y"],
            &["RPUSH", list, "j", "k"],
            &["EXEC"],
        ],
        &[&["EVAL", &lua, "0"]],
    ];
    for way in ways {
        let waiters = (0..5).map(|_| queue.waiter(&backups)).collect();
        let took = wake(&database, waiters, || {
            for command in way {
                database.ask::<redis::Value>(command);
            }
        })
        .await;
        // Without a push, it would be BLMOVE's own time, or the poll behind it.
        assert!(took < Duration::from_secs(5), "{way:?}: {took:?}");
        let left: Vec<String> = database.ask(&["LRANGE", list, "0", "-1"]);
        assert_eq!(left[0], "j", "the id stays where it was");
        // A list with something in it is no reason to wait.
        queue.waiter(&backups).wait().await;
        database.ask::<i64>(&["DEL", list]);
    }
}

/// A worker of Python that waits for the same queue gets its job as if no waiter were there.
#[tokio::test(flavor = "multi_thread")]
async fn waiters_take_nothing_from_others() {
    let redis = Redis::start(&[]);
    let database = redis.database();
    let queue = database.queue().await;
    let waiters: Vec<Waiter> = (0..3).map(|_| queue.waiter(&name("backups"))).collect();
    let python = RedisDatabase::of(database.url.clone());
    let popped = std::thread::spawn(move || {
        let from = "rq:queue:backups";
        let to = "rq:queue:backups:intermediate";
        python.ask::<String>(&["BLMOVE", from, to, "LEFT", "RIGHT", "10"])
    });
    until("Python to wait", || blocked(&database) == 1);
    let waits: Vec<_> = waiters
        .into_iter()
        .map(|mut waiter| tokio::spawn(async move { waiter.wait().await }))
        .collect();
    until("all to wait", || blocked(&database) == 4);
    database.ask::<i64>(&["RPUSH", "rq:queue:backups", "job-a"]);
    assert_eq!(popped.join().unwrap(), "job-a");
    let left: i64 = database.ask(&["EXISTS", "rq:queue:backups"]);
    assert_eq!(left, 0);
    for wait in waits {
        wait.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_is_dropped_is_harmless() {
    let redis = Redis::start(&[]);
    let database = redis.database();
    let queue = database.queue().await;
    let mut waiter = queue.waiter(&name("backups"));
    for _ in 0..3 {
        let waited = tokio::time::timeout(Duration::from_millis(100), waiter.wait()).await;
        assert!(waited.is_err());
    }
    until("nobody to wait", || blocked(&database) == 0);
    queue.enqueue(&new_job("job-a"), now()).await.unwrap();
    waiter.wait().await;
    let found = queue.position(&name("backups"), &id("job-a")).await;
    assert_eq!(found.unwrap(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_another_type_is_waited_for_without_a_storm() {
    let redis = Redis::start(&[]);
    let database = redis.database();
    let queue = database.queue().await;
    let mut waiter = queue.waiter(&name("backups"));
    database.ask::<redis::Value>(&["SET", "rq:queue:backups", "x"]);
    let calls = || {
        let stats: String = database.ask(&["INFO", "commandstats"]);
        let line = stats.lines().find(|line| line.contains("cmdstat_blmove"));
        let count = line.and_then(|line| line.split(['=', ',']).nth(1));
        count.map_or(0, |count| count.parse::<u32>().unwrap())
    };
    let waited = tokio::time::timeout(Duration::from_secs(2), waiter.wait()).await;
    assert!(waited.is_err());
    assert!((2..10).contains(&calls()), "{} in two seconds", calls());
    database.ask::<i64>(&["DEL", "rq:queue:backups"]);
    queue.enqueue(&new_job("job-a"), now()).await.unwrap();
    let waited = tokio::time::timeout(Duration::from_secs(5), waiter.wait()).await;
    assert!(waited.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn waits_and_commands_outlive_a_restart() {
    let redis = Redis::start(&[]);
    let database = redis.database();
    let queue = database.queue().await;
    let w1 = worker("w1");
    let mut commands = queue.commands(&w1).await.unwrap();
    let mut waiter = queue.waiter(&name("backups"));
    let wait = tokio::spawn(async move { waiter.wait().await });
    until("a wait", || blocked(&database) == 1);
    let listen = tokio::spawn(async move { (commands.next().await, commands) });
    redis.kill();
    tokio::time::sleep(Duration::from_millis(200)).await;
    redis.run();
    let database = RedisDatabase::of(database.url);
    until("the wait to be back", || blocked(&database) == 1);
    queue.enqueue(&new_job("job-a"), now()).await.unwrap();
    wait.await.unwrap();
    until("the listener to be back", || {
        let (_, count): (String, i64) = database.ask(&["PUBSUB", "NUMSUB", "rq:pubsub:w1"]);
        count == 1
    });
    for garbage in ["", "{", "[]", "{\"command\": \"dance\"}"] {
        database.ask::<i64>(&["PUBLISH", "rq:pubsub:w1", garbage]);
    }
    database.ask_bytes::<i64>("PUBLISH", &[b"rq:pubsub:w1", b"\xff\xfe"]);
    let stop = WorkerCommand::StopJob {
        job_id: id("job-a"),
    };
    assert_eq!(queue.send_command(&w1, &stop).await.unwrap(), 1);
    let (command, mut commands) = listen.await.unwrap();
    assert_eq!(command, stop);
    // Dropped before anything came, and asked again.
    let quiet = tokio::time::timeout(Duration::from_millis(50), commands.next()).await;
    assert!(quiet.is_err());
    queue
        .send_command(&w1, &WorkerCommand::Shutdown)
        .await
        .unwrap();
    assert_eq!(commands.next().await, WorkerCommand::Shutdown);
}

/// A server that is there and says nothing is given up after five seconds, and is asked again by the next call.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_server_is_given_up_and_asked_again() {
    let redis = Redis::start(&[]);
    let database = redis.database();
    let queue = database.queue().await;
    redis.signal(Signal::STOP);
    let started = Instant::now();
    let error = queue.ping().await.unwrap_err();
    let took = started.elapsed();
    redis.signal(Signal::CONT);
    assert!(error.is_transient(), "{error}");
    assert!((4..9).contains(&took.as_secs()), "{took:?}");
    queue.ping().await.unwrap();
}
