//! Every major version of PostgreSQL that can be had here: each by itself, several at once, and from one to another.

use crate::harness::cli::{PASSPHRASE, Pgseal};
use crate::harness::equality::{Content, assert_same};
use crate::harness::gpg::Gpg;
use crate::harness::postgres::{Database, MAJORS, Postgres, bin_dir_of};
use crate::harness::{fixture, run, text};

/// pgseal that finds the client programs of these majors, and Debian's own, which are always found.
pub fn pgseal_with(majors: &[u32]) -> Pgseal {
    let folders: Vec<_> = majors.iter().map(|major| bin_dir_of(*major)).collect();
    let mut pgseal = Pgseal::new();
    pgseal.set("BACKUP_PG_BINDIRS", std::env::join_paths(folders).unwrap());
    pgseal
}

/// A database with what life brings and what this version newly has.
pub fn lively(server: &'static Postgres, prefix: &str) -> Database<'static> {
    let database = server.database_from(prefix, &fixture("life.sql"), &[]);
    run(server
        .client("psql", &database.name)
        .args(["-X", "--quiet", "--output=/dev/null", "--file"])
        .arg(fixture("novelties.sql")));
    database
}

fn major_of(manifest: &serde_json::Value) -> u32 {
    let version = manifest["pg_dump_version"].as_str().unwrap();
    let number = version.split_once("(PostgreSQL) ").unwrap().1;
    number.split('.').next().unwrap().parse().unwrap()
}

/// Backup, verification, both ways to restore, and recovery by stock tools alone, on one version; `parts` are those of
/// the fixture that its build has.
fn whole_way(major: u32, parts: &str) {
    let server = Postgres::shared_of(major);
    let source = lively(server, "major");
    let there = source.psql(
        "SELECT string_agg(part, ' ' ORDER BY part) FROM (
            SELECT extname::text COLLATE \"C\" FROM pg_extension WHERE extname <> 'plpgsql'
            UNION ALL SELECT 'icu' FROM pg_collation WHERE collname = 'german' AND collprovider = 'i'
            UNION ALL SELECT 'xml' FROM shop.types WHERE x IS NOT NULL) parts(part)",
    );
    assert_eq!(there, parts);
    let before = Content::of(server, &source.name);
    let mut pgseal = pgseal_with(&MAJORS);
    pgseal.set("DATABASE_URL", &source.url);
    let made = pgseal.json(&["backup"]);
    assert_eq!(major_of(&made), major, "its own client dumps a server");
    assert_eq!(made["warnings"], serde_json::json!([]));
    pgseal.ok(&["verify", "latest"]);
    is_compressed_as_it_says(&pgseal, server, &made);

    let copy = server.name("major_copy");
    let restored = pgseal.json(&["restore", "latest", "--to", &copy.url, "--mode", "new"]);
    assert_eq!(restored["rows_compared"], made["row_count"]);
    assert_same(&before, &Content::of(server, &copy.name));

    source.psql("DROP TABLE shop.orders CASCADE; TRUNCATE shop.types; INSERT INTO novelties.parent VALUES (2)");
    pgseal.ok(&[
        "restore",
        "latest",
        "--to",
        &source.url,
        "--mode",
        "in-place",
    ]);
    assert_same(&before, &Content::of(server, &source.name));
    assert_eq!(pgseal.leftovers(), Vec::<String>::new());

    let by_hand = server.create_database("major_by_hand");
    let file = pgseal.file("by_hand.dump");
    let sealed = pgseal.store().join(made["object_key"].as_str().unwrap());
    std::fs::write(&file, Gpg::new().decrypt(&sealed, PASSPHRASE)).unwrap();
    run(server
        .client("pg_restore", &by_hand.name)
        .args(["--exit-on-error", "--dbname", &by_hand.name])
        .arg(&file));
    assert_same(&before, &Content::of(server, &by_hand.name));
}

