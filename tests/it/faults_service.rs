//! What happens to the service as a whole when the kernel takes its memory, its clock jumps, its catalog is silent, cut off
//! or full, its queue is flooded, or a part of itself panics.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pgseal::backup::{BackupSettings, Stages};
use pgseal::catalog::Catalog;
use pgseal::dispatch::{BackupWanted, Dispatch, Drills, Outbox};
use pgseal::model::kind::BackupKind;
use pgseal::model::object_key::Layout;
use pgseal::model::passphrase::Passphrase;
use pgseal::model::policy::Policy;
use pgseal::model::target::TargetName;
use pgseal::notify::Notifier;
use pgseal::pg::{Clients, Search};
use pgseal::queue::Queue;
use pgseal::queue::job::Functions;
use pgseal::queue::rq::keys::Keys;
use pgseal::queue::rq::names::QueueName;
use pgseal::store::{Store, StoreSettings};
use pgseal::vault::{ListCache, Vault};
use pgseal::worker::{State, Stop, Times, Until, Worker};
use rustix::process::Signal;
use serde_json::json;
use time::OffsetDateTime;

use crate::harness::api::Api;
use crate::harness::catalog::{catalog_in, connection};
use crate::harness::cgroup::Cgroup;
use crate::harness::cli::PASSPHRASE;
use crate::harness::link::Link;
use crate::harness::postgres::{DEBIAN_MAJOR, Postgres, bin_dir_of, is_root};
use crate::harness::redis::{Redis, RedisDatabase};
use crate::harness::rq::{Rq, VERSIONS};
use crate::harness::s3::S3Server;
use crate::harness::service::Service;
use crate::harness::somebody::until;
use crate::harness::toll::Toll;
use crate::harness::watch::descendants;
use crate::harness::{folder, run, scale};

/// Row 14: the kernel ends a worker that needs more memory than there is. Where no memory cgroup can be made, the same
/// signal comes from the test: it is all that a process sees of it.
#[test]
fn a_worker_that_the_kernel_ends_is_recovered_by_its_lease() {
    let s3 = S3Server::start();
    let mut service = Service::start();
    service.add_noise();
    service.with_store_of(&s3.pgseal());
    let (service, gate) = service.gated(1024);
    let (id, job) = service.enqueue_backup();
    let group = Cgroup::new();
    let arguments = ["worker", "-v", "--name", "doomed"];
    let doomed = match &group {
        Some(group) => group.start(&service.pgseal, &arguments),
        None => service.pgseal.start(&arguments),
    };
    gate.until_somebody_waits();
    match &group {
        // A part of an upload alone is several times what is left.
        Some(group) => group.close(),
        None => doomed.signal(Signal::KILL),
    }
    gate.open();
    let run = doomed.wait();
    assert_eq!(run.code, -1, "it was not ended by a signal: {run}");
    if let Some(group) = &group {
        assert!(group.kills() > 0, "the kernel killed nobody");
    }
    assert_eq!(service.backup(id, "status"), "running");
    let next = service.worker("next");
    service.until_backup(id, "completed");
    service.until_job(&job, "finished");
    assert_eq!(service.backup(id, "attempt"), "2");
    // This server lists no uploads, so that their parts are another test's.
    assert_eq!(s3.objects().len(), 2);
    Service::end(next);
}

/// Row 50: a worker's clock jumps by a day, forth and back. Leases are by the catalog's clock, so that nobody loses one.
#[test]
fn a_clock_that_jumps_ends_no_lease() {
    let (mut service, gate) = Service::with_gate();
    let clock = service.pgseal.file("clock");
    let jump = |by: &str| std::fs::write(&clock, by).unwrap();
    jump("+0d");
    let (id, job) = service.enqueue_backup();
    service
        .pgseal
        .with_clock("+0d")
        .unset("FAKETIME")
        .set("FAKETIME_TIMESTAMP_FILE", &clock)
        .set("FAKETIME_NO_CACHE", "1")
        .set("BACKUP_WORKER_LEASE_SECONDS", "12");
    let jumper = service.worker("jumper");
    for name in ["LD_PRELOAD", "FAKETIME_TIMESTAMP_FILE", "FAKETIME_NO_CACHE"] {
        service.pgseal.unset(name);
    }
    gate.until_somebody_waits();
    // Its housekeeping settles whatever has no valid lease.
    let steady = service.worker("steady");
    for by in ["+1d", "-1d"] {
        jump(by);
        let until_when = service.backup(id, "lease_until");
        until("a lease that was renewed for longer than it lasts", || {
            let renewed = format!("lease_until > '{until_when}'::timestamptz + interval '13 s'");
            service.backup(id, &renewed) == "t"
        });
        assert_eq!(
            service.backup(id, "status || ' ' || attempt || ' ' || lease_worker"),
            "running 1 jumper",
            "{by}"
        );
        assert_eq!(service.job_status(&job), "started", "{by}");
    }
    gate.open();
    service.until_backup(id, "completed");
    service.until_job(&job, "finished");
    assert_eq!(service.backup(id, "attempt"), "1");
    assert_eq!(service.listed().len(), 1);
    Service::end(jumper);
    Service::end(steady);
}

