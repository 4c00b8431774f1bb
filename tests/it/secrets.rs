//! No secret in a command line, a child's environment, a log, an error or a plain object, looked at while it runs; and no
//! program but pg_dump and pg_restore.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Signal;

use crate::harness::cli::{PASSPHRASE, Pgseal, Running, clients, files};
use crate::harness::gpg::Gpg;
use crate::harness::postgres::{PASSWORD, Postgres, is_root};
use crate::harness::s3::{ACCESS_KEY, Action, COPY_SECRET_KEY, S3Server, SECRET_KEY};
use crate::harness::watch::{Seen, Watcher, descendants};
use crate::harness::{fixture, run};

const OLD_PASSPHRASE: &str = "dummy-old-canary";
const SESSION_TOKEN: &str = "dummy-session-canary";
const SSL_PASSWORD: &str = "dummy-ssl-canary";
const UNUSED_PASSWORD: &str = "dummy-unused-canary";
/// In the address or the login of each channel that tells what happened; nobody is there.
const CHANNEL_SECRETS: [&str; 5] = [
    "dummy-mail-canary",
    "dummy-hook-canary",
    "dummy-signing-canary",
    "dummy-chat-canary",
    "dummy-ping-canary",
];

/// The value of every setting that is a secret.
const CANARIES: [&str; 13] = [
    PASSWORD,
    PASSPHRASE,
    SECRET_KEY,
    COPY_SECRET_KEY,
    OLD_PASSPHRASE,
    SESSION_TOKEN,
    SSL_PASSWORD,
    UNUSED_PASSWORD,
    CHANNEL_SECRETS[0],
    CHANNEL_SECRETS[1],
    CHANNEL_SECRETS[2],
    CHANNEL_SECRETS[3],
    CHANNEL_SECRETS[4],
];

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

/// No file of these folders holds a secret, in its name or in its bytes.
fn assert_no_secret_in(folder: &std::path::Path) {
    for name in files(folder) {
        let bytes = std::fs::read(folder.join(&name)).unwrap();
        for canary in CANARIES {
            let found = bytes
                .windows(canary.len())
                .any(|window| window == canary.as_bytes());
            assert!(!found && !name.contains(canary), "{canary} in {name}");
        }
    }
}

