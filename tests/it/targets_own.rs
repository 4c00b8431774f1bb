//! Targets with settings of their own: schedule, retention, who hears of them, and when they are proved. What a target does not
//! say is as the service has it.

use std::os::unix::fs::PermissionsExt as _;

use pgseal::model::target::TargetName;
use serde_json::{Value, json};

use crate::harness::api::Api;
use crate::harness::cli::Pgseal;
use crate::harness::postgres::{Database, Postgres};
use crate::harness::receiver::Receiver;
use crate::harness::service::Service;
use crate::harness::{every_day, fixture};
use crate::notify::{sent_to, set_receiver};
use crate::retention::{SCHEDULED, put, runtime, stored, vault_of};

fn shop() -> Database<'static> {
    Postgres::shared().database_from("shop", &fixture("bulk.sql"), &["rows=100"])
}

/// Backups of a target, of so many days ago.
fn backups_of(pgseal: &Pgseal, target: &str, days: &[i64]) -> usize {
    runtime().block_on(async {
        let name = TargetName::parse(target).unwrap();
        let vault = vault_of(pgseal).await.of_target(&name).unwrap();
        for days in days {
            put(&vault, SCHEDULED, *days, |manifest| {
                target.clone_into(&mut manifest.target);
            })
            .await;
        }
    });
    days.len()
}

/// Writes the targets' file.
fn with_targets(pgseal: &mut Pgseal, text: &str) {
    let file = pgseal.file("targets.toml");
    std::fs::write(&file, text).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    pgseal.set("BACKUP_TARGETS_FILE", &file);
}

#[test]
fn each_target_has_its_schedule_and_its_listeners() {
    let (shop, archive) = (shop(), shop());
    let mut service = Service::start();
    let (common, own) = (Receiver::start(), Receiver::start());
    set_receiver(&mut service.pgseal, &common);
    service.pgseal.set("BACKUP_SCHEDULE", every_day());
    // No slot of it comes while the test runs.
    let far = (time::OffsetDateTime::now_utc().minute() + 30) % 60;
    let text = format!(
        "[targets.shop]\nurl = '{}'\nschedule = '{far} * * * *'\nschedule_timezone = 'Europe/Berlin'\n\
         notify_slack_url = '{}'\nping_url = '{}'\n\
         [targets.archive]\nurl = '{}'\nschedule = 'never'\n",
        shop.url,
        own.url("/chat/shop"),
        own.url("/ping/of-its-own"),
        archive.url,
    );
    with_targets(&mut service.pgseal, &text);
    let asked = service.pgseal.json(&["run-scheduled", "--enqueue"]);
    let targets: Vec<&Value> = asked
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["target"])
        .collect();
    assert_eq!(targets, ["default", "shop"], "{asked}");
    service
        .catalog
        .psql("UPDATE pgseal.schedules SET since = since - interval '2 days'");
    service.burst();
    let made = "SELECT string_agg(target || ' ' || kind || ' ' || status, ', ' ORDER BY target) FROM pgseal.backups";
    assert_eq!(
        service.catalog.psql(made),
        "default scheduled completed, shop scheduled completed"
    );

    // Each of the two pings is where its target's is; the chat hears of what fails.
    let pings = |receiver: &Receiver| {
        let sent = receiver.sent();
        let pings = sent_to(&sent, "/ping/").into_iter();
        pings.map(|sent| sent.path.clone()).collect::<Vec<_>>()
    };
    assert_eq!(pings(&common).last().unwrap(), "/ping/default");
    assert!(!pings(&common).iter().any(|path| path.contains("shop")));
    assert_eq!(pings(&own).last().unwrap(), "/ping/of-its-own");
    service.with_pg_dump("echo 'pg_dump: error: out of luck' >&2; exit 1");
    service
        .pgseal
        .ok(&["enqueue", "backup", "--target", "shop"]);
    service.burst();
    let failures = |receiver: &Receiver| {
        let sent = receiver.sent();
        let chats = sent_to(&sent, "/chat/");
        chats
            .iter()
            .filter(|chat| chat.body.contains("FAILED"))
            .count()
    };
    assert_eq!((failures(&own), failures(&common)), (1, 0));
    // Its webhook is everybody's.
    let hooks = common.sent();
    let hooks = sent_to(&hooks, "/hook/");
    assert!(hooks.iter().any(|hook| hook.body.contains("backup.failed")));
    let tested = service
        .pgseal
        .json(&["notify", "test", "--channel", "slack"]);
    let channels: Vec<&Value> = tested
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["channel"])
        .collect();
    assert_eq!(channels, ["slack", "slack:shop"]);

    // Two nights later nobody makes any: one target is overdue like the other, each by itself.
    service.catalog.psql(
        "ALTER TABLE pgseal.backups DISABLE TRIGGER USER; UPDATE pgseal.backups SET created_at = created_at - interval '2 days'; \
         ALTER TABLE pgseal.backups ENABLE TRIGGER USER; DELETE FROM pgseal.schedule_slots",
    );
    let api = Api::of(service);
    let shown = api.json(200, "GET", "/api/admin/schedules", "");
    let items = shown["items"].as_array().unwrap();
    let seen: Vec<(&Value, &Value, &Value)> = items
        .iter()
        .map(|one| (&one["target"], &one["timezone"], &one["overdue"]))
        .collect();
    let yes = json!(true);
    assert_eq!(
        seen,
        [
            (&json!("default"), &json!("UTC"), &yes),
            (&json!("shop"), &json!("Europe/Berlin"), &yes)
        ],
        "{shown}"
    );
    let metrics = api.ask("GET", "/metrics", "").text();
    for target in ["default", "shop"] {
        let line = format!("pgseal_backup_overdue{{target=\"{target}\"}} 1");
        assert!(metrics.contains(&line), "{metrics}");
    }
    assert!(!metrics.contains("pgseal_backup_overdue{target=\"archive\"}"));
    let events = "SELECT string_agg(DISTINCT target, ' ' ORDER BY target) FROM pgseal.events WHERE kind = 'backup.overdue'";
    assert_eq!(api.service.catalog.psql(events), "default shop");
}

