//! What is said of two stores that do not agree, to whoever has to mend them.

use crate::copies::{damage, key, replicated};
use crate::harness::cli::PASSPHRASE;
use crate::harness::every_day;
use crate::harness::gpg::Gpg;
use crate::harness::postgres::Postgres;
use crate::harness::receiver::Receiver;
use crate::harness::s3::Action;
use crate::notify::{sent_to, set_receiver, verified};

/// Row 173: what cannot be read in the first store is not called missing there, and of what is not there nothing is said to be.
#[test]
fn what_is_said_of_two_stores_is_so() {
    let (first, second, mut pgseal, _source, made) = replicated("said_of_two");
    let to = Postgres::shared().url("postgres");
    pgseal.json(&["drill", "latest", "--to", &to]);
    let proof = key(&made).replace(".dump.", ".proof.");
    for store in [&first, &second] {
        assert!(store.objects().contains(&proof), "{:?}", store.objects());
    }
    pgseal.set("BACKUP_GPG_PASSPHRASE", "dummy-another-passphrase");
    let listed = pgseal.run(&["list"]);
    assert_eq!(listed.code, 0, "{listed}");
    let said = &listed.stderr;
    assert!(
        said.contains("1 backup that cannot be read in the first")
            && !said.contains("only the second store"),
        "{said}"
    );
    assert!(!said.contains("drill's record"), "{said}");
    pgseal.set("BACKUP_GPG_PASSPHRASE", PASSPHRASE);

    std::fs::remove_file(first.bucket().join(key(&made))).unwrap();
    for object in second.objects() {
        std::fs::remove_file(second.bucket().join(object)).unwrap();
    }
    let said = pgseal.fails(4, &["verify", key(&made)]);
    assert!(said.contains("its store has no sealed dump"), "{said}");

    // A first store that is misspelt is not made good by an empty one.
    let misspelt = pgseal.file("misspelt");
    for name in ["BACKUP_S3_BUCKET", "BACKUP_S3_ENDPOINT_URL"] {
        pgseal.unset(name);
    }
    pgseal.set("BACKUP_STORE", format!("file:{}", misspelt.display()));
    let said = pgseal.fails(5, &["list"]);
    assert!(said.contains("is not there"), "{said}");
}

/// Of several backups, the one that cannot be restored at all decides how it ends, whichever comes first; and what is another's is
/// not to be mended by a command that would refuse.
#[test]
fn the_worst_of_several_backups_decides() {
    let (first, second, pgseal, source, older) = replicated("worst");
    source.psql("CREATE TABLE of_today ()");
    let newer = pgseal.json(&["backup"]);
    let of = |made: &serde_json::Value, store: &std::path::Path| store.join(key(made));
    let good = std::fs::read(of(&older, &second.bucket())).unwrap();
    for made in [&older, &newer] {
        damage(&of(made, &second.bucket()));
    }
    pgseal.fails(7, &["copy", "--all", "--check"]);
    damage(&of(&newer, &first.bucket()));
    pgseal.fails(4, &["copy", "--all", "--check"]);
    pgseal.ok(&["delete", key(&newer)]);
    pgseal.fails(7, &["copy", "--all", "--check"]);
    std::fs::write(of(&older, &second.bucket()), good).unwrap();
    pgseal.ok(&["copy", "--all", "--check"]);

    // A manifest of another uid, whole in itself.
    let manifest = key(&older).replace(".dump.", ".manifest.");
    let opened = Gpg::new().decrypt(&second.bucket().join(&manifest), PASSPHRASE);
    let mut other: serde_json::Value = serde_json::from_slice(&opened).unwrap();
    other["uid"] = "01a21c36-768c-7028-9798-409a1382be0b".into();
    let sealed = Gpg::new().encrypt(other.to_string().as_bytes(), PASSPHRASE, &[]);
    std::fs::write(second.bucket().join(&manifest), sealed).unwrap();
    let said = pgseal.fails(7, &["copy", key(&older), "--check"]);
    assert!(said.contains("move the other object away"), "{said}");
}

/// A timer tells of a copy that failed once, and makes up for it the next time that it is called.
#[test]
fn a_timer_makes_up_for_a_copy() {
    let (_first, second, mut pgseal, source, _older) = replicated("made_up_for");
    let receiver = Receiver::start();
    set_receiver(&mut pgseal, &receiver);
    pgseal
        .set("DATABASE_URL", &source.url)
        .set("BACKUP_SCHEDULE", every_day());
    second.hook(|call| match call.operation {
        "PutObject" => Action::Answer(403, "<Error><Code>AccessDenied</Code></Error>"),
        _ => Action::Pass,
    });
    let failures = || {
        let sent = receiver.sent();
        let hooks = sent_to(&sent, "/hook/").into_iter().map(verified);
        hooks.filter(|body| body["type"] == "copy.failed").count()
    };
    for _ in 0..2 {
        pgseal.fails(7, &["run-scheduled"]);
        assert_eq!(failures(), 1);
    }
    second.hook(|_| Action::Pass);
    let made = pgseal.json(&["run-scheduled"]);
    assert_eq!(
        (&made["outcome"], &made["copy"]),
        (&"was made".into(), &"confirmed".into())
    );
    let name = made["name"].as_str().unwrap();
    pgseal.ok(&["copy", name, "--check"]);
    assert_eq!(failures(), 1);
}
