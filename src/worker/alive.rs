//! A worker's sign of life for a health check on its own machine: a small file that its loops write again and again.
//!
//! It needs no Redis: a check that fails whenever Redis is down would have healthy workers killed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, test_kill_process};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// What the files' names begin with.
const PREFIX: &str = "pgseal-worker-";
/// What they end with.
const SUFFIX: &str = ".alive.json";
/// How often the file is written.
pub(super) const INTERVAL: Duration = Duration::from_secs(5);
/// A file that was not written for so long belongs to a worker that hangs. Busy machines are slow, so not much less.
const SILENT_AFTER: time::Duration = time::Duration::seconds(60);

/// What a worker says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alive {
    /// Its name.
    pub name: String,
    /// Its process.
    pub pid: u32,
    /// `starting`, `idle`, `busy` or `suspended`.
    pub state: String,
    /// What it runs.
    pub job_id: Option<String>,
    /// When it wrote this.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
}

/// Why no worker counts as alive.
#[derive(Debug, thiserror::Error)]
pub enum AliveError {
    /// None has written a file.
    #[error("no worker runs here: none has left a sign of life in {}\nhint: pgseal worker starts one; check with the same BACKUP_SPOOL_DIR, as the same user", .0.display())]
    None(PathBuf),
    /// The one that did is gone, or hangs.
    #[error("worker {name} (process {pid}) {what}\nhint: start it again")]
    Dead {
        /// Its name.
        name: String,
        /// Its process.
        pid: u32,
        /// What is wrong with it.
        what: String,
    },
    /// The folder cannot be read.
    #[error("look for signs of life in {}", .0.display())]
    Read(PathBuf, #[source] std::io::Error),
}

/// The file of a worker of this process.
#[must_use]
pub(super) fn file(folder: &Path) -> PathBuf {
    folder.join(format!("{PREFIX}{}{SUFFIX}", std::process::id()))
}

impl Alive {
    /// Writes the file, whole or not at all.
    pub(super) fn write(&self, path: &Path) -> std::io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("."));
        let file = tempfile::NamedTempFile::new_in(folder)?;
        serde_json::to_writer(&file, self)?;
        file.persist(path)?;
        Ok(())
    }

    fn problem(&self, now: OffsetDateTime) -> Option<String> {
        if !is_there(self.pid) {
            return Some("is gone".to_owned());
        }
        let silent = now - self.at;
        (silent > SILENT_AFTER).then(|| {
            format!(
                "hangs: its last sign of life is {} s old",
                silent.whole_seconds()
            )
        })
    }
}

/// The workers of this machine that live.
///
/// # Errors
/// There is none; or one of them does not live, which is told rather than hidden behind another one that does.
pub fn living(folder: &Path, now: OffsetDateTime) -> Result<Vec<Alive>, AliveError> {
    let failed = |error| AliveError::Read(folder.to_owned(), error);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if name.is_none_or(|name| !name.starts_with(PREFIX) || !name.ends_with(SUFFIX)) {
            continue;
        }
        // One that ends takes its file away between the two looks.
        let Ok(text) = std::fs::read(&path) else {
            continue;
        };
        found.extend(serde_json::from_slice::<Alive>(&text).ok());
    }
    // The file of one that was killed stays; beside a younger one it says nothing.
    let (living, dead): (Vec<_>, Vec<_>) = found
        .into_iter()
        .partition(|alive| alive.problem(now).is_none());
    let hanging = dead.iter().find(|alive| is_there(alive.pid));
    match (living.is_empty(), hanging.or(dead.first())) {
        (true, None) => Err(AliveError::None(folder.to_owned())),
        (false, None) => Ok(living),
        (false, Some(_)) if hanging.is_none() => Ok(living),
        (_, Some(dead)) => Err(AliveError::Dead {
            name: dead.name.clone(),
            pid: dead.pid,
            what: dead.problem(now).unwrap_or_default(),
        }),
    }
}

/// Whether a process runs. One that was killed can still be signalled until its parent has asked how it ended, and in a
/// container often nobody does.
fn is_there(pid: u32) -> bool {
    let process = i32::try_from(pid).ok().and_then(Pid::from_raw);
    process.is_some_and(|pid| test_kill_process(pid).is_ok()) && !is_zombie(pid)
}

/// By proc_pid_stat(5): the state is behind the program's name, which is in parentheses and may hold some itself.
fn is_zombie(pid: u32) -> bool {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(|byte| *byte == b')').next().unwrap_or_default();
    state.trim_ascii_start().starts_with(b"Z")
}
