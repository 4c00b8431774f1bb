//! Which backups go, which stay, and what is left when a deletion is cut short. Backups here are small: what counts is
//! their manifests, and what is in the store afterwards.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pgseal::catalog::{Catalog, CatalogError, LastGood, Safety, Task};
use pgseal::model::kind::BackupKind;
use pgseal::model::manifest::Manifest;
use pgseal::model::object_key::{Layout, ObjectKey};
use pgseal::model::passphrase::Passphrase;
use pgseal::model::policy::{Policy, Rules};
use pgseal::retention::{Retention, Wishes, delete};
use pgseal::store::{Store, StoreSettings};
use pgseal::vault::Vault;
use rustix::process::Signal;
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::harness::catalog::{catalog_in, manifest, restore_of};
use crate::harness::cli::{PASSPHRASE, Pgseal};
use crate::harness::postgres::Postgres;
use crate::harness::s3::{Action, BUCKET, S3Server, settings};
use crate::harness::scale;
use crate::harness::service::Service;
use crate::harness::somebody::until;

pub const SCHEDULED: BackupKind = BackupKind::Scheduled;

async fn vault_at(settings: StoreSettings, pgseal: &Pgseal) -> Vault {
    Vault {
        store: Store::open(settings).await.unwrap(),
        second: None,
        passphrases: vec![Passphrase::new(PASSPHRASE.into()).unwrap()],
        layout: Layout::new("backups", "prod").unwrap(),
        spool_folder: pgseal.file("spool"),
    }
}

pub async fn vault_of(pgseal: &Pgseal) -> Vault {
    let root = pgseal.store();
    vault_at(StoreSettings::Local { root }, pgseal).await
}

/// A complete backup of so many days ago.
pub async fn put(
    vault: &Vault,
    kind: BackupKind,
    days: i64,
    change: impl FnOnce(&mut Manifest),
) -> Manifest {
    let at = OffsetDateTime::now_utc() - time::Duration::days(days);
    let mut manifest = manifest("default");
    let key = vault.layout.dump_key(kind, at, Some(&manifest.uid));
    let content = Bytes::from_static(b"sealed");
    manifest.kind = kind;
    manifest.name = key.backup_name().unwrap().to_owned();
    manifest.object_key = key.to_string();
    (manifest.started_at, manifest.finished_at) = (at, at);
    manifest.sealed_bytes = content.len() as u64;
    manifest.store_version_id = None;
    manifest.excluded_table_data = Vec::new();
    change(&mut manifest);
    vault
        .store
        .put(&key, Some(manifest.uid), content)
        .await
        .unwrap();
    let sealer = vault.prepare_manifest();
    vault.put_manifest(sealer, &key, &manifest).await.unwrap();
    manifest
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// Backups of these days in the program's own store, oldest first as they are given.
pub fn backups(pgseal: &Pgseal, of: &[(BackupKind, i64)]) -> Vec<Manifest> {
    runtime().block_on(async {
        let vault = vault_of(pgseal).await;
        let mut made = Vec::new();
        for (kind, days) in of {
            made.push(put(&vault, *kind, *days, |_| {}).await);
        }
        made
    })
}

/// A small backup of the service's database, of so many days ago: those of other databases stay as the last of theirs.
fn old_one(service: &Service, days: i64) -> Manifest {
    runtime().block_on(async {
        let vault = vault_of(&service.pgseal).await;
        put(&vault, SCHEDULED, days, |manifest| {
            manifest.database.name.clone_from(&service.database.name);
            manifest.plain_bytes = 1;
        })
        .await
    })
}

/// Names of the backups whose two objects are there.
pub fn stored(pgseal: &Pgseal) -> BTreeSet<String> {
    let files: BTreeSet<PathBuf> = pgseal.stored().into_iter().map(PathBuf::from).collect();
    let name = |file: &PathBuf| {
        let name = file
            .file_name()?
            .to_str()?
            .strip_suffix(".dump.gpg")?
            .to_owned();
        let manifest = file.with_file_name(format!("{name}.manifest.gpg"));
        files.contains(&manifest).then_some(name)
    };
    files.iter().filter_map(name).collect()
}

pub fn names<'a>(of: impl IntoIterator<Item = &'a Manifest>) -> BTreeSet<String> {
    of.into_iter()
        .map(|manifest| manifest.name.clone())
        .collect()
}