/// pg_dump compresses where it can (16 and later, built with zstd), the OpenPGP message where it cannot; and both the
/// message and the archive say what the manifest says.
fn is_compressed_as_it_says(pgseal: &Pgseal, server: &Postgres, made: &serde_json::Value) {
    let built = server.psql(
        "postgres",
        "SELECT setting FROM pg_config WHERE name = 'CONFIGURE'",
    );
    let zstd = server.major() >= 16 && built.contains("--with-zstd");
    let compression = if zstd { "zstd:1" } else { "zlib:3" };
    assert_eq!(made["compression"], compression);
    let sealed = pgseal.store().join(made["object_key"].as_str().unwrap());
    let gpg = Gpg::new();
    let packets = gpg.packets(&sealed, PASSPHRASE);
    // ZLIB is compression 2 (RFC 4880, 9.3).
    assert_eq!(
        packets.contains("compressed packet: algo=2"),
        !zstd,
        "{packets}"
    );
    assert_eq!(packets.contains("compressed packet"), !zstd, "{packets}");
    let dump = gpg.decrypt(&sealed, PASSPHRASE);
    let file = pgseal.file("compressed.dump");
    std::fs::write(&file, dump).unwrap();
    let list = text(
        server
            .client("pg_restore", "postgres")
            .arg("--list")
            .arg(&file),
    );
    let says = match (server.major(), zstd) {
        (_, true) => ";     Compression: zstd",
        (15, false) => ";     Compression: 0",
        (_, false) => ";     Compression: none",
    };
    assert!(list.contains(says), "{says}: {list}");
}

/// Row 118: PostgreSQL 15 by its own client, all the way.
#[test]
fn postgres_15_goes_the_whole_way() {
    whole_way(
        15,
        "btree_gist citext hstore icu ltree pg_trgm pgcrypto uuid-ossp xml",
    );
}

/// Row 118: PostgreSQL 16 by its own client, all the way.
#[test]
fn postgres_16_goes_the_whole_way() {
    whole_way(16, "");
}

/// Row 118: PostgreSQL 17 by its own client, all the way.
#[test]
fn postgres_17_goes_the_whole_way() {
    whole_way(17, "btree_gist citext hstore ltree pg_trgm pgcrypto xml");
}

/// Row 118: PostgreSQL 18 by its own client, all the way.
#[test]
fn postgres_18_goes_the_whole_way() {
    whole_way(18, "btree_gist citext hstore ltree pg_trgm");
}

/// Row 118: one pgseal that finds every client takes each server's own, for the dump and for the restore.
#[test]
fn servers_of_different_majors_are_served_side_by_side() {
    let pgseal = pgseal_with(&MAJORS);
    let mut made = Vec::new();
    for major in MAJORS {
        let source = Postgres::shared_of(major).create_database("side");
        source.psql(&format!("CREATE TABLE t AS SELECT {major} AS major"));
        let backup = pgseal.json(&["backup", &source.url]);
        assert_eq!(major_of(&backup), major);
        assert!(
            backup["server_version"]
                .as_str()
                .unwrap()
                .starts_with(&major.to_string())
        );
        made.push((major, backup["name"].as_str().unwrap().to_owned()));
    }
    let doctor = pgseal.ok(&["doctor", &Postgres::shared_of(16).url("postgres")]);
    for major in MAJORS {
        assert!(doctor.contains(&format!("{major} in ")), "{doctor}");
    }
    for (major, name) in made {
        let copy = Postgres::shared_of(major).name("side_copy");
        pgseal.ok(&["restore", &name, "--to", &copy.url, "--mode", "new"]);
        assert_eq!(copy.psql("SELECT major FROM t"), major.to_string());
    }
}

