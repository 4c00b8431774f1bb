//! What a database holds now, named as an archive's list names it, and what hangs on what.
//!
//! Only what belongs to users: neither PostgreSQL's own objects, nor members of extensions, nor our catalog.

use std::collections::HashMap;

use sqlx::Row as _;
use sqlx::postgres::PgRow;
use sqlx::postgres::types::Oid;

use super::publication::{Membership, memberships};
use super::session::Session;
use crate::pg::error::PgError;

/// What the server calls an object for itself: the catalog that it stands in, and its id there.
pub type ObjectId = (u32, u32);

const DOING: &str = "look at what the database holds";

/// An object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveObject {
    /// Its number.
    pub id: ObjectId,
    /// As pg_dump calls it: `TABLE`, `FK CONSTRAINT`.
    pub kind: String,
    /// The schema that it is in.
    pub schema: Option<String>,
    /// Its name, as pg_dump writes it into a list.
    pub tag: String,
    /// How SQL names it: quoted, qualified, a function with its arguments; what hangs on a table without that.
    pub sql_name: String,
    /// The table that it hangs on, as SQL names it.
    pub sql_table: Option<String>,
    /// Who owns it; what hangs on a table has none of its own.
    pub owner: Option<String>,
    /// Whether the session's role may do what the owner may.
    pub is_ours: bool,
    /// An event trigger that is disabled.
    pub is_disabled: bool,
}

/// How one object hangs on another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// It keeps the other from being dropped.
    Keeps,
    /// It goes with the other.
    Follows,
}

/// Everything, and what hangs on what.
#[derive(Clone, Debug, Default)]
pub struct Live {
    /// The objects.
    pub objects: Vec<LiveObject>,
    /// The first hangs on the second.
    pub holds: Vec<(ObjectId, ObjectId, Hold)>,
    /// Columns: of which table, their names, and what keeps their default from being dropped.
    pub columns: HashMap<ObjectId, Vec<LiveColumn>>,
    /// What is in publications by its own name.
    pub memberships: Vec<Membership>,
    /// Indexes that are more to their table than an index.
    pub marked_indexes: Vec<MarkedIndex>,
}

/// An index that is its table's replica identity, or the one that the table is clustered on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarkedIndex {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// What makes it so.
    pub sql: String,
}

/// A column of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveColumn {
    /// Its name.
    pub name: String,
    /// `ALTER COLUMN … DROP DEFAULT` is refused: it is an identity, or generated.
    pub fixed: Option<Fixed>,
    /// The sequence that its default draws from, as a list names it.
    pub draws_from: Option<(String, String)>,
}

/// Why a column's default cannot be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fixed {
    /// `GENERATED … AS IDENTITY`.
    Identity,
    /// `GENERATED … AS (…) STORED`.
    Expression,
}

/// Reads all of it.
///
/// # Errors
/// The server refuses.
pub async fn live(session: &mut Session) -> Result<Live, PgError> {
    let objects = session.rows(DOING, OBJECTS).await?;
    let objects = read(&objects, object)?;
    let holds = session.rows(DOING, HOLDS).await?;
    let holds = read(&holds, |row| {
        let number = |index| Ok::<_, sqlx::Error>(row.try_get::<Oid, _>(index)?.0);
        let hold = if row.try_get::<bool, _>(4)? {
            Hold::Keeps
        } else {
            Hold::Follows
        };
        Ok(((number(0)?, number(1)?), (number(2)?, number(3)?), hold))
    })?;
    let mut columns: HashMap<ObjectId, Vec<LiveColumn>> = HashMap::new();
    let rows = session.rows(DOING, COLUMNS).await?;
    for (table, column) in read(&rows, column)? {
        columns.entry(table).or_default().push(column);
    }
    let marked = session.rows(DOING, MARKED_INDEXES).await?;
    let marked_indexes = read(&marked, |row| {
        Ok(MarkedIndex {
            schema: row.try_get(0)?,
            name: row.try_get(1)?,
            sql: row.try_get(2)?,
        })
    })?;
    Ok(Live {
        objects,
        holds,
        columns,
        memberships: memberships(session).await?,
        marked_indexes,
    })
}

