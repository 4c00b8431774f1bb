//! Our own catalog inside a user's database: it is never dumped and never restored, because a restore would set jobs
//! that run back to the day of the backup.

use super::session::Session;
use crate::pg::error::PgError;

/// The schema that the catalog lives in.
const SCHEMA: &str = "pgseal";

/// Whether a relation's namespace `n` is our catalog's: by the table of its migrations, since a user may have a schema
/// of that name.
pub(super) const IS_CATALOG: &str = "(n.nspname = 'pgseal' AND EXISTS (SELECT FROM pg_catalog.pg_class m \
    WHERE m.relnamespace = n.oid AND m.relname = '_sqlx_migrations'))";

/// What is dumped and hangs on the catalog: views, foreign keys, an extension that was installed into it.
pub(super) const HANGS_ON_CATALOG: &str = "WITH ours AS (SELECT n.oid FROM pg_catalog.pg_namespace n \
        WHERE n.nspname = 'pgseal' AND EXISTS (SELECT FROM pg_catalog.pg_class m \
            WHERE m.relnamespace = n.oid AND m.relname = '_sqlx_migrations')) \
    SELECT 'view ' || v.oid::pg_catalog.regclass::text FROM ours \
        JOIN pg_catalog.pg_class c ON c.relnamespace = ours.oid \
        JOIN pg_catalog.pg_depend d ON d.refobjid = c.oid AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass \
            AND d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass \
        JOIN pg_catalog.pg_rewrite r ON r.oid = d.objid JOIN pg_catalog.pg_class v ON v.oid = r.ev_class \
        WHERE v.relnamespace <> ours.oid \
    UNION SELECT 'table ' || k.conrelid::pg_catalog.regclass::text FROM ours \
        JOIN pg_catalog.pg_class c ON c.relnamespace = ours.oid \
        JOIN pg_catalog.pg_constraint k ON k.confrelid = c.oid AND k.contype = 'f' WHERE k.connamespace <> ours.oid \
    UNION SELECT 'extension ' || e.extname FROM ours JOIN pg_catalog.pg_extension e ON e.extnamespace = ours.oid \
    ORDER BY 1";

/// The schemas of the session's database that a dump leaves out: our catalog's, where it is there.
///
/// # Errors
/// The server refuses.
pub async fn catalog_schemas(session: &mut Session) -> Result<&'static [&'static str], PgError> {
    let sql = format!("SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace n WHERE {IS_CATALOG})");
    let is_there = session.value("look for the catalog", &sql).await?;
    Ok(if is_there { &[SCHEMA] } else { &[] })
}
