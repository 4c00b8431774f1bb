//! Stock gpg opens what we seal, and we open what stock gpg seals.

use std::process::{Command, Stdio};

use crate::harness::cli::{PASSPHRASE, Pgseal};
use crate::harness::equality::{Content, assert_same};
use crate::harness::gpg::Gpg;
use crate::harness::postgres::{Database, Postgres};
use crate::harness::{fixture, run};

/// Row 80: stock gpg reads ours.
#[test]
fn gpg_and_pg_restore_alone_bring_a_database_back() {
    let server = Postgres::shared();
    let source = server.database_from("by_hand", &fixture("life.sql"), &[]);
    let pgseal = Pgseal::new();
    let made = pgseal.json(&["backup", &source.url]);
    let sealed = pgseal.store().join(made["object_key"].as_str().unwrap());
    let gpg = Gpg::new();
    let packets = gpg.packets(&sealed, PASSPHRASE);
    assert!(packets.contains("compressed packet: algo=2"), "{packets}");
    assert!(
        packets.contains("cipher 9"),
        "AES256 is cipher 9 (RFC 4880, 9.2): {packets}"
    );

    let dump = gpg.decrypt(&sealed, PASSPHRASE);
    assert_eq!(dump.len() as u64, made["plain_bytes"]);
    let file = pgseal.file("by_hand.dump");
    std::fs::write(&file, dump).unwrap();
    let target = server.create_database("by_hand_copy");
    run(server
        .client("pg_restore", &target.name)
        .arg("--exit-on-error")
        .args(["--dbname", &target.name])
        .arg(&file));
    assert_same(
        &Content::of(server, &source.name),
        &Content::of(server, &target.name),
    );

    // The manifest opens the same way, and is text.
    let manifest = sealed
        .to_str()
        .unwrap()
        .replace(".dump.gpg", ".manifest.gpg");
    let manifest: serde_json::Value =
        serde_json::from_slice(&gpg.decrypt(manifest.as_ref(), PASSPHRASE)).unwrap();
    assert_eq!(manifest["plain_sha256"], made["plain_sha256"]);
}

/// What people have from the system that this one replaces: `pg_dump -Fc | gpg --symmetric`, in a bucket.
fn by_hand(
    pgseal: &Pgseal,
    server: &Postgres,
    source: &Database<'_>,
    name: &str,
    options: &[&str],
) {
    let dump = run(server
        .client("pg_dump", &source.name)
        .args(["--format=custom"]));
    let sealed = Gpg::new().encrypt(&dump, PASSPHRASE, options);
    let folder = pgseal.store().join("backups/prod/2019/05");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(name), sealed).unwrap();
}

