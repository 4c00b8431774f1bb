//! The store fails while a backup is made, as stores fail. Each test injects one fault in front of a real server and looks
//! at what is in the bucket afterwards: a whole backup, or nothing.

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use crate::harness::cli::{Pgseal, clients};
use crate::harness::equality::{Content, assert_same};
use crate::harness::postgres::{Database, Postgres};
use crate::harness::s3::{Action, BUCKET, Call, S3Server};

const DENIED: &str = "<Error><Code>AccessDenied</Code><Message>no</Message></Error>";
const NOTHING: Vec<String> = Vec::new();

/// A bucket with a hook in front of it, and a database whose backup takes two parts.
struct Rig {
    s3: S3Server,
    pgseal: Pgseal,
    source: Database<'static>,
}

fn rig(hook: impl FnMut(&Call) -> Action + Send + 'static) -> Rig {
    let source = Postgres::shared().create_database("faults_store");
    source.psql("CREATE EXTENSION pgcrypto; CREATE TABLE noise AS SELECT i, gen_random_bytes(1000) b FROM generate_series(1, 12000) i");
    let s3 = S3Server::start();
    s3.hook(hook);
    let mut pgseal = s3.pgseal();
    pgseal.set("DATABASE_URL", &source.url);
    Rig { s3, pgseal, source }
}

impl Rig {
    fn assert_nothing_left(&self, what: &str) {
        let Self { s3, pgseal, .. } = self;
        s3.hook(|_| Action::Pass);
        assert_eq!(
            (s3.objects(), s3.unfinished()),
            (NOTHING, NOTHING),
            "{what}"
        );
        assert_eq!(pgseal.leftovers(), NOTHING, "{what}");
        assert_eq!(pgseal.json(&["list"]), serde_json::json!([]), "{what}");
    }

    /// What is in the bucket is a backup, and restoring it gives the source.
    fn assert_restores(&self) {
        let Self { s3, pgseal, source } = self;
        let made = pgseal.json(&["show", "latest"]);
        let key = made["object_key"].as_str().unwrap();
        let expected = [key.to_owned(), key.replace(".dump.gpg", ".manifest.gpg")];
        assert_eq!(s3.objects(), expected);
        assert_eq!((s3.unfinished(), pgseal.leftovers()), (NOTHING, NOTHING));
        let server = Postgres::shared();
        let target = server.name("faults_copy");
        pgseal.ok(&["restore", "latest", "--to", &target.url, "--mode", "new"]);
        let (before, after) = (&source.name, &target.name);
        assert_same(&Content::of(server, before), &Content::of(server, after));
    }
}

/// Rows 16, 18 to 22 and 38: one backup and its restore meet everything that passes by itself.
#[test]
fn what_passes_is_repeated_until_the_backup_is_there() {
    let slow_down = "<Error><Code>SlowDown</Code></Error>";
    let rig = rig(move |call| match (call.operation, call.count) {
        ("HeadBucket", 1) | ("UploadPart", 3) => Action::Answer(500, ""),
        ("HeadObject", 1 | 5) | ("CreateMultipartUpload", 1) => Action::Answer(503, slow_down),
        ("UploadPart", 1) => Action::ResetAfter(1_000_000),
        ("ListParts" | "GetObject", 1) => Action::Cut(100),
        // Done, but the answer is lost: the next attempt to complete would find no such upload.
        ("UploadPart", 2) | ("PutObject", 1) | ("CompleteMultipartUpload", 3) => Action::DoAndReset,
        ("CompleteMultipartUpload", 1) => {
            Action::Answer(200, "<Error><Code>InternalError</Code></Error>")
        }
        ("CompleteMultipartUpload", 2) => Action::Answer(200, "<html>"),
        _ => Action::Pass,
    });
    rig.pgseal.ok(&["backup"]);
    assert_eq!(
        rig.s3.calls("UploadPart"),
        5,
        "two parts, and three repeated"
    );
    assert_eq!(rig.s3.calls("CompleteMultipartUpload"), 3);
    assert_eq!(rig.s3.calls("AbortMultipartUpload"), 0);
    rig.s3.hook(|call| match (call.operation, call.count) {
        ("GetObject", 1..=3) if call.key.ends_with(".dump.gpg") => Action::Cut(3_000_000),
        ("ListObjects", 1) => Action::Answer(503, ""),
        _ => Action::Pass,
    });
    rig.assert_restores();
}

