//! Restores that are cut off: pgseal killed, pg_restore killed, sessions ended, the server gone, the disk full, at each step
//! of each mode. Each time the live database is the one before or the backup, never a mixture; new connections work; and
//! the doctor names what was left, with the command that clears it.

use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::generated::dice::Dice;
use crate::harness::cli::{Pgseal, Running, clients};
use crate::harness::equality::{Content, assert_same};
use crate::harness::link::Link;
use crate::harness::postgres::{Database, Postgres};
use crate::harness::s3::{Action, S3Server};
use crate::harness::scale;
use crate::harness::somebody::{Somebody, until};
use crate::harness::watch::descendants;
use crate::swap::Kept;

/// One database on a server, a backup of it, and what has become of it since.
pub(crate) struct Scene<'a> {
    server: &'a Postgres,
    pub(crate) live: Database<'a>,
    /// Where mode `new` goes.
    beside: Database<'a>,
    backup: Content,
    damaged: Content,
}

impl<'a> Scene<'a> {
    pub(crate) fn new(server: &'a Postgres, pgseal: &mut Pgseal, prefix: &str) -> Self {
        Self::of(server, server.create_database(prefix), pgseal)
    }

    fn of(server: &'a Postgres, live: Database<'a>, pgseal: &mut Pgseal) -> Self {
        live.psql(
            "CREATE TABLE parents AS SELECT i, repeat('x', 200) AS filler FROM generate_series(1, 5000) i;
             ALTER TABLE parents ADD PRIMARY KEY (i);
             CREATE TABLE children (i int REFERENCES parents, n serial);
             INSERT INTO children SELECT i FROM generate_series(1, 5000) i; CREATE INDEX ON children (i)",
        );
        pgseal.set("DATABASE_URL", &live.url);
        let backup = Content::of(server, &live.name);
        pgseal.ok(&["backup"]);
        live.psql("DELETE FROM children WHERE i % 2 = 0; UPDATE parents SET filler = 'y'");
        // A sequence goes ahead in a crash, as far as it was logged ahead since.
        server.psql("postgres", "CHECKPOINT");
        let damaged = Content::of(server, &live.name);
        let beside = server.name(&format!("{}_beside", live.name));
        Self {
            server,
            live,
            beside,
            backup,
            damaged,
        }
    }

    fn to(&self, mode: &str) -> &Database<'a> {
        if mode == "new" {
            &self.beside
        } else {
            &self.live
        }
    }

    pub(crate) fn restore(&self, pgseal: &Pgseal, mode: &str) -> Running {
        self.restore_by(pgseal, mode, self.server.port())
    }

    /// Over another port, where something stands between.
    fn restore_by(&self, pgseal: &Pgseal, mode: &str, port: u16) -> Running {
        let to = &self.to(mode).url_by(port);
        // Said with all its steps, so that a fault can be timed by them.
        let mut arguments = vec!["restore", "latest", "--to", to, "--mode", mode, "-vv"];
        if mode != "new" {
            arguments.extend(["--no-safety-backup", "--confirm", &self.live.name]);
        }
        pgseal.start(&arguments)
    }

    /// The one invariant: the live database is what it was or what the backup is. `true`: the backup.
    pub(crate) fn is_whole(&self, said: &str) -> bool {
        let live = Content::of(self.server, &self.live.name);
        let is_backup = live.difference(&self.backup).is_none();
        let differs = live.difference(&self.damaged);
        assert!(
            is_backup || differs.is_none(),
            "{said}: a mixture: {differs:?}"
        );
        if self.beside.exists() {
            assert_same(&self.backup, &Content::of(self.server, &self.beside.name));
        }
        is_backup
    }

    /// What a restore that could clean up must not leave.
    pub(crate) fn left(&self) -> Vec<String> {
        let mut names = self.server.databases();
        names.retain(|name| name.starts_with(&format!("{}_", self.live.name)));
        names
    }

    /// Follows what the doctor says until nothing is left, and brings the damaged state back.
    pub(crate) fn clear(&self, pgseal: &Pgseal, said: &str, is_backup: bool) {
        let left = Kept(self.server, &self.live.name);
        let is_target = |name: &String| *name != self.beside.name;
        let names = || -> Vec<String> { left.names().into_iter().filter(is_target).collect() };
        let found = doctor(pgseal, &self.live);
        for name in names() {
            let line = found
                .iter()
                .find(|line| line["found"].as_str().unwrap().contains(&name));
            let line = line.unwrap_or_else(|| panic!("{said}: the doctor does not name {name}"));
            let fix = line["fix"].as_str().unwrap();
            if name.contains("_before_") {
                assert!(is_backup, "{said}: {name} is kept, and nothing was swapped");
                let id = fix
                    .split("--id ")
                    .nth(1)
                    .unwrap()
                    .split(' ')
                    .next()
                    .unwrap();
                let undone = pgseal.json(&["rollback", "--id", id]);
                pgseal.ok(&["kept", "drop", undone["kept_database"].as_str().unwrap()]);
            } else {
                assert_eq!(line["severity"], "warning", "{line}");
                let command: Vec<&str> = fix.split(' ').skip(1).collect();
                pgseal.ok(&command);
            }
        }
        assert_eq!(names(), Vec::<String>::new(), "{said}");
        if is_backup
            && Content::of(self.server, &self.live.name)
                .difference(&self.damaged)
                .is_some()
        {
            // In place there is no way back but the safety backup, which was not wanted here.
            self.live
                .psql("DELETE FROM children WHERE i % 2 = 0; UPDATE parents SET filler = 'y'");
        }
        if self.beside.exists() {
            self.server
                .psql("postgres", &format!("DROP DATABASE {}", self.beside.name));
        }
        assert_same(&self.damaged, &Content::of(self.server, &self.live.name));
    }
}

