//! The catalog's own functions: requests, claims, leases, endings, and what each does when others are
//! quicker.

use pgseal::catalog::{
    BackupRequested, BackupRow, Cancelled, Catalog, CatalogError, Claim, Compared, Ended, Ending,
    Health, JobStatus, LastGood, Lease, OfJob, Renewed, Report, RestoreFacts, Safety, Settlement,
    Task,
};
use pgseal::model::ids::{BackupId, RestoreId};

use crate::harness::catalog::{
    LEASE, backup_of, catalog_in, complete, is_manifest_s, manifest, restore_of, status, taken,
    with_safety,
};
use crate::harness::postgres::{Database, Postgres};
use crate::harness::scale;

fn failed(error: &str) -> Ending {
    Ending::Failed {
        stage: "dump".to_owned(),
        error: error.to_owned(),
    }
}

fn retried(error: &str) -> Ending {
    Ending::Retried {
        stage: "dump".to_owned(),
        error: error.to_owned(),
    }
}

/// The lease's time passes, without anybody waiting for it.
fn pass(database: &Database<'_>, task: Task) {
    let table = match task {
        Task::Backup(_) => "backups",
        Task::Restore(_) => "restores",
    };
    database.psql(&format!(
        "UPDATE pgseal.{table} SET lease_until = clock_timestamp() - interval '1 ms' WHERE id = {}",
        task.number()
    ));
}

#[tokio::test]
async fn a_backup_goes_from_its_request_to_its_end() {
    let database = Postgres::shared().create_database("catalog_life");
    let catalog = catalog_in(&database).await;
    let request = backup_of("shop");
    let row = catalog.request_backup(&request).await.unwrap();
    assert_eq!(
        (row.job.status, row.job.attempt, row.job.attempts_max),
        (JobStatus::Pending, 1, 2)
    );
    assert_eq!(
        (&row.labels, &row.excluded_table_data),
        (&request.labels, &request.excluded_table_data)
    );
    assert_eq!(row.job.time_limit, Some(request.time_limit));
    let [pending] = catalog.pending().await.unwrap().try_into().unwrap();
    assert_eq!(
        (pending.task, &pending.job_id),
        (Task::Backup(row.id), &request.job_id)
    );
    assert_eq!(pending.depends_on, None);

    let lease = taken(&catalog, Task::Backup(row.id)).await;
    assert_eq!(
        (lease.attempt, lease.time_limit),
        (1, Some(request.time_limit))
    );
    let manifest = manifest("shop");
    let report = Report {
        stage: "dump".to_owned(),
        bytes: 12,
        tables: 3,
        uid: Some(manifest.uid),
        object_key: Some(manifest.object_key.clone()),
    };
    assert_eq!(
        catalog.renew(&lease, LEASE, &report).await.unwrap(),
        Renewed::Held
    );
    let [running] = catalog.running().await.unwrap().try_into().unwrap();
    assert_eq!(
        (running.uid, running.object_key.as_ref()),
        (report.uid, report.object_key.as_ref())
    );
    assert_eq!(
        (running.token, running.is_expired, running.cancel_requested),
        (lease.token, false, false)
    );
    let seen = catalog.backup(row.id).await.unwrap().unwrap();
    assert_eq!(seen.job.stage.as_deref(), Some("dump"));
    assert_eq!((seen.job.progress_bytes, seen.job.progress_tables), (12, 3));

    let ended = catalog.complete_backup(&lease, &manifest).await.unwrap();
    assert_eq!(
        ended,
        Ended::Done {
            status: JobStatus::Completed,
            dependents: vec![]
        }
    );
    let row = catalog.backup(row.id).await.unwrap().unwrap();
    is_manifest_s(&row, &manifest);
    assert!(row.job.started_at.unwrap() <= row.job.finished_at.unwrap());
    assert_eq!((row.job.worker, row.job.stage), (None, None));
    assert_eq!(catalog.active("shop").await.unwrap(), None);
    assert_eq!(
        catalog.backup(BackupId::new(99).unwrap()).await.unwrap(),
        None
    );
    assert_eq!(
        catalog.restore(RestoreId::new(99).unwrap()).await.unwrap(),
        None
    );
    catalog.ping().await.unwrap();
}

