//! The outbox: nothing that happened is lost, nothing is told twice without need, and no job waits for a listener.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pgseal::catalog::{BackupRequested, Ending, Failed, Route, Task};
use pgseal::model::alert::Alert;
use pgseal::model::event::EventKind;
use pgseal::model::ids::BackupId;
use pgseal::model::kind::BackupKind;
use rustix::process::Signal;
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::harness::api::Api;
use crate::harness::catalog::{
    backup_of, catalog_in, complete, manifest, restore_of, taken, with_safety,
};
use crate::harness::mail::MailServer;
use crate::harness::postgres::{Postgres, free_port};
use crate::harness::receiver::{Receiver, Sent, status};
use crate::harness::service::Service;
use crate::harness::somebody::until;
use crate::notify::{answers_on, sent_to, set_mail, set_receiver, verified};

fn events(service: &Service) -> String {
    service
        .catalog
        .psql("SELECT string_agg(kind, ' ' ORDER BY at) FROM pgseal.events")
}

fn waiting(service: &Service) -> String {
    service
        .catalog
        .psql("SELECT count(*) FROM pgseal.deliveries WHERE status = 'waiting'")
}

/// Nobody waits for the next try.
fn hurry(service: &Service) {
    service.catalog.psql(
        "UPDATE pgseal.deliveries SET next_at = clock_timestamp() WHERE status = 'waiting' AND lease_token IS NULL",
    );
}

fn types(sent: &[Sent]) -> Vec<String> {
    let hooks = sent_to(sent, "/hook/").into_iter().map(verified);
    hooks
        .map(|body| body["type"].as_str().unwrap().to_owned())
        .collect()
}

/// Row 135: the mail server is down, the webhook says 503, the chat and the switch work. The jobs end as they would, and
/// whoever did not hear of them hears once it can, each event once.
#[test]
fn a_channel_that_is_down_changes_no_verdict_and_loses_nothing() {
    let mut service = Service::start();
    let receiver = Receiver::start();
    set_receiver(&mut service.pgseal, &receiver);
    let port = free_port();
    service
        .pgseal
        .set("BACKUP_SMTP_URL", format!("smtp://127.0.0.1:{port}"))
        .set("BACKUP_NOTIFY_FROM", "backups@example.com")
        .set("BACKUP_NOTIFY_TO", "one@example.com");
    answers_on(&receiver, &[("/hook", 503)]);
    let (good, good_job) = service.enqueue_backup();
    service.burst();
    service.with_pg_dump("echo 'pg_dump: error: out of luck' >&2; exit 1");
    let (bad, _) = service.enqueue_backup();
    service.burst();

    assert_eq!(service.backup(good, "status"), "completed");
    assert_eq!(service.job_status(&good_job), "finished");
    assert_eq!(
        service.backup(bad, "status || ' ' || error_stage"),
        "failed dump"
    );
    assert_eq!(
        events(&service),
        "backup.started backup.completed backup.started backup.started backup.failed"
    );
    let sent = receiver.sent();
    let pings: Vec<&str> = sent_to(&sent, "/ping/")
        .iter()
        .map(|sent| sent.path.as_str())
        .collect();
    assert!(pings.contains(&"/ping/default"), "{pings:?}");
    assert_eq!(pings.last(), Some(&"/ping/default/fail"));
    assert_eq!(sent_to(&sent, "/chat/").len(), 1);
    // One mail, and the webhook's five: the second backup was tried twice.
    assert_eq!(waiting(&service), "6");
    let listed = service.pgseal.ok(&["notify", "list"]);
    assert!(
        listed.contains("503") && listed.contains("Connection refused"),
        "{listed}"
    );
    assert!(listed.contains("6 notifications not sent"), "{listed}");

    let mail = MailServer::at(port, &[]);
    receiver.answers(|_, _| status(200));
    let before = receiver.sent().len();
    let worker = service.worker("later");
    until("everything to be told", || {
        hurry(&service);
        waiting(&service) == "0"
    });
    let messages = mail.until_messages(1);
    let subject = format!("pgseal: backup of {} FAILED at dump", service.database.name);
    assert_eq!(messages[0].header("Subject"), [subject]);
    assert!(
        messages[0].body().contains("out of luck"),
        "{}",
        messages[0].body()
    );
    let mut told = types(&receiver.sent()[before..]);
    told.sort();
    assert_eq!(
        told,
        [
            "backup.completed",
            "backup.failed",
            "backup.started",
            "backup.started",
            "backup.started"
        ]
    );
    Service::end(worker);
    assert_eq!(
        (mail.messages().len(), receiver.sent().len()),
        (1, before + 5)
    );
    assert!(
        service
            .pgseal
            .ok(&["notify", "list"])
            .contains("Every notification was sent")
    );
}