pub(crate) fn doctor(pgseal: &Pgseal, database: &Database<'_>) -> Vec<Value> {
    let run = pgseal.run(&["doctor", &database.url, "--json"]);
    let findings: Value =
        serde_json::from_slice(&run.stdout).unwrap_or_else(|error| panic!("{error}: {run}"));
    let findings = findings.as_array().unwrap().clone();
    findings
        .into_iter()
        .filter(|line| line["subject"] == "restores")
        .collect()
}

const DENIED: &str = "<Error><Code>AccessDenied</Code></Error>";

fn stage(name: &str) -> String {
    format!("stage=\"{name}\"")
}

/// The steps of each mode from the first one that touches the server, by the names that they are said with.
const STEPS: [(&str, &[&str]); 3] = [
    (
        "new",
        &[
            "create the database",
            "load",
            "compare the rows",
            "analyze",
            "apply the database's properties",
            "name the database",
        ],
    ),
    (
        "swap",
        &[
            "create the database",
            "load",
            "compare the rows",
            "analyze",
            "apply the database's properties",
            "swap the databases",
        ],
    ),
    ("in-place", &["load", "compare the rows", "analyze"]),
];

/// Faults that need no server of their own.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// pgseal is killed.
    Kill,
    /// Every session of pgseal and pg_restore is ended by an administrator.
    Terminate,
    /// pg_restore is killed.
    KillChild,
    /// A person presses Ctrl-C.
    Interrupt,
    /// The line to the server is cut, and is back at once.
    Cut,
    /// The line to the server is cut, and is back only when pgseal has given up.
    CutForGood,
}

impl Fault {
    const ALL: [Self; 6] = [
        Self::Kill,
        Self::Terminate,
        Self::KillChild,
        Self::Interrupt,
        Self::Cut,
        Self::CutForGood,
    ];

    /// All of it in the soak; of what is alike, one in the quick tests.
    fn is_tried(self, mode: &str, step: &str, chosen: &str) -> bool {
        let is_last = ["name the database", "swap the databases", "analyze"].contains(&step);
        let is_quick = match self {
            Self::Kill => mode == "swap" || step == "load" || is_last,
            Self::Cut => step == chosen,
            Self::CutForGood => false,
            _ => mode != "new" && step == "load",
        };
        scale(is_quick.into(), 1) == 1
    }

    fn happen(self, scene: &Scene<'_>, running: &Running, link: &Link) {
        match self {
            Self::Kill => running.signal(Signal::KILL),
            // By the next answer, if there is one.
            Self::Cut | Self::CutForGood => link.cut_after_more(0),
            Self::Interrupt => running.signal(Signal::INT),
            Self::Terminate => {
                scene.server.psql(
                    "postgres",
                    &format!(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                         WHERE application_name IN ('pgseal', 'pg_restore') AND pid <> pg_backend_pid()
                           AND (datname LIKE '{}%' OR datname = 'postgres')",
                        scene.live.name
                    ),
                );
            }
            Self::KillChild => {
                for pid in descendants(running.pid()).into_iter().skip(1) {
                    let _gone = Command::new("kill").args(["-9", &pid.to_string()]).output();
                }
            }
        }
    }
}

