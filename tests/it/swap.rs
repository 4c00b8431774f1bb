//! Restores that make the database anew and then take its place: what is there after, what is kept, what is refused, and
//! what a client sees of it.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::catalog::catalog_in;
use crate::harness::cli::Pgseal;
use crate::harness::equality::{Content, assert_same};
use crate::harness::fixture;
use crate::harness::postgres::{Database, Postgres};
use crate::harness::somebody::Somebody;

/// Everything about a database that is not in it.
pub fn properties(server: &Postgres, name: &str) -> String {
    server.psql(
        "postgres",
        &format!(
            "SELECT pg_get_userbyid(datdba), datconnlimit, shobj_description(d.oid, 'pg_database'), datacl,
                pg_encoding_to_char(encoding), datcollate, datctype, datallowconn, datistemplate, dattablespace,
                (SELECT array_agg(coalesce(r.rolname, '') || ' ' || setconfig::text ORDER BY r.rolname)
                 FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole WHERE setdatabase = d.oid)
             FROM pg_database d WHERE datname = '{name}'"
        ),
    )
}

/// Drops what restores of a database kept, with the test.
pub struct Kept<'a>(pub &'a Postgres, pub &'a str);

impl Kept<'_> {
    pub fn names(&self) -> Vec<String> {
        let prefix = format!("{}_", self.1);
        let mut names = self.0.databases();
        names.retain(|name| name.starts_with(&prefix));
        names
    }
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            for name in self.names() {
                self.0.psql(
                    "postgres",
                    &format!("DROP DATABASE IF EXISTS \"{name}\" WITH (FORCE)"),
                );
            }
        }
    }
}

fn swap(pgseal: &Pgseal, to: &Database<'_>) -> serde_json::Value {
    pgseal.json(&["restore", "latest", "--to", &to.url, "--mode", "swap"])
}

/// Row 123: content and properties are the backup's afterwards, and what was there is kept as it was; the way back needs no
/// store, and brings back the very same.
#[test]
fn everything_is_the_backup_s_and_the_old_one_is_kept() {
    let server = Postgres::shared();
    let database = server.database_from("swapped", &fixture("life.sql"), &[]);
    let name = &database.name;
    let kept = Kept(server, name);
    server.psql(
        "postgres",
        "CREATE ROLE swap_owner; CREATE ROLE \"swap \"\"reader\"",
    );
    server.psql("postgres", &format!(
        "ALTER DATABASE {name} OWNER TO swap_owner; REVOKE ALL ON DATABASE {name} FROM PUBLIC;
         GRANT CONNECT ON DATABASE {name} TO \"swap \"\"reader\" WITH GRANT OPTION;
         ALTER DATABASE {name} SET search_path TO \"$user\", shop; ALTER DATABASE {name} SET app.mode TO 'it''s';
         ALTER DATABASE {name} CONNECTION LIMIT 17; COMMENT ON DATABASE {name} IS 'the shop''s \\\"own\\\"'; ALTER DATABASE {name} IS_TEMPLATE true;
         ALTER ROLE postgres IN DATABASE {name} SET work_mem TO '7MB'"
    ));
    let (content, facts) = (Content::of(server, name), properties(server, name));
    let mut pgseal = Pgseal::new();
    pgseal.set("DATABASE_URL", &database.url);
    let made = pgseal.json(&["backup"]);

    database.psql("DROP TABLE shop.orders CASCADE; CREATE TABLE newer AS SELECT 1");
    server.psql("postgres", &format!(
        "ALTER DATABASE {name} OWNER TO postgres; GRANT ALL ON DATABASE {name} TO PUBLIC;
         COMMENT ON DATABASE {name} IS 'changed'; ALTER DATABASE {name} RESET ALL; ALTER DATABASE {name} CONNECTION LIMIT 5;
         ALTER DATABASE {name} IS_TEMPLATE false"
    ));
    let (damaged, damaged_facts) = (Content::of(server, name), properties(server, name));
    let restored = swap(&pgseal, &database);
    assert_eq!(restored["rows_compared"], made["row_count"]);
    assert_eq!(restored["warnings"], serde_json::json!([]));
    assert_same(&content, &Content::of(server, name));
    assert_eq!(properties(server, name), facts);

    let before = restored["kept_database"].as_str().unwrap();
    let id = restored["restore_id"].as_str().unwrap();
    assert_eq!(before, format!("{name}_before_{id}"));
    assert_eq!(kept.names(), [before]);
    assert_same(&damaged, &Content::of(server, before));
    let comment = server.psql(
        "postgres",
        &format!("SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = '{before}'"),
    );
    let record: serde_json::Value = serde_json::from_str(&comment).unwrap();
    assert_eq!(record["comment"], "changed");
    assert_eq!(record["backup"], made["name"]);
    assert_eq!(record["safety_backup"], restored["safety_backup"]);
    // The safety backup was made before, and is the damaged state too.
    let safety = restored["safety_backup"].as_str().unwrap();
    let copy = server.name("swapped_safety");
    pgseal.ok(&["restore", safety, "--to", &copy.url, "--mode", "new"]);
    assert_same(&damaged, &Content::of(server, &copy.name));

    std::fs::remove_dir_all(pgseal.store()).unwrap();
    let undone = pgseal.json(&["rollback", "--to", &database.url]);
    assert_same(&damaged, &Content::of(server, name));
    assert_eq!(properties(server, name), damaged_facts);
    assert_eq!(
        undone["kept_database"],
        format!("{name}_undone_{id}").as_str()
    );
    // And back again.
    pgseal.ok(&["rollback", "--to", &database.url, "--id", id]);
    assert_same(&content, &Content::of(server, name));
    assert_eq!(properties(server, name), facts);
    assert_eq!(kept.names(), [before]);
    // A template is dropped all the same.
    let template = |name: &str, is: bool| {
        let sql = format!("ALTER DATABASE {name} IS_TEMPLATE {is}");
        server.psql("postgres", &sql)
    };
    template(before, true);
    pgseal.ok(&["kept", "drop", before, "--to", &database.url]);
    assert_eq!(kept.names(), Vec::<String>::new());
    template(name, false);
    drop(kept);
    drop(database);
    drop(copy);
    server.psql(
        "postgres",
        "DROP ROLE swap_owner; DROP ROLE \"swap \"\"reader\"",
    );
}

