//! Restores whose answer is lost in the one moment that matters: the server has committed, and nobody hears of it; or the
//! session that works beside it ends. What is said afterwards is what is true, or that nobody knows and how to find out.

use std::process::{Child, Stdio};

use crate::harness::cli::{Pgseal, Running};
use crate::harness::equality::{Content, assert_same};
use crate::harness::link::Link;
use crate::harness::postgres::{Database, Postgres};
use crate::harness::somebody::{Somebody, until};
use crate::swap::Kept;

/// A database with a backup that is not what it is by now, and a line to its server.
struct Far<'a> {
    server: &'a Postgres,
    live: Database<'a>,
    beside: Database<'a>,
    pgseal: Pgseal,
    link: Link,
    backup: Content,
    later: Content,
}

/// What a server says to a commit.
const COMMITTED: &[u8] = b"COMMIT\0";

impl<'a> Far<'a> {
    fn new(server: &'a Postgres, prefix: &str) -> Self {
        let live = server.create_database(prefix);
        live.psql("CREATE TABLE t AS SELECT generate_series(1, 500) AS n");
        let backup = Content::of(server, &live.name);
        let mut pgseal = Pgseal::new();
        let link = Link::cut_after(server.port(), u64::MAX);
        pgseal.set("DATABASE_URL", live.url_by(link.port));
        pgseal.ok(&["backup"]);
        live.psql("UPDATE t SET n = -n; CREATE TABLE later ()");
        let later = Content::of(server, &live.name);
        let beside = server.name(&format!("{}_beside", live.name));
        Self {
            server,
            live,
            beside,
            pgseal,
            link,
            backup,
            later,
        }
    }

    fn to(&self, mode: &str) -> &Database<'a> {
        if mode == "new" {
            &self.beside
        } else {
            &self.live
        }
    }

    fn restore(&self, mode: &str) -> Running {
        let to = self.to(mode).url_by(self.link.port);
        let mut arguments = vec!["restore", "latest", "--to", &to, "--mode", mode, "-vv"];
        if mode != "new" {
            arguments.extend(["--no-safety-backup", "--confirm", &self.live.name]);
        }
        self.pgseal.start(&arguments)
    }

    /// Ends while the line is cut at the moment of the commit: mended at once, or only when the program has given up.
    fn cut_at_commit(&self, running: Running, mended: bool) -> crate::harness::cli::Run {
        until("the answer to be lost", || self.link.is_cut());
        if mended {
            self.link.mend();
        }
        let ended = running.wait();
        self.link.mend();
        ended
    }

    /// The question that a person is told to ask.
    fn told(&self, said: &str, database: &str) -> String {
        let (_, rest) = said
            .split_once("SELECT ")
            .unwrap_or_else(|| panic!("{said}"));
        let (sql, _) = rest.split_once(';').unwrap();
        self.server.psql(database, &format!("SELECT {sql}"))
    }

    fn holds_the_backup(&self, mode: &str) {
        // What is not in the backup stays in place.
        if mode == "in-place" {
            self.live.psql("DROP TABLE later");
        }
        assert_same(&self.backup, &Content::of(self.server, &self.to(mode).name));
    }
}

fn answer_is_looked_up(mode: &str) {
    let server = Postgres::shared();
    let far = Far::new(server, "looked_up");
    let kept = Kept(server, &far.live.name);
    far.link.cut_at(COMMITTED);
    let ended = far.cut_at_commit(far.restore(mode), true);
    assert_eq!(ended.code, 0, "{mode}: {ended}");
    far.holds_the_backup(mode);
    let names = kept.names();
    match mode {
        "swap" => {
            assert_eq!(names.len(), 1, "{names:?}");
            assert_same(&far.later, &Content::of(server, &names[0]));
        }
        "new" => assert_eq!(names, std::slice::from_ref(&far.beside.name)),
        _ => {
            assert_eq!(names, Vec::<String>::new());
            assert!(
                ended
                    .to_string()
                    .contains("the load was committed, although"),
                "{ended}"
            );
        }
    }
}

#[test]
fn a_swap_whose_answer_is_lost_is_looked_up() {
    answer_is_looked_up("swap");
}

#[test]
fn a_new_database_whose_answer_is_lost_is_looked_up() {
    answer_is_looked_up("new");
}

#[test]
fn a_load_in_place_whose_answer_is_lost_is_looked_up() {
    answer_is_looked_up("in-place");
}

/// Nobody can be asked: that is said, with the question that tells, and nothing is touched any more.
fn nobody_knows(mode: &str) {
    let server = Postgres::shared();
    let far = Far::new(server, "nobody_knows");
    let kept = Kept(server, &far.live.name);
    far.link.cut_at(COMMITTED);
    let ended = far.cut_at_commit(far.restore(mode), false);
    assert_eq!(ended.code, 1, "{mode}: {ended}");
    let said = &ended.stderr;
    assert!(
        said.contains("is not known") && !said.contains("rolled back"),
        "{ended}"
    );
    let (database, oid) = match mode {
        "in-place" => (far.live.name.as_str(), String::new()),
        "new" => ("postgres", far.beside.name.clone()),
        _ => ("postgres", kept.names().remove(0)),
    };
    assert_eq!(far.told(said, database), oid, "{said}");
    far.holds_the_backup(mode);
}

