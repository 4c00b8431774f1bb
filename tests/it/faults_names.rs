//! Names and passwords that mean something to somebody on the way: to a shell, to SQL, to libpq, to a path. They come back
//! as they were, or are refused.

use std::path::Path;

use crate::harness::cli::{Pgseal, clients, files};
use crate::harness::equality::{Content, assert_same};
use crate::harness::postgres::{PASSWORD, Postgres, quoted, quoted_text};

/// Names that mean something to a shell, to SQL, to libpq, to pg_dump's patterns, or to a path.
const ODD_NAMES: [&str; 24] = [
    "'; DROP TABLE innocent; --",
    "\"; DROP TABLE innocent; --",
    "a\"b'c`d",
    "$(touch /tmp/pgseal-was-here)",
    "`touch /tmp/pgseal-was-here`",
    "--file=/tmp/pgseal-was-here",
    "host=evil dbname=x",
    "postgresql://evil/x",
    "%s%n%41",
    "back\\slash\\",
    "a.b.c",
    "**",
    "?[a-z]+",
    "../../etc/passwd",
    " begins and ends with a space ",
    "a\ttab",
    "a\nline\r\nbreak",
    "$body$",
    "select",
    "NULL",
    "an ünïcödé ß ﬁ",
    "a שלום 🐘",
    "E'\\047'",
    // 63 bytes, the last character of which has two.
    "a name of sixty-three bytes, that is all that PostgreSQL has ü",
];

/// Rows 105 and 107: every name of a schema, table, column, sequence, type and role comes back as it was, and none is
/// carried out.
#[test]
fn odd_names_are_names_and_nothing_else() {
    let server = Postgres::shared();
    let source = server.create_database("odd_names");
    source.psql("CREATE TABLE innocent AS SELECT 1 AS i");
    let mut sql = String::new();
    for (number, name) in ODD_NAMES.iter().enumerate() {
        sql += &format!(
            "CREATE ROLE {0}; CREATE SCHEMA {0}; CREATE TYPE public.{0} AS ENUM ('a');
             CREATE TABLE {0}.{0} ({0} serial PRIMARY KEY, other public.{0} DEFAULT 'a');
             INSERT INTO {0}.{0} VALUES (1), (2), (3); CREATE SEQUENCE public.{1}; CREATE VIEW public.{2} AS SELECT {0} FROM {0}.{0};
             ALTER TABLE {0}.{0} OWNER TO {0}; GRANT ALL ON SCHEMA {0} TO {0}; COMMENT ON COLUMN {0}.{0}.{0} IS {3};",
            quoted(name),
            quoted(&format!("s{number}{}", &name[2..])),
            quoted(&format!("v{number}{}", &name[2..])),
            quoted_text(name),
        );
    }
    let roles: Vec<String> = ODD_NAMES.iter().map(|name| quoted(name)).collect();
    let forget = format!("DROP ROLE IF EXISTS {}", roles.join(", "));
    server.psql("postgres", &forget);
    source.psql(&sql);
    let before = Content::of(server, &source.name);
    let mut pgseal = Pgseal::new();
    pgseal.set("DATABASE_URL", &source.url);
    let made = pgseal.json(&["backup"]);
    assert_eq!(made["row_count"], 3 * ODD_NAMES.len() + 1);
    let shown = pgseal.json(&["show", "latest"]);
    for name in ODD_NAMES {
        let table = serde_json::json!({"schema": name, "name": name, "rows": 3});
        assert!(
            shown["tables"].as_array().unwrap().contains(&table),
            "{name:?}"
        );
    }
    let copy = server.name("odd_names_copy");
    pgseal.ok(&["restore", "latest", "--to", &copy.url, "--mode", "new"]);
    assert_same(&before, &Content::of(server, &copy.name));
    for name in ODD_NAMES {
        source.psql(&format!(
            "DROP TYPE public.{0} CASCADE; DELETE FROM {0}.{0}",
            quoted(name)
        ));
    }
    pgseal.ok(&[
        "restore",
        "latest",
        "--to",
        &source.url,
        "--mode",
        "in-place",
    ]);
    assert_same(&before, &Content::of(server, &source.name));
    assert!(!Path::new("/tmp/pgseal-was-here").exists());
    drop((source, copy));
    server.psql("postgres", &forget);
}

