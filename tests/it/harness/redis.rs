//! A private Redis: Debian's, on loopback, with a free port, ended with the test.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};

use pgseal::queue::rq::keys::Keys;
use pgseal::queue::{Queue, RedisAddress};
use redis::FromRedisValue;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::folder;
use super::postgres::free_port;
use super::somebody::until;

/// Tests that share a server have one of its databases each.
const DATABASES: u32 = 4000;

/// A running server. Dropping it kills it.
pub struct Redis {
    folder: TempDir,
    pub port: u16,
    options: Vec<String>,
    server: Mutex<Option<Child>>,
    /// Ends the server when the test process is gone, however it went: its stdin is a pipe that we hold.
    watchdog: Child,
}

/// A database of one test.
pub struct RedisDatabase {
    pub url: String,
    connection: Mutex<redis::Connection>,
}

impl Redis {
    /// The server that tests share.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Redis> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(&[]))
    }

    /// A server of a test's own, with more options, as `--appendonly`, `yes`.
    pub fn start(options: &[&str]) -> Self {
        let folder = folder();
        let path = folder.path().display();
        let script = format!("read _; kill -9 $(cat '{path}/pid'); rm -rf '{path}'");
        let watchdog = Command::new("setsid")
            .args(["sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let redis = Self {
            folder,
            port: free_port(),
            options: options.iter().copied().map(str::to_owned).collect(),
            server: Mutex::new(None),
            watchdog,
        };
        redis.run();
        redis
    }

    /// Starts it, on the files that it has, and waits until it listens.
    pub fn run(&self) {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        let mut command = Command::new("redis-server");
        command
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
            .args(["--dir", &path(""), "--pidfile", &path("pid")])
            .args(["--logfile", &path("log"), "--unixsocket", &path("socket")])
            .args(["--databases", &DATABASES.to_string(), "--save", ""])
            .args(&self.options)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        *self.server.lock().unwrap() = Some(command.spawn().unwrap());
        until("Redis to answer", || {
            let stream = std::os::unix::net::UnixStream::connect(path("socket"));
            stream.is_ok_and(answers)
        });
    }

    /// A path of its socket, or of another file in its folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// kill -9: what was not written to a file is lost.
    pub fn kill(&self) {
        let mut server = self.server.lock().unwrap().take().unwrap();
        server.kill().unwrap();
        server.wait().unwrap();
        let _old = fs::remove_file(self.file("socket"));
    }

    /// Sends a signal: SIGSTOP makes it silent, SIGCONT lets it go on.
    pub fn signal(&self, signal: Signal) {
        let server = self.server.lock().unwrap();
        let pid = Pid::from_child(server.as_ref().unwrap());
        kill_process(pid, signal).unwrap();
    }

    /// An empty database.
    pub fn database(&self) -> RedisDatabase {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed) % DATABASES;
        RedisDatabase::of(format!("redis://127.0.0.1:{}/{number}", self.port))
    }
}

/// PING, in the protocol's short form. A server that loads or wants a password answers too.
fn answers(mut stream: std::os::unix::net::UnixStream) -> bool {
    use std::io::{Read as _, Write as _};
    let mut byte = [0];
    let loading = b'-';
    stream.write_all(b"PING\r\n").is_ok()
        && stream.read_exact(&mut byte).is_ok()
        && (byte[0] != loading || {
            let mut rest = [0; 6];
            stream.read_exact(&mut rest).is_ok() && &rest == b"NOAUTH"
        })
}

impl Drop for Redis {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.lock().unwrap().take() {
            let _killed = server.kill();
            let _ended = server.wait();
        }
        drop(self.watchdog.stdin.take());
        let _ended = self.watchdog.wait();
    }
}

impl RedisDatabase {
    pub fn of(url: String) -> Self {
        let client = redis::Client::open(url.as_str()).unwrap();
        let connection = Mutex::new(client.get_connection().unwrap());
        Self { url, connection }
    }

    pub fn address(&self) -> RedisAddress {
        RedisAddress::parse(&self.url).unwrap()
    }

    /// As a program has it.
    pub async fn queue(&self) -> Queue {
        Queue::connect(&self.address(), Keys::default())
            .await
            .unwrap()
    }

    /// Looks at the keys, past the code that is tested.
    pub fn ask<T: FromRedisValue>(&self, command: &[&str]) -> T {
        self.ask_bytes(
            command[0],
            &command[1..]
                .iter()
                .map(|text| text.as_bytes())
                .collect::<Vec<_>>(),
        )
    }

    /// As [`RedisDatabase::ask`], for arguments that are no text.
    pub fn ask_bytes<T: FromRedisValue>(&self, command: &str, arguments: &[&[u8]]) -> T {
        let mut command = redis::cmd(command);
        for argument in arguments {
            command.arg(*argument);
        }
        let mut connection = self.connection.lock().unwrap();
        command.query(&mut *connection).unwrap()
    }

    /// A field of a hash.
    pub fn field(&self, key: &str, field: &str) -> Option<String> {
        self.ask(&["HGET", key, field])
    }

    /// Every key and what it holds, sorted: what a change left, as a whole.
    pub fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = self.ask(&["KEYS", "*"]);
        keys.sort();
        keys
    }
}
