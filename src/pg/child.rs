//! The only place that starts processes: `pg_dump` and `pg_restore`, nothing else, ever.
//!
//! A child gets a cleared environment, its own process group (so that Ctrl-C reaches us, and we end it), a drained
//! stderr, and its connection through variables and private 0600 files: nothing secret in its arguments or its
//! environment. Its exit status is an error with what it said in it.

use std::ffi::OsString;
use std::fs::Permissions;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};
use tokio::task::JoinHandle;

use super::error::{Ended, PgError};
use crate::model::connection::Connection;

/// How much of a child's stderr is kept for the error, in bytes; the end says why it failed.
const STDERR_BYTES_KEPT: usize = 4096;
/// One line of stderr may be this long; a child that never breaks a line must not fill the memory.
const STDERR_LINE_BYTES_MAX: usize = 64 * 1024;
/// So many warnings are kept; of the others only their number is. A manifest must stay small enough to be read.
const WARNINGS_KEPT: usize = 100;
/// The largest pipe an unprivileged process may have (Linux, /proc/sys/fs/pipe-max-size).
const PIPE_BYTES: usize = 1 << 20;

/// Called with each line of a child's chatter (`--verbose`).
pub(super) type OnLine = Arc<dyn Fn(&str) + Send + Sync>;

/// What to start.
pub(super) struct Spawn<'a> {
    pub(super) name: &'static str,
    pub(super) program: &'a Path,
    pub(super) arguments: Vec<OsString>,
    /// `None`: the child connects to nothing.
    pub(super) connection: Option<&'a Connection>,
    pub(super) stdin: Stdio,
    pub(super) stdout: Stdio,
    pub(super) on_line: Option<OnLine>,
}

/// A running child. Dropping it kills it and whatever it started.
pub(super) struct Child {
    name: &'static str,
    group: Option<rustix::process::Pid>,
    process: tokio::process::Child,
    stderr: Option<JoinHandle<Stderr>>,
    /// Holds the password file; goes when the child is done.
    _settings: Option<TempDir>,
}

/// What a child said.
#[derive(Default)]
pub(super) struct Stderr {
    /// The end of what was no chatter.
    pub(super) tail: String,
    /// Its warnings.
    pub(super) warnings: Vec<String>,
}

impl Spawn<'_> {
    pub(super) fn start(self) -> Result<Child, PgError> {
        let started = |source| PgError::Start {
            program: self.program.display().to_string(),
            source,
        };
        #[expect(
            clippy::disallowed_methods,
            reason = "this is the one place that starts processes"
        )]
        let mut command = tokio::process::Command::new(self.program);
        // Messages are read by this program, so they must not be translated.
        command
            .args(&self.arguments)
            .env_clear()
            .env("LC_MESSAGES", "C")
            .env("LANGUAGE", "C");
        command
            .stdin(self.stdin)
            .stdout(self.stdout)
            .stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        let mut secrets = Vec::new();
        let settings = match self.connection {
            Some(connection) => {
                let (folder, variables) = settings_for(connection).map_err(PgError::Settings)?;
                command.envs(variables);
                secrets.extend(connection.password().map(str::to_owned));
                secrets.extend(connection.setting("sslpassword").map(str::to_owned));
                // Between any two letters is an empty text, and it hides nothing.
                secrets.retain(|secret| !secret.is_empty());
                Some(folder)
            }
            None => None,
        };
        let mut process = command.spawn().map_err(started)?;
        let stderr = process.stderr.take().expect("stderr was piped");
        let stderr = tokio::spawn(drain(stderr, self.name, secrets, self.on_line));
        let group = process
            .id()
            .and_then(|id| rustix::process::Pid::from_raw(i32::try_from(id).ok()?));
        Ok(Child {
            name: self.name,
            group,
            process,
            stderr: Some(stderr),
            _settings: settings,
        })
    }
}

impl Child {
    /// The child's stdin; `None` the second time or where it was not piped.
    pub(super) fn take_stdin(&mut self) -> Option<ChildStdin> {
        let stdin = self.process.stdin.take()?;
        widen(&stdin);
        Some(stdin)
    }

