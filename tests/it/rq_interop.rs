//! Real rq, in each version that is promised, on the other side: what it enqueues is run here, what is enqueued here it
//! lists, runs, takes back and stops, and what it shows of our worker is true.

use pgseal::queue::Queue;
use pgseal::queue::consumer::{Claimed, Ending, Held, Taken, Written};
use pgseal::queue::maintenance::Verdict;
use pgseal::queue::payload::{Call, Serializer};
use pgseal::queue::producer::{Changed, Enqueued, NewJob, Position};
use pgseal::queue::rq::command::WorkerCommand;
use pgseal::queue::rq::job_hash::Status;
use pgseal::queue::rq::moment::Lifetime;
use pgseal::queue::rq::names::WorkerName;
use pgseal::queue::rq::worker_hash::WorkerState;
use pgseal::queue::scheduler::Due;
use pgseal::queue::value::Value;
use serde_json::json;

use crate::harness::redis::{Redis, RedisDatabase};
use crate::harness::rq::{Rq, VERSIONS};
use crate::harness::text;
use crate::queue::{claim, id, name, new_job, now, register, run_backup, take, worker};

const RUN_BACKUP: &str = "app.workers.backup_jobs.run_backup";
const FAIL: &str = "app.workers.backup_jobs.fail";

/// One version of rq and one queue of ours on one database, and our worker.
pub struct Sides {
    pub database: RedisDatabase,
    pub queue: Queue,
    pub rq: Rq,
    pub worker: WorkerName,
}

impl Sides {
    pub async fn of(version: &'static str) -> Self {
        let database = Redis::shared().database();
        let queue = database.queue().await;
        let rq = Rq::start(version, &database);
        let worker = register(&queue, "pgseal-1").await;
        Self {
            database,
            queue,
            rq,
            worker,
        }
    }

    pub async fn take(&self) -> Taken {
        take(&self.queue, &self.worker).await
    }

    pub async fn finish(&self, taken: &Taken, ending: Ending) -> Written {
        let end = self.queue.finish(taken, &self.worker, &ending, now()).await;
        end.unwrap()
    }

    async fn enqueue_due(&self) -> Due {
        let (backups, scheduler) = ([name("backups")], worker("s"));
        let due = self.queue.enqueue_due(&backups, &scheduler, now());
        due.await.unwrap()
    }

    pub fn ours(&self) -> serde_json::Value {
        let workers = self.rq.ask("workers", json!({}));
        workers.as_array().unwrap()[0].clone()
    }
}

pub fn success(value: i64) -> Ending {
    Ending::Success(Value::Int(value))
}

