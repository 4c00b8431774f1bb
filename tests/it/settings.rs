//! Half a configuration, and slips of the pen: each is refused by the name of its setting before anything is started.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use serde_json::Value;

use crate::harness::cli::{Pgseal, clients};
use crate::harness::postgres::{Postgres, free_port};
use crate::harness::s3::{Action, BUCKET, S3Server};
use crate::harness::service::Service;

/// What is changed in settings that work (`None`: taken away), the exit code, and what must be said.
type Slip = (
    &'static [(&'static str, Option<&'static str>)],
    i32,
    &'static str,
);

const SLIPS: &[Slip] = &[
    // Half of a bucket. Backups must not go to the machine's own disk instead.
    (&[("BACKUP_S3_BUCKET", None)], 5, "BACKUP_S3_BUCKET"),
    (&[("BACKUP_S3_BUCKET", Some(""))], 5, "BACKUP_S3_BUCKET"),
    (
        &[
            ("BACKUP_S3_BUCKET", None),
            ("BACKUP_S3_ENDPOINT_URL", None),
            ("BACKUP_S3_ACCESS_KEY_ID", None),
        ],
        5,
        "BACKUP_S3_BUCKET",
    ),
    (
        &[("BACKUP_S3_ACCESS_KEY_ID", None)],
        5,
        "both BACKUP_S3_ACCESS_KEY_ID and",
    ),
    (
        &[("BACKUP_S3_SECRET_ACCESS_KEY", None)],
        5,
        "BACKUP_S3_SECRET_ACCESS_KEY, or neither",
    ),
    (
        &[("BACKUP_S3_SECRET_ACCESS_KEY", Some(""))],
        5,
        "BACKUP_S3_SECRET_ACCESS_KEY, or neither",
    ),
    (
        &[("BACKUP_S3_SECRET_ACCESS_KEY", Some("dummy-of-another"))],
        5,
        "check BACKUP_S3_ACCESS_KEY_ID",
    ),
    (
        &[
            ("BACKUP_S3_SECRET_ACCESS_KEY", None),
            ("BACKUP_S3_SECRET_ACCESS_KEY_FILE", Some("/dev/null")),
        ],
        5,
        "BACKUP_S3_SECRET_ACCESS_KEY_FILE names, /dev/null, has an empty",
    ),
    (
        &[("BACKUP_S3_BUCKET", Some("no-such-bucket"))],
        5,
        "BACKUP_S3_BUCKET",
    ),
    (
        &[("BACKUP_S3_BUCKET", Some("bucket/folder"))],
        5,
        "BACKUP_PREFIX",
    ),
    (
        &[
            ("BACKUP_STORE", Some("s3://bucket/folder")),
            ("BACKUP_S3_BUCKET", None),
        ],
        5,
        "BACKUP_PREFIX",
    ),
    (
        &[("BACKUP_STORE", Some("s3://another"))],
        5,
        "name different buckets",
    ),
    (
        &[("BACKUP_STORE", Some("s3:")), ("BACKUP_S3_BUCKET", None)],
        5,
        "BACKUP_S3_BUCKET",
    ),
    (
        &[("BACKUP_STORE", Some("ftp://host"))],
        5,
        "BACKUP_STORE is neither",
    ),
    (
        &[("BACKUP_STORE", Some("file:"))],
        5,
        "BACKUP_STORE names no folder",
    ),
    // The second store is read by the same code, and each error has its names.
    (
        &[(
            "BACKUP_COPY_S3_ENDPOINT_URL",
            Some("https://s3.example.com"),
        )],
        5,
        "set BACKUP_COPY_S3_BUCKET",
    ),
    (
        &[
            ("BACKUP_COPY_S3_BUCKET", Some("another")),
            ("BACKUP_COPY_S3_ACCESS_KEY_ID", Some("dummy")),
        ],
        5,
        "BACKUP_COPY_S3_SECRET_ACCESS_KEY, or neither",
    ),
    (
        &[
            ("BACKUP_COPY_S3_BUCKET", Some("another")),
            ("BACKUP_COPY_S3_SECRET_ACCESS_KEY", Some("dummy")),
            ("BACKUP_COPY_S3_SECRET_ACCESS_KEY_FILE", Some("/dev/null")),
        ],
        5,
        "BACKUP_COPY_S3_SECRET_ACCESS_KEY_FILE are both set",
    ),
    (
        &[("BACKUP_COPY_STORE", Some("ftp://host"))],
        5,
        "BACKUP_COPY_STORE is neither",
    ),
    (
        &[("BACKUP_COPY_STORE", Some("file:"))],
        5,
        "BACKUP_COPY_STORE names no folder",
    ),
    (
        &[
            ("BACKUP_COPY_STORE", Some("s3://another")),
            ("BACKUP_COPY_S3_ENDPOINT_URL", Some("http://192.0.2.1")),
        ],
        5,
        "its settings are called BACKUP_COPY_S3_",
    ),
    (
        &[("BACKUP_COPY_STOR", Some("file:/tmp"))],
        5,
        "did you mean BACKUP_COPY_STORE",
    ),
    (
        &[("BACKUP_S3_ENDPOINT_URL", Some("127.0.0.1:9000"))],
        5,
        "BACKUP_S3_ENDPOINT_URL",
    ),
    (
        &[("BACKUP_S3_ENDPOINT_URL", Some("htps://s3.example.com"))],
        5,
        "BACKUP_S3_ENDPOINT_URL",
    ),
    (
        &[("BACKUP_S3_ENDPOINT_URL", Some("https://h:port"))],
        5,
        "BACKUP_S3_ENDPOINT_URL",
    ),
    (
        &[("BACKUP_S3_ENDPOINT_URL", Some("http://192.0.2.1"))],
        5,
        "BACKUP_S3_ALLOW_HTTP",
    ),
    (
        &[("BACKUP_S3_PATH_STYLE", Some("perhaps"))],
        2,
        "--s3-path-style",
    ),
    (
        &[("BACKUP_S3_ALLOW_HTTP", Some("perhaps"))],
        2,
        "--s3-allow-http",
    ),
    (&[("BACKUP_PREFIX", Some("../up"))], 5, "BACKUP_PREFIX"),
    (
        &[("BACKUP_ENVIRONMENT", Some("/"))],
        5,
        "BACKUP_ENVIRONMENT",
    ),
    (
        &[("BACKUP_SPOOL_DIR", Some("/nonexistent"))],
        5,
        "BACKUP_SPOOL_DIR names /nonexistent",
    ),
    // A setting that is there, under another name.
    (
        &[("BACKUP_S3_BUKET", Some(BUCKET))],
        5,
        "did you mean BACKUP_S3_BUCKET?",
    ),
    (
        &[("BACKUP_STROE", Some("file:x"))],
        5,
        "did you mean BACKUP_STORE?",
    ),
    (
        &[("BACKUP_GPG_PASPHRASE", Some("dummy"))],
        5,
        "did you mean BACKUP_GPG_PASSPHRASE?",
    ),
    (
        &[
            ("BACKUP_GPG_PASSPHRASE", None),
            ("BACKUP_GPG_PASSPHRASE_FIEL", Some("/dev/null")),
        ],
        5,
        "did you mean BACKUP_GPG_PASSPHRASE_FILE?",
    ),
    // Row 73: no passphrase, in every way there is.
    (
        &[("BACKUP_GPG_PASSPHRASE", None)],
        5,
        "set BACKUP_GPG_PASSPHRASE",
    ),
    (
        &[("BACKUP_GPG_PASSPHRASE", Some(""))],
        5,
        "set BACKUP_GPG_PASSPHRASE",
    ),
    (
        &[("BACKUP_GPG_PASSPHRASE", Some(" \t"))],
        5,
        "BACKUP_GPG_PASSPHRASE holds an empty or blank",
    ),
    (
        &[("BACKUP_GPG_PASSPHRASE_FILE", Some("/dev/null"))],
        5,
        "BACKUP_GPG_PASSPHRASE_FILE are both set",
    ),
    (
        &[
            ("BACKUP_GPG_PASSPHRASE", None),
            ("BACKUP_GPG_PASSPHRASE_FILE", Some("/dev/null")),
        ],
        5,
        "BACKUP_GPG_PASSPHRASE_FILE names, /dev/null, has an empty",
    ),
    (
        &[
            ("BACKUP_GPG_PASSPHRASE", None),
            ("BACKUP_GPG_PASSPHRASE_FILE", Some("/nonexistent")),
        ],
        5,
        "BACKUP_GPG_PASSPHRASE_FILE names, /nonexistent",
    ),
    (
        &[("BACKUP_GPG_OLD_PASSPHRASES_FILE", Some("/nonexistent"))],
        5,
        "BACKUP_GPG_OLD_PASSPHRASES_FILE",
    ),
    (
        &[("BACKUP_GPG_OLD_PASSPHRASES_FILE", Some("/tmp"))],
        5,
        "BACKUP_GPG_OLD_PASSPHRASES_FILE",
    ),
    // The database and how it is dumped.
    (&[("DATABASE_URL", None)], 5, "DATABASE_URL"),
    (
        &[("DATABASE_URL", Some("mysql://u@h/d"))],
        5,
        "read DATABASE_URL",
    ),
    (
        &[("DATABASE_URL", Some("postgres://u@h:543x/d"))],
        5,
        "read DATABASE_URL",
    ),
    (
        &[("DATABASE_URL", Some("postgres://h/d"))],
        5,
        "read DATABASE_URL",
    ),
    (
        &[("DATABASE_URL", Some("postgres://u@h/d?sslmod=require"))],
        5,
        "\"sslmod\"",
    ),
    (
        &[("DATABASE_URL_FILE", Some("/dev/null"))],
        5,
        "DATABASE_URL and DATABASE_URL_FILE are both set",
    ),
    (
        &[
            ("DATABASE_URL", None),
            ("DATABASE_URL_FILE", Some("/nonexistent")),
        ],
        5,
        "DATABASE_URL_FILE names, /nonexistent",
    ),
    (
        &[("BACKUP_PG_BINDIRS", Some("/nonexistent"))],
        5,
        "BACKUP_PG_BINDIRS names /nonexistent",
    ),
    (&[("BACKUP_ROW_COUNTS", Some("exakt"))], 2, "--row-counts"),
    (
        &[("BACKUP_COMPRESSION_LEVEL", Some("0"))],
        2,
        "--compression-level",
    ),
    (
        &[("BACKUP_COMPRESSION_LEVEL", Some("best"))],
        2,
        "--compression-level",
    ),
];

