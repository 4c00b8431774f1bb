//! Rows, counted beside the dump and not read out of it, so that a dump that misses rows is found out.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::Row as _;

use super::catalog_schema::IS_CATALOG;
use super::database::identifier;
use super::session::Session;
use crate::model::content_digest::ContentDigest;
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

/// How closely a table's rows are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Their number.
    Number,
    /// Their number, and a digest of what they say. Needs PostgreSQL 11 or later.
    Content,
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
    depth: Depth,
) -> Result<Vec<TableFacts>, PgError> {
    // The counting must not take more of the server than the one process that the dump itself uses.
    session
        .run(
            "set up the counting",
            "SET max_parallel_workers_per_gather = 0",
        )
        .await?;
    if depth == Depth::Content {
        session.run("set up the digests", PLAIN_TEXT).await?;
    }
    let mut counted = Vec::new();
    for table in tables.iter().filter(|table| dumped.contains(&table.oid)) {
        let (rows, digest) = match depth {
            Depth::Number => (number(session, table).await?, None),
            Depth::Content => {
                let (rows, digest) = content(session, table).await?;
                (rows, Some(digest))
            }
        };
        counted.push(TableFacts {
            schema: table.schema.clone(),
            name: table.name.clone(),
            rows: Some(rows),
            digest,
        });
    }
    Ok(counted)
}

/// What values look like as text depends on these settings, which must be the same wherever they are digested.
const PLAIN_TEXT: &str = "SET datestyle = 'ISO, YMD'; SET intervalstyle = 'postgres'; SET timezone = 'UTC'; \
    SET extra_float_digits = 3; SET bytea_output = 'hex'; SET lc_monetary = 'C'; SET xmlbinary = 'base64'; \
    SET search_path = ''";

async fn number(session: &mut Session, table: &Table) -> Result<u64, PgError> {
    let sql = format!(
        "SELECT count(*) FROM ONLY {} {}",
        table.sql_name(),
        table.condition
    );
    let rows: i64 = session.value("count rows", &sql).await?;
    Ok(u64::try_from(rows).unwrap_or(0))
}

/// The bytes that are hashed are those of the database's own encoding, so that nothing has to be converted.
async fn content(session: &mut Session, table: &Table) -> Result<(u64, ContentDigest), PgError> {
    let doing = "digest a table";
    let sql = format!(
        "SELECT count(*), coalesce(sum(('x' || substr(hash, 1, 16))::bit(64)::bigint), 0)::text, \
            coalesce(sum(('x' || substr(hash, 17, 16))::bit(64)::bigint), 0)::text \
        FROM (SELECT encode(sha256(convert_to(ROW(whole.*)::text, getdatabaseencoding())), 'hex') AS hash \
            FROM ONLY {} AS whole {}) AS hashed",
        table.sql_name(),
        table.condition
    );
    let rows = session.rows(doing, &sql).await?;
    let read = |row: &sqlx::postgres::PgRow| -> Result<(i64, String, String), sqlx::Error> {
        Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))
    };
    let row = rows.first().ok_or(sqlx::Error::RowNotFound).and_then(read);
    let (rows, first, second) = row.map_err(|source| PgError::Query { doing, source })?;
    let sum = |text: String| {
        text.parse::<i128>().map_err(|error| PgError::Query {
            doing,
            source: sqlx::Error::Decode(Box::new(error)),
        })
    };
    let digest = ContentDigest::of_sums(sum(first)?, sum(second)?);
    Ok((u64::try_from(rows).unwrap_or(0), digest))
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
            digest: None,
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
    /// Whether the rows say something else, although there are as many; only where digests were compared.
    pub content_differs: bool,
}

impl Compared {
    /// Whether everything that was compared is equal.
    #[must_use]
    pub fn is_equal(&self) -> bool {
        self.restored == Some(self.recorded) && !self.content_differs
    }
}

/// Counts the rows of the tables named in a manifest, in another database.
///
/// Partitions are counted together: hashes of an enum's values depend on their object ids, so that the same rows may lie
/// in other partitions there (measured; pg_dump loads such tables by their root).
///
/// With [`Depth::Content`] digests are compared too, of the tables that have one in the manifest.
///
/// # Errors
/// The server refuses.
pub async fn compare_counts(
    session: &mut Session,
    recorded: &[TableFacts],
    depth: Depth,
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
    let counted: BTreeMap<(String, String), TableFacts> =
        count_rows(session, &wanted, &oids, depth)
            .await?
            .into_iter()
            .map(|facts| (name_of(&facts), facts))
            .collect();
    let mut trees: BTreeMap<String, Tree> = BTreeMap::new();
    for facts in recorded {
        let name = name_of(facts);
        let root = present.get(&name).map_or_else(
            || format!("{}.{}", facts.schema, facts.name),
            |table| table.root.clone(),
        );
        trees
            .entry(root)
            .or_default()
            .add(facts, counted.get(&name));
    }
    Ok(trees
        .into_iter()
        .map(|(table, tree)| tree.compared(table))
        .collect())
}

/// The sums over a tree of partitions, or over one table, as recorded and as they are here.
struct Tree {
    recorded: (u64, Option<ContentDigest>),
    restored: Option<(u64, Option<ContentDigest>)>,
}

impl Default for Tree {
    fn default() -> Self {
        let nothing = (0, Some(ContentDigest::default()));
        Self {
            recorded: nothing,
            restored: Some(nothing),
        }
    }
}

impl Tree {
    fn add(&mut self, recorded: &TableFacts, restored: Option<&TableFacts>) {
        let sum = |(rows, digest): (u64, Option<ContentDigest>), facts: &TableFacts| {
            let digest = digest.zip(facts.digest).map(|(sum, one)| sum.with(one));
            (rows + facts.rows.unwrap_or(0), digest)
        };
        self.recorded = sum(self.recorded, recorded);
        self.restored = self
            .restored
            .zip(restored)
            .map(|(so_far, facts)| sum(so_far, facts));
    }

    fn compared(self, table: String) -> Compared {
        let digests = self
            .recorded
            .1
            .zip(self.restored.and_then(|(_, digest)| digest));
        Compared {
            table,
            recorded: self.recorded.0,
            restored: self.restored.map(|(rows, _)| rows),
            content_differs: digests.is_some_and(|(recorded, restored)| recorded != restored),
        }
    }
}