/// Row 131: clients that come back at once are in one of the two states, and no refusal lasts.
#[test]
fn clients_that_come_back_at_once_are_never_shut_out() {
    let server = Postgres::shared();
    let database = server.create_database("came_back");
    let _kept = Kept(server, &database.name);
    database.psql("CREATE TABLE state AS SELECT 'backup' AS which");
    let mut pgseal = Pgseal::new();
    pgseal.set("DATABASE_URL", &database.url);
    pgseal.ok(&["backup"]);
    database.psql("UPDATE state SET which = 'old'");

    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (stop, name) = (Arc::clone(&stop), database.name.clone());
            std::thread::spawn(move || {
                let (mut seen, mut refused, mut refused_longest) =
                    (Vec::new(), None, Duration::ZERO);
                while !stop.load(Ordering::Relaxed) {
                    // It stays a while, so that it has to be ended.
                    let mut psql = server.client("psql", &name);
                    let output = psql
                        .args([
                            "-XAtq",
                            "-c",
                            "SELECT which FROM state",
                            "-c",
                            "SELECT pg_sleep(0.2)",
                        ])
                        .stderr(Stdio::null())
                        .output()
                        .unwrap();
                    let answer = String::from_utf8(output.stdout).unwrap();
                    if let Some(state) = answer.lines().next() {
                        seen.push(state.to_owned());
                        refused = None;
                    } else {
                        let since: Instant = *refused.get_or_insert_with(Instant::now);
                        refused_longest = refused_longest.max(since.elapsed());
                    }
                }
                (seen, refused_longest)
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(300));
    swap(&pgseal, &database);
    std::thread::sleep(Duration::from_millis(500));
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        let (seen, refused) = client.join().unwrap();
        let turn = seen.iter().position(|state| state == "backup").unwrap();
        assert!(
            turn > 0 && seen[..turn].iter().all(|state| state == "old"),
            "{seen:?}"
        );
        assert!(
            seen[turn..].iter().all(|state| state == "backup"),
            "{seen:?}"
        );
        assert!(refused < Duration::from_secs(10), "refused for {refused:?}");
    }
    assert_eq!(
        server.psql(
            "postgres",
            &format!(
                "SELECT datallowconn FROM pg_database WHERE datname = '{}'",
                database.name
            )
        ),
        "t"
    );
}