/// Row 7: every installed client is older than the server.
#[test]
fn a_client_older_than_the_server_is_refused() {
    for major in [16, 17, 18] {
        let source = Postgres::shared_of(major).create_database("too_new");
        source.psql("CREATE TABLE t AS SELECT 1 AS one");
        let older: Vec<u32> = MAJORS.into_iter().filter(|older| *older < major).collect();
        let pgseal = pgseal_with(&older);
        let said = pgseal.fails(5, &["backup", &source.url]);
        assert!(said.contains("error: prepare the backup"), "{said}");
        let wanted = format!("no pg_dump and pg_restore for PostgreSQL {major} found");
        assert!(said.contains(&wanted), "{said}");
        let hint = format!("hint: install postgresql-client-{major}");
        assert!(
            said.contains(&hint) && said.contains("BACKUP_PG_BINDIRS"),
            "{said}"
        );
        assert_eq!(pgseal.stored(), Vec::<String>::new());
        assert_eq!(pgseal.leftovers(), Vec::<String>::new());
    }
}

/// Row 118: only a newer client is there. Its archive could not go back, so that somebody has to ask for it, the manifest
/// says so, and the server itself refuses it before anything is touched.
#[test]
fn an_archive_of_a_newer_client_is_made_on_request_and_kept_from_the_older_server() {
    let server = Postgres::shared_of(16);
    let source = server.create_database("newer_client");
    source.psql("CREATE TABLE t AS SELECT generate_series(1, 50) i");
    let pgseal = pgseal_with(&[17, 18]);
    let said = pgseal.fails(5, &["backup", &source.url]);
    assert!(
        said.contains("only pg_dump 17 was found for a PostgreSQL 16 server")
            && said.contains("--allow-newer-client"),
        "{said}"
    );
    assert_eq!(pgseal.stored(), Vec::<String>::new());

    let made = pgseal.json(&["backup", &source.url, "--allow-newer-client"]);
    assert_eq!(major_of(&made), 17);
    let warnings = made["warnings"].to_string();
    assert!(
        warnings.contains("pg_dump 17 dumped a PostgreSQL 16 server"),
        "{warnings}"
    );
    let stored = pgseal.stored();
    let (copy, older) = (
        server.name("newer_copy"),
        Postgres::shared().create_database("older"),
    );
    older.psql("CREATE TABLE t AS SELECT -1 AS i");
    for (to, mode) in [
        (&copy.url, "new"),
        (&source.url, "in-place"),
        (&older.url, "in-place"),
    ] {
        let said = pgseal.fails(5, &["restore", "latest", "--to", to, "--mode", mode]);
        assert!(
            said.contains("was made by pg_dump 17, the target is PostgreSQL 1")
                && said.contains("hint: restore into a server of version 17 or later"),
            "{said}"
        );
    }
    // No database, no safety backup, no change.
    assert!(
        !server
            .databases()
            .iter()
            .any(|name| name.starts_with("newer_copy"))
    );
    assert_eq!(pgseal.stored(), stored);
    assert_eq!(older.psql("SELECT i FROM t"), "-1");
    let newer = Postgres::shared_of(17).name("newer_copy");
    pgseal.ok(&["restore", "latest", "--to", &newer.url, "--mode", "new"]);
    assert_eq!(newer.psql("SELECT count(*) FROM t"), "50");
}

/// Row 118: pg_restore 17 sets what PostgreSQL 15 does not know, so that an archive of 16 needs a pg_restore of 16 there.
#[test]
fn an_archive_reaches_an_older_server_by_a_client_that_both_know() {
    let source = Postgres::shared_of(16).create_database("sideways");
    source.psql("CREATE TABLE t AS SELECT generate_series(1, 50) i");
    let mut pgseal = pgseal_with(&[16, 17]);
    pgseal.ok(&["backup", &source.url]);
    let copy = Postgres::shared().name("sideways_copy");
    pgseal.ok(&["restore", "latest", "--to", &copy.url, "--mode", "new"]);
    assert_eq!(copy.psql("SELECT count(*) FROM t"), "50");
    copy.psql("DELETE FROM t");
    let stored = pgseal.stored();
    pgseal.set("BACKUP_PG_BINDIRS", bin_dir_of(17));
    let said = pgseal.fails(
        5,
        &["restore", "latest", "--to", &copy.url, "--mode", "in-place"],
    );
    assert!(
        said.contains("no pg_dump and pg_restore for PostgreSQL 16 found"),
        "{said}"
    );
    assert_eq!(pgseal.stored(), stored, "no safety backup was begun");
    assert_eq!(copy.psql("SELECT count(*) FROM t"), "0");
}

