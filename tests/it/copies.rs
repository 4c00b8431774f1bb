//! The second copy by hand: copied sealed, read back, taken where the first one cannot be, deleted with it.

use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::cli::{Pgseal, files};
use crate::harness::equality::{Content, assert_same};
use crate::harness::fixture;
use crate::harness::postgres::{Database, Postgres};
use crate::harness::s3::{Action, S3Server};
use crate::harness::seaweed::{Keeps, Seaweed};
use crate::harness::somebody::until;

/// A database like life, and a backup of it that has no copy yet.
fn backup_without_copy(pgseal: &mut Pgseal, name: &str) -> (Database<'static>, Value) {
    let source = Postgres::shared().database_from(name, &fixture("life.sql"), &[]);
    pgseal.set("DATABASE_URL", &source.url);
    let made = pgseal.json(&["backup"]);
    (source, made)
}

/// Two servers, a database, and a backup that is in both.
pub fn replicated(name: &str) -> (S3Server, S3Server, Pgseal, Database<'static>, Value) {
    let (first, second) = (S3Server::start(), S3Server::start());
    let mut pgseal = first.pgseal();
    second.set_up_copy(&mut pgseal);
    let (source, made) = backup_without_copy(&mut pgseal, name);
    assert_eq!(made["copy"], "confirmed", "{made}");
    (first, second, pgseal, source, made)
}

pub fn bytes(folder: &Path, key: &str) -> Vec<u8> {
    std::fs::read(folder.join(key)).unwrap()
}

/// Flips one bit in the middle, as a disk does.
pub fn damage(path: &Path) {
    let mut content = std::fs::read(path).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    std::fs::write(path, content).unwrap();
}

pub fn key(made: &Value) -> &str {
    made["object_key"].as_str().unwrap()
}

/// What a restore brings back, and what it said about where it came from.
pub fn restored(pgseal: &Pgseal, source: &Database<'_>, backup: &str) -> (Value, String) {
    let server = Postgres::shared();
    let before = Content::of(server, &source.name);
    let target = server.name("copy_restored");
    let run = pgseal.run(&[
        "restore",
        backup,
        "--to",
        &target.url,
        "--mode",
        "new",
        "--json",
    ]);
    assert_eq!(run.code, 0, "{run}");
    assert_same(&before, &Content::of(server, &target.name));
    (serde_json::from_slice(&run.stdout).unwrap(), run.stderr)
}

#[test]
fn a_backup_is_copied_to_the_byte_and_only_once() {
    let (first, second) = (S3Server::start(), S3Server::start());
    let mut pgseal = first.pgseal();
    let (source, made) = backup_without_copy(&mut pgseal, "copied");
    assert_eq!(made.get("copy"), None, "no second store, no word of it");
    assert!(
        pgseal
            .fails(5, &["copy", "latest"])
            .contains("BACKUP_COPY_STORE")
    );

    second.set_up_copy(&mut pgseal);
    assert_eq!(pgseal.json(&["list"])[0]["copy"], "none");
    let copied = pgseal.json(&["copy", "latest"]);
    assert_eq!(copied[0]["outcome"], "copied");
    assert_eq!(copied[0]["replicated"], true);
    assert_eq!(copied[0]["sealed_sha256"], made["sealed_sha256"]);
    assert_eq!(first.objects(), second.objects());
    assert_eq!(second.objects().len(), 2);
    for key in first.objects() {
        assert_eq!(bytes(&first.bucket(), &key), bytes(&second.bucket(), &key));
    }
    assert_eq!(pgseal.json(&["list"])[0]["copy"], "copied");
    assert!(pgseal.ok(&["show", "latest"]).contains("second copy"));

    // Once more: the dump is read, and neither sent nor written again. What a drill found while nothing could be put there goes
    // there too.
    let to = Postgres::shared().url("postgres");
    second.hook(|call| match call.operation {
        "PutObject" => Action::Answer(403, "<Error><Code>AccessDenied</Code></Error>"),
        _ => Action::Pass,
    });
    pgseal.ok(&["drill", "latest", "--to", &to]);
    assert_eq!(second.objects().len(), 2);
    second.hook(|_| Action::Pass);
    let again = pgseal.json(&["copy", "--all"]);
    assert_eq!(again[0]["outcome"], "was there");
    assert_eq!(again.as_array().unwrap().len(), 1);
    assert_eq!(second.objects(), first.objects());
    assert_eq!(second.objects().len(), 3);
    // The probe and the proof; the dump was read for its digest.
    assert_eq!(second.calls("PutObject"), 2);
    assert_eq!(second.calls("CreateMultipartUpload"), 0);
    assert!(second.calls("GetObject") >= 1);

    // It is a backup by itself, where the second store is all that is left.
    drop(first);
    second.set_up(&mut pgseal);
    S3Server::take_out_copy(&mut pgseal);
    let (_, said) = restored(&pgseal, &source, "latest");
    assert!(!said.contains("second"), "{said}");
}