/// Row 80: we read stock gpg's.
#[test]
fn a_backup_made_by_hand_is_foreign_and_can_be_used() {
    let server = Postgres::shared();
    let source = server.database_from("foreign", &fixture("life.sql"), &[]);
    let before = Content::of(server, &source.name);
    let pgseal = Pgseal::new();
    by_hand(&pgseal, server, &source, "old_backup.dump.gpg", &[]);
    // gpg's other habits: no compression, another cipher's key size, armour off, an older digest.
    by_hand(
        &pgseal,
        server,
        &source,
        "uncompressed.gpg",
        &["--compress-algo", "none"],
    );
    by_hand(
        &pgseal,
        server,
        &source,
        "zip.gpg",
        &["--compress-algo", "zip", "--cipher-algo", "AES192"],
    );
    by_hand(
        &pgseal,
        server,
        &source,
        "bzip2.gpg",
        &["--compress-algo", "bzip2", "--s2k-digest-algo", "SHA1"],
    );

    let listed = pgseal.json(&["list"]);
    let listed: Vec<_> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            (
                entry["name"].as_str().unwrap(),
                entry["state"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(listed.len(), 4);
    assert!(
        listed.iter().all(|(_, state)| *state == "foreign"),
        "{listed:?}"
    );
    // It is never taken for the newest of ours.
    pgseal.fails(3, &["show", "latest"]);
    for name in ["old_backup", "uncompressed", "zip", "bzip2"] {
        let verified = pgseal.json(&["verify", name]);
        assert_eq!(
            (&verified["whole"], &verified["has_manifest"]),
            (&true.into(), &false.into())
        );
    }
    let contents = pgseal.ok(&["show", "old_backup", "--contents"]);
    assert!(contents.contains("TABLE DATA shop customers"), "{contents}");

    let target = server.name("foreign_copy");
    pgseal.ok(&[
        "restore",
        "backups/prod/2019/05/old_backup.dump.gpg",
        "--to",
        &target.url,
        "--mode",
        "new",
    ]);
    let mut restored = Content::of(server, &target.name);
    restored.accept_locale(&before);
    assert_same(&before, &restored);
    source.psql("DROP TABLE shop.orders CASCADE");
    pgseal.ok(&[
        "restore",
        "uncompressed",
        "--to",
        &source.url,
        "--mode",
        "in-place",
    ]);
    assert_same(&before, &Content::of(server, &source.name));
    pgseal.ok(&["delete", "old_backup"]);
    assert!(
        !pgseal
            .stored()
            .iter()
            .any(|path| path.contains("old_backup"))
    );
}

#[test]
fn fetch_gives_the_dump_or_the_sealed_object() {
    let server = Postgres::shared();
    let source = server.database_from("fetch", &fixture("bulk.sql"), &["rows=2000"]);
    let pgseal = Pgseal::new();
    let made = pgseal.json(&["backup", &source.url]);
    let sealed = std::fs::read(pgseal.store().join(made["object_key"].as_str().unwrap())).unwrap();

    let (plain, same) = (pgseal.file("plain.dump"), pgseal.file("same.gpg"));
    pgseal.ok(&["fetch", "latest", "-o", plain.to_str().unwrap()]);
    pgseal.ok(&["fetch", "latest", "--sealed", "-o", same.to_str().unwrap()]);
    assert!(std::fs::read(&same).unwrap() == sealed);
    let dump = std::fs::read(&plain).unwrap();
    assert_eq!(dump.len() as u64, made["plain_bytes"]);
    assert!(dump == Gpg::new().decrypt(&same, PASSPHRASE));
    let piped = pgseal.run(&["fetch", "latest", "--output", "-"]);
    assert!(piped.code == 0 && piped.stdout == dump);
    // A reader that goes away in the middle has not got a dump.
    let mut cut = pgseal
        .command(&["fetch", "latest", "-o", "-"])
        .spawn()
        .unwrap();
    drop(cut.stdout.take());
    assert_eq!(cut.wait().unwrap().code(), Some(1));
    let mut cut = pgseal.command(&["list"]).spawn().unwrap();
    drop(cut.stdout.take());
    assert_eq!(cut.wait().unwrap().code(), Some(0));
    // A file that is there stays.
    pgseal.fails(2, &["fetch", "latest", "-o", same.to_str().unwrap()]);
    assert!(std::fs::read(&same).unwrap() == sealed);

    let target = server.create_database("fetched");
    let mut restore = server.client("pg_restore", &target.name);
    let mut restore = restore
        .args(["--dbname", &target.name])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut feed = restore.stdin.take().unwrap();
    std::io::Write::write_all(&mut feed, &piped.stdout).unwrap();
    drop(feed);
    assert!(restore.wait().unwrap().success());
    assert_same(
        &Content::of(server, &source.name),
        &Content::of(server, &target.name),
    );
}

/// Rows 72 and 137: backups of two passphrases, each restored, and each opened by its own alone; and the doctor says which one
/// opens which.
#[test]
fn old_passphrases_open_old_backups() {
    let server = Postgres::shared();
    let source = server.create_database("rotated");
    source.psql("CREATE TABLE t AS SELECT 1 AS one");
    let mut pgseal = Pgseal::new();
    let old = pgseal.json(&["backup", &source.url]);
    pgseal.set("BACKUP_GPG_PASSPHRASE", "dummy-the-new-passphrase");
    let refused = pgseal.fails(4, &["verify", old["name"].as_str().unwrap()]);
    assert!(
        refused.contains("BACKUP_GPG_OLD_PASSPHRASES_FILE"),
        "{refused}"
    );
    assert_eq!(pgseal.json(&["list"])[0]["state"], "unreadable");
    assert!(
        pgseal
            .ok(&["list"])
            .contains("the passphrase does not open this message")
    );
    let sick = pgseal.fails(5, &["doctor"]);
    assert!(sick.contains("must be mended"), "{sick}");

    let file = pgseal.file("old-passphrases");
    std::fs::write(&file, format!("dummy-something-else\n{PASSPHRASE}\n")).unwrap();
    pgseal.set("BACKUP_GPG_OLD_PASSPHRASES_FILE", &file);
    pgseal.ok(&["verify", old["name"].as_str().unwrap()]);
    source.psql("INSERT INTO t VALUES (2)");
    let new = pgseal.json(&["backup", &source.url]);
    let gpg = Gpg::new();
    let sealed = pgseal.store().join(new["object_key"].as_str().unwrap());
    assert_eq!(
        gpg.decrypt(&sealed, "dummy-the-new-passphrase").len() as u64,
        new["plain_bytes"]
    );
    let found = pgseal.json(&["doctor"]);
    let name = |made: &serde_json::Value| made["name"].as_str().unwrap().to_owned();
    for (subject, said) in [
        ("newest backup", format!("today's passphrase opens {}", name(&new))),
        ("oldest backup", format!("old passphrase 2 opens {}", name(&old))),
        ("passphrase", "old passphrase 1 opens neither the newest nor the oldest backup; one between them may need it".to_owned()),
        ("passphrase", "old passphrase 2 opens the oldest backup".to_owned()),
    ] {
        let is_said = |line: &&serde_json::Value| line["subject"] == subject && line["found"] == said.as_str();
        assert!(found.as_array().unwrap().iter().any(|line| is_said(&line)), "{subject}: {said}: {found}");
    }
    for (made, rows) in [(&old, "1"), (&new, "2")] {
        let target = server.name("rotated_copy");
        let name = made["name"].as_str().unwrap();
        pgseal.ok(&["restore", name, "--to", &target.url, "--mode", "new"]);
        assert_eq!(target.psql("SELECT count(*) FROM t"), rows);
    }
}

#[test]
fn the_tools_are_the_stock_ones() {
    let version = run(Command::new("gpg").arg("--version"));
    assert!(String::from_utf8_lossy(&version).starts_with("gpg (GnuPG) 2."));
}
