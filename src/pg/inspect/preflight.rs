//! What is looked at before a dump starts, each finding with the SQL or the setting that mends it.

use sqlx::Row as _;

use super::catalog_schema::{HANGS_ON_CATALOG, IS_CATALOG};
use super::database::identifier;
use super::session::Session;
use crate::model::connection::Connection;
use crate::pg::error::{Finding, PgError, Severity};

/// So many names stand in a finding; the rest is a number.
const NAMES_SHOWN_MAX: usize = 5;

/// Looks at what would make a dump fail, or be silently partial.
///
/// # Errors
/// A question to the server fails.
pub async fn preflight_dump(session: &mut Session) -> Result<Vec<Finding>, PgError> {
    let mut findings = vec![
        pooler(session).await?,
        row_security(session).await?,
        privileges(session).await?,
    ];
    findings.extend(catalog(session).await?);
    Ok(findings)
}

/// Looks at what this role may do when something is to be restored. Nothing here keeps a backup from being made.
///
/// # Errors
/// A question to the server fails.
pub async fn preflight_restore(session: &mut Session) -> Result<Vec<Finding>, PgError> {
    let doing = "look at the role's attributes";
    let sql =
        "SELECT rolsuper OR rolcreatedb FROM pg_catalog.pg_roles WHERE rolname = current_user";
    let role = session.connection().role().to_owned();
    Ok(vec![if session.value::<bool>(doing, sql).await? {
        Finding::ok("role", format!("{role} may create databases"))
    } else {
        Finding::warning(
            "role",
            format!("{role} may not create databases, so restore --mode new needs another role"),
            format!("as a superuser: ALTER ROLE {} CREATEDB;", identifier(&role)),
        )
    }])
}

/// Looks at what this role may do on a server for drills: make a database, and the roles that a backup names and the server
/// lacks.
///
/// # Errors
/// A question to the server fails.
pub async fn preflight_drill(session: &mut Session) -> Result<Finding, PgError> {
    const SUBJECT: &str = "drill role";
    let doing = "look at the role's attributes";
    let sql = "SELECT CASE WHEN rolsuper THEN 'superuser' WHEN NOT rolcreatedb THEN 'no database' \
        WHEN NOT rolcreaterole THEN 'no role' ELSE 'both' END FROM pg_catalog.pg_roles WHERE rolname = current_user";
    let role = session.connection().role().to_owned();
    let alter = |word| format!("as a superuser: ALTER ROLE {} {word};", identifier(&role));
    let found: String = session.value(doing, sql).await?;
    Ok(match found.as_str() {
        "superuser" => Finding::ok(SUBJECT, format!("{role} is a superuser")),
        "both" => Finding::ok(
            SUBJECT,
            format!(
                "{role} may create databases and roles; owners that this server has already must be granted to it"
            ),
        ),
        "no role" => Finding::warning(
            SUBJECT,
            format!(
                "{role} may not create roles, so that a backup with an owner that this server lacks is UNVERIFIABLE"
            ),
            alter("CREATEROLE"),
        ),
        _ => Finding::problem(
            SUBJECT,
            format!("{role} may not create databases, and every drill makes one"),
            alter("CREATEDB CREATEROLE"),
        ),
    })
}

/// Whether a transaction pooler stands between us and the server: then two sessions that are open at once share one
/// server process, and neither a snapshot nor a setting would hold.
///
/// # Errors
/// A question to the server fails.
async fn is_pooled(session: &mut Session) -> Result<bool, PgError> {
    const PID: &str = "SELECT pg_catalog.pg_backend_pid()";
    let doing = "ask for the server process";
    let first: i32 = session.value(doing, PID).await?;
    let connection: Connection = session.connection().clone();
    let mut second = Session::connect(&connection).await?;
    let other: i32 = second.value(doing, PID).await?;
    second.close().await;
    Ok(first == other)
}

