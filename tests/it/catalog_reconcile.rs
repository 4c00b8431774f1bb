//! The bucket and the catalog: what one of them lost, the other one tells.

use std::collections::BTreeMap;
use std::sync::Arc;

use pgseal::backup::{self, BackupRequest, BackupSettings, Stages};
use pgseal::catalog::{Catalog, Ended, Health, Task};
use pgseal::model::ids::BackupId;
use pgseal::model::manifest::{Manifest, Requested};
use pgseal::model::object_key::{Layout, ObjectKey};
use pgseal::model::passphrase::Passphrase;
use pgseal::pg::{Clients, Search};
use pgseal::progress::Progress;
use pgseal::reconcile::{Reconciled, reconcile};
use pgseal::store::{Store, StoreSettings};
use pgseal::vault::{ListCache, Vault};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use crate::harness::catalog::{backup_of, catalog_in, connection, taken};
use crate::harness::cli::{PASSPHRASE, Pgseal};
use crate::harness::gpg::Gpg;
use crate::harness::postgres::{DEBIAN_MAJOR, Database, Postgres, bin_dir_of};

/// What a manifest can know of a row: everything but how the job went.
const DERIVED: &str = "SELECT id, target, kind, requested_by, labels, excluded_table_data, status, attempt, uid, \
    object_key, store_version_id, database, server_version, pg_dump_version, pgseal_version, compression, plain_bytes, \
    plain_sha256, sealed_bytes, sealed_sha256, tables, \"rows\", large_objects, warnings, snapshot_at, stored_at, health, \
    deletion, proof FROM pgseal.backups ORDER BY id";

struct World<'a> {
    pgseal: Pgseal,
    source: Database<'a>,
    place: Database<'a>,
    catalog: Catalog,
    stages: Stages,
}

impl World<'_> {
    async fn new(name: &str) -> Self {
        let server = Postgres::shared();
        let source = server.create_database(&format!("{name}_source"));
        source.psql("CREATE TABLE t AS SELECT generate_series(1, 100) n");
        let place = server.create_database(&format!("{name}_catalog"));
        let catalog = catalog_in(&place).await;
        let mut pgseal = Pgseal::new();
        pgseal.set("CATALOG_DATABASE_URL", &place.url);
        let search = Search {
            folders: vec![bin_dir_of(DEBIAN_MAJOR)],
            path: vec![],
        };
        let stages = Stages {
            vault: Vault {
                store: Store::open(StoreSettings::Local {
                    root: pgseal.store(),
                })
                .await
                .unwrap(),
                second: None,
                passphrases: vec![Passphrase::new(PASSPHRASE.into()).unwrap()],
                layout: Layout::new("backups", "prod").unwrap(),
                spool_folder: pgseal.file("spool"),
            },
            list_cache: ListCache::new(None),
            clients: Clients::find(&search).await,
            clock: OffsetDateTime::now_utc,
            settings: BackupSettings::default(),
        };
        Self {
            pgseal,
            source,
            place,
            catalog,
            stages,
        }
    }

    /// As a worker does it: the row, the lease, the backup, and the row again.
    async fn back_up(&self, tries: u32) -> (BackupId, Manifest) {
        let row = self
            .catalog
            .request_backup(&backup_of("default"))
            .await
            .unwrap();
        let mut lease = taken(&self.catalog, Task::Backup(row.id)).await;
        for _ in 1..tries {
            self.catalog
                .end(&lease, &pgseal::catalog::Ending::GivenBack)
                .await
                .unwrap();
            lease = taken(&self.catalog, Task::Backup(row.id)).await;
        }
        let made = self.manifest(Some(Requested {
            backup_id: row.id,
            attempt: lease.attempt,
            requested_by: row.requested_by,
        }));
        let manifest = Box::pin(made).await;
        let ended = self
            .catalog
            .complete_backup(&lease, &manifest)
            .await
            .unwrap();
        assert!(matches!(ended, Ended::Done { .. }));
        (row.id, manifest)
    }

    async fn manifest(&self, requested: Option<Requested>) -> Manifest {
        let request = BackupRequest {
            connection: connection(&self.source.url),
            target: "default".to_owned(),
            kind: pgseal::model::kind::BackupKind::Manual,
            labels: BTreeMap::from([("why".to_owned(), "test".to_owned())]),
            exclude_table_data: vec!["logs.*".to_owned()],
            requested,
        };
        let (progress, cancel) = (Arc::new(Progress::default()), CancellationToken::new());
        backup::run(&self.stages, &request, &progress, &cancel)
            .await
            .unwrap()
    }

    fn object(&self, key: &str) -> std::path::PathBuf {
        self.pgseal.store().join(key)
    }

    async fn reconcile(&self) -> Reconciled {
        reconcile(&self.stages.vault, &self.catalog).await.unwrap()
    }

    async fn health(&self, id: BackupId) -> (Health, Option<String>) {
        let row = self.catalog.backup(id).await.unwrap().unwrap();
        (row.health, row.health_reason)
    }
}

