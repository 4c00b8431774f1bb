//! No dump that failed in any way ever looks like a backup: no object, no manifest, no upload, no stage file, no child.

use rustix::process::Signal;

use crate::harness::cli::{Pgseal, clients};
use crate::harness::fixture;
use crate::harness::postgres::{Database, Postgres};
use crate::harness::s3::{Action, S3Server};
use crate::harness::somebody::{Somebody, until};
use crate::harness::watch::{descendants, is_alive};

/// The store as it was: nothing in it, nothing beside it.
fn assert_nothing_left(pgseal: &Pgseal, what: &str) {
    assert_eq!(pgseal.stored(), Vec::<String>::new(), "{what}");
    assert_eq!(pgseal.leftovers(), Vec::<String>::new(), "{what}");
    assert_eq!(pgseal.json(&["list"]), serde_json::json!([]), "{what}");
}

fn source(prefix: &str) -> Database<'static> {
    Postgres::shared().database_from(prefix, &fixture("bulk.sql"), &["rows=30000"])
}

/// A pg_dump of the test's own, and what pgseal must say of it (one of several words, where two sides can be first).
const BROKEN_DUMPS: [(&str, &str, &str); 9] = [
    (
        "fails at once",
        "echo 'pg_dump: error: no such thing' >&2; exit 1",
        "no such thing",
    ),
    (
        "fails after 90 percent",
        "\"$REAL\" \"$@\" | head -c 8000000; echo 'pg_dump: error: lost it' >&2; exit 1",
        "lost it",
    ),
    (
        "fails after the last byte",
        "\"$REAL\" \"$@\"; exit 3",
        "exit code 3",
    ),
    (
        "is killed",
        "\"$REAL\" \"$@\" | head -c 3000000; kill -9 $$",
        "signal 9",
    ),
    (
        "is terminated",
        "\"$REAL\" \"$@\" | head -c 3000000; kill -15 $$",
        "signal 15",
    ),
    (
        "succeeds without a word",
        "exit 0",
        "is no archive|could not read",
    ),
    (
        "writes no archive",
        "echo 'this is not an archive'; exit 0",
        "is no archive|input file",
    ),
    (
        "succeeds after half of the list",
        "\"$REAL\" \"$@\" | head -c 900; exit 0",
        "could not read",
    ),
    (
        "floods stderr and fails",
        "yes 'pg_dump: error: flood' | head -c 5000000 >&2; exit 1",
        "flood",
    ),
];

/// Rows 1, 2, 4 and 6.
#[test]
fn a_pg_dump_that_fails_leaves_nothing() {
    let source = source("broken");
    for (what, script, said) in BROKEN_DUMPS {
        let programs = clients(Some(script), None);
        let mut pgseal = Pgseal::new();
        pgseal.with_clients(programs.path());
        let error = pgseal.fails(1, &["backup", &source.url]);
        assert!(
            said.split('|').any(|said| error.contains(said)),
            "{what}: {error}"
        );
        assert!(
            error.contains("error: dump the database") || error.contains("error: list what"),
            "{what}: {error}"
        );
        assert_nothing_left(&pgseal, what);
    }
}

/// Row 1: when parts are on their way already.
#[test]
fn a_pg_dump_that_fails_leaves_nothing_in_a_bucket() {
    let source = source("broken_s3");
    // Slow enough that parts are on their way when it fails; random, so that they do not shrink.
    let script = "\"$REAL\" \"$@\" | head -c 200000; head -c 30000000 /dev/urandom; sleep 2; echo 'pg_dump: error: lost it' >&2; exit 1";
    let programs = clients(Some(script), None);
    let s3 = S3Server::start();
    let mut pgseal = s3.pgseal();
    pgseal.with_clients(programs.path());
    let error = pgseal.fails(1, &["backup", &source.url]);
    assert!(error.contains("lost it"), "{error}");
    let parts = s3.calls("UploadPart");
    assert!(parts >= 2, "only {parts} parts were on their way");
    assert_eq!(s3.calls("AbortMultipartUpload"), 1);
    assert_eq!((s3.objects(), s3.unfinished()), (Vec::new(), Vec::new()));
}

