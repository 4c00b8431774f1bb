//! Damaged, cut, swapped and replaced backups: `verify` says so, and `restore` and `fetch` refuse before a single byte of
//! them is released.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use pgseal::model::object_key::{Layout, ObjectKey};
use pgseal::model::passphrase::Passphrase;
use pgseal::progress::Progress;
use pgseal::seal::Digester;
use pgseal::store::{Store, StoreSettings};
use pgseal::vault::{Limits, Selector, Vault, VaultError};

use crate::harness::cli::{PASSPHRASE, Pgseal, clients};
use crate::harness::gpg::Gpg;
use crate::harness::postgres::{Database, Postgres};
use crate::harness::run;
use crate::harness::watch::Watcher;

/// A backup of a small database, and where its two objects are.
struct Sample {
    pgseal: Pgseal,
    database: Database<'static>,
    dump: PathBuf,
    manifest: PathBuf,
    name: String,
}

fn sample(prefix: &str) -> Sample {
    sample_of(prefix, 20)
}

fn sample_of(prefix: &str, rows: usize) -> Sample {
    let database = Postgres::shared().create_database(prefix);
    database.psql(&format!(
        "CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, {rows}) i"
    ));
    let pgseal = Pgseal::new();
    let made = pgseal.json(&["backup", &database.url]);
    let dump = pgseal.store().join(made["object_key"].as_str().unwrap());
    let manifest = dump
        .to_str()
        .unwrap()
        .replace(".dump.gpg", ".manifest.gpg")
        .into();
    Sample {
        pgseal,
        database,
        dump,
        manifest,
        name: made["name"].as_str().unwrap().to_owned(),
    }
}

impl Sample {
    /// Nobody gets anything of it, and the database that would be replaced stays as it is.
    fn assert_refused(&self, what: &str) {
        let verified = self.pgseal.run(&["verify", &self.name]);
        assert_eq!(verified.code, 4, "{what}: {verified}");
        let fetched = self.pgseal.run(&["fetch", &self.name, "-o", "-"]);
        assert_eq!(
            (fetched.code, fetched.stdout.len()),
            (4, 0),
            "{what}: {fetched}"
        );
        let before = self.database.psql("SELECT count(*), sum(i) FROM t");
        let restored = self.pgseal.run(&[
            "restore",
            &self.name,
            "--to",
            &self.database.url,
            "--mode",
            "in-place",
        ]);
        assert_eq!(restored.code, 4, "{what}: {restored}");
        assert_eq!(
            self.database.psql("SELECT count(*), sum(i) FROM t"),
            before,
            "{what}"
        );
        // No safety backup was made either: it is refused before that.
        assert!(
            !self
                .pgseal
                .stored()
                .iter()
                .any(|path| path.contains("pre_restore")),
            "{what}"
        );
        assert_eq!(self.pgseal.leftovers(), Vec::<String>::new(), "{what}");
    }
}

/// Rows 25, 65, 66 and 67: with its manifest, for every command.
#[test]
fn a_damaged_backup_is_refused_by_every_command() {
    let sample = sample("damaged");
    let whole = fs::read(&sample.dump).unwrap();
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        bytes
    };
    let second = [whole.as_slice(), whole.as_slice()].concat();
    for (what, bytes) in [
        ("one bit near the beginning", flipped(20)),
        ("one bit in the middle", flipped(whole.len() / 2)),
        ("one bit at the end", flipped(whole.len() - 1)),
        ("cut in the middle", whole[..whole.len() / 2].to_vec()),
        ("cut by a byte", whole[..whole.len() - 1].to_vec()),
        ("empty", Vec::new()),
        ("a byte more", [whole.as_slice(), b"x"].concat()),
        ("a second message behind it", second),
        ("no message at all", b"PGDMP and so on".to_vec()),
    ] {
        fs::write(&sample.dump, bytes).unwrap();
        sample.assert_refused(what);
    }
    fs::write(&sample.dump, &whole).unwrap();
    sample.pgseal.ok(&["verify", &sample.name]);
}