/// Settings of a bucket that work, with a pg_dump that leaves a trace when it dumps.
fn working(s3: &S3Server, database_url: &str) -> (Pgseal, tempfile::TempDir) {
    let trace = "touch \"$(dirname \"$0\")/started\"; exec \"$REAL\" \"$@\"";
    let programs = clients(Some(trace), None);
    let mut pgseal = s3.pgseal();
    pgseal
        .with_clients(programs.path())
        .set("DATABASE_URL", database_url);
    (pgseal, programs)
}

/// Rows 117 and 73: one line says which setting it is and what is wrong with it; nothing was started, nothing was stored, and
/// no folder was made for backups that nobody wanted there.
#[test]
fn each_slip_is_refused_by_its_name() {
    let source = Postgres::shared().create_database("slips");
    let s3 = S3Server::start();
    for (changes, code, said) in SLIPS {
        let (mut pgseal, programs) = working(&s3, &source.url);
        for (name, value) in *changes {
            match value {
                Some(value) => pgseal.set(name, value),
                None => pgseal.unset(name),
            };
        }
        s3.hook(|_| Action::Pass);
        let refused = pgseal.fails(*code, &["backup"]);
        let lines: Vec<&str> = refused
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with("hint: "))
            .collect();
        assert!(refused.contains(said), "{changes:?}: {refused}");
        assert_eq!(
            lines
                .iter()
                .filter(|line| line.starts_with("error: "))
                .count(),
            1,
            "{refused}"
        );
        // The line, at most two causes, and what clap adds to a flag's value.
        assert!(lines.len() <= 5, "{changes:?}: {refused}");
        assert!(
            !programs.path().join("started").exists(),
            "{changes:?}: pg_dump was started"
        );
        assert_eq!(
            (s3.calls("PutObject"), s3.calls("CreateMultipartUpload")),
            (0, 0),
            "{changes:?}"
        );
        assert_eq!(
            (s3.objects(), pgseal.stored()),
            (Vec::new(), Vec::new()),
            "{changes:?}"
        );
        for folder in ["pgseal-backups", "x"] {
            assert!(
                !pgseal.file(folder).exists(),
                "{changes:?}: a folder was made"
            );
        }
    }
    // The settings themselves are right; another program's variable, and an old or later one of ours, are nobody's business.
    let (mut pgseal, programs) = working(&s3, &source.url);
    pgseal
        .set("BACKUP_TOOL_FOLDER", "x")
        .set("BACKUP_RETENTION_DAYS", "30")
        .set("BACKUP_STORES", "");
    pgseal.unset("BACKUP_STORES").ok(&["backup"]);
    assert!(programs.path().join("started").exists());
}

