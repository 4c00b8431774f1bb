//! What surrounds a restore: a server of another locale, in another language, without room, and roles that nobody trusts.

use std::fs::File;
use std::path::Path;

use serde_json::Value;

use crate::harness::cli::Pgseal;
use crate::harness::equality::{Content, assert_same};
use crate::harness::postgres::{DEBIAN_MAJOR, Database, MAJORS, Postgres};
use crate::majors::pgseal_with;
use crate::swap::Kept;

fn backed_up(database: &Database<'_>) -> Pgseal {
    let mut pgseal = Pgseal::new();
    pgseal.set("DATABASE_URL", &database.url);
    pgseal.ok(&["backup"]);
    pgseal
}

fn plan(pgseal: &Pgseal, arguments: &[&str]) -> Value {
    let mut all = vec!["restore", "latest", "--plan", "--json"];
    all.extend(arguments);
    let run = pgseal.run(&all);
    serde_json::from_slice(&run.stdout).unwrap_or_else(|_| panic!("{run}"))
}

fn locale_of(server: &Postgres, name: &str) -> String {
    server.psql(
        "postgres",
        &format!("SELECT pg_encoding_to_char(encoding), datcollate, datctype FROM pg_database WHERE datname = '{name}'"),
    )
}

/// Row 132: into a cluster of another locale and encoding, and from there to one that does not have them.
#[test]
fn a_cluster_of_another_locale_gets_the_recorded_one_or_says_that_it_cannot() {
    let here = Postgres::shared();
    let there = Postgres::start_speaking("de_DE.UTF-8", "UTF8");
    let source = here.create_database("locale_here");
    source.psql("CREATE TABLE t (v text PRIMARY KEY); INSERT INTO t VALUES ('é'), ('Ä'), ('z'), ('B'), ('a')");
    let sorted = "SELECT string_agg(v, ' ' ORDER BY v) FROM t";
    let before = Content::of(here, &source.name);
    let pgseal = backed_up(&source);

    let target = there.create_database("locale_there");
    let kept = Kept(&there, &target.name);
    target.psql("CREATE TABLE t AS SELECT 'old' AS v");
    assert_eq!(
        locale_of(&there, &target.name),
        "UTF8|de_DE.UTF-8|de_DE.UTF-8"
    );
    let planned = plan(&pgseal, &["--to", &target.url, "--mode", "swap"]);
    let said = planned["locale_differences"].to_string();
    assert!(
        said.contains("LC_COLLATE was C.UTF-8 in the backup, and is de_DE.UTF-8 in the target"),
        "{planned:#}"
    );
    let beside = there.name("locale_new");
    pgseal.ok(&["restore", "latest", "--to", &beside.url, "--mode", "new"]);
    pgseal.ok(&["restore", "latest", "--to", &target.url, "--mode", "swap"]);
    for database in [&beside, &target] {
        assert_same(&before, &Content::of(&there, &database.name));
        assert_eq!(locale_of(&there, &database.name), "UTF8|C.UTF-8|C.UTF-8");
        assert_eq!(database.psql(sorted), source.psql(sorted));
    }
    assert_eq!(kept.names().len(), 1);

    // The other way round the locale is missing, which is said, and nothing stays.
    let german = there.create_database("locale_german");
    german.psql("CREATE TABLE t AS SELECT 'ß' AS v");
    let mut pgseal = backed_up(&german);
    let copy = here.name("locale_copy");
    let said = pgseal.fails(
        1,
        &["restore", "latest", "--to", &copy.url, "--mode", "new"],
    );
    assert!(
        said.contains("create the database") && said.contains("de_DE.UTF-8"),
        "{said}"
    );
    assert!(
        !here
            .databases()
            .iter()
            .any(|name| name.starts_with(&copy.name))
    );
    pgseal.set("BACKUP_DRILL_DATABASE_URL", here.url("postgres"));
    let drilled = pgseal.run(&["drill", "latest", "--json"]);
    assert_eq!(drilled.code, 5, "{drilled}");
    let drilled: Value = serde_json::from_slice(&drilled.stdout).unwrap();
    assert_eq!(drilled["verdict"], "UNVERIFIABLE", "{drilled}");
}

