//! Plans and what they decide: which mode, whether the locks suffice, what the target's locale is, what is left out.

use crate::harness::cli::{Pgseal, clients};
use crate::harness::equality::{Content, assert_same};
use crate::harness::fixture;
use crate::harness::postgres::{Database, PASSWORD, Postgres};
use crate::targets::with_targets;

fn plan(pgseal: &Pgseal, arguments: &[&str]) -> serde_json::Value {
    let mut all = vec!["restore", "latest", "--plan", "--json"];
    all.extend(arguments);
    let run = pgseal.run(&all);
    serde_json::from_slice(&run.stdout).unwrap_or_else(|_| panic!("{run}"))
}

fn backed_up(database: &Database<'_>) -> Pgseal {
    let mut pgseal = Pgseal::new();
    pgseal.set("DATABASE_URL", &database.url);
    pgseal.ok(&["backup"]);
    pgseal
}

/// Everything that life brings is known on both sides by the same name, and nothing is in the way.
#[test]
fn an_unchanged_database_is_replaced_as_a_whole() {
    let server = Postgres::shared();
    let database = server.database_from("same", &fixture("life.sql"), &[]);
    let before = Content::of(server, &database.name);
    let pgseal = backed_up(&database);
    let plan = plan(&pgseal, &["--to", &database.url, "--mode", "in-place"]);
    for none in ["created", "survivors", "lost"] {
        assert_eq!(plan[none]["total"], 0, "{none}: {plan:#}");
    }
    assert_eq!(plan["blockers"], serde_json::json!([]));
    assert_eq!(plan["obstacles"], serde_json::json!([]));
    assert!(plan["replaced"]["total"].as_u64().unwrap() > 60);
    assert_same(&before, &Content::of(server, &database.name));
    assert_eq!(pgseal.leftovers(), Vec::<String>::new());
}

/// `auto` says which way and why: swap where the role may, in place where it may not, new where nothing is there.
#[test]
fn auto_takes_the_way_that_fits_and_says_why() {
    let server = Postgres::shared();
    server.psql("postgres", "DROP ROLE IF EXISTS auto_app");
    server.psql("postgres", "CREATE ROLE auto_app LOGIN PASSWORD 'auto'");
    let database = server.create_database("auto");
    server.psql(
        "postgres",
        &format!("ALTER DATABASE {} OWNER TO auto_app", database.name),
    );
    database.psql("SET ROLE auto_app; CREATE TABLE t AS SELECT generate_series(1, 5) i");
    let pgseal = backed_up(&database);
    let url = server.url_as("auto_app", "auto", &database.name);
    let as_superuser = plan(&pgseal, &["--to", &database.url]);
    assert_eq!(as_superuser["mode"], "swap");
    let as_owner = plan(&pgseal, &["--to", &url]);
    assert_eq!(as_owner["mode"], "in-place");
    assert!(
        as_owner["mode_reason"]
            .as_str()
            .unwrap()
            .contains("auto_app may not create databases")
    );
    let absent = server.name("auto_absent");
    assert_eq!(plan(&pgseal, &["--to", &absent.url])["mode"], "new");

    database.psql("DELETE FROM t");
    let restored = pgseal.json(&["restore", "latest", "--to", &url]);
    assert_eq!(restored["mode"], "in-place");
    assert_eq!(database.psql("SELECT count(*) FROM t"), "5");
    database.psql("DELETE FROM t");
    let restored = pgseal.json(&["restore", "latest", "--to", &database.url]);
    assert_eq!(restored["mode"], "swap");
    assert_eq!(database.psql("SELECT count(*) FROM t"), "5");
    let kept = server.exactly(restored["kept_database"].as_str().unwrap());
    assert_eq!(kept.psql("SELECT count(*) FROM t"), "0");
    drop(kept);
    drop(database);
    server.psql("postgres", "DROP ROLE auto_app");
}

