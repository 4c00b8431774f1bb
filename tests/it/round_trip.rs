//! What goes in comes out: whole databases through backup, verification and restore, judged by their content.

use crate::harness::cli::{PASSPHRASE, Pgseal};
use crate::harness::equality::{Content, assert_same};
use crate::harness::fixture;
use crate::harness::gpg::Gpg;
use crate::harness::postgres::Postgres;
use crate::harness::s3::{self, S3Server};

#[test]
fn a_database_like_life_comes_back_into_a_new_one() {
    let server = Postgres::shared();
    let source = server.database_from("life", &fixture("life.sql"), &[]);
    let before = Content::of(server, &source.name);
    let mut pgseal = Pgseal::new();
    pgseal.set("DATABASE_URL", &source.url);

    let made = pgseal.json(&["backup", "--label", "reason=test", "--kind", "scheduled"]);
    assert_eq!(made["kind"], "scheduled");
    assert_eq!(made["labels"]["reason"], "test");
    assert_eq!(made["database"], source.name.as_str());
    let listed = pgseal.json(&["list"]);
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert_eq!(listed[0], made);
    pgseal.ok(&["verify", "latest"]);

    let target = server.name("life_copy");
    let restored = pgseal.json(&["restore", "latest", "--to", &target.url, "--mode", "new"]);
    assert_eq!(restored["rows_compared"], made["row_count"]);
    assert_same(&before, &Content::of(server, &target.name));
    assert_eq!(pgseal.leftovers(), Vec::<String>::new());
}

#[test]
fn a_damaged_database_gets_everything_back_in_place() {
    let server = Postgres::shared();
    let database = server.database_from("in_place", &fixture("life.sql"), &[]);
    let before = Content::of(server, &database.name);
    let mut pgseal = Pgseal::new();
    pgseal.set("DATABASE_URL", &database.url);
    let made = pgseal.json(&["backup"]);

    database.psql("DROP TABLE shop.orders CASCADE; TRUNCATE shop.customers CASCADE; SELECT lo_unlink(oid) FROM pg_largeobject_metadata LIMIT 1");
    let damaged = Content::of(server, &database.name);
    assert!(before.difference(&damaged).is_some());
    let restored = pgseal.json(&[
        "restore",
        "latest",
        "--to",
        &database.url,
        "--mode",
        "in-place",
    ]);
    assert_same(&before, &Content::of(server, &database.name));

    // The safety backup is the damaged database, and can bring that back too.
    let safety = restored["safety_backup"].as_str().unwrap();
    assert_eq!(
        pgseal.json(&["show", safety])["labels"]["before_restore_of"],
        made["name"]
    );
    let undone = server.name("undone");
    pgseal.ok(&["restore", safety, "--to", &undone.url, "--mode", "new"]);
    assert_same(&damaged, &Content::of(server, &undone.name));
    // `latest` is never a safety backup.
    assert_eq!(pgseal.json(&["show", "latest"])["name"], made["name"]);
}

#[test]
fn an_empty_database_is_a_backup_too() {
    let server = Postgres::shared();
    let source = server.create_database("empty");
    let before = Content::of(server, &source.name);
    let pgseal = Pgseal::new();
    let made = pgseal.json(&["backup", &source.url]);
    assert_eq!(
        (&made["table_count"], &made["row_count"]),
        (&0.into(), &0.into())
    );
    let target = server.name("empty_copy");
    pgseal.ok(&["restore", "latest", "--to", &target.url, "--mode", "new"]);
    assert_same(&before, &Content::of(server, &target.name));
}

/// Rows 105, 106 and 107: a database is restored under such a name too.
#[test]
fn names_that_could_be_options_or_connection_strings_are_names() {
    let server = Postgres::shared();
    for odd in [
        "--file=x",
        "host=evil dbname=y",
        "postgresql://evil/x",
        "Größe 'q' \\ %41",
        "🐘",
    ] {
        let mut source = server.name("odd");
        source.name = odd.to_owned();
        source.url = server.url(odd);
        server.psql("postgres", &format!("DROP DATABASE IF EXISTS \"{odd}\""));
        server.psql("postgres", &format!("CREATE DATABASE \"{odd}\""));
        source.psql("CREATE TABLE t AS SELECT 42 AS answer");
        let pgseal = Pgseal::new();
        let made = pgseal.json(&["backup", &source.url]);
        assert_eq!(made["database"], odd);
        let mut target = server.name("odd_copy");
        target.name = format!("{odd} copy");
        target.url = server.url(&target.name);
        pgseal.ok(&["restore", "latest", "--to", &target.url, "--mode", "new"]);
        assert_eq!(target.psql("SELECT answer FROM t"), "42");
        source.psql("UPDATE t SET answer = 0");
        pgseal.ok(&[
            "restore",
            "latest",
            "--to",
            &source.url,
            "--mode",
            "in-place",
        ]);
        assert_eq!(source.psql("SELECT answer FROM t"), "42");
    }
}

