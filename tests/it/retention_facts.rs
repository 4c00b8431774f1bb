//! Retention decides nothing from half of the facts: without a manifest that was there, or without the catalog's word. Rows
//! 94 and 95.

use pgseal::model::object_key::ObjectKey;
use pgseal::retention::Wishes;

use crate::harness::catalog::catalog_in;
use crate::harness::cli::Pgseal;
use crate::harness::postgres::Postgres;
use crate::retention::{SCHEDULED, backups, names, put, retention, runtime, stored, vault_of};

/// Row 94: what the catalog calls complete is no waste, whatever became of its manifest.
#[test]
fn a_backup_that_lost_its_manifest_holds_everything() {
    let server = Postgres::shared();
    let place = server.create_database("headless");
    let pgseal = Pgseal::new();
    runtime().block_on(async {
        let catalog = catalog_in(&place).await;
        let vault = vault_of(&pgseal).await;
        let mut made = Vec::new();
        for days in [70, 60, 1, 0] {
            made.push(put(&vault, SCHEDULED, days, |_| {}).await);
        }
        let retention = retention(&vault, &catalog, 30);
        let wishes = Wishes {
            include_foreign: true,
            many: true,
        };
        assert!(!retention.plan(wishes).await.unwrap().is_held());
        let key = ObjectKey::parse(&made[1].object_key).unwrap();
        let manifest = key.manifest_key().unwrap();
        vault.store.delete(&manifest).await.unwrap();
        let before = pgseal.stored();
        let plan = retention.plan(wishes).await.unwrap();
        let held = plan.held.join("\n");
        assert!(plan.is_held() && held.contains(&made[1].name), "{held}");
        let pruned = retention.carry_out(&plan).await.unwrap();
        assert_eq!(pruned.deleted, Vec::<String>::new());
        assert_eq!(pgseal.stored(), before);
    });
}

/// Row 95: who cannot ask the catalog does not know what a restore needs.
#[test]
fn a_catalog_whose_address_cannot_be_read_deletes_nothing() {
    let mut pgseal = Pgseal::new();
    let made = backups(&pgseal, &[(SCHEDULED, 40), (SCHEDULED, 0)]);
    pgseal.set("CATALOG_DATABASE_URL", "nonsense");
    let said = pgseal.fails(5, &["prune"]);
    assert!(said.contains("--store-only"), "{said}");
    assert_eq!(stored(&pgseal), names(&made));
    pgseal.ok(&["prune", "--store-only"]);
    assert_eq!(stored(&pgseal), names([&made[1]]));
}
