//! What a restore asks of the server it goes to.

use std::collections::BTreeMap;
use std::path::PathBuf;

use sqlx::Row as _;

use super::session::Session;
use crate::pg::error::PgError;

/// Those of `wanted` that the server does not have. Roles that begin with `pg_` are PostgreSQL's own.
///
/// # Errors
/// The server refuses.
pub async fn missing_roles(
    session: &mut Session,
    wanted: &[String],
) -> Result<Vec<String>, PgError> {
    let sql = "SELECT w FROM pg_catalog.unnest($1::text[]) w \
        WHERE w !~ '^pg_' AND NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = w) ORDER BY 1";
    let doing = "look for the backup's roles";
    let rows = sqlx::query(sql)
        .persistent(false)
        .bind(wanted)
        .fetch_all(&mut session.inner)
        .await;
    rows.and_then(|rows| rows.iter().map(|row| row.try_get(0)).collect())
        .map_err(|source| PgError::Query { doing, source })
}

/// An extension of a backup, and what the server makes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfferedExtension {
    /// Its name.
    pub name: String,
    /// The version that was recorded.
    pub recorded: String,
    /// The version that the server would install; `None`: it cannot install any.
    pub offered: Option<String>,
    /// The version that the session's database has already.
    pub installed: Option<String>,
    /// Who owns the one that the session's database has, where that is somebody whom this role cannot act for.
    pub others: Option<String>,
}

/// What the server makes of the `wanted` extensions.
///
/// # Errors
/// The server refuses.
pub async fn offered_extensions(
    session: &mut Session,
    wanted: &BTreeMap<String, String>,
) -> Result<Vec<OfferedExtension>, PgError> {
    let doing = "look for the backup's extensions";
    let sql = "SELECT w.name, w.version, a.default_version, \
            CASE WHEN NOT pg_catalog.pg_has_role(e.extowner, 'USAGE') THEN pg_catalog.pg_get_userbyid(e.extowner)::text END, \
            e.extversion \
        FROM unnest($1::text[], $2::text[]) w(name, version) \
        LEFT JOIN pg_catalog.pg_available_extensions a ON a.name = w.name \
        LEFT JOIN pg_catalog.pg_extension e ON e.extname = w.name ORDER BY 1";
    let (names, versions): (Vec<String>, Vec<String>) = wanted.clone().into_iter().unzip();
    let rows = sqlx::query(sql)
        .persistent(false)
        .bind(names)
        .bind(versions)
        .fetch_all(&mut session.inner)
        .await;
    let read = |row: &sqlx::postgres::PgRow| -> Result<OfferedExtension, sqlx::Error> {
        Ok(OfferedExtension {
            name: row.try_get(0)?,
            recorded: row.try_get(1)?,
            offered: row.try_get(2)?,
            others: row.try_get(3)?,
            installed: row.try_get(4)?,
        })
    };
    rows.and_then(|rows| rows.iter().map(read).collect())
        .map_err(|source| PgError::Query { doing, source })
}

/// The folder that a new database's files go to. `None` where it is not on this machine, or this role may not know it.
///
/// # Errors
/// The server refuses.
pub async fn data_folder(
    session: &mut Session,
    tablespace: Option<&str>,
) -> Result<Option<PathBuf>, PgError> {
    let doing = "look for the server's data folder";
    let host = &session.connection().hosts()[0];
    let (place, port) = (host.address.as_ref().unwrap_or(&host.name), host.port);
    if !(place.starts_with('/') || ["localhost", "127.0.0.1", "::1"].contains(&place.as_str())) {
        return Ok(None);
    }
    let may = "SELECT pg_catalog.pg_has_role('pg_read_all_settings', 'USAGE')";
    if !session.value::<bool>(doing, may).await? {
        return Ok(None);
    }
    let main: String = session
        .value(doing, "SELECT pg_catalog.current_setting('data_directory')")
        .await?;
    let main = PathBuf::from(main);
    // Behind a forwarded port the same path may be another machine's: the running server has written its port there.
    let pid_file = std::fs::read_to_string(main.join("postmaster.pid")).unwrap_or_default();
    if pid_file.lines().nth(3) != Some(&port.to_string()) {
        return Ok(None);
    }
    let Some(tablespace) = tablespace else {
        return Ok(Some(main));
    };
    let sql = "SELECT nullif(pg_catalog.pg_tablespace_location(oid), '') FROM pg_catalog.pg_tablespace WHERE spcname = $1";
    let row = sqlx::query(sql)
        .persistent(false)
        .bind(tablespace)
        .fetch_optional(&mut session.inner)
        .await;
    let location: Option<String> = row
        .and_then(|row| row.map_or(Ok(None), |row| row.try_get(0)))
        .map_err(|source| PgError::Query { doing, source })?;
    Ok(Some(location.map_or(main, PathBuf::from)))
}
