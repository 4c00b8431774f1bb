//! Every way to restore, and the way back, on every major version: as a superuser, as the database's owner, and as a role
//! that may do some of what an owner may.

use crate::harness::cli::Pgseal;
use crate::harness::equality::{Content, assert_same};
use crate::harness::postgres::{Database, MAJORS, Postgres};
use crate::majors::{lively, pgseal_with};
use crate::swap::{Kept, properties};

/// Swap, back, forth, in place and new; each time the content is one of the two.
fn every_way(server: &Postgres, live: &Database<'_>, url: &str, pgseal: &mut Pgseal, change: &str) {
    let kept = Kept(server, &live.name);
    pgseal.set("DATABASE_URL", url);
    let made = pgseal.json(&["backup"]);
    let backup = Content::of(server, &live.name);
    let facts = properties(server, &live.name);
    live.psql(change);
    let later = Content::of(server, &live.name);
    assert!(backup.difference(&later).is_some());
    let restore = |mode: &str, to: &str| {
        let restored = pgseal.json(&[
            "restore",
            made["name"].as_str().unwrap(),
            "--to",
            to,
            "--mode",
            mode,
        ]);
        assert_eq!(restored["mode"], mode);
        assert_eq!(restored["rows_compared"], made["row_count"], "{mode}");
        assert_eq!(restored["warnings"], serde_json::json!([]), "{mode}");
        restored
    };

    let swapped = restore("swap", url);
    assert_same(&backup, &Content::of(server, &live.name));
    assert_eq!(properties(server, &live.name), facts);
    let id = swapped["restore_id"].as_str().unwrap();
    pgseal.ok(&["rollback"]);
    assert_same(&later, &Content::of(server, &live.name));
    pgseal.ok(&["rollback", "--id", id]);
    assert_same(&backup, &Content::of(server, &live.name));
    pgseal.ok(&["rollback"]);
    assert_same(&later, &Content::of(server, &live.name));

    restore("in-place", url);
    assert_same(&backup, &Content::of(server, &live.name));
    let beside = server.name("every_way_new");
    let (to, _) = url.rsplit_once('/').unwrap();
    restore("new", &format!("{to}/{}", beside.name));
    assert_same(&backup, &Content::of(server, &beside.name));
    assert_eq!(kept.names().len(), 1);
}

fn as_superuser(major: u32) {
    let server = Postgres::shared_of(major);
    let live = lively(server, "every_way");
    let mut more = format!(
        "CREATE ROLE reads_{major}; GRANT SELECT ON shop.types TO reads_{major};
         ALTER DATABASE {} SET work_mem = '7MB'; GRANT CREATE ON DATABASE {0} TO reads_{major};",
        live.name
    );
    if major >= 17 {
        more.push_str(&format!(
            "GRANT MAINTAIN ON shop.types TO reads_{major} WITH GRANT OPTION;"
        ));
    }
    live.psql(&more);
    let mut pgseal = pgseal_with(&MAJORS);
    let url = live.url.clone();
    let change = "DROP TABLE shop.orders CASCADE; TRUNCATE shop.types; INSERT INTO novelties.parent VALUES (2)";
    every_way(server, &live, &url, &mut pgseal, change);
    if major >= 17 {
        assert_eq!(
            live.psql(&format!(
                "SELECT has_table_privilege('reads_{major}', 'shop.types', 'MAINTAIN')"
            )),
            "t"
        );
    }
    drop(live);
    server.psql("postgres", &format!("DROP ROLE reads_{major}"));
}

#[test]
fn a_superuser_goes_every_way_on_15() {
    as_superuser(15);
}

#[test]
fn a_superuser_goes_every_way_on_16() {
    as_superuser(16);
}

#[test]
fn a_superuser_goes_every_way_on_17() {
    as_superuser(17);
}

#[test]
fn a_superuser_goes_every_way_on_18() {
    as_superuser(18);
}