/// Row 130: the one transaction of a restore in place has to fit the lock table; a swap has no such transaction.
#[test]
fn a_lock_table_that_is_too_small_is_found_before() {
    let server = Postgres::start_with(
        "-c max_connections=20 -c max_locks_per_transaction=64 -c max_prepared_transactions=0",
    );
    let database = server.create_database("locks");
    for part in 0..10 {
        database.psql(&format!(
            "DO $$ BEGIN FOR i IN 1..20 LOOP EXECUTE format('CREATE TABLE t%s_%s (id serial PRIMARY KEY, v text)', {part}, i); END LOOP; END $$"
        ));
    }
    database.psql("INSERT INTO t0_1 (v) VALUES ('one')");
    let pgseal = backed_up(&database);
    let before = Content::of(&server, &database.name);
    let arguments = [
        "restore",
        "latest",
        "--to",
        &database.url,
        "--mode",
        "in-place",
    ];
    let stored = pgseal.stored();
    let said = pgseal.fails(5, &arguments);
    assert!(
        said.contains("ALTER SYSTEM SET max_locks_per_transaction = ")
            && said.contains("--mode swap"),
        "{said}"
    );
    assert_eq!(pgseal.stored(), stored);
    assert_same(&before, &Content::of(&server, &database.name));
    database.psql("DELETE FROM t0_1");
    pgseal.ok(&["restore", "latest", "--to", &database.url, "--mode", "swap"]);
    assert_same(&before, &Content::of(&server, &database.name));
}

/// A database or a role that may only read is found before anything is made, by whichever way that would write.
#[test]
fn what_may_only_be_read_is_found_before() {
    let server = Postgres::shared();
    let database = server.create_database("may_read");
    database.psql("CREATE TABLE t AS SELECT 1 AS one");
    let pgseal = backed_up(&database);
    let (stored, before) = (pgseal.stored(), Content::of(server, &database.name));
    let name = &database.name;
    let sql = |sql: String| server.psql("postgres", &sql);
    sql(format!(
        "ALTER DATABASE {name} SET default_transaction_read_only = on"
    ));
    let in_place = [
        "restore",
        "latest",
        "--to",
        &database.url,
        "--mode",
        "in-place",
    ];
    let said = pgseal.fails(5, &in_place);
    let remedy = format!("ALTER DATABASE \"{name}\" SET default_transaction_read_only = off;");
    assert!(
        said.contains("may only read") && said.contains(&remedy),
        "{said}"
    );
    // Another database takes its place, and that one is the backup's.
    let swapped = plan(&pgseal, &["--to", &database.url, "--mode", "swap"]);
    assert_eq!(swapped["is_possible"], true, "{swapped}");

    sql(format!(
        "ALTER DATABASE {name} RESET default_transaction_read_only; \
         CREATE ROLE {name}_reads LOGIN SUPERUSER PASSWORD '{PASSWORD}'; \
         ALTER ROLE {name}_reads SET default_transaction_read_only = on"
    ));
    let url = server.url_as(&format!("{name}_reads"), PASSWORD, name);
    for mode in ["swap", "in-place"] {
        let said = pgseal.fails(5, &["restore", "latest", "--to", &url, "--mode", mode]);
        assert!(
            said.contains(&format!("ALTER ROLE \"{name}_reads\" SET")),
            "{said}"
        );
    }
    sql(format!(
        "ALTER ROLE {name}_reads RESET default_transaction_read_only"
    ));
    assert_eq!(pgseal.stored(), stored);
    assert_same(&before, &Content::of(server, name));
    database.psql("DELETE FROM t");
    pgseal.ok(&["restore", "latest", "--to", &url, "--mode", "in-place"]);
    assert_same(&before, &Content::of(server, name));
    sql(format!(
        "ALTER ROLE {name}_reads SET default_transaction_read_only = on"
    ));
    let drilled = pgseal.run(&["drill", "latest", "--to", &url]);
    assert!(drilled.stderr.contains("UNVERIFIABLE"), "{drilled}");
    sql(format!("DROP ROLE {name}_reads"));
}

/// Row 132: an encoding, a locale and a provider that differ are said; a new database has the recorded ones.
#[test]
fn a_locale_that_differs_is_said() {
    let server = Postgres::shared();
    let (source, target) = (
        server.name("locale_of"),
        server.create_database("locale_to"),
    );
    server.psql(
        "postgres",
        &format!(
            "CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8' LOCALE_PROVIDER icu ICU_LOCALE 'de-u-co-phonebk'",
            source.name
        ),
    );
    source.psql("CREATE TABLE t (v text PRIMARY KEY); INSERT INTO t VALUES ('ä'), ('b')");
    let pgseal = backed_up(&source);
    let plan = plan(&pgseal, &["--to", &target.url, "--mode", "in-place"]);
    let differences = plan["locale_differences"].to_string();
    assert!(
        differences.contains("locale provider was icu in the backup, and is libc in the target"),
        "{differences}"
    );
    assert!(plan["from"]["locale"]["version"].is_string(), "{plan:#}");
    let same = pgseal.json(&[
        "restore",
        "latest",
        "--to",
        &source.url,
        "--mode",
        "in-place",
        "--plan",
    ]);
    assert_eq!(same["locale_differences"], serde_json::json!([]));
    let copy = server.name("locale_copy");
    pgseal.ok(&["restore", "latest", "--to", &copy.url]);
    assert_same(
        &Content::of(server, &source.name),
        &Content::of(server, &copy.name),
    );
}

