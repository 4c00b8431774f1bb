//! What a person or a script meets: help, selectors, exit codes, settings, the doctor.

use crate::harness::cli::{Pgseal, clients};
use crate::harness::postgres::Postgres;
use crate::harness::somebody::until;

#[test]
fn help_teaches() {
    let pgseal = Pgseal::new();
    let help = pgseal.ok(&["--help"]);
    for word in [
        "backup",
        "list",
        "show",
        "verify",
        "restore",
        "fetch",
        "delete",
        "doctor",
        "migrate",
        "catalog",
        "DATABASE_URL",
        "Exit codes",
        "gpg -d",
    ] {
        assert!(help.contains(word), "{word} is not in:\n{help}");
    }
    let mut texts = String::new();
    for command in [
        "backup", "list", "show", "verify", "restore", "rollback", "kept", "fetch", "delete",
        "doctor", "migrate", "catalog",
    ] {
        texts += &format!("$ pgseal {command} -h\n{}\n", pgseal.ok(&[command, "-h"]));
    }
    for command in ["rebuild", "reconcile", "import"] {
        let help = pgseal.ok(&["catalog", command, "-h"]);
        texts += &format!("$ pgseal catalog {command} -h\n{help}\n");
    }
    insta::assert_snapshot!("help", texts);
    assert!(pgseal.ok(&["--version"]).starts_with("pgseal "));
}

#[test]
fn a_backup_is_named_in_many_ways() {
    let source = Postgres::shared().create_database("named");
    let pgseal = Pgseal::new();
    let first = pgseal.json(&["backup", &source.url]);
    let second = pgseal.json(&["backup", &source.url, "--kind", "scheduled"]);
    let (name, key) = (
        first["name"].as_str().unwrap(),
        first["object_key"].as_str().unwrap(),
    );
    for selector in [
        name,
        key,
        &key.replace(".dump.gpg", ".manifest.gpg"),
        "backup_m",
    ] {
        assert_eq!(pgseal.json(&["show", selector])["name"], name, "{selector}");
    }
    assert_eq!(pgseal.json(&["show", "latest"])["name"], second["name"]);
    let said = pgseal.fails(3, &["show", "backup_"]);
    assert!(
        said.contains(name) && said.contains(second["name"].as_str().unwrap()),
        "{said}"
    );
    for nothing in [
        "backup_manual_1999",
        "",
        "../etc/passwd",
        "/etc/passwd.gpg",
        "backups/prod/none.dump.gpg",
    ] {
        pgseal.fails(3, &["show", nothing]);
    }
    pgseal.ok(&["delete", name]);
    assert_eq!(pgseal.json(&["list"]).as_array().unwrap().len(), 1);
    pgseal.ok(&["delete", "latest"]);
    assert_eq!(pgseal.stored(), Vec::<String>::new());
    pgseal.fails(3, &["delete", "latest"]);
}

#[test]
fn two_backups_of_one_second_have_two_names() {
    let source = Postgres::shared().create_database("same_second");
    let pgseal = Pgseal::new();
    let names: std::collections::BTreeSet<_> = (0..4)
        .map(|_| pgseal.json(&["backup", &source.url])["name"].to_string())
        .collect();
    assert_eq!(names.len(), 4);
    assert_eq!(pgseal.json(&["list"]).as_array().unwrap().len(), 4);
}