/// Row 167: a folder that was mistyped, or whose disk is not mounted, is no store without backups, and becomes none.
#[test]
fn a_store_whose_folder_is_not_there_is_refused_and_never_made() {
    let source = Postgres::shared().create_database("no_folder");
    let mut pgseal = Pgseal::new();
    pgseal.set("DATABASE_URL", &source.url);
    let unmounted = pgseal.file("disk/pgseal");
    let file = pgseal.file("file");
    std::fs::write(&file, "").unwrap();
    for named in [&unmounted, &file] {
        pgseal.set("BACKUP_STORE", format!("file:{}", named.display()));
        let said = format!(
            "the folder {} of BACKUP_STORE is not there",
            named.display()
        );
        for command in [
            &["list"][..],
            &["backup"],
            &["verify", "latest"],
            &["prune"],
        ] {
            let refused = pgseal.fails(5, command);
            assert!(
                refused.contains(&said) && refused.contains("hint: create it, or mount the disk"),
                "{command:?}: {refused}"
            );
        }
        let doctor = pgseal.run(&["doctor"]);
        assert_eq!(doctor.code, 5, "{doctor}");
        let found = String::from_utf8(doctor.stdout).unwrap();
        assert!(
            found.contains("PROBLEM") && found.contains(&said),
            "{found}"
        );
    }
    assert!(!pgseal.file("disk").exists());
    assert_eq!(std::fs::read(&file).unwrap(), b"");
    // The one that stands in where none is named, nobody can mistype.
    pgseal.unset("BACKUP_STORE").ok(&["list"]);
    assert!(pgseal.file("pgseal-backups").is_dir());
    std::fs::create_dir_all(&unmounted).unwrap();
    pgseal.set("BACKUP_STORE", format!("file:{}", unmounted.display()));
    pgseal.ok(&["backup"]);
    assert!(unmounted.join("backups/prod").is_dir());
}