/// Row 133: pg_restore searches no schema, and the entry that this breaks is named.
#[test]
fn a_function_that_searches_a_schema_is_named() {
    let server = Postgres::shared();
    let source = server.create_database("searching");
    source.psql(
        "CREATE FUNCTION lowered(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT lower($1)'; \
         CREATE FUNCTION normal(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN lowered($1); END'; \
         CREATE TABLE words AS SELECT 'A'::text AS word; CREATE INDEX by_normal ON words (normal(word))",
    );
    let pgseal = backed_up(&source);
    let copy = server.name("searching_copy");
    let said = pgseal.fails(
        1,
        &["restore", "latest", "--to", &copy.url, "--mode", "new"],
    );
    assert!(
        said.contains("INDEX by_normal") && said.contains("function lowered(text) does not exist"),
        "{said}"
    );
    assert!(!copy.exists());
}

/// Row 124: an extension of somebody else's stays where it is, once that was accepted.
#[test]
fn what_the_role_may_not_do_is_left_out_when_that_was_accepted() {
    let server = Postgres::shared();
    server.psql("postgres", "DROP ROLE IF EXISTS left_app");
    server.psql("postgres", "CREATE ROLE left_app LOGIN PASSWORD 'left'");
    let database = server.create_database("left_out");
    server.psql(
        "postgres",
        &format!("ALTER DATABASE {} OWNER TO left_app", database.name),
    );
    database.psql(
        "CREATE EXTENSION hstore; SET ROLE left_app; CREATE TABLE t (h hstore); INSERT INTO t VALUES ('a=>1')",
    );
    let before = Content::of(server, &database.name);
    let pgseal = backed_up(&database);
    database.psql("DELETE FROM t");
    let url = server.url_as("left_app", "left", &database.name);
    let refused = plan(&pgseal, &["--to", &url, "--mode", "in-place"]);
    assert_eq!(refused["is_possible"], false);
    assert!(
        refused["left_out"].to_string().contains("EXTENSION hstore"),
        "{refused:#}"
    );
    assert!(
        refused["obstacles"]
            .to_string()
            .contains("--accept-left-out")
    );
    pgseal.fails(
        5,
        &["restore", "latest", "--to", &url, "--mode", "in-place"],
    );
    pgseal.ok(&[
        "restore",
        "latest",
        "--to",
        &url,
        "--mode",
        "in-place",
        "--accept-left-out",
    ]);
    assert_same(&before, &Content::of(server, &database.name));
    drop(database);
    server.psql("postgres", "DROP ROLE left_app");
}

/// Row 91: what a low role put into the database runs when its rows are loaded, but with no more than the rights of the
/// role that restores, which need not be a superuser's.
#[test]
fn code_in_a_backup_gets_no_rights_from_a_restore() {
    let server = Postgres::shared();
    server.psql(
        "postgres",
        "DROP ROLE IF EXISTS hostile; DROP ROLE IF EXISTS honest",
    );
    server.psql(
        "postgres",
        "CREATE ROLE honest LOGIN CREATEDB PASSWORD 'honest'; CREATE ROLE hostile",
    );
    server.psql("postgres", "GRANT hostile TO honest");
    let source = server.create_database("hostile");
    server.psql(
        "postgres",
        &format!("ALTER DATABASE {} OWNER TO honest", source.name),
    );
    source.psql(
        "CREATE SCHEMA evil AUTHORIZATION hostile; SET ROLE hostile; \
         CREATE FUNCTION evil.rise(integer) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN \
            BEGIN EXECUTE 'ALTER ROLE hostile SUPERUSER'; EXCEPTION WHEN OTHERS THEN NULL; END; RETURN true; END $$; \
         CREATE TABLE evil.t (i integer CHECK (evil.rise(i))); INSERT INTO evil.t VALUES (1)",
    );
    let mut pgseal = Pgseal::new();
    pgseal.ok(&["backup", &server.url_as("honest", "honest", &source.name)]);
    pgseal.set("DATABASE_URL", &source.url);
    let copy = server.name("hostile_copy");
    for (name, mode) in [
        (&copy.name, "new"),
        (&source.name, "in-place"),
        (&source.name, "swap"),
    ] {
        let url = server.url_as("honest", "honest", name);
        let restored = pgseal.json(&["restore", "latest", "--to", &url, "--mode", mode]);
        assert_eq!(restored["rows_compared"], 1, "it ran");
        let risen =
            "SELECT count(*) FROM pg_roles WHERE rolsuper AND rolname IN ('hostile', 'honest')";
        assert_eq!(server.psql("postgres", risen), "0", "{mode}");
        if let Some(kept) = restored["kept_database"].as_str() {
            drop(server.exactly(kept));
        }
    }
    drop((source, copy));
    server.psql("postgres", "DROP ROLE hostile; DROP ROLE honest");
}

