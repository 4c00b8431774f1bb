//! Row 63: a worker is killed at every step, before a server hears of it and after; what remains is put in order by the
//! next one, and nothing that counts as complete ever fails to restore. Some steps in each test; every one in the soak.

use std::time::Duration;

use rustix::process::Signal;
use tokio::runtime::Runtime;

use crate::harness::equality::{Content, assert_same};
use crate::harness::postgres::Postgres;
use crate::harness::s3::{Action, S3Server};
use crate::harness::scale;
use crate::harness::seaweed::{Bucket, Keeps, Seaweed, runtime};
use crate::harness::service::Service;
use crate::harness::somebody::until;
use crate::harness::toll::Toll;

/// How many steps of each kind a quick run tries.
const STEPS: usize = 3;

/// A service whose worker reaches everything by relays, and the next one without.
struct Bench {
    service: Service,
    bucket: Bucket,
    runtime: Runtime,
}

impl Bench {
    fn new() -> Self {
        let runtime = runtime();
        let bucket = runtime.block_on(Seaweed::shared().bucket(Keeps::Latest));
        let mut service = Service::start();
        service.add_noise();
        service.with_store_of(&bucket.pgseal());
        Self {
            service,
            bucket,
            runtime,
        }
    }

    /// The keys of all objects.
    fn objects(&self) -> Vec<String> {
        let stored = self.runtime.block_on(self.bucket.stored());
        let key = |entry: String| entry.rsplit_once(' ').unwrap().0.to_owned();
        stored.into_iter().map(key).collect()
    }

    /// Everything as it is, or by relays.
    fn way(&mut self, toll: Option<&Toll>) {
        let port = |name, own| toll.map_or(own, |toll| toll.to(name, own));
        let (server, service) = (Postgres::shared().port(), &mut self.service);
        let (catalog, database) = (port("catalog", server), port("database", server));
        let redis = port("redis", service.redis.port);
        let urls = (
            service.catalog.url_by(catalog),
            service.database.url_by(database),
        );
        let (_, store) = self.bucket.endpoint.rsplit_once(':').unwrap();
        let s3 = port("store", store.parse().unwrap());
        let pgseal = &mut self.service.pgseal;
        pgseal.set("CATALOG_DATABASE_URL", urls.0);
        pgseal.set("DATABASE_URL", urls.1);
        pgseal.set("REDIS_URL", format!("redis://127.0.0.1:{redis}/0"));
        pgseal.set("BACKUP_S3_ENDPOINT_URL", format!("http://127.0.0.1:{s3}"));
    }

    /// How many steps a whole backup has with each server.
    fn steps(&mut self, name: &'static str) -> usize {
        let toll = Toll::new();
        self.way(None);
        self.service.enqueue_backup();
        self.way(Some(&toll));
        self.service.burst();
        let steps = toll.passed(name);
        self.way(None);
        let made = self.service.listed().pop().unwrap();
        self.service.pgseal.ok(&["delete", &made]);
        steps
    }

    /// Kills a worker at one step, and lets the next one put things in order. Whether there was such a step.
    fn kill_at(&mut self, name: &'static str, step: usize) -> bool {
        let toll = Toll::new();
        self.way(None);
        let (id, job) = self.service.enqueue_backup();
        self.way(Some(&toll));
        toll.stop_at(name, step);
        let doomed = self.service.pgseal.start(&["worker", "-v"]);
        let completed = || self.service.backup(id, "status") == "completed";
        until("a step or the end", || toll.has_stopped() || completed());
        doomed.signal(Signal::KILL);
        doomed.wait();
        let was_reached = toll.has_stopped();
        drop(toll);

        self.way(None);
        let next = self.service.pgseal.start(&["worker", "-v"]);
        let what = format!("{name}, step {step}");
        until("the end of the row", || {
            !["pending", "running"].contains(&self.service.backup(id, "status").as_str())
        });
        let ended = self
            .service
            .backup(id, "status || ' ' || attempt || ' ' || coalesce(error, '')");
        assert!(ended.starts_with("completed"), "{what}: {ended}");
        self.service.until_job(&job, "finished");
        next.signal(Signal::TERM);
        let run = next.wait();
        assert_eq!(run.code, 0, "{what}: {run}");
        self.in_order(id, &what);
        was_reached
    }