/// What ends a backup: the fault, the operation that it hits from which call on, and what must be said.
type Fatal = (
    &'static str,
    &'static str,
    usize,
    fn() -> Action,
    [&'static str; 2],
);

const FATAL: [Fatal; 5] = [
    (
        "row 23: a part's answer has no ETag",
        "UploadPart",
        1,
        || Action::WithoutEtag,
        ["store the sealed dump", "no ETag"],
    ),
    (
        "row 24: a part is shorter than sent",
        "UploadPart",
        2,
        || Action::Shorten,
        ["store the sealed dump", "parts were sent"],
    ),
    (
        "row 24: the dump is shorter than sent",
        "CompleteMultipartUpload",
        1,
        || Action::Shorten,
        ["store the sealed dump", "it was deleted again"],
    ),
    (
        "row 24: the manifest is shorter than sent",
        "PutObject",
        1,
        || Action::Shorten,
        ["write the manifest", "it was deleted again"],
    ),
    (
        "row 30: the key may not write any more",
        "UploadPart",
        2,
        || Action::Answer(403, DENIED),
        ["store the sealed dump", "BACKUP_S3_ACCESS_KEY_ID"],
    ),
];

/// Rows 23, 24 and 30: what cannot succeed fails soon, at a stage that is named, and leaves nothing.
#[test]
fn what_does_not_pass_leaves_nothing() {
    for (what, operation, first, action, said) in FATAL {
        let rig = rig(move |call| {
            if call.operation == operation && call.count >= first {
                action()
            } else {
                Action::Pass
            }
        });
        let error = rig.pgseal.fails(1, &["backup"]);
        for said in said {
            assert!(error.contains(said), "{what}: {error}");
        }
        assert!(rig.s3.calls(operation) <= 3, "{what}: tried too often");
        rig.assert_nothing_left(what);
    }
}

/// Row 30: a key that is revoked in the middle cannot even clean up. That is said, and nothing is tried for long.
#[test]
fn a_revoked_key_ends_the_backup_at_once() {
    let revoked = Arc::new(Mutex::new(false));
    let rig = rig(move |call| {
        let mut revoked = revoked.lock().unwrap();
        *revoked |= (call.operation, call.count) == ("UploadPart", 2);
        if *revoked {
            Action::Answer(403, DENIED)
        } else {
            Action::Pass
        }
    });
    let error = rig.pgseal.fails(1, &["backup"]);
    assert!(error.contains("BACKUP_S3_ACCESS_KEY_ID"), "{error}");
    assert!(
        error.contains("left an unfinished upload behind"),
        "{error}"
    );
    let operations = rig.s3.operations();
    let first = operations.iter().position(|called| *called == "UploadPart");
    let first = first.unwrap();
    assert!(operations.len() - first <= 5, "{operations:?}");
    rig.s3.hook(|_| Action::Pass);
    assert_eq!(rig.s3.objects(), NOTHING);
    assert_eq!(rig.pgseal.json(&["list"]), serde_json::json!([]));
}

/// Row 28: a part that arrived after the abort is found, and the abort repeated; but not for ever.
#[test]
fn an_abort_is_repeated_until_no_part_is_left() {
    // It fails once a part is on its way. The noise is more than what the sealer may hold back.
    let script = "\"$REAL\" \"$@\"; head -c 15000000 /dev/urandom; while [ ! -e \"${0%/*}/sent\" ]; do sleep 0.05; done; echo 'pg_dump: error: lost it' >&2; exit 1";
    let broken = clients(Some(script), None);
    let sent = broken.path().join("sent");
    // The store says that it aborted, and still has the parts: once, and then whenever it is asked.
    for (lies, aborts) in [(1, 2), (usize::MAX, 5)] {
        let sent = sent.clone();
        let mut rig = rig(move |call| {
            if call.operation == "UploadPart" {
                std::fs::write(&sent, "").unwrap();
            }
            if call.operation == "AbortMultipartUpload" && call.count <= lies {
                Action::Answer(204, "")
            } else {
                Action::Pass
            }
        });
        rig.pgseal.with_clients(broken.path());
        let error = rig.pgseal.fails(1, &["backup"]);
        std::fs::remove_file(broken.path().join("sent")).unwrap();
        assert!(error.contains("lost it"), "{error}");
        assert_eq!(rig.s3.calls("AbortMultipartUpload"), aborts);
        assert_eq!(rig.s3.objects(), NOTHING);
        let left = error.contains("left an unfinished upload behind");
        assert_eq!(
            (left, rig.s3.unfinished().is_empty()),
            (lies > 1, lies == 1)
        );
    }
}

/// Row 29: a database that no object can hold is refused before pg_dump starts.
#[test]
fn a_database_beyond_the_largest_object_is_refused_first() {
    let server = Postgres::shared();
    let huge = server.create_database("huge");
    // The server adds up the sizes of the files; this one has six tebibytes, and none of them on the disk.
    let folder = server.psql(
        &huge.name,
        "SELECT current_setting('data_directory') || '/base/' || oid FROM pg_database WHERE datname = current_database()",
    );
    let sparse = std::fs::File::create(PathBuf::from(folder).join("999999")).unwrap();
    sparse.set_len(6 << 40).unwrap();
    let programs = clients(Some("touch \"${0%/*}/started\"; exit 1"), None);
    let mut rig = rig(|_| Action::Pass);
    rig.pgseal.with_clients(programs.path());
    let error = rig.pgseal.fails(1, &["backup", &huge.url]);
    assert!(error.contains("5497558138880"), "{error}");
    assert!(error.contains("--exclude-table-data"), "{error}");
    assert!(!programs.path().join("started").exists());
    assert_eq!(rig.s3.calls("CreateMultipartUpload"), 0);
    rig.assert_nothing_left("huge");
}

/// Row 31: a bucket that is not there is named before anything starts, and nobody makes it.
#[test]
fn a_missing_bucket_is_refused_first() {
    let programs = clients(Some("touch \"${0%/*}/started\"; exit 1"), None);
    let mut rig = rig(|_| Action::Pass);
    rig.pgseal
        .with_clients(programs.path())
        .set("BACKUP_S3_BUCKET", "mistyped");
    for command in ["backup", "doctor"] {
        let run = rig.pgseal.run(&[command]);
        let said = String::from_utf8_lossy(&run.stdout).into_owned() + &run.stderr;
        assert_eq!(run.code, 5, "{run}");
        assert!(said.contains("no such bucket"), "{run}");
        assert!(said.contains("BACKUP_S3_BUCKET"), "{run}");
    }
    assert!(!programs.path().join("started").exists());
    assert!(!rig.s3.bucket().with_file_name("mistyped").exists());
    assert_eq!(rig.s3.objects(), NOTHING);
}

/// Row 32: a clock that is off by more than the fifteen minutes that signatures allow, in both directions: the store's own
/// time is signed with.
#[test]
fn a_clock_that_is_off_is_corrected() {
    for off in ["+20m", "-20m"] {
        let mut rig = rig(|_| Action::Pass);
        rig.pgseal.with_clock(off);
        rig.pgseal.ok(&["backup"]);
        assert_eq!(rig.s3.calls("HeadBucket"), 2, "the server took any time");
        rig.assert_restores();
    }
}

/// Rows 34 and 37: objects are deleted one by one, so that no failure hides in an answer of 200; and no lock is ever asked
/// for that a server could ignore.
#[test]
fn every_deletion_is_its_own_and_is_checked() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&seen);
    let rig = rig(move |call| {
        let names = call.headers.keys().map(|name| name.as_str().to_owned());
        noted.lock().unwrap().extend(names);
        Action::Pass
    });
    let made = rig.pgseal.json(&["backup"]);
    rig.pgseal.ok(&["doctor"]);
    assert_eq!(rig.s3.calls("DeleteObjects"), 0);
    let key = made["object_key"].as_str().unwrap();
    // The store refuses; the store says yes and does nothing.
    for (action, said) in [
        (
            (|| Action::Answer(403, DENIED)) as fn() -> Action,
            "refuses",
        ),
        (|| Action::Answer(204, ""), "still there"),
    ] {
        rig.s3.hook(move |call| {
            if call.operation == "DeleteObject" && call.key.ends_with(".dump.gpg") {
                action()
            } else {
                Action::Pass
            }
        });
        let run = rig.pgseal.run(&["delete", key]);
        assert!([1, 5].contains(&run.code), "{run}");
        assert!(run.stderr.contains(said), "{run}");
        assert_eq!(rig.s3.calls("DeleteObjects"), 0);
        assert_eq!(
            rig.s3.objects(),
            [key],
            "the manifest goes first, the dump stays"
        );
    }
    rig.s3.hook(|_| Action::Pass);
    rig.pgseal.ok(&["delete", key]);
    assert_eq!(rig.s3.objects(), NOTHING);
    let seen = seen.lock().unwrap();
    let asks = |name: &&String| name.contains("object-lock") || name.contains("bypass");
    assert!(
        seen.len() > 50 && !seen.iter().any(|name| asks(&name)),
        "{seen:?}"
    );
}

