//! The program itself, run as a user runs it: the real binary, in an environment that holds nothing else.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::postgres::{DEBIAN_MAJOR, bin_dir_of};
use super::{folder, scale};

/// The passphrase of the tests; a dummy that secrets tests look for.
pub const PASSPHRASE: &str = "dummy-passphrase-canary-1";
/// Nothing here takes so many seconds, unless it hangs; in the soak, unless it hangs for long.
const SECONDS_MAX: [usize; 2] = [180, 3600];

/// The program with a store, a spool folder and a folder for temporary files of its own.
pub struct Pgseal {
    home: TempDir,
    environment: BTreeMap<OsString, OsString>,
}

/// How a run ended.
pub struct Run {
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: String,
    /// The shape of the command, for messages.
    command: String,
}

/// A run that is still going on. Dropping it kills it.
pub struct Running {
    child: Owned,
    stdout: std::thread::JoinHandle<Vec<u8>>,
    stderr: std::thread::JoinHandle<()>,
    said: Arc<Mutex<Vec<u8>>>,
    command: String,
}

impl Pgseal {
    pub fn new() -> Self {
        let home = folder();
        let folders = ["store", "spool", "tmp", "home"].map(|name| home.path().join(name));
        for folder in &folders {
            std::fs::create_dir(folder).unwrap();
        }
        let [store, spool, tmp, user] = folders;
        let mut pgseal = Self {
            home,
            environment: BTreeMap::new(),
        };
        pgseal
            .set("PATH", "/usr/bin:/bin")
            .set("LC_ALL", "C.UTF-8")
            .set("HOME", user)
            .set("TMPDIR", tmp);
        pgseal
            .set("BACKUP_STORE", format!("file:{}", store.display()))
            .set("BACKUP_SPOOL_DIR", spool)
            // Tests read logs as people do; logs.rs reads them as programs do.
            .set("BACKUP_LOG_FORMAT", "text");
        pgseal.set("BACKUP_GPG_PASSPHRASE", PASSPHRASE);
        pgseal
    }

    /// Sets a variable for every run from here on.
    pub fn set(&mut self, name: &str, value: impl AsRef<OsStr>) -> &mut Self {
        self.environment.insert(name.into(), value.as_ref().into());
        self
    }

    /// A variable that was set.
    pub fn get(&self, name: &str) -> &OsStr {
        &self.environment[OsStr::new(name)]
    }

    /// Takes a variable away.
    pub fn unset(&mut self, name: &str) -> &mut Self {
        self.environment.remove(OsStr::new(name));
        self
    }

    /// Uses programs of a folder instead of the real pg_dump and pg_restore.
    pub fn with_clients(&mut self, folder: &Path) -> &mut Self {
        self.set("BACKUP_PG_BINDIRS", folder)
    }

    /// Lets its clock be off by so much, `+3d` for instance; what measures durations is not.
    pub fn with_clock(&mut self, off: &str) -> &mut Self {
        let library = std::fs::read_dir("/usr/lib")
            .unwrap()
            .map(|folder| folder.unwrap().path().join("faketime/libfaketime.so.1"))
            .find(|library| library.exists())
            .expect("libfaketime is missing: run ./dev setup");
        self.set("LD_PRELOAD", library)
            .set("FAKETIME", off)
            .set("FAKETIME_DONT_FAKE_MONOTONIC", "1")
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgseal"));
        command
            .args(arguments)
            .env_clear()
            .envs(&self.environment)
            .current_dir(self.home.path());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Starts it and does not wait.
    pub fn start(&self, arguments: &[&str]) -> Running {
        Running::start(self.command(arguments), arguments.join(" "))
    }

    /// The command inside another program, which gets it as its last arguments, and its environment and folder.
    pub fn inside(&self, wrapper: &[&str], arguments: &[&str]) -> Running {
        let inner = self.command(arguments);
        let mut outer = Command::new(wrapper[0]);
        outer
            .args(&wrapper[1..])
            .arg(inner.get_program())
            .args(inner.get_args());
        outer
            .env_clear()
            .envs(&self.environment)
            .current_dir(self.home.path());
        outer
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Running::start(outer, arguments.join(" "))
    }

    /// Runs it to its end.
    pub fn run(&self, arguments: &[&str]) -> Run {
        self.start(arguments).wait()
    }

    /// Runs it, and wants it to succeed: what it printed.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let run = self.run(arguments);
        assert_eq!(run.code, 0, "{run}");
        String::from_utf8(run.stdout).unwrap()
    }