fn read<T>(
    rows: &[PgRow],
    one: impl Fn(&PgRow) -> Result<T, sqlx::Error>,
) -> Result<Vec<T>, PgError> {
    rows.iter()
        .map(one)
        .collect::<Result<_, _>>()
        .map_err(|source| PgError::Query {
            doing: DOING,
            source,
        })
}

fn object(row: &PgRow) -> Result<LiveObject, sqlx::Error> {
    Ok(LiveObject {
        id: (row.try_get::<Oid, _>(0)?.0, row.try_get::<Oid, _>(1)?.0),
        kind: row.try_get(2)?,
        schema: row.try_get(3)?,
        tag: row.try_get(4)?,
        sql_name: row.try_get(5)?,
        sql_table: row.try_get(6)?,
        owner: row.try_get(7)?,
        is_ours: row.try_get(8)?,
        is_disabled: row.try_get(9)?,
    })
}

fn column(row: &PgRow) -> Result<(ObjectId, LiveColumn), sqlx::Error> {
    let sequence: Option<String> = row.try_get(5)?;
    let schema: Option<String> = row.try_get(4)?;
    Ok((
        (row.try_get::<Oid, _>(0)?.0, row.try_get::<Oid, _>(1)?.0),
        LiveColumn {
            name: row.try_get(2)?,
            fixed: match row.try_get::<&str, _>(3)? {
                "identity" => Some(Fixed::Identity),
                "expression" => Some(Fixed::Expression),
                _ => None,
            },
            draws_from: schema.zip(sequence),
        },
    ))
}