#[test]
fn properties_of_the_database_itself_come_back() {
    let server = Postgres::shared();
    let source = server.create_database("props");
    let name = &source.name;
    source.psql(&format!(
        "ALTER DATABASE {name} SET search_path TO \"$user\", shop; ALTER DATABASE {name} SET app.mode TO 'it''s';
         ALTER DATABASE {name} CONNECTION LIMIT 17; COMMENT ON DATABASE {name} IS 'the shop''s';
         ALTER ROLE postgres IN DATABASE {name} SET work_mem TO '7MB'"
    ));
    server.psql("postgres", "CREATE ROLE props_owner");
    source.psql(&format!(
        "ALTER DATABASE {name} OWNER TO props_owner; REVOKE CONNECT ON DATABASE {name} FROM PUBLIC"
    ));
    let facts = |database: &str| {
        server.psql(
            "postgres",
            &format!(
                "SELECT pg_get_userbyid(d.datdba), d.datacl, d.datconnlimit, shobj_description(d.oid, 'pg_database'), pg_encoding_to_char(encoding), datcollate,
                 (SELECT array_agg(setrole || ' ' || setconfig::text ORDER BY setrole) FROM pg_db_role_setting WHERE setdatabase = d.oid)
                 FROM pg_database d WHERE datname = '{database}'"
            ),
        )
    };
    let pgseal = Pgseal::new();
    pgseal.ok(&["backup", &source.url]);
    let target = server.name("props_copy");
    pgseal.ok(&["restore", "latest", "--to", &target.url, "--mode", "new"]);
    assert_eq!(facts(&target.name), facts(name));
    assert!(facts(name).contains("7MB") && facts(name).contains("it's"));
    assert!(
        facts(name).starts_with("props_owner|{=T/props_owner"),
        "{}",
        facts(name)
    );
    drop((source, target));
    server.psql("postgres", "DROP ROLE props_owner");
}

#[test]
fn the_same_through_a_bucket() {
    through_a_bucket(|_| s3::Action::Pass);
}

/// Row 33: a whole backup and its restore, without a header that B2 refuses.
#[test]
fn the_same_through_a_bucket_like_backblaze() {
    through_a_bucket(s3::backblaze);
}

fn through_a_bucket(hook: impl FnMut(&s3::Call) -> s3::Action + Send + 'static) {
    let server = Postgres::shared();
    let source = server.database_from("bucket", &fixture("bulk.sql"), &["rows=100000"]);
    let before = Content::of(server, &source.name);
    let s3 = S3Server::start();
    s3.hook(hook);
    let mut pgseal = s3.pgseal();
    pgseal.set("DATABASE_URL", &source.url);

    let made = pgseal.json(&["backup"]);
    assert!(
        s3.calls("UploadPart") > 1,
        "the dump is too small to be sent in parts"
    );
    let key = made["object_key"].as_str().unwrap();
    assert_eq!(
        s3.objects(),
        [key.to_owned(), key.replace(".dump.gpg", ".manifest.gpg")]
    );
    assert_eq!(s3.unfinished(), Vec::<String>::new());
    pgseal.ok(&["verify", "latest"]);
    source.psql("DELETE FROM order_items");
    pgseal.ok(&[
        "restore",
        "latest",
        "--to",
        &source.url,
        "--mode",
        "in-place",
        "--no-safety-backup",
        "--confirm",
        &source.name,
    ]);
    assert_same(&before, &Content::of(server, &source.name));
    pgseal.ok(&["delete", key]);
    assert_eq!(s3.objects(), Vec::<String>::new());
    assert_eq!(pgseal.leftovers(), Vec::<String>::new());
}

