//! Who hears of what happened, by every channel: real mail servers, and receivers that look at what they get.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::cli::{Pgseal, clients};
use crate::harness::mail::{MailServer, certificate};
use crate::harness::postgres::Postgres;
use crate::harness::receiver::{Receiver, Sent, status};
use crate::harness::somebody::until;
use crate::targets::with_targets;

const SECRET: &str = "dummy-webhook-secret";
const MAIL_PASSWORD: &str = "dummy-mail-password";

/// A program with a webhook, a chat and a dead man's switch at one receiver, told apart by their paths.
fn with_receiver(receiver: &Receiver) -> Pgseal {
    let mut pgseal = Pgseal::new();
    set_receiver(&mut pgseal, receiver);
    pgseal
}

pub fn set_receiver(pgseal: &mut Pgseal, receiver: &Receiver) {
    pgseal
        .set(
            "BACKUP_NOTIFY_WEBHOOK_URL",
            receiver.url("/hook/dummy-hook-path"),
        )
        .set("BACKUP_NOTIFY_WEBHOOK_SECRET", SECRET)
        .set(
            "BACKUP_NOTIFY_SLACK_URL",
            receiver.url("/chat/dummy-chat-path"),
        )
        .set("BACKUP_PING_URL", receiver.url("/ping/{target}"));
}

pub fn set_mail(pgseal: &mut Pgseal, server: &MailServer) {
    pgseal
        .set(
            "BACKUP_SMTP_URL",
            format!("smtp://127.0.0.1:{}", server.port),
        )
        .set("BACKUP_NOTIFY_FROM", "pgseal <backups@example.com>")
        .set("BACKUP_NOTIFY_TO", "one@example.com, two@example.com");
}

/// What came to a path's beginning.
pub fn sent_to<'a>(sent: &'a [Sent], path: &str) -> Vec<&'a Sent> {
    sent.iter()
        .filter(|sent| sent.path.starts_with(path))
        .collect()
}

/// A webhook's body, if its signature is right; made here from the specification, not from the code that is tested.
pub fn verified(sent: &Sent) -> Value {
    let (id, timestamp) = (
        &sent.headers["webhook-id"],
        &sent.headers["webhook-timestamp"],
    );
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(format!("{id}.{timestamp}.{}", sent.body).as_bytes());
    let expected = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
    assert_eq!(sent.headers["webhook-signature"], expected);
    let age = time::OffsetDateTime::now_utc().unix_timestamp() - timestamp.parse::<i64>().unwrap();
    assert!((0..300).contains(&age), "{age}");
    let body: Value = serde_json::from_str(&sent.body).unwrap();
    assert_eq!(body["id"], id.as_str());
    assert_eq!(body["version"], 1);
    body
}