async fn python_enqueues_and_we_run(version: &'static str) {
    let sides = Sides::of(version).await;
    let rq = &sides.rq;
    for (job, call) in [
        ("plain", json!({"args": [42]})),
        ("named", json!({"kwargs": {"backup_id": 42, "label": "x"}})),
        ("json", json!({"args": [42], "serializer": "json"})),
        (
            "meta",
            json!({"args": [42], "meta": {"asked_by": "ann"}, "result_ttl": 60, "failure_ttl": 70, "job_timeout": 600}),
        ),
    ] {
        let mut request = json!({"queue": "backups", "func": RUN_BACKUP, "job_id": job});
        request
            .as_object_mut()
            .unwrap()
            .extend(call.as_object().unwrap().clone());
        rq.ask("enqueue", request);
        let taken = sides.take().await;
        assert_eq!(taken.job_id, id(job));
        let call = taken.call().unwrap();
        let expected = if job == "named" {
            let text = Value::Text("x".into());
            Call {
                args: vec![],
                kwargs: vec![("backup_id".into(), Value::Int(42)), ("label".into(), text)],
                ..run_backup(42)
            }
        } else {
            run_backup(42)
        };
        assert_eq!(
            (&call.args, &call.kwargs),
            (&expected.args, &expected.kwargs)
        );
        let serializer = (job == "json").then_some("json");
        assert_eq!(call.serializer == Serializer::Json, serializer.is_some());

        assert_eq!(rq.registry("started"), [job], "rq {version}");
        let ours = sides.ours();
        assert_eq!(
            (&ours["name"], &ours["state"]),
            (&json!("pgseal-1"), &json!("busy"))
        );
        assert_eq!(ours["queues"], json!(["backups"]));
        if serializer.is_none() {
            assert_eq!(ours["current_job"], job, "rq {version}");
        }
        let seen = rq.ask("job", json!({"id": job, "serializer": serializer}));
        assert_eq!(
            (&seen["status"], &seen["worker_name"]),
            (&json!("started"), &json!("pgseal-1"))
        );
        if job == "meta" {
            assert_eq!(taken.hash.timeout, Some(Lifetime::Seconds(600)));
            assert_eq!(seen["meta"], json!({"asked_by": "ann"}));
        }

        let both = [("restore", 7), ("safety", 42)];
        let both = both.map(|(name, number)| (Value::Text(name.into()), Value::Int(number)));
        sides
            .finish(&taken, Ending::Success(Value::Dict(both.into())))
            .await;
        let seen = rq.ask("job", json!({"id": job, "serializer": serializer}));
        assert_eq!(seen["status"], "finished", "rq {version}");
        assert_eq!(seen["result"], "SUCCESSFUL");
        assert_eq!(seen["return_value"], json!({"restore": 7, "safety": 42}));
        assert_eq!(seen["times"], json!([true, true, true, true]));
        assert!(rq.registry("finished").contains(&job.to_owned()));
        assert_eq!(rq.registry("started"), Vec::<String>::new());
        let ours = sides.ours();
        assert_eq!(
            (&ours["state"], &ours["current_job"]),
            (&json!("idle"), &json!(null))
        );
    }
    assert_eq!(sides.ours()["successful"], 4);
}

async fn python_sees_failures_and_tries(version: &'static str) {
    let sides = Sides::of(version).await;
    let rq = &sides.rq;
    let backup = |options: serde_json::Value| {
        let mut request = json!({"queue": "backups", "func": RUN_BACKUP, "args": [1]});
        request
            .as_object_mut()
            .unwrap()
            .extend(options.as_object().unwrap().clone());
        rq.ask("enqueue", request);
    };
    backup(json!({"job_id": "tried", "retry": [2, [0, 60]]}));
    backup(json!({"job_id": "after", "depends_on": {"jobs": ["tried"]}}));
    backup(
        json!({"job_id": "after-all", "depends_on": {"jobs": ["tried"], "allow_failure": true}}),
    );
    let failed = || Ending::Failed("pg_dump ended with code 1".into());
    let mut statuses = Vec::new();
    for _ in 0..3 {
        let taken = sides.take().await;
        assert_eq!(taken.job_id, id("tried"));
        sides.finish(&taken, failed()).await;
        let seen = rq.job("tried");
        statuses.push(seen["status"].as_str().unwrap().to_owned());
        if seen["status"] == "scheduled" {
            assert_eq!(rq.registry("scheduled"), ["tried"]);
            sides
                .database
                .ask::<i64>(&["ZADD", "rq:scheduled:backups", "1", "tried"]);
            let due = sides.enqueue_due().await;
            assert_eq!(due.moved, 1);
        }
    }
    assert_eq!(statuses, ["queued", "scheduled", "failed"], "rq {version}");
    let seen = rq.job("tried");
    assert_eq!(
        (&seen["result"], &seen["exc_string"]),
        (&json!("FAILED"), &json!("pg_dump ended with code 1"))
    );
    assert_eq!(seen["retries_left"], 0);
    assert_eq!(rq.registry("failed"), ["tried"]);
    assert_eq!(rq.registry("deferred"), ["after"]);
    let taken = sides.take().await;
    assert_eq!(taken.job_id, id("after-all"));
    sides.finish(&taken, success(1)).await;

    rq.ask("requeue", json!({"id": "tried"}));
    let taken = sides.take().await;
    sides.finish(&taken, success(1)).await;
    let taken = sides.take().await;
    assert_eq!(taken.job_id, id("after"), "released by its parent");
    let text = "Job stopped by user, work-horse terminated.";
    sides.finish(&taken, Ending::Stopped(text.into())).await;
    let seen = rq.job("after");
    assert_eq!(
        (&seen["status"], &seen["exc_string"]),
        (&json!("stopped"), &json!(text))
    );
    assert_eq!(rq.registry("failed"), ["after"]);

    // First in the queue, and later.
    backup(json!({"job_id": "back"}));
    backup(json!({"job_id": "front", "at_front": true}));
    backup(json!({"job_id": "later", "seconds": 3600}));
    assert_eq!(sides.take().await.job_id, id("front"));
    assert_eq!(rq.registry("scheduled"), ["later"]);
    let due = sides.enqueue_due().await;
    assert!(due.next.is_some());
    let canceled = sides.queue.cancel(&id("later"), now()).await.unwrap();
    assert_eq!(canceled, Changed::Done { released: vec![] });
    assert_eq!(rq.job("later")["status"], "canceled");
    assert_eq!(rq.registry("canceled"), ["later"]);
}