/// Refuses a connection through a transaction pooler.
///
/// # Errors
/// It is one, or a question to the server fails.
pub async fn require_unpooled(session: &mut Session) -> Result<(), PgError> {
    let finding = pooler(session).await?;
    match finding.severity {
        Severity::Problem => Err(PgError::Preflight(vec![finding])),
        Severity::Ok | Severity::Warning => Ok(()),
    }
}

async fn pooler(session: &mut Session) -> Result<Finding, PgError> {
    if is_pooled(session).await? {
        return Ok(Finding::problem(
            "pooler",
            "the connection goes through a transaction pooler, which can hold neither a snapshot nor a lock",
            "connect to PostgreSQL itself (its own port, or the provider's direct URL), not to the pooler",
        ));
    }
    Ok(Finding::ok("pooler", "none"))
}

async fn row_security(session: &mut Session) -> Result<Finding, PgError> {
    let tables = names(
        session,
        "SELECT c.oid::regclass::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_roles r ON r.rolname = current_user \
         WHERE c.relkind IN ('r', 'p') AND c.relrowsecurity AND NOT r.rolsuper AND NOT r.rolbypassrls \
         AND (c.relforcerowsecurity OR NOT pg_catalog.pg_has_role(c.relowner, 'USAGE')) ORDER BY 1",
    )
    .await?;
    if tables.is_empty() {
        return Ok(Finding::ok(
            "row security",
            "no table hides rows from this role",
        ));
    }
    let role = session.connection().role().to_owned();
    Ok(Finding::problem(
        "row security",
        format!("policies hide rows from role {role} in {}", shown(&tables)),
        format!(
            "as a superuser: ALTER ROLE {} BYPASSRLS;",
            identifier(&role)
        ),
    ))
}

async fn privileges(session: &mut Session) -> Result<Finding, PgError> {
    let sql = format!(
        "SELECT c.oid::regclass::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind IN ('r', 'p', 'S') AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' \
         AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::regclass \
            AND d.objid = c.oid AND d.deptype = 'e') \
         AND NOT (pg_catalog.has_schema_privilege(n.oid, 'USAGE') \
            AND CASE c.relkind WHEN 'S' THEN pg_catalog.has_sequence_privilege(c.oid, 'SELECT') \
                ELSE pg_catalog.has_table_privilege(c.oid, 'SELECT') END) AND NOT {IS_CATALOG} ORDER BY 1"
    );
    let objects = names(session, &sql).await?;
    if objects.is_empty() {
        return Ok(Finding::ok(
            "privileges",
            "every table and sequence is readable",
        ));
    }
    let role = session.connection().role().to_owned();
    Ok(Finding::problem(
        "privileges",
        format!("role {role} may not read {}", shown(&objects)),
        format!(
            "as a superuser: GRANT pg_read_all_data TO {};",
            identifier(&role)
        ),
    ))
}

/// Our own schema is left out of dumps; what hangs on it would be dumped and could not be restored.
async fn catalog(session: &mut Session) -> Result<Option<Finding>, PgError> {
    let objects = names(session, HANGS_ON_CATALOG).await?;
    if objects.is_empty() {
        return Ok(None);
    }
    Ok(Some(Finding::warning(
        "catalog",
        format!(
            "schema pgseal is never dumped, so a restore fails on what hangs on it: {}",
            shown(&objects)
        ),
        "drop these before the next backup, or move the catalog: set CATALOG_DATABASE_URL to another database",
    )))
}

async fn names(session: &mut Session, sql: &str) -> Result<Vec<String>, PgError> {
    let doing = "look at the database before the dump";
    let rows = session.rows(doing, sql).await?;
    rows.iter()
        .map(|row| row.try_get(0))
        .collect::<Result<_, _>>()
        .map_err(|source| PgError::Query { doing, source })
}

fn shown(names: &[String]) -> String {
    let first = names
        .iter()
        .take(NAMES_SHOWN_MAX)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    match names.len().saturating_sub(NAMES_SHOWN_MAX) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}
