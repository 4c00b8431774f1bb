//! Somebody else who works in a database while it is backed up.

use std::io::Write as _;
use std::process::{Child, ChildStdin, Stdio};
use std::time::{Duration, Instant};

use super::postgres::{Database, Postgres};

/// A session of psql that does what it is told. Dropping it ends it, and what it has not committed.
pub struct Somebody<'a> {
    server: &'a Postgres,
    psql: Child,
    stdin: Option<ChildStdin>,
    /// The server process that serves it.
    pub pid: i32,
}

impl<'a> Somebody<'a> {
    /// Enters a database, and is called so there.
    pub fn enter(server: &'a Postgres, database: &Database<'_>, name: &str) -> Self {
        let mut psql = server.client("psql", &database.name);
        let mut psql = psql
            .args(["-X", "--quiet"])
            .env("PGAPPNAME", name)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let stdin = psql.stdin.take();
        let mut pid = String::new();
        until("a session of somebody else", || {
            let sql = format!(
                "SELECT pid FROM pg_stat_activity WHERE application_name = '{name}' AND datname = '{}'",
                database.name
            );
            pid = server.psql("postgres", &sql);
            !pid.is_empty()
        });
        let pid = pid.parse().unwrap();
        Self {
            server,
            psql,
            stdin,
            pid,
        }
    }

    /// Says something, and does not wait for it to be done.
    pub fn says(&mut self, sql: &str) {
        writeln!(self.stdin.as_mut().unwrap(), "{sql}").unwrap();
    }

    /// Says something that ends with a lock that nobody else can share, and waits until it has it.
    pub fn locks(&mut self, sql: &str) {
        self.says(sql);
        until("a lock of somebody else", || self.has("granted"));
    }

    /// Says something that needs such a lock, and waits until it waits for it.
    pub fn queues(&mut self, sql: &str) {
        self.says(sql);
        until("a wait of somebody else", || self.has("NOT granted"));
    }

    /// Whether it has done everything that it was told.
    pub fn is_idle(&self) -> bool {
        let sql = format!(
            "SELECT state FROM pg_stat_activity WHERE pid = {}",
            self.pid
        );
        self.server.psql("postgres", &sql).starts_with("idle")
    }

    fn has(&self, which: &str) -> bool {
        let sql = format!(
            "SELECT count(*) FROM pg_locks WHERE pid = {} AND mode = 'AccessExclusiveLock' AND locktype = 'relation' AND {which}",
            self.pid
        );
        self.server.psql("postgres", &sql) != "0"
    }
}

impl Drop for Somebody<'_> {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _killed = self.psql.kill();
        let _ended = self.psql.wait();
    }
}

/// Waits for a state.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(
            started.elapsed() < Duration::from_secs(120),
            "waited too long for {what}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}
