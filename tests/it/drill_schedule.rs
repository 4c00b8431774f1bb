//! Drills that nobody asks for: one for a slot, the newest and then each in turn, within a month's bytes; and a proof that is
//! too old is said, once.

use std::collections::BTreeSet;
use std::sync::Arc;

use pgseal::catalog::{BegunDrill, CatalogError, DrillBudget, DrillChoice};
use rustix::process::Signal;
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::harness::api::Api;
use crate::harness::catalog::{catalog_in, complete};
use crate::harness::cli::{Pgseal, clients};
use crate::harness::postgres::Postgres;
use crate::harness::receiver::Receiver;
use crate::harness::service::Service;
use crate::harness::somebody::until;
use crate::harness::{every_day, fixture};
use crate::notify::{sent_to, set_receiver, verified};

/// A service whose drills have been due every night for days; no slot has been seen yet.
fn service_with_drills() -> Service {
    let mut service = Service::start();
    service.pgseal.set("BACKUP_DRILL_SCHEDULE", every_day());
    let said = service.pgseal.fails(5, &["worker", "--burst"]);
    assert!(said.contains("set BACKUP_DRILL_DATABASE_URL"), "{said}");
    service.pgseal.set(
        "BACKUP_DRILL_DATABASE_URL",
        Postgres::shared().url("postgres"),
    );
    service
}

/// From here on the schedule has been there for days.
fn since_days(service: &Service, days: u32) {
    service.catalog.psql(&format!(
        "UPDATE pgseal.schedules SET since = since - interval '{days} days'"
    ));
}

/// A night passes: what was seen to was yesterday's.
fn next_night(service: &Service) {
    service.catalog.psql("UPDATE pgseal.schedule_slots SET slot = slot - interval '1 day' WHERE schedule LIKE 'drill:%'");
}

/// Takes away what a drill has put beside its backup: a worker would put it into the row again, now or a moment later.
fn forget_proof(service: &Service) {
    let proofs = service.pgseal.stored().into_iter();
    let proofs: Vec<String> = proofs.filter(|key| key.ends_with(".proof.gpg")).collect();
    assert_eq!(proofs.len(), 1);
    std::fs::remove_file(service.pgseal.store().join(&proofs[0])).unwrap();
}

fn backups(service: &Service, number: usize) {
    for _ in 0..number {
        service.enqueue_backup();
        service.burst();
    }
}

fn drills(service: &Service) -> String {
    service.catalog.psql(
        "SELECT string_agg(backup_id || ' ' || coalesce(outcome, 'open'), ', ' ORDER BY id) FROM pgseal.drills",
    )
}

#[test]
fn each_slot_is_one_drill_of_the_newest_and_then_in_turn() {
    let service = service_with_drills();
    // A schedule of this minute owes nothing.
    backups(&service, 3);
    assert_eq!(drills(&service), "");
    since_days(&service, 3);

    let workers = ["one", "two", "three"].map(|name| service.worker(name));
    until("the drill of the schedule", || {
        drills(&service) == "3 PROVEN"
    });
    assert_eq!(service.backup(3, "proof"), "PROVEN");
    for (drilled, before) in [("1", "3 PROVEN"), ("2", "3 PROVEN, 1 PROVEN")] {
        next_night(&service);
        let expected = format!("{before}, {drilled} PROVEN");
        until(&format!("the drill of {drilled}"), || {
            drills(&service) == expected
        });
    }
    for worker in workers {
        Service::end(worker);
    }
    // Nobody found anything more to do, however often they looked.
    service.burst();
    assert_eq!(drills(&service), "3 PROVEN, 1 PROVEN, 2 PROVEN");
    let fetched = "SELECT sum(d.bytes) = sum(b.sealed_bytes) FROM pgseal.drills d JOIN pgseal.backups b ON b.id = d.backup_id";
    assert_eq!(service.catalog.psql(fetched), "t");
}

