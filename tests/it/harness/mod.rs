//! What tests work with: servers, the program itself, and judges that do not trust it.

pub mod api;
pub mod catalog;
pub mod cgroup;
pub mod cli;
pub mod disk;
pub mod equality;
pub mod gpg;
pub mod link;
pub mod mail;
pub mod message;
pub mod postgres;
pub mod receiver;
pub mod redis;
pub mod rq;
pub mod s3;
pub mod seaweed;
pub mod service;
pub mod slow;
pub mod somebody;
pub mod toll;
pub mod watch;

use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A file of `tests/fixtures`.
pub fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

/// A file of what `./dev setup` installed beside Debian's packages: `{package}/{path}`.
pub fn tool(path: &str) -> PathBuf {
    let folder = match std::env::var_os("PGSEAL_TEST_TOOLS") {
        Some(folder) => PathBuf::from(folder),
        None if postgres::is_root() => PathBuf::from("/var/cache/pgseal-tools"),
        None => PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/pgseal-tools"),
    };
    let file = folder.join(path);
    assert!(
        file.exists(),
        "{} is missing: run ./dev setup",
        file.display()
    );
    file
}

/// How much of something is tried: little in `./dev test`, much in `./dev soak`.
pub fn scale(quick: usize, soak: usize) -> usize {
    if std::env::var_os("PGSEAL_SOAK").is_some() {
        soak
    } else {
        quick
    }
}

/// A cron expression, by UTC, of every day at the time of day that was six hours ago: what was due then is overdue by now, and
/// nothing more comes due while a test runs, whenever it does.
pub fn every_day() -> String {
    let due = time::OffsetDateTime::now_utc() - time::Duration::hours(6);
    format!("{} {} * * *", due.minute(), due.hour())
}

/// A short folder of its own: Unix sockets have paths of at most 107 bytes.
pub fn folder() -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix("pgst-")
        .tempdir_in("/tmp")
        .unwrap()
}

/// Runs a tool of the test to its end and returns its stdout; a failure shows what it said.
pub fn run(command: &mut Command) -> Vec<u8> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?} {}:\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

/// As [`run`], for text.
pub fn text(command: &mut Command) -> String {
    String::from_utf8(run(command)).unwrap()
}