/// A drill judges by what pg_restore says, which a server says in its own language: a role that may has it say it in
/// PostgreSQL's words, and of any other one no backup is called bad that may be good.
#[test]
fn a_drill_understands_a_server_of_another_language_or_says_that_it_does_not() {
    let here = Postgres::shared();
    let there = Postgres::start_speaking("de_DE.UTF-8", "UTF8");
    there.psql(
        "postgres",
        "CREATE ROLE plain LOGIN CREATEDB PASSWORD 'dummy'",
    );
    let source = here.create_database("speaks");
    source.psql("CREATE TABLE t AS SELECT 1 AS i");
    let mut pgseal = backed_up(&source);
    let drill = |pgseal: &Pgseal| -> (i32, String, String) {
        let run = pgseal.run(&["drill", "latest", "--json"]);
        let drilled: Value =
            serde_json::from_slice(&run.stdout).unwrap_or_else(|_| panic!("{run}"));
        let text = |name: &str| drilled[name].as_str().unwrap_or_default().to_owned();
        assert!(
            !there
                .databases()
                .iter()
                .any(|name| name.contains("_drill_"))
        );
        (run.code, text("verdict"), text("reason"))
    };
    let (superuser, plain) = (
        there.url("postgres"),
        there.url_as("plain", "dummy", "postgres"),
    );
    pgseal.set("BACKUP_DRILL_DATABASE_URL", &superuser);
    assert_eq!(drill(&pgseal), (0, "PROVEN".to_owned(), String::new()));

    // The backup is bad: a function that works by a search_path that no restore has.
    source.psql(
        "CREATE FUNCTION public.one() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1'; \
         CREATE FUNCTION public.two(i int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN one() + i; END'; \
         CREATE INDEX by_two ON t (public.two(i)); CREATE ROLE plain; \
         ALTER TABLE t OWNER TO plain; ALTER FUNCTION one() OWNER TO plain; ALTER FUNCTION two(int) OWNER TO plain",
    );
    here.psql(
        "postgres",
        &format!("ALTER DATABASE {} OWNER TO plain", source.name),
    );
    pgseal.ok(&["backup"]);
    let (code, verdict, reason) = drill(&pgseal);
    assert_eq!((code, verdict.as_str()), (4, "FAILED"), "{reason}");
    assert!(
        reason.contains("does not exist"),
        "in PostgreSQL's words: {reason}"
    );
    pgseal.set("BACKUP_DRILL_DATABASE_URL", &plain);
    let (code, verdict, reason) = drill(&pgseal);
    assert_eq!((code, verdict.as_str()), (5, "UNVERIFIABLE"), "{reason}");
    // Where Debian's packages were installed without their translations, it speaks English all the same.
    let is_translated = Path::new("/usr/share/locale/de/LC_MESSAGES/postgres-15.mo").exists();
    let words = if is_translated {
        "existiert nicht"
    } else {
        "does not exist"
    };
    assert!(
        reason.contains("speaks de_DE.UTF-8") && reason.contains(words),
        "{reason}"
    );
    // Once it may, it understands.
    there.psql("postgres", "GRANT SET ON PARAMETER lc_messages TO plain");
    let (code, verdict, reason) = drill(&pgseal);
    assert_eq!((code, verdict.as_str()), (4, "FAILED"), "{reason}");
    drop(source);
    here.psql("postgres", "DROP ROLE plain");
    there.psql(
        "postgres",
        "REVOKE SET ON PARAMETER lc_messages FROM plain; DROP ROLE plain",
    );
}

/// A second database that does not fit is refused before anything is fetched, and `auto` takes the way that needs no room.
#[test]
fn without_room_for_a_second_database_none_is_begun() {
    let server = Postgres::start_major(15);
    let live = server.create_database("no_room");
    let kept = Kept(&server, &live.name);
    live.psql("CREATE TABLE t AS SELECT generate_series(1, 100) AS n");
    // A file with a hole: the database says that it has 8 TB, and the disk has not.
    let path = server.psql(
        &live.name,
        "SELECT current_setting('data_directory') || '/base/' || oid || '/999999' FROM pg_database WHERE datname = current_database()",
    );
    File::create(&path).unwrap().set_len(8 << 40).unwrap();
    let pgseal = backed_up(&live);
    live.psql("UPDATE t SET n = -n");
    let later = Content::of(&server, &live.name);
    let stored = pgseal.stored();
    let beside = server.name("no_room_new");
    for (to, mode) in [(&beside.url, "new"), (&live.url, "swap")] {
        let said = pgseal.fails(5, &["restore", "latest", "--to", to, "--mode", mode]);
        assert!(
            said.contains("does not fit") || said.contains("no room"),
            "{said}"
        );
        assert!(!said.contains("fetch"), "{said}");
    }
    assert_same(&later, &Content::of(&server, &live.name));
    assert_eq!((kept.names(), pgseal.stored()), (Vec::new(), stored));
    let planned = plan(&pgseal, &["--to", &live.url]);
    assert_eq!(
        (&planned["mode"], &planned["is_possible"]),
        (&"in-place".into(), &true.into()),
        "{planned:#}"
    );
    pgseal.ok(&["restore", "latest", "--to", &live.url]);
    assert_eq!(live.psql("SELECT min(n) FROM t"), "1");
}