fn manifest_of(key: &str) -> String {
    ObjectKey::parse(key)
        .unwrap()
        .manifest_key()
        .unwrap()
        .to_string()
}

/// Row 60: the catalog is lost, and comes back from the sealed manifests alone; every row is equal.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_catalog_is_rebuilt_from_the_manifests() {
    let world = World::new("rebuild").await;
    world.back_up(1).await;
    // Numbers have gaps, and the largest is not the last that was given out.
    world
        .place
        .psql("SELECT setval('pgseal.backups_id_seq', 40)");
    world.back_up(3).await;
    world.back_up(1).await;
    let before = world.place.psql(DERIVED);
    assert_eq!(before.lines().count(), 3);
    assert_eq!(world.pgseal.json(&["catalog", "rebuild"])["known"], 3);

    world.place.psql("DROP SCHEMA pgseal CASCADE");
    world.pgseal.ok(&["migrate"]);
    let rebuilt = world.pgseal.json(&["catalog", "rebuild"]);
    assert_eq!(
        (
            &rebuilt["complete"],
            rebuilt["adopted"].as_array().unwrap().len()
        ),
        (&3.into(), 3)
    );
    assert_eq!(world.place.psql(DERIVED), before);
    assert_eq!(
        world
            .place
            .psql("SELECT DISTINCT origin FROM pgseal.backups"),
        "adopted"
    );
    let again = world.pgseal.json(&["catalog", "rebuild"]);
    assert_eq!(
        (&again["known"], again["adopted"].as_array().unwrap().len()),
        (&3.into(), 0)
    );
    assert_eq!(world.place.psql(DERIVED), before);
    // The next number is behind them all.
    let catalog = Catalog::open(&connection(&world.place.url)).await.unwrap();
    let next = catalog.request_backup(&backup_of("default")).await.unwrap();
    assert_eq!(next.id.get(), 43);
}

/// Rows 48 and 139: objects without a row get one, and one whose number is taken gets another.
#[tokio::test(flavor = "multi_thread")]
async fn an_object_without_a_row_is_adopted() {
    let world = World::new("adopt").await;
    let by_hand = world.pgseal.json(&["backup", &world.source.url]);
    // A worker that was stopped past its lease: its row failed, and its backup is whole all the same.
    let row = world
        .catalog
        .request_backup(&backup_of("default"))
        .await
        .unwrap();
    let lease = taken(&world.catalog, Task::Backup(row.id)).await;
    let requested = Requested {
        backup_id: row.id,
        attempt: 1,
        requested_by: "somebody".to_owned(),
    };
    let manifest = world.manifest(Some(requested)).await;
    let running = world.reconcile().await;
    assert_eq!(
        running.adopted.len(),
        1,
        "what runs still completes its own row: {running:?}"
    );
    assert_eq!(
        running.adopted[0].object_key,
        by_hand["object_key"].as_str().unwrap()
    );
    let failed = pgseal::catalog::Ending::Failed {
        stage: "lease".to_owned(),
        error: "its worker is gone".to_owned(),
    };
    world.catalog.end(&lease, &failed).await.unwrap();
    let done = world.reconcile().await;
    let [adopted] = done.adopted.try_into().unwrap();
    assert_eq!(adopted.object_key, manifest.object_key);
    assert_ne!(adopted.id, row.id);
    let adopted = world.catalog.backup(adopted.id).await.unwrap().unwrap();
    assert_eq!(
        (adopted.uid, adopted.requested_by.as_str()),
        (Some(manifest.uid), "somebody")
    );
    let again = world.reconcile().await;
    assert_eq!(
        again,
        Reconciled {
            complete: 2,
            ..Reconciled::default()
        }
    );
}

