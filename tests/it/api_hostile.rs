//! Requests that nobody honest sends: none is accepted, none ends in a failure of ours, none is logged with its token.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::api::{Api, SECRET};
use crate::harness::service::Service;

fn patient() -> Api {
    let mut service = Service::start();
    service.pgseal.set("BACKUP_REQUESTS_PER_SECOND", "100000");
    Api::of(service)
}

const TEXTS: [&str; 22] = [
    "' OR 1=1--",
    "'; DROP TABLE pgseal.backups;--",
    "\" OR \"\"=\"",
    "1; SELECT pg_sleep(10)",
    "1)) UNION SELECT null--",
    "%27%20OR%201%3D1",
    "$1",
    "\\",
    "{{7*7}}",
    "../../etc/passwd",
    "..%2f..%2fetc%2fpasswd",
    "/etc/passwd",
    "%00",
    "a%00b",
    "%0d%0aX-Injected:%201",
    "%ff%fe",
    "\u{202e}",
    "-1",
    "0x10",
    "1e9",
    "NaN",
    "99999999999999999999999999",
];
const NUMBERS: [&str; 12] = [
    "0",
    "-1",
    "+1",
    "1.0",
    "01x",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "340282366920938463463374607431768211456",
    "%31%00",
    " 1",
    "\u{661}",
];

fn encoded(text: &str) -> String {
    // What is encoded already stays as it is: some of it is no UTF-8.
    if text.contains('%') {
        return text.replace(' ', "%20");
    }
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// No failure of ours, and whatever is wrong is a problem document that repeats nothing dangerous.
fn is_harmless(answer: &crate::harness::api::Answer, what: &str) {
    assert!(answer.status < 500, "{what}: {answer}");
    if answer.status >= 400 {
        let problem = answer.json();
        assert_eq!(problem["status"], answer.status, "{what}");
        let text = problem.to_string();
        for leak in ["pgseal.backups", "SELECT", "/tmp/", "syntax error", "src/"] {
            assert!(!text.contains(leak), "{what}: {text}");
        }
    }
    assert!(answer.header("x-injected").is_none(), "{what}");
}

#[test]
fn no_parameter_is_sql_a_path_or_a_number_beyond_all() {
    let mut api = patient();
    let id = api.json(202, "POST", "/api/admin/backups", "")["id"]
        .as_i64()
        .unwrap();
    api.service.burst();
    let before = api
        .service
        .catalog
        .psql("SELECT count(*) FROM pgseal.backups");
    let document: Value = serde_json::from_str(&pgseal::api::document()).unwrap();
    let mut tried = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let method = method.to_uppercase();
            for value in TEXTS.iter().chain(&NUMBERS) {
                let value = encoded(value);
                if path.contains("{id}") {
                    let answer = api.ask(&method, &path.replace("{id}", &value), "");
                    is_harmless(&answer, &format!("{method} {path} {value}"));
                    assert!(answer.status >= 400, "{method} {path} {value}: {answer}");
                    tried += 1;
                }
                let parameters = operation["parameters"]
                    .as_array()
                    .cloned()
                    .unwrap_or_default();
                for parameter in parameters.iter().filter(|one| one["in"] == "query") {
                    let name = parameter["name"].as_str().unwrap();
                    let concrete = path.replace("{id}", "999999");
                    for query in [
                        format!("{name}={value}"),
                        format!("{name}={value}&{name}={value}"),
                        format!("{name}[]={value}"),
                    ] {
                        let answer = api.ask(&method, &format!("{concrete}?{query}"), "");
                        is_harmless(&answer, &format!("{method} {path} {query}"));
                        tried += 1;
                    }
                }
            }
        }
    }
    for query in [
        "page=0",
        "page=-1",
        "page=1000001",
        "page=4294967296",
        "per_page=0",
        "per_page=101",
        "page=1&page=2",
        "unknown=1",
        "status=Completed",
        "from=yesterday",
        "from=9999-12-31T23:59:59-23:59",
        "until=-0001-01-01T00:00:00Z",
        "database=%00",
    ] {
        let answer = api.ask("GET", &format!("/api/admin/backups?{query}"), "");
        answer.is_problem(400, "invalid_request");
        is_harmless(&answer, query);
        tried += 1;
    }
    assert!(tried > 900, "{tried}");
    assert_eq!(
        api.service
            .catalog
            .psql("SELECT count(*) FROM pgseal.backups"),
        before
    );
    assert_eq!(api.service.backup(id, "status"), "completed");
    let log = api.stop().stderr;
    assert!(!log.contains(&api.token) && !log.contains(SECRET) && !log.contains("panicked"));
}

