//! What can go wrong with PostgreSQL, each with what to do next.

use std::fmt;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use rustix::process::Signal;

use crate::reach::ReachError;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Works, but an administrator should know.
    Warning,
    /// A backup or restore would fail, or be wrong.
    Problem,
}

/// How a client program ended that did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With an exit code.
    Code(i32),
    /// By a signal's number.
    Signal(i32),
    /// With neither, which no Unix has.
    Unknown,
}

impl Ended {
    pub(super) fn of(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Code(code),
            (None, Some(signal)) => Self::Signal(signal),
            (None, None) => Self::Unknown,
        }
    }

    /// Whether somebody ended it, or the kernel that had no memory left: what it was reading is not at fault. A program
    /// that crashed sends itself other signals.
    #[must_use]
    pub fn is_from_outside(self) -> bool {
        let signals = [Signal::KILL, Signal::TERM, Signal::INT, Signal::HUP];
        matches!(self, Self::Signal(number) if signals.iter().any(|signal| signal.as_raw() == number))
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(formatter, "ended with exit code {code}"),
            Self::Signal(signal) => write!(formatter, "was ended by signal {signal}"),
            Self::Unknown => formatter.write_str("ended without an exit code"),
        }
    }
}

/// Something that was looked at before the work starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What was looked at, in a word or two.
    pub subject: &'static str,
    /// What was found.
    pub found: String,
    /// What to do: a setting or the SQL. Empty where nothing is to be done.
    pub fix: String,
}

impl Finding {
    pub(crate) fn ok(subject: &'static str, found: impl Into<String>) -> Self {
        Self {
            severity: Severity::Ok,
            subject,
            found: found.into(),
            fix: String::new(),
        }
    }

    pub(crate) fn warning(
        subject: &'static str,
        found: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            severity: Severity::Warning,
            subject,
            found: found.into(),
            fix: fix.into(),
        }
    }

    pub(crate) fn problem(
        subject: &'static str,
        found: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            severity: Severity::Problem,
            subject,
            found: found.into(),
            fix: fix.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.subject, self.found)?;
        if !self.fix.is_empty() {
            write!(formatter, "\nhint: {}", self.fix)?;
        }
        Ok(())
    }
}

/// A session that keeps a table from being read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocker {
    /// The table, as the server names it.
    pub table: String,
    /// The session's server process.
    pub pid: i32,
    /// Its role.
    pub role: String,
    /// What it calls itself.
    pub application: String,
    /// What it does, or `idle in transaction`; empty where this role may not know.
    pub state: String,
}

impl fmt::Display for Blocker {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            table, pid, role, ..
        } = self;
        write!(formatter, "{table} by server process {pid} (role {role}")?;
        for detail in [&self.application, &self.state] {
            if !detail.is_empty() {
                write!(formatter, ", {detail}")?;
            }
        }
        formatter.write_str(")")
    }
}