/// Rows 1 and 3: the real pg_dump, whose session the server ends.
#[test]
fn a_session_that_the_server_ends_leaves_nothing() {
    let server = Postgres::shared();
    let source = source("ended");
    let pgseal = Pgseal::new();
    // pg_dump reads sequences too, but nobody locks them beforehand: it waits in the middle of its work.
    source.psql("CREATE SEQUENCE zz_locked");
    let mut blocker = Somebody::enter(server, &source, "blocker");
    blocker.locks("BEGIN; DROP SEQUENCE zz_locked;");
    let running = pgseal.start(&["backup", &source.url]);
    until("pg_dump to wait", || {
        source.psql("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'pg_dump' AND wait_event_type = 'Lock'") == "1"
    });
    assert_eq!(server.terminate_sessions(&source.name, "pg_dump"), "1");
    let ended = running.wait();
    assert_eq!(ended.code, 1, "{ended}");
    assert!(ended.stderr.contains("error: dump the database"), "{ended}");
    assert_nothing_left(&pgseal, "terminated session");
}

#[test]
fn a_signal_ends_a_backup_cleanly() {
    let source = source("signals");
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        // It says everything, and then never ends.
        let programs = clients(Some("\"$REAL\" \"$@\"; sleep 1000 & wait"), None);
        let s3 = S3Server::start();
        for mut pgseal in [Pgseal::new(), s3.pgseal()] {
            pgseal.with_clients(programs.path());
            let mut running = pgseal.start(&["backup", &source.url]);
            // pg_dump itself, and the pause behind it.
            while descendants(running.pid()).len() < 3 && running.is_running() {}
            std::thread::sleep(std::time::Duration::from_millis(300));
            let children = descendants(running.pid());
            running.signal(signal);
            let ended = running.wait();
            assert_eq!(ended.code, code, "{ended}");
            assert!(ended.stderr.contains("interrupted"), "{ended}");
            // They were sent what ends them before pgseal ended; when the kernel carries it out is its own affair.
            until("the end of its children", || {
                !children.iter().any(|child| is_alive(*child))
            });
            assert_eq!(pgseal.leftovers(), Vec::<String>::new());
            assert_eq!(pgseal.stored(), Vec::<String>::new());
        }
        assert_eq!((s3.objects(), s3.unfinished()), (Vec::new(), Vec::new()));
    }
}

/// Row 30: a key that may not do one thing, at each stage.
#[test]
fn a_store_that_fails_leaves_nothing() {
    let denied = "<Error><Code>AccessDenied</Code><Message>no</Message></Error>";
    for (operation, stage) in [
        ("HeadBucket", "prepare the backup: ask the store"),
        ("UploadPart", "store the sealed dump"),
        ("PutObject", "store the sealed dump"),
        ("CompleteMultipartUpload", "store the sealed dump"),
    ] {
        let s3 = S3Server::start();
        s3.hook(move |call| {
            if call.operation == operation {
                Action::Answer(403, denied)
            } else {
                Action::Pass
            }
        });
        let pgseal = s3.pgseal();
        let large = ["UploadPart", "CompleteMultipartUpload"].contains(&operation);
        let database = Postgres::shared().create_database("store_fails");
        if large {
            database.psql("CREATE EXTENSION pgcrypto; CREATE TABLE noise AS SELECT gen_random_bytes(900) b FROM generate_series(1, 20000)");
        }
        let run = pgseal.run(&["backup", &database.url]);
        assert!(
            [1, 5].contains(&run.code) && run.stderr.contains(stage),
            "{operation}: {run}"
        );
        assert!(
            run.stderr.contains("BACKUP_S3_ACCESS_KEY_ID"),
            "{operation}: {run}"
        );
        assert!(
            s3.calls(operation) <= 3,
            "403 was tried {} times",
            s3.calls(operation)
        );
        assert_eq!(
            (s3.objects(), s3.unfinished()),
            (Vec::new(), Vec::new()),
            "{operation}"
        );
    }
}