#[test]
fn of_a_swap_nobody_knows_it_is_said_how_to_find_out() {
    nobody_knows("swap");
}

#[test]
fn of_a_new_database_nobody_knows_it_is_said_how_to_find_out() {
    nobody_knows("new");
}

#[test]
fn of_a_load_in_place_nobody_knows_it_is_said_how_to_find_out() {
    nobody_knows("in-place");
}

#[test]
fn a_rollback_whose_answer_is_lost_is_looked_up() {
    let server = Postgres::shared();
    let far = Far::new(server, "undone");
    let kept = Kept(server, &far.live.name);
    for mended in [true, false] {
        let swapped = far.restore("swap").wait();
        assert_eq!(swapped.code, 0, "{swapped}");
        let before = kept.names().remove(0);
        far.link.cut_at(COMMITTED);
        let ended = far.cut_at_commit(far.pgseal.start(&["rollback"]), mended);
        assert_eq!(ended.code, i32::from(!mended), "{ended}");
        assert_same(&far.later, &Content::of(server, &far.live.name));
        let undone = kept.names().remove(0);
        assert_eq!(undone, before.replace("_before_", "_undone_"));
        if !mended {
            assert!(ended.stderr.contains("is not known"), "{ended}");
            assert_eq!(far.told(&ended.stderr, "postgres"), undone, "{ended}");
        }
        far.pgseal.ok(&["kept", "drop", &undone]);
    }
}

/// A commit that waits for a standby that never answers: it is under way for as long as the test wants.
struct Standby<'a>(&'a Postgres);

impl Standby<'_> {
    const WAITING: &'static str =
        "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND application_name = ";

    /// Until a commit waits for it.
    fn stop(&self) {
        let server = self.0;
        server.psql(
            "postgres",
            "ALTER SYSTEM SET synchronous_standby_names = 'nobody'",
        );
        server.psql("postgres", "SELECT pg_reload_conf()");
        let mut probe = self.probe();
        let waits = format!("{}'probe'", Self::WAITING);
        until("commits to wait for the standby", || {
            if probe.try_wait().unwrap().is_some() {
                probe = self.probe();
            }
            !server.psql("postgres", &waits).is_empty()
        });
        server.psql(
            "postgres",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'probe'",
        );
        probe.wait().unwrap();
    }

    fn probe(&self) -> Child {
        self.0
            .client("psql", "template1")
            .env("PGAPPNAME", "probe")
            .args([
                "-Xqc",
                "CREATE TABLE IF NOT EXISTS probe (); COMMENT ON TABLE probe IS 'it'",
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn answer(&self) {
        self.0
            .psql("postgres", "ALTER SYSTEM RESET synchronous_standby_names");
        self.0.psql("postgres", "SELECT pg_reload_conf()");
    }
}

/// The commit is under way for a long time, while an administrator ends the session that commits, or all others of pgseal.
#[test]
fn sessions_that_are_ended_while_the_commit_is_under_way_change_nothing_of_the_truth() {
    let server = Postgres::start_major(15);
    let far = Far::new(&server, "under_way");
    let standby = Standby(&server);
    let kept = Kept(&server, &far.live.name);
    let elsewhere = server.create_database("holds");
    for ends_committer in [true, false] {
        let mut holder = Somebody::enter(&server, &elsewhere, "holder");
        holder.says(&format!(
            "BEGIN; COMMENT ON DATABASE {} IS 'held';",
            far.live.name
        ));
        let mut running = far.restore("swap");
        assert!(running.until_said("stage=\"swap the databases\""));
        standby.stop();
        holder.says("ROLLBACK;");
        let committer = format!("{}'pgseal'", Standby::WAITING);
        until("the commit", || {
            !server.psql("postgres", &committer).is_empty()
        });
        let pid = server.psql("postgres", &committer);
        let others = format!(
            "SELECT coalesce(array_agg(pid ORDER BY pid), '{{}}') FROM pg_stat_activity WHERE application_name = 'pgseal' AND pid <> {pid}"
        );
        if ends_committer {
            server.psql("postgres", &format!("SELECT pg_terminate_backend({pid})"));
        } else {
            let before = server.psql("postgres", &others);
            server.psql(
                "postgres",
                &format!("SELECT pg_terminate_backend(unnest('{before}'::int[]))"),
            );
            until("another session in its place", || {
                let now = server.psql("postgres", &others);
                now != "{}" && now != before
            });
            assert!(running.is_running(), "{}", running.wait());
            standby.answer();
        }
        let ended = running.wait();
        standby.answer();
        assert_eq!(ended.code, 0, "{ends_committer}: {ended}");
        assert_same(&far.backup, &Content::of(&server, &far.live.name));
        let names = kept.names();
        assert_eq!(names.len(), 1, "{names:?}");
        assert_same(&far.later, &Content::of(&server, &names[0]));
        let undone = far.pgseal.json(&["rollback"]);
        far.pgseal
            .ok(&["kept", "drop", undone["kept_database"].as_str().unwrap()]);
    }
}
