//! What people do with rq's own tools to our jobs and our worker: requeue, delete, stop, enqueue for later, set times to
//! live, and look at all of it in rq-dashboard; in each version that is promised.

use std::os::unix::process::CommandExt as _;
use std::time::{Duration, Instant};

use pgseal::queue::consumer::{Claimed, Ending};
use pgseal::queue::payload::Call;
use pgseal::queue::producer::NewJob;
use pgseal::queue::rq::command::WorkerCommand;
use pgseal::queue::rq::job_hash::Status;
use pgseal::queue::rq::moment::{self, Lifetime};
use pgseal::queue::rq::names::WorkerName;
use pgseal::queue::value::Value;
use serde_json::json;

use crate::harness::redis::RedisDatabase;
use crate::harness::rq::{Rq, VERSIONS};
use crate::harness::run;
use crate::harness::service::Service;
use crate::harness::somebody::until;
use crate::queue::{claim, id, new_job, now, run_backup};
use crate::rq_interop::{Sides, success};

const RUN_BACKUP: &str = "app.workers.backup_jobs.run_backup";

/// rq beside a service that runs.
fn beside(service: &Service, version: &'static str) -> Rq {
    let url = format!("redis://127.0.0.1:{}/0", service.redis.port);
    Rq::start(version, &RedisDatabase::of(url))
}

/// Each way that rq has to try a failed job again.
async fn failed_jobs_are_requeued(version: &'static str) {
    let sides = Sides::of(version).await;
    let rq = &sides.rq;
    let jobs = ["by-job", "by-registry", "by-command", "first", "second"];
    for job in jobs {
        sides.queue.enqueue(&new_job(job), now()).await.unwrap();
        let taken = sides.take().await;
        sides
            .finish(&taken, Ending::Failed("out of luck".into()))
            .await;
    }
    assert_eq!(rq.registry("failed").len(), jobs.len(), "rq {version}");
    rq.ask("requeue", json!({"id": "by-job"}));
    let which = json!({"id": "by-registry", "queue": "backups"});
    rq.ask("requeue_in_registry", which);
    run(&mut rq.command(&["requeue", "--queue", "backups", "by-command"]));
    assert_eq!(rq.registry("failed"), ["first", "second"], "rq {version}");
    run(&mut rq.command(&["requeue", "--queue", "backups", "--all"]));
    assert_eq!(rq.registry("failed"), Vec::<String>::new(), "rq {version}");
    assert_eq!(rq.ask("count", json!({"queue": "backups"})), jobs.len());
    for job in jobs {
        assert_eq!(rq.job(job)["status"], "queued");
        let taken = sides.take().await;
        assert_eq!(taken.job_id, id(job), "rq {version}");
        assert_eq!(taken.call().unwrap().args, run_backup(42).args);
        sides.finish(&taken, success(1)).await;
        let seen = rq.job(job);
        assert_eq!(
            (&seen["status"], &seen["result"]),
            (&json!("finished"), &json!("SUCCESSFUL"))
        );
        // The year of a failed job does not go on for one that finished.
        let ttl: i64 = sides.database.ask(&["TTL", &format!("rq:job:{job}")]);
        assert!((490..=500).contains(&ttl), "rq {version}, {job}: {ttl}");
    }
}

/// Whatever a job is, rq deletes it, and nothing of it is taken or shown any more.
async fn jobs_are_deleted(version: &'static str) {
    let sides = Sides::of(version).await;
    let (rq, queue) = (&sides.rq, &sides.queue);
    let enqueue = async |job: NewJob| queue.enqueue(&job, now()).await.unwrap();
    for (job, ending) in [
        ("failed", Ending::Failed("out of luck".into())),
        ("finished", success(1)),
        ("later", Ending::Delayed(Duration::from_secs(3600))),
    ] {
        enqueue(new_job(job)).await;
        let taken = sides.take().await;
        sides.finish(&taken, ending).await;
    }
    enqueue(new_job("queued")).await;
    enqueue(new_job("canceled")).await;
    queue.cancel(&id("canceled"), now()).await.unwrap();
    let waits = NewJob {
        depends_on: vec![id("queued")],
        ..new_job("deferred")
    };
    enqueue(waits).await;
    for (job, status) in [
        ("failed", "failed"),
        ("finished", "finished"),
        ("later", "scheduled"),
        ("canceled", "canceled"),
        ("deferred", "deferred"),
        ("queued", "queued"),
    ] {
        assert_eq!(rq.job(job)["status"], status, "rq {version}");
        rq.ask("delete", json!({"id": job}));
        assert_eq!(rq.ask("exists", json!({"id": job})), false);
        if status != "queued" {
            assert_eq!(rq.registry(status), Vec::<String>::new(), "rq {version}");
        }
        // What rq itself leaves: versions 1 and 2 forget the results, which go by their time to live.
        let left = sides.database.keys();
        let left = left.iter().filter(|key| key.ends_with(&format!(":{job}")));
        let left: Vec<_> = left.filter(|key| !key.starts_with("rq:results:")).collect();
        assert_eq!(left, Vec::<&String>::new(), "rq {version}, {job}");
    }
    assert_eq!(claim(queue, &sides.worker).await, Claimed::Nothing);
}

