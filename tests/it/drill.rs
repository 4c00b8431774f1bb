//! Drills: restored for trial, compared, dropped; the verdict stays with the backup.

use rustix::process::Signal;
use serde_json::json;

use crate::harness::api::Api;
use crate::harness::cli::{Pgseal, clients};
use crate::harness::fixture;
use crate::harness::postgres::{Postgres, bin_dir_of};
use crate::harness::redis::RedisDatabase;
use crate::harness::rq::Rq;
use crate::harness::service::Service;
use crate::harness::somebody::until;

/// Databases that were there before, and none of a drill's.
fn nothing_is_left(server: &Postgres, of: &str) {
    let left: Vec<String> = server.databases();
    assert!(
        !left
            .iter()
            .any(|name| name.starts_with(&format!("{of}_drill_"))),
        "{left:?}"
    );
}

#[test]
fn a_drill_proves_a_backup_and_leaves_nothing() {
    let server = Postgres::shared();
    let source = server.database_from("drilled", &fixture("life.sql"), &[]);
    // Its roles are not there, and are not there afterwards.
    let scratch = Postgres::start_major(15);
    let roles = || scratch.psql("postgres", "SELECT rolname FROM pg_roles ORDER BY 1");
    let (databases, before) = (scratch.databases(), roles());
    let mut pgseal = Pgseal::new();
    let made = pgseal.json(&["backup", &source.url]);
    assert_eq!(pgseal.json(&["list"])[0]["proof"], json!(null));

    let to = scratch.url("postgres");
    let drilled = pgseal.json(&["drill", "latest", "--to", &to]);
    assert_eq!(drilled["verdict"], "PROVEN", "{drilled}");
    assert_eq!(drilled["backup"], made["name"]);
    assert_eq!(drilled["rows_compared"], made["row_count"]);
    assert_eq!(drilled["tables_compared"], made["table_count"]);
    assert_eq!(drilled["contents_compared"], false);
    assert!(drilled["seconds"].as_f64().unwrap() > 0.0);
    assert_eq!((scratch.databases(), roles()), (databases, before));

    // It is known wherever the backup is, also from memory.
    for _ in 0..2 {
        let listed = pgseal.json(&["list"]);
        assert_eq!(listed.as_array().unwrap().len(), 1);
        assert_eq!(listed[0]["proof"]["verdict"], "PROVEN");
        assert_eq!(listed[0]["proof"]["rows"], made["row_count"]);
    }
    assert!(pgseal.ok(&["list"]).contains("PROVEN 0 min ago"));
    assert!(pgseal.ok(&["show", "latest"]).contains("PROVEN, "));

    // What has no digests cannot be proved by them, which says nothing against it.
    pgseal.set("BACKUP_DRILL_DATABASE_URL", &to);
    let asked = pgseal.run(&["drill", "latest", "--digests", "--json"]);
    assert_eq!(asked.code, 5, "{asked}");
    let said = String::from_utf8(asked.stdout).unwrap();
    assert!(
        said.contains("UNVERIFIABLE") && said.contains("BACKUP_ROW_COUNTS=digests"),
        "{said}"
    );
    // Nothing was tried, and what was proved stays so.
    assert_eq!(pgseal.json(&["list"])[0]["proof"]["verdict"], "PROVEN");

    // It goes with its backup.
    pgseal.ok(&["delete", "latest"]);
    assert_eq!(pgseal.stored(), Vec::<String>::new());
}

#[test]
fn contents_are_compared_where_they_were_digested() {
    // Its own, because settings of the role that everybody has would be seen by other tests.
    let server = &Postgres::start_major(15);
    let source = server.database_from("digested", &fixture("life.sql"), &[]);
    source.psql("CREATE TABLE whole (whole text, r int); INSERT INTO whole VALUES ('as it was', 1), (NULL, 2); \
        ALTER TABLE whole REPLICA IDENTITY FULL; CREATE TABLE bare (); INSERT INTO bare DEFAULT VALUES");
    // One value of one row is another one, and there are as many rows as there were.
    let script = "\"$REAL\" \"$@\" || exit 1\n\
        for a do case $a in --dbname=*) /usr/lib/postgresql/15/bin/psql -qX \"${a#--dbname=}\" -c \"$CHANGE\" || exit 1;; esac; done";
    let change = "UPDATE public.whole SET whole = 'as it is' WHERE r = 1";
    let programs = clients(None, Some(&script.replace("$CHANGE", change)));
    let mut pgseal = Pgseal::new();
    pgseal.set("BACKUP_ROW_COUNTS", "digests");
    pgseal.set("BACKUP_DRILL_DATABASE_URL", server.url("postgres"));
    pgseal.json(&["backup", &source.url]);

    // Settings of the role and the server that change how values look change nothing.
    server.psql("postgres", "ALTER ROLE postgres SET datestyle = 'German'; ALTER ROLE postgres SET extra_float_digits = 0");
    let drilled = pgseal.json(&["drill", "latest", "--digests"]);
    server.psql("postgres", "ALTER ROLE postgres RESET ALL");
    assert_eq!(drilled["verdict"], "PROVEN", "{drilled}");
    assert_eq!(drilled["contents_compared"], true);

    pgseal.with_clients(programs.path());
    let numbers = pgseal.json(&["drill", "latest"]);
    assert_eq!(numbers["verdict"], "PROVEN", "{numbers}");
    let contents = pgseal.run(&["drill", "latest", "--digests", "--json"]);
    assert_eq!(contents.code, 4, "{contents}");
    let said = String::from_utf8(contents.stdout).unwrap();
    assert!(
        said.contains("public.whole has as many rows as the backup, but not the same content"),
        "{said}"
    );
    nothing_is_left(server, &source.name);
}