/// What somebody said about a backup is beside both copies, whichever came first.
#[test]
fn marks_are_beside_both_copies() {
    let (first, second) = (S3Server::start(), S3Server::start());
    let mut pgseal = first.pgseal();
    let server = Postgres::shared();
    let source = server.database_from("marked_copies", &fixture("bulk.sql"), &["rows=100"]);
    pgseal.set("DATABASE_URL", &source.url);
    pgseal.ok(&["backup"]);
    let safety = |pgseal: &Pgseal| {
        let restore = [
            "restore",
            "latest",
            "--to",
            &source.url,
            "--mode",
            "in-place",
        ];
        let restored = pgseal.json(&restore);
        restored["safety_backup"].as_str().unwrap().to_owned()
    };
    pgseal.ok(&["release", &safety(&pgseal)]);
    second.set_up_copy(&mut pgseal);
    pgseal.ok(&["copy", "--all"]);
    assert_eq!(first.objects(), second.objects());
    let later = safety(&pgseal);
    pgseal.ok(&["copy", &later]);
    pgseal.ok(&["release", &later]);
    assert_eq!(first.objects(), second.objects());
    let marks = |server: &S3Server| {
        let objects = server.objects();
        objects
            .iter()
            .filter(|key| key.contains("released_"))
            .count()
    };
    assert_eq!((marks(&first), marks(&second)), (2, 2));
}

#[test]
fn a_backup_copies_itself_and_stays_complete_where_that_fails() {
    let (first, second) = (S3Server::start(), S3Server::start());
    let mut pgseal = first.pgseal();
    second.set_up_copy(&mut pgseal);
    let server = Postgres::shared();
    let source = server.database_from("copies_itself", &fixture("bulk.sql"), &["rows=100"]);
    pgseal.set("DATABASE_URL", &source.url);
    let said = pgseal.ok(&["backup"]);
    assert!(
        said.contains("second copy") && said.contains("confirmed"),
        "{said}"
    );
    pgseal.ok(&["run-scheduled"]);
    assert_eq!(first.objects(), second.objects());
    assert_eq!(first.objects().len(), 4);

    // The second store refuses: the backup is none the worse, and the exit code says it.
    second.hook(|_| Action::Answer(403, "<Error><Code>AccessDenied</Code></Error>"));
    let run = pgseal.run(&["backup", "--json"]);
    assert_eq!(run.code, 7, "{run}");
    assert!(run.stderr.contains("has only one good copy"), "{run}");
    assert!(run.stderr.contains("BACKUP_COPY_"), "{run}");
    let made: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(
        (&made["state"], &made["copy"]),
        (&json!("complete"), &json!("failed"))
    );
    assert_eq!(first.objects().len(), 6);
    assert_eq!(second.objects().len(), 4);
    let ran = pgseal.run(&["run-scheduled", "--json"]);
    assert_eq!(ran.code, 7, "{ran}");

    second.hook(|_| Action::Pass);
    let copied = pgseal.json(&["copy", "--all"]);
    let outcomes: Vec<&str> = copied
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line["outcome"].as_str().unwrap())
        .collect();
    assert_eq!(outcomes, ["was there", "was there", "copied", "copied"]);
    assert_eq!(first.objects(), second.objects());
}