/// Row 104: bodies that are too large, too deep, doubled, of another kind, or no JSON.
#[test]
fn bodies_are_taken_only_in_their_form() {
    let mut api = patient();
    let id = api.json(202, "POST", "/api/admin/backups", "")["id"]
        .as_i64()
        .unwrap();
    api.service.burst();
    let paths = [
        "/api/admin/backups".to_owned(),
        format!("/api/admin/backups/{id}/restore"),
        "/api/admin/backups/restores/1/rollback".to_owned(),
    ];
    // What is known there is said, and no value comes back.
    for (method, path, body, said) in [
        (
            "POST",
            "/api/admin/backups",
            "{\"tarrget\": \"dummy-value\"}",
            "tarrget is not known here, expected",
        ),
        (
            "GET",
            "/api/admin/backups?foo=dummy-value",
            "",
            "foo is not known here, expected",
        ),
        (
            "GET",
            "/api/admin/backups?status=dummy-value",
            "",
            "expected one of `",
        ),
    ] {
        let answer = api.ask(method, path, body);
        let text = answer.text();
        assert_eq!(answer.status, 400, "{path}: {text}");
        assert!(
            text.contains(said) && !text.contains("dummy-value"),
            "{path}: {text}"
        );
    }
    let deep = format!("{{\"labels\": {}", "{\"a\":".repeat(20_000));
    let mut bodies: Vec<String> = [
        "{",
        "[]",
        "null",
        "1",
        "\"x\"",
        "{}{}",
        "{\"a\": 1}",
        "{\"__proto__\": {}}",
        "{'labels': {}}",
        "\u{feff}{}",
        "{\"labels\": {\"a\": \"1\", \"a\": \"2\"}}",
        "{\"labels\": {}, \"labels\": {}}",
        "{\"plan\": true, \"plan\": false}",
        "{\"labels\": {\"a\": 1}}",
        "{\"labels\": {\"\": \"x\"}}",
        "{\"labels\": {\"a\": \"\\u0000\"}}",
        "{\"labels\": {\"a\\nb\": \"x\"}}",
        "{\"labels\": {\"a\": \"\\ud800\"}}",
        "{\"exclude_table_data\": [\"\"]}",
        "{\"exclude_table_data\": \"x\"}",
        "{\"plan\": \"yes\"}",
        "{\"confirm\": {\"$ne\": null}}",
        "{\"safety\": \"none\"}",
        "{\"mode\": \"AUTO\"}",
        "{\"plan\": 1e999}",
        "NaN",
    ]
    .map(str::to_owned)
    .to_vec();
    bodies.push(deep);
    bodies.push(format!(
        "{{\"labels\": {{\"a\": \"{}\"}}}}",
        "x".repeat(256)
    ));
    bodies.push(format!(
        "{{\"labels\": {{{}}}}}",
        (0..33)
            .map(|n| format!("\"{n}\": \"\""))
            .collect::<Vec<_>>()
            .join(",")
    ));
    for path in &paths {
        for body in &bodies {
            let answer = api.ask("POST", path, body);
            let start: String = body.chars().take(40).collect();
            is_harmless(&answer, &format!("{path} {start}"));
            assert!(
                matches!(answer.status, 400 | 413),
                "{path} {start}: {answer}"
            );
        }
        for kind in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "application/xml",
            "",
        ] {
            api.with("POST", path, &[("Content-Type", kind)], "{}")
                .is_problem(415, "not_json");
        }
        api.ask("POST", path, &"x".repeat(70_000))
            .is_problem(413, "too_large");
    }
    let rows = api
        .service
        .catalog
        .psql("SELECT count(*) FROM pgseal.backups");
    assert_eq!(rows, "1");
    assert!(!api.stop().stderr.contains(&api.token));
}

