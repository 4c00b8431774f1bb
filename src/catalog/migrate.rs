//! The schema: how it comes to be, and whether it is the one that this program knows.

use std::collections::BTreeMap;

use sqlx::migrate::{Migrate as _, MigrateError, Migrator};
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Executor as _};

use super::CatalogError;
use crate::model::connection::Connection;
use crate::reach::{self, ReachError};

/// `insufficient_privilege`, `invalid_catalog_name`, and the two ways in which another session was quicker.
const MAY_NOT: &str = "42501";
const NO_DATABASE: &str = "3D000";
/// What a catalog lacks that is none yet.
pub(super) const EMPTY: &str = "is empty";
pub(super) const NOT_THERE: &str = "is not there";
const DATABASE_IS_THERE: [&str; 2] = ["42P04", "23505"];
/// The form that is in this program.
static KNOWN: Migrator = sqlx::migrate!();

/// Whether a database that is not there is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateDatabase {
    /// Yes: it is the one that the catalog is in by default, and nobody named it.
    IfMissing,
    /// No: somebody named it, and may have meant another one.
    Never,
}

/// What [`migrate`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migrated {
    /// Role, host, port and database.
    pub catalog: String,
    /// The database, where it was created.
    pub created_database: Option<String>,
    /// The versions that were applied now.
    pub applied: Vec<i64>,
    /// The version that it has.
    pub version: i64,
}

/// Brings the catalog into the form that this program knows, and says what that took. It can be ended at any point and
/// run again; two at once take turns.
///
/// # Errors
/// The server cannot be reached, the role may not, or the form is newer than this program knows.
pub async fn migrate(
    connection: &Connection,
    create: CreateDatabase,
) -> Result<Migrated, CatalogError> {
    let (single, mut session, created_database) = match writable(connection).await {
        Ok((single, session)) => (single, session, None),
        Err(error) if error.code().as_deref() == Some(NO_DATABASE) => {
            if create == CreateDatabase::Never {
                let database = connection.database().to_owned();
                return Err(CatalogError::NoDatabase { database });
            }
            let created = create_database(connection).await?;
            let (single, session) = writable(connection).await?;
            (single, session, created)
        }
        Err(error) => return Err(error.into()),
    };
    let to = single.to_string();
    let applied = apply(&mut session, &single).await?;
    require_known_form(&mut session, &to).await?;
    // Its work is done; whether the server hears that we go does not matter.
    let _ended = session.close().await;
    Ok(Migrated {
        catalog: to,
        created_database,
        applied,
        version: KNOWN
            .iter()
            .map(|migration| migration.version)
            .max()
            .unwrap_or(0),
    })
}

/// Compares the form of the catalog with the one that this program knows.
pub(super) async fn require_known_form(
    session: &mut PgConnection,
    to: &str,
) -> Result<(), CatalogError> {
    let doing = "look at the form of the catalog";
    let failed = |source| CatalogError::Query { doing, source };
    let is_there = sqlx::query_scalar!(
        r#"SELECT to_regclass('pgseal._sqlx_migrations') IS NOT NULL AS "is_there!""#
    );
    if !is_there.fetch_one(&mut *session).await.map_err(failed)? {
        return Err(CatalogError::NotMigrated {
            to: to.to_owned(),
            lacks: EMPTY.to_owned(),
        });
    }
    let rows = sqlx::query!("SELECT version, checksum FROM pgseal._sqlx_migrations");
    let rows = rows.fetch_all(session).await.map_err(failed)?;
    let found: BTreeMap<i64, Vec<u8>> = rows
        .into_iter()
        .map(|row| (row.version, row.checksum))
        .collect();
    let known: BTreeMap<i64, &[u8]> = KNOWN
        .iter()
        .map(|migration| (migration.version, &*migration.checksum))
        .collect();
    compare(&found, &known, to)
}

fn compare(
    found: &BTreeMap<i64, Vec<u8>>,
    known: &BTreeMap<i64, &[u8]>,
    to: &str,
) -> Result<(), CatalogError> {
    let unknown = |has| CatalogError::Unknown {
        to: to.to_owned(),
        has,
    };
    for (version, checksum) in found {
        match known.get(version) {
            None => return Err(unknown(format!("has migration {version}"))),
            Some(known) if checksum != known => {
                return Err(unknown(format!("has another migration {version}")));
            }
            Some(_) => {}
        }
    }
    match known.keys().find(|version| !found.contains_key(version)) {
        None => Ok(()),
        Some(version) => Err(CatalogError::NotMigrated {
            to: to.to_owned(),
            lacks: format!("lacks migration {version}"),
        }),
    }
}

/// The catalog's database is not there: that is what `pgseal migrate` is for.
pub(super) fn no_database(connection: &Connection, error: ReachError) -> CatalogError {
    if error.code().as_deref() == Some(NO_DATABASE) {
        return CatalogError::NotMigrated {
            to: connection.to_string(),
            lacks: NOT_THERE.to_owned(),
        };
    }
    error.into()
}