#[test]
fn what_is_planned_is_what_is_done() {
    let pgseal = Pgseal::new();
    let made = backups(
        &pgseal,
        &[
            (SCHEDULED, 40),
            (BackupKind::Manual, 35),
            (SCHEDULED, 29),
            (SCHEDULED, 1),
            (BackupKind::Manual, 0),
        ],
    );
    let foreign = pgseal.store().join("backups/prod/by-hand.dump.gpg");
    std::fs::write(&foreign, "of somebody else").unwrap();
    let old = std::time::SystemTime::now() - Duration::from_secs(100 * 24 * 3600);
    std::fs::File::options()
        .write(true)
        .open(&foreign)
        .unwrap()
        .set_modified(old)
        .unwrap();
    let everything = pgseal.stored();

    let plan = pgseal.json(&["prune", "--plan"]);
    assert_eq!(pgseal.stored(), everything, "a plan deletes nothing");
    let due: BTreeSet<String> = plan["decisions"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|one| one["verdict"] == "delete")
        .map(|one| one["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(due, names(&made[..2]));
    for one in plan["decisions"].as_array().unwrap() {
        assert!(!one["reasons"].as_array().unwrap().is_empty(), "{one}");
    }
    let done = pgseal.json(&["prune"]);
    assert_eq!(
        (done["deleted"].as_array().unwrap().len(), &done["held"]),
        (2, &json!([]))
    );
    assert_eq!(stored(&pgseal), names(&made[2..]));
    assert!(
        foreign.exists(),
        "a foreign object went without being asked for"
    );
    // Once more: nothing is left to do.
    assert_eq!(pgseal.json(&["prune"])["deleted"], json!([]));
    pgseal.ok(&["prune", "--include-foreign"]);
    assert!(!foreign.exists());
    assert_eq!(stored(&pgseal), names(&made[2..]));
    assert_eq!(pgseal.leftovers(), Vec::<String>::new());
}

#[test]
fn rules_come_from_the_environment_and_for_each_kind() {
    let mut pgseal = Pgseal::new();
    let made = backups(
        &pgseal,
        &[
            (SCHEDULED, 400),
            (SCHEDULED, 3),
            (SCHEDULED, 2),
            (SCHEDULED, 1),
            (BackupKind::Manual, 300),
            (BackupKind::Manual, 90),
        ],
    );
    pgseal
        .set("BACKUP_KEEP_LAST", "scheduled=2")
        .set("BACKUP_RETENTION_DAYS", "manual=100");
    pgseal.ok(&["prune"]);
    assert_eq!(stored(&pgseal), names([&made[2], &made[3], &made[5]]));
    pgseal.set("BACKUP_KEEP_LAST", "all=2");
    pgseal.fails(2, &["prune"]);
    pgseal
        .set("BACKUP_KEEP_LAST", "0")
        .set("BACKUP_RETENTION_DAYS", "1");
    pgseal.ok(&["prune", "--many"]);
    // However old it is.
    assert_eq!(stored(&pgseal), names([&made[3]]));
}

/// Row 97: with a clock that is a year ahead everything is old, and the store knows better.
#[test]
fn a_clock_a_year_ahead_deletes_nothing() {
    let mut pgseal = Pgseal::new();
    let made = backups(
        &pgseal,
        &[
            (SCHEDULED, 40),
            (SCHEDULED, 3),
            (SCHEDULED, 2),
            (SCHEDULED, 1),
            (SCHEDULED, 0),
        ],
    );
    pgseal
        .with_clock("+365d")
        // What the system says of files is the store's own time here.
        .set("NO_FAKE_STAT", "1");
    for arguments in [&["prune"][..], &["prune", "--many"]] {
        let said = pgseal.fails(6, arguments);
        assert!(said.contains("one of them is wrong"), "{said}");
        assert_eq!(stored(&pgseal), names(&made));
    }
    pgseal.unset("LD_PRELOAD");
    pgseal.ok(&["prune"]);
    assert_eq!(stored(&pgseal), names(&made[1..]));
}

/// Row 134: a database that was emptied is backed up without a word, and the old backups are all that there is.
#[test]
fn an_emptied_database_holds_retention_until_somebody_accepts_it() {
    let server = Postgres::shared();
    let source = server.create_database("emptied");
    source
        .psql("CREATE TABLE a AS SELECT 1; CREATE TABLE b AS SELECT 2; CREATE TABLE c AS SELECT 3");
    let mut pgseal = Pgseal::new();
    pgseal.set("DATABASE_URL", &source.url);
    let old = runtime().block_on(async {
        let vault = vault_of(&pgseal).await;
        put(&vault, SCHEDULED, 40, |manifest| {
            manifest.database.name.clone_from(&source.name);
        })
        .await
    });
    pgseal.ok(&["backup"]);
    source.psql("DROP TABLE a; DROP TABLE b");
    let small = pgseal.json(&["backup"])["name"]
        .as_str()
        .unwrap()
        .to_owned();
    // A second one of the kind does not make it right.
    pgseal.ok(&["backup"]);

    let before = stored(&pgseal);
    let said = pgseal.fails(6, &["prune", "--store-only"]);
    assert!(
        said.contains(&format!(
            "backup {small} looks wrong: it has 1 table, the one before had 3"
        )),
        "{said}"
    );
    assert_eq!(stored(&pgseal), before);
    let listed = pgseal.ok(&["list"]);
    assert_eq!(listed.matches("SUSPICIOUS").count(), 2, "{listed}");

    pgseal.ok(&["accept", &small]);
    assert!(!pgseal.ok(&["list"]).contains("SUSPICIOUS"));
    pgseal.ok(&["prune", "--store-only"]);
    assert_eq!(stored(&pgseal), &before - &names([&old]));
}

/// Row 86: what was there before a restore is the way back, however old it gets.
#[test]
fn a_safety_backup_stays_until_it_is_released() {
    let pgseal = Pgseal::new();
    let made = backups(
        &pgseal,
        &[
            (BackupKind::PreRestore, 400),
            (SCHEDULED, 300),
            (SCHEDULED, 0),
        ],
    );
    pgseal.ok(&["prune"]);
    assert_eq!(stored(&pgseal), names([&made[0], &made[2]]));
    pgseal.fails(2, &["release", &made[2].name]);
    pgseal.ok(&["release", &made[0].name]);
    pgseal.ok(&["prune"]);
    assert_eq!(stored(&pgseal), names([&made[2]]));
    // Its mark says nothing any more, and goes with the next run.
    pgseal.ok(&["prune"]);
    assert!(
        !pgseal
            .stored()
            .iter()
            .any(|path| path.contains("pgseal-mark")),
        "{:?}",
        pgseal.stored()
    );
}

pub fn retention(vault: &Vault, catalog: &Catalog, days: u32) -> Retention {
    let rules = Rules {
        age_max: Some(Duration::from_secs(u64::from(days) * 24 * 3600)),
        ..Rules::default()
    };
    Retention {
        vault: vault.clone(),
        catalog: Some(catalog.clone()),
        target: "default".to_owned(),
        policy: Policy {
            manual: rules,
            scheduled: rules,
            pre_restore: rules,
            foreign: rules,
        },
        clock: OffsetDateTime::now_utc,
    }
}

/// Row 95: whoever got the right to read a backup, by a pin or a restore's row, finds it there until he is done, in every
/// order of events.
#[test]
fn nothing_is_deleted_while_it_is_read() {
    runtime().block_on(async {
        let server = Postgres::shared();
        let place = server.create_database("interleaved");
        let catalog = catalog_in(&place).await;
        let pgseal = Pgseal::new();
        let vault = vault_of(&pgseal).await;
        let rounds = scale(1000, 10_000);
        let each = 20;
        let (mut read, mut deleted) = (0, 0);
        for round in 0..rounds / each {
            let mut manifests = Vec::new();
            for _ in 0..=each {
                let mut manifest = manifest("default");
                manifest.kind = SCHEDULED;
                let key = ObjectKey::parse(&manifest.object_key).unwrap();
                let content = Bytes::from_static(b"sealed");
                vault
                    .store
                    .put(&key, Some(manifest.uid), content)
                    .await
                    .unwrap();
                manifests.push(manifest);
            }
            let adopted = catalog
                .adopt(&manifests.iter().collect::<Vec<_>>())
                .await
                .unwrap();
            let mut readers = tokio::task::JoinSet::new();
            // The last one stays good, so that each of the others may go.
            for (index, (manifest, adopted)) in manifests.iter().zip(adopted).take(each).enumerate()
            {
                let pgseal::catalog::Adopted::New(id) = adopted else {
                    panic!("{adopted:?}")
                };
                let key = ObjectKey::parse(&manifest.object_key).unwrap();
                let (catalog, vault) = (catalog.clone(), vault.clone());
                let pause = Duration::from_micros(rand::random::<u64>() % 4000);
                let (deleter, store) = (catalog.clone(), vault.clone());
                let deletion = tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_micros(rand::random::<u64>() % 4000)).await;
                    match delete(&store, &deleter, id, LastGood::Kept).await {
                        Ok(_) => true,
                        Err(pgseal::retention::DeleteError::Catalog(CatalogError::Needed {
                            ..
                        })) => false,
                        Err(error) => panic!("{error}"),
                    }
                });
                readers.spawn(async move {
                    tokio::time::sleep(pause).await;
                    let holder = format!("job-{round}-{index}");
                    // Restores of one target wait for each other, so each has one of its own.
                    let target = format!("copy-{round}-{index}");
                    let by_restore = index % 2 == 0;
                    let allowed = if by_restore {
                        let asked = restore_of(id, &target, Safety::Skip);
                        catalog
                            .request_restore(&asked)
                            .await
                            .map(|(row, _)| Some(row.id))
                    } else {
                        catalog
                            .pin(id, &holder, Duration::from_secs(60))
                            .await
                            .map(|()| None)
                    };
                    let reads = match allowed {
                        Err(CatalogError::NotRestorable { .. } | CatalogError::NoSuchBackup(_)) => {
                            false
                        }
                        Err(error) => panic!("{error}"),
                        Ok(restore) => {
                            for _ in 0..3 {
                                assert!(
                                    vault.store.head(&key).await.unwrap().is_some(),
                                    "{key} went while it was read"
                                );
                                tokio::time::sleep(Duration::from_micros(500)).await;
                            }
                            match restore {
                                Some(restore) => drop(
                                    catalog
                                        .cancel(Task::Restore(restore), "test")
                                        .await
                                        .unwrap(),
                                ),
                                None => catalog.unpin(id, &holder).await.unwrap(),
                            }
                            true
                        }
                    };
                    let gone = deletion.await.unwrap();
                    // Either both, one after the other, or one of them.
                    assert!(reads || gone);
                    assert_eq!(vault.store.head(&key).await.unwrap().is_none(), gone);
                    assert_eq!(catalog.backup(id).await.unwrap().is_none(), gone);
                    (reads, gone)
                });
            }
            while let Some(ended) = readers.join_next().await {
                let (reads, gone) = ended.unwrap();
                read += usize::from(reads);
                deleted += usize::from(gone);
            }
        }
        // Had all gone one way, nothing would have been tried.
        assert!(
            read > rounds / 20 && deleted > rounds / 20,
            "{read} read, {deleted} deleted"
        );
    });
}