/// Rows 93, 124 and 133: what a drill finds out, each by its verdict.
#[test]
fn what_cannot_be_restored_is_failed_and_what_cannot_be_told_is_not() {
    let server = Postgres::shared();
    let mut pgseal = Pgseal::new();
    pgseal.set("BACKUP_DRILL_DATABASE_URL", server.url("postgres"));
    let verdict = |pgseal: &Pgseal, code: i32| {
        let drilled = pgseal.run(&["drill", "latest", "--json"]);
        assert_eq!(drilled.code, code, "{drilled}");
        let drilled: serde_json::Value = serde_json::from_slice(&drilled.stdout).unwrap();
        let listed = pgseal.json(&["list"]);
        assert_eq!(listed[0]["proof"]["verdict"], drilled["verdict"]);
        nothing_is_left(server, "drill_");
        (
            drilled["verdict"].as_str().unwrap().to_owned(),
            drilled["reason"].as_str().unwrap_or_default().to_owned(),
        )
    };

    // A pg_restore that ends well and did nothing.
    let source = server.create_database("drill_nothing");
    source.psql("CREATE TABLE t AS SELECT generate_series(1, 9) AS i");
    pgseal.json(&["backup", &source.url]);
    let lazy = clients(
        None,
        Some("case \"$*\" in *--dbname=*) cat >/dev/null; exit 0;; esac; exec \"$REAL\" \"$@\""),
    );
    pgseal.with_clients(lazy.path());
    let (word, reason) = verdict(&pgseal, 4);
    assert!(
        word == "FAILED" && reason.contains("public.t is missing"),
        "{word}: {reason}"
    );

    // A function that works by a search_path that no restore has: the entry that fails is named.
    let mut pgseal = Pgseal::new();
    pgseal.set("BACKUP_DRILL_DATABASE_URL", server.url("postgres"));
    let source = server.create_database("drill_path");
    source.psql(
        "CREATE FUNCTION public.one() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1'; \
         CREATE FUNCTION public.two(i int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN one() + i; END'; \
         CREATE TABLE t AS SELECT 1 AS i; CREATE INDEX by_two ON t (public.two(i))",
    );
    pgseal.json(&["backup", &source.url]);
    let (word, reason) = verdict(&pgseal, 4);
    assert!(
        word == "FAILED" && reason.contains("by_two") && reason.contains("one()"),
        "{word}: {reason}"
    );

    // A server without the extension.
    let source = server.create_database("drill_extension");
    source.psql("CREATE EXTENSION hstore");
    pgseal.json(&["backup", &source.url]);
    let poor = Postgres::shared_of(16);
    pgseal.set("BACKUP_PG_BINDIRS", bin_dir_of(16));
    pgseal.set("BACKUP_DRILL_DATABASE_URL", poor.url("postgres"));
    let (word, reason) = verdict(&pgseal, 5);
    assert!(
        word == "UNVERIFIABLE" && reason.contains("hstore"),
        "{word}: {reason}"
    );

    // A server that was built without something that the backup has.
    let mut with_xml = Pgseal::new();
    let source = server.create_database("drill_xml");
    source.psql("CREATE TABLE t (x xml); INSERT INTO t VALUES ('<a/>')");
    with_xml.json(&["backup", &source.url]);
    let plain = Postgres::shared_of(18);
    with_xml.set("BACKUP_PG_BINDIRS", bin_dir_of(18));
    with_xml.set("BACKUP_DRILL_DATABASE_URL", plain.url("postgres"));
    let (word, reason) = verdict(&with_xml, 5);
    assert!(
        word == "UNVERIFIABLE" && reason.contains("XML"),
        "{word}: {reason}"
    );

    // A server that is not there says nothing at all, and the verdict stays.
    pgseal.set(
        "BACKUP_DRILL_DATABASE_URL",
        "postgres://postgres@127.0.0.1:1/postgres",
    );
    pgseal.fails(5, &["drill", "latest"]);
    assert_eq!(
        pgseal.json(&["list"])[0]["proof"]["verdict"],
        "UNVERIFIABLE"
    );

    // Damage.
    let mut pgseal = Pgseal::new();
    pgseal.set("BACKUP_DRILL_DATABASE_URL", server.url("postgres"));
    let made = pgseal.json(&["backup", &source.url]);
    let object = pgseal.store().join(made["object_key"].as_str().unwrap());
    let mut bytes = std::fs::read(&object).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&object, bytes).unwrap();
    let (word, reason) = verdict(&pgseal, 4);
    assert!(
        word == "FAILED" && reason.contains("its SHA-256 is"),
        "{word}: {reason}"
    );
}