/// Rows 49 and 50, of drills: whoever looks, with clocks that are a day apart, the slot is one drill, by the catalog's clock.
#[test]
fn a_slot_is_one_drill_whatever_the_clocks_say() {
    let mut service = service_with_drills();
    backups(&service, 2);
    since_days(&service, 2);
    service.pgseal.set("BACKUP_SCHEDULE", "never");
    let mut running = Vec::new();
    for off in ["+1d", "-1d", "+0d", "+1d", "-1d", "+0d"] {
        service.pgseal.with_clock(off);
        running.push(
            service
                .pgseal
                .start(&["run-scheduled", "--enqueue", "--json"]),
        );
    }
    service.pgseal.unset("LD_PRELOAD");
    let mut asked = 0;
    for run in running {
        let run = run.wait();
        assert_eq!(run.code, 0, "{run}");
        let said: Value = serde_json::from_slice(&run.stdout).unwrap();
        asked += usize::from(said["outcome"] == "asked for");
    }
    assert_eq!(asked, 1);
    service.burst();
    service.burst();
    assert_eq!(drills(&service), "2 PROVEN");
    let slots = "SELECT count(*) FROM pgseal.schedule_slots WHERE schedule LIKE 'drill:%'";
    assert_eq!(service.catalog.psql(slots), "1");
}

/// What Redis lost before a worker took it is made again.
#[test]
fn a_drill_that_redis_lost_is_made_again() {
    let service = service_with_drills();
    backups(&service, 1);
    since_days(&service, 2);
    // Nobody is there to take it.
    let asked = service.pgseal.json(&["run-scheduled", "--enqueue"]);
    let drill = &asked[1];
    assert_eq!(
        (&drill["what"], &drill["outcome"], &drill["backup_id"]),
        (&json!("drill"), &json!("asked for"), &json!(1)),
        "{asked}"
    );
    service.ask(&["FLUSHALL"]);
    service.burst();
    service.burst();
    assert_eq!(service.backup(1, "proof"), "PROVEN");
    assert_eq!(drills(&service), "1 PROVEN");
}

#[test]
fn a_month_s_bytes_bound_all_drills_and_nothing_is_wrong_with_the_backup() {
    let mut service = service_with_drills();
    backups(&service, 2);
    since_days(&service, 9);
    let bytes: u64 = service.backup(2, "sealed_bytes").parse().unwrap();
    // Enough for one of them, and not for two.
    let budget = format!("{}.5KiB", bytes / 1024 + 2);
    service.pgseal.set("BACKUP_DRILL_MONTHLY_BYTES", &budget);
    service.burst();
    service.burst();
    assert_eq!(drills(&service), "2 PROVEN");
    // It counts in this month, and in the next one, should it begin meanwhile.
    service
        .catalog
        .psql("UPDATE pgseal.drills SET counted_at = counted_at + interval '1 hour'");

    next_night(&service);
    let said = service.burst() + &service.burst();
    let waits = "Drill of the schedule waits: it would fetch more";
    assert_eq!(said.matches(waits).count(), 1, "{said}");
    assert_eq!(drills(&service), "2 PROVEN");
    assert_eq!(service.backup(1, "proof || ' ' || health"), "unproven ok");

    // Whoever asks for the next one hears it too, and that is no failure.
    let untried = service.pgseal.json(&["drill", "--next"]);
    assert_eq!(untried["outcome"], "over budget", "{untried}");
    assert!(untried["bytes_left"].as_u64() < Some(bytes), "{untried}");

    let api = Api::of(service);
    let shown = api.json(200, "GET", "/api/admin/schedules", "");
    let drill = &shown["drills"][0];
    assert_eq!(drill["state"], "over budget", "{shown}");
    assert_eq!(shown["drill_budget"]["used_bytes"], bytes);
    let metrics = api.ask("GET", "/metrics", "").text();
    for line in [
        "pgseal_drill_over_budget{target=\"default\"} 1".to_owned(),
        format!("pgseal_drill_used_bytes {bytes}"),
        "pgseal_proof_overdue{target=\"default\"} 0".to_owned(),
    ] {
        assert!(metrics.contains(&line), "{line}\n{metrics}");
    }
    assert!(metrics.contains("\npgseal_proof_age_seconds{target=\"default\"} "));

    // A new month, and the slot that waits has its drill.
    let service = &api.service;
    service
        .catalog
        .psql("UPDATE pgseal.drills SET counted_at = counted_at - interval '32 days'");
    service.burst();
    service.burst();
    assert_eq!(drills(service), "2 PROVEN, 1 PROVEN");
}

