//! What goes wrong between pgseal and a server: each fault made for real, each judged by what is in the store and in the
//! databases afterwards.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::harness::cli::{Pgseal, clients, clients_of};
use crate::harness::equality::{Content, assert_same};
use crate::harness::fixture;
use crate::harness::link::Link;
use crate::harness::postgres::{PASSWORD, Postgres, bin_dir_of, quoted};
use crate::harness::somebody::{Somebody, until};

/// The store as it was, and nobody of ours left on the server.
fn assert_nothing_left(pgseal: &Pgseal, server: &Postgres, database: &str) {
    assert_eq!(pgseal.stored(), Vec::<String>::new());
    assert_eq!(pgseal.leftovers(), Vec::<String>::new());
    assert_eq!(pgseal.json(&["list"]), serde_json::json!([]));
    let ours = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND application_name IN ('pgseal', 'pg_dump')"
    );
    until("the server to end our sessions", || {
        server.psql("postgres", &ours) == "0"
    });
}

/// Row 3: the connection is reset in the middle of the dump; a later backup over the same link is whole.
#[test]
fn a_connection_that_is_reset_in_the_middle_leaves_nothing() {
    let server = Postgres::shared();
    let source = server.database_from("reset", &fixture("bulk.sql"), &["rows=30000"]);
    let before = Content::of(server, &source.name);
    let link = Link::cut_after(server.port(), 2_000_000);
    let url = source.url_by(link.port);
    let pgseal = Pgseal::new();
    let said = pgseal.fails(1, &["backup", &url]);
    assert!(link.is_cut());
    assert!(
        said.contains("error: dump the database") || said.contains("error: count the rows"),
        "{said}"
    );
    assert!(
        said.contains("reset by peer") || said.contains("closed the connection"),
        "{said}"
    );
    assert_nothing_left(&pgseal, server, &source.name);
    assert!(pgseal.fails(5, &["backup", &url]).contains("connect to"));

    link.mend();
    let made = pgseal.json(&["backup", &url]);
    let copy = server.name("reset_copy");
    let restored = pgseal.json(&["restore", "latest", "--to", &copy.url, "--mode", "new"]);
    assert_eq!(restored["rows_compared"], made["row_count"]);
    assert_same(&before, &Content::of(server, &copy.name));
}

/// Rows 5 and 128: a table that stays locked ends the backup when its time is up, and the error names who has it.
#[test]
fn a_table_that_stays_locked_is_named_with_who_has_it() {
    let server = Postgres::shared();
    let source = server.create_database("locked");
    source.psql("CREATE TABLE free AS SELECT 1 AS i; CREATE TABLE held AS SELECT 2 AS i");
    let mut somebody = Somebody::enter(server, &source, "a migration");
    somebody.locks("BEGIN; LOCK TABLE held IN ACCESS EXCLUSIVE MODE;");
    let mut pgseal = Pgseal::new();
    pgseal
        .set("BACKUP_LOCK_WAIT_SECONDS", "1")
        .set("DATABASE_URL", &source.url);
    let started = Instant::now();
    let said = pgseal.fails(1, &["backup"]);
    assert!(
        started.elapsed() < Duration::from_secs(30),
        "the setting is not heard"
    );
    let pid = somebody.pid;
    for word in [
        "error: lock the tables",
        &format!(
            "public.held by server process {pid} (role postgres, a migration, idle in transaction)"
        ),
        "hint: wait longer with BACKUP_LOCK_WAIT_SECONDS",
        &format!("SELECT pg_terminate_backend({pid})"),
    ] {
        assert!(said.contains(word), "{word}: {said}");
    }
    assert_nothing_left(&pgseal, server, &source.name);
    // What it says helps.
    server.psql("postgres", &format!("SELECT pg_terminate_backend({pid})"));
    assert_eq!(pgseal.json(&["backup"])["row_count"], 2);
}

/// Row 5: a backup that waits for a lock can be stopped at once, and leaves nothing.
#[test]
fn a_signal_ends_the_wait_for_a_lock() {
    let server = Postgres::shared();
    let source = server.create_database("stops_waiting");
    source.psql("CREATE TABLE held AS SELECT 2 AS i");
    let mut somebody = Somebody::enter(server, &source, "holds");
    somebody.locks("BEGIN; LOCK TABLE held IN ACCESS EXCLUSIVE MODE;");
    let pgseal = Pgseal::new();
    let running = pgseal.start(&["backup", &source.url]);
    until("pgseal to wait", || {
        source
            .psql("SELECT count(*) FROM pg_locks WHERE relation = 'held'::regclass AND NOT granted")
            == "1"
    });
    let asked = Instant::now();
    running.signal(rustix::process::Signal::TERM);
    let ended = running.wait();
    assert_eq!(ended.code, 143, "{ended}");
    assert!(
        asked.elapsed() < Duration::from_secs(5),
        "it waited for the lock first"
    );
    drop(somebody);
    assert_nothing_left(&pgseal, server, &source.name);
}