/// A time to live ends what it was given to, and nothing else.
async fn times_to_live_pass(version: &'static str) {
    let sides = Sides::of(version).await;
    let (rq, queue) = (&sides.rq, &sides.queue);
    let gone = |job: &str| {
        until("the end of a job's time to live", || {
            rq.ask("exists", json!({"id": job})) == false
        });
    };
    // Nobody took it in time: its id is in the queue, and is no job any more.
    let request = json!({"queue": "backups", "func": RUN_BACKUP, "job_id": "stale", "ttl": 1});
    rq.ask("enqueue", request);
    gone("stale");
    queue.enqueue(&new_job("fresh"), now()).await.unwrap();
    let taken = sides.take().await;
    assert_eq!(taken.job_id, id("fresh"), "rq {version}");
    sides.finish(&taken, success(1)).await;
    assert_eq!(rq.ask("count", json!({"queue": "backups"})), 0);

    // By either side's producer; our worker keeps what they wish.
    let seconds = |seconds| Some(Lifetime::Seconds(seconds));
    for (job, result_ttl, failure_ttl) in [
        ("short", seconds(1), seconds(1)),
        ("none", seconds(0), None),
        ("always", Some(Lifetime::Forever), None),
    ] {
        let ours = format!("ours-{job}");
        let made = NewJob {
            result_ttl,
            failure_ttl,
            ..new_job(&ours)
        };
        queue.enqueue(&made, now()).await.unwrap();
        let number = |ttl: Option<Lifetime>| match ttl {
            Some(Lifetime::Seconds(seconds)) => json!(seconds),
            Some(Lifetime::Forever) => json!(-1),
            None => json!(null),
        };
        rq.ask(
            "enqueue",
            json!({"queue": "backups", "func": RUN_BACKUP, "job_id": format!("theirs-{job}"),
                "result_ttl": number(result_ttl), "failure_ttl": number(failure_ttl)}),
        );
        for _ in 0..2 {
            let taken = sides.take().await;
            sides.finish(&taken, success(1)).await;
        }
        for job in [ours, format!("theirs-{job}")] {
            if job.ends_with("always") {
                let ttl: i64 = sides.database.ask(&["TTL", &format!("rq:job:{job}")]);
                assert_eq!(ttl, -1, "rq {version}, {job}");
                assert_eq!(rq.job(&job)["return_value"], 1);
                continue;
            }
            if job.ends_with("none") {
                assert_eq!(rq.ask("exists", json!({"id": job})), false, "rq {version}");
            }
            gone(&job);
        }
    }
    let failing = NewJob {
        failure_ttl: seconds(1),
        ..new_job("failing")
    };
    queue.enqueue(&failing, now()).await.unwrap();
    let taken = sides.take().await;
    sides
        .finish(&taken, Ending::Failed("out of luck".into()))
        .await;
    gone("failing");
    until("the end of its entry", || rq.registry("failed").is_empty());
    let always = rq.registry("finished");
    assert!(
        always.contains(&"ours-always".to_owned()) && always.contains(&"theirs-always".to_owned()),
        "rq {version}: {always:?}"
    );
    assert!(!always.iter().any(|job| job.ends_with("short")));
}