/// What is damaged is not copied, and the error says which of the two is at fault; nothing visible stays.
#[test]
fn what_is_damaged_on_either_side_becomes_no_copy() {
    let (first, second) = (S3Server::start(), S3Server::start());
    let mut pgseal = first.pgseal();
    let (_source, made) = backup_without_copy(&mut pgseal, "not_copied");
    second.set_up_copy(&mut pgseal);
    let object = first.bucket().join(key(&made));
    let whole = std::fs::read(&object).unwrap();

    damage(&object);
    let said = pgseal.fails(4, &["copy", "latest"]);
    assert!(
        said.contains("the first copy of") && said.contains("SHA-256"),
        "{said}"
    );
    assert_eq!(second.objects(), Vec::<String>::new());
    assert_eq!(second.unfinished(), Vec::<String>::new());
    std::fs::write(&object, &whole).unwrap();

    // It arrives whole, and comes back with another bit: the second store is not to be trusted with it.
    second.hook(|call| match call.operation {
        "GetObject" if call.key.ends_with(".dump.gpg") => Action::Flip(100),
        _ => Action::Pass,
    });
    let said = pgseal.fails(4, &["copy", "latest"]);
    assert!(
        said.contains("the second copy of") && said.contains("SHA-256"),
        "{said}"
    );
    assert_eq!(second.objects(), Vec::<String>::new());

    // The manifest comes back changed: it is taken away again, and the dump with it.
    second.hook(|call| match call.operation {
        "GetObject" if call.key.ends_with(".manifest.gpg") => Action::Flip(10),
        _ => Action::Pass,
    });
    let said = pgseal.fails(1, &["copy", "latest"]);
    assert!(said.contains("came back changed"), "{said}");
    assert_eq!(second.objects(), Vec::<String>::new());

    // A connection that breaks in the middle is read on.
    let mut cuts = 2;
    first.hook(move |call| match call.operation {
        "GetObject" if call.key.ends_with(".dump.gpg") && cuts > 0 => {
            cuts -= 1;
            Action::Cut(3000)
        }
        _ => Action::Pass,
    });
    second.hook(|_| Action::Pass);
    assert_eq!(pgseal.json(&["copy", "latest"])[0]["outcome"], "copied");
    assert!(
        pgseal
            .ok(&["copy", "latest", "--check"])
            .contains("both copies are whole")
    );

    // One that rotted there is found by its digest, named, and made anew.
    damage(&second.bucket().join(key(&made)));
    let said = pgseal.fails(7, &["copy", "latest", "--check"]);
    assert!(said.contains("the second copy of"), "{said}");
    assert!(
        said.contains(&format!("pgseal copy {} mends", key(&made))),
        "{said}"
    );
    assert_eq!(pgseal.json(&["copy", "latest"])[0]["outcome"], "copied");
    pgseal.ok(&["copy", "latest", "--check"]);

    // Somebody else's object by that name stays theirs.
    pgseal.ok(&["delete", "latest"]);
    let made = {
        second.hook(|_| Action::Answer(403, "<Error><Code>AccessDenied</Code></Error>"));
        let run = pgseal.run(&["backup", "--json"]);
        assert_eq!(run.code, 7, "{run}");
        serde_json::from_slice::<Value>(&run.stdout).unwrap()
    };
    second.hook(|_| Action::Pass);
    let theirs = second.bucket().join(key(&made));
    std::fs::create_dir_all(theirs.parent().unwrap()).unwrap();
    std::fs::write(&theirs, "theirs").unwrap();
    let said = pgseal.fails(1, &["copy", "latest"]);
    assert!(said.contains("another object has this name"), "{said}");
    assert_eq!(std::fs::read(&theirs).unwrap(), b"theirs");
}