    /// Exactly one backup, which is the row's and whole, and nothing beside it anywhere.
    fn in_order(&self, id: i64, what: &str) {
        let service = &self.service;
        let listed = service.listed();
        assert_eq!(listed.len(), 1, "{what}: {listed:?}");
        let objects = self.objects();
        assert_eq!(objects.len(), 2, "{what}: {objects:?}");
        let unfinished = self.runtime.block_on(self.bucket.unfinished());
        assert_eq!(unfinished, Vec::<String>::new(), "{what}");
        let key = service.backup(id, "object_key");
        assert!(objects.contains(&key), "{what}: {objects:?}");
        let attempt = service.backup(id, "attempt");
        assert!(["1", "2"].contains(&attempt.as_str()), "{what}: {attempt}");
        service.pgseal.ok(&["verify", &key]);
        for key in ["rq:wip:backups", "rq:queue:backups", "rq:failed:backups"] {
            let kind = service.ask(&["TYPE", key]);
            assert_eq!(kind, "none", "{what}: {key}");
        }
        let running = "SELECT count(*) FROM pgseal.running_targets";
        assert_eq!(service.catalog.psql(running), "0", "{what}");
        service.pgseal.ok(&["delete", &key]);
    }

    /// Some steps, or all of them.
    fn sweep(&mut self, name: &'static str) {
        let steps = self.steps(name);
        assert!(steps > STEPS, "{name} has {steps} steps");
        let every = scale(steps.div_ceil(STEPS), 1);
        // From the middle of each stretch, because its ends are other tests' favourites.
        for step in (1 + every / 2..=steps).step_by(every) {
            self.kill_at(name, step);
        }
    }
}

#[test]
fn a_worker_may_be_killed_at_any_word_with_redis() {
    Bench::new().sweep("redis");
}

#[test]
fn a_worker_may_be_killed_at_any_word_with_the_catalog() {
    Bench::new().sweep("catalog");
}

#[test]
fn a_worker_may_be_killed_at_any_word_with_the_store() {
    Bench::new().sweep("store");
}

#[test]
fn a_worker_may_be_killed_at_any_word_with_the_database() {
    Bench::new().sweep("database");
}

/// The steps that are one request: each is killed once before the store hears of it, and once when it has done it.
#[test]
fn a_worker_may_be_killed_at_each_step_of_the_commit() {
    let s3 = S3Server::start();
    let mut service = Service::start();
    service.add_noise();
    service.with_store_of(&s3.pgseal());
    let operations = [
        "CompleteMultipartUpload",
        "PutObject",
        "GetObject",
        "UploadPart",
        "CreateMultipartUpload",
        "HeadObject",
    ];
    for operation in operations.into_iter().take(scale(3, operations.len())) {
        for done in [false, true] {
            let what = format!("{operation}, done: {done}");
            let (id, job) = service.enqueue_backup();
            let (told, hears) = std::sync::mpsc::channel();
            s3.hook(move |call| {
                if call.operation != operation || !call.key.contains("backup_") {
                    return Action::Pass;
                }
                let _nobody = told.send(());
                let long = Duration::from_secs(600);
                if done {
                    Action::DoAndHang(long)
                } else {
                    Action::Hang(long)
                }
            });
            let doomed = service.pgseal.start(&["worker", "-v"]);
            hears.recv_timeout(Duration::from_secs(60)).unwrap();
            // The store does it within that time, if it does it.
            std::thread::sleep(Duration::from_millis(if done { 2_000 } else { 100 }));
            doomed.signal(Signal::KILL);
            doomed.wait();
            s3.hook(|_| Action::Pass);
            let next = service.pgseal.start(&["worker", "-v"]);
            service.until_backup(id, "completed");
            service.until_job(&job, "finished");
            next.signal(Signal::TERM);
            assert_eq!(next.wait().code, 0, "{what}");
            let key = service.backup(id, "object_key");
            let objects = s3.objects();
            assert!(
                objects.len() == 2 && objects.contains(&key),
                "{what}: {objects:?}"
            );
            assert_eq!(service.listed().len(), 1, "{what}");
            service.pgseal.ok(&["verify", &key]);
            service.pgseal.ok(&["delete", &key]);
        }
    }
}