/// Row 135, of the command line: what a channel does not take for some seconds goes into the outbox, and nothing else does.
#[test]
fn what_nobody_takes_from_a_command_is_left_to_the_workers() {
    let mut service = Service::start();
    let receiver = Receiver::start();
    set_receiver(&mut service.pgseal, &receiver);
    // Of a beginning nobody waits for long, however long the backup takes.
    receiver.answers(|sent, _| {
        let refused = sent.path.starts_with("/hook") && !sent.body.contains("backup.started");
        status(if refused { 503 } else { 200 })
    });
    let run = service.pgseal.run(&["backup"]);
    assert_eq!(run.code, 0, "{run}");
    assert!(run.stderr.contains("it is left to the workers"), "{run}");
    let tries = receiver.sent().len();
    assert!(
        sent_to(&receiver.sent(), "/hook/").len() > 2,
        "it was tried once"
    );
    let waits = "SELECT string_agg(e.kind || ' ' || d.channel, ', ') FROM pgseal.deliveries d \
        JOIN pgseal.events e ON e.id = d.event_id WHERE d.status = 'waiting'";
    assert_eq!(service.catalog.psql(waits), "backup.completed webhook");
    let api = Api::of(service);
    let metrics = || api.ask("GET", "/metrics", "").text();
    let waits = metrics();
    assert!(
        waits.contains("\npgseal_notifications_waiting 1\n"),
        "{waits}"
    );
    let age = waits
        .lines()
        .find_map(|line| line.strip_prefix("pgseal_notifications_oldest_age_seconds "));
    assert!(age.unwrap().parse::<f64>().unwrap() > 0.0, "{waits}");
    receiver.answers(|_, _| status(200));
    hurry(&api.service);
    api.service.burst();
    assert_eq!(waiting(&api.service), "0");
    // The API, which has the channels too, may have tried it before.
    let told = types(&receiver.sent()[tries..]);
    assert!(
        !told.is_empty() && told.iter().all(|kind| kind == "backup.completed"),
        "{told:?}"
    );
    assert_eq!(api.service.pgseal.json(&["notify", "list"]), json!([]));
    until("the metrics of an empty outbox", || {
        let none = metrics();
        none.contains("\npgseal_notifications_waiting 0\n")
            && none.contains("\npgseal_notifications_oldest_age_seconds 0\n")
    });
}

/// A listener that hangs holds no job up.
#[test]
fn a_job_ends_while_a_channel_hangs() {
    let mut service = Service::start();
    let receiver = Receiver::start();
    set_receiver(&mut service.pgseal, &receiver);
    let hangs = Arc::new(AtomicBool::new(true));
    let shared = Arc::clone(&hangs);
    receiver.answers(move |sent, _| {
        while sent.path.starts_with("/hook") && shared.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(20));
        }
        status(200)
    });
    let begun = Instant::now();
    let worker = service.worker("busy");
    let made = || {
        let (id, _) = service.enqueue_backup();
        service.until_backup(id, "completed");
    };
    made();
    until("the webhook to hang", || types(&receiver.sent()).len() == 1);
    made();
    assert!(hangs.load(Ordering::Relaxed));
    // Nobody waits for an answer for longer than 20 s; then it is asked again.
    let tries = types(&receiver.sent()).len() as u64;
    let most = 1 + begun.elapsed().as_secs() / 20;
    assert!(tries <= most, "it was asked by two at once: {tries} times");
    hangs.store(false, Ordering::Relaxed);
    until("everything to be told", || {
        waiting(&service) == "0" && types(&receiver.sent()).len() >= 4
    });
    Service::end(worker);
}