/// Row 128: while it waits for one table, others can still be changed; once that one is free, the backup is made.
#[test]
fn a_backup_that_waits_for_a_lock_holds_nobody_up() {
    let server = Postgres::shared();
    let source = server.create_database("waits");
    source.psql("CREATE TABLE a AS SELECT 1 AS i; CREATE TABLE held AS SELECT 2 AS i");
    let mut somebody = Somebody::enter(server, &source, "holds");
    somebody.locks("BEGIN; LOCK TABLE held IN ACCESS EXCLUSIVE MODE;");
    let mut changes = Somebody::enter(server, &source, "changes");
    let mut pgseal = Pgseal::new();
    // Long enough that the change comes while it waits, and not in the pause behind a try.
    pgseal.set("BACKUP_LOCK_WAIT_SECONDS", "80");
    let mut running = pgseal.start(&["backup", &source.url]);
    until("pgseal to wait with a lock in its hand", || {
        source.psql("SELECT count(*) FROM pg_locks WHERE relation IN ('a'::regclass, 'held'::regclass) AND mode = 'AccessShareLock'") == "2"
    });
    changes.queues("ALTER TABLE a ADD COLUMN j integer DEFAULT 7;");
    until("the change to go through", || changes.is_idle());
    assert!(running.is_running());
    drop(somebody);
    let ended = running.wait();
    assert_eq!(ended.code, 0, "{ended}");
    let copy = server.name("waits_copy");
    pgseal.ok(&["restore", "latest", "--to", &copy.url, "--mode", "new"]);
    assert_eq!(copy.psql("SELECT i, j FROM a"), "1|7");
    assert_eq!(copy.psql("SELECT i FROM held"), "2");
}

/// Row 128: a change that queues up between our locks and pg_dump's waits for us, and pg_dump for it. The backup lets go
/// and begins anew.
#[test]
fn a_change_between_our_locks_and_those_of_pg_dump_is_let_through() {
    let server = Postgres::shared();
    let source = server.create_database("between");
    source.psql("CREATE TABLE t AS SELECT generate_series(1, 10) AS i");
    let mut pgseal = Pgseal::new();
    let go = pgseal.file("go");
    let programs = clients(Some(&waits_for(&go, "exec \"$REAL\" \"$@\"")), None);
    pgseal
        .with_clients(programs.path())
        .set("BACKUP_LOCK_WAIT_SECONDS", "24");
    let running = pgseal.start(&["backup", &source.url]);
    until("our lock", || {
        source.psql("SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass AND mode = 'AccessShareLock'") == "1"
    });
    let mut changes = Somebody::enter(server, &source, "changes");
    changes.queues("ALTER TABLE t ADD COLUMN j integer DEFAULT 7;");
    std::fs::write(&go, "").unwrap();
    let ended = running.wait();
    assert_eq!(ended.code, 0, "{ended}");
    let copy = server.name("between_copy");
    pgseal.ok(&["restore", "latest", "--to", &copy.url, "--mode", "new"]);
    assert_eq!(copy.psql("SELECT count(*), min(j) FROM t"), "10|7");
}

/// Row 15: TRUNCATE keeps no old rows for anybody's snapshot. It has to wait for the counting too, or the manifest would
/// say 0 of a table that the dump has.
#[test]
fn a_truncate_that_waits_for_the_dump_waits_for_the_counts_too() {
    let server = Postgres::shared();
    let source = server.database_from("truncated", &fixture("bulk.sql"), &["rows=20000"]);
    let before = Content::of(server, &source.name);
    let mut pgseal = Pgseal::new();
    let go = pgseal.file("go");
    let programs = clients(
        Some(&format!(
            "\"$REAL\" \"$@\" | {{ {}; }}",
            waits_for(&go, "exec cat")
        )),
        None,
    );
    pgseal.with_clients(programs.path());
    let running = pgseal.start(&["backup", &source.url, "--json"]);
    until("pg_dump to be in the middle of its data", || {
        source.psql("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'pg_dump' AND query LIKE 'COPY %'") == "1"
    });
    let mut empties = Somebody::enter(server, &source, "empties");
    empties.queues("TRUNCATE order_items;");
    std::fs::write(&go, "").unwrap();
    let ended = running.wait();
    assert_eq!(ended.code, 0, "{ended}");
    until("the table to be empty", || {
        empties.is_idle() && source.psql("SELECT count(*) FROM order_items") == "0"
    });
    pgseal.unset("BACKUP_PG_BINDIRS");
    let copy = server.name("truncated_copy");
    pgseal.ok(&["restore", "latest", "--to", &copy.url, "--mode", "new"]);
    assert_same(&before, &Content::of(server, &copy.name));
}