/// Every secret there is, each a canary, in the settings of a bucket that works.
fn with_every_secret(s3: &S3Server, second: &S3Server, database_url: &str) -> Pgseal {
    let mut pgseal = s3.pgseal();
    second.set_up_copy(&mut pgseal);
    // Outside of the folders that are searched.
    let old = pgseal.file("old-passphrases");
    std::fs::write(&old, format!("{OLD_PASSPHRASE}\n")).unwrap();
    pgseal
        .set(
            "DATABASE_URL",
            format!("{database_url}?sslmode=disable&sslpassword={SSL_PASSWORD}"),
        )
        .set("PGPASSWORD", UNUSED_PASSWORD)
        .set("BACKUP_GPG_OLD_PASSPHRASES_FILE", &old);
    let [mail, hook, signing, chat, ping] = CHANNEL_SECRETS;
    pgseal
        .set("BACKUP_SMTP_URL", format!("smtp://box:{mail}@127.0.0.1:1"))
        .set("BACKUP_NOTIFY_FROM", "from@example.com")
        .set("BACKUP_NOTIFY_TO", "to@example.com")
        .set(
            "BACKUP_NOTIFY_WEBHOOK_URL",
            format!("http://127.0.0.1:1/{hook}"),
        )
        .set("BACKUP_NOTIFY_WEBHOOK_SECRET", signing)
        .set(
            "BACKUP_NOTIFY_SLACK_URL",
            format!("http://127.0.0.1:1/{chat}"),
        )
        .set("BACKUP_PING_URL", format!("http://127.0.0.1:1/{ping}"));
    // The SDK's own variables have a token, which ours have not.
    pgseal
        .unset("BACKUP_S3_ACCESS_KEY_ID")
        .unset("BACKUP_S3_SECRET_ACCESS_KEY")
        .set("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        .set("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        .set("AWS_SESSION_TOKEN", SESSION_TOKEN);
    pgseal
}

/// Rows 110, 111 and 112: every command, in success and in failure, with everything that it can say: no secret in what it
/// says, in a command line, in a child's environment, in a file that it leaves, or in the manifest.
#[test]
fn no_command_gives_a_secret_away() {
    let server = Postgres::shared();
    let source = server.database_from("every_secret", &fixture("bulk.sql"), &["rows=500"]);
    let (s3, second) = (S3Server::start(), S3Server::start());
    let mut pgseal = with_every_secret(&s3, &second, &source.url);
    let try_all = |pgseal: &Pgseal, commands: &[(&[&str], i32)]| {
        for (arguments, code) in commands {
            let arguments = [arguments, ["-vv"].as_slice()].concat();
            let (seen, said) = watched(pgseal, &arguments, *code);
            assert_no_secret(&seen, &said);
            for folder in ["tmp", "spool", "home", "store"] {
                assert_no_secret_in(&pgseal.file(folder));
            }
            assert_no_secret_in(&s3.bucket());
            assert_no_secret_in(&second.bucket());
        }
    };
    let has_token = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&has_token);
    s3.hook(move |call| {
        let token = call.headers.get("x-amz-security-token");
        seen.fetch_or(
            token.is_some_and(|token| token == SESSION_TOKEN),
            Ordering::Relaxed,
        );
        Action::Pass
    });
    let copy = server.name("every_secret_copy");
    let (new_url, in_place_url) = (
        server.url_as("postgres", "", &copy.name),
        server.url_as("postgres", "", &source.name),
    );
    let dump = pgseal.file("home/fetched.dump");
    let new = ["restore", "latest", "--to", &new_url, "--mode", "new"];
    let in_place = [
        "restore",
        "latest",
        "--to",
        &in_place_url,
        "--mode",
        "in-place",
    ];
    try_all(
        &pgseal,
        &[
            (&["backup", "--label", "a=b"], 0),
            (&["list"], 0),
            (&["doctor"], 0),
            (&["notify", "test"], 1),
        ],
    );
    let (shown, contents) = (["show", "latest"], ["show", "latest", "--contents"]);
    try_all(
        &pgseal,
        &[(&shown, 0), (&contents, 0), (&["verify", "latest"], 0)],
    );
    try_all(
        &pgseal,
        &[(&["fetch", "latest", "-o", dump.to_str().unwrap()], 0)],
    );
    // The target has another URL than the source, so that here the variable's password is used, which is a wrong one.
    try_all(&pgseal, &[(&new, 5), (&in_place, 5)]);
    pgseal.set("PGPASSWORD", PASSWORD);
    try_all(&pgseal, &[(&new, 0), (&in_place, 0)]);

    assert!(has_token.load(Ordering::Relaxed), "the token is not used");
    let made = pgseal.json(&["show", "latest"]);
    let manifest = made["object_key"]
        .as_str()
        .unwrap()
        .replace(".dump.", ".manifest.");
    let manifest = Gpg::new().decrypt(&s3.bucket().join(&manifest), PASSPHRASE);
    let manifest = String::from_utf8(manifest).unwrap();
    assert!(manifest.contains("customers"), "{manifest}");
    for canary in CANARIES {
        assert!(!manifest.contains(canary), "{canary} in {manifest}");
    }

    // In failure: nothing of that name, a server that is gone, a store that says no, a dump that was cut where the OpenPGP
    // library panics, and a passphrase that opens nothing.
    let nothing = ["verify", "backup_none"];
    try_all(&pgseal, &[(&nothing, 3), (&["delete", "backup_none"], 3)]);
    let gone = "postgres://postgres:dummy-pg-canary@127.0.0.1:1/gone?connect_timeout=2";
    pgseal.set("DATABASE_URL", gone);
    try_all(&pgseal, &[(&["backup"], 5), (&["doctor"], 5)]);
    pgseal.set("DATABASE_URL", &source.url);
    s3.hook(|call| match call.operation {
        "PutObject" => Action::Answer(403, "<Error><Code>AccessDenied</Code></Error>"),
        _ => Action::Pass,
    });
    try_all(&pgseal, &[(&["backup"], 1), (&["doctor"], 5)]);
    s3.hook(|_| Action::Pass);
    let cut = s3.bucket().join("backups/prod/cut.gpg");
    let sealed = std::fs::read(s3.bucket().join(made["object_key"].as_str().unwrap())).unwrap();
    std::fs::write(&cut, &sealed[..45]).unwrap();
    try_all(
        &pgseal,
        &[(&["verify", "cut"], 4), (&["fetch", "cut", "-o", "-"], 4)],
    );
    let passphrase = "dummy-another-passphrase";
    pgseal.set("BACKUP_GPG_PASSPHRASE", passphrase);
    try_all(
        &pgseal,
        &[
            (&["verify", "latest"], 4),
            (&in_place, 4),
            (&["list"], 0),
            (&["doctor"], 5),
        ],
    );
    pgseal.set("BACKUP_GPG_PASSPHRASE", PASSPHRASE);
    try_all(&pgseal, &[(&["delete", "latest"], 0)]);
}