/// Row 30, at the last stage.
#[test]
fn a_manifest_that_cannot_be_written_takes_the_dump_with_it() {
    let source = Postgres::shared().create_database("no_manifest");
    let s3 = S3Server::start();
    // The first small object is the dump, the second its manifest.
    s3.hook(|call| match (call.operation, call.count) {
        ("PutObject", 2..) => Action::Answer(403, "<Error><Code>AccessDenied</Code></Error>"),
        _ => Action::Pass,
    });
    let pgseal = s3.pgseal();
    let error = pgseal.fails(1, &["backup", &source.url]);
    assert!(error.contains("error: write the manifest"), "{error}");
    assert_eq!(s3.objects(), Vec::<String>::new());
}

/// Row 40: what the store gives back decides, not what it was given.
#[test]
fn a_manifest_that_comes_back_changed_is_no_backup() {
    let source = Postgres::shared().create_database("changed_manifest");
    let s3 = S3Server::start();
    s3.hook(|call| {
        if call.operation == "GetObject" && call.key.ends_with(".manifest.gpg") {
            Action::Flip(100)
        } else {
            Action::Pass
        }
    });
    let pgseal = s3.pgseal();
    let error = pgseal.fails(1, &["backup", &source.url]);
    assert!(error.contains("error: write the manifest"), "{error}");
    assert!(error.contains("came back changed"), "{error}");
    assert_eq!(s3.objects(), Vec::<String>::new());
}

/// Row 70: a manifest that is gone.
#[test]
fn an_unfinished_dump_is_never_offered() {
    let source = Postgres::shared().create_database("unfinished");
    let pgseal = Pgseal::new();
    let made = pgseal.json(&["backup", &source.url]);
    let manifest = made["object_key"]
        .as_str()
        .unwrap()
        .replace(".dump.gpg", ".manifest.gpg");
    std::fs::remove_file(pgseal.store().join(manifest)).unwrap();
    assert_eq!(pgseal.json(&["list"])[0]["state"], "unfinished");
    pgseal.fails(3, &["verify", "latest"]);
    let name = made["name"].as_str().unwrap();
    for command in [
        vec!["verify", name],
        vec!["fetch", name, "-o", "x"],
        vec!["restore", name, "--to", &source.url, "--mode", "in-place"],
    ] {
        let error = pgseal.fails(3, &command);
        assert!(error.contains("unfinished"), "{error}");
    }
}

#[test]
fn what_a_killed_backup_left_is_cleaned_up_a_day_later() {
    let source = source("killed");
    let slow = clients(Some("\"$REAL\" \"$@\"; sleep 1000 & wait"), None);
    let mut pgseal = Pgseal::new();
    pgseal.with_clients(slow.path());
    let mut running = pgseal.start(&["backup", &source.url]);
    while descendants(running.pid()).len() < 3 && running.is_running() {}
    let children = descendants(running.pid());
    running.signal(Signal::KILL);
    running.wait();
    // Children die with us, by the pipe that they write into; this one only sleeps, so it is ended here.
    for child in &children {
        let pid = rustix::process::Pid::from_raw(i32::try_from(*child).unwrap()).unwrap();
        let _gone = rustix::process::kill_process(pid, Signal::KILL);
    }
    let stages = |pgseal: &Pgseal| -> Vec<String> {
        let stored = pgseal.stored().into_iter();
        stored
            .filter(|path| path.contains(".pgseal-stage-"))
            .collect()
    };
    assert_eq!(stages(&pgseal).len(), 1);
    assert_eq!(pgseal.json(&["list"]), serde_json::json!([]));
    pgseal.unset("BACKUP_PG_BINDIRS");
    pgseal.ok(&["backup", &source.url]);
    assert_eq!(stages(&pgseal).len(), 1, "it may still be going on");
    let stage = pgseal.store().join(&stages(&pgseal)[0]);
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(25 * 3600);
    std::fs::File::options()
        .write(true)
        .open(stage)
        .unwrap()
        .set_modified(old)
        .unwrap();
    pgseal.ok(&["backup", &source.url]);
    assert_eq!(stages(&pgseal), Vec::<String>::new());
}