/// We stop what a real worker of rq runs.
async fn a_job_in_rq_s_worker_is_stopped(version: &'static str) {
    let sides = Sides::of(version).await;
    let (rq, queue) = (&sides.rq, &sides.queue);
    let slow = NewJob {
        call: Call {
            function: "app.workers.backup_jobs.slow".into(),
            args: vec![Value::Int(60)],
            ..run_backup(0)
        },
        ..new_job("slow")
    };
    queue.enqueue(&slow, now()).await.unwrap();
    // rq 3.0.0 ends a whole process group where its own process for the job is not there yet: ours must be another one.
    let mut worker = rq
        .command(&["worker", "--burst", "--name", "python-1", "backups"])
        .process_group(0)
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while queue.job(&id("slow")).await.unwrap().unwrap().status != Some(Status::Started) {
        assert!(begun.elapsed() < Duration::from_secs(60), "rq {version}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let name = WorkerName::parse("python-1").unwrap();
    let started = Instant::now();
    let stop = WorkerCommand::StopJob { job_id: id("slow") };
    // As rq itself: there is no answer, so the status is looked at, and the command sent again.
    loop {
        queue.send_command(&name, &stop).await.unwrap();
        let hash = queue.job(&id("slow")).await.unwrap().unwrap();
        if hash.status == Some(Status::Stopped) {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(30), "rq {version}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(worker.wait().unwrap().success());
    assert_eq!(rq.registry("failed"), ["slow"], "rq {version}");
}

/// rq stops what our worker runs, and only that.
fn a_job_in_our_worker_is_stopped(version: &'static str) {
    let (service, gate) = Service::with_gate();
    let rq = beside(&service, version);
    let (backup, job) = service.enqueue_backup();
    let worker = service.worker("at-work");
    gate.until_somebody_waits();
    assert_eq!(rq.job(&job)["worker_name"], "at-work");
    rq.ask("stop", json!({"id": job}));
    service.until_backup(backup, "cancelled");
    until("rq to see the end", || rq.job(&job)["status"] == "stopped");
    let seen = rq.job(&job);
    assert_eq!(
        seen["exc_string"], "Job stopped by user, work-horse terminated.",
        "rq {version}"
    );
    assert_eq!(rq.registry("failed"), [job.as_str()]);
    assert_eq!(service.pgseal.stored(), Vec::<String>::new());
    // Requeued, it does nothing: its row is over, and the job says so.
    rq.ask("requeue", json!({"id": job}));
    until("the end of the requeued job", || {
        rq.job(&job)["status"] == "failed"
    });
    let seen = rq.job(&job);
    let said = seen["exc_string"].as_str().unwrap();
    assert!(
        said.contains("is cancelled in the catalog") && said.contains("hint: ask for a new one"),
        "rq {version}: {said}"
    );
    assert_eq!(service.pgseal.stored(), Vec::<String>::new());
    Service::end(worker);
}

/// What is enqueued for later comes due in our worker, and not before.
fn jobs_come_due_in_our_worker(version: &'static str) {
    let service = Service::start();
    let rq = beside(&service, version);
    let worker = service.worker("on-time");
    for (number, job) in [(1, "in-time"), (2, "at-time")] {
        let asked = now();
        let mut request =
            json!({"queue": "backups", "func": RUN_BACKUP, "seconds": 6, "job_id": job});
        let how = if job == "at-time" {
            "enqueue_at"
        } else {
            request["retry"] = json!([1, 0]);
            "enqueue"
        };
        rq.ask(how, request);
        assert_eq!(rq.job(job)["status"], "scheduled", "rq {version}");
        assert_eq!(rq.registry("scheduled"), [job]);
        // rq cuts the moment to its whole second, which may be up to a second before what was asked for.
        let due = service.ask(&["ZSCORE", "rq:scheduled:backups", job]);
        let due = moment::parse_seconds(&due).unwrap();
        assert!(due > asked + Duration::from_secs(5), "rq {version}: {due}");
        service.until_job(job, "finished");
        let started = service.ask(&["HGET", &format!("rq:job:{job}"), "started_at"]);
        let started = moment::parse_date(&started).unwrap();
        assert!(started >= due, "rq {version}: {started} is before {due}");
        assert_eq!(rq.registry("scheduled"), Vec::<String>::new());
        assert_eq!(
            service.backup(number, "status || ' ' || job_id"),
            format!("completed {job}")
        );
        let returned = &rq.job(job)["return_value"];
        assert_eq!(returned["backup_id"], number, "rq {version}");
    }
    // One that is deleted before its time never comes.
    let request = json!({"queue": "backups", "func": RUN_BACKUP, "seconds": 4, "job_id": "never"});
    rq.ask("enqueue", request);
    rq.ask("delete", json!({"id": "never"}));
    let request = json!({"queue": "backups", "func": RUN_BACKUP, "seconds": 6, "job_id": "last"});
    rq.ask("enqueue", request);
    service.until_job("last", "finished");
    assert_eq!(service.backup(3, "job_id"), "last");
    assert_eq!(
        service.catalog.psql("SELECT count(*) FROM pgseal.backups"),
        "3"
    );
    Service::end(worker);
}

/// A job of ours that somebody deletes while its row waits was lost, as far as anybody can tell: it is made again.
fn a_deleted_job_of_a_pending_row_comes_back(version: &'static str) {
    let service = Service::start();
    let rq = beside(&service, version);
    let (backup, job) = service.enqueue_backup();
    rq.ask("delete", json!({"id": job}));
    assert_eq!(service.ask(&["LLEN", "rq:queue:backups"]), "0");
    let worker = service.worker("alone");
    service.until_backup(backup, "completed");
    service.until_job(&job, "finished");
    Service::end(worker);
    // Who wants to take it back cancels it.
    let (backup, job) = service.enqueue_backup();
    rq.ask("cancel", json!({"id": job}));
    service.burst();
    assert_eq!(
        service.backup(backup, "status"),
        "cancelled",
        "rq {version}"
    );
    assert_eq!(rq.job(&job)["status"], "canceled");
}

/// Lists, counts, pages, details and buttons of rq-dashboard, while our worker runs.
fn the_dashboard_shows_and_does(version: &'static str) {
    let (service, gate) = Service::with_gate();
    let rq = beside(&service, version);
    let (backup, running) = service.enqueue_backup();
    let worker = service.worker("shown");
    gate.until_somebody_waits();
    for (job, seconds) in [("waiting", None), ("later", Some(3600))] {
        let request = json!({"queue": "backups", "func": "no.such.function", "job_id": job, "seconds": seconds});
        rq.ask("enqueue", request);
    }
    let queues = rq.dashboard("/0/data/queues.json");
    let queue = &queues["queues"][0];
    for (what, count) in [
        ("count", 1),
        ("started_job_registry_count", 1),
        ("scheduled_job_registry_count", 1),
        ("failed_job_registry_count", 0),
        ("finished_job_registry_count", 0),
    ] {
        assert_eq!(queue[what], count, "rq {version}, {what}: {queue}");
    }
    let workers = rq.dashboard("/0/data/workers.json");
    let shown = &workers["workers"][0];
    assert_eq!(shown["name"], "shown");
    assert_eq!(shown["queues"], json!(["backups"]));
    assert_eq!(shown["version"], env!("CARGO_PKG_VERSION"));
    assert!(
        shown["state"]
            .as_str()
            .unwrap()
            .to_lowercase()
            .ends_with("busy"),
        "rq {version}: {shown}"
    );
    assert_eq!(
        shown["current_job"]["job_id"],
        running.as_str(),
        "rq {version}"
    );
    let listed = |registry: &str| {
        let order = if version == VERSIONS[0] { "" } else { "asc/" };
        let page = rq.dashboard(&format!("/0/data/jobs/backups/{registry}/8/{order}1.json"));
        let jobs = page["jobs"].as_array().unwrap().iter();
        jobs.map(|job| job["id"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(listed("queued"), ["waiting"], "rq {version}");
    assert_eq!(listed("started"), [running.as_str()], "rq {version}");
    for page in [
        "/",
        "/0/view/workers",
        "/0/view/jobs",
        &format!("/0/view/job/{running}"),
    ] {
        rq.dashboard(page);
    }

    gate.open();
    service.until_job(&running, "finished");
    service.until_job("waiting", "failed");
    let detail = rq.dashboard(&format!("/0/data/job/{running}.json"));
    assert_eq!(detail["origin"], "backups");
    assert_eq!(
        detail["description"],
        format!("{RUN_BACKUP}({backup})"),
        "rq {version}"
    );
    let said = rq.dashboard("/0/data/job/waiting.json")["exc_info"].clone();
    assert!(
        said.as_str().unwrap().contains("no.such.function"),
        "{said}"
    );
    assert_eq!(listed("finished"), [running.as_str()]);

    // Requeued it fails again; deleted it is gone.
    assert_eq!(rq.press("/job/waiting/requeue"), "OK", "rq {version}");
    service.until_job("waiting", "failed");
    let failed = || service.ask(&["HGET", "rq:worker:shown", "failed_job_count"]);
    until("the second failure", || failed() == "2");
    assert_eq!(listed("failed"), ["waiting"]);
    assert_eq!(rq.press("/requeue/backups"), "OK");
    until("the third failure", || failed() == "3");
    until("its entry", || listed("failed") == ["waiting"]);
    assert_eq!(rq.press("/job/waiting/delete"), "OK");
    assert_eq!(listed("failed"), Vec::<String>::new());
    assert_eq!(rq.press("/queue/backups/scheduled/empty"), "OK");
    assert_eq!(listed("scheduled"), Vec::<String>::new());
    assert_eq!(service.backup(backup, "status"), "completed");
    Service::end(worker);
}

macro_rules! for_each_version {
    ($($module:ident: $number:literal),+) => {$(
        mod $module {
            use super::*;

            const VERSION: &str = VERSIONS[$number];

            #[tokio::test(flavor = "multi_thread")]
            async fn jobs_are_requeued_deleted_and_stopped() {
                failed_jobs_are_requeued(VERSION).await;
                jobs_are_deleted(VERSION).await;
                a_job_in_rq_s_worker_is_stopped(VERSION).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn times_to_live_are_kept() {
                times_to_live_pass(VERSION).await;
            }

            #[test]
            fn our_worker_does_as_rq_says() {
                a_job_in_our_worker_is_stopped(VERSION);
                jobs_come_due_in_our_worker(VERSION);
                a_deleted_job_of_a_pending_row_comes_back(VERSION);
            }

            #[test]
            fn the_dashboard_works() {
                the_dashboard_shows_and_does(VERSION);
            }
        }
    )+};
}

for_each_version!(rq_1_16: 0, rq_2: 1, rq_3: 2);