/// A role that owns the database and may create others, and no more, restores and rolls back; what it may not end is named.
#[test]
fn an_owner_who_may_create_databases_can_do_it() {
    let server = Postgres::shared();
    server.psql(
        "postgres",
        "CREATE ROLE swap_plain LOGIN CREATEDB PASSWORD 'dummy'",
    );
    let database = server.create_database("plain_owner");
    let kept = Kept(server, &database.name);
    server.psql(
        "postgres",
        &format!("ALTER DATABASE {} OWNER TO swap_plain", database.name),
    );
    let url = server.url_as("swap_plain", "dummy", &database.name);
    server.psql(
        &database.name,
        "SET SESSION AUTHORIZATION swap_plain; CREATE TABLE t AS SELECT 1 AS n",
    );
    let mut pgseal = Pgseal::new();
    pgseal.set("DATABASE_URL", &url);
    pgseal.ok(&["backup"]);
    database.psql("UPDATE t SET n = 2");
    // A session of its own is ended.
    let mut own = Command::new("psql");
    let mut own = own
        .args(["-X", &url, "-c", "SELECT pg_sleep(100)"])
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let restored = pgseal.json(&["restore", "latest", "--to", &url, "--mode", "swap"]);
    own.wait().unwrap();
    assert_eq!(restored["warnings"], serde_json::json!([]));
    assert_eq!(database.psql("SELECT n FROM t"), "1");
    assert_eq!(
        properties(server, &database.name).split('|').next(),
        Some("swap_plain")
    );
    pgseal.ok(&["rollback"]);
    assert_eq!(database.psql("SELECT n FROM t"), "2");
    // One that may not create databases is told so before anything is fetched.
    server.psql("postgres", "ALTER ROLE swap_plain NOCREATEDB");
    let said = pgseal.fails(5, &["restore", "latest", "--to", &url, "--mode", "swap"]);
    assert!(
        said.contains("ALTER ROLE \"swap_plain\" CREATEDB"),
        "{said}"
    );
    drop(kept);
    drop(database);
    server.psql("postgres", "DROP ROLE swap_plain");
}