/// Row 54: ten thousand requests for one target are one backup, and the others hear which.
#[test]
fn a_flood_of_requests_is_one_backup() {
    let mut service = Service::start();
    service.pgseal.set("BACKUP_REQUESTS_PER_SECOND", "100000");
    let mut api = Api::of(service);
    let (accepted, busy) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let count = scale(1_000, 10_000);
    std::thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| {
                for _ in 0..count / 10 {
                    let answer = api.ask("POST", "/api/admin/backups", "{}");
                    let kind = match answer.status {
                        202 => &accepted,
                        409 => &busy,
                        other => panic!("{other}"),
                    };
                    kind.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let counted = (accepted.into_inner(), busy.into_inner());
    assert_eq!(counted, (1, count - 1));
    let rows = "SELECT count(*) FROM pgseal.backups";
    assert_eq!(api.service.catalog.psql(rows), "1");
    assert_eq!(api.service.ask(&["LLEN", "rq:queue:backups"]), "1");
    api.stop();

    // With a limit that a slow machine reaches too, most of a flood does not even reach the catalog.
    api.service.pgseal.set("BACKUP_REQUESTS_PER_SECOND", "5");
    api.run();
    let refused = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| {
                for _ in 0..40 {
                    let status = api.ask("POST", "/api/admin/backups", "{}").status;
                    refused.fetch_add(usize::from(status == 429), Ordering::Relaxed);
                }
            });
        }
    });
    let refused = refused.into_inner();
    assert!(refused > 0, "no request was one too many");
    assert_eq!(api.service.catalog.psql(rows), "1");
    api.stop();
    api.service.burst();
    assert_eq!(api.service.listed().len(), 1);
}

/// Row 54: ten thousand jobs that name no row, as any program may enqueue them, are the one backup that each of them wants;
/// one that is enqueued later is another.
#[test]
fn a_flood_of_jobs_without_a_number_is_one_backup() {
    let service = Service::start();
    let redis = RedisDatabase::of(format!("redis://127.0.0.1:{}/0", service.redis.port));
    let rq = Rq::start(VERSIONS[1], &redis);
    let count = scale(300, 10_000);
    let enqueue = |number: usize| {
        let function = "app.workers.backup_jobs.run_backup";
        let job = format!("flood-{number}");
        rq.ask(
            "enqueue",
            json!({"queue": "backups", "func": function, "job_id": job}),
        );
    };
    (0..count).for_each(enqueue);
    service.burst();
    let rows = "SELECT count(*) FROM pgseal.backups";
    assert_eq!(service.catalog.psql(rows), "1");
    assert_eq!(rq.registry("finished").len(), count);
    let returned = rq.job(&format!("flood-{}", count - 1))["return_value"].clone();
    assert_eq!(returned, rq.job("flood-0")["return_value"]);
    assert_eq!(returned["storage_key"], service.backup(1, "object_key"));
    enqueue(count);
    service.burst();
    assert_eq!(service.catalog.psql(rows), "2");
    assert_eq!(service.listed().len(), 2);
}

/// Row 54: of two workers, the one that finds the other at such a backup waits for what becomes of it.
#[test]
fn a_job_without_a_number_waits_for_the_backup_of_another() {
    let (service, gate) = Service::with_gate();
    let redis = RedisDatabase::of(format!("redis://127.0.0.1:{}/0", service.redis.port));
    let rq = Rq::start(VERSIONS[1], &redis);
    for job in ["first", "second"] {
        let function = "app.workers.backup_jobs.run_backup";
        rq.ask(
            "enqueue",
            json!({"queue": "backups", "func": function, "job_id": job}),
        );
    }
    let workers = ["one", "two"].map(|name| service.worker(name));
    gate.until_somebody_waits();
    until("the job that waits", || {
        ["first", "second"]
            .iter()
            .any(|job| service.job_status(job) == "scheduled")
    });
    let rows = "SELECT count(*) FROM pgseal.backups";
    assert_eq!(service.catalog.psql(rows), "1");
    gate.open();
    service.until_job("first", "finished");
    service.until_job("second", "finished");
    assert_eq!(service.catalog.psql(rows), "1");
    workers.into_iter().for_each(Service::end);
}