#[test]
fn each_target_is_pruned_by_its_own_rules() {
    let mut pgseal = Pgseal::new();
    let url = "postgres://nobody@127.0.0.1:1/x";
    pgseal.set("DATABASE_URL", url);
    with_targets(
        &mut pgseal,
        &format!(
            "[targets.long]\nurl = '{url}'\nretention_days = 100\n[targets.short]\nurl = '{url}'\nkeep_last = 1\n"
        ),
    );
    let ages = [60, 20, 10, 0];
    let count = |pgseal: &Pgseal, target: &str| {
        let prefix = format!("backups/prod/{target}/");
        let stored = pgseal.stored();
        let dumps = stored.iter().filter(|path| path.ends_with(".dump.gpg"));
        dumps.filter(|path| path.starts_with(&prefix)).count()
    };
    for target in ["long", "short"] {
        backups_of(&pgseal, target, &ages);
    }
    let of_default = backups_of(&pgseal, "default", &ages);
    let plan = pgseal.json(&["prune", "--plan", "--store-only"]);
    let due = |target: &str| {
        let of = plan
            .as_array()
            .unwrap()
            .iter()
            .find(|one| one["target"] == target);
        let decisions = of.unwrap()["decisions"].as_array().unwrap();
        decisions
            .iter()
            .filter(|one| one["verdict"] == "delete")
            .count()
    };
    // `keep_last` of one's own takes the place of the days that are kept where nothing is said.
    assert_eq!(
        [due("default"), due("long"), due("short")],
        [1, 0, 3],
        "{plan}"
    );

    // Rules that are typed are those of every target.
    let typed = pgseal.json(&["prune", "--plan", "--store-only", "--keep-last", "3"]);
    let typed = typed.as_array().unwrap().iter().map(|one| {
        let decisions = one["decisions"].as_array().unwrap();
        decisions
            .iter()
            .filter(|one| one["verdict"] == "delete")
            .count()
    });
    assert_eq!(typed.collect::<Vec<_>>(), [1, 1, 1]);

    pgseal.ok(&["prune", "--store-only", "--many"]);
    assert_eq!([count(&pgseal, "long"), count(&pgseal, "short")], [4, 1]);
    assert_eq!(stored(&pgseal).len(), 4 + 1 + of_default - 1);
}