#[test]
fn a_damaged_or_missing_first_copy_is_replaced_by_the_second_and_said() {
    let (first, second, pgseal, source, made) = replicated("falls_back");
    let name = made["name"].as_str().unwrap();
    let object = first.bucket().join(key(&made));

    damage(&object);
    let (restore, said) = restored(&pgseal, &source, "latest");
    let warning = restore["warnings"].to_string();
    for text in [&said, &warning] {
        assert!(
            text.contains("the first copy, in") && text.contains("SHA-256"),
            "{text}"
        );
        assert!(text.contains(second.endpoint()), "{text}");
    }
    // What reads both says what mends it, and not to take an older one.
    let said = pgseal.fails(7, &["copy", "latest", "--check"]);
    assert!(
        said.contains("the first copy of")
            && said.contains(&format!("pgseal copy --back {} mends", key(&made))),
        "{said}"
    );
    // A verification says that one is whole, and does not end as if all were well.
    let verified = pgseal.run(&["verify", name, "--json"]);
    assert_eq!(verified.code, 7, "{verified}");
    let verified: Value = serde_json::from_slice(&verified.stdout).unwrap();
    assert!(verified["first_copy"].as_str().unwrap().contains("SHA-256"));
    let to = Postgres::shared().url("postgres");
    let drilled = pgseal.json(&["drill", "latest", "--to", &to]);
    assert_eq!(drilled["verdict"], "PROVEN");
    assert!(
        drilled["warnings"]
            .to_string()
            .contains("the first copy, in")
    );
    // The proof is of the copy that was tried.
    assert!(
        second
            .objects()
            .iter()
            .any(|key| key.ends_with(".proof.gpg"))
    );
    assert!(
        !first
            .objects()
            .iter()
            .any(|key| key.ends_with(".proof.gpg"))
    );
    let file = pgseal.file("fetched.dump");
    pgseal.ok(&["fetch", "latest", "-o", file.to_str().unwrap()]);
    assert!(std::fs::read(&file).unwrap().starts_with(b"PGDMP"));

    // The dump is gone, then its manifest too, then it is cut short.
    std::fs::remove_file(&object).unwrap();
    let (_, said) = restored(&pgseal, &source, "latest");
    assert!(said.contains("lost"), "{said}");
    std::fs::remove_file(
        first
            .bucket()
            .join(key(&made).replace(".dump.", ".manifest.")),
    )
    .unwrap();
    for backup in [name, "latest", key(&made)] {
        restored(&pgseal, &source, backup);
    }
    assert_eq!(pgseal.json(&["show", name])["name"], name);

    // Both bad: nothing is restored, and the first error is the one that counts.
    damage(&second.bucket().join(key(&made)));
    let target = Postgres::shared().name("not_restored");
    let said = pgseal.fails(4, &["restore", name, "--to", &target.url, "--mode", "new"]);
    assert!(said.contains("SHA-256"), "{said}");
    assert!(!target.exists());
}

/// `latest` is never an older day only because the newest one's first copy is gone.
#[test]
fn the_latest_one_is_that_of_both_stores() {
    let (first, _second, pgseal, source, _older) = replicated("both_latest");
    source.psql("CREATE TABLE of_today ()");
    let newest = pgseal.json(&["backup"]);
    for object in [
        key(&newest).to_owned(),
        key(&newest).replace(".dump.", ".manifest."),
    ] {
        std::fs::remove_file(first.bucket().join(object)).unwrap();
        let (restore, _) = restored(&pgseal, &source, "latest");
        assert_eq!(restore["backup"], newest["name"]);
    }
}

#[test]
fn a_first_store_that_is_down_keeps_nobody_from_restoring() {
    let (first, second, pgseal, source, made) = replicated("first_down");
    drop(first);
    for backup in ["latest", made["name"].as_str().unwrap()] {
        let (_, said) = restored(&pgseal, &source, backup);
        assert!(
            said.contains("the first copy, in") && said.contains(second.endpoint()),
            "{said}"
        );
    }
    // Also over what is there, which is saved where it can be.
    let before = Content::of(Postgres::shared(), &source.name);
    source.psql("TRUNCATE shop.customers CASCADE");
    let to = [
        "restore",
        "latest",
        "--to",
        &source.url,
        "--mode",
        "in-place",
    ];
    let restored = pgseal.json(&to);
    assert_same(&before, &Content::of(Postgres::shared(), &source.name));
    let safety = restored["safety_backup"].as_str().unwrap();
    assert!(second.objects().iter().any(|key| key.contains(safety)));
    let listed = pgseal.run(&["list", "--json"]);
    assert_eq!(listed.code, 0, "{listed}");
    assert!(listed.stderr.contains("second store"), "{listed}");
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(listed[1]["name"], made["name"]);
}