/// Many events, and workers that all have the channels: each event once a channel.
#[test]
fn several_workers_tell_each_event_once() {
    let mut service = Service::start();
    let receiver = Receiver::start();
    set_receiver(&mut service.pgseal, &receiver);
    let mail = MailServer::start(&[]);
    set_mail(&mut service.pgseal, &mail);
    service.catalog.psql(
        "INSERT INTO pgseal.events (kind, target, facts) SELECT 'backup.overdue', 'target' || n, '{}' FROM generate_series(1, 60) n",
    );
    let workers: Vec<_> = (0..3)
        .map(|n| service.worker(&format!("teller-{n}")))
        .collect();
    until("all mails", || mail.messages().len() >= 60);
    until("all webhooks", || types(&receiver.sent()).len() >= 60);
    until("the records", || waiting(&service) == "0");
    for worker in workers {
        Service::end(worker);
    }
    let sent = receiver.sent();
    let hooks = sent_to(&sent, "/hook/");
    let ids: std::collections::BTreeSet<&String> = hooks
        .iter()
        .map(|sent| &sent.headers["webhook-id"])
        .collect();
    assert_eq!(
        (hooks.len(), ids.len(), mail.messages().len()),
        (60, 60, 60)
    );
    assert_eq!(sent_to(&sent, "/chat/").len(), 60);
    assert_eq!(sent_to(&sent, "/ping/").len(), 0);
    let tries = "SELECT max(attempts) FROM pgseal.deliveries";
    assert_eq!(service.catalog.psql(tries), "1");
}

/// At least once: a worker that dies between sending and recording leaves the event to the next one, which sends it under
/// the same id, so that the receiver can tell.
#[test]
fn a_worker_killed_before_it_records_leaves_the_event_to_the_next() {
    let mut service = Service::start();
    let receiver = Receiver::start();
    set_receiver(&mut service.pgseal, &receiver);
    service
        .pgseal
        .unset("BACKUP_NOTIFY_SLACK_URL")
        .unset("BACKUP_PING_URL");
    service.catalog.psql(
        "INSERT INTO pgseal.events (kind, target, facts) VALUES ('prune.frozen', 'default', '{}')",
    );
    let arrived = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&arrived);
    // It has the message, and its answer does not come while the first worker lives.
    receiver.answers(move |_, before| {
        counted.fetch_add(1, Ordering::Relaxed);
        if before == 0 {
            std::thread::sleep(Duration::from_secs(10));
        }
        status(200)
    });
    let doomed = service.worker("doomed");
    until("the message to arrive", || {
        arrived.load(Ordering::Relaxed) == 1
    });
    doomed.signal(Signal::KILL);
    doomed.wait();
    assert_eq!(waiting(&service), "1");
    let next = service.worker("next");
    // While the dead one's lease lasts, it is its own.
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(arrived.load(Ordering::Relaxed), 1);
    service
        .catalog
        .psql("UPDATE pgseal.deliveries SET lease_until = clock_timestamp()");
    until("the event to be told", || waiting(&service) == "0");
    Service::end(next);
    let sent = receiver.sent();
    assert_eq!(sent.len(), 2);
    let [first, second] = [&sent[0], &sent[1]].map(verified);
    assert_eq!(first["id"], second["id"]);
    assert_eq!(first["data"], second["data"]);
}