/// A backup of an older server into a newer one, and what a restore over it saves before.
#[test]
fn an_older_archive_goes_into_every_newer_server() {
    let old = Postgres::shared();
    // The wheels have neither ICU nor every extension, so life.sql itself does not fit them.
    let source = old.create_database("upgrade");
    run(old
        .client("psql", &source.name)
        .args(["-X", "-q", "-c", "CREATE SCHEMA empty_schema", "-f"])
        .arg(fixture("novelties.sql")));
    run(old
        .client("psql", &source.name)
        .args(["-X", "-q", "-v", "rows=3000", "-f"])
        .arg(fixture("bulk.sql")));
    source.psql("SELECT lo_from_bytea(7, '\\x0102')");
    let before = Content::of(old, &source.name).without_dialect();
    let pgseal = pgseal_with(&MAJORS);
    let made = pgseal.json(&["backup", &source.url]);
    let name = made["name"].as_str().unwrap();
    for major in [16, 17, 18] {
        let new = Postgres::shared_of(major);
        let target = new.name("upgraded");
        let restored = pgseal.json(&["restore", name, "--to", &target.url, "--mode", "new"]);
        assert_eq!(restored["rows_compared"], made["row_count"]);
        assert_same(&before, &Content::of(new, &target.name).without_dialect());
        target.psql("TRUNCATE order_items; SELECT lo_unlink(7)");
        let restored = pgseal.json(&["restore", name, "--to", &target.url, "--mode", "in-place"]);
        assert_same(&before, &Content::of(new, &target.name).without_dialect());
        let safety = pgseal.json(&["show", restored["safety_backup"].as_str().unwrap()]);
        assert_eq!(major_of(&safety), major);
    }
}

/// Row 132: a database's encoding, locale and provider come back with it.
#[test]
fn encodings_locales_and_providers_come_back() {
    for (major, how) in [
        (
            15,
            "ENCODING 'UTF8' LOCALE_PROVIDER icu ICU_LOCALE 'de-u-co-phonebk' LC_COLLATE 'C.UTF-8' LC_CTYPE 'C.UTF-8'",
        ),
        (15, "ENCODING 'LATIN1' LOCALE 'C'"),
        (16, "ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'"),
        (
            17,
            "ENCODING 'UTF8' LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8' LC_COLLATE 'C' LC_CTYPE 'C.UTF-8'",
        ),
        (
            17,
            "ENCODING 'UTF8' LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C'",
        ),
        (
            18,
            "ENCODING 'UTF8' LOCALE_PROVIDER builtin BUILTIN_LOCALE 'PG_UNICODE_FAST'",
        ),
        (18, "ENCODING 'EUC_JP' LOCALE 'C'"),
    ] {
        let server = Postgres::shared_of(major);
        let source = server.name("locale");
        server.psql(
            "postgres",
            &format!("CREATE DATABASE {} TEMPLATE template0 {how}", source.name),
        );
        source
            .psql("CREATE TABLE t (v text PRIMARY KEY); INSERT INTO t VALUES ('a'), ('B'), ('z')");
        if !how.contains("EUC_JP") {
            source.psql("INSERT INTO t VALUES ('é'), ('Ä'), ('ß')");
        }
        let before = Content::of(server, &source.name);
        let pgseal = pgseal_with(&MAJORS);
        let made = pgseal.json(&["backup", &source.url]);
        let copy = server.name("locale_copy");
        pgseal.ok(&["restore", "latest", "--to", &copy.url, "--mode", "new"]);
        assert_same(&before, &Content::of(server, &copy.name));
        let sorted = "SELECT string_agg(v, ' ' ORDER BY v), upper(max(v)) FROM t";
        assert_eq!(copy.psql(sorted), source.psql(sorted), "{how}: {made}");
    }
}

