//! No secret in a command line, a child's environment, a log, an error or a plain object, looked at while it runs; and no
//! program but pg_dump and pg_restore.

use crate::harness::cli::{PASSPHRASE, Pgseal, clients, files};
use crate::harness::fixture;
use crate::harness::postgres::{PASSWORD, Postgres};
use crate::harness::s3::{S3Server, SECRET_KEY};
use crate::harness::watch::{Seen, Watcher};

const CANARIES: [&str; 4] = [PASSWORD, PASSPHRASE, SECRET_KEY, "dummy-old-canary"];

/// Runs a command with its whole family watched, and returns everything it said.
fn watched(pgseal: &Pgseal, arguments: &[&str], code: i32) -> (Seen, String) {
    let running = pgseal.start(arguments);
    let watcher = Watcher::start(running.pid());
    let run = running.wait();
    let seen = watcher.finish();
    assert_eq!(run.code, code, "{run}");
    (
        seen,
        format!("{}{}", String::from_utf8_lossy(&run.stdout), run.stderr),
    )
}

fn assert_no_secret(seen: &Seen, said: &str) {
    for canary in CANARIES {
        assert!(!said.contains(canary), "{canary} was said: {said}");
        for line in &seen.command_lines {
            assert!(!line.contains(canary), "{canary} in {line}");
        }
        for (program, environment) in seen
            .environments
            .iter()
            .filter(|(program, _)| program != "pgseal")
        {
            assert!(
                !environment.contains(canary),
                "{canary} in the environment of {program}: {environment}"
            );
        }
    }
    let allowed = ["pgseal", "pg_dump", "pg_restore"];
    for program in &seen.programs {
        assert!(allowed.contains(&program.as_str()), "{program} was started");
    }
}

#[test]
fn secrets_stay_where_they_belong() {
    let server = Postgres::shared();
    let source = server.database_from("secrets", &fixture("bulk.sql"), &["rows=30000"]);
    let s3 = S3Server::start();
    let mut pgseal = s3.pgseal();
    let old = pgseal.file("old-passphrases");
    std::fs::write(&old, "dummy-old-canary\n").unwrap();
    // With everything that pgseal can say about its work.
    pgseal
        .set("DATABASE_URL", &source.url)
        .set("BACKUP_GPG_OLD_PASSPHRASES_FILE", &old)
        .set("UNRELATED_TOKEN", "dummy-old-canary");
    let (seen, said) = watched(&pgseal, &["backup", "-vv"], 0);
    assert_no_secret(&seen, &said);
    for program in ["pg_dump", "pg_restore"] {
        assert!(
            seen.programs.contains(program),
            "the watcher missed {program}"
        );
    }
    let of_pg_dump: Vec<_> = seen
        .environments
        .iter()
        .filter(|(program, _)| program == "pg_dump")
        .collect();
    assert!(
        of_pg_dump
            .iter()
            .any(|(_, all)| all.contains("PGPASSFILE=") && all.contains("PGDATABASE=")),
        "{of_pg_dump:?}"
    );
    assert!(
        !of_pg_dump
            .iter()
            .any(|(_, all)| all.contains("BACKUP_") || all.contains("UNRELATED")),
        "{of_pg_dump:?}"
    );

    let to = server.url_as("postgres", "", &source.name);
    pgseal.set("PGPASSWORD", PASSWORD);
    for arguments in [
        vec!["list", "-vv"],
        vec!["show", "latest", "--contents", "-vv"],
        vec!["verify", "latest", "-vv"],
        vec![
            "restore", "latest", "--to", &to, "--mode", "in-place", "-vv",
        ],
        vec!["doctor", "-vv"],
    ] {
        let (seen, said) = watched(&pgseal, &arguments, 0);
        assert_no_secret(&seen, &said);
    }
    // What lies in the store is sealed, names and all.
    for object in files(&s3.bucket()) {
        let bytes = std::fs::read(s3.bucket().join(&object)).unwrap();
        for plain in [b"customers".as_slice(), b"order_items", PASSWORD.as_bytes()] {
            assert!(
                !bytes.windows(plain.len()).any(|window| window == plain),
                "{object} is readable"
            );
        }
    }
}

#[test]
fn errors_hold_no_secret() {
    let server = Postgres::shared();
    let wrong = server.url_as("postgres", "dummy-wrong-canary", "postgres");
    let mut pgseal = Pgseal::new();
    pgseal.set("DATABASE_URL", &wrong);
    let (seen, said) = watched(&pgseal, &["backup", "-vv"], 5);
    assert_no_secret(&seen, &said);
    assert!(
        said.contains("password authentication failed") && !said.contains("canary"),
        "{said}"
    );
    // A program that repeats what it should not.
    let programs = clients(
        Some(
            "cat \"$PGPASSFILE\" >&2; echo \"pg_dump: error: $(cut -d: -f5 \"$PGPASSFILE\")\" >&2; exit 1",
        ),
        None,
    );
    let source = server.create_database("repeats");
    pgseal
        .with_clients(programs.path())
        .set("DATABASE_URL", &source.url);
    let said = pgseal.fails(1, &["backup", "-vv"]);
    assert!(
        said.contains("[redacted]") && !said.contains(PASSWORD),
        "{said}"
    );
    // URLs that cannot be read are not repeated.
    for broken in [
        "postgres://u:dummy-canary@h:port/d",
        "mysql://u:dummy-canary@h/d",
        "postgres://u:dummy-canary@h/d?nonsense=dummy-canary",
    ] {
        pgseal.set("DATABASE_URL", broken);
        let said = pgseal.fails(5, &["backup"]);
        assert!(
            said.contains("read DATABASE_URL") && !said.contains("canary"),
            "{said}"
        );
    }
}

#[test]
fn a_typed_password_draws_a_warning_and_help_shows_no_value() {
    let source = Postgres::shared().create_database("typed");
    let mut pgseal = Pgseal::new();
    assert!(
        pgseal
            .run(&["backup", &source.url])
            .stderr
            .contains("a password in a typed URL")
    );
    pgseal.set("DATABASE_URL", &source.url);
    assert!(
        !pgseal
            .run(&["backup"])
            .stderr
            .contains("a password in a typed URL")
    );
    pgseal.set("BACKUP_S3_ACCESS_KEY_ID", "dummy-id-canary");
    for command in ["backup", "list", "restore", "doctor"] {
        let help = pgseal.ok(&[command, "--help"]);
        assert!(!help.contains("canary"), "{help}");
    }
}

#[test]
fn a_password_file_is_used_if_nobody_else_can_read_it() {
    let server = Postgres::shared();
    let source = server.create_database("passfile");
    let url = server.url_as("postgres", "", &source.name);
    let pgseal = Pgseal::new();
    let file = pgseal.file("home").join(".pgpass");
    std::fs::write(&file, format!("127.0.0.1:*:*:postgres:{PASSWORD}\n")).unwrap();
    let mode = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
    std::fs::set_permissions(&file, mode(0o600)).unwrap();
    assert_eq!(
        pgseal.json(&["backup", &url])["database"],
        source.name.as_str()
    );
    std::fs::set_permissions(&file, mode(0o644)).unwrap();
    assert!(
        pgseal
            .fails(5, &["backup", &url])
            .contains("others can read it")
    );
}