#[test]
fn a_test_goes_through_every_channel_and_counts_as_no_backup() {
    let receiver = Receiver::start();
    let mail = MailServer::start(&[]);
    let mut pgseal = with_receiver(&receiver);
    set_mail(&mut pgseal, &mail);
    let tested = pgseal.json(&["notify", "test"]);
    let tested = tested.as_array().unwrap();
    let channels: Vec<&Value> = tested.iter().map(|tested| &tested["channel"]).collect();
    assert_eq!(channels, ["email", "webhook", "slack", "ping"]);
    assert!(
        tested.iter().all(|tested| tested["error"].is_null()),
        "{tested:?}"
    );

    let sent = receiver.sent();
    assert_eq!(sent.len(), 3, "{sent:?}");
    let body = verified(sent_to(&sent, "/hook/dummy-hook-path")[0]);
    assert_eq!(body["type"], "test");
    assert_eq!(sent_to(&sent, "/ping/")[0].path, "/ping/default/log");
    let chat: Value = serde_json::from_str(&sent_to(&sent, "/chat/")[0].body).unwrap();
    assert!(
        chat["text"]
            .as_str()
            .unwrap()
            .starts_with("*pgseal: a test"),
        "{chat}"
    );

    let messages = mail.until_messages(1);
    let message = &messages[0];
    assert_eq!(
        message.0["to"],
        json!(["one@example.com", "two@example.com"])
    );
    assert_eq!(message.0["from"], "backups@example.com");
    assert_eq!(
        message.header("Subject"),
        ["pgseal: a test, nothing happened"]
    );
    assert_eq!(message.header("Auto-Submitted"), ["auto-generated"]);
    assert!(message.header("Message-ID")[0].contains(body["id"].as_str().unwrap()));

    // A switch of each target's is tried for each.
    let before = receiver.sent().len();
    let url = Postgres::shared().url("postgres");
    with_targets(
        &mut pgseal,
        &format!("[targets.shop]\nurl = \"{url}\"\n[targets.till]\nurl = \"{url}\"\n"),
    );
    pgseal.ok(&["notify", "test", "--channel", "ping"]);
    let mut pings: Vec<String> = receiver.sent()[before..]
        .iter()
        .map(|sent| sent.path.clone())
        .collect();
    pings.sort();
    assert_eq!(pings, ["/ping/shop/log", "/ping/till/log"]);
    pgseal.unset("BACKUP_TARGETS_FILE");

    // One alone, and one that is not set.
    let before = receiver.sent().len();
    pgseal.ok(&["notify", "test", "--channel", "slack"]);
    assert_eq!(receiver.sent().len(), before + 1);
    pgseal.unset("BACKUP_PING_URL");
    pgseal.fails(2, &["notify", "test", "--channel", "ping"]);
    assert_eq!(receiver.sent().len(), before + 1);

    let doctor = pgseal.run(&["doctor"]);
    let said = String::from_utf8(doctor.stdout).unwrap();
    for channel in ["email: one@example.com", "webhook: ", "slack: "] {
        assert!(said.contains(channel), "{said}");
    }
    assert!(!said.contains("dummy-"), "{said}");
}

/// STARTTLS with a login, TLS from the first byte, and what must not work: a certificate that nobody vouches for, a server
/// without TLS, a wrong password, which an unfriendly server repeats.
#[test]
fn mail_goes_by_tls_and_with_a_login() {
    let pgseal_folder = crate::harness::folder();
    let (certificate, key) = certificate(pgseal_folder.path());
    let [certificate, key] = [&certificate, &key].map(|path| path.to_str().unwrap());
    let login = ["--login", "box@example.com", MAIL_PASSWORD];
    let starttls = MailServer::start(&[&["--starttls", certificate, key][..], &login].concat());
    let tls = MailServer::start(&[&["--tls", certificate, key][..], &login].concat());
    let bare = MailServer::start(&[]);
    let mut pgseal = Pgseal::new();
    set_mail(&mut pgseal, &starttls);
    let url = |scheme: &str, password: &str, port: u16| {
        format!("{scheme}://box%40example.com:{password}@127.0.0.1:{port}?tls=required")
    };
    let good = [
        url("smtp", MAIL_PASSWORD, starttls.port),
        url("smtps", MAIL_PASSWORD, tls.port),
    ];
    for url in &good {
        pgseal.set("BACKUP_SMTP_URL", url);
        let run = pgseal.run(&["notify", "test", "-vv"]);
        let said = String::from_utf8_lossy(&run.stdout).into_owned() + &run.stderr;
        assert_eq!(run.code, 1, "a certificate of nobody was taken: {said}");
        assert!(said.contains("certificate"), "{said}");
        assert!(!said.contains(MAIL_PASSWORD), "{said}");
    }
    pgseal.set("SSL_CERT_FILE", certificate);
    for (server, url) in [&starttls, &tls].into_iter().zip(&good) {
        pgseal.set("BACKUP_SMTP_URL", url);
        pgseal.ok(&["notify", "test"]);
        let message = &server.until_messages(1)[0].0;
        assert_eq!(
            (&message["tls"], &message["user"]),
            (&json!(true), &json!("box@example.com"))
        );
    }
    for (url, why) in [
        (url("smtp", "dummy-wrong-password", starttls.port), "535"),
        (url("smtp", MAIL_PASSWORD, bare.port), "STARTTLS"),
    ] {
        pgseal.set("BACKUP_SMTP_URL", url);
        let run = pgseal.run(&["notify", "test", "-vv"]);
        let said = String::from_utf8_lossy(&run.stdout).into_owned() + &run.stderr;
        assert_eq!(run.code, 1, "{said}");
        assert!(said.contains(why), "{said}");
        assert!(
            !said.contains("dummy-wrong") && !said.contains(MAIL_PASSWORD),
            "{said}"
        );
    }
    assert_eq!((starttls.messages().len(), bare.messages().len()), (1, 0));
}