/// Row 96: killed between the manifest and the dump, the row says what is not done, and the next run does it.
#[test]
fn a_deletion_that_was_killed_is_gone_on_with() {
    let server = Postgres::shared();
    let place = server.create_database("killed_deletion");
    let s3 = S3Server::start();
    let mut pgseal = s3.pgseal();
    pgseal.set("CATALOG_DATABASE_URL", &place.url);
    let runtime = runtime();
    let (old, new) = runtime.block_on(async {
        catalog_in(&place).await.close().await;
        let vault = vault_at(
            StoreSettings::S3(s3.settings(&pgseal.file("spool"))),
            &pgseal,
        )
        .await;
        (
            put(&vault, SCHEDULED, 40, |_| {}).await,
            put(&vault, SCHEDULED, 0, |_| {}).await,
        )
    });
    let reached = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let seen = Arc::clone(&reached);
    s3.hook(move |call| {
        if call.operation == "DeleteObject" && call.key.ends_with(".dump.gpg") {
            seen.store(true, std::sync::atomic::Ordering::SeqCst);
            return Action::Hang(Duration::from_secs(600));
        }
        Action::Pass
    });
    let pruning = pgseal.start(&["prune"]);
    until("the deletion of a dump", || {
        reached.load(std::sync::atomic::Ordering::SeqCst)
    });
    pruning.signal(Signal::KILL);
    pruning.wait();
    s3.hook(|_| Action::Pass);

    let state = "SELECT string_agg(deletion, ' ' ORDER BY created_at) FROM pgseal.backups";
    assert_eq!(place.psql(state), "deleting kept");
    let manifest = |manifest: &Manifest| manifest.object_key.replace(".dump.gpg", ".manifest.gpg");
    let pair = |of: &Manifest| vec![of.object_key.clone(), manifest(of)];
    let mut half = pair(&new);
    half.push(old.object_key.clone());
    half.sort();
    assert_eq!(s3.objects(), half);
    // Nobody takes what is left of it for a backup meanwhile.
    let listed = pgseal.json(&["list"]);
    let complete = listed
        .as_array()
        .unwrap()
        .iter()
        .filter(|one| one["state"] == "complete");
    assert_eq!(complete.count(), 1);

    let done = pgseal.json(&["prune"]);
    assert_eq!(done["deleted"], json!([old.object_key]));
    assert_eq!(s3.objects(), pair(&new));
    assert_eq!(place.psql(state), "kept");
    assert_eq!(pgseal.json(&["prune"])["deleted"], json!([]));
}