/// Catalog, number, kind, schema, name in a list, SQL name, SQL name of its table, owner.
///
/// Below 16384 are PostgreSQL's own; a function's name in a list has the types of its input arguments, each as
/// `format_type` writes it while no schema is searched.
const OBJECTS: &str = r"
WITH users AS (
    SELECT n.oid, n.nspname::text AS name, quote_ident(n.nspname) AS quoted, n.nspowner FROM pg_namespace n
    WHERE n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
        AND NOT (n.nspname = 'pgseal' AND EXISTS (SELECT FROM pg_class m WHERE m.relnamespace = n.oid AND m.relname = '_sqlx_migrations'))
), relations AS (
    SELECT c.oid, c.relname::text AS name, c.relkind, c.relowner, c.relispartition, u.name AS schema,
        u.quoted || '.' || quote_ident(c.relname) AS quoted
    FROM pg_class c JOIN users u ON u.oid = c.relnamespace
), routines AS (
    SELECT p.oid, p.proname::text AS name, p.prokind, p.proowner, u.name AS schema, u.quoted,
        coalesce((SELECT string_agg(format_type(t.type, NULL), ', ' ORDER BY t.place)
            FROM unnest(p.proargtypes::oid[]) WITH ORDINALITY t(type, place)), '') AS arguments
    FROM pg_proc p JOIN users u ON u.oid = p.pronamespace
), found (class, oid, kind, schema, tag, sql_name, sql_table, owner) AS (
    SELECT 'pg_namespace'::regclass, u.oid, 'SCHEMA', NULL::text, u.name, u.quoted, NULL::text, u.nspowner FROM users u
    UNION ALL
    SELECT 'pg_class'::regclass, r.oid, CASE r.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'S' THEN 'SEQUENCE'
            WHEN 'f' THEN 'FOREIGN TABLE' ELSE 'TABLE' END, r.schema, r.name, r.quoted, NULL, r.relowner
        FROM relations r WHERE r.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
    UNION ALL
    SELECT 'pg_class'::regclass, r.oid, 'INDEX', r.schema, r.name, r.quoted, t.quoted, NULL
        FROM relations r JOIN pg_index i ON i.indexrelid = r.oid JOIN relations t ON t.oid = i.indrelid
        WHERE NOT EXISTS (SELECT FROM pg_constraint c WHERE c.conindid = r.oid AND c.contype IN ('p', 'u', 'x'))
    UNION ALL
    SELECT 'pg_constraint'::regclass, c.oid, CASE c.contype WHEN 'f' THEN 'FK CONSTRAINT' ELSE 'CONSTRAINT' END, t.schema,
            t.name || ' ' || c.conname, quote_ident(c.conname), t.quoted, NULL
        FROM pg_constraint c JOIN relations t ON t.oid = c.conrelid
        WHERE c.contype IN ('p', 'u', 'x') OR c.contype = 'f' AND c.conparentid = 0
    UNION ALL
    SELECT 'pg_attrdef'::regclass, d.oid, 'DEFAULT', t.schema, t.name || ' ' || a.attname, quote_ident(a.attname), t.quoted, NULL
        FROM pg_attrdef d JOIN relations t ON t.oid = d.adrelid JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
    UNION ALL
    SELECT 'pg_trigger'::regclass, g.oid, 'TRIGGER', t.schema, t.name || ' ' || g.tgname, quote_ident(g.tgname), t.quoted, NULL
        FROM pg_trigger g JOIN relations t ON t.oid = g.tgrelid
        WHERE NOT g.tgisinternal AND NOT EXISTS (SELECT FROM pg_depend d
            WHERE d.classid = 'pg_trigger'::regclass AND d.objid = g.oid AND d.refclassid = 'pg_trigger'::regclass)
    UNION ALL
    SELECT 'pg_rewrite'::regclass, w.oid, 'RULE', t.schema, t.name || ' ' || w.rulename, quote_ident(w.rulename), t.quoted, NULL
        FROM pg_rewrite w JOIN relations t ON t.oid = w.ev_class
    UNION ALL
    SELECT 'pg_constraint'::regclass, c.oid, 'CHECK CONSTRAINT', coalesce(t.schema, u.name), coalesce(t.name, d.typname) || ' ' || c.conname,
            quote_ident(c.conname), coalesce(t.quoted, u.quoted || '.' || quote_ident(d.typname)), NULL
        FROM pg_constraint c LEFT JOIN relations t ON t.oid = c.conrelid
        LEFT JOIN (pg_type d JOIN users u ON u.oid = d.typnamespace) ON d.oid = c.contypid
        WHERE c.contype = 'c' AND (t.oid IS NOT NULL OR d.oid IS NOT NULL)
    UNION ALL
    SELECT 'pg_policy'::regclass, p.oid, 'POLICY', t.schema, t.name || ' ' || p.polname, quote_ident(p.polname), t.quoted, NULL
        FROM pg_policy p JOIN relations t ON t.oid = p.polrelid
    UNION ALL
    SELECT 'pg_proc'::regclass, r.oid, CASE r.prokind WHEN 'p' THEN 'PROCEDURE' WHEN 'a' THEN 'AGGREGATE' ELSE 'FUNCTION' END, r.schema,
            r.name || '(' || CASE WHEN r.prokind = 'a' AND r.arguments = '' THEN '*' ELSE r.arguments END || ')',
            r.quoted || '.' || quote_ident(r.name) || '(' || CASE WHEN r.prokind = 'a' AND r.arguments = '' THEN '*' ELSE r.arguments END || ')',
            NULL, r.proowner
        FROM routines r
    UNION ALL
    SELECT 'pg_type'::regclass, t.oid, CASE t.typtype WHEN 'd' THEN 'DOMAIN' ELSE 'TYPE' END, u.name, t.typname::text,
            u.quoted || '.' || quote_ident(t.typname), NULL, t.typowner
        FROM pg_type t JOIN users u ON u.oid = t.typnamespace LEFT JOIN pg_class c ON c.oid = t.typrelid
        WHERE t.typtype <> 'm' AND (t.typrelid = 0 OR c.relkind = 'c') AND NOT EXISTS (SELECT FROM pg_type e WHERE e.typarray = t.oid)
    UNION ALL
    SELECT 'pg_collation'::regclass, o.oid, 'COLLATION', u.name, o.collname::text, u.quoted || '.' || quote_ident(o.collname), NULL, o.collowner
        FROM pg_collation o JOIN users u ON u.oid = o.collnamespace
    UNION ALL
    SELECT 'pg_statistic_ext'::regclass, o.oid, 'STATISTICS', u.name, o.stxname::text, u.quoted || '.' || quote_ident(o.stxname), NULL, o.stxowner
        FROM pg_statistic_ext o JOIN users u ON u.oid = o.stxnamespace
    UNION ALL
    SELECT 'pg_ts_config'::regclass, o.oid, 'TEXT SEARCH CONFIGURATION', u.name, o.cfgname::text, u.quoted || '.' || quote_ident(o.cfgname), NULL, o.cfgowner
        FROM pg_ts_config o JOIN users u ON u.oid = o.cfgnamespace
    UNION ALL
    SELECT 'pg_ts_dict'::regclass, o.oid, 'TEXT SEARCH DICTIONARY', u.name, o.dictname::text, u.quoted || '.' || quote_ident(o.dictname), NULL, o.dictowner
        FROM pg_ts_dict o JOIN users u ON u.oid = o.dictnamespace
    UNION ALL
    SELECT 'pg_conversion'::regclass, o.oid, 'CONVERSION', u.name, o.conname::text, u.quoted || '.' || quote_ident(o.conname), NULL, o.conowner
        FROM pg_conversion o JOIN users u ON u.oid = o.connamespace
    UNION ALL
    SELECT 'pg_operator'::regclass, o.oid, 'OPERATOR', u.name, o.oprname::text, u.quoted || '.' || o.oprname || ' ('
            || CASE WHEN o.oprleft = 0 THEN 'NONE' ELSE format_type(o.oprleft, NULL) END || ', ' || format_type(o.oprright, NULL) || ')', NULL, o.oprowner
        FROM pg_operator o JOIN users u ON u.oid = o.oprnamespace
    UNION ALL
    SELECT 'pg_opclass'::regclass, o.oid, 'OPERATOR CLASS', u.name, o.opcname::text, u.quoted || '.' || quote_ident(o.opcname)
            || ' USING ' || quote_ident(m.amname), NULL, o.opcowner
        FROM pg_opclass o JOIN users u ON u.oid = o.opcnamespace JOIN pg_am m ON m.oid = o.opcmethod
    UNION ALL
    SELECT 'pg_opfamily'::regclass, o.oid, 'OPERATOR FAMILY', u.name, o.opfname::text, u.quoted || '.' || quote_ident(o.opfname)
            || ' USING ' || quote_ident(m.amname), NULL, o.opfowner
        FROM pg_opfamily o JOIN users u ON u.oid = o.opfnamespace JOIN pg_am m ON m.oid = o.opfmethod
    UNION ALL
    SELECT 'pg_cast'::regclass, k.oid, 'CAST', NULL, 'CAST (' || format_type(k.castsource, NULL) || ' AS ' || format_type(k.casttarget, NULL) || ')',
            '(' || format_type(k.castsource, NULL) || ' AS ' || format_type(k.casttarget, NULL) || ')', NULL, NULL
        FROM pg_cast k WHERE k.oid >= 16384
    UNION ALL
    SELECT 'pg_extension'::regclass, e.oid, 'EXTENSION', NULL, e.extname::text, quote_ident(e.extname), NULL, e.extowner FROM pg_extension e
        WHERE e.oid >= 16384
    UNION ALL
    SELECT 'pg_event_trigger'::regclass, e.oid, 'EVENT TRIGGER', NULL, e.evtname::text, quote_ident(e.evtname), NULL, e.evtowner FROM pg_event_trigger e
    UNION ALL
    SELECT 'pg_publication'::regclass, p.oid, 'PUBLICATION', NULL, p.pubname::text, quote_ident(p.pubname), NULL, p.pubowner FROM pg_publication p
    UNION ALL
    SELECT 'pg_foreign_data_wrapper'::regclass, f.oid, 'FOREIGN DATA WRAPPER', NULL, f.fdwname::text, quote_ident(f.fdwname), NULL, f.fdwowner
        FROM pg_foreign_data_wrapper f
    UNION ALL
    SELECT 'pg_foreign_server'::regclass, f.oid, 'SERVER', NULL, f.srvname::text, quote_ident(f.srvname), NULL, f.srvowner FROM pg_foreign_server f
    UNION ALL
    SELECT 'pg_language'::regclass, l.oid, 'PROCEDURAL LANGUAGE', NULL, l.lanname::text, quote_ident(l.lanname), NULL, l.lanowner
        FROM pg_language l WHERE l.oid >= 16384
    UNION ALL
    SELECT 'pg_am'::regclass, m.oid, 'ACCESS METHOD', NULL, m.amname::text, quote_ident(m.amname), NULL, NULL FROM pg_am m WHERE m.oid >= 16384
    UNION ALL
    SELECT 'pg_subscription'::regclass, s.oid, 'SUBSCRIPTION', NULL, s.subname::text, quote_ident(s.subname), NULL, s.subowner
        FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid AND d.datname = current_database()
)
SELECT f.class::oid, f.oid, f.kind, f.schema, f.tag, f.sql_name, f.sql_table, pg_get_userbyid(f.owner)::text,
    f.owner IS NULL OR pg_has_role(f.owner, 'USAGE'),
    f.kind = 'EVENT TRIGGER' AND EXISTS (SELECT FROM pg_event_trigger e WHERE e.oid = f.oid AND e.evtenabled = 'D')
