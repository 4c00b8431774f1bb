//! What restores set aside: brought back, listed, dropped, and never taken for what it is not.

use crate::harness::cli::Pgseal;
use crate::harness::equality::{Content, assert_same};
use crate::harness::postgres::{Database, Postgres};
use crate::swap::Kept;

fn swap(pgseal: &Pgseal, to: &Database<'_>) -> String {
    let restored = pgseal.json(&[
        "restore",
        "latest",
        "--to",
        &to.url,
        "--mode",
        "swap",
        "--no-safety-backup",
        "--confirm",
        &to.name,
    ]);
    restored["restore_id"].as_str().unwrap().to_owned()
}

fn with_backup(database: &Database<'_>) -> Pgseal {
    database.psql("CREATE TABLE t AS SELECT 1 AS n");
    let mut pgseal = Pgseal::new();
    pgseal.set("DATABASE_URL", &database.url);
    pgseal.ok(&["backup"]);
    pgseal
}

/// Where more than one could be meant, none is chosen; where the live one is gone, the kept one still comes back.
#[test]
fn one_is_chosen_or_none() {
    let server = Postgres::shared();
    let database = server.create_database("chosen");
    let kept = Kept(server, &database.name);
    let pgseal = with_backup(&database);
    let said = pgseal.fails(3, &["rollback"]);
    assert!(said.contains("pgseal kept list"), "{said}");

    database.psql("UPDATE t SET n = 2");
    let first = swap(&pgseal, &database);
    database.psql("UPDATE t SET n = 3");
    let second = swap(&pgseal, &database);
    let said = pgseal.fails(3, &["rollback"]);
    assert!(
        said.contains(&first) && said.contains(&second) && said.contains("--id"),
        "{said}"
    );
    let said = pgseal.fails(3, &["rollback", "--id", "00000000"]);
    assert!(said.contains("00000000"), "{said}");
    pgseal.fails(2, &["rollback", "--id", "x"]);
    assert_eq!(database.psql("SELECT n FROM t"), "1");
    pgseal.ok(&["rollback", "--id", &first]);
    assert_eq!(database.psql("SELECT n FROM t"), "2");

    let listed = pgseal.json(&["kept", "list"]);
    let mine: Vec<(&str, &str)> = listed
        .as_array()
        .unwrap()
        .iter()
        .filter(|line| line["database"] == database.name.as_str())
        .map(|line| {
            (
                line["kept_as"].as_str().unwrap(),
                line["id"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        mine,
        [("before", second.as_str()), ("undone", first.as_str())]
    );
    assert!(listed[0]["size_bytes"].as_u64().unwrap() > 1 << 20);

    server.psql("postgres", &format!("DROP DATABASE {}", database.name));
    let back = pgseal.json(&["rollback"]);
    assert_eq!(back["kept_database"], serde_json::Value::Null);
    assert_eq!(database.psql("SELECT n FROM t"), "3");
    assert_eq!(kept.names().len(), 1);
}

/// Only what has a record of ours, under the name that the record says, is listed, rolled back to, or dropped; and not while
/// somebody is in it, or while its database is being restored.
#[test]
fn what_is_not_ours_is_never_dropped() {
    let server = Postgres::shared();
    let database = server.create_database("ours");
    let kept = Kept(server, &database.name);
    let pgseal = with_backup(&database);
    let id = swap(&pgseal, &database);
    let ours = format!("{}_before_{id}", database.name);
    let comment = server.psql(
        "postgres",
        &format!(
            "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = '{ours}'"
        ),
    );
    // Somebody's own: by its name alone, with another comment, with a copy of the record.
    let strangers = [
        (format!("{}_before_0123abcd", database.name), None),
        (
            format!("{}__restore_0123abce", database.name),
            Some("mine".to_owned()),
        ),
        (format!("{}_undone_0123abcf", database.name), Some(comment)),
    ];
    for (name, comment) in &strangers {
        server.psql("postgres", &format!("CREATE DATABASE {name}"));
        if let Some(comment) = comment {
            server.psql(
                "postgres",
                &format!("COMMENT ON DATABASE {name} IS '{comment}'"),
            );
        }
    }
    let listed = pgseal.json(&["kept", "list"]).to_string();
    for (name, _) in &strangers {
        assert!(!listed.contains(name.as_str()), "{listed}");
        let said = pgseal.fails(3, &["kept", "drop", name]);
        assert!(said.contains("no database that a restore made"), "{said}");
    }
    for name in [&database.name, "postgres"] {
        pgseal.fails(3, &["kept", "drop", name]);
    }
    let mut somebody = server.client("psql", &ours);
    let mut somebody = somebody
        .args(["-X", "-c", "SELECT pg_sleep(100)"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    while server.psql(
        "postgres",
        &format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{ours}'"),
    ) != "1"
    {}
    let said = pgseal.fails(1, &["kept", "drop", &ours]);
    assert!(said.contains("being accessed"), "{said}");
    server.terminate_sessions(&ours, "psql");
    somebody.wait().unwrap();
    let inside = format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{ours}'");
    while server.psql("postgres", &inside) != "0" {}
    pgseal.ok(&["kept", "drop", &ours]);
    assert_eq!(kept.names().len(), strangers.len());
    assert_eq!(database.psql("SELECT n FROM t"), "1");
}

/// What hangs on the restored database by now would be left behind: the rollback names it and changes nothing.
#[test]
fn a_rollback_leaves_nothing_behind_unsaid() {
    let server = Postgres::shared();
    let database = server.create_database("hung");
    let _kept = Kept(server, &database.name);
    let pgseal = with_backup(&database);
    swap(&pgseal, &database);
    let before = Content::of(server, &database.name);
    database.psql("SELECT pg_create_logical_replication_slot('rollback_slot', 'pgoutput')");
    let said = pgseal.fails(5, &["rollback"]);
    assert!(said.contains("rollback_slot"), "{said}");
    assert_same(&before, &Content::of(server, &database.name));
    database.psql("SELECT pg_drop_replication_slot('rollback_slot')");
    pgseal.ok(&["rollback"]);
}