/// Rows 26, 68 and 70: swapped, edited, removed, and another backup's.
#[test]
fn manifests_and_dumps_belong_together() {
    let (one, other) = (sample("swap_one"), sample("swap_other"));
    let (dump, manifest) = (
        fs::read(&one.dump).unwrap(),
        fs::read(&one.manifest).unwrap(),
    );

    // Another backup's dump, then its manifest too: whole, authentic, and the wrong one.
    fs::copy(&other.dump, &one.dump).unwrap();
    one.assert_refused("another backup's dump");
    fs::copy(&other.manifest, &one.manifest).unwrap();
    one.assert_refused("another backup's manifest");
    fs::write(&one.dump, &dump).unwrap();
    one.assert_refused("another backup's manifest with its own dump");

    // A manifest that somebody who has the passphrase wrote anew.
    let mut edited: serde_json::Value =
        serde_json::from_slice(&Gpg::new().decrypt(&other.manifest, PASSPHRASE)).unwrap();
    fs::write(&one.manifest, &manifest).unwrap();
    let own: serde_json::Value =
        serde_json::from_slice(&Gpg::new().decrypt(&one.manifest, PASSPHRASE)).unwrap();
    edited["object_key"] = own["object_key"].clone();
    fs::write(
        &one.manifest,
        Gpg::new().encrypt(edited.to_string().as_bytes(), PASSPHRASE, &[]),
    )
    .unwrap();
    one.assert_refused("an edited manifest");
    let later = own.to_string().replace("\"format\":1", "\"format\":2");
    fs::write(
        &one.manifest,
        Gpg::new().encrypt(later.as_bytes(), PASSPHRASE, &[]),
    )
    .unwrap();
    let said = one.pgseal.fails(4, &["verify", &one.name]);
    assert!(said.contains("has form 2"), "{said}");

    // An older backup of the same database under a newer one's name.
    let newer = one.pgseal.json(&["backup", &one.database.url]);
    let newer_dump = one
        .pgseal
        .store()
        .join(newer["object_key"].as_str().unwrap());
    let newer_manifest =
        PathBuf::from(newer_dump.to_str().unwrap().replace(".dump.", ".manifest."));
    let (kept_dump, kept_manifest) = (fs::read(&newer_dump), fs::read(&newer_manifest));
    fs::write(&newer_dump, &dump).unwrap();
    fs::write(&newer_manifest, &manifest).unwrap();
    let said = one
        .pgseal
        .fails(4, &["verify", newer["name"].as_str().unwrap()]);
    assert!(said.contains("belongs to another backup"), "{said}");
    one.pgseal.fails(4, &["verify", "latest"]);
    fs::write(&newer_dump, kept_dump.unwrap()).unwrap();
    fs::write(&newer_manifest, kept_manifest.unwrap()).unwrap();
    one.pgseal.ok(&["verify", "latest"]);
    one.pgseal.ok(&["delete", "latest"]);

    // Without its manifest, and without the uid that says whose it is: nobody's, and never the latest.
    let meta = one.dump.with_file_name(format!(
        ".{}.meta",
        one.dump.file_name().unwrap().to_string_lossy()
    ));
    let uid = fs::read(&meta).unwrap();
    fs::remove_file(&one.manifest).unwrap();
    assert_eq!(one.pgseal.json(&["list"])[0]["state"], "unfinished");
    one.pgseal.fails(3, &["verify", &one.name]);
    fs::remove_file(&meta).unwrap();
    assert_eq!(one.pgseal.json(&["list"])[0]["state"], "foreign");
    one.pgseal.fails(
        3,
        &[
            "restore",
            "latest",
            "--to",
            &one.database.url,
            "--mode",
            "in-place",
        ],
    );
    assert_eq!(
        one.pgseal.json(&["verify", &one.name])["has_manifest"],
        false
    );
    let restored = one.pgseal.json(&[
        "restore",
        &one.name,
        "--to",
        &one.database.url,
        "--mode",
        "in-place",
        "--no-safety-backup",
        "--confirm",
        &one.database.name,
    ]);
    assert!(
        restored["warnings"][0]
            .as_str()
            .unwrap()
            .contains("foreign"),
        "{restored}"
    );
    fs::write(&meta, uid).unwrap();

    fs::write(&one.manifest, &manifest).unwrap();
    fs::remove_file(&one.dump).unwrap();
    assert_eq!(one.pgseal.json(&["list"])[0]["state"], "lost");
    one.assert_refused("a dump that is gone");
    fs::write(&one.dump, &dump).unwrap();
    one.pgseal.ok(&["verify", &one.name]);
}