/// A script that goes on once a file is there.
fn waits_for(file: &Path, then: &str) -> String {
    format!(
        "while [ ! -e '{}' ]; do sleep 0.02; done; {then}",
        file.display()
    )
}

/// Row 8: login, database or permission is missing.
#[test]
fn what_the_server_refuses_is_said_without_the_password() {
    let server = Postgres::shared();
    let source = server.create_database("refuses");
    source.psql(&format!(
        "DROP ROLE IF EXISTS outsider; CREATE ROLE outsider LOGIN PASSWORD 'dummy-outsider';
         REVOKE CONNECT ON DATABASE {} FROM PUBLIC; CREATE TABLE t (i integer)",
        source.name
    ));
    let name = &source.name;
    for (url, said) in [
        (
            server.url_as("postgres", "dummy-wrong", name),
            "password authentication failed",
        ),
        (
            server.url_as("nobody_here", "dummy-wrong", name),
            "password authentication failed",
        ),
        (
            server.url_as("postgres", PASSWORD, "no_such_database"),
            "does not exist",
        ),
        (
            server.url_as("outsider", "dummy-outsider", name),
            "permission denied for database",
        ),
    ] {
        for mode in ["DATABASE_URL", "argument"] {
            let mut pgseal = Pgseal::new();
            let ended = if mode == "argument" {
                pgseal.run(&["backup", &url, "-vv"])
            } else {
                pgseal.set("DATABASE_URL", &url).run(&["backup", "-vv"])
            };
            assert_eq!(ended.code, 5, "{ended}");
            for word in [
                "error: prepare the backup",
                said,
                "hint: check host, port, role",
            ] {
                assert!(ended.stderr.contains(word), "{word}: {ended}");
            }
            for secret in ["dummy-wrong", "dummy-outsider", PASSWORD] {
                assert!(!ended.stderr.contains(secret), "{ended}");
            }
            assert_nothing_left(&pgseal, server, name);
        }
    }
    source.psql("DROP ROLE outsider");
}

/// Row 8: a table that an extension keeps to itself is none of a backup's business, and is not asked for.
#[test]
fn what_an_extension_keeps_to_itself_is_left_alone() {
    let server = Postgres::shared();
    let source = server.create_database("kept");
    source.psql(
        "DROP ROLE IF EXISTS plain_reader; CREATE ROLE plain_reader LOGIN PASSWORD 'dummy-reader'; CREATE EXTENSION citext;
         CREATE SCHEMA theirs; CREATE TABLE theirs.t (i integer); ALTER EXTENSION citext ADD TABLE theirs.t;
         CREATE TABLE mine AS SELECT 1 AS i; GRANT SELECT ON mine TO plain_reader",
    );
    let pgseal = Pgseal::new();
    let made = pgseal.json(&[
        "backup",
        &server.url_as("plain_reader", "dummy-reader", &source.name),
    ]);
    assert_eq!(
        (&made["table_count"], &made["row_count"]),
        (&1.into(), &1.into())
    );
    source.psql("DROP OWNED BY plain_reader; DROP ROLE plain_reader");
}