/// Row 117: the exit codes (`settings.rs` has the whole matrix).
#[test]
fn wrong_usage_and_settings_end_with_their_codes() {
    let source = Postgres::shared().create_database("settings");
    let mut pgseal = Pgseal::new();
    pgseal.fails(2, &["backup", "--nonsense"]);
    pgseal.fails(2, &["backup", "--label", "novalue", &source.url]);
    pgseal.fails(
        2,
        &[
            "restore",
            "latest",
            "--to",
            &source.url,
            "--mode",
            "sideways",
        ],
    );
    let said = pgseal.fails(
        2,
        &["restore", "latest", "--to", &source.url, "--plan-id", "7"],
    );
    assert!(said.contains("no plan's id"), "{said}");
    pgseal.fails(
        2,
        &["backup", "--label", "a=1", "--label", "a=2", &source.url],
    );
    assert!(pgseal.fails(5, &["backup"]).contains("set DATABASE_URL"));
    let file = pgseal.file("url");
    std::fs::write(&file, format!("{}\nsecond line\n", source.url)).unwrap();
    pgseal
        .set("DATABASE_URL_FILE", &file)
        .set("DATABASE_URL", "");
    pgseal.ok(&["backup"]);
    pgseal.set("DATABASE_URL", &source.url);
    assert!(pgseal.fails(5, &["backup"]).contains("both set"));
    pgseal.unset("DATABASE_URL_FILE");

    for (name, value, said) in [
        (
            "BACKUP_STORE",
            "ftp://x",
            "neither file:FOLDER nor s3://BUCKET",
        ),
        ("BACKUP_STORE", "s3://bucket-a", "different buckets"),
        ("BACKUP_PREFIX", "../up", "BACKUP_PREFIX"),
        ("BACKUP_GPG_PASSPHRASE_FILE", "/nonexistent", "both set"),
    ] {
        let mut broken = Pgseal::new();
        broken
            .set("BACKUP_S3_BUCKET", "bucket-b")
            .set("DATABASE_URL", &source.url)
            .set(name, value);
        let run = broken.fails(5, &["backup"]);
        assert!(run.contains(said), "{name}={value}: {run}");
    }
    let mut half = Pgseal::new();
    half.unset("BACKUP_STORE")
        .set("BACKUP_S3_BUCKET", "b")
        .set("BACKUP_S3_ACCESS_KEY_ID", "dummy");
    assert!(
        half.fails(5, &["list"])
            .contains("half of the S3 credentials")
    );
    half.set("BACKUP_S3_SECRET_ACCESS_KEY", "dummy")
        .set("BACKUP_S3_ENDPOINT_URL", "http://192.0.2.1:9000");
    assert!(half.fails(5, &["list"]).contains("BACKUP_S3_ALLOW_HTTP"));
    pgseal.set("BACKUP_COMPRESSION_LEVEL", "10");
    pgseal.fails(2, &["backup"]);
    pgseal.set("BACKUP_COMPRESSION_LEVEL", "");
    pgseal.ok(&["backup"]);
}

#[test]
fn targets_that_cannot_be_right_are_refused_before_anything_is_touched() {
    let server = Postgres::shared();
    let source = server.create_database("refused");
    source.psql("CREATE TABLE t AS SELECT 7 AS seven");
    let pgseal = Pgseal::new();
    let made = pgseal.json(&["backup", &source.url]);
    let said = pgseal.fails(
        5,
        &["restore", "latest", "--to", &source.url, "--mode", "new"],
    );
    assert!(said.contains("exists already"), "{said}");
    let said = pgseal.fails(
        5,
        &[
            "restore",
            "latest",
            "--to",
            &server.url("no_such_database"),
            "--mode",
            "in-place",
        ],
    );
    assert!(said.contains("no_such_database"), "{said}");
    let role = server.psql(
        "postgres",
        "DROP ROLE IF EXISTS soon_gone; CREATE ROLE soon_gone",
    );
    assert_eq!(role, "");
    source.psql("GRANT SELECT ON t TO soon_gone");
    let granted = pgseal.json(&["backup", &source.url]);
    source.psql("REVOKE ALL ON t FROM soon_gone; DROP ROLE soon_gone");
    let target = server.name("refused_copy");
    let said = pgseal.fails(
        5,
        &[
            "restore",
            granted["name"].as_str().unwrap(),
            "--to",
            &target.url,
            "--mode",
            "new",
        ],
    );
    assert!(said.contains("CREATE ROLE \"soon_gone\";"), "{said}");
    assert!(!target.exists());
    pgseal.ok(&[
        "restore",
        made["name"].as_str().unwrap(),
        "--to",
        &target.url,
        "--mode",
        "new",
    ]);
    assert_eq!(target.psql("SELECT seven FROM t"), "7");
}

#[test]
fn a_restore_that_fails_changes_nothing() {
    let server = Postgres::shared();
    let source = server.create_database("unchanged");
    source.psql("CREATE TABLE t AS SELECT generate_series(1, 1000) i");
    let mut pgseal = Pgseal::new();
    pgseal.ok(&["backup", &source.url]);
    source.psql("INSERT INTO t VALUES (-1)");
    let broken = clients(
        None,
        Some(
            "case \"$*\" in *--single-transaction*) head -c 2000 | \"$REAL\" \"$@\";; *--dbname*) head -c 100 >/dev/null; exit 9;; *) exec \"$REAL\" \"$@\";; esac",
        ),
    );
    pgseal.with_clients(broken.path());
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
        said.contains("nothing was changed") && said.contains("safety backup backup_pre_restore_"),
        "{said}"
    );
    assert_eq!(source.psql("SELECT count(*), min(i) FROM t"), "1001|-1");
    let target = server.name("unchanged_copy");
    let said = pgseal.fails(
        1,
        &["restore", "latest", "--to", &target.url, "--mode", "new"],
    );
    assert!(said.contains("was dropped again"), "{said}");
    assert!(
        !server
            .databases()
            .iter()
            .any(|name| name.starts_with("unchanged_copy"))
    );
    // A safety backup that fails ends it before anything else happens.
    let no_dump = clients(Some("exit 1"), None);
    pgseal.with_clients(no_dump.path());
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
        said.contains("make the safety backup") && said.contains("--no-safety-backup"),
        "{said}"
    );
    assert_eq!(source.psql("SELECT count(*) FROM t"), "1001");
}