    /// Runs it with `--json`, and wants it to succeed: what it printed.
    pub fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let mut arguments = arguments.to_vec();
        arguments.push("--json");
        serde_json::from_str(&self.ok(&arguments)).unwrap()
    }

    /// Runs it, and wants it to end with this code: what it said.
    pub fn fails(&self, code: i32, arguments: &[&str]) -> String {
        let run = self.run(arguments);
        assert_eq!(run.code, code, "{run}");
        run.stderr
    }

    pub fn store(&self) -> PathBuf {
        self.home.path().join("store")
    }

    /// A path for the test's own files, beside the store.
    pub fn file(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Every file of the store, hidden ones too, by its path below the store's root.
    pub fn stored(&self) -> Vec<String> {
        files(&self.store())
    }

    /// Files that no run may leave: temporary ones, spooled ones, staged ones.
    pub fn leftovers(&self) -> Vec<String> {
        let stages = self
            .stored()
            .into_iter()
            .filter(|path| path.contains(".pgseal-stage-"));
        stages
            .chain(files(&self.file("tmp")))
            .chain(files(&self.file("spool")))
            .collect()
    }
}

/// A process that a failed test takes with it.
struct Owned(Child);

impl std::ops::Deref for Owned {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl std::ops::DerefMut for Owned {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        let _killed = self.0.kill();
        let _ended = self.0.wait();
    }
}

impl Running {
    fn start(mut command: Command, name: String) -> Self {
        let mut child = Owned(command.spawn().unwrap());
        let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let stdout = std::thread::spawn(move || {
            let mut all = Vec::new();
            stdout.read_to_end(&mut all).unwrap();
            all
        });
        let said = Arc::new(Mutex::new(Vec::new()));
        let saying = Arc::clone(&said);
        let stderr = std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(read @ 1..) = stderr.read(&mut piece) {
                saying.lock().unwrap().extend_from_slice(&piece[..read]);
            }
        });
        Self {
            child,
            stdout,
            stderr,
            said,
            command: name,
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal. One that has ended by itself meanwhile gets none, and [`Self::wait`] tells how it ended.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        match kill_process(pid, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => panic!("{error}"),
        }
    }

    /// Waits until it has said this on stderr; `false`: it ended without.
    pub fn until_said(&mut self, words: &str) -> bool {
        loop {
            // In this order: what it said before it ended is there once it has ended.
            let is_running = self.is_running();
            if !is_running {
                std::thread::sleep(Duration::from_millis(20));
            }
            let said = self.said.lock().unwrap().clone();
            if String::from_utf8_lossy(&said).contains(words) {
                return true;
            }
            if !is_running {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub fn wait(mut self) -> Run {
        let started = Instant::now();
        let [quick, soak] = SECONDS_MAX;
        let time_max = Duration::from_secs(scale(quick, soak) as u64);
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if started.elapsed() > time_max {
                let _killed = self.child.kill();
                panic!("pgseal {} hangs", self.command);
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let stdout = self.stdout.join().unwrap();
        self.stderr.join().unwrap();
        let stderr = String::from_utf8_lossy(&self.said.lock().unwrap()).into_owned();
        let command = self.command;
        Run {
            code: status.code().unwrap_or(-1),
            stdout,
            stderr,
            command,
        }
    }
}

impl std::fmt::Display for Run {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            code,
            stderr,
            command,
            ..
        } = self;
        let stdout = String::from_utf8_lossy(&self.stdout);
        write!(
            formatter,
            "pgseal {command} ended with {code}\nstdout:\n{stdout}\nstderr:\n{stderr}"
        )
    }
}

/// Every file below a folder, by its path from there.
pub fn files(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(
                    path.strip_prefix(root)
                        .unwrap()
                        .to_string_lossy()
                        .into_owned(),
                );
            }
        }
    }
    found.sort();
    found
}

/// A folder with a pg_dump and a pg_restore of the test's own: shell scripts, which find the real programs in `$REAL`.
/// `--version` is answered by the real one.
pub fn clients(pg_dump: Option<&str>, pg_restore: Option<&str>) -> TempDir {
    clients_of(DEBIAN_MAJOR, pg_dump, pg_restore)
}

/// As [`clients`], with the real programs of another major version.
pub fn clients_of(major: u32, pg_dump: Option<&str>, pg_restore: Option<&str>) -> TempDir {
    let folder = folder();
    for (name, script) in [("pg_dump", pg_dump), ("pg_restore", pg_restore)] {
        let real = bin_dir_of(major).join(name);
        let path = folder.path().join(name);
        match script {
            None => std::os::unix::fs::symlink(real, path).unwrap(),
            Some(script) => {
                let real = real.display();
                let text = format!(
                    "#!/bin/sh\nREAL='{real}'\ncase \"$1\" in --version) exec \"$REAL\" \"$@\";; esac\n{script}\n"
                );
                std::fs::write(&path, text).unwrap();
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            }
        }
    }
    folder
}