/// The first store's folder is gone with its disk: the second one serves, nothing is backed up into the wrong place, and the
/// folder is not made.
#[test]
fn a_first_folder_that_is_gone_keeps_nobody_from_restoring() {
    let second = S3Server::start();
    let mut pgseal = Pgseal::new();
    second.set_up_copy(&mut pgseal);
    let source = Postgres::shared().create_database("folder_gone");
    source.psql("CREATE TABLE t AS SELECT generate_series(1, 9) AS i");
    pgseal.set("DATABASE_URL", &source.url);
    let made = pgseal.json(&["backup"]);
    let root = pgseal.store();
    std::fs::rename(&root, root.with_extension("gone")).unwrap();
    pgseal.fails(7, &["verify", "latest"]);
    let listed = pgseal.json(&["list"]);
    assert_eq!(listed[0]["name"], made["name"]);
    source.psql("DROP TABLE t");
    pgseal.json(&[
        "restore",
        "latest",
        "--to",
        &source.url,
        "--mode",
        "in-place",
    ]);
    assert_eq!(source.psql("SELECT count(*) FROM t"), "9");
    let refused = pgseal.fails(5, &["backup"]);
    assert!(refused.contains("is not there"), "{refused}");
    assert!(!root.exists());
}

/// Killed anywhere, a copy leaves nothing that looks like a backup, and the next one completes it.
#[test]
fn a_copy_that_was_killed_leaves_no_backup() {
    let (first, second) = (S3Server::start(), S3Server::start());
    let mut pgseal = first.pgseal();
    let server = Postgres::shared();
    let source = server.create_database("killed_copy");
    // Two parts and a little.
    source.psql(
        "CREATE TABLE noise AS SELECT g, string_agg(decode(md5(g::text || '-' || i::text), 'hex'), '') AS bytes
         FROM generate_series(1, 150) g, generate_series(1, 8192) i GROUP BY g",
    );
    pgseal.set("DATABASE_URL", &source.url);
    pgseal.json(&["backup"]);
    second.set_up_copy(&mut pgseal);
    let visible = || {
        second
            .objects()
            .into_iter()
            .filter(|key| key.ends_with(".manifest.gpg"))
            .count()
    };
    let at = [
        ("CreateMultipartUpload", "", Signal::KILL),
        ("UploadPart", "", Signal::KILL),
        ("CompleteMultipartUpload", "", Signal::KILL),
        ("GetObject", ".dump.gpg", Signal::KILL),
        ("PutObject", ".manifest.gpg", Signal::KILL),
        ("UploadPart", "", Signal::TERM),
    ];
    for (operation, ending, signal) in at {
        let reached = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let seen = std::sync::Arc::clone(&reached);
        second.hook(move |call| {
            if call.operation == operation && call.key.ends_with(ending) {
                seen.store(true, std::sync::atomic::Ordering::SeqCst);
                return Action::Hang(Duration::from_secs(60));
            }
            Action::Pass
        });
        let copying = pgseal.start(&["copy", "latest"]);
        until("the copy's step", || {
            reached.load(std::sync::atomic::Ordering::SeqCst)
        });
        copying.signal(signal);
        // One that is told to end takes back what it sent.
        second.hook(|_| Action::Pass);
        let run = copying.wait();
        assert_ne!(run.code, 0, "{operation}: {run}");
        if signal == Signal::TERM {
            assert_eq!(run.code, 143, "{run}");
        }
        assert_eq!(visible(), 0, "{operation}");
        // Of a copy that was cut off after its dump, the next one uses that.
        let dumps = second
            .objects()
            .into_iter()
            .filter(|key| key.ends_with(".dump.gpg"))
            .count();
        for object in second.objects() {
            if operation != "PutObject" {
                std::fs::remove_file(second.bucket().join(object)).unwrap();
            }
        }
        if operation == "PutObject" {
            assert_eq!(dumps, 1);
            assert_eq!(pgseal.json(&["copy", "latest"])[0]["outcome"], "was there");
            assert_eq!(visible(), 1);
            for object in second.objects() {
                std::fs::remove_file(second.bucket().join(object)).unwrap();
            }
        }
    }
    assert_eq!(pgseal.json(&["copy", "latest"])[0]["outcome"], "copied");
    pgseal.ok(&["copy", "latest", "--check"]);
}

