//! A session with the server: it finds the host that answers, and keeps it for everything that follows.

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Connection as _, Executor as _, Row as _};

use crate::model::connection::Connection;
use crate::pg::error::PgError;
use crate::reach::{self, ReachError};

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
        for single in reach::candidates(connection) {
            match Self::connect_to(single).await {
                Ok(mut session) => {
                    if session.has_wanted_attributes().await? {
                        return Ok(session);
                    }
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| ReachError::unwanted(connection).into()))
    }

    async fn connect_to(connection: Connection) -> Result<Self, PgError> {
        let failed = |source| reach::refused(&connection, source);
        let mut inner = reach::open(&connection).await?;
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

    async fn has_wanted_attributes(&mut self) -> Result<bool, PgError> {
        let doing = "ask whether the server is a standby";
        reach::is_wanted(&mut self.inner, &self.connection)
            .await
            .map_err(|source| PgError::Query { doing, source })
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
