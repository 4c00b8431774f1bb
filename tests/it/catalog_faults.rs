//! The catalog when its server is gone, cut off in the middle, or takes nothing.

use std::time::Duration;

use pgseal::catalog::{Catalog, Ended, JobStatus, Renewed, Report, Task};

use crate::harness::catalog::{
    LEASE, backup_of, catalog_in, complete, connection, is_manifest_s, manifest, restore_of,
    status, taken, with_safety,
};
use crate::harness::link::Link;
use crate::harness::postgres::Postgres;
use crate::harness::scale;
use crate::harness::somebody::until;

const IN_TRANSACTION: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
    AND application_name = 'pgseal' AND (state LIKE 'idle in%' OR state = 'active')";

/// Rows 57 and 58: the connection is cut in front of each answer to the final transaction, and the caller asks again.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_is_lost_is_found_out() {
    let server = Postgres::shared();
    let database = server.create_database("catalog_commit");
    let direct = catalog_in(&database).await;
    let link = Link::cut_after(server.port(), u64::MAX);
    let url = connection(&database.url_by(link.port));
    // Each answer is a command's tag; only the last one is given once the row is complete.
    for (answer, then) in [
        (&b"BEGIN\0"[..], JobStatus::Running),
        (b"UPDATE 1\0", JobStatus::Running),
        (b"SELECT 1\0", JobStatus::Running),
        (b"COMMIT\0", JobStatus::Completed),
    ] {
        let (source, _) = complete(&direct, "source").await;
        let request = restore_of(source.id, "shop", with_safety());
        let (restore, row) = direct.request_restore(&request).await.unwrap();
        let row = row.unwrap().id;
        let lease = taken(&direct, Task::Backup(row)).await;
        let manifest = manifest("shop");
        let by_link = Catalog::open(&url).await.unwrap();
        link.cut_at(answer);
        let error = by_link
            .complete_backup(&lease, &manifest)
            .await
            .unwrap_err();
        let what = String::from_utf8_lossy(answer);
        assert!(link.is_cut() && error.is_transient(), "{what}: {error}");
        // The server notices that nobody is there any more, and undoes what was not committed.
        until("the end of the transaction", || {
            database.psql(IN_TRANSACTION) == "0"
        });
        assert_eq!(status(&direct, Task::Backup(row)).await, then, "{what}");
        link.mend();
        let again = by_link.complete_backup(&lease, &manifest).await.unwrap();
        let Ended::Done {
            status: JobStatus::Completed,
            dependents,
        } = again
        else {
            panic!("{what}: {again:?}");
        };
        assert_eq!(
            (dependents[0].restore, dependents[0].status),
            (restore.id, JobStatus::Pending)
        );
        is_manifest_s(&direct.backup(row).await.unwrap().unwrap(), &manifest);
        direct
            .cancel(Task::Restore(restore.id), "test")
            .await
            .unwrap();
    }
}

/// The same, cut anywhere: after so many bytes of all answers, from a new connection's greeting on.
#[tokio::test(flavor = "multi_thread")]
async fn an_ending_that_is_cut_anywhere_can_be_repeated() {
    let server = Postgres::shared();
    let database = server.create_database("catalog_cut");
    let direct = catalog_in(&database).await;
    let link = Link::cut_after(server.port(), u64::MAX);
    let by_link = Catalog::open(&connection(&database.url_by(link.port)))
        .await
        .unwrap();
    for bytes in (1..).step_by(scale(37, 1)) {
        let row = direct.request_backup(&backup_of("shop")).await.unwrap();
        let lease = taken(&direct, Task::Backup(row.id)).await;
        let manifest = manifest("shop");
        link.cut_after_more(1);
        assert!(by_link.ping().await.is_err());
        link.mend();
        link.cut_after_more(bytes);
        let first = by_link.complete_backup(&lease, &manifest).await;
        let was_cut = link.is_cut();
        link.mend();
        if let Err(error) = &first {
            assert!(error.is_transient(), "{error}");
            let again = by_link.complete_backup(&lease, &manifest).await.unwrap();
            assert!(matches!(again, Ended::Done { .. }), "{bytes}: {again:?}");
        }
        is_manifest_s(&direct.backup(row.id).await.unwrap().unwrap(), &manifest);
        if !was_cut {
            assert!(bytes > 300, "it was never cut behind the greeting");
            break;
        }
    }
}

/// Rows 55 and 56: the catalog's server cannot be reached; nothing is recorded, and the error passes.
#[tokio::test(flavor = "multi_thread")]
async fn a_catalog_that_is_gone_fails_in_time_and_comes_back() {
    let server = Postgres::shared();
    let database = server.create_database("catalog_gone");
    let direct = catalog_in(&database).await;
    let row = direct.request_backup(&backup_of("running")).await.unwrap();
    let link = Link::cut_after(server.port(), u64::MAX);
    let by_link = Catalog::open(&connection(&database.url_by(link.port)))
        .await
        .unwrap();
    let lease = taken(&by_link, Task::Backup(row.id)).await;
    link.cut_after_more(1);
    let asked = tokio::time::timeout(Duration::from_secs(30), async {
        let [request, claim, renew] = [
            by_link.request_backup(&backup_of("shop")).await.map(drop),
            by_link
                .claim(Task::Backup(row.id), "w", LEASE)
                .await
                .map(drop),
            by_link
                .renew(&lease, LEASE, &Report::default())
                .await
                .map(drop),
        ];
        for error in [request, claim, renew].map(Result::unwrap_err) {
            assert!(error.is_transient(), "{error}");
            assert!(!error.to_string().contains("dummy"), "{error}");
        }
    });
    asked.await.expect("it takes too long to give up");
    assert_eq!(direct.active("shop").await.unwrap(), None);
    link.mend();
    assert_eq!(
        by_link
            .renew(&lease, LEASE, &Report::default())
            .await
            .unwrap(),
        Renewed::Held
    );
    by_link.request_backup(&backup_of("shop")).await.unwrap();
}

/// Row 59: nothing can be written; reading goes on, and writing fails without half of it.
#[tokio::test]
async fn a_catalog_that_takes_nothing_can_still_be_read() {
    let database = Postgres::shared().create_database("catalog_read_only");
    let catalog = catalog_in(&database).await;
    let (row, _) = complete(&catalog, "shop").await;
    let waiting = catalog.request_backup(&backup_of("other")).await.unwrap();
    database.psql(&format!(
        "ALTER DATABASE {} SET default_transaction_read_only = on",
        database.name
    ));
    let catalog = Catalog::open(&connection(&database.url)).await.unwrap();
    assert_eq!(catalog.backup(row.id).await.unwrap().unwrap().id, row.id);
    assert_eq!(catalog.pending().await.unwrap().len(), 1);
    for error in [
        catalog
            .request_backup(&backup_of("shop"))
            .await
            .map(drop)
            .unwrap_err(),
        catalog
            .claim(Task::Backup(waiting.id), "w", LEASE)
            .await
            .map(drop)
            .unwrap_err(),
        catalog
            .cancel(Task::Backup(waiting.id), "w")
            .await
            .map(drop)
            .unwrap_err(),
    ] {
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(
            source.contains("read-only transaction"),
            "{error}: {source}"
        );
    }
    assert_eq!(
        status(&catalog, Task::Backup(waiting.id)).await,
        JobStatus::Pending
    );
}