/// Row 55: sixteen at once; one gets the target, the others hear who has it.
#[tokio::test(flavor = "multi_thread")]
async fn a_busy_target_says_who_has_it() {
    let database = Postgres::shared().create_database("catalog_busy");
    let catalog = catalog_in(&database).await;
    let (restorable, _) = complete(&catalog, "shop").await;
    let asked: Vec<_> = (0..16)
        .map(|number| {
            let catalog = catalog.clone();
            tokio::spawn(async move {
                if number % 2 == 0 {
                    let made = catalog.request_backup(&backup_of("shop")).await;
                    made.map(|row| Task::Backup(row.id))
                } else {
                    let request = restore_of(restorable.id, "shop", Safety::Skip);
                    let made = catalog.request_restore(&request).await;
                    made.map(|(row, _)| Task::Restore(row.id))
                }
            })
        })
        .collect();
    let mut made = Vec::new();
    let mut busy = Vec::new();
    for answer in asked {
        match answer.await.unwrap() {
            Ok(task) => made.push(task),
            Err(CatalogError::TargetBusy { active, .. }) => busy.push(active.task),
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!((made.len(), busy.len()), (1, 15));
    assert!(
        busy.iter().all(|task| *task == made[0]),
        "{busy:?}, not {made:?}"
    );
    catalog.request_backup(&backup_of("another")).await.unwrap();
    assert_eq!(catalog.pending().await.unwrap().len(), 2);
}

/// Row 47: sixteen workers, again and again; each time one wins.
#[tokio::test(flavor = "multi_thread")]
async fn of_many_claims_one_wins() {
    let database = Postgres::shared().create_database("catalog_claims");
    let catalogs = [catalog_in(&database).await, catalog_in(&database).await];
    let row = catalogs[0]
        .request_backup(&backup_of("shop"))
        .await
        .unwrap();
    let task = Task::Backup(row.id);
    for round in 0..scale(200, 1000) {
        let claims: Vec<_> = (0..16)
            .map(|worker: usize| {
                let catalog = catalogs[worker % 2].clone();
                tokio::spawn(async move {
                    let name = format!("worker-{worker}");
                    catalog.claim(task, &name, LEASE).await.unwrap()
                })
            })
            .collect();
        let mut leases = Vec::new();
        for claim in claims {
            match claim.await.unwrap() {
                Claim::Taken(lease) => leases.push(lease),
                Claim::NotPending(JobStatus::Running) => {}
                other => panic!("round {round}: {other:?}"),
            }
        }
        let [lease]: [Lease; 1] = leases.try_into().unwrap();
        assert_eq!(lease.attempt as usize, round + 1);
        let back = catalogs[0].end(&lease, &Ending::GivenBack).await.unwrap();
        assert_eq!(
            back,
            Ended::Done {
                status: JobStatus::Pending,
                dependents: vec![]
            }
        );
    }
}

/// Row 48: whoever lost the lease changes nothing any more, whatever he tries.
#[tokio::test]
async fn a_lost_lease_changes_nothing() {
    let database = Postgres::shared().create_database("catalog_fencing");
    let catalog = catalog_in(&database).await;
    let row = catalog.request_backup(&backup_of("shop")).await.unwrap();
    let task = Task::Backup(row.id);
    let stale = taken(&catalog, task).await;
    let gone = Settlement::Ended(retried("worker is gone"));
    let early = catalog.settle_expired(task, stale.token, &gone);
    assert_eq!(
        early.await.unwrap(),
        Ended::Lost,
        "the lease has not passed"
    );
    pass(&database, task);
    assert!(catalog.running().await.unwrap()[0].is_expired);
    let settled = catalog.settle_expired(task, stale.token, &gone);
    assert_eq!(
        settled.await.unwrap(),
        Ended::Done {
            status: JobStatus::Pending,
            dependents: vec![]
        }
    );
    let row = catalog.backup(row.id).await.unwrap().unwrap();
    assert_eq!(
        (row.job.attempt, row.job.error.as_deref()),
        (2, Some("worker is gone"))
    );

    let fresh = taken(&catalog, task).await;
    assert_ne!(fresh.token, stale.token);
    let before = database.psql("SELECT * FROM pgseal.backups");
    assert_eq!(
        catalog
            .renew(&stale, LEASE, &Report::default())
            .await
            .unwrap(),
        Renewed::Lost
    );
    assert_eq!(
        catalog
            .complete_backup(&stale, &manifest("shop"))
            .await
            .unwrap(),
        Ended::Lost
    );
    for ending in [
        failed("late"),
        retried("late"),
        Ending::GivenBack,
        Ending::Cancelled,
    ] {
        assert_eq!(catalog.end(&stale, &ending).await.unwrap(), Ended::Lost);
    }
    assert_eq!(database.psql("SELECT * FROM pgseal.backups"), before);

    // A lease that has passed and that nobody settled is still its holder's.
    pass(&database, task);
    assert_eq!(
        catalog
            .renew(&fresh, LEASE, &Report::default())
            .await
            .unwrap(),
        Renewed::Held
    );
    // The second try was the last.
    let ended = catalog.end(&fresh, &retried("again")).await.unwrap();
    assert_eq!(
        ended,
        Ended::Done {
            status: JobStatus::Failed,
            dependents: vec![]
        }
    );
    assert_eq!(
        catalog.claim(task, "w", LEASE).await.unwrap(),
        Claim::NotPending(JobStatus::Failed)
    );
}

/// Row 57: the worker could not record it any more; its manifest is there, so that whoever settles the row completes it.
#[tokio::test]
async fn a_backup_whose_worker_died_at_the_end_is_settled_from_its_manifest() {
    let database = Postgres::shared().create_database("catalog_settled");
    let catalog = catalog_in(&database).await;
    let row = catalog.request_backup(&backup_of("shop")).await.unwrap();
    let task = Task::Backup(row.id);
    let lease = taken(&catalog, task).await;
    let manifest = manifest("shop");
    let how = Settlement::Completed(&manifest);
    assert_eq!(
        catalog
            .settle_expired(task, lease.token, &how)
            .await
            .unwrap(),
        Ended::Lost
    );
    pass(&database, task);
    catalog
        .settle_expired(task, lease.token, &how)
        .await
        .unwrap();
    is_manifest_s(&catalog.backup(row.id).await.unwrap().unwrap(), &manifest);
    // Its worker was only slow: it finds its own backup recorded, and that is a success.
    let late = catalog.complete_backup(&lease, &manifest).await.unwrap();
    assert_eq!(
        late,
        Ended::Done {
            status: JobStatus::Completed,
            dependents: vec![]
        }
    );
}

/// The row of a job without a number, by whoever enqueued it nobody knows when.
async fn its_own(catalog: &Catalog, request: &BackupRequested) -> BackupRow {
    match catalog.backup_of_job(request, None).await.unwrap() {
        OfJob::Its(row) => *row,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_target_runs_one_job() {
    let database = Postgres::shared().create_database("catalog_one");
    let catalog = catalog_in(&database).await;
    let first = its_own(&catalog, &backup_of("shop")).await;
    let second = its_own(&catalog, &backup_of("shop")).await;
    let lease = taken(&catalog, Task::Backup(first.id)).await;
    let Claim::Busy(active) = catalog
        .claim(Task::Backup(second.id), "w", LEASE)
        .await
        .unwrap()
    else {
        panic!("two at once");
    };
    assert_eq!(
        (active.task, active.status),
        (Task::Backup(first.id), JobStatus::Running)
    );
    catalog.end(&lease, &failed("x")).await.unwrap();
    taken(&catalog, Task::Backup(second.id)).await;
    let nobody = Task::Backup(BackupId::new(1000).unwrap());
    assert_eq!(
        catalog.claim(nobody, "w", LEASE).await.unwrap(),
        Claim::Missing
    );
}

/// A job without a number that is delivered twice, to two workers at once, is one backup.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_without_a_number_is_one_backup() {
    let database = Postgres::shared().create_database("catalog_job");
    let catalog = catalog_in(&database).await;
    let request = backup_of("shop");
    let asked: Vec<_> = (0..8)
        .map(|_| {
            let (catalog, request) = (catalog.clone(), request.clone());
            tokio::spawn(async move { its_own(&catalog, &request).await.id })
        })
        .collect();
    let mut ids = std::collections::BTreeSet::new();
    for answer in asked {
        ids.insert(answer.await.unwrap());
    }
    assert_eq!(ids.len(), 1);
    assert!(matches!(
        catalog.request_backup(&backup_of("other")).await,
        Ok(row) if !ids.contains(&row.id)
    ));
    let mut taken_id = backup_of("third");
    taken_id.job_id.clone_from(&request.job_id);
    let error = catalog.request_backup(&taken_id).await.unwrap_err();
    assert!(matches!(error, CatalogError::JobTaken { .. }), "{error}");
}

#[tokio::test]
async fn a_restore_waits_for_its_safety_backup() {
    let database = Postgres::shared().create_database("catalog_chain");
    let catalog = catalog_in(&database).await;
    let (source, _) = complete(&catalog, "shop").await;
    let request = restore_of(source.id, "shop", with_safety());
    let (restore, safety) = catalog.request_restore(&request).await.unwrap();
    let safety = safety.unwrap();
    assert_eq!(restore.safety_backup_id, Some(safety.id));
    assert_eq!(
        (restore.job.status, safety.job.status),
        (JobStatus::Waiting, JobStatus::Pending)
    );
    assert_eq!(safety.kind.as_str(), "pre_restore");
    let pending = catalog.pending().await.unwrap();
    let of_restore = pending
        .iter()
        .find(|job| job.task == Task::Restore(restore.id))
        .unwrap();
    assert_eq!(of_restore.depends_on, safety.job.job_id);
    let claim = catalog
        .claim(Task::Restore(restore.id), "w", LEASE)
        .await
        .unwrap();
    assert_eq!(claim, Claim::NotPending(JobStatus::Waiting));

    // A try that is given back, or tried again, changes nothing for the restore.
    let lease = taken(&catalog, Task::Backup(safety.id)).await;
    catalog.end(&lease, &retried("once")).await.unwrap();
    assert_eq!(
        status(&catalog, Task::Restore(restore.id)).await,
        JobStatus::Waiting
    );
    let lease = taken(&catalog, Task::Backup(safety.id)).await;
    let Ended::Done { dependents, .. } = catalog
        .complete_backup(&lease, &manifest("shop"))
        .await
        .unwrap()
    else {
        panic!("lost");
    };
    assert_eq!(
        (dependents.len(), dependents[0].status),
        (1, JobStatus::Pending)
    );
    assert_eq!(
        (dependents[0].restore, &dependents[0].job_id),
        (restore.id, &request.job_id)
    );

    let lease = taken(&catalog, Task::Restore(restore.id)).await;
    let facts = RestoreFacts {
        database: "shop".to_owned(),
        kept_database: Some("shop_before_0123abcd".to_owned()),
        compared: Some(Compared { tables: 2, rows: 9 }),
        plain_bytes: 1000,
        warnings: vec!["w".to_owned()],
    };
    catalog.complete_restore(&lease, &facts).await.unwrap();
    let row = catalog.restore(restore.id).await.unwrap().unwrap();
    assert_eq!(
        (row.job.status, row.database.as_deref()),
        (JobStatus::Completed, Some("shop"))
    );
    assert_eq!(
        (row.compared_tables, row.compared_rows, row.plain_bytes),
        (Some(2), Some(9), Some(1000))
    );
    assert_eq!(
        catalog.complete_restore(&lease, &facts).await.unwrap(),
        Ended::Lost
    );
}

#[tokio::test]
async fn a_restore_ends_with_its_safety_backup() {
    let database = Postgres::shared().create_database("catalog_chain_ends");
    let catalog = catalog_in(&database).await;
    let (source, _) = complete(&catalog, "shop").await;
    for how in ["failed", "retried twice", "cancelled", "settled"] {
        let request = restore_of(source.id, "shop", with_safety());
        let (restore, safety) = catalog.request_restore(&request).await.unwrap();
        let safety = safety.unwrap().id;
        let task = Task::Backup(safety);
        let dependents = match how {
            "cancelled" => match catalog.cancel(task, "me").await.unwrap() {
                Cancelled::AtOnce { dependents } => dependents,
                other => panic!("{other:?}"),
            },
            how => {
                let mut lease = taken(&catalog, task).await;
                if how == "retried twice" {
                    catalog.end(&lease, &retried("boom")).await.unwrap();
                    lease = taken(&catalog, task).await;
                }
                let ending = if how == "retried twice" {
                    retried("boom")
                } else {
                    failed("boom")
                };
                let ended = if how == "settled" {
                    pass(&database, task);
                    catalog
                        .settle_expired(task, lease.token, &Settlement::Ended(ending))
                        .await
                } else {
                    catalog.end(&lease, &ending).await
                };
                match ended.unwrap() {
                    Ended::Done { dependents, .. } => dependents,
                    Ended::Lost => panic!("{how}: lost"),
                }
            }
        };
        assert_eq!(
            (dependents.len(), dependents[0].restore),
            (1, restore.id),
            "{how}"
        );
        let row = catalog.restore(restore.id).await.unwrap().unwrap();
        assert_eq!(row.job.status, JobStatus::Failed, "{how}");
        let error = row.job.error.unwrap();
        let reason = if how == "cancelled" {
            "was cancelled"
        } else {
            "failed: boom"
        };
        assert!(
            error.contains(&format!("safety backup, {safety}, {reason}")),
            "{how}: {error}"
        );
        assert_eq!(dependents[0].error.as_ref(), Some(&error));
        assert_eq!(catalog.active("shop").await.unwrap(), None, "{how}");
    }
}

#[tokio::test]
async fn only_what_is_whole_can_be_restored() {
    let database = Postgres::shared().create_database("catalog_restorable");
    let catalog = catalog_in(&database).await;
    let refused = async |id: BackupId, reason: &str| {
        let request = restore_of(id, "elsewhere", with_safety());
        let error = catalog.request_restore(&request).await.unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
        assert_eq!(
            catalog.active("elsewhere").await.unwrap(),
            None,
            "half of a request stayed"
        );
    };
    let (row, _) = complete(&catalog, "shop").await;
    for (health, reason) in [
        (Health::Lost, "it is gone"),
        (Health::Corrupt, "it is another one"),
    ] {
        assert!(
            catalog
                .mark_health(row.id, health, Some(reason))
                .await
                .unwrap()
        );
        assert!(
            !catalog
                .mark_health(row.id, health, Some(reason))
                .await
                .unwrap(),
            "no news"
        );
        refused(row.id, reason).await;
    }
    catalog.mark_health(row.id, Health::Ok, None).await.unwrap();
    database.psql("UPDATE pgseal.backups SET deletion = 'deleting'");
    refused(row.id, "being deleted").await;
    let pending = catalog.request_backup(&backup_of("shop")).await.unwrap();
    refused(pending.id, "it is pending").await;
    refused(BackupId::new(77).unwrap(), "there is no backup 77").await;
}

#[tokio::test]
async fn a_cancelled_job_ends_at_once_or_when_its_worker_hears_of_it() {
    let database = Postgres::shared().create_database("catalog_cancel");
    let catalog = catalog_in(&database).await;
    let pending = Task::Backup(catalog.request_backup(&backup_of("a")).await.unwrap().id);
    assert_eq!(
        catalog.cancel(pending, "me").await.unwrap(),
        Cancelled::AtOnce { dependents: vec![] }
    );
    assert_eq!(
        catalog.cancel(pending, "me").await.unwrap(),
        Cancelled::Ended(JobStatus::Cancelled)
    );
    let missing = Task::Restore(RestoreId::new(5).unwrap());
    assert_eq!(
        catalog.cancel(missing, "me").await.unwrap(),
        Cancelled::Missing
    );

    for ending in [Ending::Cancelled, Ending::GivenBack, retried("x")] {
        let running = Task::Backup(catalog.request_backup(&backup_of("b")).await.unwrap().id);
        let lease = taken(&catalog, running).await;
        assert_eq!(
            catalog.cancel(running, "me").await.unwrap(),
            Cancelled::Requested
        );
        assert_eq!(
            catalog.cancel(running, "you").await.unwrap(),
            Cancelled::Requested
        );
        let renewed = catalog
            .renew(&lease, LEASE, &Report::default())
            .await
            .unwrap();
        assert_eq!(renewed, Renewed::CancelRequested);
        // Whatever the worker calls it: nobody wants another try.
        let ended = catalog.end(&lease, &ending).await.unwrap();
        assert_eq!(
            ended,
            Ended::Done {
                status: JobStatus::Cancelled,
                dependents: vec![]
            }
        );
        let Task::Backup(id) = running else {
            unreachable!()
        };
        let row = catalog.backup(id).await.unwrap().unwrap();
        assert_eq!(row.job.cancel_requested_by.as_deref(), Some("me"));
    }
    // It was too late: what is complete is complete.
    let running = Task::Backup(catalog.request_backup(&backup_of("b")).await.unwrap().id);
    let lease = taken(&catalog, running).await;
    catalog.cancel(running, "me").await.unwrap();
    catalog
        .complete_backup(&lease, &manifest("b"))
        .await
        .unwrap();
    assert_eq!(status(&catalog, running).await, JobStatus::Completed);
    let (source, _) = complete(&catalog, "c").await;
    let request = restore_of(source.id, "c", with_safety());
    let (restore, _) = catalog.request_restore(&request).await.unwrap();
    let waiting = catalog
        .cancel(Task::Restore(restore.id), "me")
        .await
        .unwrap();
    assert_eq!(waiting, Cancelled::AtOnce { dependents: vec![] });
}

/// Of two that delete one backup at once, as two prunes do, one has deleted it.
#[tokio::test]
async fn a_deletion_is_whose_row_it_was() {
    let database = Postgres::shared().create_database("two_delete");
    let catalog = catalog_in(&database).await;
    let (row, _) = complete(&catalog, "one").await;
    for _ in 0..2 {
        let begun = catalog.begin_deletion(row.id, LastGood::Forced).await;
        assert_eq!(begun.unwrap().id, row.id);
    }
    assert!(catalog.finish_deletion(row.id).await.unwrap());
    assert!(!catalog.finish_deletion(row.id).await.unwrap());
}
