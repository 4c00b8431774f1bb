//! A listing reads each manifest once, remembers what it said, and is never wrong because of that.

use std::path::PathBuf;
use std::sync::Arc;

use pgseal::model::manifest::Manifest;
use pgseal::model::object_key::{Layout, ObjectKey};
use pgseal::model::passphrase::Passphrase;
use pgseal::store::{Store, StoreSettings};
use pgseal::vault::{ListCache, Vault};
use time::OffsetDateTime;

use crate::harness::cli::{PASSPHRASE, Pgseal, files};
use crate::harness::gpg::Gpg;
use crate::harness::postgres::Postgres;
use crate::harness::s3::{Action, S3Server};
use crate::harness::{folder, scale};

/// The files that listings of this user remember manifests in.
fn caches(pgseal: &Pgseal) -> Vec<PathBuf> {
    let folder = pgseal.file("home/.cache/pgseal");
    files(&folder)
        .iter()
        .map(|name| folder.join(name))
        .collect()
}

#[test]
fn manifests_are_read_once_and_again_when_they_change() {
    let source = Postgres::shared().create_database("needle_listed");
    let s3 = S3Server::start();
    let mut pgseal = s3.pgseal();
    let made: Vec<String> = ["a", "b", "c"]
        .iter()
        .map(|label| pgseal.json(&["backup", &source.url, "--label", &format!("n={label}")]))
        .map(|made| made["object_key"].as_str().unwrap().to_owned())
        .collect();
    let list = |pgseal: &Pgseal| {
        s3.hook(|_| Action::Pass);
        let listed = pgseal.json(&["list"]);
        (listed, s3.calls("GetObject"))
    };
    let (first, read) = list(&pgseal);
    assert_eq!((first.as_array().unwrap().len(), read), (3, 3));
    let (second, read) = list(&pgseal);
    assert_eq!((&second, read), (&first, 0), "it was read again");

    // Of what was remembered, nothing can be read without the passphrase.
    let [cache] = caches(&pgseal).try_into().unwrap();
    let sealed = std::fs::read(&cache).unwrap();
    for plain in ["needle_listed", "object_key"] {
        assert!(
            !sealed
                .windows(plain.len())
                .any(|bytes| bytes == plain.as_bytes()),
            "{plain} is readable"
        );
    }
    let opened = Gpg::new().decrypt(&cache, PASSPHRASE);
    assert!(String::from_utf8(opened).unwrap().contains("needle_listed"));

    // What happens to the objects shows at once.
    std::fs::remove_file(s3.bucket().join(&made[0])).unwrap();
    let manifest = |key: &str| s3.bucket().join(key.replace(".dump.gpg", ".manifest.gpg"));
    std::fs::copy(manifest(&made[1]), manifest(&made[2])).unwrap();
    let (changed, read) = list(&pgseal);
    let state = |key: &String| {
        let lines = changed.as_array().unwrap().iter();
        lines
            .clone()
            .find(|line| line["object_key"] == *key.as_str())
            .unwrap()["state"]
            .clone()
    };
    let states: Vec<_> = made.iter().map(state).collect();
    assert_eq!(
        (states, read),
        (
            vec!["lost".into(), "complete".into(), "unreadable".into()],
            1
        )
    );

    // Another passphrase opens neither manifests nor memory; a broken memory is none.
    pgseal.set("BACKUP_GPG_PASSPHRASE", "dummy-another-passphrase");
    let (foreign, _) = list(&pgseal);
    for line in foreign.as_array().unwrap() {
        assert_eq!(line["state"], "unreadable");
        assert_eq!(line["database"], serde_json::Value::Null);
    }
    pgseal.set("BACKUP_GPG_PASSPHRASE", PASSPHRASE);
    std::fs::write(&cache, b"broken").unwrap();
    assert_eq!(list(&pgseal).0, changed);
    assert_eq!(list(&pgseal).0, changed);
    // Nowhere to remember anything: slower, and the same.
    pgseal.unset("HOME");
    let (unremembered, read) = list(&pgseal);
    assert_eq!((unremembered, read), (changed, 3));
}

/// A thousand of them: what the first listing takes, and every other one.
#[tokio::test(flavor = "multi_thread")]
async fn many_backups_are_listed_from_memory() {
    let count = scale(20, 1000);
    let source = Postgres::shared().create_database("many");
    let pgseal = Pgseal::new();
    pgseal.ok(&["backup", &source.url]);
    let vault = Arc::new(Vault {
        store: Store::open(StoreSettings::Local {
            root: pgseal.store(),
        })
        .await
        .unwrap(),
        second: None,
        passphrases: vec![Passphrase::new(PASSPHRASE.into()).unwrap()],
        layout: Layout::new("backups", "prod").unwrap(),
        spool_folder: pgseal.file("spool"),
    });
    let key = vault.list().await.unwrap()[0].key().to_owned();
    let made = vault
        .read_manifest(&ObjectKey::parse(&key).unwrap())
        .await
        .unwrap();
    for number in 1..count {
        let key = key.replace(".dump.gpg", &format!("_{number:08x}.dump.gpg"));
        let manifest = Manifest {
            object_key: key.clone(),
            sealed_bytes: 0,
            ..made.clone()
        };
        let key = ObjectKey::parse(&key).unwrap();
        std::fs::write(pgseal.store().join(key.as_str()), "").unwrap();
        let sealer = vault.prepare_manifest();
        vault.put_manifest(sealer, &key, &manifest).await.unwrap();
    }
    let cache_folder = folder();
    let cache = ListCache::new(Some(cache_folder.path().to_owned()));
    let mut took = Vec::new();
    let mut lists = Vec::new();
    for _ in 0..2 {
        let started = OffsetDateTime::now_utc();
        lists.push(vault.list_briefly(&cache).await.unwrap());
        took.push(OffsetDateTime::now_utc() - started);
    }
    assert_eq!((lists[0].len(), &lists[0]), (count, &lists[1]));
    assert!(lists[0].iter().all(|line| line.state == "complete"));
    println!("{count} backups: {} cold, {} warm", took[0], took[1]);
}
