//! What a database is, beside its content: the facts that an archive does not hold, or holds only for `-C`.

use std::collections::BTreeMap;

use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::session::Session;
use crate::model::manifest::DatabaseFacts;
use crate::pg::error::PgError;

const DOING: &str = "take the inventory of the database";
/// Roles that anything in the database depends on: owners, grantees, policies (catalog pg_shdepend).
const ROLES: &str = "SELECT DISTINCT r.rolname::text FROM pg_shdepend s JOIN pg_roles r ON r.oid = s.refobjid \
    JOIN pg_database d ON d.datname = current_database() \
    WHERE s.refclassid = 'pg_authid'::regclass AND (s.dbid = d.oid OR (s.dbid = 0 AND s.objid = d.oid)) \
    UNION SELECT pg_get_userbyid(datdba)::text FROM pg_database WHERE datname = current_database() ORDER BY 1";
/// Roles that are part of what something says, and not only its owner or grantee; and the title of its entry in an archive's
/// list. The view shows the mappings to everybody, the catalog behind it to superusers.
const BOUND_ROLES: &str = "SELECT r.rolname::text, 'POLICY ' || n.nspname || '.' || c.relname || ' ' || p.polname \
    FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
        JOIN pg_roles r ON r.oid = ANY (p.polroles) \
    UNION ALL SELECT r.rolname::text, 'USER MAPPING USER MAPPING ' || m.usename || ' SERVER ' || m.srvname \
    FROM pg_user_mappings m JOIN pg_roles r ON r.oid = m.umuser ORDER BY 1, 2";

/// Reads the database's facts, in the session's transaction.
///
/// # Errors
/// The server refuses.
pub async fn inventory(session: &mut Session) -> Result<DatabaseFacts, PgError> {
    let major = session.server().major();
    let (provider, locale, collation_version) = match major {
        ..=14 => ("'c'", "NULL::text", "NULL::text"),
        15 | 16 => ("datlocprovider::text", "daticulocale", "datcollversion"),
        _ => ("datlocprovider::text", "datlocale", "datcollversion"),
    };
    let sql = format!(
        "SELECT d.datname::text, pg_get_userbyid(d.datdba)::text, pg_database_size(d.oid), \
            pg_encoding_to_char(d.encoding)::text, d.datcollate::text, d.datctype::text, {provider}, {locale}::text, \
            {collation_version}::text, nullif(t.spcname, 'pg_default')::text, d.datconnlimit, \
            shobj_description(d.oid, 'pg_database'), d.datacl::text[], d.datistemplate \
         FROM pg_database d JOIN pg_tablespace t ON t.oid = d.dattablespace WHERE d.datname = current_database()"
    );
    let rows = session.rows(DOING, &sql).await?;
    let row = rows.first().ok_or(PgError::Query {
        doing: DOING,
        source: sqlx::Error::RowNotFound,
    })?;
    let mut facts = database_row(row).map_err(failed)?;
    let (settings, role_settings) = settings(session).await?;
    facts.settings = settings;
    facts.role_settings = role_settings;
    facts.extensions = pairs(
        session,
        "SELECT extname::text, extversion FROM pg_extension",
    )
    .await?
    .into_iter()
    .collect();
    facts.roles = roles(session).await?;
    for (role, title) in pairs(session, BOUND_ROLES).await? {
        facts.bound_roles.entry(role).or_default().push(title);
    }
    Ok(facts)
}

/// How many large objects there are.
///
/// # Errors
/// The server refuses.
pub async fn large_objects(session: &mut Session) -> Result<u64, PgError> {
    let count: i64 = session
        .value(
            DOING,
            "SELECT count(*) FROM pg_catalog.pg_largeobject_metadata",
        )
        .await?;
    Ok(u64::try_from(count).unwrap_or(0))
}

fn failed(source: sqlx::Error) -> PgError {
    PgError::Query {
        doing: DOING,
        source,
    }
}

fn database_row(row: &PgRow) -> Result<DatabaseFacts, sqlx::Error> {
    Ok(DatabaseFacts {
        name: row.try_get(0)?,
        owner: row.try_get(1)?,
        size_bytes: u64::try_from(row.try_get::<i64, _>(2)?).unwrap_or(0),
        encoding: row.try_get(3)?,
        collate: row.try_get(4)?,
        ctype: row.try_get(5)?,
        locale_provider: row.try_get(6)?,
        locale: row.try_get(7)?,
        collation_version: row.try_get(8)?,
        tablespace: row.try_get(9)?,
        connection_limit: row.try_get(10)?,
        comment: row.try_get(11)?,
        acl: row.try_get(12)?,
        settings: Vec::new(),
        role_settings: BTreeMap::new(),
        extensions: BTreeMap::new(),
        roles: Vec::new(),
        bound_roles: BTreeMap::new(),
        is_template: row.try_get(13)?,
    })
}

async fn pairs(session: &mut Session, sql: &str) -> Result<Vec<(String, String)>, PgError> {
    let rows = session.rows(DOING, sql).await?;
    rows.iter()
        .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
        .collect::<Result<_, _>>()
        .map_err(failed)
}

async fn settings(
    session: &mut Session,
) -> Result<(Vec<String>, BTreeMap<String, Vec<String>>), PgError> {
    let sql = "SELECT CASE s.setrole WHEN 0 THEN '' ELSE pg_get_userbyid(s.setrole)::text END, unnest(s.setconfig) \
        FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase WHERE d.datname = current_database()";
    let mut by_role: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (role, setting) in pairs(session, sql).await? {
        by_role.entry(role).or_default().push(setting);
    }
    Ok((by_role.remove("").unwrap_or_default(), by_role))
}

async fn roles(session: &mut Session) -> Result<Vec<String>, PgError> {
    let rows = session.rows(DOING, ROLES).await?;
    rows.iter()
        .map(|row| row.try_get(0))
        .collect::<Result<_, _>>()
        .map_err(failed)
}