/// Row 89: another dump, sealed by somebody who has the passphrase, with a manifest that fits but for the digest of what is
/// inside: pg_restore itself would read it without a word.
#[test]
fn content_that_was_changed_and_sealed_anew_is_refused() {
    let sample = sample("resealed");
    let gpg = Gpg::new();
    let mut plain = gpg.decrypt(&sample.dump, PASSPHRASE);
    let at = plain
        .windows(32)
        .position(|bytes| bytes.iter().all(u8::is_ascii_hexdigit))
        .unwrap();
    plain[at] ^= 1;
    let readable = sample.pgseal.file("changed.dump");
    fs::write(&readable, &plain).unwrap();
    let mut pg_restore = Postgres::shared().client("pg_restore", "postgres");
    pg_restore.env_remove("PGDATABASE");
    run(pg_restore.args(["--file", "/dev/null"]).arg(&readable));

    let sealed = gpg.encrypt(&plain, PASSPHRASE, &[]);
    let mut manifest: serde_json::Value =
        serde_json::from_slice(&gpg.decrypt(&sample.manifest, PASSPHRASE)).unwrap();
    manifest["sealed_bytes"] = sealed.len().into();
    manifest["sealed_sha256"] = Digester::of(&sealed).to_string().into();
    fs::write(&sample.dump, &sealed).unwrap();
    let written = gpg.encrypt(manifest.to_string().as_bytes(), PASSPHRASE, &[]);
    fs::write(&sample.manifest, written).unwrap();
    let said = sample.pgseal.fails(4, &["verify", &sample.name]);
    assert!(said.contains("is not the one that was sealed"), "{said}");
    sample.assert_refused("content that was changed");

    // With the digest of what is inside now, nothing is wrong with it.
    manifest["plain_sha256"] = Digester::of(&plain).to_string().into();
    let written = gpg.encrypt(manifest.to_string().as_bytes(), PASSPHRASE, &[]);
    fs::write(&sample.manifest, written).unwrap();
    sample.pgseal.ok(&["verify", &sample.name]);
}

/// Rows 71 and 73.
#[test]
fn a_wrong_passphrase_looks_like_damage_and_changes_nothing() {
    let mut sample = sample("passphrase");
    // The same words for both, so that they tell nobody which it is; for a manifest, and for an object that has none.
    let foreign = sample.dump.with_file_name("by_hand.gpg");
    fs::copy(&sample.dump, &foreign).unwrap();
    let said = |sample: &Sample| {
        [&sample.name, "by_hand"].map(|name| {
            let said = sample.pgseal.fails(4, &["verify", name]);
            // Which stages are named before depends on how long each takes.
            let (_, error) = said.split_once("error:").unwrap();
            error.to_owned()
        })
    };
    let whole = [
        fs::read(&sample.manifest).unwrap(),
        fs::read(&foreign).unwrap(),
    ];
    for (path, bytes) in [&sample.manifest, &foreign].into_iter().zip(&whole) {
        let mut damaged = bytes.clone();
        *damaged.last_mut().unwrap() ^= 1;
        fs::write(path, damaged).unwrap();
    }
    let of_damage = said(&sample);
    for (path, bytes) in [&sample.manifest, &foreign].into_iter().zip(&whole) {
        fs::write(path, bytes).unwrap();
    }
    sample
        .pgseal
        .set("BACKUP_GPG_PASSPHRASE", "dummy-another-passphrase");
    assert_eq!(said(&sample), of_damage);
    fs::remove_file(&foreign).unwrap();
    sample.assert_refused("wrong passphrase");
    for empty in ["", " \t"] {
        sample.pgseal.set("BACKUP_GPG_PASSPHRASE", empty);
        let run = sample.pgseal.run(&["backup", &sample.database.url]);
        assert_eq!(run.code, 5, "{run}");
    }
}

/// Rows 65 and 66. The program stops at a size or a digest before it decrypts anything; below it, every bit counts as well. So each flip and
/// each cut is opened directly, without a manifest that would catch it first.
#[test]
fn every_bit_and_every_length_of_a_sealed_dump_counts() {
    let sample = sample("every_bit");
    // A salt and no rounds, so that many thousand openings take seconds.
    let server = Postgres::shared();
    let dump = run(server
        .client("pg_dump", &sample.database.name)
        .args(["--format=custom", "--table=t"]));
    let options = ["--s2k-mode", "1", "--compress-level", "9"];
    let sealed = Gpg::new().encrypt(&dump, PASSPHRASE, &options);
    let folder = sample.pgseal.store().join("backups/prod/1999/01");
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join("small.dump.gpg");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let vault = vault(&sample.pgseal).await;
        fs::write(&path, &sealed).unwrap();
        let opened = authenticate(&vault).await.unwrap();
        assert_eq!(opened, dump.len() as u64);
        let mut damaged: Vec<(String, Vec<u8>)> = (0..sealed.len())
            .map(|length| (format!("cut to {length} bytes"), sealed[..length].to_vec()))
            .collect();
        damaged.extend((0..sealed.len()).flat_map(|at| {
            let sealed = &sealed;
            (0..8).map(move |bit| {
                let mut bytes = sealed.clone();
                bytes[at] ^= 1 << bit;
                (format!("bit {bit} of byte {at}"), bytes)
            })
        }));
        for (what, bytes) in damaged {
            fs::write(&path, bytes).unwrap();
            match authenticate(&vault).await {
                Err(error) if error.is_verdict() => {}
                Err(error) => panic!("{what}: {error:?}"),
                Ok(bytes) => panic!("{what}: {bytes} bytes were taken for whole"),
            }
        }
    });
}