/// Row 56: the catalog is silent while a worker dumps. Before its lease passes it stops, and completes nothing.
#[test]
fn a_worker_whose_catalog_is_silent_stops_before_it_completes() {
    let (mut service, gate) = Service::with_gate();
    let toll = Toll::new();
    let port = toll.to("catalog", Postgres::shared().port());
    let (id, job) = service.enqueue_backup();
    service
        .pgseal
        .set("CATALOG_DATABASE_URL", service.catalog.url_by(port));
    let worker = service.worker("cut-off");
    gate.until_somebody_waits();
    toll.stop_now();
    until("the end of its dump", || {
        descendants(worker.pid()) == [worker.pid()]
    });
    gate.open();
    // The row is as it was left, for whoever settles it; nothing of the dump is anywhere.
    until("an empty store", || service.pgseal.stored().is_empty());
    assert_eq!(service.backup(id, "status || ' ' || attempt"), "running 1");
    toll.go_on();
    service.until_backup(id, "completed");
    service.until_job(&job, "finished");
    assert_eq!(service.backup(id, "attempt"), "2");
    assert_eq!(service.listed().len(), 1);
    Service::end(worker);
}

/// Row 56: the answer to a claim is lost. The row runs for nobody, until its lease has passed.
#[test]
fn a_claim_whose_answer_is_lost_is_settled() {
    let mut service = Service::start();
    let direct = service.catalog.url.clone();
    let link = Link::cut_after(Postgres::shared().port(), u64::MAX);
    service
        .pgseal
        .set("CATALOG_DATABASE_URL", service.catalog.url_by(link.port));
    let worker = service.worker("unheard");
    service.pgseal.set("CATALOG_DATABASE_URL", direct);
    link.cut_at(b"UPDATE 1\0");
    let (id, job) = service.enqueue_backup();
    until("the cut", || link.is_cut());
    assert_eq!(service.backup(id, "status"), "running");
    assert_eq!(service.pgseal.stored(), Vec::<String>::new());
    link.mend();
    service.until_backup(id, "completed");
    service.until_job(&job, "finished");
    assert_eq!(service.backup(id, "attempt"), "2");
    assert_eq!(service.listed().len(), 1);
    Service::end(worker);
}

/// A small disk that a server sees, which goes with the test.
struct Mounted(std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _gone = std::process::Command::new("umount")
            .args(["--lazy"])
            .arg(&self.0)
            .status();
    }
}

fn dispatch(catalog: Catalog, queue: Queue) -> Dispatch {
    Dispatch {
        catalog,
        queue,
        functions: Functions::default(),
        queue_name: QueueName::parse("backups").unwrap(),
        time_limit: Duration::from_secs(600),
        retry_pause: Duration::ZERO,
    }
}

fn wanted(target: &str) -> BackupWanted {
    BackupWanted {
        target: target.to_owned(),
        kind: BackupKind::Manual,
        requested_by: "test".to_owned(),
        labels: std::collections::BTreeMap::new(),
        excluded_table_data: Vec::new(),
    }
}

/// Row 59: the disk of the catalog is full. Nothing is half recorded, nothing is enqueued that is not recorded, and what
/// is there can be read. Only root can mount a disk that a server of another user sees; others see nothing here.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_catalog_fails_closed_and_can_be_read() {
    if !is_root() {
        return;
    }
    let place = folder();
    let _mounted = Mounted(place.path().to_owned());
    run(std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"])
        .arg(place.path()));
    run(std::process::Command::new("chown")
        .arg("postgres")
        .arg(place.path()));
    let server = Postgres::start_major(DEBIAN_MAJOR);
    let path = place.path().display();
    server.psql(
        "postgres",
        &format!("CREATE TABLESPACE small LOCATION '{path}'"),
    );
    server.psql(
        "postgres",
        "CREATE DATABASE full_catalog TEMPLATE template0 TABLESPACE small",
    );
    let database = server.exactly("full_catalog");
    let catalog = catalog_in(&database).await;
    let redis = Redis::shared().database();
    let dispatch = dispatch(catalog.clone(), redis.queue().await);
    let (first, _) = dispatch.backup(wanted("first"), now()).await.unwrap();
    // What the loop has written is undone at its end, and takes up its room all the same.
    database.psql(
        "CREATE TABLE filler (b bytea) WITH (autovacuum_enabled = off);
         ALTER TABLE filler ALTER b SET STORAGE PLAIN;
         DO $$ BEGIN LOOP INSERT INTO filler VALUES (decode(repeat('ab', 7000), 'hex')); END LOOP;
         EXCEPTION WHEN disk_full THEN NULL; END $$;",
    );
    let mut recorded = 1_u64;
    let error = loop {
        match dispatch
            .backup(wanted(&format!("t{recorded}")), now())
            .await
        {
            Ok(_) => recorded += 1,
            Err(error) => break error,
        }
        assert!(recorded < 5_000, "the disk is never full");
    };
    let said = pgseal::model::explanation::explain(&error);
    assert!(said.contains("No space left on device"), "{said}");
    let queue = QueueName::parse("backups").unwrap();
    assert_eq!(dispatch.queue.length(&queue).await.unwrap(), recorded);
    assert_eq!(catalog.pending().await.unwrap().len() as u64, recorded);
    let row = catalog.backup(first.id).await.unwrap().unwrap();
    assert_eq!(row.target, "first");
    database.psql("DROP TABLE filler");
    dispatch.backup(wanted("last"), now()).await.unwrap();
    assert_eq!(catalog.pending().await.unwrap().len() as u64, recorded + 1);
    catalog.close().await;
}

fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

/// How often the clock still panics when a backup asks it.
static PANICS: AtomicUsize = AtomicUsize::new(0);

/// The one thing from outside that a backup calls, so that it is what panics: in a backup, and nowhere else.
fn clock() -> OffsetDateTime {
    let asked_by = || std::backtrace::Backtrace::force_capture().to_string();
    if PANICS.load(Ordering::SeqCst) > 0 && asked_by().contains("backup::prepare") {
        PANICS.fetch_sub(1, Ordering::SeqCst);
        panic!("the clock stands still");
    }
    OffsetDateTime::now_utc()
}

async fn worker(service: &Service) -> Worker {
    let place = connection(&service.catalog.url);
    let catalog = Catalog::open(&place).await.unwrap();
    let url = format!("redis://127.0.0.1:{}/0", service.redis.port);
    let address = RedisDatabase::of(url).address();
    let queue = Queue::open(&address, Keys::default()).unwrap();
    let store = StoreSettings::Local {
        root: service.pgseal.store(),
    };
    let search = Search {
        folders: vec![bin_dir_of(DEBIAN_MAJOR)],
        path: Vec::new(),
    };
    Worker {
        name: crate::queue::worker("in-process"),
        queues: vec![QueueName::parse("backups").unwrap()],
        dispatch: dispatch(catalog.clone(), queue),
        stages: Stages {
            vault: Vault {
                store: Store::open(store).await.unwrap(),
                second: None,
                passphrases: vec![Passphrase::new(PASSPHRASE.into()).unwrap()],
                layout: Layout::new("backups", "prod").unwrap(),
                spool_folder: service.pgseal.file("spool"),
            },
            list_cache: ListCache::new(None),
            clients: Clients::find(&search).await,
            clock,
            settings: BackupSettings::default(),
        },
        targets: [(TargetName::default(), connection(&service.database.url))].into(),
        drill_server: None,
        timetables: Vec::new(),
        drills: Drills::default(),
        policies: [(TargetName::default(), Policy::default())].into(),
        outbox: Outbox {
            catalog: catalog.clone(),
            notifier: Notifier::default(),
            databases: BTreeMap::new(),
            clock,
        },
        times: Times {
            heartbeat: Duration::from_secs(1),
            maintenance: Duration::from_secs(1),
            lease: Duration::from_secs(5),
            reconcile: Duration::from_secs(3600),
            keep_replaced: None,
            grace: Duration::from_secs(1),
        },
        alive_folder: service.pgseal.file("spool"),
        state: State::default(),
    }
}

/// Row 64: a part of a task panics. The job fails with what was said, or is tried again; the worker takes the next.
#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_a_task_is_a_failed_job_and_no_dead_worker() {
    let service = Service::start();
    let worker = worker(&service).await;
    let (id, job) = service.enqueue_backup();
    PANICS.store(2, Ordering::SeqCst);
    let started = Instant::now();
    worker.run(Until::Empty, &Stop::default()).await.unwrap();
    assert_eq!(PANICS.load(Ordering::SeqCst), 0, "both tries panicked");
    assert!(started.elapsed() < Duration::from_secs(60));
    assert_eq!(service.backup(id, "status || ' ' || attempt"), "failed 2");
    let error = service.backup(id, "error");
    assert!(
        error.contains("panicked: the clock stands still") && error.contains("hint: "),
        "{error}"
    );
    assert_eq!(service.job_status(&job), "failed");
    assert_eq!(service.pgseal.stored(), Vec::<String>::new());
    // The same process, and one panic: the second try makes it.
    PANICS.store(1, Ordering::SeqCst);
    let (id, job) = service.enqueue_backup();
    worker.run(Until::Empty, &Stop::default()).await.unwrap();
    assert_eq!(
        service.backup(id, "status || ' ' || attempt"),
        "completed 2"
    );
    assert_eq!(service.job_status(&job), "finished");
    let active = worker.dispatch.catalog.active("default").await.unwrap();
    assert!(active.is_none());
    assert_eq!(service.listed().len(), 1);
}