/// Row 132: a server without the backup's provider says so, and nothing is left on it.
#[test]
fn a_provider_that_the_target_lacks_is_named() {
    let server = Postgres::shared();
    let source = server.name("icu");
    server.psql(
        "postgres",
        &format!(
            "CREATE DATABASE {} TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en'",
            source.name
        ),
    );
    let pgseal = pgseal_with(&MAJORS);
    pgseal.ok(&["backup", &source.url]);
    let copy = Postgres::shared_of(18).name("icu_copy");
    let said = pgseal.fails(
        1,
        &["restore", "latest", "--to", &copy.url, "--mode", "new"],
    );
    assert!(
        said.contains("create the database") && said.contains("ICU is not supported"),
        "{said}"
    );
    assert!(
        !Postgres::shared_of(18)
            .databases()
            .iter()
            .any(|name| name.starts_with("icu_copy"))
    );
}

/// pg_dump 18 can put the planner's statistics into an archive. Ours does not ask for them; somebody else's may.
#[test]
fn an_archive_with_statistics_is_read_and_restored() {
    let server = Postgres::shared_of(18);
    let source = server.create_database("statistics");
    source.psql("CREATE TABLE t AS SELECT i, i % 7 AS j FROM generate_series(1, 500) i; CREATE INDEX ON t (j); ANALYZE");
    let before = Content::of(server, &source.name);
    let pgseal = pgseal_with(&MAJORS);
    let made = pgseal.json(&["backup", &source.url]);
    assert_eq!(
        (&made["table_count"], &made["row_count"]),
        (&1.into(), &500.into())
    );
    let dump = run(server
        .client("pg_dump", &source.name)
        .args(["--format=custom", "--statistics"]));
    let folder = pgseal.store().join("backups/prod/2019/05");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(
        folder.join("theirs.dump.gpg"),
        Gpg::new().encrypt(&dump, PASSPHRASE, &[]),
    )
    .unwrap();
    let contents = pgseal.ok(&["show", "theirs", "--contents"]);
    assert!(contents.contains("STATISTICS DATA"), "{contents}");
    let copy = server.name("statistics_copy");
    pgseal.ok(&["restore", "theirs", "--to", &copy.url, "--mode", "new"]);
    assert_same(&before, &Content::of(server, &copy.name));
    source.psql("DELETE FROM t WHERE j = 3");
    pgseal.ok(&[
        "restore",
        "theirs",
        "--to",
        &source.url,
        "--mode",
        "in-place",
    ]);
    assert_same(&before, &Content::of(server, &source.name));
}

/// Row 118: a good backup is never called damaged because a client was built without its compression.
#[test]
fn a_client_without_the_compression_is_not_asked() {
    let source = Postgres::shared_of(17).create_database("codec");
    source
        .psql("CREATE TABLE t AS SELECT repeat('x', 100) || i AS v FROM generate_series(1, 300) i");
    let mut pgseal = pgseal_with(&MAJORS);
    assert_eq!(
        pgseal.json(&["backup", &source.url])["compression"],
        "zstd:1"
    );
    let verified = pgseal.json(&["verify", "latest"]);
    assert!(
        verified["read_by"].as_str().unwrap().contains(") 17."),
        "{verified}"
    );
    // Into a server whose own client has no zstd.
    let copy = Postgres::shared_of(18).name("codec_copy");
    pgseal.ok(&["restore", "latest", "--to", &copy.url, "--mode", "new"]);
    assert_eq!(copy.psql("SELECT count(*) FROM t"), "300");
    pgseal.set("BACKUP_PG_BINDIRS", bin_dir_of(18));
    let said = pgseal.fails(5, &["verify", "latest"]);
    assert!(
        said.contains("compressed with zstd") && said.contains("PostgreSQL 18"),
        "{said}"
    );
}