#[test]
fn what_no_target_has_is_refused_with_what_there_is() {
    let mut pgseal = Pgseal::new();
    let url = "url = 'postgres://nobody@127.0.0.1:1/dummy-canary'\n";
    for (line, what) in [
        (
            "cadence = '0 2 * * *'",
            "url, url_file, schedule, schedule_timezone, overdue_minutes",
        ),
        ("dummy-canary = [1]", "there are url, url_file"),
        ("schedule = '0 2 * *'", "schedule is no cron expression"),
        (
            "drill_schedule = 'dummy-canary'",
            "drill_schedule is no cron expression",
        ),
        (
            "schedule_timezone = 'dummy-canary'",
            "schedule_timezone is no time zone",
        ),
        (
            "keep_daily = 'dummy-canary'",
            "keep_daily of target shop is none",
        ),
        ("keep_daily = true", "keep_daily of target shop is no text"),
        ("overdue_minutes = 0", "no whole number from 1 to 43200"),
        ("proof_max_age_days = -3", "no whole number"),
        (
            "notify_webhook_secret = 'dummy-canary'",
            "notify_webhook_url is not",
        ),
        (
            "ping_url = 'https://a'\nping_url_file = '/x'",
            "ping_url and ping_url_file are both set",
        ),
    ] {
        with_targets(&mut pgseal, &format!("[targets.shop]\n{url}{line}\n"));
        let said = pgseal.fails(5, &["list"]);
        assert!(said.contains(what), "{line}: {said}");
        assert!(!said.contains("dummy-canary"), "{said}");
    }
    // An address is read where somebody is told.
    with_targets(
        &mut pgseal,
        &format!("[targets.shop]\n{url}ping_url = 'nonsense:dummy-canary'\n"),
    );
    let said = pgseal.fails(5, &["notify", "test"]);
    assert!(said.contains("read ping_url of target shop"), "{said}");
    assert!(!said.contains("dummy-canary"), "{said}");
}

/// A switch that two share is quiet as long as one of them is backed up.
#[test]
fn a_switch_of_several_targets_is_named() {
    let mut pgseal = Pgseal::new();
    let url = "postgres://nobody@127.0.0.1:1/x";
    pgseal.set("DATABASE_URL", url);
    let shared = |pgseal: &Pgseal| {
        let found = pgseal.run(&["doctor"]);
        String::from_utf8_lossy(&found.stdout).contains("put {target} into BACKUP_PING_URL")
    };
    let targets = format!("[targets.shop]\nurl = '{url}'\n");
    pgseal.set("BACKUP_PING_URL", "http://127.0.0.1:1/switch");
    assert!(!shared(&pgseal), "there is one target");
    with_targets(&mut pgseal, &targets);
    assert!(shared(&pgseal));
    with_targets(
        &mut pgseal,
        &format!("{targets}ping_url = 'http://127.0.0.1:1/shop'\n"),
    );
    assert!(!shared(&pgseal));
    with_targets(&mut pgseal, &targets);
    pgseal.set("BACKUP_PING_URL", "http://127.0.0.1:1/{target}");
    assert!(!shared(&pgseal));
}

/// A timer without a service goes over all targets, and one that fails keeps no other from its backup.
#[test]
fn a_timer_backs_up_every_target() {
    let (first, second) = (shop(), shop());
    let mut pgseal = Pgseal::new();
    let receiver = Receiver::start();
    set_receiver(&mut pgseal, &receiver);
    pgseal.set("DATABASE_URL", &first.url);
    with_targets(
        &mut pgseal,
        &format!(
            "[targets.broken]\nurl = 'postgres://nobody@127.0.0.1:1/x'\nschedule = '{due}'\n\
             [targets.second]\nurl = '{}'\nschedule = '{due}'\n",
            second.url,
            due = every_day()
        ),
    );
    pgseal.set("BACKUP_SCHEDULE", "never");
    let run = pgseal.run(&["run-scheduled", "--json"]);
    assert_eq!(run.code, 5, "{run}");
    let ran: Value = serde_json::from_slice(&run.stdout).unwrap();
    let seen: Vec<(&Value, &Value)> = ran
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (&one["target"], &one["outcome"]))
        .collect();
    assert_eq!(
        seen,
        [
            (&json!("broken"), &json!("failed")),
            (&json!("second"), &json!("made"))
        ]
    );
    let sent = receiver.sent();
    let pings: Vec<&str> = sent_to(&sent, "/ping/")
        .iter()
        .map(|sent| sent.path.as_str())
        .collect();
    assert!(
        pings.contains(&"/ping/broken/fail") && pings.contains(&"/ping/second"),
        "{pings:?}"
    );
    let again = pgseal.json(&["run-scheduled", "--target", "second"]);
    assert_eq!(again["outcome"], "was made");
}