/// Row 109: a redirect is not followed, and what a server says beyond its status is not read.
#[test]
fn what_is_not_taken_is_a_failure_and_no_redirect_is_followed() {
    let receiver = Receiver::start();
    let elsewhere = Receiver::start();
    let mut pgseal = Pgseal::new();
    pgseal.set("BACKUP_NOTIFY_WEBHOOK_URL", receiver.url("/hook"));
    let to = elsewhere.url("/stolen");
    receiver.answers(move |_, _| {
        format!("HTTP/1.1 307 x\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n")
    });
    let run = pgseal.run(&["notify", "test"]);
    let said = String::from_utf8_lossy(&run.stdout).into_owned();
    assert_eq!(run.code, 1, "{run}");
    assert!(
        said.contains("307") && said.contains("redirects are not followed"),
        "{said}"
    );
    assert_eq!(elsewhere.sent().len(), 0);

    receiver.answers(|_, _| "HTTP/1.1 500 dummy-answer-canary\r\ncontent-length: 999999999999\r\n\r\ndummy-answer-canary".to_owned());
    let started = Instant::now();
    let run = pgseal.run(&["notify", "test"]);
    let said = String::from_utf8_lossy(&run.stdout).into_owned() + &run.stderr;
    assert!(
        run.code == 1 && said.contains("500") && !said.contains("canary"),
        "{said}"
    );
    // Headers without an end.
    receiver.answers(|_, _| format!("HTTP/1.1 200 x\r\nx: {}\r\n\r\n", "y".repeat(1 << 20)));
    pgseal.fails(1, &["notify", "test"]);
    assert!(
        started.elapsed() < Duration::from_secs(15),
        "it was waited for"
    );

    // Nobody at all; and somebody who takes the connection and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    pgseal.set(
        "BACKUP_NOTIFY_WEBHOOK_URL",
        format!("http://127.0.0.1:{port}/hook"),
    );
    let run = pgseal.run(&["notify", "test"]);
    assert!(
        String::from_utf8_lossy(&run.stdout).contains("no answer within 20 s"),
        "{run}"
    );
    drop(silent);
    let run = pgseal.run(&["notify", "test"]);
    assert!(
        String::from_utf8_lossy(&run.stdout).contains("Connection refused"),
        "{run}"
    );
}