/// Row 87: a session that this role cannot end keeps everything as it was, within a time, and is named.
#[test]
fn a_session_that_cannot_be_ended_is_named_in_time() {
    let server = Postgres::shared();
    server.psql(
        "postgres",
        "CREATE ROLE swap_stays LOGIN CREATEDB PASSWORD 'dummy'",
    );
    let database = server.create_database("stays");
    let kept = Kept(server, &database.name);
    server.psql(
        "postgres",
        &format!("ALTER DATABASE {} OWNER TO swap_stays", database.name),
    );
    // Nobody drops a template, but the one that was made in vain goes.
    let template = |is: bool| {
        let sql = format!("ALTER DATABASE {} IS_TEMPLATE {is}", database.name);
        server.psql("postgres", &sql)
    };
    template(true);
    let url = server.url_as("swap_stays", "dummy", &database.name);
    let pgseal = Pgseal::new();
    pgseal.ok(&["backup", &url]);
    let mut superuser = server.client("psql", &database.name);
    let mut superuser = superuser
        .args(["-X", "-c", "SELECT pg_sleep(300)"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let before = Content::of(server, &database.name);
    let started = Instant::now();
    let said = pgseal.fails(
        1,
        &[
            "restore",
            "latest",
            "--to",
            &url,
            "--mode",
            "swap",
            "--no-safety-backup",
            "--confirm",
            &database.name,
        ],
    );
    assert!(started.elapsed() < Duration::from_secs(60));
    assert!(said.contains("of role postgres: "), "{said}");
    assert!(
        superuser.try_wait().unwrap().is_none(),
        "the session was ended"
    );
    assert_same(&before, &Content::of(server, &database.name));
    assert_eq!(kept.names(), Vec::<String>::new());
    superuser.kill().unwrap();
    superuser.wait().unwrap();
    template(false);
    drop(kept);
    drop(database);
    server.psql("postgres", "DROP ROLE swap_stays");
}

/// What follows the database's identity is named before anything is done; so is our own catalog (row 61).
#[tokio::test]
async fn what_would_be_left_behind_is_refused() {
    let server = Postgres::shared();
    let database = server.create_database("left_behind");
    let kept = Kept(server, &database.name);
    let pgseal = Pgseal::new();
    pgseal.ok(&["backup", &database.url]);
    let refused = |words: &str| {
        let said = pgseal.fails(
            5,
            &["restore", "latest", "--to", &database.url, "--mode", "swap"],
        );
        assert!(said.contains(words), "{said}");
        assert_eq!(
            pgseal.json(&["list"]).as_array().unwrap().len(),
            1,
            "a safety backup was made"
        );
        assert_eq!(kept.names(), Vec::<String>::new());
    };
    database.psql("SELECT pg_create_logical_replication_slot('swap_slot', 'pgoutput')");
    refused("pg_drop_replication_slot(");
    database.psql("SELECT pg_drop_replication_slot('swap_slot')");
    database.psql("CREATE SUBSCRIPTION swap_sub CONNECTION 'host=nowhere' PUBLICATION p WITH (connect = false)");
    refused("DROP SUBSCRIPTION \"swap_sub\"");
    database.psql("ALTER SUBSCRIPTION swap_sub SET (slot_name = NONE); DROP SUBSCRIPTION swap_sub");
    database.psql("BEGIN; CREATE TABLE p (); PREPARE TRANSACTION 'swap''s'");
    refused("ROLLBACK PREPARED 'swap''s'");
    database.psql("ROLLBACK PREPARED 'swap''s'");
    catalog_in(&database).await;
    refused("CATALOG_DATABASE_URL");
    database.psql("DROP SCHEMA pgseal CASCADE");
    swap(&pgseal, &database);
    // A database that is not there cannot be swapped.
    let nowhere = server.name("left_nowhere");
    let said = pgseal.fails(
        5,
        &["restore", "latest", "--to", &nowhere.url, "--mode", "swap"],
    );
    assert!(said.contains("--mode new"), "{said}");
}

/// The longest names are cut in the database's part, and found again.
#[test]
fn long_names_are_cut_and_found_again() {
    let server = Postgres::shared();
    let long = "ü".repeat(31);
    let database = server.exactly(&long);
    server.psql("postgres", &format!("CREATE DATABASE \"{long}\""));
    database.psql("CREATE TABLE t AS SELECT 1 AS n");
    let mut pgseal = Pgseal::new();
    pgseal.set("DATABASE_URL", &database.url);
    pgseal.ok(&["backup"]);
    database.psql("UPDATE t SET n = 2");
    let restored = swap(&pgseal, &database);
    let before = restored["kept_database"].as_str().unwrap().to_owned();
    assert_eq!(before.len(), 62, "a letter of two bytes is kept whole");
    let undone = pgseal.json(&["rollback"]);
    assert_eq!(database.psql("SELECT n FROM t"), "2");
    pgseal.ok(&["kept", "drop", undone["kept_database"].as_str().unwrap()]);
    assert!(!server.databases().contains(&before));
}

/// Signals do not end the step that swaps: however many come, it is done or not done, and says which.
#[test]
fn no_signal_ends_the_swap_in_the_middle() {
    let server = Postgres::shared();
    let database = server.create_database("signalled");
    let kept = Kept(server, &database.name);
    database.psql("CREATE TABLE t AS SELECT 1 AS n");
    let pgseal = Pgseal::new();
    pgseal.ok(&["backup", &database.url]);
    database.psql("UPDATE t SET n = 2");
    // Somebody works on the database as a whole, so that the step takes its time.
    let elsewhere = server.create_database("holds");
    let mut holder = Somebody::enter(server, &elsewhere, "holder");
    holder.says(&format!(
        "BEGIN; COMMENT ON DATABASE {} IS 'held';",
        database.name
    ));
    let mut running = pgseal.start(&[
        "restore",
        "latest",
        "--to",
        &database.url,
        "--mode",
        "swap",
        "-vv",
    ]);
    assert!(running.until_said("stage=\"swap the databases\""));
    for _ in 0..3 {
        running.signal(Signal::TERM);
        std::thread::sleep(Duration::from_millis(200));
        assert!(running.is_running(), "{}", running.wait());
    }
    holder.says("ROLLBACK;");
    let run = running.wait();
    assert_eq!(database.psql("SELECT n FROM t"), "1", "{run}");
    assert_eq!(kept.names().len(), 1);
}
