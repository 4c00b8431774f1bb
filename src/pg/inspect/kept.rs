//! The databases of a server that restores made or set aside, known by the record in their comments.

use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::database::{comment_statement, identifier, make_droppable};
use super::lock::holder;
use super::session::Session;
use crate::model::kept::{KeptRecord, is_working_name};
use crate::pg::error::PgError;

/// A database that a restore made or set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptDatabase {
    /// Its name.
    pub name: String,
    /// What its comment says of it. `None`: a restore was interrupted before it could write that.
    pub record: Option<KeptRecord>,
    /// Its size; `None` where this role may not know.
    pub size_bytes: Option<u64>,
    /// Whether a backup, restore or rollback of its live database is running.
    pub is_at_work: bool,
}

/// Every database of the server that a restore made or set aside, the oldest first.
///
/// # Errors
/// The server refuses.
pub async fn kept_databases(maintenance: &mut Session) -> Result<Vec<KeptDatabase>, PgError> {
    let doing = "look for databases that restores left";
    let sql = "SELECT datname::text, pg_catalog.shobj_description(oid, 'pg_database'), \
            CASE WHEN pg_catalog.has_database_privilege(oid, 'CONNECT') \
                THEN pg_catalog.pg_database_size(oid) END \
        FROM pg_catalog.pg_database WHERE datname ~ '_(restore|before|undone)_[0-9a-f]{8}$' ORDER BY 1";
    let rows = maintenance.rows(doing, sql).await?;
    let kept = |row: &PgRow| -> Result<Option<KeptDatabase>, sqlx::Error> {
        let (name, comment): (String, Option<String>) = (row.try_get(0)?, row.try_get(1)?);
        let size: Option<i64> = row.try_get(2)?;
        let record = comment
            .as_ref()
            .and_then(|comment| KeptRecord::read(&name, comment));
        // Whoever gave it a comment of another kind made it his own.
        if record.is_none() && (comment.is_some() || !is_working_name(&name)) {
            return Ok(None);
        }
        Ok(Some(KeptDatabase {
            name,
            record,
            size_bytes: size.and_then(|size| size.try_into().ok()),
            is_at_work: false,
        }))
    };
    let kept: Result<Vec<Option<KeptDatabase>>, _> = rows.iter().map(kept).collect();
    let kept = kept.map_err(|source| PgError::Query { doing, source })?;
    let mut kept: Vec<KeptDatabase> = kept.into_iter().flatten().collect();
    for one in &mut kept {
        if let Some(record) = &one.record {
            one.is_at_work = holder(maintenance, &record.database).await?.is_some();
        }
    }
    kept.sort_by_key(|one| one.record.as_ref().map(|record| record.at));
    Ok(kept)
}

/// Writes the record of a database into its comment.
///
/// # Errors
/// The server refuses.
pub async fn write_record(
    maintenance: &mut Session,
    name: &str,
    record: &KeptRecord,
) -> Result<(), PgError> {
    let sql = comment_statement(name, Some(&record.to_comment()));
    maintenance
        .run("write down what the database is", &sql)
        .await
}

/// The comment of a database.
///
/// # Errors
/// The server refuses.
pub async fn database_comment(
    maintenance: &mut Session,
    name: &str,
) -> Result<Option<String>, PgError> {
    let doing = "read the database's comment";
    let sql = "SELECT pg_catalog.shobj_description(oid, 'pg_database') FROM pg_catalog.pg_database WHERE datname = $1";
    let row = sqlx::query(sql)
        .persistent(false)
        .bind(name)
        .fetch_optional(&mut maintenance.inner)
        .await;
    row.and_then(|row| row.map_or(Ok(None), |row| row.try_get(0)))
        .map_err(|source| PgError::Query { doing, source })
}

/// Drops a kept database, unless somebody is connected to it; it stays what it was then.
///
/// # Errors
/// Somebody is, or the server refuses.
pub async fn drop_unused_database(maintenance: &mut Session, name: &str) -> Result<(), PgError> {
    let was_template = make_droppable(maintenance, name).await?;
    let sql = format!("DROP DATABASE {}", identifier(name));
    let dropped = maintenance.run("drop the database", &sql).await;
    if dropped.is_err() && was_template {
        let sql = format!("ALTER DATABASE {} IS_TEMPLATE true", identifier(name));
        if let Err(error) = maintenance.run("make it a template again", &sql).await {
            tracing::warn!(%error, database = name, "A kept database is no template any more");
        }
    }
    dropped
}