/// Row 98: the store refuses for a while. What is not gone says so, and goes with a later run.
#[test]
fn a_store_that_deletes_nothing_is_asked_again() {
    let server = Postgres::shared();
    let place = server.create_database("undeletable");
    let s3 = S3Server::start();
    let pgseal = s3.pgseal();
    runtime().block_on(async {
        let catalog = catalog_in(&place).await;
        // Short patience: the test has none.
        let short = settings(s3.endpoint(), BUCKET, &pgseal.file("spool"));
        let vault = vault_at(StoreSettings::S3(short), &pgseal).await;
        let mut made = Vec::new();
        for days in [50, 40, 2, 1, 0] {
            made.push(put(&vault, SCHEDULED, days, |_| {}).await);
        }
        s3.hook(|call| match call.operation {
            "DeleteObject" if call.key.ends_with(".gpg") => {
                Action::Answer(503, "<Error><Code>SlowDown</Code></Error>")
            }
            _ => Action::Pass,
        });
        let retention = retention(&vault, &catalog, 30);
        let plan = retention.plan(Wishes::default()).await.unwrap();
        let pruned = retention.carry_out(&plan).await.unwrap();
        assert_eq!(
            (pruned.deleted.len(), pruned.failed.len()),
            (0, 2),
            "{pruned:?}"
        );
        let all = s3.objects();
        assert_eq!(all.len(), 10);
        let state =
            || place.psql("SELECT string_agg(deletion, ' ' ORDER BY id) FROM pgseal.backups");
        assert_eq!(state(), "deleting deleting kept kept kept");
        // It is a different plan now: what is being deleted is nothing to count on.
        let plan = retention.plan(Wishes::default()).await.unwrap();
        assert_eq!(plan.decisions.len(), 3);
        s3.hook(|_| Action::Pass);
        let pruned = retention.carry_out(&plan).await.unwrap();
        assert_eq!(pruned.deleted.len(), 2, "{pruned:?}");
        let kept: BTreeSet<String> = made[2..].iter().map(|one| one.object_key.clone()).collect();
        let dumps = s3
            .objects()
            .into_iter()
            .filter(|key| key.ends_with(".dump.gpg"));
        assert_eq!(dumps.collect::<BTreeSet<_>>(), kept);
        assert_eq!(state(), "kept kept kept");
    });
}

