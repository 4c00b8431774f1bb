//! What is in publications by its own name: it leaves them when it is dropped, and does not come back when it is made anew.

use sqlx::Row as _;
use sqlx::postgres::PgRow;
use sqlx::postgres::types::Oid;

use super::live::ObjectId;
use super::session::Session;
use crate::pg::error::PgError;

const DOING: &str = "look at what is published";

/// A table, or a schema, in a publication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// Its number.
    pub id: ObjectId,
    /// As pg_dump calls it: `PUBLICATION TABLE`.
    pub kind: String,
    /// The schema of the table, or that schema.
    pub schema: String,
    /// As pg_dump writes it into a list: the publication's name, and the table's.
    pub tag: String,
    /// The publication, as SQL names it.
    pub publication: String,
    /// What `ALTER PUBLICATION … ADD` takes, with the columns and the filter.
    pub sql_member: String,
}

impl Membership {
    /// The statement that makes it again.
    #[must_use]
    pub fn sql(&self) -> String {
        format!(
            "ALTER PUBLICATION {} ADD {};",
            self.publication, self.sql_member
        )
    }
}

/// All of them.
///
/// # Errors
/// The server refuses.
pub(super) async fn memberships(session: &mut Session) -> Result<Vec<Membership>, PgError> {
    let sql = if session.server().major() >= 15 {
        MEMBERSHIPS
    } else {
        MEMBERSHIPS_BEFORE_15
    };
    let rows = session.rows(DOING, sql).await?;
    rows.iter()
        .map(membership)
        .collect::<Result<_, _>>()
        .map_err(|source| PgError::Query {
            doing: DOING,
            source,
        })
}

fn membership(row: &PgRow) -> Result<Membership, sqlx::Error> {
    Ok(Membership {
        id: (row.try_get::<Oid, _>(0)?.0, row.try_get::<Oid, _>(1)?.0),
        kind: row.try_get(2)?,
        schema: row.try_get(3)?,
        tag: row.try_get(4)?,
        publication: row.try_get(5)?,
        sql_member: row.try_get(6)?,
    })
}

/// `ONLY`, because tables that inherit are members of their own. A filter that is one column has no parentheses of its own.
const MEMBERSHIPS: &str = r"
SELECT 'pg_publication_rel'::regclass::oid, r.oid, 'PUBLICATION TABLE', n.nspname::text, p.pubname || ' ' || c.relname,
    quote_ident(p.pubname), format('TABLE ONLY %I.%I', n.nspname, c.relname)
        || coalesce(' (' || (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY k.place)
            FROM unnest(r.prattrs::int2[]) WITH ORDINALITY k(number, place)
            JOIN pg_attribute a ON a.attrelid = r.prrelid AND a.attnum = k.number) || ')', '')
        || coalesce(' WHERE (' || pg_get_expr(r.prqual, r.prrelid) || ')', '')
FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace
UNION ALL
SELECT 'pg_publication_namespace'::regclass::oid, s.oid, 'PUBLICATION TABLES IN SCHEMA', n.nspname::text, p.pubname || ' ' || n.nspname,
    quote_ident(p.pubname), format('TABLES IN SCHEMA %I', n.nspname)
FROM pg_publication_namespace s JOIN pg_publication p ON p.oid = s.pnpubid JOIN pg_namespace n ON n.oid = s.pnnspid
ORDER BY 4, 5";

/// A publication had neither filters, nor columns, nor schemas.
const MEMBERSHIPS_BEFORE_15: &str = r"
SELECT 'pg_publication_rel'::regclass::oid, r.oid, 'PUBLICATION TABLE', n.nspname::text, p.pubname || ' ' || c.relname,
    quote_ident(p.pubname), format('TABLE ONLY %I.%I', n.nspname, c.relname)
FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace
ORDER BY 4, 5";