/// What another program writes into a row stays inside its line of a mail.
#[test]
fn hostile_rows_are_told_in_one_line() {
    let mut service = Service::start();
    let mail = MailServer::start(&[]);
    set_mail(&mut service.pgseal, &mail);
    service.catalog.psql(
        "INSERT INTO pgseal.backups (target, kind, requested_by, status, time_limit_seconds, queue, job_id)
         VALUES (E'shop\\r\\nBcc: all@example.com\\r\\n\\r\\nbody', 'manual', 'test', 'pending', 60, 'backups', 'hostile')",
    );
    service.burst();
    let messages = mail.until_messages(1);
    let subject = "pgseal: backup of shop  Bcc: all@example.com    body FAILED at prepare";
    assert_eq!(messages[0].header("Subject"), [subject]);
    assert_eq!(messages[0].header("Bcc"), [""; 0]);
    assert_eq!(
        messages[0].0["to"],
        json!(["one@example.com", "two@example.com"])
    );
}

/// Each change of state writes its event, whoever makes it, and what is rolled back tells nothing.
#[tokio::test]
async fn every_end_of_a_job_is_an_event_of_its_own_transaction() {
    let database = Postgres::shared().create_database("outbox");
    let catalog = catalog_in(&database).await;
    let (done, manifest) = complete(&catalog, "one").await;
    let failing = catalog.request_backup(&backup_of("two")).await.unwrap();
    for _ in 0..2 {
        let lease = taken(&catalog, Task::Backup(failing.id)).await;
        let ending = Ending::Retried {
            stage: "dump".to_owned(),
            error: format!("begins\n{}\nhint: ends", "x".repeat(1 << 20)),
        };
        catalog.end(&lease, &ending).await.unwrap();
    }
    let asked = restore_of(done.id, "three", with_safety());
    let (_, safety) = catalog.request_restore(&asked).await.unwrap();
    let safety = safety.unwrap().id;
    let lease = taken(&catalog, Task::Backup(safety)).await;
    let ending = Ending::Failed {
        stage: "upload".to_owned(),
        error: "no".to_owned(),
    };
    catalog.end(&lease, &ending).await.unwrap();
    database.psql("UPDATE pgseal.backups SET proof = 'FAILED', proof_reason = 'rows differ' WHERE target = 'one'");
    database.psql("BEGIN; UPDATE pgseal.backups SET health = 'lost'; ROLLBACK");
    database.psql("UPDATE pgseal.backups SET health = 'SUSPICIOUS', health_reason = 'small' WHERE target = 'one'");
    assert_eq!(
        database.psql(
            "SELECT string_agg(target || ' ' || kind, ', ' ORDER BY target, at) FROM pgseal.events"
        ),
        "one backup.started, one backup.completed, one proof.failed, one backup.suspicious, \
         three backup.started, three restore.failed, three backup.failed, two backup.started, two backup.started, two backup.failed"
    );

    // What a worker reads of them is all that was written.
    let seen = std::sync::Mutex::new(Vec::new());
    catalog
        .route_events(|event| {
            seen.lock().unwrap().push(event.clone());
            Vec::new()
        })
        .await
        .unwrap();
    let seen = seen.into_inner().unwrap();
    let of = |kind, target: &str| {
        let found = seen
            .iter()
            .find(|event| event.kind == kind && event.target == target);
        found.unwrap().facts.clone()
    };
    let facts = of(EventKind::BackupCompleted, "one");
    assert_eq!(facts.backup_name(), Some(manifest.name.as_str()));
    assert_eq!(
        (
            facts.plain_bytes,
            facts.sealed_bytes,
            facts.rows,
            facts.tables
        ),
        (Some(1000), Some(500), Some(7), Some(1))
    );
    assert_eq!(
        (facts.database.as_deref(), facts.warnings),
        (Some("shop"), Some(1))
    );
    assert!(facts.seconds.is_some());
    let facts = of(EventKind::BackupFailed, "two");
    let error = facts.error.unwrap();
    assert!(error.starts_with("begins\n") && error.ends_with("\nhint: ends"));
    assert!(error.len() < 5000, "{}", error.len());
    assert_eq!(
        (facts.stage.as_deref(), facts.attempt),
        (Some("dump"), Some(2))
    );
    let facts = of(EventKind::RestoreFailed, "three");
    assert_eq!(
        (facts.backup_id, facts.safety_backup_id),
        (Some(done.id.get()), Some(safety.get()))
    );
    assert_eq!(
        of(EventKind::ProofFailed, "one").error.as_deref(),
        Some("rows differ")
    );

    // An event is told again only where that is wanted.
    for target in ["one", "one", "two"] {
        let held = Alert::RetentionHeld {
            target: target.to_owned(),
            reasons: vec!["a test says so".to_owned()],
        };
        catalog.record_event(&held).await.unwrap();
    }
    let told =
        "SELECT string_agg(target, ' ' ORDER BY at) FROM pgseal.events WHERE kind = 'prune.frozen'";
    assert_eq!(database.psql(told), "one two");
}

