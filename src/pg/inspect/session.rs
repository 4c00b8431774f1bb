//! A session with the server: it finds the host that answers, and keeps it for everything that follows.

use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgRow};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, Row as _};

use crate::model::connection::{Connection, Host};
use crate::pg::error::PgError;

/// How long one host may take to answer where the URL says nothing: libpq would wait for the kernel, minutes.
const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
/// Where a server's socket is when no host is named: Debian's place, then PostgreSQL's own.
const SOCKET_FOLDERS: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// What the server says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// `server_version`.
    pub version: String,
    /// `server_version_num`.
    pub version_num: u32,
}

impl Server {
    /// The major version.
    #[must_use]
    pub const fn major(&self) -> u32 {
        self.version_num / 10_000
    }
}

/// A session with one server.
pub struct Session {
    pub(super) inner: PgConnection,
    connection: Connection,
    server: Server,
}

impl Session {
    /// Connects to the first host that answers and is of the wanted kind (`target_session_attrs`), and turns off
    /// what would end a long session: the role or the database may have set timeouts.
    ///
    /// # Errors
    /// No host answers, or none is of the wanted kind.
    pub async fn connect(connection: &Connection) -> Result<Self, PgError> {
        let mut last = None;
        for host in candidates(connection) {
            let single = connection.with_host(host);
            match Self::connect_to(single).await {
                Ok(mut session) => {
                    if session.has_wanted_attributes().await? {
                        return Ok(session);
                    }
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| PgError::SessionAttributes {
            to: connection.to_string(),
            wanted: connection
                .setting("target_session_attrs")
                .unwrap_or("any")
                .to_owned(),
        }))
    }

    async fn connect_to(connection: Connection) -> Result<Self, PgError> {
        let failed = |source| refused(&connection, source);
        let options = options(&connection).map_err(failed)?;
        let seconds = connection
            .setting("connect_timeout")
            .and_then(|text| text.parse().ok())
            .filter(|s| *s > 0);
        let limit = seconds.map_or(CONNECT_TIMEOUT_DEFAULT, Duration::from_secs);
        let timed_out = |_| sqlx::Error::Io(std::io::ErrorKind::TimedOut.into());
        let connected = tokio::time::timeout(limit, PgConnection::connect_with(&options)).await;
        let mut inner = connected
            .map_err(timed_out)
            .and_then(|result| result)
            .map_err(failed)?;
        // Before anything else is asked: the limits may be shorter than a question takes.
        lift_limits(&mut inner).await.map_err(failed)?;
        let server = server(&mut inner).await.map_err(failed)?;
        Ok(Self {
            inner,
            connection,
            server,
        })
    }

    /// The connection with the one host that answered.
    #[must_use]
    pub const fn connection(&self) -> &Connection {
        &self.connection
    }

    /// What the server says of itself.
    #[must_use]
    pub const fn server(&self) -> &Server {
        &self.server
    }

    /// Ends the session in order; what it held is released.
    pub async fn close(self) {
        // The server releases everything when the connection ends, however it ends.
        if let Err(error) = self.inner.close().await {
            tracing::debug!(%error, "close the session");
        }
    }

    pub(super) async fn run(&mut self, doing: &'static str, sql: &str) -> Result<(), PgError> {
        let sql = sqlx::AssertSqlSafe(sql.to_owned());
        self.inner
            .execute(sqlx::raw_sql(sql))
            .await
            .map(drop)
            .map_err(|source| PgError::Query { doing, source })
    }

    /// The rows of a question without parameters.
    pub(super) async fn rows(
        &mut self,
        doing: &'static str,
        sql: &str,
    ) -> Result<Vec<PgRow>, PgError> {
        let sql = sqlx::AssertSqlSafe(sql.to_owned());
        sqlx::query(sql)
            .persistent(false)
            .fetch_all(&mut self.inner)
            .await
            .map_err(|source| PgError::Query { doing, source })
    }

    /// The single value of a question without parameters.
    pub(super) async fn value<T>(&mut self, doing: &'static str, sql: &str) -> Result<T, PgError>
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        let sql = sqlx::AssertSqlSafe(sql.to_owned());
        let row = sqlx::query(sql)
            .persistent(false)
            .fetch_one(&mut self.inner)
            .await;
        row.and_then(|row| row.try_get(0))
            .map_err(|source| PgError::Query { doing, source })
    }

    /// `target_session_attrs` as libpq has it (manual, section 34.1.2).
    async fn has_wanted_attributes(&mut self) -> Result<bool, PgError> {
        let Some(wanted) = self
            .connection
            .setting("target_session_attrs")
            .map(str::to_owned)
        else {
            return Ok(true);
        };
        let doing = "ask whether the server is a standby";
        let standby: bool = self
            .value(doing, "SELECT pg_catalog.pg_is_in_recovery()")
            .await?;
        let read_only: String = self
            .value(
                doing,
                "SELECT pg_catalog.current_setting('transaction_read_only')",
            )
            .await?;
        Ok(match wanted.as_str() {
            "read-write" => read_only == "off",
            "read-only" => read_only == "on",
            "primary" => !standby,
            "standby" => standby,
            _ => true,
        })
    }
}

/// The hosts to try; where none is named, the sockets that are there.
fn candidates(connection: &Connection) -> Vec<Host> {
    let with_socket = |host: &Host| -> Host {
        if !host.name.is_empty() || host.address.is_some() {
            return host.clone();
        }
        let socket = |folder: &&&str| {
            std::path::Path::new(folder)
                .join(format!(".s.PGSQL.{}", host.port))
                .exists()
        };
        let name = SOCKET_FOLDERS
            .iter()
            .find(socket)
            .copied()
            .unwrap_or("localhost");
        Host {
            name: name.to_owned(),
            ..host.clone()
        }
    };
    connection.hosts().iter().map(with_socket).collect()
}

fn options(connection: &Connection) -> Result<PgConnectOptions, sqlx::Error> {
    let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let host = &connection.hosts()[0];
    let place = host.address.as_ref().unwrap_or(&host.name);
    let mut url = format!(
        "postgres://{}@localhost:{}/{}?host={}",
        encode(connection.role()),
        host.port,
        encode(connection.database()),
        encode(place)
    );
    for keyword in ["sslmode", "sslrootcert", "sslcert", "sslkey", "options"] {
        if let Some(value) = connection.setting(keyword) {
            url.push_str(&format!("&{keyword}={}", encode(value)));
        }
    }
    let mut options: PgConnectOptions = url.parse()?;
    if let Some(password) = connection.password() {
        options = options.password(password);
    }
    // A pooler refuses start-up parameters that it does not know; preflight names a pooler better than it does.
    options = options.extra_float_digits(None);
    Ok(options
        .application_name(connection.setting("application_name").unwrap_or("pgseal"))
        .disable_statement_logging())
}

/// The one failure that is not passed on as it is: it repeats a character of the password.
fn refused(connection: &Connection, source: sqlx::Error) -> PgError {
    let to = connection.to_string();
    match source {
        sqlx::Error::Configuration(error) if error.to_string().contains("saslprep") => {
            PgError::Password { to }
        }
        source => PgError::Connect { to, source },
    }
}

/// What the role or the database may have set against long sessions, taken back for this one.
async fn lift_limits(inner: &mut PgConnection) -> Result<(), sqlx::Error> {
    // Told by the server when it let us in; one that tells nothing gets what every version knows.
    let major = inner.server_version_num().unwrap_or(0) / 10_000;
    let transaction = if major >= 17 {
        "SET transaction_timeout = 0;"
    } else {
        ""
    };
    let idle = if major >= 14 {
        "SET idle_session_timeout = 0;"
    } else {
        ""
    };
    let sql = format!(
        "SET statement_timeout = 0; {transaction} {idle} SET lock_timeout = 0; \
         SET idle_in_transaction_session_timeout = 0; SET row_security = off; SET search_path = pg_catalog"
    );
    inner
        .execute(sqlx::raw_sql(sqlx::AssertSqlSafe(sql)))
        .await
        .map(drop)
}

async fn server(inner: &mut PgConnection) -> Result<Server, sqlx::Error> {
    let sql = "SELECT pg_catalog.current_setting('server_version'), pg_catalog.current_setting('server_version_num')";
    let row = sqlx::query(sql).persistent(false).fetch_one(inner).await?;
    let number: String = row.try_get(1)?;
    let version_num = number
        .parse()
        .map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
    Ok(Server {
        version: row.try_get(0)?,
        version_num,
    })
}