/// Another database's backup, one without some tables' rows, one that looks wrong, one that a drill could not restore: the plan
/// says so, and the restore does.
#[test]
fn what_speaks_against_a_backup_is_said_before_and_after() {
    let server = Postgres::shared();
    let (shop, blog) = (
        server.create_database("shop"),
        server.create_database("blog"),
    );
    shop.psql("CREATE TABLE orders AS SELECT generate_series(1, 500) AS i; CREATE TABLE audit AS SELECT generate_series(1, 9) AS i");
    blog.psql("CREATE TABLE posts AS SELECT 1 AS i");
    let pgseal = backed_up(&shop);
    let warned = |to: &Database<'_>, words: &[&str]| {
        let planned = plan(&pgseal, &["--to", &to.url])["warnings"].to_string();
        let restored = pgseal.json(&["restore", "latest", "--to", &to.url, "--mode", "in-place"]);
        for said in [planned, restored["warnings"].to_string()] {
            let all = words.iter().all(|word| said.contains(word));
            assert!(
                all && (!words.is_empty() || said == "[]"),
                "{words:?}: {said}"
            );
        }
    };
    warned(&shop, &[]);
    let of_another = format!(
        "the backup is of database {}, and takes the place",
        shop.name
    );
    warned(&blog, &[&of_another]);

    let lazy = clients(
        None,
        Some("case \"$*\" in *--dbname=*) cat >/dev/null; exit 0;; esac; exec \"$REAL\" \"$@\""),
    );
    let mut drilling = Pgseal::new();
    drilling.set("BACKUP_STORE", pgseal.get("BACKUP_STORE"));
    drilling.with_clients(lazy.path());
    drilling.fails(4, &["drill", "latest", "--to", &server.url("postgres")]);
    warned(&shop, &["the last drill of this backup FAILED: "]);

    shop.psql("TRUNCATE orders");
    pgseal.ok(&["backup"]);
    warned(
        &shop,
        &["this backup is SUSPICIOUS: it has 9 rows, the one before had 509"],
    );
    pgseal.ok(&["accept", "latest"]);
    warned(&shop, &[]);

    pgseal.ok(&["backup", "--exclude-table-data", "audit"]);
    let left_out = ["the rows of audit are not in this backup"];
    warned(&shop, &left_out);
    assert_eq!(shop.psql("SELECT count(*) FROM audit"), "0");
    let drilled = pgseal.json(&["drill", "latest", "--to", &server.url("postgres")]);
    assert_eq!(drilled["verdict"], "PROVEN");
    assert!(
        drilled["warnings"].to_string().contains(left_out[0]),
        "{drilled}"
    );
    let shown = pgseal.json(&["show", "latest"]);
    assert_eq!(shown["excluded_table_data"], serde_json::json!(["audit"]));
    for command in [&["show", "latest"][..], &["list"]] {
        let said = pgseal.ok(command);
        assert!(said.contains("without the rows of"), "{said}");
    }
}

/// A target's backup is compared with those of its own target, also where it is restored into another one.
#[test]
fn what_looks_wrong_in_its_own_folder_is_said_of_another_target_too() {
    let server = Postgres::shared();
    let [shop, staging] =
        ["looked_shop", "looked_staging"].map(|name| server.create_database(name));
    shop.psql("CREATE TABLE orders AS SELECT generate_series(1, 500) AS i");
    let mut pgseal = Pgseal::new();
    pgseal.set("DATABASE_URL", server.url("postgres"));
    with_targets(
        &mut pgseal,
        &format!(
            "[targets.shop]\nurl = \"{}\"\n[targets.staging]\nurl = \"{}\"\n",
            shop.url, staging.url
        ),
    );
    let backup = || pgseal.ok(&["backup", "--target", "shop"]);
    backup();
    shop.psql("TRUNCATE orders");
    // Nor does a series of small ones look right at its end.
    for _ in 0..2 {
        backup();
    }
    let plan = plan(&pgseal, &["--target", "shop", "--to", "staging"]);
    let said = plan["warnings"].to_string();
    assert!(
        said.contains("SUSPICIOUS: it has 0 rows, the one before had 500"),
        "{said}"
    );
}
