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
    missing(session, "look for the backup's roles", sql, wanted).await
}

/// Those of `wanted` that the server could not install, whatever their version.
///
/// # Errors
/// The server refuses.
pub async fn missing_extensions(
    session: &mut Session,
    wanted: &BTreeMap<String, String>,
) -> Result<Vec<String>, PgError> {
    let sql = "SELECT w FROM pg_catalog.unnest($1::text[]) w \
        WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_available_extensions WHERE name = w) ORDER BY 1";
    let names: Vec<String> = wanted.keys().cloned().collect();
    missing(session, "look for the backup's extensions", sql, &names).await
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

async fn missing(
    session: &mut Session,
    doing: &'static str,
    sql: &'static str,
    wanted: &[String],
) -> Result<Vec<String>, PgError> {
    let rows = sqlx::query(sql)
        .persistent(false)
        .bind(wanted)
        .fetch_all(&mut session.inner)
        .await;
    let read = |rows: Vec<sqlx::postgres::PgRow>| rows.iter().map(|row| row.try_get(0)).collect();
    rows.and_then(read)
        .map_err(|source| PgError::Query { doing, source })
}