/// Row 73: a secret that is no text would be sealed with something that nobody can type; a short one is warned about, and used.
#[test]
fn a_passphrase_is_taken_as_it_is_or_not_at_all() {
    let source = Postgres::shared().create_database("passphrases");
    let mut pgseal = Pgseal::new();
    pgseal.set("DATABASE_URL", &source.url);
    pgseal.set(
        "BACKUP_GPG_PASSPHRASE",
        OsStr::from_bytes(b"dummy-\xff-passphrase-canary"),
    );
    let said = pgseal.fails(5, &["backup"]);
    assert!(
        said.contains("BACKUP_GPG_PASSPHRASE is not UTF-8") && !said.contains("canary"),
        "{said}"
    );
    assert_eq!(pgseal.stored(), Vec::<String>::new());
    pgseal.set("BACKUP_GPG_PASSPHRASE", "dummy-14-bytes");
    let short = pgseal.run(&["backup"]);
    assert!(
        short.code == 0 && short.stderr.contains("shorter than 15 characters"),
        "{short}"
    );
    let made = pgseal.json(&["show", "latest"]);
    let sealed = pgseal.store().join(made["object_key"].as_str().unwrap());
    let dump = crate::harness::gpg::Gpg::new().decrypt(&sealed, "dummy-14-bytes");
    assert_eq!(dump.len() as u64, made["plain_bytes"]);
    pgseal.set("BACKUP_GPG_PASSPHRASE", "dummy-15-bytes-");
    assert!(!pgseal.run(&["list"]).stderr.contains("shorter than"));
}