/// Runs what is missing, under the lock that sqlx's own tools take too.
async fn apply(session: &mut PgConnection, single: &Connection) -> Result<Vec<i64>, CatalogError> {
    let failed = |error| not_migrated(single, error);
    // Whoever else migrates may take long, and what the role or the database set against long waits is not for this.
    let patience = "SET statement_timeout = 0; SET lock_timeout = 0";
    let set = session.execute(sqlx::raw_sql(patience)).await;
    set.map_err(|error| failed(error.into()))?;
    session.lock().await.map_err(failed)?;
    let before = applied(session).await?;
    // It was locked above, so that what was there before and what comes now can be told apart.
    let mut migrator = Migrator::with_migrations(KNOWN.migrations.to_vec());
    migrator.set_locking(false);
    migrator.dangerous_set_table_name(KNOWN.table_name.clone());
    for schema in KNOWN.create_schemas.iter() {
        migrator.create_schema(schema.clone());
    }
    let ran = migrator.run_direct(None, session, false).await;
    // After a failure the lock goes with the session.
    ran.map_err(failed)?;
    let after = applied(session).await?;
    session.unlock().await.map_err(failed)?;
    Ok(after
        .into_iter()
        .filter(|version| !before.contains(version))
        .collect())
}

async fn applied(session: &mut PgConnection) -> Result<Vec<i64>, CatalogError> {
    let doing = "look at the form of the catalog";
    let failed = |source| CatalogError::Query { doing, source };
    let is_there = sqlx::query_scalar!(
        r#"SELECT to_regclass('pgseal._sqlx_migrations') IS NOT NULL AS "is_there!""#
    );
    if !is_there.fetch_one(&mut *session).await.map_err(failed)? {
        return Ok(Vec::new());
    }
    sqlx::query_scalar!("SELECT version FROM pgseal._sqlx_migrations ORDER BY version")
        .fetch_all(session)
        .await
        .map_err(failed)
}

fn not_migrated(single: &Connection, error: MigrateError) -> CatalogError {
    let to = single.to_string();
    let code = |error: &sqlx::Error| match error {
        sqlx::Error::Database(error) => error.code().map(|code| code.to_string()),
        _ => None,
    };
    match error {
        MigrateError::VersionMissing(version) => CatalogError::Unknown {
            to,
            has: format!("has migration {version}"),
        },
        MigrateError::VersionMismatch(version) => CatalogError::Unknown {
            to,
            has: format!("has another migration {version}"),
        },
        MigrateError::Execute(source) | MigrateError::ExecuteMigration(source, _)
            if code(&source).as_deref() == Some(MAY_NOT) =>
        {
            let role = single.role().to_owned();
            CatalogError::MayNotMigrate { to, role, source }
        }
        source => CatalogError::Migrate { to, source },
    }
}

/// A session with the first host that answers and is of the wanted kind.
async fn writable(connection: &Connection) -> Result<(Connection, PgConnection), ReachError> {
    let mut last = None;
    for single in reach::candidates(connection) {
        match reach::open(&single).await {
            Ok(mut session) => match reach::is_wanted(&mut session, &single).await {
                Ok(true) => return Ok((single, session)),
                Ok(false) => {}
                Err(source) => last = Some(reach::refused(&single, source)),
            },
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| ReachError::unwanted(connection)))
}

/// Creates the catalog's database from a database that every server has; `None` where another session was quicker.
async fn create_database(connection: &Connection) -> Result<Option<String>, CatalogError> {
    let database = connection.database();
    let beside = match writable(&connection.with_database("postgres")).await {
        Ok(beside) => Ok(beside),
        Err(_) => writable(&connection.with_database("template1")).await,
    };
    let (_, mut session) = beside?;
    // The catalog holds any target's texts, and compares none of them by a language's rules.
    let sql = format!(
        "CREATE DATABASE \"{}\" TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'",
        database.replace('"', "\"\"")
    );
    let created = session
        .execute(sqlx::raw_sql(sqlx::AssertSqlSafe(sql)))
        .await;
    let _ended = session.close().await;
    let Err(source) = created else {
        return Ok(Some(database.to_owned()));
    };
    let code = match &source {
        sqlx::Error::Database(error) => error.code().unwrap_or_default().into_owned(),
        _ => String::new(),
    };
    if DATABASE_IS_THERE.contains(&code.as_str()) {
        return Ok(None);
    }
    if code == MAY_NOT {
        return Err(CatalogError::MayNotCreateDatabase {
            database: database.to_owned(),
            role: connection.role().to_owned(),
        });
    }
    Err(CatalogError::Query {
        doing: "create the database of the catalog",
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Row 62: an older form, a newer one, and one that somebody changed.
    #[test]
    fn a_form_is_known_or_named() {
        let known: BTreeMap<i64, &[u8]> = BTreeMap::from([(1, &b"a"[..]), (2, &b"b"[..])]);
        let said = |found: &[(i64, &[u8])]| {
            let found = found.iter().map(|(v, c)| (*v, c.to_vec())).collect();
            compare(&found, &known, "x")
                .map_err(|error| error.to_string())
                .err()
                .unwrap_or_default()
        };
        assert_eq!(said(&[(1, b"a"), (2, b"b")]), "");
        assert!(said(&[(1, b"a")]).contains("lacks migration 2\nhint: run pgseal migrate"));
        let newer = said(&[(1, b"a"), (2, b"b"), (3, b"c")]);
        assert!(
            newer.contains("has migration 3") && newer.contains("use the pgseal that migrated it")
        );
        assert!(said(&[(1, b"a"), (2, b"z")]).contains("has another migration 2"));
        // Newer in one place and older in another is newer.
        assert!(said(&[(2, b"b"), (3, b"c")]).contains("has migration 3"));
    }

    #[test]
    fn every_migration_is_in_the_program() {
        let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations")).unwrap();
        assert_eq!(files.count(), KNOWN.iter().count());
        assert_eq!(&*KNOWN.table_name, "pgseal._sqlx_migrations");
    }
}
