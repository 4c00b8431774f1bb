//! How a connection URL becomes a session: hosts in turn, TLS, a time limit, the wanted kind of server.
//!
//! Both that which looks into a user's database and that which keeps our own tables go through here, so that one URL
//! means the same to both.

use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions as _, Connection as _, Row as _};

use crate::model::connection::{Connection, Host};

/// How long one host may take to answer where the URL says nothing: libpq would wait for the kernel, minutes.
const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
/// Where a server's socket is when no host is named: Debian's place, then PostgreSQL's own.
const SOCKET_FOLDERS: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// Why no server could be reached.
#[derive(Debug, thiserror::Error)]
pub enum ReachError {
    /// No server answered, or it refused us.
    #[error(
        "connect to {to}\nhint: check host, port, role, password and database of the connection URL"
    )]
    Connect {
        /// Role, host, port and database; never the password.
        to: String,
        /// The last failure.
        #[source]
        source: sqlx::Error,
    },
    /// The password cannot be prepared for SCRAM (RFC 7677), as characters that are newer than Unicode 3.2 cannot.
    #[error(
        "connect to {to}: the password has characters that SASLprep (RFC 4013) prohibits\n\
         hint: give the role a password without emoji and control characters: ALTER ROLE ... PASSWORD ..."
    )]
    Password {
        /// Role, host, port and database.
        to: String,
    },
    /// The server that answered is not of the wanted kind.
    #[error("connect to {to}: no server has target_session_attrs={wanted}")]
    SessionAttributes {
        /// Role, hosts and database.
        to: String,
        /// The wanted value.
        wanted: String,
    },
}

impl ReachError {
    /// No server of the wanted kind (`target_session_attrs`) was among those that answered.
    #[must_use]
    pub fn unwanted(connection: &Connection) -> Self {
        let wanted = connection.setting("target_session_attrs").unwrap_or("any");
        Self::SessionAttributes {
            to: connection.to_string(),
            wanted: wanted.to_owned(),
        }
    }

    /// Whether the URL's own settings are at fault, and no server was asked.
    #[must_use]
    pub const fn is_configuration(&self) -> bool {
        matches!(
            self,
            Self::Connect {
                source: sqlx::Error::Configuration(_),
                ..
            }
        )
    }

    /// The server's own code for its refusal (SQLSTATE), where it answered at all.
    #[must_use]
    pub fn code(&self) -> Option<String> {
        match self {
            Self::Connect {
                source: sqlx::Error::Database(error),
                ..
            } => error.code().map(|code| code.to_string()),
            _ => None,
        }
    }
}

/// The connection, once for each host that is to be tried; where none is named, for the sockets that are there.
pub fn candidates(connection: &Connection) -> impl Iterator<Item = Connection> {
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
    connection
        .hosts()
        .iter()
        .map(move |host| connection.with_host(with_socket(host)))
}

/// Opens a session with the first host of a connection, within its `connect_timeout`.
///
/// # Errors
/// It does not answer, or refuses.
pub async fn open(connection: &Connection) -> Result<PgConnection, ReachError> {
    let limit = connection
        .setting("connect_timeout")
        .and_then(|text| text.parse().ok())
        .filter(|seconds| *seconds > 0)
        .map_or(CONNECT_TIMEOUT_DEFAULT, Duration::from_secs);
    let options = options(connection)?;
    let timed_out = |_| sqlx::Error::Io(std::io::ErrorKind::TimedOut.into());
    let connected = tokio::time::timeout(limit, PgConnection::connect_with(&options)).await;
    connected
        .map_err(timed_out)
        .and_then(|result| result)
        .map_err(|source| refused(connection, source))
}

/// The first host of a connection as the library wants it.
///
/// # Errors
/// A setting that the library does not take.
pub fn options(connection: &Connection) -> Result<PgConnectOptions, ReachError> {
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
    let parsed = url.parse::<PgConnectOptions>();
    let mut options = parsed.map_err(|source| refused(connection, source))?;
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
pub fn refused(connection: &Connection, source: sqlx::Error) -> ReachError {
    let to = connection.to_string();
    match source {
        sqlx::Error::Configuration(error) if error.to_string().contains("saslprep") => {
            ReachError::Password { to }
        }
        source => ReachError::Connect { to, source },
    }
}

/// Whether the server is of the wanted kind: `target_session_attrs` as libpq has it (manual, section 34.1.2).
///
/// # Errors
/// A question to the server fails.
pub async fn is_wanted(
    session: &mut PgConnection,
    connection: &Connection,
) -> Result<bool, sqlx::Error> {
    let Some(wanted) = connection.setting("target_session_attrs") else {
        return Ok(true);
    };
    let sql = "SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('transaction_read_only')";
    let row = sqlx::query(sql)
        .persistent(false)
        .fetch_one(session)
        .await?;
    let (standby, read_only): (bool, String) = (row.try_get(0)?, row.try_get(1)?);
    Ok(match wanted {
        "read-write" => read_only == "off",
        "read-only" => read_only == "on",
        "primary" => !standby,
        "standby" => standby,
        _ => true,
    })
}