/// Row 104: connections that are slow, broken, or send what is no HTTP.
#[test]
fn slow_and_broken_connections_hold_nobody_up() {
    let mut api = patient();
    let started = Instant::now();
    let head = format!(
        "POST /api/admin/backups HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n",
        api.token
    );
    // Each begins, and then says nothing, or very little.
    let mut slow_head: Vec<_> = (0..20).map(|_| api.connect()).collect();
    for stream in &mut slow_head {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nX: ").unwrap();
    }
    let mut slow_body = api.connect();
    slow_body
        .write_all(format!("{head}Content-Length: 1000\r\n\r\n{{").as_bytes())
        .unwrap();
    assert_eq!(api.bare("GET", "/healthz", &[], "").status, 200);
    let mut answer = String::new();
    let _read = slow_body.read_to_string(&mut answer);
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    for stream in &mut slow_head {
        let mut rest = Vec::new();
        let _read = stream.read_to_end(&mut rest);
    }
    assert!(
        started.elapsed() < Duration::from_secs(40),
        "{:?}",
        started.elapsed()
    );

    let chunked = format!("{head}Transfer-Encoding: chunked\r\n");
    let long = "x".repeat(40_000);
    let broken: Vec<String> = vec![
        format!("{chunked}\r\nzz\r\n"),
        format!("{chunked}\r\nffffffffffffffffff\r\n"),
        format!("{chunked}\r\n-1\r\n"),
        format!("{chunked}Content-Length: 5\r\n\r\n0\r\n\r\n"),
        format!("{head}Content-Length: -5\r\n\r\n"),
        format!("{head}Content-Length: 5\r\nContent-Length: 6\r\n\r\n12345"),
        format!("{head}Content-Length: 99999999999999999999\r\n\r\n"),
        format!("GET /{long} HTTP/1.1\r\nHost: x\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: x\r\nX: {long}\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(100)),
        "GET / HTTP/9.9\r\n\r\n".to_owned(),
        "GET  / HTTP/1.1\r\n\r\n".to_owned(),
        "\u{16}\u{3}\u{1}\u{2}".to_owned(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        "\r\n\r\n\r\n\r\n".to_owned(),
    ];
    for bytes in broken {
        let mut stream = api.connect();
        let _sent = stream.write_all(bytes.as_bytes());
        let _shut = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let _read = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        let start: String = bytes.chars().rev().take(40).collect();
        // Refused, or only hung up on.
        assert!(
            answer.is_empty()
                || answer.starts_with("HTTP/1.1 4")
                || answer.starts_with("HTTP/1.0 4"),
            "{start}: {answer}"
        );
    }
    assert_eq!(api.bare("GET", "/healthz", &[], "").status, 200);
    assert_eq!(
        api.service
            .catalog
            .psql("SELECT count(*) FROM pgseal.backups"),
        "0"
    );
    let log = api.stop().stderr;
    assert!(
        !log.contains(&api.token) && !log.contains("panicked"),
        "{log}"
    );
}

/// Row 109: nothing that a client says becomes an address, a path or a setting of the service.
#[test]
fn no_request_chooses_where_the_service_connects_to() {
    let mut api = patient();
    let id = api.json(202, "POST", "/api/admin/backups", "")["id"]
        .as_i64()
        .unwrap();
    api.service.burst();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let trap = format!("127.0.0.1:{}", listener.local_addr().unwrap().port());
    let restore = format!("/api/admin/backups/{id}/restore");
    for name in [
        "target",
        "url",
        "endpoint",
        "database_url",
        "store",
        "bucket",
        "webhook",
        "callback",
        "mode",
        "confirm",
    ] {
        for scheme in ["http", "postgres", "redis", "s3", "file"] {
            let body = format!("{{\"{name}\": \"{scheme}://{trap}/x\"}}");
            for path in ["/api/admin/backups", &restore] {
                let answer = api.ask("POST", path, &body);
                is_harmless(&answer, &body);
                assert!(answer.status >= 400, "{body}: {answer}");
            }
        }
    }
    for header in [
        "Host",
        "X-Forwarded-Host",
        "X-Forwarded-For",
        "Forwarded",
        "Referer",
        "X-Original-URL",
        "X-Http-Method-Override",
    ] {
        let answer = api.with(
            "GET",
            &format!("/api/admin/backups/{id}"),
            &[(header, &trap)],
            "",
        );
        is_harmless(&answer, header);
        assert!(!answer.text().contains(&trap), "{header}");
    }
    assert!(listener.accept().is_err(), "somebody connected");
    let document = pgseal::api::document();
    assert!(!document.contains("endpoint") && !document.contains("webhook"));
    api.stop();
}