/// A database that a restore must not touch, and a backup of the source to be restored over it.
fn victim() -> (Database<'static>, Content) {
    let victim = Postgres::shared().create_database("victim");
    victim.psql("CREATE TABLE noise AS SELECT 1 AS i, 'mine'::bytea AS b");
    let before = Content::of(Postgres::shared(), &victim.name);
    (victim, before)
}

/// Row 39: an object that is replaced between two reads of one restore is never put together from both; by the ETag, or
/// where the store forgets to change that, by the digest.
#[test]
fn a_dump_that_is_replaced_while_it_is_read_is_refused() {
    for (etag_changes, code, said) in [(true, 1, "replaced or changed"), (false, 4, "SHA-256")] {
        let rig = rig(|_| Action::Pass);
        let made = rig.pgseal.json(&["backup"]);
        let file = rig.s3.bucket().join(made["object_key"].as_str().unwrap());
        let (victim, before) = victim();
        let etags = rig.s3.etags();
        rig.s3.hook(move |call| match call.operation {
            "GetObject" if !call.key.ends_with(".dump.gpg") => Action::Pass,
            "GetObject" if call.headers.contains_key("range") => {
                let other: Vec<u8> = std::fs::read(&file).unwrap().iter().map(|b| !b).collect();
                std::fs::write(&file, other).unwrap();
                let forgotten = etags.iter().filter(|_| etag_changes);
                forgotten.for_each(|etag| std::fs::remove_file(etag).unwrap());
                Action::Pass
            }
            "GetObject" => Action::Cut(4_000_000),
            _ => Action::Pass,
        });
        let restore = [
            "restore",
            "latest",
            "--to",
            &victim.url,
            "--mode",
            "in-place",
        ];
        let error = rig.pgseal.fails(code, &restore);
        assert!(error.contains(said), "{error}");
        assert_same(&before, &Content::of(Postgres::shared(), &victim.name));
        assert_eq!(rig.pgseal.leftovers(), NOTHING);
    }
}