/// However many decide at once.
#[tokio::test(flavor = "multi_thread")]
async fn what_many_decide_at_once_stays_within_the_budget() {
    let database = Postgres::shared().create_database("budget");
    let catalog = Arc::new(catalog_in(&database).await);
    for _ in 0..6 {
        complete(&catalog, "default").await;
    }
    // Each has 500 bytes.
    let budget = DrillBudget {
        bytes: 1700,
        since: OffsetDateTime::now_utc() - time::Duration::days(1),
    };
    let choosing = (0..12).map(|number| {
        let catalog = Arc::clone(&catalog);
        tokio::spawn(async move {
            let job = format!("job-{number}");
            let chosen = catalog.choose_drill(&["default"], Some(budget), None, Some(&job));
            chosen.await.unwrap()
        })
    });
    let (mut chosen, mut dear) = (BTreeSet::new(), 0);
    for one in futures_util::future::join_all(choosing).await {
        match one.unwrap() {
            DrillChoice::Backup(id) => assert!(chosen.insert(id), "{id} was chosen twice"),
            DrillChoice::TooDear { bytes, left, .. } => {
                assert_eq!((bytes, left), (500, 200));
                dear += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((chosen.len(), dear), (3, 9));
    assert_eq!(catalog.drill_bytes(budget.since).await.unwrap(), 1500);

    // What was counted when it was chosen does not count when it begins; a second try does, and must fit.
    let id = *chosen.first().unwrap();
    let job = database.psql(&format!(
        "SELECT job_id FROM pgseal.drills WHERE backup_id = {id}"
    ));
    let begin = async || {
        catalog
            .begin_drill(id, Some(budget), Some(&job))
            .await
            .unwrap()
    };
    let BegunDrill::Begun(drill) = begin().await else {
        panic!("what was counted may begin")
    };
    assert_eq!(catalog.drill_bytes(budget.since).await.unwrap(), 1500);
    assert_eq!(
        begin().await,
        BegunDrill::TooDear {
            bytes: 500,
            left: 200
        }
    );
    // It fetched nothing after all, so there is room for the next try.
    catalog.end_drill(drill, "no verdict", false).await.unwrap();
    assert!(matches!(begin().await, BegunDrill::Begun(_)));
    // What somebody names is counted, and not bounded.
    let named = catalog.begin_drill(id, Some(budget), Some("by-hand")).await;
    assert!(matches!(named, Ok(BegunDrill::Begun(_))), "{named:?}");
    assert_eq!(catalog.drill_bytes(budget.since).await.unwrap(), 2000);
    let none = pgseal::model::ids::BackupId::new(999).unwrap();
    let none = catalog.begin_drill(none, None, None).await;
    assert!(
        matches!(none, Err(CatalogError::NoSuchBackup(_))),
        "{none:?}"
    );
}

/// A worker that dies in a drill has fetched all of it, for all that anybody knows. One whose server is away has not.
#[test]
fn a_drill_that_dies_counts_and_one_that_fetched_nothing_does_not() {
    let mut service = service_with_drills();
    backups(&service, 1);
    since_days(&service, 9);
    let marker = service.pgseal.file("loading");
    let script = format!(
        "case \"$*\" in *--dbname=*) touch '{}'; exec sleep 600;; esac; exec \"$REAL\" \"$@\"",
        marker.display()
    );
    let slow = clients(None, Some(&script));
    service.pgseal.with_clients(slow.path());
    let worker = service.worker("dies");
    until("the load", || marker.exists());
    worker.signal(Signal::KILL);
    assert_eq!(worker.wait().code, -1);
    let counted = "SELECT sum(d.bytes) = min(b.sealed_bytes) FROM pgseal.drills d JOIN pgseal.backups b ON b.id = d.backup_id";
    assert_eq!(service.catalog.psql(counted), "t");
    assert_eq!(drills(&service), "1 open");

    // Its slot is not lost: once its silence is noticed, the backup is fetched once more, which counts as well.
    service.pgseal.unset("BACKUP_PG_BINDIRS");
    let job = service.catalog.psql("SELECT job_id FROM pgseal.drills");
    service.ask(&["ZADD", "rq:wip:backups", "XX", "1", &job]);
    service.ask(&["DEL", "rq:worker:dies"]);
    let worker = service.worker("another");
    until("another try", || service.job_status(&job) == "scheduled");
    service.ask(&["ZADD", "rq:scheduled:backups", "XX", "1", &job]);
    until("the drill", || drills(&service) == "1 open, 1 PROVEN");
    Service::end(worker);
    assert_eq!(service.catalog.psql(&counted.replace("min(", "sum(")), "t");

    forget_proof(&service);
    service.catalog.psql("DELETE FROM pgseal.drills");
    service.catalog.psql("DELETE FROM pgseal.schedule_slots");
    service.catalog.psql(
        "UPDATE pgseal.backups SET proof = 'unproven', proof_at = NULL, proof_seconds = NULL",
    );
    service.ask(&["FLUSHALL"]);
    service.pgseal.set(
        "BACKUP_DRILL_DATABASE_URL",
        "postgres://postgres@127.0.0.1:1/postgres",
    );
    service.burst();
    assert_eq!(drills(&service), "1 no verdict");
    assert_eq!(service.catalog.psql("SELECT bytes FROM pgseal.drills"), "0");
    assert_eq!(service.backup(1, "proof"), "unproven");
}

/// Row 136, of proofs: an event, once for as long as nothing is proved; over when something is; and another one the next time.
#[test]
fn a_proof_that_is_too_old_is_one_event() {
    let mut service = Service::start();
    let receiver = Receiver::start();
    set_receiver(&mut service.pgseal, &receiver);
    service.pgseal.set("BACKUP_PROOF_MAX_AGE_DAYS", "30").set(
        "BACKUP_DRILL_DATABASE_URL",
        Postgres::shared().url("postgres"),
    );
    backups(&service, 1);
    let overdue = || {
        let sent = receiver.sent();
        let hooks = sent_to(&sent, "/hook/").into_iter().map(verified);
        let overdue: Vec<Value> = hooks
            .filter(|body| body["type"] == "proof.overdue")
            .collect();
        let chats = sent_to(&sent, "/chat/");
        let chats = chats.iter().filter(|chat| chat.body.contains("OVERDUE"));
        assert_eq!(chats.count(), overdue.len());
        overdue
    };
    assert_eq!(overdue().len(), 0, "a rule of this minute owes nothing");
    // A role that may make databases, and can give nothing to their owners.
    let server = Postgres::shared();
    let role = service.database.name.replace("job", "drills_for");
    server.psql(
        "postgres",
        &format!("CREATE ROLE {role} LOGIN CREATEDB PASSWORD 'dummy'"),
    );
    let weak = server.url_as(&role, "dummy", "postgres");
    let run = service.pgseal.run(&["drill", "latest", "--to", &weak]);
    server.psql("postgres", &format!("DROP ROLE {role}"));
    assert_eq!(run.code, 5, "{run}");
    service.burst();
    let sent = receiver.sent();
    let chats = sent_to(&sent, "/chat/");
    assert_eq!(chats.len(), 1, "{chats:?}");
    assert!(chats[0].body.contains("is UNVERIFIABLE"), "{chats:?}");
    since_days(&service, 31);
    for _ in 0..3 {
        service.burst();
    }
    let told = overdue();
    assert_eq!(told.len(), 1, "{told:?}");
    let said = told[0]["data"]["error"].as_str().unwrap();
    assert!(
        said.contains("none was ever proved") && said.contains("was UNVERIFIABLE: "),
        "{said}"
    );

    service.pgseal.json(&["drill", "latest"]);
    // The command line's drill is the catalog's as well, and counts there.
    assert_eq!(service.backup(1, "proof"), "PROVEN");
    assert_eq!(drills(&service), "1 UNVERIFIABLE, 1 PROVEN");
    let api = Api::of(service);
    let shown = api.json(200, "GET", "/api/admin/schedules", "");
    assert_eq!(shown["drills"][0]["proof_overdue"], false, "{shown}");
    forget_proof(&api.service);
    api.service.catalog.psql(
        "UPDATE pgseal.backups SET proof_at = proof_at - interval '31 days'; \
         UPDATE pgseal.schedules SET since = since - interval '31 days'",
    );
    let metrics = || api.ask("GET", "/metrics", "").text();
    until("the metric of an overdue proof", || {
        metrics().contains("pgseal_proof_overdue{target=\"default\"} 1")
    });
    for _ in 0..2 {
        api.service.burst();
    }
    let told = overdue();
    assert_eq!(told.len(), 2, "{told:?}");
    let said = told[1]["data"]["error"].as_str().unwrap();
    assert!(said.contains("the last proof is of "), "{said}");
}

/// Without service and catalog: the same choice by what the store says, and a month's bytes need a catalog.
#[test]
fn a_timer_makes_one_drill_for_a_slot() {
    let server = Postgres::shared();
    let database = server.database_from("drilled", &fixture("bulk.sql"), &["rows=100"]);
    let mut pgseal = Pgseal::new();
    pgseal
        .set("DATABASE_URL", &database.url)
        .set("BACKUP_SCHEDULE", every_day())
        .set("BACKUP_DRILL_SCHEDULE", every_day());
    let said = pgseal.fails(5, &["run-scheduled"]);
    assert!(said.contains("BACKUP_DRILL_DATABASE_URL"), "{said}");
    pgseal.set("BACKUP_DRILL_DATABASE_URL", server.url("postgres"));
    let older = pgseal.json(&["backup"]);
    let ran = pgseal.json(&["run-scheduled"]);
    let made = ran[0]["name"].clone();
    assert_eq!(
        (&ran[0]["outcome"], &ran[1]["outcome"], &ran[1]["verdict"]),
        (&json!("made"), &json!("made"), &json!("PROVEN")),
        "{ran}"
    );
    assert_eq!(ran[1]["name"], made);
    let again = pgseal.json(&["run-scheduled"]);
    assert_eq!(
        (&again[0]["outcome"], &again[1]["outcome"]),
        (&json!("was made"), &json!("was made"))
    );

    // By hand it is the other one's turn, and then the first one's again.
    for name in [&older["name"], &made] {
        assert_eq!(pgseal.json(&["drill"])["backup"], *name);
    }
    pgseal.set("BACKUP_DRILL_MONTHLY_BYTES", "1GB");
    let said = pgseal.fails(5, &["drill", "--next"]);
    assert!(said.contains("CATALOG_DATABASE_URL"), "{said}");
    pgseal.ok(&["drill", "latest"]);
    pgseal.fails(2, &["drill", "latest", "--next"]);

    assert!(!pgseal.run(&["list"]).stderr.contains("OVERDUE"));
    pgseal.with_clock("+4d");
    let listed = pgseal.run(&["list"]);
    assert!(
        listed
            .stderr
            .contains("OVERDUE: no drill proved a backup by"),
        "{listed}"
    );
}