#[test]
fn half_a_channel_and_plain_text_to_others_are_refused() {
    let refused = |settings: &[(&str, &str)], said: &str| {
        let mut pgseal = Pgseal::new();
        for (name, value) in settings {
            pgseal.set(name, value);
        }
        let error = pgseal.fails(5, &["notify", "test"]);
        assert!(error.contains(said) && !error.contains("canary"), "{error}");
    };
    refused(&[], "no channel is set");
    refused(
        &[("BACKUP_SMTP_URL", "smtps://u:canary@mail.example")],
        "BACKUP_NOTIFY_TO",
    );
    refused(&[("BACKUP_NOTIFY_TO", "a@example.com")], "BACKUP_SMTP_URL");
    refused(
        &[("BACKUP_NOTIFY_WEBHOOK_SECRET", "canary")],
        "BACKUP_NOTIFY_WEBHOOK_URL",
    );
    refused(
        &[("BACKUP_NOTIFY_SLACK_URL", "http://192.0.2.1/canary")],
        "BACKUP_NOTIFY_ALLOW_PLAIN",
    );
    refused(
        &[("BACKUP_PING_URL", "ftp://192.0.2.1/canary")],
        "BACKUP_PING_URL",
    );
    refused(
        &[("BACKUP_NOTIFY_WEBHOOK_UR", "https://192.0.2.1/canary")],
        "BACKUP_NOTIFY_WEBHOOK_URL",
    );
    refused(
        &[
            ("BACKUP_SMTP_URL", "smtps://u:canary@mail.example"),
            ("BACKUP_NOTIFY_FROM", "no address"),
            ("BACKUP_NOTIFY_TO", "a@example.com"),
        ],
        "no e-mail address",
    );
    // From a file, like every secret.
    let receiver = Receiver::start();
    let mut pgseal = Pgseal::new();
    let file = pgseal.file("home/url");
    std::fs::write(&file, receiver.url("/from-a-file\n")).unwrap();
    pgseal.set("BACKUP_NOTIFY_SLACK_URL_FILE", &file);
    pgseal.ok(&["notify", "test"]);
    assert_eq!(receiver.sent()[0].path, "/from-a-file");
}

/// The command line tells by itself what it did, and its verdict is its own.
#[test]
fn a_backup_without_a_catalog_tells_what_came_of_it() {
    let server = Postgres::shared();
    let source = server.create_database("told");
    let receiver = Receiver::start();
    let mail = MailServer::start(&[]);
    let mut pgseal = with_receiver(&receiver);
    set_mail(&mut pgseal, &mail);
    pgseal.set("DATABASE_URL", &source.url);
    pgseal.ok(&["backup"]);
    let sent = receiver.sent();
    let pings = sent_to(&sent, "/ping/");
    assert_eq!(pings.last().unwrap().path, "/ping/default", "{pings:?}");
    let bodies: Vec<Value> = sent_to(&sent, "/hook/").into_iter().map(verified).collect();
    let done = bodies.last().unwrap();
    let made = pgseal.json(&["show", "latest"]);
    assert_eq!(done["type"], "backup.completed");
    assert_eq!(done["data"]["backup_name"], made["name"]);
    assert_eq!(done["data"]["sealed_bytes"], made["sealed_bytes"]);
    // People sleep through what went well, unless they want it otherwise.
    assert_eq!(
        (sent_to(&sent, "/chat/").len(), mail.messages().len()),
        (0, 0)
    );
    pgseal.set("BACKUP_NOTIFY_SUCCESS", "all");
    pgseal.ok(&["backup"]);
    let subject = format!("pgseal: backup of {} is complete", source.name);
    assert_eq!(mail.until_messages(1)[0].header("Subject"), [subject]);

    // A dump that fails with a flood, in a database whose name would be a mention, and turn the subject around.
    let hostile = "odd\u{202e}<!channel>";
    server.psql("postgres", &format!("CREATE DATABASE \"{hostile}\""));
    let programs = clients(
        Some("yes 'pg_dump: error: no luck' | head -c 300000 >&2; exit 1"),
        None,
    );
    pgseal
        .with_clients(programs.path())
        .set("DATABASE_URL", server.url(hostile));
    let before = receiver.sent().len();
    pgseal.fails(1, &["backup", "--label", "x=a\r\nBcc: all@example.com"]);
    let sent = receiver.sent().split_off(before);
    assert_eq!(
        sent_to(&sent, "/ping/").last().unwrap().path,
        "/ping/default/fail"
    );
    let failed = verified(sent_to(&sent, "/hook/").last().unwrap());
    assert_eq!(
        (&failed["type"], &failed["data"]["database"]),
        (&json!("backup.failed"), &json!(hostile))
    );
    let chat = &sent_to(&sent, "/chat/")[0].body;
    assert!(
        chat.contains("&lt;!channel&gt; FAILED at dump") && !chat.contains("<!"),
        "{chat}"
    );
    let messages = mail.until_messages(2);
    let message = &messages[1];
    let subject = "pgseal: backup of odd <!channel> FAILED at dump";
    assert_eq!(message.header("Subject"), [subject]);
    assert_eq!(message.header("Bcc"), [""; 0]);
    assert_eq!(
        message.0["to"],
        json!(["one@example.com", "two@example.com"])
    );
    assert!(
        message.body().contains("no luck") && message.body().len() < 4000,
        "{}",
        message.body()
    );

    // Nobody there: a warning each, and the same verdicts.
    drop((receiver, mail));
    pgseal.fails(1, &["backup"]);
    server.psql("postgres", &format!("DROP DATABASE \"{hostile}\""));
    pgseal
        .unset("BACKUP_PG_BINDIRS")
        .set("DATABASE_URL", &source.url);
    let run = pgseal.run(&["backup"]);
    assert_eq!(run.code, 0, "{run}");
    let warnings = run
        .stderr
        .lines()
        .filter(|line| line.contains("backup.completed") && line.contains("Connection refused"));
    assert_eq!(warnings.count(), 4, "{run}");
    // Settings that nobody can read are no reason to make no backup.
    pgseal.set("BACKUP_PING_URL", "nonsense");
    let run = pgseal.run(&["backup"]);
    assert!(
        run.code == 0 && run.stderr.contains("BACKUP_PING_URL"),
        "{run}"
    );
}