/// Row 117: the doctor writes, reads and deletes, leaves nothing, and sees each of the three fail, also where the store says
/// that all is well.
#[test]
fn the_doctor_tries_the_store_out() {
    let s3 = S3Server::start();
    let pgseal = s3.pgseal();
    s3.hook(|_| Action::Pass);
    pgseal.ok(&["doctor"]);
    for operation in ["HeadBucket", "PutObject", "GetObject", "DeleteObject"] {
        assert!(s3.calls(operation) >= 1, "{operation} was not tried");
    }
    assert_eq!(s3.objects(), Vec::<String>::new());
    let denied = "<Error><Code>AccessDenied</Code></Error>";
    for (operation, answer, said) in [
        (
            "PutObject",
            (403, denied),
            "the store refuses the credentials",
        ),
        (
            "GetObject",
            (403, denied),
            "the store refuses the credentials",
        ),
        (
            "DeleteObject",
            (403, denied),
            "the store refuses the credentials",
        ),
        ("DeleteObject", (204, ""), "delete"),
    ] {
        s3.hook(move |call| match answer {
            (status, body) if call.operation == operation => Action::Answer(status, body),
            _ => Action::Pass,
        });
        let sick = pgseal.run(&["doctor"]);
        let found = String::from_utf8_lossy(&sick.stdout);
        let store = found
            .lines()
            .find(|line| line.contains("store: "))
            .unwrap_or_default();
        assert_eq!(sick.code, 5, "{operation}: {sick}");
        assert!(
            store.starts_with("PROBLEM") && store.contains(said),
            "{operation}: {sick}"
        );
    }
    s3.hook(|call| match call.operation {
        "GetObject" => Action::Flip(1),
        _ => Action::Pass,
    });
    let sick = pgseal.run(&["doctor"]);
    let found = String::from_utf8_lossy(&sick.stdout).into_owned();
    assert!(sick.code == 5 && found.contains("did not give"), "{sick}");
}

