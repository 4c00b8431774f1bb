//! Rows, counted beside the dump and not read out of it, so that a dump that misses rows is found out.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::Row as _;

use super::catalog_schema::IS_CATALOG;
use super::database::identifier;
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
    /// `schema.name` of the root of its partition tree; of a table that is no partition, its own.
    root: String,
}

impl Table {
    /// Quoted and qualified, ready for SQL.
    pub(super) fn sql_name(&self) -> String {
        format!("{}.{}", identifier(&self.schema), identifier(&self.name))
    }
}

/// Every table that can have rows of its own, but those of our catalog, where the database holds it.
///
/// # Errors
/// The server refuses.
pub async fn tables(session: &mut Session) -> Result<Vec<Table>, PgError> {
    // Before 12 there is no function for it; partitions then stand for themselves.
    let root = if session.server().major() >= 12 {
        "coalesce(pg_catalog.pg_partition_root(c.oid)::oid, c.oid)"
    } else {
        "c.oid"
    };
    let sql = format!(
        "SELECT c.oid, n.nspname::text, c.relname::text, coalesce(x.condition, ''), \
            (SELECT m.nspname || '.' || r.relname FROM pg_catalog.pg_class r \
                JOIN pg_catalog.pg_namespace m ON m.oid = r.relnamespace WHERE r.oid = {root}) \
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
        LEFT JOIN LATERAL (SELECT e.extcondition[i] AS condition FROM pg_catalog.pg_extension e, \
            pg_catalog.generate_subscripts(e.extconfig, 1) i WHERE e.extconfig[i] = c.oid LIMIT 1) x ON true \
        WHERE c.relkind = 'r' AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' \
            AND NOT {IS_CATALOG} \
        ORDER BY 2, 3"
    );
    let doing = "list the tables";
    let rows = session.rows(doing, &sql).await?;
    let read = |row: sqlx::postgres::PgRow| -> Result<Table, sqlx::Error> {
        Ok(Table {
            oid: row.try_get::<sqlx::postgres::types::Oid, _>(0)?.0,
            schema: row.try_get(1)?,
            name: row.try_get(2)?,
            condition: row.try_get(3)?,
            root: row.try_get(4)?,
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

/// A table, or a whole tree of partitions, and its rows here and in a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compared {
    /// `schema.name`; of a partition, that of its tree's root.
    pub table: String,
    /// What the manifest says.
    pub recorded: u64,
    /// What is there; `None`: no such table.
    pub restored: Option<u64>,
}

/// Counts the rows of the tables named in a manifest, in another database.
///
/// Partitions are counted together: hashes of an enum's values depend on their object ids, so that the same rows may lie
/// in other partitions there (measured; pg_dump loads such tables by their root).
///
/// # Errors
/// The server refuses.
pub async fn compare_counts(
    session: &mut Session,
    recorded: &[TableFacts],
) -> Result<Vec<Compared>, PgError> {
    let mut present: BTreeMap<(String, String), Table> = BTreeMap::new();
    for table in tables(session).await? {
        present.insert((table.schema.clone(), table.name.clone()), table);
    }
    let name_of = |facts: &TableFacts| (facts.schema.clone(), facts.name.clone());
    let wanted: Vec<Table> = recorded
        .iter()
        .filter_map(|facts| present.get(&name_of(facts)).cloned())
        .collect();
    let oids = wanted.iter().map(|table| table.oid).collect();
    let counted: BTreeMap<(String, String), u64> = count_rows(session, &wanted, &oids)
        .await?
        .iter()
        .map(|facts| (name_of(facts), facts.rows.unwrap_or(0)))
        .collect();
    let mut trees: BTreeMap<String, Compared> = BTreeMap::new();
    for facts in recorded {
        let name = name_of(facts);
        let (table, restored) = match present.get(&name) {
            Some(table) => (table.root.clone(), counted.get(&name).copied()),
            None => (format!("{}.{}", facts.schema, facts.name), None),
        };
        let tree = trees.entry(table.clone()).or_insert(Compared {
            table,
            recorded: 0,
            restored: Some(0),
        });
        tree.recorded += facts.rows.unwrap_or(0);
        tree.restored = tree.restored.zip(restored).map(|(sum, rows)| sum + rows);
    }
    Ok(trees.into_values().collect())
}