/// The judge itself: whatever is damaged, it sees.
#[test]
fn every_damage_is_noticed() {
    let server = Postgres::shared();
    let database = server.database_from("judge", &fixture("life.sql"), &[]);
    let mut before = Content::of(server, &database.name);
    assert_same(&before, &Content::of(server, &database.name));
    for damage in [
        "DROP PUBLICATION everything",
        "UPDATE shop.types SET txt = txt || ' ' WHERE id = 1",
        "DELETE FROM shop.orders WHERE id = 1",
        "INSERT INTO public.no_columns SELECT FROM generate_series(1, 1)",
        "INSERT INTO shop.by_list VALUES ('eu', 1)",
        "UPDATE \"Größe & Gewicht\".\"select\" SET \"🐘\" = 3",
        "SELECT setval('shop.odd', 100)",
        "SELECT setval('shop.never_used', 1, false), setval('shop.never_used', 1)",
        "SELECT lo_put(424244, 100, '\\x00')",
        "COMMENT ON LARGE OBJECT 424242 IS 'another'",
        "DROP INDEX shop.orders_expression",
        "COMMENT ON SCHEMA shop IS 'another'",
        "REVOKE USAGE ON SCHEMA shop FROM pgseal_fixture_reader",
        "REFRESH MATERIALIZED VIEW shop.not_filled",
        "ALTER TABLE shop.secrets NO FORCE ROW LEVEL SECURITY",
        "DROP EXTENSION pgcrypto",
    ] {
        database.psql(damage);
        let after = Content::of(server, &database.name);
        assert!(before.difference(&after).is_some(), "not noticed: {damage}");
        before = after;
    }
}

/// Names are as the server has them in an archive: of a database that is not UTF-8 they are read, and it comes back, every way.
#[test]
fn a_database_that_is_not_utf_8_comes_back_with_its_names() {
    let server = Postgres::shared();
    for (encoding, name) in [("LATIN1", "café"), ("WIN1251", "жена"), ("EUC_JP", "日本")] {
        let source = server.name("not_utf_8");
        server.psql(
            "postgres",
            &format!(
                "CREATE DATABASE {} TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'",
                source.name
            ),
        );
        source.psql(&format!(
            "CREATE SCHEMA \"{name}s\"; CREATE TABLE \"{name}s\".\"{name}\" AS SELECT g AS id, '{name}' AS \"{name}\" FROM generate_series(1, 9) g; \
             CREATE TABLE plain AS SELECT 1 AS i; CREATE FUNCTION \"f{name}\"() RETURNS text LANGUAGE sql AS $$SELECT '{name}'$$"
        ));
        let before = Content::of(server, &source.name);
        let mut pgseal = Pgseal::new();
        pgseal.set("DATABASE_URL", &source.url);
        let made = pgseal.json(&["backup"]);
        let (folder, _) = made["object_key"]
            .as_str()
            .unwrap()
            .rsplit_once('/')
            .unwrap();
        let listed = pgseal.ok(&["show", "latest", "--contents"]);
        assert!(
            listed.contains(&format!("TABLE DATA {name}s {name} ")),
            "{listed}"
        );
        let target = server.name("not_utf_8_new");
        pgseal.ok(&["restore", "latest", "--to", &target.url, "--mode", "new"]);
        assert_same(&before, &Content::of(server, &target.name));

        if encoding != "LATIN1" {
            continue;
        }
        let plan = pgseal.json(&[
            "restore",
            "latest",
            "--to",
            &source.url,
            "--mode",
            "in-place",
            "--plan",
        ]);
        for none in ["created", "survivors", "lost"] {
            assert_eq!(plan[none]["total"], 0, "{none}: {plan:#}");
        }
        for way in [
            &["--mode", "in-place"][..],
            &["--mode", "in-place", "--schema", &format!("{name}s")],
            &["--mode", "swap"],
        ] {
            source.psql(&format!("DELETE FROM \"{name}s\".\"{name}\""));
            pgseal.ok(&[&["restore", "latest", "--to", &source.url], way].concat());
            assert_same(&before, &Content::of(server, &source.name));
        }

        // Somebody else's archive does not say of which encoding its names are: it comes back all the same.
        let plain = pgseal.file("plain.dump");
        pgseal.ok(&["fetch", "latest", "-o", plain.to_str().unwrap()]);
        let sealed = Gpg::new().encrypt(&std::fs::read(&plain).unwrap(), PASSPHRASE, &[]);
        std::fs::write(pgseal.store().join(folder).join("theirs.dump.gpg"), sealed).unwrap();
        pgseal.ok(&["verify", "theirs"]);
        let theirs = server.name("not_utf_8_theirs");
        let create = format!(
            "CREATE DATABASE {} TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'",
            theirs.name
        );
        server.psql("postgres", &create);
        pgseal.ok(&[
            "restore",
            "theirs",
            "--to",
            &theirs.url,
            "--mode",
            "in-place",
            "--no-safety-backup",
            "--confirm",
            &theirs.name,
        ]);
        assert_same(&before, &Content::of(server, &theirs.name));
    }
}