/// As the service's jobs: restores, and a proof that failed. Whoever cannot be told changes no verdict.
#[test]
fn a_restore_and_a_failed_proof_are_told_by_the_command_line() {
    let server = Postgres::shared();
    let source = server.create_database("told_restore");
    source.psql("CREATE TABLE t AS SELECT generate_series(1, 9) AS i");
    let receiver = Receiver::start();
    let mut pgseal = with_receiver(&receiver);
    pgseal.set("BACKUP_DRILL_DATABASE_URL", server.url("postgres"));
    pgseal.ok(&["backup", &source.url]);
    let to = server.name("told_copy");
    let told = |before: usize| {
        let sent = receiver.sent().split_off(before);
        let bodies = sent_to(&sent, "/hook/").into_iter().map(verified);
        bodies.collect::<Vec<Value>>()
    };
    let before = receiver.sent().len();
    pgseal.ok(&["restore", "latest", "--to", &to.url, "--mode", "new"]);
    let bodies = told(before);
    let done = bodies.last().unwrap();
    assert_eq!(
        (
            &done["type"],
            &done["data"]["rows"],
            &done["data"]["database"]
        ),
        (&json!("restore.completed"), &json!(9), &json!(to.name))
    );

    // It is there already.
    let before = receiver.sent().len();
    pgseal.fails(5, &["restore", "latest", "--to", &to.url, "--mode", "new"]);
    let failed = told(before).pop().unwrap();
    assert_eq!(failed["type"], "restore.failed");
    let chats = receiver.sent().split_off(before);
    let chats = sent_to(&chats, "/chat/");
    assert!(chats.last().unwrap().body.contains("FAILED"), "{chats:?}");
    // A target's own URL is that target; a name that none has pings no switch.
    let key = pgseal.json(&["show", "latest"])["object_key"].clone();
    let key = key.as_str().unwrap();
    let file = with_targets(
        &mut pgseal,
        &format!("[targets.copy]\nurl = \"{}\"\n", to.url),
    );
    let before = receiver.sent().len();
    pgseal.ok(&["restore", key, "--to", &to.url, "--mode", "in-place"]);
    assert_eq!(told(before).pop().unwrap()["target"], "copy");
    let before = receiver.sent().len();
    pgseal.fails(5, &["backup", "--target", "nosuch"]);
    assert_eq!(told(before).pop().unwrap()["type"], "backup.failed");
    let sent = receiver.sent().split_off(before);
    assert!(sent_to(&sent, "/ping/").is_empty(), "{sent:?}");
    pgseal.unset("BACKUP_TARGETS_FILE");
    std::fs::remove_file(file).unwrap();
    // A plan restores nothing, and tells nothing.
    let before = receiver.sent().len();
    pgseal.ok(&["restore", "latest", "--to", &source.url, "--plan"]);
    assert_eq!(receiver.sent().len(), before);

    let lazy = clients(
        None,
        Some("case \"$*\" in *--dbname=*) cat >/dev/null; exit 0;; esac; exec \"$REAL\" \"$@\""),
    );
    pgseal.ok(&["drill", "latest"]);
    assert_eq!(receiver.sent().len(), before, "what is PROVEN is no news");
    pgseal.with_clients(lazy.path());
    pgseal.fails(4, &["drill", "latest"]);
    let failed = told(before).pop().unwrap();
    assert_eq!(failed["type"], "proof.failed");
    let said = failed["data"]["error"].as_str().unwrap();
    assert!(said.contains("public.t is missing"), "{said}");

    // Nobody is there any more: the same verdict.
    drop(receiver);
    let run = pgseal.run(&["drill", "latest"]);
    assert_eq!(run.code, 4, "{run}");
    assert!(run.stderr.contains("Notification not sent"), "{run}");
}

