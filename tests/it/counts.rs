//! Row counts come from the dump's own snapshot, beside the dump.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::harness::cli::{Pgseal, clients};
use crate::harness::equality::{Content, assert_same};
use crate::harness::fixture;
use crate::harness::postgres::{Database, Postgres};

/// Row 15: rows come and go while the dump is made.
#[test]
fn counts_are_equal_while_a_writer_keeps_inserting() {
    let server = Postgres::shared();
    let source = server.database_from("writer", &fixture("bulk.sql"), &["rows=20000"]);
    source.psql(
        "CREATE TABLE written (id bigserial PRIMARY KEY, at timestamptz DEFAULT clock_timestamp())",
    );
    let pgseal = Pgseal::new();
    let stop = AtomicBool::new(false);
    let rows = || {
        source
            .psql("SELECT count(*) FROM written")
            .parse::<u64>()
            .unwrap()
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                source.psql("INSERT INTO written SELECT FROM generate_series(1, 50); DELETE FROM events WHERE id = (SELECT max(id) FROM events)");
            }
        });
        while rows() == 0 {}
        for round in 0..4 {
            let before = rows();
            let made = pgseal.json(&["backup", &source.url]);
            let after = rows();
            assert!(after > before, "nothing was written meanwhile");
            let name = made["name"].as_str().unwrap();
            let shown = pgseal.json(&["show", name]);
            let counted = shown["tables"]
                .as_array()
                .unwrap()
                .iter()
                .find(|table| table["name"] == "written")
                .unwrap();
            let counted = counted["rows"].as_u64().unwrap();
            assert!(
                (before..=after).contains(&counted),
                "round {round}: {before} {counted} {after}"
            );
            let target = server.name("writer_copy");
            let restored = pgseal.json(&["restore", name, "--to", &target.url, "--mode", "new"]);
            assert_eq!(restored["rows_compared"], made["row_count"]);
            assert_eq!(
                target.psql("SELECT count(*) FROM written"),
                counted.to_string()
            );
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_dump_that_misses_rows_is_found_out() {
    let server = Postgres::shared();
    let source = server.create_database("misses");
    source.psql(
        "CREATE TABLE t AS SELECT generate_series(1, 100) i; CREATE TABLE u AS SELECT 1 AS one",
    );
    // A pg_dump that dumps a moment later than its snapshot says: rows are gone by then.
    let script = "for a do shift; case $a in --snapshot=*) ;; *) set -- \"$@\" \"$a\";; esac; done\n\
        PGOPTIONS='-c default_transaction_read_only=off' /usr/lib/postgresql/15/bin/psql -qXc 'DELETE FROM t WHERE i > 90'\n\
        exec \"$REAL\" \"$@\"";
    let programs = clients(Some(script), None);
    let mut pgseal = Pgseal::new();
    pgseal.with_clients(programs.path());
    let made = pgseal.json(&["backup", &source.url]);
    assert_eq!(made["row_count"], 101);
    let target = server.name("misses_copy");
    let said = pgseal.fails(
        1,
        &["restore", "latest", "--to", &target.url, "--mode", "new"],
    );
    assert!(
        said.contains("public.t has 90 rows, the backup 100"),
        "{said}"
    );
    // It does not get its name, and nothing of it stays.
    assert!(
        !server
            .databases()
            .iter()
            .any(|name| name.starts_with("misses_copy"))
    );
    // In place it is found out before the commit, so that nothing of it comes to be.
    source.psql("UPDATE u SET one = 2");
    let before = Content::of(server, &source.name);
    let said = pgseal.fails(
        1,
        &[
            "restore",
            "latest",
            "--to",
            &source.url,
            "--mode",
            "in-place",
        ],
    );
    assert!(
        said.contains("public.t has 90 rows, the backup 100")
            && said.contains("nothing was changed")
            && said.contains("backup_pre_restore_"),
        "{said}"
    );
    assert_same(&before, &Content::of(server, &source.name));
}

/// The same where the rows are those of partitions, which are counted together.
#[test]
fn a_partition_that_misses_rows_is_found_out_before_the_commit() {
    let server = Postgres::shared();
    let source = server.create_database("misses_part");
    source.psql(
        "CREATE TABLE p (i integer) PARTITION BY RANGE (i); CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (50);
         CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (50) TO (200); INSERT INTO p SELECT generate_series(0, 99)",
    );
    let script = "for a do shift; case $a in --snapshot=*) ;; *) set -- \"$@\" \"$a\";; esac; done\n\
        PGOPTIONS='-c default_transaction_read_only=off' /usr/lib/postgresql/15/bin/psql -qXc 'DELETE FROM p WHERE i > 95'\n\
        exec \"$REAL\" \"$@\"";
    let programs = clients(Some(script), None);
    let mut pgseal = Pgseal::new();
    pgseal.ok(&["backup", &source.url]);
    let whole = [
        "restore",
        "latest",
        "--to",
        &source.url,
        "--mode",
        "in-place",
    ];
    assert_eq!(pgseal.json(&whole)["rows_compared"], 100);
    pgseal.with_clients(programs.path());
    pgseal.ok(&["backup", &source.url]);
    let said = pgseal.fails(1, &whole);
    assert!(
        said.contains("all partitions together has 96 rows, the backup 100"),
        "{said}"
    );
}

#[test]
fn tables_whose_rows_were_left_out_are_not_counted() {
    let server = Postgres::shared();
    let source = server.create_database("excluded");
    source.psql("CREATE TABLE kept AS SELECT generate_series(1, 7) i; CREATE SCHEMA logs; CREATE TABLE logs.lines AS SELECT generate_series(1, 9) i");
    let mut pgseal = Pgseal::new();
    let made = pgseal.json(&["backup", &source.url, "--exclude-table-data", "logs.*"]);
    assert_eq!(
        (&made["table_count"], &made["row_count"]),
        (&1.into(), &7.into())
    );
    let target = server.name("excluded_copy");
    pgseal.ok(&["restore", "latest", "--to", &target.url, "--mode", "new"]);
    assert_eq!(
        target.psql("SELECT (SELECT count(*) FROM kept), (SELECT count(*) FROM logs.lines)"),
        "7|0"
    );

    pgseal.set("BACKUP_ROW_COUNTS", "off");
    let made = pgseal.json(&["backup", &source.url]);
    assert_eq!(
        (&made["table_count"], &made["row_count"]),
        (&2.into(), &serde_json::Value::Null)
    );
    let target = server.name("uncounted_copy");
    let restored = pgseal.json(&[
        "restore",
        made["name"].as_str().unwrap(),
        "--to",
        &target.url,
        "--mode",
        "new",
    ]);
    assert_eq!(restored["rows_compared"], serde_json::Value::Null);
    assert_eq!(target.psql("SELECT count(*) FROM logs.lines"), "9");
}

/// Hashes of an enum's values depend on their object ids, so that a restore may put rows into other partitions.
#[test]
fn rows_may_move_between_partitions_but_not_get_lost() {
    let server = Postgres::shared();
    let source = server.create_database("moves");
    source.psql(
        "CREATE TYPE mood AS ENUM ('a', 'b', 'c', 'd', 'e', 'f', 'g', 'h');
         CREATE TABLE p (m mood, i integer) PARTITION BY HASH (m);
         CREATE TABLE p0 PARTITION OF p FOR VALUES WITH (MODULUS 2, REMAINDER 0);
         CREATE TABLE p1 PARTITION OF p FOR VALUES WITH (MODULUS 2, REMAINDER 1);
         INSERT INTO p SELECT m, i FROM unnest(enum_range(NULL::mood)) m, generate_series(1, 100) i",
    );
    let pgseal = Pgseal::new();
    pgseal.ok(&["backup", &source.url]);
    let spread = |database: &Database<'_>| database.psql("SELECT count(*) FROM p0");
    let mut spreads = std::collections::BTreeSet::from([spread(&source)]);
    for _ in 0..10 {
        let target = server.name("moves_copy");
        let restored = pgseal.json(&["restore", "latest", "--to", &target.url, "--mode", "new"]);
        assert_eq!(restored["rows_compared"], 800);
        assert_eq!(target.psql("SELECT count(*) FROM p"), "800");
        spreads.insert(spread(&target));
    }
    assert!(
        spreads.len() > 1,
        "no row moved, so nothing was tested: {spreads:?}"
    );
}