/// Row 175: whoever was told that backups fail hears when they do not any more; and nothing of those after it.
#[test]
fn whoever_heard_of_a_failure_hears_of_its_end() {
    let mut service = Service::start();
    let receiver = Receiver::start();
    set_receiver(&mut service.pgseal, &receiver);
    let chats = || -> Vec<String> {
        let sent = receiver.sent();
        let chats = sent_to(&sent, "/chat/").into_iter();
        chats.map(|chat| chat.body.clone()).collect()
    };
    let backup = |service: &Service| {
        service.enqueue_backup();
        service.burst();
    };
    backup(&service);
    assert_eq!(chats(), Vec::<String>::new());
    service.with_pg_dump("echo 'pg_dump: error: out of luck' >&2; exit 1");
    backup(&service);
    assert!(chats().last().unwrap().contains("FAILED"), "{:?}", chats());
    service.with_pg_dump("exec \"$REAL\" \"$@\"");
    backup(&service);
    let told = chats();
    assert!(told[1].contains("is complete again"), "{told:?}");
    backup(&service);
    assert_eq!(chats().len(), 2);
    let from = "SELECT string_agg(facts ->> 'recovered_from', ' ') FROM pgseal.events";
    assert_eq!(service.catalog.psql(from), "backup.failed");
}

/// Row 175: an outage is told once a day, however often a slot is missed; and a new one is news, also where the backup between
/// the two was asked for before the first was told.
#[tokio::test]
async fn an_outage_is_told_once_a_day() {
    let database = Postgres::shared().create_database("outage");
    let catalog = catalog_in(&database).await;
    let mut slot = OffsetDateTime::now_utc();
    let mut missed = async || {
        slot += Duration::from_secs(1);
        let alert = Alert::BackupOverdue {
            target: "one".to_owned(),
            slot,
            last: None,
        };
        catalog
            .note_overdue("backup:one", slot, &alert)
            .await
            .unwrap();
        database.psql("SELECT (SELECT count(*) FROM pgseal.schedule_slots WHERE overdue_at IS NOT NULL) || ' ' || count(*) \
            FROM pgseal.events WHERE kind = 'backup.overdue'")
    };
    assert_eq!(missed().await, "1 1");
    assert_eq!(missed().await, "2 1");
    let recovered = "SELECT string_agg(coalesce(facts ->> 'recovered_from', '-'), ' ' ORDER BY at) FROM pgseal.events \
        WHERE kind = 'backup.completed'";
    // One that somebody asks for says nothing about the schedule; that it was made is no end of the outage.
    complete(&catalog, "one").await;
    assert_eq!(database.psql(recovered), "-");
    assert_eq!(missed().await, "3 1");
    let asked = BackupRequested {
        kind: BackupKind::Scheduled,
        ..backup_of("one")
    };
    let row = catalog.request_backup(&asked).await.unwrap();
    let lease = taken(&catalog, Task::Backup(row.id)).await;
    database.psql("UPDATE pgseal.events SET at = clock_timestamp() WHERE kind = 'backup.overdue'");
    catalog
        .complete_backup(&lease, &manifest("one"))
        .await
        .unwrap();
    assert_eq!(database.psql(recovered), "- backup.overdue");
    assert_eq!(missed().await, "4 2");
    database.psql(
        "UPDATE pgseal.events SET at = at - interval '21 hours'; \
        UPDATE pgseal.backups SET finished_at = finished_at - interval '1 day'",
    );
    assert_eq!(missed().await, "5 3");
}