FROM found f WHERE NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = f.class AND e.objid = f.oid
    AND (e.deptype = 'e' OR e.deptype = 'i' AND f.kind IN ('FUNCTION', 'CAST')))
ORDER BY 1, 2";

/// `n` keeps what it points at; all others go with it: `a`, `i`, `P`, `S`, and a member `e` with its extension.
const HOLDS: &str = "SELECT DISTINCT d.classid, d.objid, d.refclassid, d.refobjid, d.deptype = 'n' FROM pg_depend d \
    WHERE d.refobjid >= 16384 AND d.deptype <> 'x' AND (d.classid, d.objid) <> (d.refclassid, d.refobjid)";

/// Of tables: what the archive's `DEFAULT` entries are compared with.
const COLUMNS: &str = "SELECT 'pg_class'::regclass::oid, a.attrelid, a.attname::text, \
        CASE WHEN a.attidentity <> '' THEN 'identity' WHEN a.attgenerated <> '' THEN 'expression' ELSE '' END, \
        (SELECT n.nspname::text FROM pg_class s JOIN pg_namespace n ON n.oid = s.relnamespace WHERE s.oid = q.oid), \
        (SELECT s.relname::text FROM pg_class s WHERE s.oid = q.oid) \
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p', 'f', 'v') \
    JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' \
    LEFT JOIN LATERAL (SELECT d.refobjid AS oid FROM pg_attrdef f JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass \
            AND d.objid = f.oid AND d.refclassid = 'pg_class'::regclass JOIN pg_class s ON s.oid = d.refobjid AND s.relkind = 'S' \
        WHERE f.adrelid = a.attrelid AND f.adnum = a.attnum LIMIT 1) q ON true \
    WHERE a.attnum > 0 AND NOT a.attisdropped";

/// Both are said by the statement of the index in an archive, and by nothing else.
const MARKED_INDEXES: &str = "SELECT n.nspname::text, c.relname::text, \
        'ALTER TABLE ONLY ' || quote_ident(n.nspname) || '.' || quote_ident(t.relname) || m.mark || quote_ident(c.relname) || ';' \
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid \
    JOIN pg_namespace n ON n.oid = t.relnamespace AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' \
    CROSS JOIN LATERAL (VALUES (i.indisreplident, ' REPLICA IDENTITY USING INDEX '), (i.indisclustered, ' CLUSTER ON ')) m(holds, mark) \
    WHERE m.holds ORDER BY 1, 2, 3";