/// Row 40: one wrong bit on the way, which no header of the answer tells, is found by pgseal's own digest.
#[test]
fn a_bit_that_flips_on_the_way_is_found() {
    let rig = rig(|_| Action::Pass);
    rig.pgseal.ok(&["backup"]);
    let (victim, before) = victim();
    for from_end in [1, 3_000_000] {
        rig.s3.hook(move |call| {
            if call.operation == "GetObject" && call.key.ends_with(".dump.gpg") {
                Action::Flip(from_end)
            } else {
                Action::Pass
            }
        });
        let restore = [
            "restore",
            "latest",
            "--to",
            &victim.url,
            "--mode",
            "in-place",
        ];
        for command in [["verify", "latest"].as_slice(), &restore] {
            let error = rig.pgseal.fails(4, command);
            assert!(error.contains("SHA-256"), "{error}");
        }
    }
    assert_same(&before, &Content::of(Postgres::shared(), &victim.name));
    assert_eq!(rig.pgseal.leftovers(), NOTHING);
}

/// Row 41: where a store sends us elsewhere, nobody there hears of us, whatever was asked.
#[test]
fn a_redirection_is_not_followed() {
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
    elsewhere.set_nonblocking(true).unwrap();
    let place = format!("http://{}/{BUCKET}/x", elsewhere.local_addr().unwrap());
    for operation in [
        "HeadBucket",
        "HeadObject",
        "CreateMultipartUpload",
        "UploadPart",
        "CompleteMultipartUpload",
        "PutObject",
        "GetObject",
    ] {
        let place = place.clone();
        let rig = rig(move |call| {
            if call.operation == operation {
                Action::Redirect(place.clone())
            } else {
                Action::Pass
            }
        });
        let run = rig.pgseal.run(&["backup"]);
        assert!([1, 5].contains(&run.code), "{operation}: {run}");
        assert!(
            run.stderr.contains("BACKUP_S3_REGION"),
            "{operation}: {run}"
        );
        assert!(
            elsewhere.accept().is_err(),
            "{operation} was sent elsewhere"
        );
        assert_eq!(
            (rig.s3.objects(), rig.s3.unfinished()),
            (NOTHING, NOTHING),
            "{operation}"
        );
    }
}

/// Row 42: more than two of S3's pages of a thousand, to the last one.
#[test]
fn a_long_list_is_whole() {
    let rig = rig(|_| Action::Pass);
    let folder = rig.s3.bucket().join("backups/prod/2020/01");
    std::fs::create_dir_all(&folder).unwrap();
    for number in 0..2500 {
        std::fs::write(folder.join(format!("old_{number:04}.dump.gpg")), "x").unwrap();
    }
    let listed = rig.pgseal.json(&["list"]);
    let listed = listed.as_array().unwrap();
    let mut names: Vec<_> = listed
        .iter()
        .map(|entry| entry["name"].as_str().unwrap())
        .collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(
        (names.len(), names[0], names[2499]),
        (2500, "old_0000", "old_2499")
    );
    assert_eq!(rig.s3.calls("ListObjects"), 3);
}