/// Row 83, 82: every step of every mode, every fault, for real.
#[test]
fn a_restore_that_is_cut_off_anywhere_leaves_the_old_or_the_new() {
    let server = Postgres::start_major(15);
    let mut pgseal = Pgseal::new();
    let scene = Scene::new(&server, &mut pgseal, "cut_off");
    let mut outcomes = std::collections::BTreeMap::new();
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let mut dice = Dice::new(seed);
    for (mode, steps) in STEPS {
        let chosen = dice.one_of(steps);
        for step in steps {
            for fault in Fault::ALL {
                if !fault.is_tried(mode, step, chosen) {
                    continue;
                }
                let said = format!("{mode}, {step}, {fault:?}");
                let link = Link::cut_after(server.port(), u64::MAX);
                let mut running = scene.restore_by(&pgseal, mode, link.port);
                assert!(
                    running.until_said(&stage(step)),
                    "{said}: {}",
                    running.wait()
                );
                fault.happen(&scene, &running, &link);
                if fault == Fault::Cut {
                    until("the cut, or the end", || {
                        link.is_cut() || !running.is_running()
                    });
                    link.mend();
                }
                let ended = running.wait();
                link.mend();
                settle(&scene, &said);
                let is_backup = scene.is_whole(&said);
                if mode == "in-place" && ended.stderr.contains("nothing was changed, the one") {
                    assert!(!is_backup, "{said}: {ended}");
                }
                if ended.code == 0 && mode != "new" {
                    assert!(is_backup, "{said}: {ended}");
                }
                if ended.code == 1 && mode == "swap" && !ended.stderr.contains("is not known") {
                    assert!(!is_backup, "{said}: {ended}");
                }
                *outcomes
                    .entry((mode, fault == Fault::Kill, is_backup))
                    .or_insert(0) += 1;
                scene.clear(&pgseal, &said, is_backup);
            }
        }
    }
    println!("{outcomes:?}");
    assert!(outcomes[&("swap", true, false)] > 2, "{outcomes:?}");
    assert_eq!(
        pgseal
            .leftovers()
            .iter()
            .filter(|path| path.contains(".pgseal-stage-"))
            .count(),
        0
    );
}