/// Row 81: a crash writes no memory to the disk, neither ours nor a child's, although the shell that started us asked for it;
/// and another process of the same user sees neither our memory nor our environment.
#[test]
fn a_crash_and_a_neighbour_see_no_secret() {
    let server = Postgres::shared();
    let source = server.create_database("crash");
    let slow = clients(Some("\"$REAL\" \"$@\"; sleep 1000 & wait"), None);
    let mut pgseal = Pgseal::new();
    pgseal
        .with_clients(slow.path())
        .set("DATABASE_URL", &source.url);
    // Where the tests run in a script's background, SIGQUIT is ignored in all that they start.
    let dumps_core = [
        "env",
        "--default-signal=QUIT",
        "sh",
        "-c",
        "ulimit -c unlimited; exec \"$@\"",
        "sh",
    ];
    let core_files = |pgseal: &Pgseal| -> Vec<String> {
        let all = std::fs::read_dir(pgseal.file(".")).unwrap().flatten();
        let names = all.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with("core")).collect()
    };
    for signal in [Signal::ABORT, Signal::QUIT, Signal::TRAP] {
        let running = pgseal.inside(&dumps_core, &["backup"]);
        let children = dumping(&running);
        for pid in &children {
            // One that has ended meanwhile gives nothing away.
            let Ok(limits) = std::fs::read_to_string(format!("/proc/{pid}/limits")) else {
                assert_ne!(*pid, running.pid());
                continue;
            };
            let core = limits
                .lines()
                .find(|line| line.starts_with("Max core file size"));
            let words: Vec<_> = core.unwrap().split_whitespace().collect();
            assert_eq!(words[4..6], ["0", "0"], "process {pid}: {core:?}");
        }
        // We first: a child's end would be an error of the backup.
        for pid in &children {
            let process = rustix::process::Pid::from_raw(i32::try_from(*pid).unwrap()).unwrap();
            let sent = rustix::process::kill_process(process, signal);
            assert!(sent.is_ok() || *pid != running.pid(), "{sent:?}");
        }
        let ended = running.wait();
        assert_eq!(ended.code, -1, "{ended}");
        assert_eq!(core_files(&pgseal), Vec::<String>::new(), "{signal:?}");
    }
    // The same way, a program that does not mind leaves one, where this machine writes them beside the program.
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    if !pattern.starts_with(['|', '/']) {
        let mut careless = Command::new("sh");
        careless.args(["-c", "ulimit -c unlimited; kill -ABRT $$"]);
        let _killed = careless.current_dir(pgseal.file(".")).output().unwrap();
        assert_eq!(core_files(&pgseal).len(), 1, "the test would not see one");
    }

    // As somebody who is not root, for whom alone there are limits.
    let user = [
        "setpriv",
        "--reuid=postgres",
        "--regid=postgres",
        "--clear-groups",
    ];
    let user: &[&str] = if is_root() { &user } else { &["env"] };
    let program = pgseal.file("pgseal");
    std::fs::copy(env!("CARGO_BIN_EXE_pgseal"), &program).unwrap();
    if is_root() {
        let home = pgseal.file(".");
        run(Command::new("chown").args(["-R", "postgres"]).arg(home));
        run(Command::new("chmod").arg("755").arg(slow.path()));
    }
    let copied = [
        "sh",
        "-c",
        "copy=$0; shift; exec \"$copy\" \"$@\"",
        program.to_str().unwrap(),
    ];
    let running = pgseal.inside(&[user, copied.as_slice()].concat(), &["backup"]);
    let pid = dumping(&running)[0];
    let look = |pid: u32, file: &str| {
        let mut command = Command::new(user[0]);
        let path = format!("/proc/{pid}/{file}");
        // One byte: the beginning of the memory is not mapped, but it can be opened.
        command
            .args(&user[1..])
            .args(["sh", "-c", "exec 3<\"$0\"", &path]);
        command.output().unwrap().status.success()
    };
    let mut neighbour = Command::new(user[0]);
    let mut neighbour = neighbour
        .args(&user[1..])
        .args(["sleep", "1000"])
        .spawn()
        .unwrap();
    while descendants(neighbour.id()).len() != 1 || !look(neighbour.id(), "environ") {
        assert!(
            neighbour.try_wait().unwrap().is_none(),
            "the neighbour is gone"
        );
    }
    for file in ["environ", "mem", "maps", "auxv"] {
        assert!(
            look(neighbour.id(), file),
            "{file} of others cannot be opened either"
        );
        assert!(!look(pid, file), "{file} can be opened");
    }
    neighbour.kill().unwrap();
    neighbour.wait().unwrap();
    running.signal(Signal::TERM);
    assert_eq!(running.wait().code, 143);
}

/// Waits until a backup has started its pg_dump, and that its pause: the process and everything below it.
fn dumping(running: &Running) -> Vec<u32> {
    loop {
        let family = descendants(running.pid());
        let pauses = |pid: &u32| {
            std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "sleep\n")
        };
        if family.iter().any(pauses) {
            return family;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// Rows 110, 111 and 112.
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

/// Rows 8 and 110: what a server or a program repeats of a secret is not passed on.
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
