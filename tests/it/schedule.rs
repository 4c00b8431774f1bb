//! What is due by a schedule: once, whoever looks, and said where nothing comes of it.

use std::time::Duration;

use serde_json::Value;

use crate::harness::api::Api;
use crate::harness::cli::Pgseal;
use crate::harness::postgres::Postgres;
use crate::harness::receiver::Receiver;
use crate::harness::service::Service;
use crate::harness::somebody::until;
use crate::harness::{every_day, fixture};
use crate::notify::{sent_to, set_receiver};

/// A service with a schedule that was first seen two days ago, and whose slots all came to nothing.
fn overdue_service() -> Service {
    let mut service = Service::start();
    service.pgseal.set("BACKUP_SCHEDULE", every_day());
    let first = service.pgseal.json(&["run-scheduled", "--enqueue"]);
    assert_eq!(
        first["outcome"], "nothing due",
        "a schedule of this minute owes nothing"
    );
    service
        .catalog
        .psql("UPDATE pgseal.schedules SET since = since - interval '2 days'");
    service
}

/// Rows 49 and 50: schedulers that look at once, with clocks that are a day apart, make one backup of a slot.
#[test]
fn a_slot_is_one_backup_whoever_looks() {
    let mut service = overdue_service();
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
    let made = "SELECT count(*) || ' ' || min(status) FROM pgseal.backups WHERE kind = 'scheduled'";
    assert_eq!(service.catalog.psql(made), "1 completed");
    // Two days were missed, and made up for once.
    assert_eq!(
        service
            .catalog
            .psql("SELECT count(*) FROM pgseal.schedule_slots"),
        "1"
    );
    let again = service.pgseal.json(&["run-scheduled", "--enqueue"]);
    assert_eq!(again["outcome"], "was asked for");
    service.burst();
    assert_eq!(service.catalog.psql(made), "1 completed");
    assert_eq!(service.listed().len(), 1);
}

/// Row 50: a slot that a clock noted when it was ahead does not hide the one that comes.
#[test]
fn a_slot_of_the_future_is_forgotten() {
    let service = overdue_service();
    service.catalog.psql(
        "INSERT INTO pgseal.schedule_slots (schedule, slot, backup_id) VALUES ('backup:default', now() + interval '1 day', 7)",
    );
    let asked = service.pgseal.json(&["run-scheduled", "--enqueue"]);
    assert_eq!(asked["outcome"], "asked for");
    assert_eq!(
        service
            .catalog
            .psql("SELECT count(*) FROM pgseal.schedule_slots WHERE slot > now()"),
        "0"
    );
}

#[test]
fn workers_keep_the_schedule_by_themselves() {
    let service = overdue_service();
    let workers = ["one", "two", "three"].map(|name| service.worker(name));
    let made = || {
        service.catalog.psql(
            "SELECT count(*) FROM pgseal.backups WHERE kind = 'scheduled' AND status = 'completed'",
        )
    };
    until("the backup of the schedule", || made() == "1");
    // Each looks every five seconds; nobody finds anything more to do.
    std::thread::sleep(std::time::Duration::from_secs(6));
    assert_eq!(
        service.catalog.psql("SELECT count(*) FROM pgseal.backups"),
        "1"
    );
    for worker in workers {
        Service::end(worker);
    }
}

#[test]
fn a_busy_target_s_slot_waits() {
    let service = overdue_service();
    service.enqueue_backup();
    let asked = service.pgseal.json(&["run-scheduled", "--enqueue"]);
    assert_eq!(asked["outcome"], "waits");
    assert_eq!(
        service.catalog.psql("SELECT count(*) FROM pgseal.backups"),
        "1"
    );
    service.burst();
    // Whoever looks next finds it, as a worker does when it starts.
    service.burst();
    let kinds = "SELECT string_agg(kind || ' ' || status, ', ' ORDER BY id) FROM pgseal.backups";
    assert_eq!(
        service.catalog.psql(kinds),
        "manual completed, scheduled completed"
    );
}

/// Row 136: no worker runs. The API says so, the metrics do, and it is an event, once.
#[test]
fn a_schedule_that_produces_nothing_is_overdue() {
    let mut api = Api::of(overdue_service());
    let shown = api.json(200, "GET", "/api/admin/schedules", "");
    let schedule = &shown["items"][0];
    assert_eq!(schedule["overdue"], true, "{shown}");
    assert_eq!(schedule["timezone"], "UTC");
    let metrics = api.ask("GET", "/metrics", "").text();
    assert!(
        metrics.contains("pgseal_backup_overdue{target=\"default\"} 1"),
        "{metrics}"
    );
    let noted = "SELECT count(*) FROM pgseal.schedule_slots WHERE overdue_at IS NOT NULL";
    assert_eq!(api.service.catalog.psql(noted), "1");

    // A worker comes back, makes up for it, and it is over.
    api.service.burst();
    let shown = api.json(200, "GET", "/api/admin/schedules", "");
    assert_eq!(shown["items"][0]["overdue"], false, "{shown}");
    let run = api.stop();
    assert_eq!(
        run.stderr.matches("backup_overdue").count(),
        1,
        "{}",
        run.stderr
    );
}

