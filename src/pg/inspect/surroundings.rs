//! What surrounds a database on its server: the role that restores, who is connected, what hangs on the database itself,
//! and how much fits.

use std::collections::BTreeSet;

use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::session::Session;
use crate::pg::error::PgError;

const DOING: &str = "look at the server";

/// What a plan has to know of the server and of one database there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Surroundings {
    /// The role that restores.
    pub role: String,
    /// It is a superuser.
    pub is_superuser: bool,
    /// It may create databases.
    pub may_create_databases: bool,
    /// It may create roles.
    pub may_create_roles: bool,
    /// Those roles whose objects it may give away and make, itself among them; a superuser all of them.
    pub acts_for: BTreeSet<String>,
    /// Those roles that may do everything.
    pub superusers: BTreeSet<String>,
    /// Locks that the server's table holds.
    pub locks_max: u64,
    /// Those that others hold.
    pub locks_held: u64,
    /// What the table's size comes from.
    pub locks_per_transaction: u64,
    /// The database, where it is there.
    pub database: Option<LiveDatabase>,
}

/// A database as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveDatabase {
    /// Bytes.
    pub size_bytes: u64,
    /// Its owner.
    pub owner: String,
    /// Whether the role may do what the owner may.
    pub is_ours: bool,
    /// Its encoding.
    pub encoding: String,
    /// `LC_COLLATE`.
    pub collate: String,
    /// `LC_CTYPE`.
    pub ctype: String,
    /// The locale's provider, as the manifest has it.
    pub locale_provider: String,
    /// The ICU or builtin locale.
    pub locale: Option<String>,
    /// The version of its collation that the server's libraries have now.
    pub collation_version: Option<String>,
    /// Sessions of others.
    pub connections: u64,
    /// Transactions that were prepared in it.
    pub prepared_transactions: Vec<String>,
    /// Logical replication slots of it.
    pub logical_slots: Vec<String>,
    /// Subscriptions in it.
    pub subscriptions: Vec<String>,
}

/// Looks at the server and at one of its databases.
///
/// # Errors
/// The server refuses.
pub async fn surroundings(session: &mut Session, database: &str) -> Result<Surroundings, PgError> {
    let rows = session
        .rows(DOING, &of_server_sql(session.server().major()))
        .await?;
    let failed = |source| PgError::Query {
        doing: DOING,
        source,
    };
    let row = rows.first().ok_or(failed(sqlx::Error::RowNotFound))?;
    let mut found = of_server(row).map_err(failed)?;
    found.database = live_database(session, database).await?;
    Ok(found)
}

async fn live_database(
    session: &mut Session,
    database: &str,
) -> Result<Option<LiveDatabase>, PgError> {
    let (provider, locale, version) = match session.server().major() {
        ..=14 => ("'c'", "NULL::text", "NULL::text"),
        15 | 16 => (
            "d.datlocprovider::text",
            "d.daticulocale",
            "pg_database_collation_actual_version(d.oid)",
        ),
        _ => (
            "d.datlocprovider::text",
            "d.datlocale",
            "pg_database_collation_actual_version(d.oid)",
        ),
    };
    let sql = format!(
        "SELECT CASE WHEN has_database_privilege(d.oid, 'CONNECT') THEN pg_database_size(d.oid) ELSE 0 END, \
            pg_get_userbyid(d.datdba)::text, pg_has_role(d.datdba, 'USAGE'), pg_encoding_to_char(d.encoding)::text, \
            d.datcollate::text, d.datctype::text, {provider}, {locale}::text, {version}::text, \
            (SELECT count(*) FROM pg_stat_activity a WHERE a.datid = d.oid AND a.pid <> pg_backend_pid()), \
            ARRAY(SELECT x.gid FROM pg_prepared_xacts x WHERE x.database = d.datname ORDER BY 1)::text[], \
            ARRAY(SELECT s.slot_name::text FROM pg_replication_slots s WHERE s.database = d.datname AND NOT s.temporary ORDER BY 1)::text[], \
            ARRAY(SELECT s.subname::text FROM pg_subscription s WHERE s.subdbid = d.oid ORDER BY 1)::text[] \
         FROM pg_database d WHERE d.datname = $1"
    );
    let row = sqlx::query(sqlx::AssertSqlSafe(sql))
        .persistent(false)
        .bind(database)
        .fetch_optional(&mut session.inner)
        .await;
    row.and_then(|row| row.as_ref().map(of_database).transpose())
        .map_err(|source| PgError::Query {
            doing: DOING,
            source,
        })
}

fn unsigned(row: &PgRow, index: usize) -> Result<u64, sqlx::Error> {
    Ok(u64::try_from(row.try_get::<i64, _>(index)?).unwrap_or(0))
}

fn of_server(row: &PgRow) -> Result<Surroundings, sqlx::Error> {
    Ok(Surroundings {
        role: row.try_get(0)?,
        is_superuser: row.try_get(1)?,
        may_create_databases: row.try_get(2)?,
        may_create_roles: row.try_get(3)?,
        locks_max: unsigned(row, 4)?,
        locks_held: unsigned(row, 5)?,
        locks_per_transaction: unsigned(row, 6)?,
        acts_for: row.try_get::<Vec<String>, _>(7)?.into_iter().collect(),
        superusers: row.try_get::<Vec<String>, _>(8)?.into_iter().collect(),
        database: None,
    })
}

fn of_database(row: &PgRow) -> Result<LiveDatabase, sqlx::Error> {
    Ok(LiveDatabase {
        size_bytes: unsigned(row, 0)?,
        owner: row.try_get(1)?,
        is_ours: row.try_get(2)?,
        encoding: row.try_get(3)?,
        collate: row.try_get(4)?,
        ctype: row.try_get(5)?,
        locale_provider: row.try_get(6)?,
        locale: row.try_get(7)?,
        collation_version: row.try_get(8)?,
        connections: unsigned(row, 9)?,
        prepared_transactions: row.try_get(10)?,
        logical_slots: row.try_get(11)?,
        subscriptions: row.try_get(12)?,
    })
}

/// The lock table has room for so many locks of each transaction that could be open (manual, section 20.12). From 16 on,
/// a member of a role may give something to it only where the membership says so; and what was given is loaded with its rights.
fn of_server_sql(major: u32) -> String {
    let may_give = if major >= 16 { "SET" } else { "MEMBER" };
    format!(
        "SELECT r.rolname::text, r.rolsuper, r.rolsuper OR r.rolcreatedb, r.rolsuper OR r.rolcreaterole, \
            current_setting('max_locks_per_transaction')::bigint \
                * (current_setting('max_connections')::bigint + current_setting('max_prepared_transactions')::bigint), \
            (SELECT count(*) FROM pg_locks l WHERE NOT l.fastpath AND l.pid <> pg_backend_pid() AND l.locktype <> 'virtualxid'), \
            current_setting('max_locks_per_transaction')::bigint, \
            ARRAY(SELECT o.rolname::text FROM pg_roles o WHERE pg_has_role(o.oid, '{may_give}') AND pg_has_role(o.oid, 'USAGE')), \
            ARRAY(SELECT o.rolname::text FROM pg_roles o WHERE o.rolsuper) \
        FROM pg_roles r WHERE r.rolname = current_user"
    )
}
