//! The service as it runs: a Redis, a catalog, a database, and workers that are real processes.

use std::path::PathBuf;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::cli::{Pgseal, Running, clients};
use super::fixture;
use super::postgres::{Database, Postgres};
use super::redis::{Redis, RedisDatabase};
use super::somebody::until;

/// Everything around a worker. Each test has its own.
pub struct Service {
    pub redis: Redis,
    pub pgseal: Pgseal,
    pub database: Database<'static>,
    pub catalog: Database<'static>,
    pub programs: Option<TempDir>,
}

impl Service {
    /// A database of some thousand rows, an empty catalog, an empty Redis.
    pub fn start() -> Self {
        let server = Postgres::shared();
        let database = server.database_from("job", &fixture("bulk.sql"), &["rows=2000"]);
        let catalog = server.create_database("catalog");
        let redis = Redis::start(&[]);
        let mut pgseal = Pgseal::new();
        pgseal.set("DATABASE_URL", &database.url);
        pgseal.set("CATALOG_DATABASE_URL", &catalog.url);
        pgseal.set("REDIS_URL", format!("redis://127.0.0.1:{}/0", redis.port));
        // What takes minutes in life takes seconds here.
        for (name, seconds) in [("HEARTBEAT", "1"), ("MAINTENANCE", "1"), ("LEASE", "8")] {
            pgseal.set(&format!("BACKUP_WORKER_{name}_SECONDS"), seconds);
        }
        pgseal.set("BACKUP_RETRY_SECONDS", "0");
        pgseal.ok(&["migrate"]);
        Self {
            redis,
            pgseal,
            database,
            catalog,
            programs: None,
        }
    }

    /// As [`Self::start`], with a pg_dump that waits, once it has all bytes, until [`Gate::open`].
    pub fn with_gate() -> (Self, Gate) {
        Self::start().gated(0)
    }

    /// As [`Self::with_gate`], once so many bytes were let through.
    pub fn gated(mut self, bytes: u64) -> (Self, Gate) {
        let service = &mut self;
        let gate = Gate {
            go: service.pgseal.file("go"),
            there: service.pgseal.file("there"),
        };
        let script = format!(
            "\"$REAL\" \"$@\" | {{ head -c {bytes}; touch '{}'; while [ ! -e '{}' ]; do sleep 0.02; done; cat; }}",
            gate.there.display(),
            gate.go.display()
        );
        service.with_pg_dump(&script);
        (self, gate)
    }

    /// Puts its backups into the store of another program's settings.
    pub fn with_store_of(&mut self, other: &Pgseal) {
        for name in [
            "BACKUP_S3_ENDPOINT_URL",
            "BACKUP_S3_BUCKET",
            "BACKUP_S3_ACCESS_KEY_ID",
            "BACKUP_S3_SECRET_ACCESS_KEY",
        ] {
            self.pgseal.set(name, other.get(name));
        }
        self.pgseal.unset("BACKUP_STORE");
    }

    /// Adds bytes that no compression makes smaller, some 14 MB, so that an upload has several parts.
    pub fn add_noise(&self) {
        self.database.psql(
            "CREATE TABLE noise AS SELECT g, string_agg(decode(md5(g::text || '-' || i::text), 'hex'), '') AS bytes
             FROM generate_series(1, 110) g, generate_series(1, 8192) i GROUP BY g",
        );
    }

    /// A pg_dump of the test's own.
    pub fn with_pg_dump(&mut self, script: &str) {
        let programs = clients(Some(script), None);
        self.pgseal.with_clients(programs.path());
        self.programs = Some(programs);
    }

    /// Asks for a backup: its id, and its job's.
    pub fn enqueue_backup(&self) -> (i64, String) {
        let asked = self.pgseal.json(&["enqueue", "backup"]);
        let job = asked["job_id"].as_str().unwrap().to_owned();
        (asked["backup_id"].as_i64().unwrap(), job)
    }