async fn vault(pgseal: &Pgseal) -> Vault {
    let root = pgseal.store();
    Vault {
        store: Store::open(StoreSettings::Local { root }).await.unwrap(),
        second: None,
        passphrases: vec![Passphrase::new(PASSPHRASE.into()).unwrap()],
        layout: Layout::new("backups", "prod").unwrap(),
        spool_folder: pgseal.file("spool"),
    }
}

async fn authenticate(vault: &Vault) -> Result<u64, VaultError> {
    let progress = Arc::new(Progress::default());
    let key = ObjectKey::parse("backups/prod/1999/01/small.dump.gpg").unwrap();
    let foreign = vault.find(&Selector::Key(key)).await?;
    let fetched = vault.fetch(foreign, &progress).await?;
    Ok(vault
        .authenticate(&fetched, Limits::default(), &progress)
        .await?
        .plain_bytes)
}

/// Row 78: pg_restore is no integrity check, so it must not get what was not proved.
#[test]
fn pg_restore_never_sees_an_unproved_byte() {
    // So many that most of them could be opened before the bit at the end is met.
    let sample = sample_of("unproved", 100_000);
    let log = sample.pgseal.file("bytes-seen");
    let script = format!("tee -a '{}' | \"$REAL\" \"$@\"", log.display());
    let programs = clients(None, Some(&script));
    let mut pgseal = Pgseal::new();
    pgseal.with_clients(programs.path()).set(
        "BACKUP_STORE",
        format!("file:{}", sample.pgseal.store().display()),
    );
    let mut bytes = fs::read(&sample.dump).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&sample.dump, &bytes).unwrap();
    pgseal.fails(4, &["verify", &sample.name]);
    pgseal.fails(
        4,
        &[
            "restore",
            &sample.name,
            "--to",
            &sample.database.url,
            "--mode",
            "in-place",
        ],
    );
    // The same as a foreign object: no manifest vouches for it, so it is authenticated first.
    fs::remove_file(&sample.manifest).unwrap();
    let foreign = sample.dump.with_file_name("by_hand.gpg");
    fs::rename(&sample.dump, &foreign).unwrap();
    pgseal.fails(4, &["verify", "by_hand"]);
    pgseal.fails(
        4,
        &[
            "restore",
            "by_hand",
            "--to",
            &sample.database.url,
            "--mode",
            "in-place",
        ],
    );
    assert!(
        !log.exists(),
        "pg_restore saw {} bytes",
        fs::read(&log).unwrap().len()
    );

    bytes[last] ^= 1;
    fs::write(&foreign, &bytes).unwrap();
    pgseal.ok(&["verify", "by_hand"]);
    assert!(log.exists(), "the log does not work");
}

/// Row 76: an object without a manifest, in the two ways that shrink zeros best, before it takes memory or a disk; and with
/// the override it is what it is. (`src/seal/tests.rs` has the manifest's length; one compression at most: `faults_seal.rs`.)
#[test]
fn a_decompression_bomb_is_stopped() {
    let pgseal = Pgseal::new();
    let folder = pgseal.store().join("backups/prod/2000/01");
    fs::create_dir_all(&folder).unwrap();
    let zeros = vec![0_u8; 300 << 20];
    for algorithm in ["bzip2", "zlib"] {
        let bomb = Gpg::new().encrypt(&zeros, PASSPHRASE, &["--compress-algo", algorithm]);
        assert!(bomb.len() < 1 << 20, "{} bytes are no bomb", bomb.len());
        fs::write(folder.join(format!("{algorithm}.gpg")), bomb).unwrap();
        let running = pgseal.start(&["verify", algorithm]);
        let watcher = Watcher::start(running.pid());
        let stopped = running.wait();
        let peak = watcher.finish().peak_rss_kib["pgseal"];
        assert_eq!(stopped.code, 4, "{stopped}");
        assert!(stopped.stderr.contains("--max-ratio"), "{stopped}");
        assert!(peak < 96 * 1024, "{peak} KiB");
        assert_eq!(pgseal.leftovers(), Vec::<String>::new());
    }
    let said = pgseal.fails(4, &["verify", "zlib", "--max-ratio", "1000000"]);
    assert!(
        said.contains("pg_restore") && !said.contains("--max-ratio"),
        "{said}"
    );
}
