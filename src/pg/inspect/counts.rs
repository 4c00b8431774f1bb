//! Rows, counted beside the dump and not read out of it, so that a dump that misses rows is found out.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::Row as _;

use super::session::Session;
use crate::model::manifest::TableFacts;
use crate::pg::error::PgError;

/// A table of the user's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// The catalog's object id.
    pub oid: u32,
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// What an extension said to dump of its own table (`pg_extension_config_dump`): a WHERE clause, or empty.
    condition: String,
}

impl Table {
    /// Quoted and qualified, ready for SQL.
    fn sql_name(&self) -> String {
        let quote = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        format!("{}.{}", quote(&self.schema), quote(&self.name))
    }
}

/// Every table that can have rows of its own.
///
/// # Errors
/// The server refuses.
pub async fn tables(session: &mut Session) -> Result<Vec<Table>, PgError> {
    let sql = "SELECT c.oid, n.nspname::text, c.relname::text, coalesce(x.condition, '') \
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
        LEFT JOIN LATERAL (SELECT e.extcondition[i] AS condition FROM pg_catalog.pg_extension e, \
            pg_catalog.generate_subscripts(e.extconfig, 1) i WHERE e.extconfig[i] = c.oid LIMIT 1) x ON true \
        WHERE c.relkind = 'r' AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' \
        ORDER BY 2, 3";
    let doing = "list the tables";
    let rows = session.rows(doing, sql).await?;
    let read = |row: sqlx::postgres::PgRow| -> Result<Table, sqlx::Error> {
        Ok(Table {
            oid: row.try_get::<sqlx::postgres::types::Oid, _>(0)?.0,
            schema: row.try_get(1)?,
            name: row.try_get(2)?,
            condition: row.try_get(3)?,
        })
    };
    rows.into_iter()
        .map(read)
        .collect::<Result<_, _>>()
        .map_err(|source| PgError::Query { doing, source })
}

/// Counts the rows of those `tables` whose object id is in `dumped`. Children of an inheritance tree count for
/// themselves (`ONLY`).
///
/// # Errors
/// The server refuses.
pub async fn count_rows(
    session: &mut Session,
    tables: &[Table],
    dumped: &BTreeSet<u32>,
) -> Result<Vec<TableFacts>, PgError> {
    // The counting must not take more of the server than the one process that the dump itself uses.
    session
        .run(
            "set up the counting",
            "SET max_parallel_workers_per_gather = 0",
        )
        .await?;
    let mut counted = Vec::new();
    for table in tables.iter().filter(|table| dumped.contains(&table.oid)) {
        let sql = format!(
            "SELECT count(*) FROM ONLY {} {}",
            table.sql_name(),
            table.condition
        );
        let rows: i64 = session.value("count rows", &sql).await?;
        let rows = u64::try_from(rows).unwrap_or(0);
        counted.push(TableFacts {
            schema: table.schema.clone(),
            name: table.name.clone(),
            rows: Some(rows),
        });
    }
    Ok(counted)
}

/// The same tables, for a backup that counts no rows.
#[must_use]
pub fn uncounted(tables: &[Table], dumped: &BTreeSet<u32>) -> Vec<TableFacts> {
    let dumped = tables.iter().filter(|table| dumped.contains(&table.oid));
    dumped
        .map(|table| TableFacts {
            schema: table.schema.clone(),
            name: table.name.clone(),
            rows: None,
        })
        .collect()
}

/// Counts the rows of the tables named in a manifest, in another database: `None` for a table that is not there.
///
/// # Errors
/// The server refuses.
pub async fn count_tables(
    session: &mut Session,
    wanted: &[TableFacts],
) -> Result<BTreeMap<(String, String), Option<u64>>, PgError> {
    let wanted: BTreeSet<_> = wanted
        .iter()
        .map(|table| (table.schema.clone(), table.name.clone()))
        .collect();
    let present: Vec<_> = tables(session)
        .await?
        .into_iter()
        .filter(|table| wanted.contains(&(table.schema.clone(), table.name.clone())))
        .collect();
    let oids = present.iter().map(|table| table.oid).collect();
    let counted = count_rows(session, &present, &oids).await?;
    let mut counts: BTreeMap<_, _> = wanted.into_iter().map(|name| (name, None)).collect();
    counts.extend(
        counted
            .into_iter()
            .map(|table| ((table.schema, table.name), table.rows)),
    );
    Ok(counts)
}