/// With a catalog its word counts too: what a restore needs, what was found damaged, what was proven.
#[test]
fn what_the_catalog_knows_keeps_backups() {
    let server = Postgres::shared();
    let place = server.create_database("knowing");
    let pgseal = Pgseal::new();
    runtime().block_on(async {
        let catalog = catalog_in(&place).await;
        let vault = vault_of(&pgseal).await;
        let mut made = Vec::new();
        for days in [70, 60, 50, 40, 1] {
            made.push(put(&vault, SCHEDULED, days, |_| {}).await);
        }
        let retention = retention(&vault, &catalog, 30);
        let wishes = Wishes {
            many: true,
            ..Wishes::default()
        };
        // The first look gives them rows.
        retention.plan(wishes).await.unwrap();
        let rows = catalog.retained("default", &[]).await.unwrap();
        let id = |of: &Manifest| rows.iter().find(|row| row.uid == Some(of.uid)).unwrap().id;
        catalog
            .request_restore(&restore_of(id(&made[0]), "elsewhere", Safety::Skip))
            .await
            .unwrap();
        place.psql(&format!(
            "UPDATE pgseal.backups SET proof = 'PROVEN', proof_at = now() WHERE id = {}",
            id(&made[1])
        ));
        // The newest is no good any more, so the one before it is the last.
        place.psql(&format!(
            "UPDATE pgseal.backups SET health = 'CORRUPT', health_reason = 'x' WHERE id = {}",
            id(&made[4])
        ));
        let plan = retention.plan(wishes).await.unwrap();
        retention.carry_out(&plan).await.unwrap();
        assert_eq!(
            stored(&pgseal),
            names([&made[0], &made[1], &made[3], &made[4]])
        );
    });
}

