//! What a restore asks of the server it goes to.

use std::collections::BTreeMap;

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

/// Gathers the planner's statistics of the whole database.
///
/// # Errors
/// The server refuses.
pub async fn analyze(session: &mut Session) -> Result<(), PgError> {
    session
        .run("gather the planner's statistics", "ANALYZE")
        .await
}
