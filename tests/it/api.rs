//! The API from request to end: with a real catalog, Redis, store and worker.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::api::Api;
use crate::harness::equality::{Content, assert_same};
use crate::harness::postgres::Postgres;
use crate::harness::service::Service;

pub const BACKUPS: &str = "/api/admin/backups";

pub fn at(id: i64, rest: &str) -> String {
    format!("{BACKUPS}/{id}{rest}")
}

/// A complete backup, by its number.
pub fn made(api: &Api) -> i64 {
    let made = api.json(202, "POST", BACKUPS, "");
    api.service.burst();
    made["id"].as_i64().unwrap()
}

fn outcomes(api: &Api, action: &str) -> Vec<String> {
    let sql = format!("SELECT outcome FROM pgseal.audit WHERE action = '{action}' ORDER BY id");
    let lines = api.service.catalog.psql(&sql);
    lines.lines().map(str::to_owned).collect()
}

#[test]
fn a_backup_is_asked_for_followed_and_deleted() {
    let api = Api::start();
    let empty = api.json(200, "GET", BACKUPS, "");
    assert_eq!(empty["total"], 0);
    assert_eq!(empty["links"]["next"], Value::Null);

    let answer = api.ask("POST", BACKUPS, r#"{"labels": {"why": "test"}}"#);
    assert_eq!(answer.status, 202, "{answer}");
    let asked = answer.json();
    let id = asked["id"].as_i64().unwrap();
    assert_eq!(answer.header("location"), Some(at(id, "").as_str()));
    assert_eq!(
        (&asked["status"], &asked["requested_by"]),
        (&json!("pending"), &json!("tester"))
    );
    let status = api.json(200, "GET", &at(id, "/status"), "");
    assert_eq!(
        (&status["status"], &status["queue_position"]),
        (&json!("pending"), &json!(0))
    );
    let busy = api.problem(409, "target_busy", ("POST", BACKUPS, ""));
    assert_eq!(
        busy["active"],
        json!({"type": "backup", "id": id, "status": "pending"})
    );
    api.problem(409, "backup_active", ("DELETE", &at(id, ""), ""));
    api.problem(
        409,
        "backup_not_complete",
        ("GET", &at(id, "/download"), ""),
    );

    api.service.burst();
    let shown = api.service.pgseal.json(&["show", "latest"]);
    let done = api.json(200, "GET", &at(id, ""), "");
    assert_eq!(done["status"], "completed");
    assert_eq!(done["checksum"], shown["sealed_sha256"]);
    assert_eq!(done["size"], shown["sealed_bytes"]);
    assert_eq!(done["storage_key"], shown["object_key"]);
    assert_eq!(done["labels"], json!({"why": "test"}));
    let metrics = api.bare("GET", "/metrics", &[], "").text();
    assert!(
        metrics.contains(r#"pgseal_last_success_age_seconds{target="default",database="#),
        "{metrics}"
    );
    assert!(metrics.contains("pgseal_queue_jobs 0\n"), "{metrics}");

    api.problem(409, "last_good_backup", ("DELETE", &at(id, ""), ""));
    let answer = api.ask("DELETE", &at(id, "?force=true"), "");
    assert_eq!(answer.status, 204, "{answer}");
    api.problem(404, "backup_not_found", ("GET", &at(id, ""), ""));
    assert_eq!(api.service.listed(), Vec::<String>::new());
    assert_eq!(api.service.pgseal.stored(), Vec::<String>::new());
    assert_eq!(outcomes(&api, "backup.create"), ["accepted", "target_busy"]);
    assert_eq!(
        outcomes(&api, "backup.delete"),
        ["backup_active", "last_good_backup", "begun", "done"]
    );
}

#[test]
fn lists_are_filtered_and_paged() {
    let api = Api::start();
    api.service.catalog.psql(
        "INSERT INTO pgseal.backups (target, kind, origin, requested_by, status, error, error_stage, database, created_at)
         SELECT 'default', CASE WHEN n % 2 = 0 THEN 'manual' ELSE 'scheduled' END, 'adopted', 'test', 'failed', 'x', 'dump',
            CASE WHEN n <= 10 THEN 'shop' ELSE 'b&c ü' END, timestamptz '2026-01-01 00:00Z' + n * interval '1 hour'
         FROM generate_series(1, 45) n",
    );
    let ids = |list: &Value| -> Vec<i64> {
        list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["id"].as_i64().unwrap())
            .collect()
    };
    let first = api.json(200, "GET", BACKUPS, "");
    assert_eq!(
        (ids(&first)[0], ids(&first).len(), &first["total"]),
        (45, 20, &json!(45))
    );
    // Following the links passes everything once.
    let (mut seen, mut next) = (Vec::new(), Some(format!("{BACKUPS}?per_page=7")));
    while let Some(path) = next {
        let page = api.json(200, "GET", &path, "");
        seen.extend(ids(&page));
        next = page["links"]["next"].as_str().map(str::to_owned);
    }
    assert_eq!(seen, (1..=45).rev().collect::<Vec<_>>());
    let total =
        |query: &str| api.json(200, "GET", &format!("{BACKUPS}?{query}"), "")["total"].clone();
    assert_eq!(total("kind=manual"), 22);
    assert_eq!(total("kind=pre_restore"), 0);
    assert_eq!(total("status=failed&database=shop"), 10);
    assert_eq!(total("status=completed"), 0);
    assert_eq!(
        total("from=2026-01-01T05:00:00Z&until=2026-01-01T08:00:00Z"),
        3
    );
    let odd = api.json(
        200,
        "GET",
        &format!("{BACKUPS}?database=b%26c%20%C3%BC&per_page=30"),
        "",
    );
    assert_eq!(odd["total"], 35);
    let next = odd["links"]["next"].as_str().unwrap();
    assert_eq!(ids(&api.json(200, "GET", next, "")).len(), 5);
    // Beyond the end there is nothing, and the way back.
    let beyond = api.json(200, "GET", &format!("{BACKUPS}?page=1000000"), "");
    assert_eq!(
        (ids(&beyond).len(), &beyond["links"]["prev"]),
        (0, &json!("/api/admin/backups?page=3&per_page=20"))
    );
}

#[test]
fn a_restore_without_a_body_brings_everything_back_and_is_undone() {
    let api = Api::start();
    let server = Postgres::shared();
    let database = &api.service.database;
    let first = Content::of(server, &database.name);
    let id = made(&api);
    database.psql("UPDATE customers SET name = 'gone'");
    let second = Content::of(server, &database.name);

    // Exactly what the clients of the service before send.
    let answer = api.raw(
        format!(
            "POST {} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {}\r\nContent-Length: 0\r\n\r\n",
            at(id, "/restore"),
            api.token
        )
        .as_bytes(),
    );
    assert_eq!(answer.status, 202, "{answer}");
    let asked = answer.json();
    let location = answer.header("location").unwrap().to_owned();
    assert_eq!(
        (&asked["status"], &asked["mode"]),
        (&json!("waiting"), &json!("auto"))
    );
    let safety = asked["safety_backup_id"].as_i64().unwrap();
    api.problem(409, "backup_needed", ("DELETE", &at(id, "?force=true"), ""));
    api.problem(
        409,
        "rollback_impossible",
        ("POST", &format!("{location}/rollback"), ""),
    );
    api.service.burst();
    let restored = api.json(200, "GET", &location, "");
    assert_eq!(restored["status"], "completed", "{restored}");
    assert_same(&first, &Content::of(server, &database.name));
    assert_eq!(
        api.json(200, "GET", &at(safety, ""), "")["kind"],
        "pre_restore"
    );

    let undone = api.json(202, "POST", &format!("{location}/rollback"), "");
    // Nothing spoke against a swap, so what was there is beside it and comes back by its name.
    assert_eq!(
        (&undone["mode"], &undone["undoes"]),
        (&json!("rollback"), &restored["id"])
    );
    api.service.burst();
    assert_same(&second, &Content::of(server, &database.name));
    let list = api.json(
        200,
        "GET",
        &format!("{BACKUPS}/restores?status=completed"),
        "",
    );
    assert_eq!(list["total"], 2);
    let of_one = api.json(
        200,
        "GET",
        &format!("{BACKUPS}/restores?backup_id={id}"),
        "",
    );
    assert_eq!(of_one["items"][1]["id"], restored["id"]);
    // What was restored stays recorded when the backup is gone.
    let restore_id = restored["id"].as_i64().unwrap();
    assert_eq!(api.ask("DELETE", &at(id, "?force=true"), "").status, 204);
    assert_eq!(api.service.restore(restore_id, "backup_id"), id.to_string());
    assert_eq!(api.ask("GET", &location, "").status, 200);
}

#[test]
fn a_request_that_is_sent_twice_is_one_backup() {
    let api = Api::start();
    let send = |key: &str, body: &str| api.with("POST", BACKUPS, &[("Idempotency-Key", key)], body);
    let first = send("one", "{}");
    assert_eq!(first.status, 202, "{first}");
    let again = send("one", "");
    assert_eq!(again.status, 202, "{again}");
    assert_eq!(first.json()["id"], again.json()["id"]);
    assert_eq!(first.header("location"), again.header("location"));
    send("one", r#"{"labels": {"a": "b"}}"#).is_problem(422, "idempotency_key_reused");
    send("two", "").is_problem(409, "target_busy");
    api.service.burst();
    assert_eq!(send("one", "").json()["status"], "completed");
    assert_eq!(
        api.service
            .catalog
            .psql("SELECT count(*) FROM pgseal.backups"),
        "1"
    );
    for key in ["", "\u{e4}", &"x".repeat(256)] {
        send(key, "").is_problem(400, "invalid_request");
    }
    // Somebody else's key is another one.
    api.service
        .catalog
        .psql("UPDATE pgseal.idempotency_keys SET subject = 'other'");
    let other = send("one", "");
    assert_ne!(other.json()["id"], first.json()["id"]);
}

#[test]
fn progress_is_streamed_until_the_end() {
    let (service, gate) = Service::with_gate();
    let api = Api::of(service);
    let id = api.json(202, "POST", BACKUPS, "")["id"].as_i64().unwrap();
    let mut stream = api.connect();
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n",
        at(id, "/events"),
        api.token
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    let mut next = || -> (String, Value) {
        let event = lines.find(|line| line.starts_with("event: ")).unwrap();
        let data = lines.find(|line| line.starts_with("data: ")).unwrap();
        let data = serde_json::from_str(&data["data: ".len()..]).unwrap();
        (event["event: ".len()..].to_owned(), data)
    };
    let (event, status) = next();
    assert_eq!(
        (event.as_str(), &status["status"]),
        ("progress", &json!("pending"))
    );
    let worker = api.service.worker("one");
    gate.until_somebody_waits();
    while next().1["status"] != "running" {}
    gate.open();
    let last = loop {
        let (event, status) = next();
        if event == "end" {
            break status;
        }
        assert_eq!(status["status"], "running");
    };
    assert_eq!(
        (&last["status"], &last["id"]),
        (&json!("completed"), &json!(id))
    );
    worker.signal(rustix::process::Signal::TERM);
    assert_eq!(worker.wait().code, 0);
}

#[test]
fn a_running_backup_is_cancelled_and_a_damaged_one_is_found() {
    let (service, gate) = Service::with_gate();
    let api = Api::of(service);
    let id = api.json(202, "POST", BACKUPS, "")["id"].as_i64().unwrap();
    let worker = api.service.worker("one");
    gate.until_somebody_waits();
    let asked = api.json(202, "POST", &at(id, "/cancel"), "");
    assert_eq!(
        (&asked["status"], &asked["cancel_requested"]),
        (&json!("running"), &json!(true))
    );
    api.service.until_backup(id, "cancelled");
    api.problem(409, "already_ended", ("POST", &at(id, "/cancel"), ""));
    assert_eq!(api.ask("DELETE", &at(id, ""), "").status, 204);

    gate.open();
    let id = api.json(202, "POST", BACKUPS, "")["id"].as_i64().unwrap();
    api.service.until_backup(id, "completed");
    let verify = |health: &str| {
        let job = api.json(202, "POST", &at(id, "/verify"), "")["job_id"].clone();
        let ended = if health == "ok" { "finished" } else { "failed" };
        api.service.until_job(job.as_str().unwrap(), ended);
        assert_eq!(api.json(200, "GET", &at(id, ""), "")["health"], health);
    };
    verify("ok");
    let key = api.service.backup(id, "object_key");
    let path = api.service.pgseal.store().join(key);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    verify("CORRUPT");
    api.problem(
        409,
        "backup_not_restorable",
        ("POST", &at(id, "/restore"), ""),
    );
    worker.signal(rustix::process::Signal::TERM);
    assert_eq!(worker.wait().code, 0);
}

/// Row 115: administrators alone get the sealed object, from this process alone, and each time is recorded.

#[test]
fn the_audit_says_who_did_what_and_only_grows() {
    let api = Api::start();
    let id = made(&api);
    api.problem(409, "last_good_backup", ("DELETE", &at(id, ""), ""));
    let audit = api.json(200, "GET", "/api/admin/audit", "");
    assert_eq!(audit["total"], 2);
    let newest = &audit["items"][0];
    assert_eq!(newest["subject"], "tester");
    assert_eq!(newest["action"], "backup.delete");
    assert_eq!(newest["backup_id"], id);
    assert_eq!(newest["origin"], "127.0.0.1");
    assert_eq!(newest["outcome"], "last_good_backup");
    let filtered = api.json(
        200,
        "GET",
        "/api/admin/audit?action=backup.create&subject=tester",
        "",
    );
    assert_eq!(filtered["total"], 1);
    for sql in [
        "UPDATE pgseal.audit SET subject = 'x'",
        "DELETE FROM pgseal.audit",
        "TRUNCATE pgseal.audit",
    ] {
        let refused = api.service.catalog.psql(&format!(
            "DO $$ BEGIN {sql}; RAISE 'it was done'; EXCEPTION WHEN restrict_violation THEN NULL; END $$; SELECT count(*) FROM pgseal.audit"
        ));
        assert_eq!(refused.lines().last(), Some("2"), "{sql}");
    }
}

#[test]
fn what_is_away_is_named_and_a_request_is_taken_without_redis() {
    let api = Api::start();
    let ready = || api.bare("GET", "/readyz", &[], "");
    assert_eq!(
        ready().json(),
        json!({"status": "ready", "catalog": "ok", "redis": "ok", "store": "ok"})
    );
    api.service.redis.kill();
    crate::harness::somebody::until("Redis to be away", || ready().json()["redis"] == "away");
    assert_eq!(ready().status, 503);
    assert_eq!(api.bare("GET", "/healthz", &[], "").status, 200);
    let id = api.json(202, "POST", BACKUPS, "")["id"].as_i64().unwrap();
    assert_eq!(
        api.json(200, "GET", &at(id, "/status"), "")["queue_position"],
        Value::Null
    );
    assert!(
        !api.bare("GET", "/metrics", &[], "")
            .text()
            .contains("\npgseal_queue_jobs ")
    );
    api.service.redis.run();
    // A worker finds the row, and makes the job that Redis never had.
    let worker = api.service.worker("later");
    api.service.until_backup(id, "completed");
    worker.signal(rustix::process::Signal::TERM);
    assert_eq!(worker.wait().code, 0);
}

/// Row 178: who watches the service sees that its catalog is away, and not that the service is.
#[test]
fn metrics_are_there_without_the_catalog() {
    let api = Api::start();
    let metrics = || api.bare("GET", "/metrics", &[], "");
    let service = &api.service;
    let name = &service.catalog.name;
    let server = Postgres::shared();
    let allow = |so: bool| {
        server.psql(
            "postgres",
            &format!("ALTER DATABASE {name} ALLOW_CONNECTIONS {so}"),
        );
        server.psql(
            "postgres",
            &format!(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
            ),
        );
    };
    allow(false);
    crate::harness::somebody::until("the catalog to be away", || {
        metrics().text().contains("\npgseal_catalog_up 0\n")
    });
    let away = metrics();
    assert_eq!(away.status, 200);
    let text = away.text();
    assert!(text.contains("\npgseal_queue_jobs 0\n"), "{text}");
    assert!(!text.contains("pgseal_backups"), "{text}");
    allow(true);
    crate::harness::somebody::until("the catalog to be back", || {
        let text = metrics().text();
        text.contains("\npgseal_catalog_up 1\n") && text.contains("pgseal_backups")
    });
}

#[test]
fn pages_of_other_origins_are_let_in_only_where_configured() {
    let mut api = Api::start();
    let preflight = [
        ("Origin", "https://admin.example"),
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "authorization"),
    ];
    let answer = api.bare("OPTIONS", BACKUPS, &preflight, "");
    assert_eq!(
        (answer.status, answer.header("access-control-allow-origin")),
        (401, None)
    );
    api.stop();
    api.service.pgseal.set(
        "BACKUP_CORS_ORIGINS",
        "https://admin.example,https://other.example",
    );
    api.run();
    let answer = api.bare("OPTIONS", BACKUPS, &preflight, "");
    assert_eq!(
        (answer.status, answer.header("access-control-allow-origin")),
        (200, Some("https://admin.example"))
    );
    let problem = api.bare("GET", BACKUPS, &[("Origin", "https://admin.example")], "");
    problem.is_problem(401, "unauthorized");
    assert_eq!(
        problem.header("access-control-allow-origin"),
        Some("https://admin.example")
    );
    let stranger = api.bare("GET", BACKUPS, &[("Origin", "https://evil.example")], "");
    assert_eq!(stranger.header("access-control-allow-origin"), None);
}

#[test]
fn it_ends_in_order_and_lets_streams_go() {
    let mut api = Api::start();
    let id = api.json(202, "POST", BACKUPS, "")["id"].as_i64().unwrap();
    let mut stream = api.connect();
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n",
        at(id, "/events"),
        api.token
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut lines = BufReader::new(stream).lines();
    lines
        .find(|line| line.as_ref().unwrap().starts_with("data: "))
        .unwrap()
        .unwrap();
    let started = std::time::Instant::now();
    let run = api.stop();
    assert_eq!(run.code, 0, "{run}");
    assert!(started.elapsed().as_secs() < 8, "{run}");
    // The stream ended as one that is over, not as one that was cut.
    assert_eq!(lines.map(Result::unwrap).last().as_deref(), Some(""));
    assert!(
        String::from_utf8_lossy(&run.stdout).contains(&format!("http://127.0.0.1:{}", api.port))
    );
}

#[test]
fn it_does_not_start_on_what_cannot_work() {
    let mut service = Service::start();
    let refused = |pgseal: &crate::harness::cli::Pgseal, said: &str| {
        let error = pgseal.fails(5, &["serve", "--listen", "127.0.0.1:0"]);
        assert!(error.contains(said), "{error}");
    };
    refused(&service.pgseal, "JWT_SECRET is not set");
    service.pgseal.set("JWT_SECRET", "too-short");
    refused(&service.pgseal, "fewer than 32 bytes");
    service
        .pgseal
        .set("JWT_SECRET", "x".repeat(32))
        .set("JWT_ALGORITHM", "RS256");
    refused(&service.pgseal, "needs a public key");
    service
        .pgseal
        .unset("JWT_ALGORITHM")
        .set("JWT_PUBLIC_KEY", "-----BEGIN PUBLIC KEY-----");
    refused(&service.pgseal, "JWT_PUBLIC_KEY is set");
    service
        .pgseal
        .unset("JWT_PUBLIC_KEY")
        .set("JWT_SECRETS", "typo");
    refused(&service.pgseal, "did you mean JWT_SECRET?");
    service.pgseal.unset("JWT_SECRETS").unset("BACKUP_STORE");
    refused(&service.pgseal, "no store is named");
}

/// Every curl command of the README, as it stands there.
#[test]
fn the_commands_of_the_readme_work() {
    let api = Api::start();
    made(&api);
    let readme =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let (_, section) = readme.split_once("\n## The API\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let commands: Vec<&str> = section
        .lines()
        .filter(|line| line.starts_with("curl "))
        .collect();
    assert!(commands.len() >= 8, "{commands:?}");
    for command in commands {
        let output = Command::new("sh")
            .args(["-euc", command])
            .env("API", format!("http://127.0.0.1:{}", api.port))
            .env("TOKEN", &api.token)
            .current_dir(api.service.pgseal.store().parent().unwrap())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{command}\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(
            !output.stdout.is_empty() || command.contains(" -o "),
            "{command}"
        );
        api.service.burst();
    }
}

#[test]
fn memory_stays_below_forty_mebibytes() {
    let api = Api::start();
    api.service.catalog.psql(
        "INSERT INTO pgseal.backups (target, kind, origin, requested_by, status, error, error_stage, database)
         SELECT 'default', 'manual', 'adopted', 'test', 'failed', repeat('x', 1000), 'dump', 'shop' FROM generate_series(1, 2000)",
    );
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for page in 1..=10 {
                    let path = format!("{BACKUPS}?per_page=100&page={page}");
                    let answer = api.ask("GET", &path, "");
                    assert!(matches!(answer.status, 200 | 429), "{answer}");
                }
            });
        }
    });
    let status = std::fs::read_to_string(format!("/proc/{}/status", api.pid())).unwrap();
    let peak = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    let kib: u64 = peak.split_whitespace().nth(1).unwrap().parse().unwrap();
    // A debug build's text counts too; the benchmark looks at the release build.
    assert!(kib < 40 * 1024 * 2, "{peak}");
}