/// Row 91: a superuser who restores runs functions of roles that are none, which the plan says; a role without these rights
/// does not.
#[test]
fn a_superuser_is_warned_of_what_others_functions_would_do_with_his_rights() {
    let server = Postgres::shared();
    server.psql(
        "postgres",
        "CREATE ROLE low LOGIN CREATEDB PASSWORD 'dummy'",
    );
    let source = server.create_database("hostile");
    server.psql(
        "postgres",
        &format!("ALTER DATABASE {} OWNER TO low", source.name),
    );
    // A constraint whose function runs while the rows are loaded.
    source.psql(
        "SET SESSION AUTHORIZATION low;
         CREATE FUNCTION public.takes(i integer) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT i > 0';
         CREATE TABLE t (i integer CHECK (public.takes(i))); INSERT INTO t VALUES (1)",
    );
    let pgseal = backed_up(&source);
    let beside = server.name("hostile_new");
    let warnings =
        |url: &str| plan(&pgseal, &["--to", url, "--mode", "new"])["warnings"].to_string();
    let said = warnings(&beside.url);
    assert!(
        said.contains("roles that are no superusers (low)")
            && said.contains("all rights of postgres"),
        "{said}"
    );
    let as_low = server.url_as("low", "dummy", &beside.name);
    assert_eq!(warnings(&as_low), "[]");
    // Both ways it is restored.
    for url in [&beside.url, &as_low] {
        pgseal.ok(&["restore", "latest", "--to", url, "--mode", "new"]);
        assert_eq!(beside.psql("SELECT i FROM t"), "1");
        server.psql("postgres", &format!("DROP DATABASE {}", beside.name));
    }
    drop((beside, source));
    server.psql("postgres", "DROP ROLE low");
}

/// Row 166: `ANALYZE` of a whole database ends with the first table that fails, and everything behind it would be without
/// statistics. Few rows in each: autovacuum leaves such tables alone.
#[test]
fn a_table_that_cannot_be_analyzed_keeps_no_other_from_its_statistics() {
    for major in MAJORS {
        let server = Postgres::shared_of(major);
        let source = server.create_database("statistics");
        source.psql(
            "CREATE FUNCTION public.moody(i integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS $$
             BEGIN
                 IF pg_catalog.current_query() LIKE 'ANALYZE%' THEN RAISE EXCEPTION 'not in this mood'; END IF;
                 RETURN i;
             END $$;
             CREATE TABLE a_broken AS SELECT i FROM generate_series(1, 20) i; CREATE INDEX ON a_broken (public.moody(i));
             CREATE TABLE b_parts (i integer, v text) PARTITION BY RANGE (i);
             CREATE TABLE b_parts_1 PARTITION OF b_parts FOR VALUES FROM (0) TO (10);
             CREATE TABLE b_parts_2 PARTITION OF b_parts FOR VALUES FROM (10) TO (20);
             INSERT INTO b_parts SELECT i, 'x' FROM generate_series(0, 19) i;
             CREATE TABLE \"Z \"\"odd\" AS SELECT i FROM generate_series(1, 20) i;
             CREATE MATERIALIZED VIEW z_view AS SELECT i FROM a_broken",
        );
        let mut expected = "Z \"odd|b_parts|b_parts_1|b_parts_2|z_view".to_owned();
        // Only Debian's server has foreign data wrappers.
        let has_foreign = major == DEBIAN_MAJOR;
        if has_foreign {
            source.psql(
                "CREATE EXTENSION postgres_fdw; CREATE SERVER elsewhere FOREIGN DATA WRAPPER postgres_fdw;
                 CREATE TABLE f_parts (i integer) PARTITION BY RANGE (i);
                 CREATE TABLE f_parts_1 PARTITION OF f_parts FOR VALUES FROM (0) TO (10);
                 CREATE FOREIGN TABLE f_parts_2 PARTITION OF f_parts FOR VALUES FROM (10) TO (20) SERVER elsewhere;
                 INSERT INTO f_parts SELECT i FROM generate_series(0, 9) i",
            );
            expected = expected.replace("|z_view", "|f_parts_1|z_view");
        }
        let mut pgseal = pgseal_with(&[major]);
        pgseal.set("DATABASE_URL", &source.url);
        pgseal.ok(&["backup"]);
        let beside = server.name("statistics_new");
        let restored = pgseal.json(&["restore", "latest", "--to", &beside.url, "--mode", "new"]);
        let analyzed = beside.psql(
            "SELECT string_agg(DISTINCT tablename, '|' ORDER BY tablename) FROM pg_stats WHERE schemaname = 'public'",
        );
        assert_eq!(analyzed, expected, "PostgreSQL {major}");
        let said = restored["warnings"].to_string();
        assert!(
            said.contains("public.a_broken (not in this mood)") && !said.contains("b_parts"),
            "{said}"
        );
        assert_eq!(
            said.contains("public.f_parts (user mapping not found for"),
            has_foreign,
            "{said}"
        );
        let drill = &["drill", "latest", "--to", &server.url("postgres")];
        let drilled = pgseal.json(drill);
        assert_eq!(drilled["verdict"], "PROVEN", "{drilled}");
        assert!(
            drilled["warnings"].to_string().contains("public.a_broken"),
            "{drilled}"
        );
    }
}