/// Row 124: extensions that the target's server does not have, has in another version, or that belong to somebody else.
#[test]
fn extensions_are_looked_at_before_anything_starts() {
    let server = Postgres::shared();
    let source = server.create_database("extensions");
    source.psql("CREATE EXTENSION hstore VERSION '1.4'; CREATE EXTENSION citext; CREATE TABLE t AS SELECT 'a=>1'::hstore AS h");
    let mut pgseal = Pgseal::new();
    pgseal.set("DATABASE_URL", &source.url);
    let made = pgseal.json(&["backup"]);
    let stored = pgseal.stored();

    let poor = Postgres::shared_of(16);
    pgseal.set("BACKUP_PG_BINDIRS", bin_dir_of(16));
    let target = poor.create_database("without");
    target.psql("CREATE TABLE t AS SELECT 7 AS seven");
    for (to, mode) in [
        (&poor.name("without_copy").url, "new"),
        (&target.url, "in-place"),
    ] {
        let said = pgseal.fails(5, &["restore", "latest", "--to", to, "--mode", mode]);
        assert!(
            said.contains("does not have the extensions citext, hstore"),
            "{said}"
        );
        assert!(said.contains("hint: install their packages"), "{said}");
    }
    assert!(
        !poor
            .databases()
            .iter()
            .any(|name| name.starts_with("without_copy"))
    );
    assert_eq!(target.psql("SELECT seven FROM t"), "7");
    assert_eq!(pgseal.stored(), stored, "no safety backup was begun");

    let copy = server.name("extensions_copy");
    let restored = pgseal.json(&["restore", "latest", "--to", &copy.url, "--mode", "new"]);
    assert_eq!(restored["rows_compared"], made["row_count"]);
    let newer = copy.psql("SELECT extversion FROM pg_extension WHERE extname = 'hstore'");
    let warning = format!("extension hstore was 1.4 in the backup, this server makes {newer}");
    assert_eq!(restored["warnings"], serde_json::json!([warning]));

    server.psql(
        "postgres",
        "DROP ROLE IF EXISTS tenant; CREATE ROLE tenant LOGIN PASSWORD 'dummy-tenant'",
    );
    source.psql(&format!("GRANT ALL ON DATABASE {} TO tenant; GRANT CREATE ON SCHEMA public TO tenant; ALTER TABLE t OWNER TO tenant", source.name));
    let url = server.url_as("tenant", "dummy-tenant", &source.name);
    let said = pgseal.fails(
        5,
        &["restore", "latest", "--to", &url, "--mode", "in-place"],
    );
    assert!(
        said.contains("role tenant does not own citext (owner postgres), hstore (owner postgres)"),
        "{said}"
    );
    assert!(said.contains("--mode new"), "{said}");
    assert_eq!(pgseal.stored(), stored, "no safety backup was begun");
    source.psql("REASSIGN OWNED BY tenant TO postgres; DROP OWNED BY tenant; DROP ROLE tenant");
}

/// Row 125: policies that hide rows end a backup before it starts. What its error says to run mends it, and then every row
/// is there; pg_dump is never told to look through the policies.
#[test]
fn row_security_is_never_a_smaller_backup() {
    let server = Postgres::shared();
    let source = server.create_database("policies");
    let role = "row \"reader\"; --";
    server.psql(
        "postgres",
        &format!(
            "DROP ROLE IF EXISTS {0}; CREATE ROLE {0} LOGIN PASSWORD 'dummy-reader'",
            quoted(role)
        ),
    );
    source.psql(&format!(
        "CREATE TABLE hidden AS SELECT i, i % 100 = 0 AS shown FROM generate_series(1, 1000) i;
         ALTER TABLE hidden ENABLE ROW LEVEL SECURITY; CREATE POLICY few ON hidden USING (shown);
         CREATE TABLE mine AS SELECT 1 AS i; ALTER TABLE mine OWNER TO {0};
         ALTER TABLE mine ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
         GRANT SELECT ON hidden TO {0}",
        quoted(role)
    ));
    let mut pgseal = Pgseal::new();
    let record = pgseal.file("argv");
    let programs = clients(
        Some(&format!(
            "printf '%s\\n' \"$@\" >>'{}'; exec \"$REAL\" \"$@\"",
            record.display()
        )),
        None,
    );
    pgseal.with_clients(programs.path());
    pgseal.set(
        "DATABASE_URL",
        server.url_as(role, "dummy-reader", &source.name),
    );
    let said = pgseal.fails(5, &["backup"]);
    assert!(
        said.contains("policies hide rows") && said.contains("public.hidden, public.mine"),
        "{said}"
    );
    assert_eq!(pgseal.stored(), Vec::<String>::new());
    assert!(!record.exists(), "pg_dump was started");

    let sql = said.split_once("hint: as a superuser: ").unwrap().1;
    source.psql(sql.lines().next().unwrap());
    let made = pgseal.json(&["backup"]);
    assert_eq!(made["row_count"], 1001);
    let argv = std::fs::read_to_string(&record).unwrap();
    assert!(
        argv.contains("--format=custom") && !argv.contains("row-security"),
        "{argv}"
    );
    let copy = server.name("policies_copy");
    pgseal.unset("BACKUP_PG_BINDIRS");
    pgseal.ok(&["restore", "latest", "--to", &copy.url, "--mode", "new"]);
    assert_eq!(copy.psql("SELECT count(*) FROM hidden"), "1000");
    drop(copy);
    source.psql(&format!(
        "DROP OWNED BY {0} CASCADE; DROP ROLE {0}",
        quoted(role)
    ));
}