/// Row 139: a row without its object is lost, and well again when it is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_without_its_object_is_marked_lost() {
    let world = World::new("lost").await;
    let (id, manifest) = world.back_up(1).await;
    let (dump, sealed) = (
        world.object(&manifest.object_key),
        world.object(&manifest_of(&manifest.object_key)),
    );
    let aside = |path: &std::path::Path| std::fs::read(path).unwrap();
    let (dump_bytes, manifest_bytes) = (aside(&dump), aside(&sealed));

    std::fs::remove_file(&dump).unwrap();
    let said = world.pgseal.json(&["catalog", "reconcile"]);
    assert_eq!(said["lost"][0]["id"], id.get());
    assert_eq!(world.health(id).await.0, Health::Lost);
    assert_eq!(
        world.reconcile().await.lost,
        vec![],
        "it is no news any more"
    );
    std::fs::remove_file(&sealed).unwrap();
    assert_eq!(world.reconcile().await, Reconciled::default());
    assert_eq!(world.health(id).await.0, Health::Lost);

    std::fs::write(&dump, &dump_bytes).unwrap();
    let alone = world.reconcile().await;
    assert_eq!(alone.suspicious.len(), 1, "{alone:?}");
    std::fs::write(&sealed, &manifest_bytes).unwrap();
    let back = world.reconcile().await;
    assert_eq!((back.found_again.len(), back.adopted.len()), (1, 0));
    assert_eq!(world.health(id).await, (Health::Ok, None));

    // What is in the store and no backup is named, and left.
    std::fs::write(world.pgseal.store().join("backups/prod/by-hand.gpg"), "x").unwrap();
    std::fs::write(&sealed, "broken").unwrap();
    let done = world.reconcile().await;
    assert_eq!(done.foreign, ["backups/prod/by-hand.gpg"]);
    assert_eq!(done.unreadable, [manifest.object_key]);
    let text = world.pgseal.ok(&["catalog", "reconcile"]);
    assert!(
        text.contains("foreign") && text.contains("by-hand.gpg"),
        "{text}"
    );
}

/// Row 69: an older version that is copied over the same key is whole, and is not what the row tells of.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_version_of_the_same_key_is_not_taken_for_the_newer_one() {
    let world = World::new("older").await;
    let (_, older) = world.back_up(1).await;
    world
        .source
        .psql("INSERT INTO t SELECT generate_series(1, 5000)");
    let (id, newer) = world.back_up(1).await;
    // Whoever has the passphrase writes a manifest for the older dump that names the newer one's key.
    let key = ObjectKey::parse(&newer.object_key).unwrap();
    let forged = Manifest {
        object_key: newer.object_key.clone(),
        name: newer.name.clone(),
        ..older.clone()
    };
    let originals = [newer.object_key.clone(), manifest_of(&newer.object_key)].map(|key| {
        (
            world.object(&key),
            std::fs::read(world.object(&key)).unwrap(),
        )
    });
    std::fs::copy(
        world.object(&older.object_key),
        world.object(&newer.object_key),
    )
    .unwrap();
    let sealed = Gpg::new().encrypt(&forged.to_json(), PASSPHRASE, &[]);
    std::fs::write(world.object(&manifest_of(&newer.object_key)), sealed).unwrap();
    assert_eq!(
        world.stages.vault.read_manifest(&key).await.unwrap().uid,
        older.uid
    );

    let done = world.reconcile().await;
    assert_eq!((done.corrupt.len(), done.corrupt[0].id), (1, id));
    assert_eq!(done.adopted, vec![]);
    let (health, reason) = world.health(id).await;
    assert_eq!(health, Health::Corrupt);
    assert!(reason.unwrap().contains(&older.uid.to_string()));
    let request = crate::harness::catalog::restore_of(id, "default", pgseal::catalog::Safety::Skip);
    let refused = world.catalog.request_restore(&request).await.unwrap_err();
    assert!(refused.to_string().contains("CORRUPT"), "{refused}");

    // The dump alone.
    for (path, bytes) in &originals {
        std::fs::write(path, bytes).unwrap();
    }
    world
        .catalog
        .mark_health(id, Health::Ok, None)
        .await
        .unwrap();
    std::fs::copy(
        world.object(&older.object_key),
        world.object(&newer.object_key),
    )
    .unwrap();
    let done = world.reconcile().await;
    assert_eq!(
        (done.corrupt.len(), done.unreadable.len()),
        (1, 1),
        "{done:?}"
    );
    // What was found wrong does not become right by the right object's being back.
    for (path, bytes) in &originals {
        std::fs::write(path, bytes).unwrap();
    }
    assert_eq!(world.reconcile().await.found_again, vec![]);
    assert_eq!(world.health(id).await.0, Health::Corrupt);
}