#[test]
fn a_drill_that_is_ended_drops_its_database() {
    let server = Postgres::shared();
    let source = server.create_database("drill_ended");
    source.psql("CREATE TABLE t AS SELECT 1 AS i");
    let mut pgseal = Pgseal::new();
    pgseal.set("BACKUP_DRILL_DATABASE_URL", server.url("postgres"));
    pgseal.json(&["backup", &source.url]);
    let marker = pgseal.file("loading");
    let script = format!(
        "case \"$*\" in *--dbname=*) touch '{}'; exec sleep 60;; esac; exec \"$REAL\" \"$@\"",
        marker.display()
    );
    let slow = clients(None, Some(&script));
    pgseal.with_clients(slow.path());
    let running = pgseal.start(&["drill", "latest"]);
    until("the load", || marker.exists());
    running.signal(Signal::TERM);
    assert_eq!(running.wait().code, 143);
    assert!(
        !server
            .databases()
            .iter()
            .any(|name| name.starts_with("drill_ended__"))
    );
    assert_eq!(pgseal.json(&["list"])[0]["proof"], json!(null));
}

#[test]
fn a_drill_s_job_writes_its_verdict_into_the_catalog() {
    let mut service = Service::start();
    let scratch = Postgres::shared();
    service
        .pgseal
        .set("BACKUP_DRILL_DATABASE_URL", scratch.url("postgres"));
    let api = Api::of(service);
    let made = api.json(202, "POST", "/api/admin/backups", "");
    api.service.burst();
    let id = made["id"].as_i64().unwrap();
    let path = format!("/api/admin/backups/{id}");
    assert_eq!(api.json(200, "GET", &path, "")["proof"], "unproven");

    let asked = api.json(202, "POST", &format!("{path}/drill"), "");
    api.service.burst();
    assert_eq!(
        api.service.job_status(asked["job_id"].as_str().unwrap()),
        "finished"
    );
    let record = api.json(200, "GET", &path, "");
    assert_eq!(
        (&record["proof"], &record["health"]),
        (&json!("PROVEN"), &json!("ok"))
    );
    assert!(api.service.backup(id, "proof_seconds > 0").contains('t'));
    let metrics = String::from_utf8(api.ask("GET", "/metrics", "").body).unwrap();
    assert!(
        metrics.contains("\npgseal_last_proof_age_seconds{"),
        "{metrics}"
    );
    nothing_is_left(scratch, &api.service.database.name);

    // The verdict is in the store: a catalog that is lost gets it back.
    let at = api.service.backup(id, "proof_at");
    api.service.catalog.psql("DROP SCHEMA pgseal CASCADE");
    api.service.pgseal.ok(&["migrate"]);
    api.service.pgseal.ok(&["catalog", "rebuild"]);
    assert_eq!(api.service.backup(id, "proof"), "PROVEN");
    assert_eq!(api.service.backup(id, "proof_at"), at);
}

/// Whoever enqueues a drill without naming a backup means the one whose turn it is.
#[test]
fn the_next_drill_is_that_of_the_newest_unproven() {
    let mut service = Service::start();
    service.pgseal.set(
        "BACKUP_DRILL_DATABASE_URL",
        Postgres::shared().url("postgres"),
    );
    for _ in 0..2 {
        service.enqueue_backup();
        service.burst();
    }
    let order = || {
        service.catalog.psql("SELECT string_agg(id::text, ',' ORDER BY proof_at) FROM pgseal.backups WHERE proof = 'PROVEN'")
    };
    let mut seen = Vec::new();
    let url = format!("redis://127.0.0.1:{}/0", service.redis.port);
    let rq = Rq::start("2.12.0", &RedisDatabase::of(url));
    for _ in 0..3 {
        rq.ask(
            "enqueue",
            json!({"queue": "backups", "func": "app.workers.drill_jobs.run_drill"}),
        );
        service.burst();
        seen.push(order());
    }
    assert_eq!(seen, ["2", "2,1", "1,2"]);
}