/// What is told to end when it is complete has succeeded, and says so: nothing was cleaned up.
#[test]
fn a_backup_that_is_complete_when_it_is_told_to_end_is_one() {
    let source = Postgres::shared().create_database("told_to_end");
    let receiver = Receiver::start();
    let pgseal = with_receiver(&receiver);
    let hangs = Arc::new(AtomicBool::new(true));
    let shared = Arc::clone(&hangs);
    receiver.answers(move |sent, _| {
        while sent.body.contains("backup.completed") && shared.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(20));
        }
        status(200)
    });
    let running = pgseal.start(&["backup", &source.url]);
    until("the end to be told", || {
        let sent = receiver.sent();
        sent.iter()
            .any(|sent| sent.body.contains("backup.completed"))
    });
    running.signal(Signal::TERM);
    let ended = running.wait();
    hangs.store(false, Ordering::Relaxed);
    assert_eq!(ended.code, 0, "{ended}");
    let said = String::from_utf8(ended.stdout.clone()).unwrap();
    assert!(said.contains("is complete"), "{ended}");
    pgseal.ok(&["verify", "latest"]);
}

/// A silent switch holds a backup up neither at its beginning nor for long at its end.
#[test]
fn a_switch_that_hangs_does_not_hold_the_backup_up() {
    let source = Postgres::shared().create_database("hangs");
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let mut pgseal = Pgseal::new();
    pgseal.set("DATABASE_URL", &source.url);
    pgseal.set("BACKUP_PING_URL", format!("http://127.0.0.1:{port}/x"));
    let started = Instant::now();
    pgseal.ok(&["backup"]);
    assert!(
        started.elapsed() < Duration::from_secs(60),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(pgseal.json(&["list"]).as_array().unwrap().len(), 1);
}

/// A receiver that answers so to a path's beginning, and 200 to everything else.
pub fn answers_on(receiver: &Receiver, answers: &[(&'static str, u16)]) {
    let answers: BTreeMap<&'static str, u16> = answers.iter().copied().collect();
    receiver.answers(move |sent, _| {
        let answer = answers
            .iter()
            .find(|(path, _)| sent.path.starts_with(*path));
        status(answer.map_or(200, |(_, status)| *status))
    });
}