/// Why PostgreSQL, or one of its programs, could not do its part.
#[derive(Debug, thiserror::Error)]
pub enum PgError {
    /// No server of the wanted kind could be reached.
    #[error(transparent)]
    Reach(#[from] ReachError),
    /// A question to the server failed.
    #[error("{doing}")]
    Query {
        /// What was being done.
        doing: &'static str,
        /// The failure.
        #[source]
        source: sqlx::Error,
    },
    /// No client program for this server.
    #[error(
        "no pg_dump and pg_restore for PostgreSQL {wanted} found (found: {found})\n\
         hint: install postgresql-client-{wanted}, or name the folder that holds them in BACKUP_PG_BINDIRS"
    )]
    NoClient {
        /// The wanted major version.
        wanted: u32,
        /// The majors that were found, as text.
        found: String,
    },
    /// Only a client whose archives the server itself cannot take back.
    #[error(
        "only pg_dump {newer} was found for a PostgreSQL {server} server: its archive could not be restored into that server again\n\
         hint: install postgresql-client-{server}, or accept it with --allow-newer-client"
    )]
    OnlyNewerClient {
        /// The server's major.
        server: u32,
        /// The client's major.
        newer: u32,
    },
    /// No client program that was built with the archive's compression.
    #[error(
        "the archive is compressed with {codec}, which none of the fitting pg_restore here was built with (PostgreSQL {found})\n\
         hint: install a postgresql-client with {codec}, or name the folder that holds it in BACKUP_PG_BINDIRS"
    )]
    NoCodec {
        /// The compression.
        codec: &'static str,
        /// The majors that were asked, as text.
        found: String,
    },
    /// A client program could not be started.
    #[error("start {program}")]
    Start {
        /// Its path.
        program: String,
        /// The failure.
        #[source]
        source: std::io::Error,
    },
    /// A client program ended in failure.
    #[error("{program} {ended}{}{}", tail(stderr), hint(*ended))]
    Client {
        /// Its name.
        program: &'static str,
        /// How it ended.
        ended: Ended,
        /// What it said last, without secrets.
        stderr: String,
    },
    /// Bytes could not be moved from or to a client program.
    #[error("{operation}")]
    Pipe {
        /// What was being done.
        operation: &'static str,
        /// The failure.
        #[source]
        source: std::io::Error,
    },
    /// What came out of pg_dump is no archive.
    #[error(
        "pg_dump ended well, but what it wrote is no archive ({0} bytes)\nhint: look at the pg_dump that was used: pgseal doctor names it"
    )]
    NotAnArchive(u64),
    /// The preflight found something that would make the work fail or be wrong.
    #[error("{}", findings(.0))]
    Preflight(Vec<Finding>),
    /// Another backup or restore of the same database is running.
    #[error(
        "another backup or restore of database {database} is running (server process {pid})\nhint: wait for it, or end it with SELECT pg_terminate_backend({pid})"
    )]
    Busy {
        /// The database.
        database: String,
        /// The server process that holds the lock.
        pid: i32,
    },
    /// Somebody has tables locked, and did not let go in time.
    #[error("{}\nhint: wait longer with BACKUP_LOCK_WAIT_SECONDS{}", locked(.0), ending(.0))]
    Locked(Vec<Blocker>),
    /// A database that is to be replaced is not there.
    #[error("there is no database {0}\nhint: --mode new creates it")]
    NoSuchDatabase(String),
    /// Sessions in a database could not be ended in time.
    #[error(
        "database {database} could not be renamed in time{}\nhint: end these sessions, or prepared transactions, and try again; a superuser may end any session",
        staying(sessions)
    )]
    Occupied {
        /// The database.
        database: String,
        /// Who is there.
        sessions: Vec<String>,
    },
    /// The connection was lost before the answer to a change came, and the server could not be asked again.
    #[error("the answer was lost, and the server does not say what became of it\nhint: {tell}")]
    Unanswered {
        /// How to find out.
        tell: String,
        /// How it was lost.
        #[source]
        source: Box<PgError>,
    },
    /// `new` was asked for, and the database is there.
    #[error("database {0} exists already\nhint: choose another name, or --mode swap to replace it")]
    DatabaseExists(String),
    /// A private file for a child could not be written.
    #[error(
        "write the connection settings for pg_dump and pg_restore\nhint: make room in the folder for temporary files, or name another one in TMPDIR"
    )]
    Settings(#[source] std::io::Error),
}

impl PgError {
    /// Whether the server itself said no, and will again. That it ends the session, or stops, is no such answer (SQLSTATE
    /// class 57P), and a pooler's word for a server that it lost is none either (class 08).
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Query {
                source: sqlx::Error::Database(error),
                ..
            } => error
                .code()
                .is_none_or(|code| !code.starts_with("57P") && !code.starts_with("08")),
            _ => false,
        }
    }

    /// Whether pg_dump ended over the locks of its tables. Its last words are the statement, however long that is; the
    /// server's own message may be in any language.
    #[must_use]
    pub fn is_about_table_locks(&self) -> bool {
        matches!(self, Self::Client { program: "pg_dump", stderr, .. } if stderr.ends_with("IN ACCESS SHARE MODE"))
    }
}

fn tail(stderr: &str) -> String {
    if stderr.is_empty() {
        String::new()
    } else {
        format!(":\n{stderr}")
    }
}

fn hint(ended: Ended) -> &'static str {
    if ended.is_from_outside() {
        "\nhint: somebody ended it, or the kernel did, which had no memory left: the system's log says which; then try again"
    } else {
        ""
    }
}

fn locked(blockers: &[Blocker]) -> String {
    if blockers.is_empty() {
        return "tables were locked or dropped; nobody holds them any more".to_owned();
    }
    let blockers: Vec<String> = blockers.iter().map(ToString::to_string).collect();
    format!("tables are locked: {}", blockers.join("; "))
}

fn staying(sessions: &[String]) -> String {
    if sessions.is_empty() {
        return ": somebody works on the database as a whole".to_owned();
    }
    format!(", because of {}", sessions.join("; "))
}

fn ending(blockers: &[Blocker]) -> String {
    blockers.first().map_or_else(String::new, |first| {
        format!(
            ", or end who blocks: SELECT pg_terminate_backend({})",
            first.pid
        )
    })
}

fn findings(all: &[Finding]) -> String {
    all.iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}