/// The worker prunes after a scheduled backup, and after no other.
#[test]
fn a_scheduled_backup_lets_old_ones_go() {
    let service = Service::start();
    let old = [old_one(&service, 50)];
    let other = backups(&service.pgseal, &[(SCHEDULED, 60)]);
    service.enqueue_backup();
    service.burst();
    assert!(stored(&service.pgseal).is_superset(&names(&old)));
    service
        .pgseal
        .ok(&["enqueue", "backup", "--kind", "scheduled"]);
    service.burst();
    let now = stored(&service.pgseal);
    assert!(now.is_disjoint(&names(&old)), "{now:?}");
    assert!(now.is_superset(&names(&other)), "{now:?}");
    assert_eq!(now.len(), 3);
    let rows = service
        .catalog
        .psql("SELECT count(*) FROM pgseal.backups WHERE deletion = 'kept' AND health = 'ok'");
    assert_eq!(rows, "3");
}

/// Row 134, in the service: the state, the event, the freeze, and its end over the API.
#[test]
fn a_suspicious_backup_is_said_and_accepted() {
    let api = crate::harness::api::Api::start();
    let service = &api.service;
    let old = [old_one(service, 50)];
    let (first, _) = service.enqueue_backup();
    service.burst();
    service.database.psql("TRUNCATE events, customers CASCADE");
    let (second, _) = service.enqueue_backup();
    let said = service.burst();
    assert!(said.contains("backup_suspicious"), "{said}");
    assert_eq!(service.backup(first, "health"), "ok");
    assert_eq!(service.backup(second, "health"), "SUSPICIOUS");
    let path = format!("/api/admin/backups/{second}");
    let shown: Value = api.json(200, "GET", &path, "");
    assert!(
        shown["health_reason"].as_str().unwrap().contains("rows"),
        "{shown}"
    );
    // That its bytes are right does not make it right.
    api.json(202, "POST", &format!("{path}/verify"), "");
    service.burst();
    assert_eq!(service.backup(second, "health"), "SUSPICIOUS");

    let scheduled = ["enqueue", "backup", "--kind", "scheduled"];
    let third = service.pgseal.json(&scheduled)["backup_id"].clone();
    let said = service.burst();
    assert!(said.contains("retention_held"), "{said}");
    assert!(stored(&service.pgseal).is_superset(&names(&old)));

    api.problem(
        409,
        "backup_not_suspicious",
        ("POST", &format!("/api/admin/backups/{first}/accept"), ""),
    );
    api.json(200, "POST", &format!("{path}/accept"), "");
    let reason = service.backup(second, "health || ' ' || health_reason");
    assert!(reason.starts_with("ok accepted by tester: "), "{reason}");
    // The later one looked wrong beside the first; beside this one it does not, and somebody says so too.
    let third = format!("/api/admin/backups/{third}/accept");
    api.ask("POST", &third, "");
    service.pgseal.ok(&scheduled);
    service.burst();
    assert!(stored(&service.pgseal).is_disjoint(&names(&old)));
}