    /// The child's stdout; `None` the second time or where it was not piped.
    pub(super) fn take_stdout(&mut self) -> Option<ChildStdout> {
        let stdout = self.process.stdout.take()?;
        widen(&stdout);
        Some(stdout)
    }

    /// Waits for the end: exit code 0, or an error with what the child said. A signal is a failure too.
    pub(super) async fn finish(mut self) -> Result<Stderr, PgError> {
        let status = self.process.wait().await.map_err(|source| PgError::Pipe {
            operation: "wait for the client program",
            source,
        })?;
        // Its own children may still hold stderr open; they have no business any more.
        self.end_group();
        let said = match self.stderr.take() {
            Some(drained) => drained.await.unwrap_or_default(),
            None => Stderr::default(),
        };
        if status.success() {
            return Ok(said);
        }
        Err(PgError::Client {
            program: self.name,
            ended: Ended::of(status),
            stderr: said.tail,
        })
    }

    fn end_group(&mut self) {
        if let Some(group) = self.group.take() {
            // A group that is gone already is what is wanted.
            let _gone = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.end_group();
    }
}

/// A pipe that cannot be widened is only slower.
fn widen(pipe: impl std::os::fd::AsFd) {
    if let Err(error) = rustix::pipe::fcntl_setpipe_size(pipe, PIPE_BYTES) {
        tracing::debug!(%error, "pipe stays at its default size");
    }
}

/// Reads stderr to its end, so that a child that says much never blocks on us.
async fn drain(
    stderr: ChildStderr,
    program: &'static str,
    secrets: Vec<String>,
    on_line: Option<OnLine>,
) -> Stderr {
    let mut reader = BufReader::new(stderr);
    let mut said = Stderr::default();
    let mut warnings_left_out = 0_u64;
    let mut line = Vec::new();
    while let Ok(true) = next_line(&mut reader, &mut line).await {
        let mut text = String::from_utf8_lossy(&line).trim_end().to_owned();
        for secret in &secrets {
            text = text.replace(secret.as_str(), "[redacted]");
        }
        if is_chatter(&text, program) {
            if let Some(on_line) = &on_line {
                on_line(&text);
            }
            continue;
        }
        if text.starts_with(program) && text[program.len()..].starts_with(": warning:") {
            if said.warnings.len() < WARNINGS_KEPT {
                said.warnings.push(text.clone());
            } else {
                warnings_left_out += 1;
            }
        }
        said.tail.push_str(&text);
        said.tail.push('\n');
        keep_end(&mut said.tail);
    }
    said.tail.truncate(said.tail.trim_end().len());
    if warnings_left_out > 0 {
        let rest = format!("{program}: and {warnings_left_out} warnings more");
        said.warnings.push(rest);
    }
    said
}

/// Reads up to a line's end, and no further than one line may be long.
async fn next_line(
    reader: &mut BufReader<ChildStderr>,
    line: &mut Vec<u8>,
) -> std::io::Result<bool> {
    line.clear();
    loop {
        let available = reader.fill_buf().await?;
        if available.is_empty() {
            return Ok(!line.is_empty());
        }
        let end = available.iter().position(|byte| *byte == b'\n');
        let take = end.map_or(available.len(), |at| at + 1);
        let room = STDERR_LINE_BYTES_MAX.saturating_sub(line.len());
        line.extend_from_slice(&available[..take.min(room)]);
        reader.consume(take);
        if end.is_some() {
            return Ok(true);
        }
    }
}

/// With `--verbose`, the programs say what they do; an error must not drown in that.
fn is_chatter(line: &str, program: &str) -> bool {
    let Some(message) = line
        .strip_prefix(program)
        .and_then(|rest| rest.strip_prefix(": "))
    else {
        return false;
    };
    const SAID_ON_FAILURE: [&str; 8] = [
        "error:",
        "fatal:",
        "warning:",
        "detail:",
        "hint:",
        "from TOC entry",
        "while ",
        "[archiver",
    ];
    !SAID_ON_FAILURE.iter().any(|word| message.starts_with(word))
}

fn keep_end(text: &mut String) {
    if text.len() > STDERR_BYTES_KEPT {
        let mut from = text.len() - STDERR_BYTES_KEPT;
        while !text.is_char_boundary(from) {
            from += 1;
        }
        text.drain(..from);
    }
}

/// Writes the private files and names the variables that make libpq read them.
fn settings_for(
    connection: &Connection,
) -> std::io::Result<(TempDir, Vec<(&'static str, OsString)>)> {
    let folder = tempfile::Builder::new()
        .prefix("pgseal-")
        .permissions(Permissions::from_mode(0o700))
        .tempdir()?;
    let mut variables: Vec<(&'static str, OsString)> = Vec::new();
    variables.extend(
        connection
            .variables()
            .map(|(name, value)| (name, value.into())),
    );
    let list = |of: &dyn Fn(&crate::model::connection::Host) -> String| {
        connection
            .hosts()
            .iter()
            .map(of)
            .collect::<Vec<_>>()
            .join(",")
    };
    variables.push(("PGHOST", list(&|host| host.name.clone()).into()));
    variables.push(("PGPORT", list(&|host| host.port.to_string()).into()));
    if connection.hosts().iter().any(|host| host.address.is_some()) {
        variables.push((
            "PGHOSTADDR",
            list(&|host| host.address.clone().unwrap_or_default()).into(),
        ));
    }
    variables.push(("PGUSER", connection.role().into()));
    variables.push(("PGDATABASE", connection.database().into()));
    if let Some(password) = connection.password() {
        // A backslash and a colon are the file's own signs (manual, section 34.16).
        let escaped = password.replace('\\', "\\\\").replace(':', "\\:");
        let path = write_private(&folder, "pgpass", &format!("*:*:*:*:{escaped}\n"))?;
        variables.push(("PGPASSFILE", path.into()));
    }
    let service: String = connection
        .service_settings()
        .map(|(keyword, value)| format!("{keyword}={value}\n"))
        .collect();
    if !service.is_empty() {
        let path = write_private(&folder, "pg_service.conf", &format!("[pgseal]\n{service}"))?;
        variables.push(("PGSERVICEFILE", path.into()));
        variables.push(("PGSERVICE", "pgseal".into()));
    }
    Ok((folder, variables))
}

fn write_private(folder: &TempDir, name: &str, content: &str) -> std::io::Result<PathBuf> {
    let path = folder.path().join(name);
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)?;
    file.write_all(content.as_bytes())?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chatter_is_told_from_what_matters() {
        for chatter in [
            "pg_dump: reading schemas",
            "pg_dump: dumping contents of table \"public.a\"",
        ] {
            assert!(is_chatter(chatter, "pg_dump"), "{chatter}");
        }
        for said in [
            "pg_dump: error: query failed",
            "pg_dump: warning: x",
            "ERROR: relation",
            "pg_dump: detail: y",
        ] {
            assert!(!is_chatter(said, "pg_dump"), "{said}");
        }
    }

    #[test]
    fn only_the_end_of_a_flood_is_kept() {
        let mut text = "é".repeat(STDERR_BYTES_KEPT);
        keep_end(&mut text);
        assert!(text.len() <= STDERR_BYTES_KEPT);
        assert!(text.chars().all(|c| c == 'é'));
    }

    #[test]
    fn a_password_is_in_the_private_file_alone() {
        let connection =
            Connection::parse("postgres://r:ca%3An%5Cary@h:1/d?keepalives=0&sslmode=disable")
                .unwrap();
        let (folder, variables) = settings_for(&connection).unwrap();
        assert!(
            variables
                .iter()
                .all(|(_, value)| !value.to_string_lossy().contains("ca:n"))
        );
        let pgpass = std::fs::read_to_string(folder.path().join("pgpass")).unwrap();
        assert_eq!(pgpass, "*:*:*:*:ca\\:n\\\\ary\n");
        let service = std::fs::read_to_string(folder.path().join("pg_service.conf")).unwrap();
        assert_eq!(service, "[pgseal]\nkeepalives=0\n");
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder.path().join("pgpass")), 0o600);
        assert_eq!(mode(folder.path()), 0o700);
    }
}
