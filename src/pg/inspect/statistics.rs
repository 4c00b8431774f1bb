//! The planner's statistics of a database, of as many of its tables as can have them.

use std::collections::BTreeSet;

use sqlx::Row as _;

use super::session::Session;
use crate::pg::error::PgError;

const DOING: &str = "gather the planner's statistics";

/// A table that got no statistics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unanalyzed {
    /// The table, as SQL names it.
    pub table: String,
    /// The server's message.
    pub reason: String,
}

/// What `ANALYZE` takes by itself, and may be asked for by name.
struct Relation {
    oid: i64,
    name: String,
    /// The partitioned tables that it is in.
    within: Vec<i64>,
}

/// Gathers the statistics of the whole database. The server ends with the first table that fails, so then they are asked for
/// one by one. Returns those that have none.
///
/// # Errors
/// The session is lost, or somebody ended the statement.
pub async fn analyze(session: &mut Session) -> Result<Vec<Unanalyzed>, PgError> {
    let error = match session.run(DOING, "ANALYZE").await {
        Ok(()) => return Ok(Vec::new()),
        Err(error) => error,
    };
    if reason(&error).is_none() {
        return Err(error);
    }
    let mut analyzed = BTreeSet::new();
    let mut failed = Vec::new();
    for relation in relations(session).await? {
        // What analyzes a partitioned table analyzes its partitions.
        if relation.within.iter().any(|oid| analyzed.contains(oid)) {
            continue;
        }
        let sql = format!("ANALYZE {}", relation.name);
        let Err(error) = session.run(DOING, &sql).await else {
            analyzed.insert(relation.oid);
            continue;
        };
        match reason(&error) {
            Some(reason) => failed.push(Unanalyzed {
                table: relation.name,
                reason,
            }),
            None => return Err(error),
        }
    }
    Ok(failed)
}

/// What `ANALYZE` takes where no table is named, the partitioned ones first. Those that this role may not analyze it passes
/// over in either case. A foreign table is analyzed at the other server, which a restore has no business with.
async fn relations(session: &mut Session) -> Result<Vec<Relation>, PgError> {
    let sql = "SELECT c.oid::bigint, pg_catalog.format('%I.%I', n.nspname, c.relname), \
            ARRAY(SELECT a.relid::oid::bigint FROM pg_catalog.pg_partition_ancestors(c.oid) a WHERE a.relid <> c.oid) AS within \
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
        WHERE c.relkind IN ('r', 'p', 'm') AND c.relpersistence <> 't' \
        ORDER BY pg_catalog.cardinality(ARRAY(SELECT pg_catalog.pg_partition_ancestors(c.oid))), 2";
    let read = |row: &sqlx::postgres::PgRow| -> Result<Relation, sqlx::Error> {
        Ok(Relation {
            oid: row.try_get(0)?,
            name: row.try_get(1)?,
            within: row.try_get(2)?,
        })
    };
    let rows = session.rows("look for the tables", sql).await?;
    rows.iter()
        .map(read)
        .collect::<Result<_, _>>()
        .map_err(|source| PgError::Query {
            doing: "look for the tables",
            source,
        })
}

/// The server's message, where it is about the table: another one may be analyzed all the same. Class 57 is an
/// operator's: whoever cancels the statement, or stops the server, means all of it.
fn reason(error: &PgError) -> Option<String> {
    match error {
        PgError::Query {
            source: sqlx::Error::Database(error),
            ..
        } if error.code().is_none_or(|code| !code.starts_with("57")) => {
            Some(error.message().to_owned())
        }
        _ => None,
    }
}