#[test]
fn one_database_is_backed_up_once_at_a_time() {
    let server = Postgres::shared();
    let source = server.create_database("busy");
    let mut pgseal = Pgseal::new();
    let (there, go) = (pgseal.file("there"), pgseal.file("go"));
    let slow = clients(
        Some(&format!(
            "touch '{}'; while [ ! -e '{}' ]; do sleep 0.02; done; exec \"$REAL\" \"$@\"",
            there.display(),
            go.display()
        )),
        None,
    );
    pgseal
        .with_clients(slow.path())
        .set("DATABASE_URL", &source.url);
    let running = pgseal.start(&["backup"]);
    until("a dump at the gate", || there.exists());
    let said = pgseal.fails(5, &["backup"]);
    assert!(
        said.contains("another backup or restore of database busy_"),
        "{said}"
    );
    std::fs::write(&go, "").unwrap();
    assert_eq!(running.wait().code, 0);
}

/// Rows 8 and 125: what the role may not see, with the SQL that mends it.
#[test]
fn preflight_names_what_is_wrong_and_the_sql_that_mends_it() {
    let server = Postgres::shared();
    let source = server.create_database("preflight");
    server.psql(
        "postgres",
        "DROP ROLE IF EXISTS weak; CREATE ROLE weak LOGIN PASSWORD 'dummy-weak'",
    );
    source.psql("CREATE TABLE hidden (owner name); INSERT INTO hidden VALUES ('me'); ALTER TABLE hidden ENABLE ROW LEVEL SECURITY; GRANT SELECT ON hidden TO weak");
    source.psql("CREATE TABLE forbidden (i integer)");
    let url = server.url_as("weak", "dummy-weak", &source.name);
    let mut pgseal = Pgseal::new();
    let said = pgseal.fails(5, &["backup", &url]);
    for word in [
        "policies hide rows",
        "ALTER ROLE \"weak\" BYPASSRLS",
        "may not read public.forbidden",
        "GRANT pg_read_all_data TO \"weak\"",
    ] {
        assert!(said.contains(word), "{word}: {said}");
    }
    assert_eq!(pgseal.stored(), Vec::<String>::new());
    let run = pgseal.run(&["doctor", &url, "--json"]);
    let findings: serde_json::Value = serde_json::from_slice(&run.stdout).unwrap();
    let severity = |subject: &str| {
        let finding = findings
            .as_array()
            .unwrap()
            .iter()
            .find(|finding| finding["subject"] == subject)
            .unwrap();
        finding["severity"].as_str().unwrap().to_owned()
    };
    assert_eq!(run.code, 5);
    assert_eq!(
        ["store", "row security", "privileges", "role"].map(severity),
        ["ok", "PROBLEM", "PROBLEM", "warning"]
    );
    source.psql("ALTER ROLE weak BYPASSRLS; GRANT pg_read_all_data TO weak");
    let made = pgseal.json(&["backup", &url]);
    assert_eq!(made["row_count"], 1);
    pgseal.ok(&["doctor", &url]);
    pgseal.set("BACKUP_STORE", "file:/proc/nowhere");
    pgseal.fails(5, &["doctor", &url]);
    source.psql("DROP OWNED BY weak; DROP ROLE weak");
}

/// Row 7: a client that is too old is passed over.
#[test]
fn clients_are_chosen_by_version() {
    let source = Postgres::shared().create_database("versions");
    let old = clients(None, None);
    let fake = |major: &str| format!("#!/bin/sh\necho 'pg_dump (PostgreSQL) {major}.1'\n");
    std::fs::remove_file(old.path().join("pg_dump")).unwrap();
    std::fs::write(old.path().join("pg_dump"), fake("13")).unwrap();
    crate::harness::run(
        std::process::Command::new("chmod")
            .arg("755")
            .arg(old.path().join("pg_dump")),
    );
    let mut pgseal = Pgseal::new();
    pgseal.with_clients(old.path());
    // 13 is there, but too old for a server of 15: the real one is taken.
    let made = pgseal.json(&["backup", &source.url]);
    assert!(
        made["pg_dump_version"]
            .as_str()
            .unwrap()
            .contains("(PostgreSQL) 15.")
    );
    let doctor = pgseal.ok(&["doctor", &source.url]);
    assert!(
        doctor.contains("PostgreSQL 13 in ") && doctor.contains(", 15 in "),
        "{doctor}"
    );
}