/// Row 126: large objects are in a backup, and in its manifest, also where tables' data is left out.
#[test]
fn large_objects_are_counted_and_come_back() {
    let server = Postgres::shared();
    for major in [15, 17] {
        let server = if major == 15 {
            server
        } else {
            Postgres::shared_of(major)
        };
        let source = server.create_database("large");
        source.psql("SELECT count(lo_from_bytea(1000 + i, decode(repeat(md5(i::text), i), 'hex'))) FROM generate_series(1, 200) i; CREATE TABLE t AS SELECT 1 AS i");
        let before = Content::of(server, &source.name);
        let mut pgseal = Pgseal::new();
        pgseal
            .with_clients(&bin_dir_of(17))
            .set("DATABASE_URL", &source.url);
        let made = pgseal.json(&["backup", "--exclude-table-data", "*"]);
        assert_eq!(
            (&made["large_objects"], &made["row_count"]),
            (&200.into(), &0.into())
        );
        let made = pgseal.json(&["backup"]);
        assert_eq!(
            (&made["large_objects"], &made["row_count"]),
            (&200.into(), &1.into())
        );
        let name = made["name"].as_str().unwrap();
        let copy = server.name("large_copy");
        pgseal.ok(&["restore", name, "--to", &copy.url, "--mode", "new"]);
        assert_same(&before, &Content::of(server, &copy.name));
        source.psql("SELECT count(lo_unlink(oid)) FROM pg_largeobject_metadata WHERE oid::integer % 2 = 0; SELECT lo_put(1001, 0, '\\xff')");
        pgseal.ok(&["restore", name, "--to", &source.url, "--mode", "in-place"]);
        assert_same(&before, &Content::of(server, &source.name));
    }
}

/// Row 129: time limits of the role and the database, far shorter than the work, end neither our sessions nor pg_dump.
#[test]
fn time_limits_of_role_and_database_end_no_backup() {
    for major in [15, 17] {
        let server = Postgres::shared_of(major);
        let source = server.database_from("hurried", &fixture("bulk.sql"), &["rows=5000"]);
        let before = Content::of(server, &source.name);
        let mut limits = vec![
            "statement_timeout",
            "lock_timeout",
            "idle_in_transaction_session_timeout",
            "idle_session_timeout",
        ];
        limits.extend((major >= 17).then_some("transaction_timeout"));
        let mut sql = "DROP ROLE IF EXISTS hurried; CREATE ROLE hurried SUPERUSER LOGIN PASSWORD 'dummy-hurried';".to_owned();
        for limit in &limits {
            sql += &format!(
                "ALTER ROLE hurried SET {limit} = '1s'; ALTER DATABASE {} SET {limit} = '1s';",
                source.name
            );
        }
        server.psql("postgres", &sql);
        let url = server.url_as("hurried", "dummy-hurried", &source.name);
        // pg_dump and pg_restore wait in the middle of their work for longer than any limit.
        let slow = "{ head -c 100000; sleep 1.6; cat; }";
        let programs = clients_of(
            major,
            Some(&format!("\"$REAL\" \"$@\" | {slow}")),
            Some(&format!(
                "case \"$*\" in *--dbname*) {slow} | \"$REAL\" \"$@\";; *) exec \"$REAL\" \"$@\";; esac"
            )),
        );
        let mut pgseal = Pgseal::new();
        pgseal
            .with_clients(programs.path())
            .set("DATABASE_URL", &url);
        let made = pgseal.json(&["backup"]);
        source.psql("SET statement_timeout = 0; SET lock_timeout = 0; TRUNCATE order_items");
        let restored = pgseal.json(&[
            "restore",
            "latest",
            "--to",
            &url,
            "--mode",
            "in-place",
            "--no-safety-backup",
            "--confirm",
            &source.name,
        ]);
        assert_eq!(restored["rows_compared"], made["row_count"]);
        // They would end what reads all of it, too.
        let free = format!("ALTER DATABASE {} RESET ALL", source.name);
        server.psql("postgres", &free);
        assert_same(&before, &Content::of(server, &source.name));
        server.psql("postgres", "DROP ROLE hurried");
    }
}