/// Row 27: what a living worker has open is left alone by everybody else's cleaning up; what a dead one left is aborted by
/// the next one.
#[test]
fn an_open_upload_is_aborted_once_its_worker_is_dead() {
    let mut bench = Bench::new();
    // As much again, so that a part is full before the dump waits.
    let more = "CREATE TABLE more AS TABLE noise";
    bench.service.database.psql(more);
    let (service, gate) = bench.service.gated(48_000_000);
    bench.service = service;
    let (service, unfinished) = (&bench.service, || {
        bench.runtime.block_on(bench.bucket.unfinished())
    });
    let (id, job) = service.enqueue_backup();
    let doomed = service.worker("doomed");
    gate.until_somebody_waits();
    until("an open upload", || unfinished().len() == 1);
    service.pgseal.ok(&["catalog", "reconcile"]);
    assert_eq!(unfinished().len(), 1, "its worker lives");
    doomed.signal(Signal::KILL);
    doomed.wait();
    assert_eq!(unfinished().len(), 1);
    let next = service.worker("next");
    gate.until_somebody_waits();
    gate.open();
    service.until_backup(id, "completed");
    service.until_job(&job, "finished");
    Service::end(next);
    bench.in_order(id, "an open upload");
}

/// A deletion that is killed leaves a whole backup, or none that could be taken for one; a second one ends it.
#[test]
fn a_deletion_may_be_killed_at_any_step() {
    let mut bench = Bench::new();
    let mut step = 1;
    loop {
        bench.way(None);
        let made = bench.service.pgseal.json(&["backup"]);
        let key = made["object_key"].as_str().unwrap();
        let toll = Toll::new();
        bench.way(Some(&toll));
        toll.stop_at("store", step);
        let mut deleting = bench.service.pgseal.start(&["delete", key]);
        until("a step or the end", || {
            toll.has_stopped() || !deleting.is_running()
        });
        let was_reached = toll.has_stopped();
        if was_reached {
            deleting.signal(Signal::KILL);
        }
        deleting.wait();
        drop(toll);
        bench.way(None);
        match bench.service.listed().len() {
            0 => {}
            1 => drop(bench.service.pgseal.ok(&["verify", key])),
            several => panic!("step {step}: {several} backups"),
        }
        if !bench.objects().is_empty() {
            bench.service.pgseal.ok(&["delete", key]);
        }
        assert_eq!(bench.objects(), Vec::<String>::new(), "step {step}");
        if !was_reached {
            break;
        }
        step += scale(5, 1);
    }
    assert!(step > 5, "nothing was killed");
}

/// What a killed worker left half done is restorable, byte for byte, from the attempt that followed.
#[test]
fn what_follows_a_kill_restores_everything() {
    let mut bench = Bench::new();
    let server = Postgres::shared();
    let before = Content::of(server, &bench.service.database.name);
    let toll = Toll::new();
    let (id, _) = bench.service.enqueue_backup();
    bench.way(Some(&toll));
    toll.stop_at("store", 12);
    let doomed = bench.service.pgseal.start(&["worker", "-v"]);
    until("the step", || toll.has_stopped());
    doomed.signal(Signal::KILL);
    doomed.wait();
    drop(toll);
    bench.way(None);
    let next = bench.service.worker("next");
    bench.service.until_backup(id, "completed");
    Service::end(next);
    let restored = server.name("restored");
    bench
        .service
        .pgseal
        .ok(&["restore", "latest", "--to", &restored.url, "--mode", "new"]);
    assert_same(&before, &Content::of(server, &restored.name));
}