#[test]
fn a_copy_in_the_same_place_is_refused() {
    let first = S3Server::start();
    let mut pgseal = first.pgseal();
    let (_source, _) = backup_without_copy(&mut pgseal, "same_place");
    first.set_up_copy(&mut pgseal);
    assert!(
        pgseal
            .fails(5, &["list"])
            .contains("the second store is the first one")
    );
    pgseal.set(
        "BACKUP_COPY_S3_ENDPOINT_URL",
        format!("{}/", first.endpoint().to_uppercase()),
    );
    assert!(
        pgseal
            .fails(5, &["list"])
            .contains("the second store is the first one")
    );
    // By a name that nobody sees through, it is found out by what is in it.
    pgseal.set(
        "BACKUP_COPY_S3_ENDPOINT_URL",
        first.endpoint().replace("127.0.0.1", "localhost"),
    );
    pgseal.set("BACKUP_COPY_S3_PATH_STYLE", "true");
    let said = pgseal.fails(5, &["copy", "latest"]);
    assert!(said.contains("by another name"), "{said}");
    assert!(pgseal.fails(5, &["doctor"]).contains("must be mended"));

    let mut pgseal = Pgseal::new();
    let link = pgseal.file("link");
    std::os::unix::fs::symlink(pgseal.store(), &link).unwrap();
    pgseal.set("BACKUP_COPY_STORE", format!("file:{}", link.display()));
    assert!(
        pgseal
            .fails(5, &["list"])
            .contains("the second store is the first one")
    );
}