#[test]
fn json_has_the_promised_fields() {
    let source = Postgres::shared().create_database("fields");
    let pgseal = Pgseal::new();
    let made = pgseal.json(&["backup", &source.url]);
    let promised = [
        "name",
        "object_key",
        "kind",
        "database",
        "started_at",
        "finished_at",
        "plain_bytes",
        "plain_sha256",
        "sealed_bytes",
        "sealed_sha256",
        "compression",
        "table_count",
        "row_count",
        "labels",
        "warnings",
    ];
    for field in promised {
        assert!(!made[field].is_null(), "{field} is missing: {made}");
    }
    let sealed = std::fs::read(pgseal.store().join(made["object_key"].as_str().unwrap())).unwrap();
    assert_eq!(made["sealed_bytes"], sealed.len());
    assert_eq!(
        made["sealed_sha256"],
        pgseal::seal::Digester::of(&sealed).to_string()
    );
}

#[test]
fn a_signal_ends_a_restore_cleanly() {
    let server = Postgres::shared();
    let source = server.create_database("stopped");
    source.psql("CREATE TABLE t AS SELECT generate_series(1, 10) i");
    let mut pgseal = Pgseal::new();
    pgseal.ok(&["backup", &source.url]);
    // It loads everything, and then never ends: for pgseal the load is still going on.
    let slow = clients(
        None,
        Some(
            "case \"$*\" in *--dbname*) \"$REAL\" \"$@\"; sleep 1000 & wait;; *) exec \"$REAL\" \"$@\";; esac",
        ),
    );
    pgseal.with_clients(slow.path());
    let target = server.name("stopped_copy");
    let running = pgseal.start(&["restore", "latest", "--to", &target.url, "--mode", "new"]);
    let working = || {
        server
            .databases()
            .into_iter()
            .find(|name| name.contains("stopped_copy"))
    };
    let loaded =
        |name: &str| server.psql(name, "SELECT count(*) FROM pg_class WHERE relname = 't'") == "1";
    while !working().is_some_and(|name| loaded(&name)) {}
    running.signal(rustix::process::Signal::TERM);
    let ended = running.wait();
    assert_eq!(ended.code, 143, "{ended}");
    assert_eq!(working(), None);
    assert_eq!(pgseal.leftovers(), Vec::<String>::new());
}

/// Row 127: a pooler in transaction mode is told by two sessions that share one server process.
#[test]
fn a_transaction_pooler_is_refused_by_name() {
    let server = Postgres::shared();
    let source = server.create_database("pooled");
    let pooler = Pooler::start(server);
    let url = source.url.replace(
        &format!(":{}/", server.port()),
        &format!(":{}/", pooler.port),
    );
    let pgseal = Pgseal::new();
    let said = pgseal.fails(5, &["backup", &url]);
    assert!(
        said.contains("transaction pooler") && said.contains("connect to PostgreSQL itself"),
        "{said}"
    );
    pgseal.ok(&["backup", &source.url]);
    let said = pgseal.fails(
        5,
        &["restore", "latest", "--to", &url, "--mode", "in-place"],
    );
    assert!(said.contains("transaction pooler"), "{said}");
}

/// PgBouncer in transaction mode before a server. Dropping it ends it.
struct Pooler {
    process: std::process::Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Pooler {
    fn start(server: &Postgres) -> Self {
        let folder = crate::harness::folder();
        let port = crate::harness::postgres::free_port();
        let (users, settings) = (
            folder.path().join("users"),
            folder.path().join("pgbouncer.ini"),
        );
        std::fs::write(
            &users,
            format!("\"postgres\" \"{}\"\n", crate::harness::postgres::PASSWORD),
        )
        .unwrap();
        let text = format!(
            "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = scram-sha-256\nauth_file = {}\npool_mode = transaction\ndefault_pool_size = 1\nlogfile = {}\n\
             ignore_startup_parameters = extra_float_digits,options\n",
            server.port(),
            users.display(),
            folder.path().join("log").display()
        );
        std::fs::write(&settings, text).unwrap();
        let mut command = std::process::Command::new("/usr/sbin/pgbouncer");
        if crate::harness::postgres::is_root() {
            crate::harness::run(
                std::process::Command::new("chown")
                    .args(["-R", "postgres"])
                    .arg(folder.path()),
            );
            command.args(["--user", "postgres"]);
        }
        let process = command
            .arg(&settings)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        Self {
            process,
            port,
            _folder: folder,
        }
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _killed = self.process.kill();
        let _ended = self.process.wait();
    }
}