/// Row 174: what workers, the API and timers need is looked at where it is set, each finding with its fix.
#[test]
fn the_doctor_asks_everything_that_is_set() {
    let server = Postgres::shared();
    let mut service = Service::start();
    let pgseal = &mut service.pgseal;
    let secret = pgseal.file("jwt-secret");
    std::fs::write(&secret, "dummy-secret-of-more-than-32-bytes-0123456789").unwrap();
    pgseal
        .set("JWT_SECRET_FILE", &secret)
        .set("BACKUP_SCHEDULE", "30 2 * * *")
        .set("BACKUP_DRILL_SCHEDULE", "0 4 * * SUN")
        .set("BACKUP_DRILL_DATABASE_URL", server.url("postgres"));
    let found = |pgseal: &Pgseal, subject: &str| -> Value {
        let run = pgseal.run(&["doctor", "--json"]);
        let found: Vec<Value> = serde_json::from_slice(&run.stdout).unwrap();
        let worst = found.iter().any(|one| one["severity"] == "PROBLEM");
        assert_eq!(run.code, if worst { 5 } else { 0 }, "{run}");
        let mut of_it = found.into_iter().filter(|one| one["subject"] == subject);
        of_it.next().unwrap_or_default()
    };
    for subject in [
        "catalog",
        "redis",
        "tokens",
        "schedule",
        "drill schedule",
        "drill server",
        "drill role",
    ] {
        assert_eq!(found(pgseal, subject)["severity"], "ok", "{subject}");
    }
    pgseal.unset("BACKUP_SCHEDULE");
    let none = found(pgseal, "schedule");
    assert_eq!(none["severity"], "warning", "{none}");
    pgseal.set("BACKUP_SCHEDULE", "30 2 * * *");
    let due = found(pgseal, "schedule")["found"].to_string();
    assert!(due.contains("02:30:00 UTC"), "{due}");

    let nobody = free_port();
    let dead = format!("postgres://postgres@127.0.0.1:{nobody}/postgres");
    let role = service.database.name.replace("job", "drills_for");
    server.psql(
        "postgres",
        &format!("CREATE ROLE {role} LOGIN CREATEDB PASSWORD 'dummy'"),
    );
    let weak = server.url_as(&role, "dummy", "postgres");
    let redis = format!("redis://127.0.0.1:{nobody}/0");
    for (setting, value, subject, severity, said) in [
        (
            "CATALOG_DATABASE_URL",
            dead.as_str(),
            "catalog",
            "PROBLEM",
            "connect to",
        ),
        ("REDIS_URL", &redis, "redis", "PROBLEM", "does not answer"),
        (
            "JWT_SECRET_FILE",
            "/nowhere/secret",
            "tokens",
            "PROBLEM",
            "/nowhere/secret",
        ),
        (
            "BACKUP_SCHEDULE",
            "every night",
            "schedule",
            "PROBLEM",
            "BACKUP_SCHEDULE",
        ),
        (
            "BACKUP_DRILL_DATABASE_URL",
            &dead,
            "drill server",
            "PROBLEM",
            "connect to",
        ),
        (
            "BACKUP_DRILL_DATABASE_URL",
            "",
            "drill schedule",
            "PROBLEM",
            "BACKUP_DRILL_DATABASE_URL",
        ),
        (
            "BACKUP_DRILL_DATABASE_URL",
            &weak,
            "drill role",
            "warning",
            "CREATEROLE",
        ),
    ] {
        let before = pgseal.get(setting).to_owned();
        pgseal.set(setting, value);
        let found = found(pgseal, subject);
        pgseal.set(setting, before);
        assert_eq!(found["severity"], severity, "{setting}: {found}");
        assert!(found.to_string().contains(said), "{setting}: {found}");
        assert_ne!(found["fix"], "", "{setting}: {found}");
    }
    server.psql("postgres", &format!("DROP ROLE {role}"));
    // Whoever sets none of it needs none of it, nor may look at a catalog that is not there.
    let mut pgseal = Pgseal::new();
    let database = service.database.name.replace("job", "alone");
    server.psql(
        "postgres",
        &format!("CREATE ROLE {database} LOGIN PASSWORD 'dummy'"),
    );
    server.psql(
        "postgres",
        &format!("CREATE DATABASE {database} OWNER {database}"),
    );
    pgseal.set("DATABASE_URL", server.url_as(&database, "dummy", &database));
    for subject in ["catalog", "redis", "tokens", "drill server"] {
        assert_eq!(found(&pgseal, subject), Value::Null, "{subject}");
    }
}

/// Row 117: a bucket without keys, on a machine that has none of its own.
#[test]
fn a_bucket_without_credentials_is_said_with_the_settings_that_are_missing() {
    let s3 = S3Server::start();
    let mut pgseal = s3.pgseal();
    pgseal
        .unset("BACKUP_S3_ACCESS_KEY_ID")
        .unset("BACKUP_S3_SECRET_ACCESS_KEY")
        .set("AWS_EC2_METADATA_DISABLED", "true");
    s3.hook(|_| Action::Pass);
    let said = pgseal.fails(5, &["list"]);
    assert!(
        said.contains("no request can be made") && said.contains("BACKUP_S3_ACCESS_KEY_ID"),
        "{said}"
    );
    assert_eq!(s3.operations(), Vec::<&str>::new());
}