/// A database with the builtin provider is made with it again, by a swap too.
#[test]
fn a_swap_keeps_the_locale_s_provider() {
    for (major, locale) in [(17, "C.UTF-8"), (18, "PG_UNICODE_FAST")] {
        let server = Postgres::shared_of(major);
        let live = server.name("provider");
        server.psql(
            "postgres",
            &format!(
                "CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8' LOCALE_PROVIDER builtin BUILTIN_LOCALE '{locale}'",
                live.name
            ),
        );
        live.psql("CREATE TABLE t (v text PRIMARY KEY); INSERT INTO t VALUES ('é'), ('Ä'), ('z')");
        let provider = format!(
            "SELECT datlocprovider, datlocale FROM pg_database WHERE datname = '{}'",
            live.name
        );
        let url = live.url.clone();
        every_way(
            server,
            &live,
            &url,
            &mut pgseal_with(&MAJORS),
            "DELETE FROM t WHERE v = 'z'",
        );
        assert_eq!(server.psql("postgres", &provider), format!("b|{locale}"));
    }
}

/// A role that owns the database and may create others, and nothing more.
#[test]
fn an_owner_goes_every_way_on_every_major() {
    for major in MAJORS {
        let server = Postgres::shared_of(major);
        let role = format!("owns_{major}");
        server.psql(
            "postgres",
            &format!("CREATE ROLE {role} LOGIN CREATEDB PASSWORD 'dummy'"),
        );
        let live = server.create_database("owned");
        server.psql(
            "postgres",
            &format!("ALTER DATABASE {} OWNER TO {role}", live.name),
        );
        let url = server.url_as(&role, "dummy", &live.name);
        live.psql(&format!(
            "SET SESSION AUTHORIZATION {role};
             CREATE SCHEMA shop; CREATE TABLE shop.t (id serial PRIMARY KEY, v text CHECK (v <> ''));
             INSERT INTO shop.t (v) SELECT 'v' || i FROM generate_series(1, 50) i;
             CREATE VIEW seen AS SELECT id FROM shop.t; CREATE MATERIALIZED VIEW summed AS SELECT count(*) FROM shop.t;
             CREATE FUNCTION one() RETURNS integer LANGUAGE sql AS 'SELECT 1';
             CREATE TABLE parts (i integer) PARTITION BY RANGE (i); CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
             INSERT INTO parts SELECT generate_series(0, 9); SELECT lo_from_bytea(77, 'abc');
             ALTER DEFAULT PRIVILEGES IN SCHEMA shop GRANT SELECT ON TABLES TO PUBLIC; GRANT SELECT ON shop.t TO PUBLIC"
        ));
        let mut pgseal = pgseal_with(&MAJORS);
        every_way(
            server,
            &live,
            &url,
            &mut pgseal,
            "TRUNCATE shop.t; DROP VIEW seen; SELECT lo_unlink(77)",
        );
        drop(live);
        server.psql(
            "postgres",
            &format!("DROP OWNED BY {role}; DROP ROLE {role}"),
        );
    }
}