async fn python_lists_and_runs_ours(version: &'static str) {
    let sides = Sides::of(version).await;
    let (rq, queue) = (&sides.rq, &sides.queue);
    let call = |function: &str, value: Value| Call {
        function: function.into(),
        args: vec![value],
        ..run_backup(0)
    };
    let named = Call {
        args: vec![],
        kwargs: vec![("backup_id".into(), Value::Int(7))],
        ..run_backup(0)
    };
    let text_value = |text: &str| Value::Text(text.into());
    for job in [
        NewJob {
            timeout: Lifetime::Seconds(3600),
            result_ttl: Some(Lifetime::Forever),
            failure_ttl: Some(Lifetime::Seconds(60)),
            retries: Some((1, vec![])),
            meta: Some(
                Serializer::Pickle
                    .encode(&Value::Dict(vec![(text_value("a"), Value::Int(1))]))
                    .unwrap(),
            ),
            ..new_job("full")
        },
        NewJob {
            call: named,
            ..new_job("named")
        },
        NewJob {
            call: call(FAIL, text_value("no space left")),
            ..new_job("failing")
        },
        NewJob {
            depends_on: vec![id("full"), id("named")],
            ..new_job("after")
        },
        NewJob {
            position: Position::Front,
            description: Some("in a hurry".into()),
            ..new_job("front")
        },
    ] {
        let made = queue.enqueue(&job, now()).await.unwrap();
        assert_eq!(made == Enqueued::Deferred, job.id == id("after"));
    }
    let queued = "JobStatus.QUEUED";
    let lines: Vec<String> =
        serde_json::from_value(rq.ask("listing", json!({"queue": "backups"}))).unwrap();
    let expected = ["front", "full", "named", "failing"].map(|job| {
        let function = if job == "failing" { FAIL } else { RUN_BACKUP };
        format!("Job {job}: {function} - queued")
    });
    let lines: Vec<String> = lines
        .into_iter()
        .map(|line| line.replace(queued, "queued"))
        .collect();
    assert_eq!(lines, expected, "rq {version}");
    let seen = rq.job("full");
    for (field, value) in [
        ("func_name", json!(RUN_BACKUP)),
        ("args", json!([42])),
        ("description", json!(format!("{RUN_BACKUP}(42)"))),
        ("origin", json!("backups")),
        ("meta", json!({"a": 1})),
        ("timeout", json!(3600)),
        ("result_ttl", json!(-1)),
        ("failure_ttl", json!(60)),
        ("retries_left", json!(1)),
        ("retry_intervals", json!([0])),
        ("status", json!("queued")),
    ] {
        assert_eq!(seen[field], value, "rq {version}: {field}");
    }
    assert_eq!(rq.job("front")["description"], "in a hurry");
    assert_eq!(rq.job("after")["dependency_ids"], json!(["full", "named"]));
    assert_eq!(rq.registry("deferred"), ["after"]);
    assert_eq!(rq.ask("count", json!({"queue": "backups"})), 4);

    rq.work("python-1");
    for job in ["front", "full", "named", "after"] {
        let seen = rq.job(job);
        assert_eq!(seen["status"], "finished", "rq {version}, {job}: {seen}");
        let expected = if job == "named" { 7 } else { 42 };
        assert_eq!(seen["return_value"]["backup"], expected);
        let outcome = queue.latest_outcome(&id(job)).await.unwrap().unwrap();
        let value =
            pgseal::queue::payload::decode_return_value(outcome.return_value.unwrap().as_bytes());
        let Value::Dict(pairs) = value.unwrap() else {
            panic!("rq {version}, {job}")
        };
        assert_eq!(pairs[0].1, Value::Int(expected));
        let hash = queue.job(&id(job)).await.unwrap().unwrap();
        assert_eq!(hash.status, Some(Status::Finished));
        assert_eq!(hash.unreadable, Vec::<&str>::new());
    }
    assert_eq!(rq.job("failing")["status"], "failed");
    let outcome = queue.latest_outcome(&id("failing")).await.unwrap().unwrap();
    let reason =
        pgseal::queue::payload::decode_exc_string(outcome.exc_string.unwrap().as_bytes()).unwrap();
    assert!(reason.contains("ValueError: no space left"), "{reason}");
}