/// Rows 106 and 107: what a database is called reaches the programs as it is, and is never an option, a connection string
/// or a word of a shell. A name that no setting can hold, or that the server would cut, is refused.
#[test]
fn a_database_s_name_is_passed_on_as_it_is() {
    let server = Postgres::shared();
    let names = [
        ODD_NAMES[2],
        ODD_NAMES[3],
        ODD_NAMES[5],
        ODD_NAMES[6],
        ODD_NAMES[9],
        ODD_NAMES[23],
    ];
    for name in &names {
        let source = server.exactly(name);
        server.psql(
            "postgres",
            &format!("DROP DATABASE IF EXISTS {0}", quoted(name)),
        );
        server.psql("postgres", &format!("CREATE DATABASE {}", quoted(name)));
        source.psql("CREATE TABLE t AS SELECT 42 AS answer");
        let mut pgseal = Pgseal::new();
        let record = pgseal.file("record");
        std::fs::create_dir(&record).unwrap();
        let script = |program: &str| {
            format!(
                "cp /proc/$$/cmdline '{0}/{program}'$$.argv; cp /proc/$$/environ '{0}/{program}'$$.env; exec \"$REAL\" \"$@\"",
                record.display()
            )
        };
        let programs = clients(Some(&script("pg_dump")), Some(&script("pg_restore")));
        pgseal.with_clients(programs.path());
        pgseal
            .set("DATABASE_URL", &source.url)
            .set("PGPASSWORD", PASSWORD);
        assert_eq!(pgseal.json(&["backup"])["database"], *name);
        source.psql("UPDATE t SET answer = 0");
        let to = server.url_as("postgres", "", name);
        pgseal.ok(&[
            "restore",
            "latest",
            "--to",
            &to,
            "--mode",
            "in-place",
            "--no-safety-backup",
            "--confirm",
            name,
        ]);
        assert_eq!(source.psql("SELECT answer FROM t"), "42");
        was_told_by_variables(&record, name);
    }
    for (name, said) in [
        ("a%0Aline", "a NUL or a line break"),
        ("a%0Dline", "a NUL or a line break"),
        ("a%00b", "a NUL or a line break"),
        ("%FF", "not percent-encoded UTF-8"),
        (&"x".repeat(64), "more than 63 bytes"),
        (&"%C3%BC".repeat(32), "more than 63 bytes"),
    ] {
        let pgseal = Pgseal::new();
        for url in [
            format!("postgres://postgres@127.0.0.1:{}/{name}", server.port()),
            format!("postgres://{name}@127.0.0.1:{}/postgres", server.port()),
        ] {
            let refused = pgseal.fails(5, &["backup", &url]);
            assert!(refused.contains(said), "{name}: {refused}");
        }
        assert_eq!(pgseal.stored(), Vec::<String>::new());
    }
}

/// Each program got the name by PGDATABASE, and what is not libpq's got nowhere. pg_restore wants `--dbname` to connect at
/// all: there the name is one quoted value.
fn was_told_by_variables(record: &Path, name: &str) {
    let words = |file: &str| -> Vec<String> {
        let bytes = std::fs::read(record.join(file)).unwrap();
        let words = bytes.split(|byte| *byte == 0).map(String::from_utf8_lossy);
        words
            .map(std::borrow::Cow::into_owned)
            .filter(|word| !word.is_empty())
            .collect()
    };
    let recorded = files(record);
    assert!(recorded.len() >= 4, "{recorded:?}");
    let value = format!(
        "--dbname=dbname='{}'",
        name.replace('\\', "\\\\").replace('\'', "\\'")
    );
    for file in &recorded {
        if file.ends_with(".argv") {
            // The shell and its script stand before.
            for word in &words(file)[2..] {
                let may = *word == value && file.starts_with("pg_restore");
                assert!(
                    may || word.starts_with("--") && !word.contains(name),
                    "{file}: {word}"
                );
                assert!(
                    !word.contains(PASSWORD) && !word.contains("127.0.0.1"),
                    "{file}: {word}"
                );
            }
            continue;
        }
        for word in words(file) {
            let (variable, held) = word.split_once('=').unwrap();
            assert!(
                variable.starts_with("PG") || ["LC_MESSAGES", "LANGUAGE"].contains(&variable),
                "{file}: {word}"
            );
            assert!(variable != "PGDATABASE" || held == name, "{file}: {word}");
            assert!(!held.contains(PASSWORD), "{file}: {word}");
        }
    }
}

/// Row 107: a password is whatever the server takes; one with a line break is refused, and not repeated.
#[test]
fn odd_passwords_open_and_a_broken_one_is_refused() {
    let server = Postgres::shared();
    let source = server.create_database("passwords");
    source.psql("DROP ROLE IF EXISTS odd_password; CREATE ROLE odd_password LOGIN SUPERUSER; CREATE TABLE t AS SELECT 1 AS one");
    let mut pgseal = Pgseal::new();
    for password in [
        "dummy'quote\"and`tick",
        "dummy\\back\\\\slash:colon::",
        " dummy with spaces ",
        "dummy@/?&=#%41%",
        "dummy-ünïcödé-ﬁ-№",
        "*",
        "#dummy",
    ] {
        source.psql(&format!(
            "ALTER ROLE odd_password PASSWORD '{}'",
            password.replace('\'', "''")
        ));
        let url = server.url_as("odd_password", password, &source.name);
        pgseal.set("DATABASE_URL", &url).unset("PGPASSWORD");
        assert_eq!(pgseal.json(&["backup"])["row_count"], 1, "{password}");
        pgseal
            .set(
                "DATABASE_URL",
                server.url_as("odd_password", "", &source.name),
            )
            .set("PGPASSWORD", password);
        assert_eq!(pgseal.json(&["backup"])["row_count"], 1, "{password}");
    }
    pgseal.unset("PGPASSWORD");
    // What libpq takes, and SCRAM's own rules do not: said, without the character.
    source.psql("ALTER ROLE odd_password PASSWORD 'dummy-🐘'");
    pgseal.set(
        "DATABASE_URL",
        server.url_as("odd_password", "dummy-🐘", &source.name),
    );
    let said = pgseal.fails(5, &["backup"]);
    assert!(
        said.contains("SASLprep (RFC 4013) prohibits") && !said.contains('🐘'),
        "{said}"
    );
    for broken in ["dummy\nbroken", "dummy\rbroken", "dummy\0broken"] {
        pgseal.set(
            "DATABASE_URL",
            server.url_as("odd_password", broken, &source.name),
        );
        let said = pgseal.fails(5, &["backup"]);
        assert!(
            said.contains("a NUL or a line break") && !said.contains("broken"),
            "{said}"
        );
    }
    source.psql("DROP ROLE odd_password");
}