/// Row 136: no worker runs, and whoever is to hear of it does: the API sends it, where it has the channels.
#[test]
fn an_overdue_backup_is_told_where_no_worker_runs() {
    let receiver = Receiver::start();
    let mut service = overdue_service();
    set_receiver(&mut service.pgseal, &receiver);
    let mut api = Api::of(service);
    api.json(200, "GET", "/api/admin/schedules", "");
    let chats = || {
        let sent = receiver.sent();
        let chats = sent_to(&sent, "/chat/").into_iter();
        chats.map(|chat| chat.body.clone()).collect::<Vec<_>>()
    };
    until("somebody to hear of it", || !chats().is_empty());
    assert!(chats()[0].contains("is OVERDUE"), "{:?}", chats());
    let waiting = "SELECT count(*) FROM pgseal.deliveries WHERE status <> 'sent'";
    until("it to be recorded", || {
        api.service.catalog.psql(waiting) == "0"
    });
    let run = api.stop();
    assert_eq!(run.code, 0, "{run}");

    // One without channels leaves what happens to those that have some.
    for name in [
        "BACKUP_NOTIFY_WEBHOOK_URL",
        "BACKUP_NOTIFY_WEBHOOK_SECRET",
        "BACKUP_NOTIFY_SLACK_URL",
        "BACKUP_PING_URL",
    ] {
        api.service.pgseal.unset(name);
    }
    api.service
        .catalog
        .psql("UPDATE pgseal.events SET routed_at = NULL; DELETE FROM pgseal.deliveries");
    api.run();
    std::thread::sleep(Duration::from_secs(5));
    let unrouted = "SELECT count(*) FROM pgseal.events WHERE routed_at IS NULL";
    assert_eq!(api.service.catalog.psql(unrouted), "1");
}

/// Row 136: whoever fails, or is killed, between finding it and telling of it keeps nobody else from telling.
#[test]
fn what_one_could_not_tell_is_told_by_the_next() {
    let mut service = overdue_service();
    service.pgseal.set("BACKUP_PROOF_MAX_AGE_DAYS", "1").set(
        "BACKUP_DRILL_DATABASE_URL",
        Postgres::shared().url("postgres"),
    );
    let api = Api::of(service);
    let look = || api.ask("GET", "/api/admin/schedules", "").status;
    assert_eq!(look(), 200);
    let sql = |sql: &str| api.service.catalog.psql(sql);
    sql(
        "DELETE FROM pgseal.events; UPDATE pgseal.schedule_slots SET overdue_at = NULL; \
         UPDATE pgseal.schedules SET since = since - interval '9 days'; \
         CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'no room for an event'; END$$; \
         CREATE TRIGGER refuse BEFORE INSERT ON pgseal.events FOR EACH ROW EXECUTE FUNCTION refuse()",
    );
    assert_ne!(look(), 200);
    sql("DROP TRIGGER refuse ON pgseal.events");
    let told = "SELECT string_agg(kind, ', ' ORDER BY kind) FROM pgseal.events";
    assert_eq!(sql(told), "");
    for _ in 0..2 {
        assert_eq!(look(), 200);
        assert_eq!(sql(told), "backup.overdue, proof.overdue");
    }
}

/// What a clock made that was ahead stands for a slot that is to come, and not for every one until then.
#[test]
fn a_backup_of_a_clock_that_was_ahead_is_not_the_one_of_this_slot() {
    let database = Postgres::shared().database_from("ahead", &fixture("bulk.sql"), &["rows=100"]);
    let mut pgseal = Pgseal::new();
    pgseal
        .set("DATABASE_URL", &database.url)
        .set("BACKUP_SCHEDULE", every_day())
        .with_clock("+3d");
    assert_eq!(pgseal.json(&["run-scheduled"])["outcome"], "made");
    pgseal.unset("LD_PRELOAD");
    let made = pgseal.json(&["run-scheduled"]);
    assert_eq!(made["outcome"], "made");
    let again = pgseal.json(&["run-scheduled"]);
    assert_eq!(
        (&again["outcome"], &again["name"]),
        (&"was made".into(), &made["name"])
    );
}

/// For platforms with timers of their own: the work itself, on the store alone.
#[test]
fn a_timer_makes_one_backup_for_a_slot() {
    let database = Postgres::shared().database_from("timed", &fixture("bulk.sql"), &["rows=100"]);
    let mut pgseal = Pgseal::new();
    pgseal
        .set("DATABASE_URL", &database.url)
        .set("BACKUP_SCHEDULE", every_day());
    pgseal.set("BACKUP_SCHEDULE_TIMEZONE", "Europe/Berlin");
    let made = pgseal.json(&["run-scheduled"]);
    assert_eq!(made["outcome"], "made");
    let again = pgseal.json(&["run-scheduled"]);
    assert_eq!(
        (&again["outcome"], &again["name"]),
        (&"was made".into(), &made["name"])
    );
    let shown = pgseal.json(&["show", "latest"]);
    assert_eq!(
        (&shown["kind"], &shown["labels"]["slot"]),
        (&"scheduled".into(), &made["slot"])
    );
    assert_eq!(pgseal.json(&["list"]).as_array().unwrap().len(), 1);
    assert!(!pgseal.run(&["list"]).stderr.contains("OVERDUE"));

    // Three days later nobody made one, and listing says so.
    pgseal.with_clock("+3d");
    let listed = pgseal.run(&["list"]);
    assert!(listed.stderr.contains("OVERDUE"), "{listed}");
    pgseal.set("BACKUP_SCHEDULE", "15 3 * *");
    pgseal.fails(5, &["list"]);
}