#[test]
fn a_folder_is_a_second_store_too() {
    let first = S3Server::start();
    let mut pgseal = first.pgseal();
    let folder = pgseal.file("second");
    pgseal.set("BACKUP_COPY_STORE", format!("file:{}", folder.display()));
    // It is not there, and is not made: no reason to have no backup.
    let source = Postgres::shared().database_from("to_folder", &fixture("life.sql"), &[]);
    pgseal.set("DATABASE_URL", &source.url);
    let run = pgseal.run(&["backup", "--json"]);
    assert_eq!(run.code, 7, "{run}");
    let made: Value = serde_json::from_slice(&run.stdout).unwrap();
    let said = pgseal.fails(5, &["copy", "latest"]);
    assert!(
        said.contains("BACKUP_COPY_") && said.contains("second is not there"),
        "{said}"
    );
    let doctor = String::from_utf8(pgseal.run(&["doctor"]).stdout).unwrap();
    assert!(
        doctor.contains("PROBLEM  second store") && doctor.contains("second is not there"),
        "{doctor}"
    );
    assert!(!folder.exists());
    std::fs::create_dir(&folder).unwrap();
    assert_eq!(pgseal.json(&["copy", "latest"])[0]["outcome"], "copied");
    assert_eq!(
        bytes(&folder, key(&made)),
        bytes(&first.bucket(), key(&made))
    );
    damage(&first.bucket().join(key(&made)));
    restored(&pgseal, &source, "latest");
    pgseal.ok(&["delete", "latest"]);
    assert_eq!(first.objects(), Vec::<String>::new());
    assert_eq!(files(&folder), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_version_goes_with_the_backup_in_both_stores() {
    let weed = Seaweed::shared();
    let first = weed.bucket(Keeps::Versions).await;
    let second = weed.bucket(Keeps::Versions).await;
    let mut pgseal = first.pgseal();
    // The same server: two buckets of it are two places.
    for (name, value) in [
        ("ENDPOINT_URL", second.endpoint.as_str()),
        ("BUCKET", &second.name),
        ("ACCESS_KEY_ID", crate::harness::s3::ACCESS_KEY),
        ("SECRET_ACCESS_KEY", crate::harness::s3::SECRET_KEY),
    ] {
        pgseal.set(&format!("BACKUP_COPY_S3_{name}"), value);
    }
    let (source, made) = backup_without_copy(&mut pgseal, "weed_copy");
    assert_eq!(made["copy"], "confirmed");
    pgseal.ok(&["copy", "--all", "--check"]);
    restored(&pgseal, &source, "latest");
    pgseal.ok(&["delete", "latest"]);
    assert_eq!(first.stored().await, Vec::<String>::new());
    assert_eq!(second.stored().await, Vec::<String>::new());
}

#[test]
fn a_deletion_is_in_both_stores_or_in_none() {
    let (first, second, pgseal, _source, made) = replicated("deleted_twice");
    second.hook(|call| match call.operation {
        "DeleteObject" => Action::Answer(403, "<Error><Code>AccessDenied</Code></Error>"),
        _ => Action::Pass,
    });
    let said = pgseal.fails(5, &["delete", "latest"]);
    assert!(
        said.contains("the second store") && said.contains("BACKUP_COPY_"),
        "{said}"
    );
    assert_eq!(first.objects().len(), 2);
    second.hook(|_| Action::Pass);
    // What is another's under that key in the second store stays.
    let theirs = second.bucket().join(format!(
        "{}/theirs.dump.gpg",
        Path::new(key(&made)).parent().unwrap().display()
    ));
    std::fs::write(&theirs, "theirs").unwrap();
    pgseal.ok(&["delete", "latest"]);
    assert_eq!(first.objects(), Vec::<String>::new());
    assert_eq!(second.objects().len(), 1);
}

/// What lost its manifest in the first store is no litter while the second has it whole.
#[test]
fn pruning_takes_no_good_copy_with_what_is_left_of_the_first() {
    let mut pgseal = Pgseal::new();
    let second = pgseal.file("second");
    std::fs::create_dir(&second).unwrap();
    pgseal.set("BACKUP_COPY_STORE", format!("file:{}", second.display()));
    let (source, made) = backup_without_copy(&mut pgseal, "no_litter");
    let dump = pgseal.store().join(key(&made));
    std::fs::remove_file(
        pgseal
            .store()
            .join(key(&made).replace(".dump.", ".manifest.")),
    )
    .unwrap();
    let days_ago = std::time::SystemTime::now() - Duration::from_hours(72);
    let file = std::fs::File::options().write(true).open(&dump).unwrap();
    file.set_modified(days_ago).unwrap();
    drop(file);
    pgseal.json(&["backup"]);

    let said = pgseal.ok(&["prune"]);
    assert!(dump.exists(), "{said}");
    let run = pgseal.run(&[
        "restore",
        made["name"].as_str().unwrap(),
        "--to",
        &Postgres::shared().name("no_litter_to").url,
        "--mode",
        "new",
    ]);
    assert_eq!(run.code, 0, "{run}");
    // Nothing is decided while half of the facts is missing.
    std::fs::rename(&second, pgseal.file("away")).unwrap();
    let said = pgseal.fails(5, &["prune"]);
    assert!(said.contains("second is not there"), "{said}");
    std::fs::rename(pgseal.file("away"), &second).unwrap();

    // Where the second store does not have it, it is.
    for ending in [".manifest.", ".dump."] {
        std::fs::remove_file(second.join(key(&made).replace(".dump.", ending))).unwrap();
    }
    pgseal.ok(&["prune"]);
    assert!(!dump.exists());
    assert!(source.exists());
}