/// From 16 on, a member may be one that must not become the role: what it cannot give to that role is said before anything
/// is begun, with the SQL that lets it.
#[test]
fn a_member_that_may_not_become_the_owner_is_told_first() {
    for major in [16, 17, 18] {
        let server = Postgres::shared_of(major);
        let (owner, member) = (format!("whole_{major}"), format!("half_{major}"));
        let live = server.create_database("half");
        let kept = Kept(server, &live.name);
        server.psql(
            "postgres",
            &format!(
                "CREATE ROLE {owner}; CREATE ROLE {member} LOGIN CREATEDB PASSWORD 'dummy';
                 GRANT {owner} TO {member} WITH INHERIT TRUE, SET FALSE; ALTER DATABASE {} OWNER TO {owner}",
                live.name
            ),
        );
        live.psql(&format!(
            "SET SESSION AUTHORIZATION {owner}; CREATE TABLE t AS SELECT 1 AS n"
        ));
        let url = server.url_as(&member, "dummy", &live.name);
        let mut pgseal = pgseal_with(&MAJORS);
        pgseal.set("DATABASE_URL", &url);
        pgseal.ok(&["backup"]);
        live.psql("UPDATE t SET n = 2");
        let stored = pgseal.stored();
        let grant = format!("GRANT \"{owner}\" TO \"{member}\";");
        for mode in ["swap", "in-place"] {
            let said = pgseal.fails(5, &["restore", "latest", "--to", &url, "--mode", mode]);
            assert!(said.contains(&grant), "{said}");
        }
        assert_eq!(pgseal.stored(), stored, "no safety backup was begun");
        assert_eq!(live.psql("SELECT n FROM t"), "2");
        server.psql("postgres", &grant.replace(';', " WITH SET TRUE"));
        pgseal.ok(&["restore", "latest", "--to", &url, "--mode", "swap"]);
        assert_eq!(
            live.psql("SELECT n, tableowner FROM t, pg_tables WHERE tablename = 't'"),
            format!("1|{owner}")
        );
        assert_eq!(
            properties(server, &live.name).split('|').next(),
            Some(owner.as_str())
        );
        pgseal.ok(&["rollback"]);
        assert_eq!(live.psql("SELECT n FROM t"), "2");
        drop(kept);
        drop(live);
        server.psql(
            "postgres",
            &format!("DROP ROLE {member}; DROP ROLE {owner}"),
        );
    }
}

/// Roles that are missing are made by a role that may make roles, and given what is theirs, on every major.
#[test]
fn a_maker_of_roles_makes_and_maps_those_that_are_missing() {
    for major in MAJORS {
        let server = Postgres::shared_of(major);
        let (maker, lost, heir) = (
            format!("maker_{major}"),
            format!("lost_{major}"),
            format!("heir_{major}"),
        );
        server.psql(
            "postgres",
            &format!(
                "CREATE ROLE {maker} LOGIN CREATEDB CREATEROLE PASSWORD 'dummy'; CREATE ROLE {lost}; CREATE ROLE {heir}; GRANT {heir} TO {maker}"
            ),
        );
        let live = server.create_database("made_by");
        let kept = Kept(server, &live.name);
        server.psql(
            "postgres",
            &format!("ALTER DATABASE {} OWNER TO {maker}", live.name),
        );
        let url = server.url_as(&maker, "dummy", &live.name);
        live.psql(&format!(
            "CREATE SCHEMA s; ALTER SCHEMA s OWNER TO {lost}; CREATE TABLE s.t AS SELECT 1 AS n; ALTER TABLE s.t OWNER TO {lost}"
        ));
        let pgseal = pgseal_with(&MAJORS);
        // As a superuser, since nobody else may read what is not his.
        pgseal.ok(&["backup", &live.url]);
        live.psql(&format!("DROP SCHEMA s CASCADE; DROP ROLE {lost}"));
        let owner = "SELECT tableowner FROM pg_tables WHERE tablename = 't'";
        let map = format!("{lost}={heir}");
        for (choice, becomes) in [
            (["--map-role", &map].as_slice(), &heir),
            (&["--create-missing-roles"], &lost),
        ] {
            let arguments = [
                [
                    "restore",
                    "latest",
                    "--to",
                    &url,
                    "--mode",
                    "swap",
                    "--accept-left-out",
                ]
                .as_slice(),
                choice,
            ]
            .concat();
            pgseal.ok(&arguments);
            assert_eq!(live.psql(owner), **becomes, "{major}");
        }
        drop(kept);
        drop(live);
        server.psql(
            "postgres",
            &format!("DROP ROLE {maker}; DROP ROLE {heir}; DROP ROLE IF EXISTS {lost}"),
        );
    }
}
