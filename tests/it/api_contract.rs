//! The description of the API and the API are one: a file, and another program's opinion.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

use crate::harness::api::Api;
use crate::harness::equality::{Content, assert_same};
use crate::harness::postgres::Postgres;
use crate::harness::service::Service;
use crate::harness::{fixture, folder, run, scale, text, tool};

/// How often each operation was answered by each status, as the log has it.
fn answers(log: &str) -> BTreeMap<(String, String), BTreeMap<u16, usize>> {
    let mut answers = BTreeMap::<_, BTreeMap<u16, usize>>::new();
    for line in log.lines() {
        let value = |name: &str| {
            let (_, rest) = line.split_once(&format!(" {name}="))?;
            Some(rest.split(' ').next()?.trim_matches('"').to_owned())
        };
        let found = value("method").zip(value("route")).zip(value("status"));
        if let Some((operation, status)) = found {
            let status = status.parse().unwrap();
            *answers
                .entry(operation)
                .or_default()
                .entry(status)
                .or_default() += 1;
        }
    }
    answers
}

/// To write the file anew: `PGSEAL_WRITE_OPENAPI=1 cargo test --test it api_contract::the_description`.
#[test]
fn the_description_in_the_repository_is_the_one_that_is_served() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");
    let current = pgseal::api::document();
    if std::env::var_os("PGSEAL_WRITE_OPENAPI").is_some() {
        std::fs::write(path, &current).unwrap();
    }
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        kept == current,
        "docs/openapi.json is old: PGSEAL_WRITE_OPENAPI=1 cargo test --test it api_contract::the_description"
    );
    let api = Api::start();
    let answer = api.bare("GET", "/api/openapi.json", &[], "");
    assert_eq!(answer.text(), current);
    let document: Value = serde_json::from_str(&current).unwrap();
    let mut names = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            // What a generated client calls it.
            let name = operation["operationId"].as_str().unwrap().to_owned();
            assert!(
                names.insert(name),
                "{method} {path} is called as another one"
            );
            let is_open = pgseal::api::OPEN.contains(&path.as_str());
            assert_eq!(operation["security"].is_null(), is_open, "{method} {path}");
            assert!(
                operation["summary"].is_string(),
                "{method} {path} has no summary"
            );
        }
    }
    let page = api.bare("GET", "/api/docs", &[], "");
    assert_eq!(page.status, 200);
    // It works offline: nothing in it is from elsewhere.
    for elsewhere in ["http://", "https://", "src=", "@import", "//cdn"] {
        assert!(!page.text().contains(elsewhere), "{elsewhere}");
    }
    assert!(
        page.header("content-security-policy")
            .unwrap()
            .contains("default-src 'none'")
    );
}

/// What schemathesis makes of the description is sent, and every answer is one that the description knows. The service's own
/// log says that every operation was among it, and how often each was answered how.
#[test]
fn schemathesis_finds_nothing() {
    let mut service = Service::start();
    service.pgseal.set("BACKUP_REQUESTS_PER_SECOND", "100000");
    let mut api = Api::of(service);
    // Something to look at, of each kind.
    let id = api.json(202, "POST", "/api/admin/backups", "")["id"]
        .as_i64()
        .unwrap();
    api.service.burst();
    api.json(202, "POST", &format!("/api/admin/backups/{id}/restore"), "");
    let worker = api.service.worker("contract");
    let tools = tool("schemathesis/schemathesis");
    // The number of examples ends it sooner, but on a slow machine.
    let seconds = scale(180, 600);
    let examples = scale(30, 300).to_string();
    let mut command = Command::new("timeout");
    command
        .args([&(seconds + 240).to_string(), "python3", "-m", "schemathesis.cli", "run"])
        .arg(format!("http://127.0.0.1:{}/api/openapi.json", api.port))
        .args(["--header", &format!("Authorization: Bearer {}", api.token)])
        .args(["--checks", "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,negative_data_rejection,ignored_auth"])
        .args(["--max-time", &seconds.to_string(), "--max-examples", &examples, "--seed", "20261125", "--workers", "1"])
        .args(["--no-color", "--request-timeout", "20", "--generation-database", "none"])
        .env("PYTHONPATH", tools.parent().unwrap())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(api.service.pgseal.store().parent().unwrap());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let code = output.status.code();
    assert!(
        code == Some(0) && !said.contains("Failures:") && !said.contains("FAILURES"),
        "{code:?}\n{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    worker.signal(rustix::process::Signal::TERM);
    worker.wait();
    let answers = answers(&api.stop().stderr);
    let document: Value = serde_json::from_str(&pgseal::api::document()).unwrap();
    for (route, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            let of_it = answers.get(&(method.to_uppercase(), route.clone()));
            let count: usize = of_it.map_or(0, |of_it| of_it.values().sum());
            println!("{count:6} {method} {route}: {of_it:?}");
            assert!(count > 0, "{method} {route} was never asked");
        }
    }
}

/// A client that another program makes from the description backs up, restores and deletes, by its types alone.
#[test]
fn a_generated_client_works() {
    let api = Api::start();
    let (service, database) = (&api.service, &api.service.database);
    let before = Content::of(Postgres::shared(), &database.name);
    let worker = service.worker("of-the-client");
    let tools = tool("openapi-python-client");
    let folder = folder();
    let settings = folder.path().join("settings.yaml");
    std::fs::write(&settings, "post_hooks: []\n").unwrap();
    let description = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");
    let python = || {
        let mut python = Command::new("python3");
        let path = std::env::join_paths([tools.as_path(), folder.path()]).unwrap();
        python
            .env("PYTHONPATH", path)
            .env("PYTHONDONTWRITEBYTECODE", "1");
        python
    };
    let said = text(
        python()
            .args([
                "-m",
                "openapi_python_client",
                "generate",
                "--meta",
                "none",
                "--fail-on-warning",
            ])
            .args([
                "--path",
                description,
                "--config",
                settings.to_str().unwrap(),
            ])
            .arg("--output-path")
            .arg(folder.path().join("pgseal_client")),
    );
    assert!(!said.contains("WARNING"), "{said}");
    let done = run(python()
        .arg(fixture("api_client.py"))
        .arg(format!("http://127.0.0.1:{}", api.port))
        .args([&api.token, &database.name]));
    let done: Value = serde_json::from_slice(&done).unwrap();
    assert_same(&before, &Content::of(Postgres::shared(), &database.name));
    assert_eq!(done["downloaded_sha256"], done["sha256"]);
    assert_eq!(done["restore"]["mode"], "in-place");
    assert_eq!(done["refused"], "confirmation_wrong");
    assert_eq!(done["health"], "ok");
    assert_eq!(done["restore"]["status"], "completed");
    // Everything that it made is deleted again, by itself.
    assert_eq!(done["left"], 0);
    assert_eq!(service.listed(), Vec::<String>::new());
    worker.signal(rustix::process::Signal::TERM);
    worker.wait();
}