    /// Asks for a restore.
    pub fn enqueue_restore(&self, backup: i64) -> Value {
        self.pgseal
            .json(&["enqueue", "restore", &backup.to_string()])
    }

    /// Runs a worker until there is nothing left to do: what it logged.
    pub fn burst(&self) -> String {
        let run = self.pgseal.run(&["worker", "--burst", "-v"]);
        assert_eq!(run.code, 0, "{run}");
        run.stderr
    }

    /// Starts a worker that stays, and waits until it is registered.
    pub fn worker(&self, name: &str) -> Running {
        let worker = self.pgseal.start(&["worker", "-v", "--name", name]);
        until("a worker's registration", || {
            self.ask(&["EXISTS", &format!("rq:worker:{name}")]) == "1"
        });
        worker
    }

    /// Tells a worker to end, and waits until it has, in order.
    pub fn end(worker: Running) {
        worker.signal(Signal::TERM);
        let run = worker.wait();
        assert_eq!(run.code, 0, "{run}");
    }

    /// A row that another program made, past the refusal of a busy target.
    pub fn insert_pending(&self, job: &str) {
        self.catalog.psql(&format!(
            "INSERT INTO pgseal.backups (target, kind, requested_by, status, time_limit_seconds, queue, job_id)
             VALUES ('default', 'manual', 'test', 'pending', 60, 'backups', '{job}')"
        ));
    }

    /// What Redis answers, as text: nothing is empty, and each item of a list is a line.
    pub fn ask(&self, command: &[&str]) -> String {
        // Anew each time, because tests take the server away.
        let database = RedisDatabase::of(format!("redis://127.0.0.1:{}/0", self.redis.port));
        text(&database.ask(command))
    }

    /// A column of a backup's row.
    pub fn backup(&self, id: i64, column: &str) -> String {
        self.catalog.psql(&format!(
            "SELECT {column} FROM pgseal.backups WHERE id = {id}"
        ))
    }

    /// A column of a restore's row.
    pub fn restore(&self, id: i64, column: &str) -> String {
        self.catalog.psql(&format!(
            "SELECT {column} FROM pgseal.restores WHERE id = {id}"
        ))
    }

    /// Waits until a backup's row has this status.
    pub fn until_backup(&self, id: i64, status: &str) {
        until(&format!("backup {id} to be {status}"), || {
            self.backup(id, "status") == status
        });
    }

    /// The status that RQ's tools show.
    pub fn job_status(&self, job: &str) -> String {
        self.ask(&["HGET", &format!("rq:job:{job}"), "status"])
    }

    /// Waits until RQ's tools show this status.
    pub fn until_job(&self, job: &str, status: &str) {
        until(&format!("job {job} to be {status}"), || {
            self.job_status(job) == status
        });
    }

    /// Every complete backup in the store, by name.
    pub fn listed(&self) -> Vec<String> {
        let listed = self.pgseal.json(&["list"]);
        let complete = |entry: &&Value| entry["state"] == "complete";
        let name = |entry: &Value| entry["name"].as_str().unwrap().to_owned();
        listed
            .as_array()
            .unwrap()
            .iter()
            .filter(complete)
            .map(name)
            .collect()
    }
}

/// What a dump waits for.
pub struct Gate {
    go: PathBuf,
    there: PathBuf,
}

impl Gate {
    /// Waits until a dump waits.
    pub fn until_somebody_waits(&self) {
        until("a dump at the gate", || self.there.exists());
        std::fs::remove_file(&self.there).unwrap();
    }

    /// Lets this dump and every later one through.
    pub fn open(&self) {
        std::fs::write(&self.go, "").unwrap();
    }
}

fn text(value: &redis::Value) -> String {
    match value {
        redis::Value::Nil => String::new(),
        redis::Value::Int(number) => number.to_string(),
        redis::Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        redis::Value::SimpleString(text) => text.clone(),
        redis::Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join("\n"),
        other => format!("{other:?}"),
    }
}
