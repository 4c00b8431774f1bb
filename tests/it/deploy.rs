//! What the files for platforms say is what the program does: their commands, health checks, settings and times.

use std::collections::BTreeMap;
use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::api::SECRET;
use crate::harness::cli::Pgseal;
use crate::harness::postgres::free_port;
use crate::harness::service::Service;
use crate::harness::somebody::until;

/// How long pgseal itself needs, once its grace is over, to end a child and to take back what it began.
const CLEANING_SECONDS: u64 = 10;

fn text(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The arguments of an instruction of the last stage, in its exec form.
fn instruction(dockerfile: &str, name: &str) -> Vec<String> {
    let line = dockerfile
        .lines()
        .rfind(|line| line.starts_with(name))
        .unwrap_or_else(|| panic!("no {name}"));
    let (_, list) = line.split_once('[').unwrap();
    serde_json::from_str(&format!("[{list}")).unwrap()
}

/// The last stage's variables.
fn variables(dockerfile: &str) -> BTreeMap<String, String> {
    let joined = dockerfile.replace("\\\n", " ");
    let line = joined.lines().find_map(|line| line.strip_prefix("ENV "));
    let pairs = line.unwrap().split_whitespace();
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap();
            (name.to_owned(), value.to_owned())
        })
        .collect()
}

/// Names that are almost a setting are refused by every command, so that a slip in a file shows here.
fn takes(pgseal: &Pgseal, command: &str) {
    let said = pgseal.ok(&[command, "--help"]);
    assert!(said.contains("Usage: pgseal"), "{command}: {said}");
}

#[test]
fn the_image_starts_and_is_found_healthy() {
    let dockerfile = text("Dockerfile");
    let program = instruction(&dockerfile, "ENTRYPOINT");
    assert_eq!(program, ["/usr/local/bin/pgseal"]);
    let command = instruction(&dockerfile, "CMD");
    let health = instruction(&dockerfile, "HEALTHCHECK");
    assert_eq!(health[..1], program[..]);
    let variables = variables(&dockerfile);
    assert_eq!(variables["BACKUP_LISTEN"], "0.0.0.0:8000");

    let mut service = Service::start();
    // As the image has it, but for the port: other tests have theirs.
    let listen = variables["BACKUP_LISTEN"].replace("8000", &free_port().to_string());
    service.pgseal.set("BACKUP_LISTEN", listen);
    service.pgseal.set("JWT_SECRET", SECRET);
    let arguments = |list: &[String]| list.to_vec();
    let (command, health) = (arguments(&command), arguments(&health[1..]));
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let health: Vec<&str> = health.iter().map(String::as_str).collect();
    let before = service.pgseal.fails(1, &health);
    assert!(before.contains("no API listens on 127.0.0.1:"), "{before}");
    let running = service.pgseal.start(&command);
    until("the health check", || service.pgseal.run(&health).code == 0);
    running.signal(Signal::TERM);
    assert_eq!(running.wait().code, 0);
    service.pgseal.fails(1, &health);
}

/// Every stage's last user is nobody special, by a number that a platform can look at.
#[test]
fn the_image_does_not_run_as_root() {
    let dockerfile = text("Dockerfile");
    let stage = dockerfile.rsplit("\nFROM ").next().unwrap();
    let user = stage
        .lines()
        .rfind(|line| line.starts_with("USER "))
        .unwrap();
    let number: u32 = user["USER ".len()..]
        .split(':')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!(number >= 10_000, "{user}");
    for major in 15..=18 {
        assert!(
            stage.contains(&format!("postgresql-client-{major} ")),
            "{major}"
        );
    }
}

#[test]
fn fly_s_file_names_what_there_is() {
    let fly: toml::Table = text("fly.toml").parse().unwrap();
    let fly = serde_json::to_value(fly).unwrap();
    let mut pgseal = Pgseal::new();
    let set: BTreeMap<String, Value> = serde_json::from_value(fly["env"].clone()).unwrap();
    for (name, value) in &set {
        pgseal.set(name, value.as_str().unwrap());
    }
    let processes: BTreeMap<String, String> =
        serde_json::from_value(fly["processes"].clone()).unwrap();
    assert_eq!(processes.keys().collect::<Vec<_>>(), ["app", "worker"]);
    for command in processes.values() {
        takes(&pgseal, command);
    }
    takes(&pgseal, fly["deploy"]["release_command"].as_str().unwrap());
    // Only the API is reached from outside, on the port that it listens on.
    assert_eq!(fly["http_service"]["processes"], serde_json::json!(["app"]));
    let port = fly["http_service"]["internal_port"].to_string();
    assert!(
        set["BACKUP_LISTEN"]
            .as_str()
            .unwrap()
            .ends_with(&format!(":{port}"))
    );
    assert_eq!(fly["http_service"]["force_https"], true);

    let grace: u64 = set["BACKUP_SHUTDOWN_GRACE_SECONDS"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(fly["kill_signal"], "SIGTERM");
    let killed_after = fly["kill_timeout"].as_str().unwrap().trim_end_matches('s');
    assert!(killed_after.parse::<u64>().unwrap() >= grace + CLEANING_SECONDS);
    // Every written path is a setting's.
    assert_eq!(
        set["BACKUP_SPOOL_DIR"],
        variables(&text("Dockerfile"))["BACKUP_SPOOL_DIR"]
    );
}

#[test]
fn units_and_compose_start_what_there_is() {
    let mut pgseal = Pgseal::new();
    for line in text("deploy/pgseal.env.example").lines() {
        if let Some((name, value)) = line.split_once('=').filter(|_| !line.starts_with('#')) {
            pgseal.set(name, value);
        }
    }
    for unit in ["serve", "worker"] {
        let text = text(&format!("deploy/pgseal-{unit}.service"));
        let value = |key: &str| {
            let mut lines = text.lines();
            lines
                .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
                .unwrap()
                .to_owned()
        };
        assert_eq!(value("ExecStart"), format!("/usr/local/bin/pgseal {unit}"));
        takes(&pgseal, unit);
        assert_eq!(value("KillSignal"), "SIGTERM");
        // The default grace is 25 s; the API gives answers 8 s.
        let needed = if unit == "worker" { 25 } else { 8 } + CLEANING_SECONDS;
        assert!(
            value("TimeoutStopSec").parse::<u64>().unwrap() >= needed,
            "{unit}"
        );
    }
    let compose = text("deploy/compose.yaml");
    let commands: Vec<&str> = compose
        .lines()
        .filter_map(|line| line.trim().strip_prefix("command: [")?.strip_suffix(']'))
        .filter(|command| !command.starts_with("redis-server"))
        .collect();
    assert_eq!(commands, ["migrate", "serve", "worker"]);
    for command in commands {
        takes(&pgseal, command);
    }
}