/// Row 176: that the server for drills cannot tell is said at its first backup, and again once something was proved.
#[tokio::test]
async fn that_no_drill_can_tell_is_news_once() {
    let database = Postgres::shared().create_database("cannot_tell");
    let catalog = catalog_in(&database).await;
    let (first, _) = complete(&catalog, "one").await;
    let (second, _) = complete(&catalog, "one").await;
    let judged = |id: BackupId, verdict: &str| {
        database.psql(&format!(
            "UPDATE pgseal.backups SET proof = '{verdict}', proof_at = clock_timestamp(), proof_reason = 'no such role' WHERE id = {id}"
        ));
        database.psql("SELECT count(*) FROM pgseal.events WHERE kind = 'proof.unverifiable'")
    };
    assert_eq!(judged(first.id, "UNVERIFIABLE"), "1");
    assert_eq!(judged(second.id, "UNVERIFIABLE"), "1");
    let why = catalog.unproved_because("one").await.unwrap().unwrap();
    assert!(why.contains("UNVERIFIABLE: no such role"), "{why}");
    // One that is proved, and then cannot be told again, is the only proof there was.
    assert_eq!(judged(second.id, "PROVEN"), "1");
    assert_eq!(catalog.unproved_because("one").await.unwrap(), None);
    assert_eq!(judged(second.id, "UNVERIFIABLE"), "2");
    assert_eq!(judged(first.id, "FAILED"), "2");
    assert_eq!(judged(first.id, "UNVERIFIABLE"), "2");
}

/// Of a switch's state only the newest counts, and what nobody takes for days is given up, and shown.
#[tokio::test]
async fn old_pings_are_superseded_and_old_news_given_up() {
    let database = Postgres::shared().create_database("outbox_ends");
    let catalog = catalog_in(&database).await;
    complete(&catalog, "one").await;
    let route = |channel: &str, supersedes| Route {
        channel: channel.to_owned(),
        supersedes,
    };
    let routes = |_: &pgseal::model::event::Event| vec![route("ping", true), route("email", false)];
    assert_eq!(catalog.route_events(routes).await.unwrap(), 2);
    assert_eq!(catalog.route_events(routes).await.unwrap(), 0);
    let lease = Duration::from_secs(60);
    let ping = catalog
        .claim_delivery("ping", lease)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(ping.event.kind, EventKind::BackupCompleted);
    assert_eq!(catalog.claim_delivery("ping", lease).await.unwrap(), None);
    // Whoever lost it records nothing.
    database.psql("UPDATE pgseal.deliveries SET lease_until = clock_timestamp() WHERE channel = 'ping' AND status = 'waiting'");
    let again = catalog
        .claim_delivery("ping", lease)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        catalog.not_delivered(&ping, "late").await.unwrap(),
        Failed::Lost
    );
    assert!(!catalog.delivered(&ping).await.unwrap());
    assert!(catalog.delivered(&again).await.unwrap());

    let mail = catalog
        .claim_delivery("email", lease)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        catalog.not_delivered(&mail, "no").await.unwrap(),
        Failed::Again
    );
    database.psql("UPDATE pgseal.events SET at = at - interval '4 days'; UPDATE pgseal.deliveries SET next_at = clock_timestamp()");
    for _ in 0..2 {
        let mail = catalog
            .claim_delivery("email", lease)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            catalog.not_delivered(&mail, "still no").await.unwrap(),
            Failed::GivenUp
        );
    }
    let mut pgseal = crate::harness::cli::Pgseal::new();
    pgseal.set("CATALOG_DATABASE_URL", &database.url);
    let listed = pgseal.json(&["notify", "list"]);
    let states: Vec<&Value> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|line| &line["state"])
        .collect();
    assert_eq!(states, ["given up", "given up"]);
    assert_eq!(listed[0]["error"], "still no");
    database.psql("UPDATE pgseal.events SET at = at - interval '100 days'");
    catalog.clean_outbox().await.unwrap();
    assert_eq!(catalog.undelivered(10).await.unwrap(), []);
    assert_eq!(database.psql("SELECT count(*) FROM pgseal.events"), "0");
}