async fn python_takes_back_and_suspends(version: &'static str) {
    let sides = Sides::of(version).await;
    let (rq, queue) = (&sides.rq, &sides.queue);
    for job in [
        "canceled",
        "deleted",
        "stopped",
        "canceled-running",
        "deleted-running",
        "last",
    ] {
        queue.enqueue(&new_job(job), now()).await.unwrap();
    }
    rq.ask("cancel", json!({"id": "canceled"}));
    rq.ask("delete", json!({"id": "deleted"}));
    assert_eq!(rq.ask("exists", json!({"id": "deleted"})), false);
    let mut commands = queue.commands(&sides.worker).await.unwrap();
    let taken = sides.take().await;
    assert_eq!(taken.job_id, id("stopped"));
    rq.ask("stop", json!({"id": "stopped"}));
    let stop = WorkerCommand::StopJob {
        job_id: id("stopped"),
    };
    assert_eq!(commands.next().await, stop, "rq {version}");
    sides
        .finish(&taken, Ending::Stopped("stopped".into()))
        .await;
    assert_eq!(rq.job("stopped")["status"], "stopped");

    let taken = sides.take().await;
    rq.ask("cancel", json!({"id": "canceled-running"}));
    let held = queue.heartbeat(&taken, &sides.worker, 90, now()).await;
    assert_eq!(held.unwrap(), Held::Lost, "rq {version}");
    assert_eq!(sides.finish(&taken, success(1)).await, Written::Canceled);
    assert_eq!(rq.job("canceled-running")["status"], "canceled");
    assert_eq!(rq.registry("started"), Vec::<String>::new());

    let taken = sides.take().await;
    rq.ask("delete", json!({"id": "deleted-running"}));
    let held = queue.heartbeat(&taken, &sides.worker, 90, now()).await;
    assert_eq!(held.unwrap(), Held::Lost, "rq {version}");
    assert_eq!(
        sides.finish(&taken, success(1)).await,
        Written::LostOwnership
    );
    assert_eq!(rq.ask("exists", json!({"id": "deleted-running"})), false);
    assert_eq!(rq.registry("started"), Vec::<String>::new());

    rq.ask("pause", json!({}));
    assert!(queue.suspended().await.unwrap());
    assert_eq!(claim(queue, &sides.worker).await, Claimed::Suspended);
    queue
        .set_state(&sides.worker, WorkerState::Suspended)
        .await
        .unwrap();
    assert_eq!(sides.ours()["state"], "suspended");
    rq.ask("proceed", json!({}));
    assert_eq!(sides.take().await.job_id, id("last"));
}

