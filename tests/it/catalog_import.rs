//! Taking over the table of the service that was there before.

use pgseal::seal::Digester;

use crate::harness::catalog::{backup_of, catalog_in, taken};
use crate::harness::cli::Pgseal;
use crate::harness::gpg::Gpg;
use crate::harness::postgres::{Database, Postgres};

const HEADER: &str = "id,type,storage_key,checksum,size,created_at,status\n";
const ROWS: &str = "SELECT id, kind, origin, status, health, object_key, sealed_bytes, created_at AT TIME ZONE 'UTC' \
    FROM pgseal.backups ORDER BY id";

async fn place(name: &str) -> (Database<'static>, Pgseal) {
    let database = Postgres::shared().create_database(name);
    catalog_in(&database).await;
    let mut pgseal = Pgseal::new();
    pgseal.set("CATALOG_DATABASE_URL", &database.url);
    (database, pgseal)
}

/// An object as the service before made it, and its line of the table.
fn stored(pgseal: &Pgseal, id: i64, kind: &str) -> String {
    let key = format!("backups/prod/2025/11/old_{id}.dump.gpg");
    let path = pgseal.store().join(&key);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let content = Gpg::new().encrypt(format!("dump {id}").as_bytes(), "dummy-old", &[]);
    std::fs::write(path, &content).unwrap();
    let (digest, size) = (Digester::of(&content), content.len());
    format!("{id},{kind},{key},sha256:{digest},{size},2025-11-0{id} 02:00:00.5+00,completed\n")
}

fn import(pgseal: &Pgseal, table: &str) -> serde_json::Value {
    let file = pgseal.file("old.csv");
    std::fs::write(&file, table).unwrap();
    pgseal.json(&["catalog", "import", file.to_str().unwrap()])
}

#[tokio::test]
async fn old_objects_keep_their_numbers_and_are_compared() {
    let (database, pgseal) = place("import").await;
    let lines = [
        (3, "manual"),
        (5, "Scheduled"),
        (7, "pre-restore"),
        (8, "manual"),
    ]
    .map(|(id, kind)| stored(&pgseal, id, kind));
    let table = format!(
        "{HEADER}{}9,scheduled,,,,2025-11-09T02:00:00Z,failed\n4,manual,,,,2025-11-04T02:00:00Z,running\n",
        lines.concat()
    );
    let object = |id: i64| {
        pgseal
            .store()
            .join(format!("backups/prod/2025/11/old_{id}.dump.gpg"))
    };
    // One object rots, one is gone.
    let mut rotten = std::fs::read(object(5)).unwrap();
    *rotten.last_mut().unwrap() ^= 1;
    std::fs::write(object(5), &rotten).unwrap();
    std::fs::remove_file(object(7)).unwrap();

    let said = import(&pgseal, &table);
    let counts = ["lines", "new", "whole", "incomplete"].map(|name| said[name].as_u64().unwrap());
    assert_eq!(counts, [6, 6, 2, 2]);
    assert_eq!(
        (&said["corrupt"][0]["id"], &said["lost"][0]["id"]),
        (&5.into(), &7.into())
    );
    let rows = database.psql(ROWS);
    let size = |id: i64| {
        lines[[3, 5, 7, 8].iter().position(|known| *known == id).unwrap()]
            .split(',')
            .nth(4)
            .unwrap()
            .to_owned()
    };
    let expected = [
        format!(
            "3|manual|imported|completed|ok|backups/prod/2025/11/old_3.dump.gpg|{}|2025-11-03 02:00:00.5",
            size(3)
        ),
        "4|manual|imported|failed|ok|||2025-11-04 02:00:00".to_owned(),
        format!(
            "5|scheduled|imported|completed|CORRUPT|backups/prod/2025/11/old_5.dump.gpg|{}|2025-11-05 02:00:00.5",
            size(5)
        ),
        format!(
            "7|pre_restore|imported|completed|lost|backups/prod/2025/11/old_7.dump.gpg|{}|2025-11-07 02:00:00.5",
            size(7)
        ),
        format!(
            "8|manual|imported|completed|ok|backups/prod/2025/11/old_8.dump.gpg|{}|2025-11-08 02:00:00.5",
            size(8)
        ),
        "9|scheduled|imported|failed|ok|||2025-11-09 02:00:00".to_owned(),
    ];
    assert_eq!(rows, expected.join("\n"));

    // Twice is once, to the last byte of every row.
    let all = database.psql("SELECT * FROM pgseal.backups ORDER BY id");
    assert_eq!(import(&pgseal, &table)["new"], 0);
    assert_eq!(
        database.psql("SELECT * FROM pgseal.backups ORDER BY id"),
        all
    );
    // What the store has and the table named is not foreign any more, and stays what it was found to be.
    let reconciled = pgseal.json(&["catalog", "reconcile"]);
    assert_eq!(reconciled["foreign"], serde_json::json!([]));
    assert_eq!(database.psql(ROWS), rows);
    // New backups count on from there.
    let catalog = catalog_in(&database).await;
    let next = catalog.request_backup(&backup_of("default")).await.unwrap();
    assert_eq!(next.id.get(), 10);
    taken(&catalog, pgseal::catalog::Task::Backup(next.id)).await;
}

#[tokio::test]
async fn a_bad_line_takes_nothing_over() {
    let (database, pgseal) = place("import_bad").await;
    let good = stored(&pgseal, 1, "manual") + &stored(&pgseal, 2, "manual");
    for (line, said) in [
        (
            "3,manual,k.gpg,nonsense,5,2025-11-01 00:00:00,completed",
            "line 4: checksum",
        ),
        (
            "3,manual,../k.gpg,,5,2025-11-01 00:00:00,completed",
            "line 4: storage_key",
        ),
        ("3,manual,,,,yesterday,failed", "line 4: created_at"),
        ("0,manual,,,,2025-11-01 00:00:00,failed", "line 4: id"),
        (
            "2,manual,,,,2025-11-01 00:00:00,failed",
            "line 4: id 2 was on an earlier line",
        ),
        ("3,manual,,,,2025-11-01 00:00:00", "line 4: it has 6 fields"),
    ] {
        let file = pgseal.file("bad.csv");
        std::fs::write(&file, format!("{HEADER}{good}{line}\n")).unwrap();
        let stderr = pgseal.fails(5, &["catalog", "import", file.to_str().unwrap()]);
        assert!(
            stderr.contains(said) && stderr.contains("nothing was taken over"),
            "{stderr}"
        );
        assert_eq!(
            database.psql("SELECT count(*) FROM pgseal.backups"),
            "0",
            "{line}"
        );
    }
    // A number, or an object, that another backup has.
    let catalog = catalog_in(&database).await;
    catalog.request_backup(&backup_of("default")).await.unwrap();
    let file = pgseal.file("taken.csv");
    std::fs::write(&file, format!("{HEADER}{good}")).unwrap();
    let stderr = pgseal.fails(5, &["catalog", "import", file.to_str().unwrap()]);
    assert!(
        stderr.contains("line 2: the catalog has another backup 1 already"),
        "{stderr}"
    );
    assert_eq!(database.psql("SELECT count(*) FROM pgseal.backups"), "1");
    pgseal.fails(2, &["catalog", "import", "/nonexistent.csv"]);
}
