//! What is logged: for programs a JSON object a line, with one line for each stage, and the names of request and job through
//! everything; for whoever sits at a terminal, words.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::harness::api::Api;
use crate::harness::cli::Pgseal;
use crate::harness::fixture;
use crate::harness::postgres::Postgres;
use crate::harness::service::Service;

/// Every line is an object with a time, a level and a message.
fn objects(log: &str) -> Vec<Value> {
    let object = |line: &str| {
        let object: Value =
            serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"));
        for key in ["timestamp", "level", "message"] {
            assert!(object[key].is_string(), "{key}: {line}");
        }
        object
    };
    log.lines().map(object).collect()
}

fn stages(lines: &[&Value], message: &str) -> Vec<String> {
    let of_stages = lines.iter().filter(|line| line["message"] == message);
    of_stages
        .map(|line| line["stage"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn each_stage_is_one_line_with_its_job_and_the_request_that_asked_for_it() {
    let mut service = Service::start();
    service.pgseal.unset("BACKUP_LOG_FORMAT");
    let mut api = Api::of(service);
    let asked = api.ask("POST", "/api/admin/backups", "");
    assert_eq!(asked.status, 202, "{asked}");
    let of_backup = asked.header("x-request-id").unwrap().to_owned();
    let mut log = api.service.burst();
    let id = asked.json()["id"].as_i64().unwrap();
    let asked = api.ask("POST", &format!("/api/admin/backups/{id}/restore"), "");
    assert_eq!(asked.status, 202, "{asked}");
    let of_restore = asked.header("x-request-id").unwrap().to_owned();
    log += &api.service.burst();

    let lines = objects(&log);
    let mut jobs: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for line in &lines {
        if let Some(job) = line["job.id"].as_str() {
            jobs.entry(job).or_default().push(line);
        }
    }
    // Nothing of a job is logged without its name.
    let nameless = lines.iter().filter(|line| line["job.id"].is_null());
    let nameless: Vec<&Value> = nameless.filter(|line| !line["stage"].is_null()).collect();
    assert!(nameless.is_empty(), "{nameless:?}");
    // The backup, the safety backup and the restore.
    assert_eq!(jobs.len(), 3, "{log}");
    let mut requests = BTreeSet::new();
    let mut all = BTreeSet::new();
    for lines in jobs.values() {
        let begun = stages(lines, "Stage begins");
        assert_eq!(begun, stages(lines, "Stage ended"));
        assert!(begun.len() > 3, "{begun:?}");
        all.extend(begun);
        for line in lines.iter().filter(|line| line["message"] == "Stage ended") {
            assert!(
                line["duration_ms"].is_u64() && line["bytes"].is_u64(),
                "{line}"
            );
            let has_bytes = ["dump", "load", "verify"].contains(&line["stage"].as_str().unwrap());
            assert!(!has_bytes || line["bytes"].as_u64() > Some(1000), "{line}");
            // From the claim on, every line says who asked.
            requests.insert(line["request.id"].as_str().unwrap().to_owned());
        }
        let done = lines.iter().find(|line| line["message"] == "Job finished");
        assert!(done.unwrap()["duration_ms"].is_u64());
    }
    for stage in [
        "dump",
        "write the manifest",
        "fetch",
        "load",
        "compare the rows",
    ] {
        assert!(all.contains(stage), "{stage}: {all:?}");
    }
    assert_eq!(
        requests,
        BTreeSet::from([of_backup.clone(), of_restore.clone()])
    );
    let made = lines
        .iter()
        .find(|line| line["message"] == "Backup is complete");
    let made = made.unwrap();
    assert_eq!(
        made["sealed_bytes"].to_string(),
        api.service.backup(id, "sealed_bytes")
    );

    // The same names in the audit, and in what the API itself says.
    let audit = api.service.catalog.psql(
        "SELECT string_agg(request_id::text, ' ' ORDER BY id) FROM pgseal.audit WHERE outcome = 'accepted'",
    );
    assert_eq!(audit, format!("{of_backup} {of_restore}"));
    let said = objects(&api.stop().stderr);
    let request = said
        .iter()
        .find(|line| line["request.id"] == of_backup.as_str());
    let request = request.expect("the request is a line of the API's log");
    assert_eq!(
        (&request["method"], &request["level"]),
        (&"POST".into(), &"INFO".into())
    );
}

#[test]
fn a_terminal_gets_words_and_a_program_what_it_asks_for() {
    let mut service = Service::start();
    service
        .pgseal
        .unset("BACKUP_LOG_FORMAT")
        .set("NO_COLOR", "1");
    service.enqueue_backup();
    let terminal = [
        "python3",
        "-c",
        "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)",
    ];
    let run = service
        .pgseal
        .inside(&terminal, &["worker", "--burst"])
        .wait();
    assert_eq!(run.code, 0, "{run}");
    let said = String::from_utf8(run.stdout.clone()).unwrap();
    assert!(
        !said.lines().any(|line| line.trim_start().starts_with('{')),
        "{run}"
    );
    for words in [
        "Job started",
        "Stage ended",
        "stage=\"dump\"",
        "Backup is complete",
        "Job finished",
    ] {
        assert!(said.contains(words), "{words}: {run}");
    }
    // The same worker in a pipe.
    service.enqueue_backup();
    let run = service.pgseal.run(&["worker", "--burst"]);
    assert!(objects(&run.stderr).len() > 5, "{run}");

    // Commands are for people, unless somebody wants it otherwise; then nothing but objects comes.
    let database = Postgres::shared().database_from("logged", &fixture("bulk.sql"), &["rows=100"]);
    let mut pgseal = Pgseal::new();
    pgseal.unset("BACKUP_LOG_FORMAT");
    let run = pgseal.run(&["backup", &database.url, "-v"]);
    assert!(run.stderr.contains("Stage ended stage=\"dump\""), "{run}");
    pgseal.set("BACKUP_LOG_FORMAT", "json");
    let run = pgseal.run(&["backup", &database.url, "-v"]);
    let lines = objects(&run.stderr);
    let lines: Vec<&Value> = lines.iter().collect();
    assert_eq!(
        stages(&lines, "Stage begins"),
        stages(&lines, "Stage ended")
    );
    assert!(
        stages(&lines, "Stage ended").contains(&"dump".to_owned()),
        "{run}"
    );
    let said = pgseal.fails(3, &["show", "nothing"]);
    let error = &objects(&said)[0];
    assert!(
        error["reason"].as_str().unwrap().contains("nothing"),
        "{said}"
    );
    pgseal.set("BACKUP_LOG_FORMAT", "xml");
    pgseal.fails(2, &["list"]);
}