/// A killed client's server processes go when they notice; the content is judged when they are gone.
fn settle(scene: &Scene<'_>, said: &str) {
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name IN ('pgseal', 'pg_restore')
         AND (datname LIKE '{}%' OR query LIKE '%{0}%') AND pid <> pg_backend_pid()",
        scene.live.name
    );
    for _ in 0..1500 {
        if scene.server.psql("postgres", &sql) == "0" {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("{said}: its sessions stay");
}

/// Row 83: killed between the two renames, which are one transaction: neither has happened.
#[test]
fn killed_between_the_two_renames_nothing_has_happened() {
    let server = Postgres::start_major(15);
    let mut pgseal = Pgseal::new();
    let scene = Scene::new(&server, &mut pgseal, "between");
    let elsewhere = server.create_database("holds");
    let link = Link::cut_after(server.port(), u64::MAX);
    let mut faults = vec![Fault::Terminate, Fault::Kill];
    let mut tries = 0;
    while let Some(fault) = faults.last().copied() {
        tries += 1;
        assert!(
            tries <= 20,
            "no restore was ever caught between the two renames"
        );
        let mut holder = Somebody::enter(&server, &elsewhere, "holder");
        let mut running = scene.restore(&pgseal, "swap");
        assert!(running.until_said(&stage("load")));
        let kept = Kept(&server, &scene.live.name);
        let mut names = kept.names().into_iter();
        let working = names.find(|name| name.contains("__restore_"));
        assert!(running.until_said(&stage("analyze")));
        // The new database cannot be renamed for now, the old one can.
        if let Some(working) = working {
            holder.says(&format!("BEGIN; COMMENT ON DATABASE {working} IS 'held';"));
        }
        let waits = "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
             WHERE NOT granted AND a.query LIKE 'ALTER DATABASE%__restore_%RENAME TO%'";
        let mut is_caught = false;
        while !is_caught && running.is_running() {
            is_caught = server.psql("postgres", waits) != "0";
            std::thread::sleep(Duration::from_millis(5));
        }
        if is_caught {
            fault.happen(&scene, &running, &link);
            faults.pop();
        }
        holder.says("ROLLBACK;");
        drop(holder);
        let ended = running.wait();
        settle(&scene, "between");
        let is_backup = scene.is_whole(&ended.to_string());
        // One that was quicker than the holder is tried again.
        assert_eq!(is_backup, !is_caught, "{ended}");
        scene.clear(&pgseal, &format!("between, {fault:?}"), is_backup);
    }
}

/// Row 83: the server stops at once and is started again, at every step.
#[test]
fn a_server_that_crashes_in_a_restore_comes_back_whole() {
    let server = Postgres::start_major(15);
    let mut pgseal = Pgseal::new();
    let scene = Scene::new(&server, &mut pgseal, "crashed");
    for (mode, steps) in STEPS {
        for step in steps {
            let is_quick = mode == "swap" && ["load", "swap the databases"].contains(step);
            if scale(is_quick.into(), 1) == 0 {
                continue;
            }
            let said = format!("{mode}, {step}, crash");
            let mut running = scene.restore(&pgseal, mode);
            assert!(
                running.until_said(&stage(step)),
                "{said}: {}",
                running.wait()
            );
            server.crash();
            server.start_again();
            let ended = running.wait();
            settle(&scene, &said);
            let is_backup = scene.is_whole(&said);
            if ended.code == 0 && mode != "new" {
                assert!(is_backup, "{said}: {ended}");
            }
            scene.clear(&pgseal, &said, is_backup);
        }
    }
}

/// The store is cut while the backup is fetched, and comes to nothing while the safety backup is made (row 85): no mode
/// touches anything.
#[test]
fn without_its_store_a_restore_touches_nothing() {
    let server = Postgres::shared();
    let s3 = S3Server::start();
    let mut pgseal = s3.pgseal();
    let scene = Scene::new(server, &mut pgseal, "no_store");
    for mode in ["new", "swap", "in-place"] {
        s3.hook(|call| {
            if call.operation == "GetObject" && call.key.ends_with(".dump.gpg") {
                Action::Answer(403, DENIED)
            } else {
                Action::Pass
            }
        });
        let ended = scene.restore(&pgseal, mode).wait();
        assert_ne!(ended.code, 0, "{ended}");
        assert!(!scene.is_whole(mode));
        assert_eq!(scene.left(), Vec::<String>::new(), "{ended}");
        scene.clear(&pgseal, mode, false);
    }
    for mode in ["swap", "in-place"] {
        // It cannot be stored; it is stored, and cannot be proved.
        for operation in ["PutObject", "GetObject"] {
            s3.hook(move |call| {
                if call.operation == operation && call.key.contains("pre_restore") {
                    Action::Answer(403, DENIED)
                } else {
                    Action::Pass
                }
            });
            let ended = pgseal.run(&["restore", "latest", "--to", &scene.live.url, "--mode", mode]);
            assert_ne!(ended.code, 0, "{ended}");
            assert!(ended.stderr.contains("safety backup"), "{ended}");
            assert!(!scene.is_whole(mode));
        }
        s3.hook(|_| Action::Pass);
        scene.clear(&pgseal, mode, false);
    }
}

/// Row 92: a disk without room for a second database ends the load; the old one is as it was, and the new one is gone.
#[test]
fn a_full_disk_leaves_the_old_database_and_nothing_else() {
    let (server, space) = Postgres::start_with_small_space("size=80m");
    let mut pgseal = Pgseal::new();
    let live = server.name("full_disk");
    server.psql(
        "postgres",
        &format!("CREATE TABLESPACE small LOCATION '{}'", space.display()),
    );
    server.psql(
        "postgres",
        &format!(
            "CREATE DATABASE {} TEMPLATE template0 TABLESPACE small",
            live.name
        ),
    );
    live.psql("CREATE TABLE bulk AS SELECT i, repeat('z', 900) FROM generate_series(1, 20000) i");
    let scene = Scene::of(&server, live, &mut pgseal);
    // Room for an empty database, and not for its rows: everything is taken, and some of it given back.
    server.psql(
        "postgres",
        "DO $$ DECLARE n int := 0; BEGIN LOOP
           BEGIN
             EXECUTE format('CREATE TABLE filler_%s TABLESPACE small AS SELECT repeat(''z'', 900) FROM generate_series(1, 1100)', n);
           EXCEPTION WHEN OTHERS THEN EXIT; END;
           n := n + 1;
         END LOOP;
         FOR i IN 1..10 LOOP EXECUTE format('DROP TABLE filler_%s', n - i); END LOOP; END $$",
    );
    for mode in ["new", "swap"] {
        let ended = scene.restore(&pgseal, mode).wait();
        let places = "SELECT datname, spcname, pg_tablespace_size(t.oid) FROM pg_database d JOIN pg_tablespace t ON t.oid = dattablespace";
        assert_ne!(
            ended.code,
            0,
            "{ended}\n{}",
            server.psql("postgres", places)
        );
        assert!(ended.stderr.contains("No space left on device"), "{ended}");
        let left = Kept(&server, &scene.live.name);
        assert_eq!(left.names(), Vec::<String>::new(), "{ended}");
        assert!(!scene.is_whole(mode));
    }
}

/// Row 93: a pg_restore that says it went well and restored nothing is found out, before anybody sees the database.
#[test]
fn a_load_that_restored_nothing_is_found_out() {
    let server = Postgres::shared();
    let mut pgseal = Pgseal::new();
    let scene = Scene::new(server, &mut pgseal, "nothing");
    let programs = clients(
        None,
        Some("case \"$*\" in *--dbname*) cat >/dev/null; exit 0;; esac; exec \"$REAL\" \"$@\""),
    );
    pgseal.with_clients(programs.path());
    for mode in ["new", "swap"] {
        let ended = scene.restore(&pgseal, mode).wait();
        assert_eq!(ended.code, 1, "{ended}");
        assert!(
            ended.stderr.contains("is missing, the backup has"),
            "{ended}"
        );
        assert!(!scene.is_whole(mode));
        assert_eq!(scene.left(), Vec::<String>::new(), "{ended}");
        scene.clear(&pgseal, mode, false);
    }
    let ended = scene.restore(&pgseal, "in-place").wait();
    assert_eq!(ended.code, 1, "{ended}");
    assert!(
        ended
            .stderr
            .contains("RESTORE FAILED: pg_restore ended well, but nothing of"),
        "{ended}"
    );
    assert!(!scene.is_whole("in-place"));
}

/// Row 82: a pg_restore that fails half-way, by itself.
#[test]
fn a_load_that_fails_half_way_changes_nothing() {
    let server = Postgres::shared();
    let mut pgseal = Pgseal::new();
    let scene = Scene::new(server, &mut pgseal, "half_way");
    let programs = clients(
        None,
        Some(
            "case \"$*\" in *--dbname*) head -c 60000 | \"$REAL\" \"$@\"; exit 1;; esac; exec \"$REAL\" \"$@\"",
        ),
    );
    pgseal.with_clients(programs.path());
    for mode in ["new", "swap", "in-place"] {
        let ended = scene.restore(&pgseal, mode).wait();
        assert_eq!(ended.code, 1, "{ended}");
        assert!(!scene.is_whole(mode));
        assert_eq!(scene.left(), Vec::<String>::new(), "{ended}");
        scene.clear(&pgseal, mode, false);
    }
}

/// Row 119: the view that keeps a table from being dropped, and doubled it elsewhere: in place nothing is changed, by a swap
/// everything is the backup's.
#[test]
fn a_dependent_view_doubles_no_table() {
    let server = Postgres::shared();
    let mut pgseal = Pgseal::new();
    let scene = Scene::new(server, &mut pgseal, "dependent");
    scene
        .live
        .psql("CREATE SCHEMA other; CREATE VIEW other.seen AS SELECT * FROM children");
    let with_view = Content::of(server, &scene.live.name);
    let ended = scene.restore(&pgseal, "in-place").wait();
    assert_ne!(ended.code, 0, "{ended}");
    assert_same(&with_view, &Content::of(server, &scene.live.name));
    let ended = scene.restore(&pgseal, "swap").wait();
    assert_eq!(ended.code, 0, "{ended}");
    assert_same(&scene.backup, &Content::of(server, &scene.live.name));
    pgseal.ok(&["rollback"]);
    assert_same(&with_view, &Content::of(server, &scene.live.name));
    for name in Kept(server, &scene.live.name).names() {
        pgseal.ok(&["kept", "drop", &name]);
    }
}

/// Row 120: a truncated archive is refused before the first statement, in every mode.
#[test]
fn a_truncated_archive_reaches_no_database() {
    let server = Postgres::shared();
    let mut pgseal = Pgseal::new();
    let scene = Scene::new(server, &mut pgseal, "truncated");
    let dump = pgseal
        .stored()
        .into_iter()
        .find(|path| path.ends_with(".dump.gpg"))
        .unwrap();
    let path = pgseal.store().join(dump);
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() * 9 / 10]).unwrap();
    for mode in ["new", "swap", "in-place"] {
        let ended = scene.restore(&pgseal, mode).wait();
        assert_eq!(ended.code, 4, "{ended}");
        assert!(!ended.stderr.contains(&stage("load")), "{ended}");
        assert!(!scene.is_whole(mode));
        assert_eq!(scene.left(), Vec::<String>::new(), "{ended}");
        scene.clear(&pgseal, mode, false);
    }
}