async fn python_sees_who_is_alive(version: &'static str) {
    let sides = Sides::of(version).await;
    let (rq, queue) = (&sides.rq, &sides.queue);
    queue.enqueue(&new_job("running"), now()).await.unwrap();
    queue.enqueue(&new_job("waiting"), now()).await.unwrap();
    let taken = sides.take().await;
    let info = text(&mut rq.command(&["info"]));
    for words in ["backups", "pgseal-1", "busy"] {
        assert!(info.contains(words), "rq {version}: {info}");
    }
    assert!(
        info.contains("1 queues, 1 jobs total") || info.contains("1 queue"),
        "{info}"
    );

    // Every look at a registry may declare a job abandoned. While its worker gives signs, none does.
    sides
        .database
        .ask::<i64>(&["ZADD", "rq:wip:backups", "XX", "1", "running"]);
    let held = queue.heartbeat(&taken, &sides.worker, 90, now()).await;
    assert_eq!(held.unwrap(), Held::Mine);
    assert_eq!(rq.registry("started"), ["running"], "rq {version}");
    assert_eq!(rq.job("running")["status"], "started");
    // Without a sign of it, rq does.
    sides
        .database
        .ask::<i64>(&["ZADD", "rq:wip:backups", "XX", "1", "running"]);
    assert_eq!(rq.registry("started"), Vec::<String>::new(), "rq {version}");
    assert_eq!(rq.job("running")["status"], "failed", "rq {version}");
    assert_eq!(rq.registry("failed"), ["running"]);
    let held = queue.heartbeat(&taken, &sides.worker, 90, now()).await;
    assert_eq!(held.unwrap(), Held::Lost);
    assert_eq!(
        sides.finish(&taken, success(1)).await,
        Written::LostOwnership
    );
    assert_eq!(rq.job("running")["status"], "failed", "rq {version}");

    // We declare a job of a dead worker abandoned, and rq reads why.
    let taken = sides.take().await;
    sides
        .database
        .ask::<i64>(&["ZADD", "rq:wip:backups", "XX", "1", "waiting"]);
    let decide = |_| std::future::ready(Verdict::RetryOrFail);
    let cleaned = queue
        .clean(&[name("backups")], now(), decide)
        .await
        .unwrap();
    assert_eq!(cleaned.settled.len(), 1);
    let seen = rq.job("waiting");
    assert_eq!(seen["status"], "failed");
    assert!(
        seen["exc_string"]
            .as_str()
            .unwrap()
            .contains("AbandonedJobError")
    );
    assert_eq!(
        sides.finish(&taken, success(1)).await,
        Written::LostOwnership
    );

    queue
        .unregister(&sides.worker, &[name("backups")], now())
        .await
        .unwrap();
    assert_eq!(rq.ask("workers", json!({"queue": "backups"})), json!([]));
    let info = text(&mut rq.command(&["info"]));
    assert!(!info.contains("pgseal-1"), "{info}");
}

macro_rules! for_each_version {
    ($($test:ident: $number:literal),+) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $test() {
            let version = VERSIONS[$number];
            python_enqueues_and_we_run(version).await;
            python_sees_failures_and_tries(version).await;
            python_lists_and_runs_ours(version).await;
            python_takes_back_and_suspends(version).await;
            python_sees_who_is_alive(version).await;
        }
    )+};
}

for_each_version!(rq_1_16: 0, rq_2: 1, rq_3: 2);
