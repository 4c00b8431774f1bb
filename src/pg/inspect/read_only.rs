//! Whether a session may write, before somebody finds out in the middle of a restore.

use sqlx::Row as _;

use super::database::identifier;
use super::session::Session;
use crate::pg::error::{Finding, PgError};

/// Why sessions of this role in this database may not write, and what changes that; `None`: they may.
///
/// # Errors
/// The server refuses.
pub async fn read_only(session: &mut Session) -> Result<Option<Finding>, PgError> {
    let doing = "look whether the session may write";
    let sql = "SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('transaction_read_only') = 'on', \
            pg_catalog.current_database()::text, \
            (SELECT source FROM pg_catalog.pg_settings WHERE name = 'default_transaction_read_only')";
    let rows = session.rows(doing, sql).await?;
    let read =
        |row: &sqlx::postgres::PgRow| -> Result<(bool, bool, String, Option<String>), sqlx::Error> {
            Ok((
                row.try_get(0)?,
                row.try_get(1)?,
                row.try_get(2)?,
                row.try_get(3)?,
            ))
        };
    let row = rows.first().ok_or(sqlx::Error::RowNotFound).and_then(read);
    let (is_standby, is_read_only, database, source) =
        row.map_err(|source| PgError::Query { doing, source })?;
    if is_standby {
        return Ok(Some(Finding::problem(
            "read only",
            "the server is a standby, where nothing can be written",
            "restore into its primary",
        )));
    }
    let role = session.connection().role().to_owned();
    let source = source.unwrap_or_default();
    Ok(is_read_only.then(|| {
        Finding::problem(
            "read only",
            format!(
                "role {role} may only read in database {database} (default_transaction_read_only)"
            ),
            remedy(&source, &role, &database),
        )
    }))
}

/// By where the setting comes from, in the words of `pg_settings.source`. Whoever runs it may be in such a session, too.
fn remedy(source: &str, role: &str, database: &str) -> String {
    let (role, database) = (identifier(role), identifier(database));
    let whose = match source {
        "client" => {
            return "take default_transaction_read_only out of the connection's options".to_owned();
        }
        "command line" => {
            return "start the server without default_transaction_read_only on its command line"
                .to_owned();
        }
        "database" => format!("ALTER DATABASE {database}"),
        "user" => format!("ALTER ROLE {role}"),
        "database user" => format!("ALTER ROLE {role} IN DATABASE {database}"),
        "global" => "ALTER ROLE ALL".to_owned(),
        _ => "ALTER SYSTEM".to_owned(),
    };
    let reload = if whose == "ALTER SYSTEM" {
        " SELECT pg_reload_conf();"
    } else {
        ""
    };
    format!(
        "SET default_transaction_read_only = off; {whose} SET default_transaction_read_only = off;{reload}"
    )
}
