//! Real rq of three versions: a Python that answers requests, the command line, and workers.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::sync::Mutex;

use serde_json::Value;

use super::redis::RedisDatabase;
use super::{fixture, tool};

/// Every version that is promised.
pub const VERSIONS: [&str; 3] = ["1.16.2", "2.12.0", "3.0.0"];

/// A Python with one version of rq, connected to one database. Dropping it ends it.
pub struct Rq {
    version: &'static str,
    url: String,
    process: Child,
    pipes: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
}

impl Rq {
    pub fn start(version: &'static str, database: &RedisDatabase) -> Self {
        let mut process = python(version)
            .arg(fixture("rq_peer.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = process.stdin.take().unwrap();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        let rq = Self {
            version,
            url: database.url.clone(),
            process,
            pipes: Mutex::new((stdin, stdout)),
        };
        let found = rq.ask("connect", serde_json::json!({"url": database.url}));
        assert_eq!(found, version);
        rq
    }

    /// Does something, and expects it to be done.
    pub fn ask(&self, function: &str, arguments: Value) -> Value {
        self.try_ask(function, arguments)
            .unwrap_or_else(|error| panic!("rq {}, {function}: {error}", self.version))
    }

    /// As [`Rq::ask`]; an exception is an error.
    pub fn try_ask(&self, function: &str, mut arguments: Value) -> Result<Value, String> {
        arguments["do"] = function.into();
        let mut pipes = self.pipes.lock().unwrap();
        writeln!(pipes.0, "{arguments}").unwrap();
        let mut line = String::new();
        pipes.1.read_line(&mut line).unwrap();
        let mut answer: Value = serde_json::from_str(&line)
            .unwrap_or_else(|_| panic!("rq {} ended at {arguments}", self.version));
        match answer["error"].as_str() {
            Some(error) => Err(format!(
                "{error}\n{}",
                answer["traceback"].as_str().unwrap()
            )),
            None => Ok(answer["ok"].take()),
        }
    }

    /// What a program may ask of a job.
    pub fn job(&self, id: &str) -> Value {
        self.ask("job", serde_json::json!({"id": id}))
    }

    /// The jobs of a registry, which is cleaned up first.
    pub fn registry(&self, name: &str) -> Vec<String> {
        let ids = self.ask(
            "registry",
            serde_json::json!({"name": name, "queue": "backups"}),
        );
        serde_json::from_value(ids).unwrap()
    }

    /// A page or a list of rq-dashboard, as a browser gets it.
    pub fn dashboard(&self, path: &str) -> Value {
        let answer = self.ask("dashboard", serde_json::json!({"path": path}));
        assert_eq!(
            answer["status"], 200,
            "rq {}, {path}: {answer}",
            self.version
        );
        answer["json"].clone()
    }

    /// Presses a button of rq-dashboard.
    pub fn press(&self, path: &str) -> Value {
        let request = serde_json::json!({"path": path, "method": "POST"});
        self.ask("dashboard", request)["json"]["status"].clone()
    }

    /// rq's command line, against the same database.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = python(self.version);
        command
            .args(["-c", "from rq.cli import main; main()"])
            .args(arguments)
            .args(["--url", &self.url])
            .stdin(Stdio::null());
        command
    }

    /// Runs what is queued with a real worker, and returns what it said.
    pub fn work(&self, name: &str) -> Output {
        let arguments = ["worker", "--burst", "--name", name, "backups"];
        let output = self.command(&arguments).output().unwrap();
        assert!(
            output.status.success(),
            "rq {}: {}",
            self.version,
            String::from_utf8_lossy(&output.stderr)
        );
        output
    }
}

impl Drop for Rq {
    fn drop(&mut self) {
        let _killed = self.process.kill();
        let _ended = self.process.wait();
    }
}

/// Python with one version of rq, the dashboard that goes with it, and the functions that jobs name.
fn python(version: &str) -> Command {
    let packages = tool(&format!("rq-{version}"));
    let dashboard = tool(match version {
        "1.16.2" => "rq-dashboard-0.6.7.2",
        _ => "rq-dashboard-0.9.0",
    });
    let functions: PathBuf = fixture("app/workers/backup_jobs.py");
    let root = functions.ancestors().nth(3).unwrap();
    let path = std::env::join_paths([packages.as_path(), root, &dashboard]).unwrap();
    let mut command = Command::new("python3");
    command
        .env("PYTHONPATH", path)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("NO_COLOR", "1");
    command
}
