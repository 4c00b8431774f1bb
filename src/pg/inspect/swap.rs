//! Databases change their names at one moment: in one transaction, while another session ends who is connected.
//!
//! What is measured on PostgreSQL 15 and 17: `ALTER DATABASE … RENAME` is allowed in a transaction; it locks the database,
//! so that new connections wait, and itself waits five seconds for the sessions that are there. So a client that comes
//! back at once waits until the transaction ends, and then is in one of the two states; and a client or a server that
//! dies before the commit has changed nothing. `ALLOW_CONNECTIONS` is never touched, so nothing is left to undo.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use sqlx::Row as _;
use tokio::time::Instant;

use super::answer::Backend;
use super::catalog_schema::catalog_schemas;
use super::database::{comment_statement, identifier};
use super::session::Session;
use crate::model::connection::Connection;
use crate::pg::error::{Finding, PgError};

/// Sessions that cannot be ended in so long are not going to end; everybody else waits for the database meanwhile.
const PATIENCE: Duration = Duration::from_secs(30);
/// The statements wait for locks and sessions, 20 seconds in all; whoever does not answer in so long has gone away.
const ANSWER_WAIT: Duration = Duration::from_secs(60);
const RENAME: &str = "rename the databases";
/// Between two looks at who is connected.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// One database's new name, and its comment under it.
#[derive(Clone, Copy, Debug)]
pub struct Renaming<'a> {
    /// The name it has.
    pub from: &'a str,
    /// The name it gets.
    pub to: &'a str,
    /// The comment it gets; `None`: none.
    pub comment: Option<&'a str>,
}

/// Renames databases, in order: all of them or none. Whoever is connected to one of them is disconnected.
///
/// Where the answer is lost, the server is asked again, over a new session that takes the place of `maintenance`, what is
/// true: a database keeps its object id, whatever it is called.
///
/// # Errors
/// [`PgError::Occupied`]: sessions could not be ended in time. [`PgError::Unanswered`]: the server does not answer, so that
/// nobody knows. Any other error: no name was changed.
pub async fn rename_together(
    maintenance: &mut Session,
    renamings: &[Renaming<'_>],
) -> Result<(), PgError> {
    let oids = identities(maintenance, renamings).await?;
    let backend = Backend::of(maintenance).await?;
    let mut ender = Ender {
        session: Session::connect(maintenance.connection()).await?,
        names: renamings
            .iter()
            .map(|renaming| renaming.from.to_owned())
            .collect(),
        refused: BTreeMap::new(),
    };
    let until = Instant::now() + PATIENCE;
    let renamed = loop {
        // Whatever happens to the ender, the transaction is never left in the middle.
        let renamed = tokio::select! {
            renamed = tokio::time::timeout(ANSWER_WAIT, transaction(maintenance, renamings)) => renamed,
            never = ender.end_sessions() => match never {},
        };
        let error = match renamed {
            Ok(Ok(())) => break Ok(()),
            Ok(Err(error)) => error,
            Err(_elapsed) => PgError::Query {
                doing: RENAME,
                source: sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()),
            },
        };
        if is_occupied(&error) {
            if Instant::now() < until {
                continue;
            }
            break Err(ender.who_stays(renamings[0].from).await);
        }
        if error.is_refusal() {
            break Err(error);
        }
        break after_lost_answer(maintenance, &backend, renamings, &oids, error).await;
    };
    ender.session.close().await;
    renamed
}

/// The object ids of the databases that change their names.
async fn identities(
    maintenance: &mut Session,
    renamings: &[Renaming<'_>],
) -> Result<Vec<i64>, PgError> {
    let doing = "look at the databases that are to be renamed";
    let sql = "SELECT oid::bigint FROM pg_catalog.pg_database WHERE datname = $1";
    let mut oids = Vec::new();
    for renaming in renamings {
        let oid: Result<Option<i64>, _> = sqlx::query_scalar(sql)
            .persistent(false)
            .bind(renaming.from)
            .fetch_optional(&mut maintenance.inner)
            .await;
        let oid = oid.map_err(|source| PgError::Query { doing, source })?;
        oids.push(oid.ok_or_else(|| PgError::NoSuchDatabase(renaming.from.to_owned()))?);
    }
    Ok(oids)
}

/// What became of the renaming whose answer was lost.
async fn after_lost_answer(
    maintenance: &mut Session,
    backend: &Backend,
    renamings: &[Renaming<'_>],
    oids: &[i64],
    lost: PgError,
) -> Result<(), PgError> {
    tracing::warn!(error = %lost, "The answer to the renaming was lost; the server is asked what is true");
    match are_renamed(maintenance, backend, renamings, oids).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(lost),
        Err(error) => {
            tracing::warn!(%error, "The server does not say what became of the renaming");
            let Renaming { from, to, .. } = renamings[0];
            let oid = oids[0];
            Err(PgError::Unanswered {
                tell: format!(
                    "once it does, run in database postgres: SELECT datname FROM pg_database WHERE oid = {oid}; \
                     where it says {to}, it was done, and where it says {from}, nothing was changed; pgseal kept list shows what was left"
                ),
                source: Box::new(lost),
            })
        }
    }
}

async fn are_renamed(
    maintenance: &mut Session,
    backend: &Backend,
    renamings: &[Renaming<'_>],
    oids: &[i64],
) -> Result<bool, PgError> {
    *maintenance = backend.settled(maintenance.connection()).await?;
    let doing = "look for what the databases are called";
    let sql = "SELECT count(*) FROM pg_catalog.pg_database d \
        JOIN unnest($1::bigint[], $2::text[]) w(oid, name) ON w.oid = d.oid::bigint AND w.name = d.datname::text";
    let names: Vec<String> = renamings
        .iter()
        .map(|renaming| renaming.to.to_owned())
        .collect();
    let renamed: Result<i64, _> = sqlx::query_scalar(sql)
        .persistent(false)
        .bind(oids)
        .bind(names)
        .fetch_one(&mut maintenance.inner)
        .await;
    let renamed = renamed.map_err(|source| PgError::Query { doing, source })?;
    Ok(usize::try_from(renamed) == Ok(oids.len()))
}

async fn transaction(maintenance: &mut Session, renamings: &[Renaming<'_>]) -> Result<(), PgError> {
    let mut statements = vec![
        "BEGIN".to_owned(),
        // Somebody may be at work on the database as a whole, and never end.
        "SET LOCAL lock_timeout = '5s'".to_owned(),
    ];
    for Renaming { from, to, comment } in renamings {
        statements.push(format!(
            "ALTER DATABASE {} RENAME TO {}",
            identifier(from),
            identifier(to)
        ));
        statements.push(comment_statement(to, *comment));
    }
    statements.push("COMMIT".to_owned());
    for statement in statements {
        if let Err(error) = maintenance.run(RENAME, &statement).await {
            // A session that is gone took its transaction along, or its commit is under way: that is looked at.
            if error.is_refusal() {
                let _undone = maintenance.run(RENAME, "ROLLBACK").await;
            }
            return Err(error);
        }
    }
    Ok(())
}

/// Databases that every server has: sessions that work on whole databases, and all our locks, are in one of these.
pub const MAINTENANCE: [&str; 2] = ["postgres", "template1"];

/// Whether somebody is connected to the database, or at work on it (SQLSTATE object_in_use, lock_not_available).
fn is_occupied(error: &PgError) -> bool {
    let PgError::Query {
        source: sqlx::Error::Database(error),
        ..
    } = error
    else {
        return false;
    };
    matches!(error.code().as_deref(), Some("55006" | "55P03"))
}

/// A second session, which ends all others in some databases.
struct Ender {
    session: Session,
    names: Vec<String>,
    /// Why some could not be ended, by their server process.
    refused: BTreeMap<i32, String>,
}

impl Ender {
    /// Ends sessions, those too that come back, until it is dropped. Where its own session is lost, it takes another one.
    async fn end_sessions(&mut self) -> Infallible {
        loop {
            if let Err(error) = self.end_those_there().await {
                tracing::debug!(%error, "end the databases' sessions");
                match Session::connect(self.session.connection()).await {
                    Ok(session) => self.session = session,
                    Err(error) => tracing::debug!(%error, "no session to end others with"),
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn end_those_there(&mut self) -> Result<(), PgError> {
        for (pid, _) in self.connected().await? {
            match self.end(pid).await {
                Ok(()) => {}
                // That somebody ends this session is no answer about the other one.
                Err(sqlx::Error::Database(error))
                    if !error.code().is_some_and(|code| code.starts_with("57P")) =>
                {
                    self.refused.insert(pid, error.message().to_owned());
                }
                Err(source) => {
                    let doing = "end the database's sessions";
                    return Err(PgError::Query { doing, source });
                }
            }
        }
        Ok(())
    }

    async fn end(&mut self, pid: i32) -> Result<(), sqlx::Error> {
        let ended = sqlx::query("SELECT pg_catalog.pg_terminate_backend($1)")
            .persistent(false)
            .bind(pid)
            .execute(&mut self.session.inner)
            .await;
        ended.map(drop)
    }

    /// Server processes in the databases, each with its role. Those without a role are the server's own, and it ends them
    /// itself.
    async fn connected(&mut self) -> Result<Vec<(i32, String)>, PgError> {
        let doing = "look for the database's sessions";
        let sql = "SELECT pid, usename::text FROM pg_catalog.pg_stat_activity \
            WHERE datname = ANY($1) AND usesysid IS NOT NULL AND pid <> pg_catalog.pg_backend_pid() ORDER BY 1";
        let rows = sqlx::query(sql)
            .persistent(false)
            .bind(&self.names)
            .fetch_all(&mut self.session.inner)
            .await;
        let read = |row: &sqlx::postgres::PgRow| -> Result<(i32, String), sqlx::Error> {
            Ok((
                row.try_get(0)?,
                row.try_get::<Option<String>, _>(1)?.unwrap_or_default(),
            ))
        };
        rows.and_then(|rows| rows.iter().map(read).collect())
            .map_err(|source| PgError::Query { doing, source })
    }

    async fn who_stays(&mut self, database: &str) -> PgError {
        let sessions = match self.connected().await {
            Ok(sessions) => sessions,
            Err(error) => return error,
        };
        let said = |(pid, role): (i32, String)| {
            let why = self.refused.get(&pid);
            let why = why.map_or_else(String::new, |why| format!(": {why}"));
            format!("server process {pid} of role {role}{why}")
        };
        PgError::Occupied {
            database: database.to_owned(),
            sessions: sessions.into_iter().map(said).collect(),
        }
    }
}

/// What follows a database's identity and would be left behind by a swap, each with what to do about it.
///
/// # Errors
/// The server refuses.
pub async fn hangs_on_identity(
    maintenance: &mut Session,
    database: &str,
) -> Result<Vec<Finding>, PgError> {
    let doing = "look for what hangs on the database";
    let sql = "SELECT 'slot', slot_name::text FROM pg_catalog.pg_replication_slots WHERE database = $1 \
        UNION ALL SELECT 'subscription', s.subname::text FROM pg_catalog.pg_subscription s \
            JOIN pg_catalog.pg_database d ON d.oid = s.subdbid WHERE d.datname = $1 \
        UNION ALL SELECT 'transaction', gid FROM pg_catalog.pg_prepared_xacts WHERE database = $1 ORDER BY 1";
    let rows = sqlx::query(sql)
        .persistent(false)
        .bind(database)
        .fetch_all(&mut maintenance.inner)
        .await;
    let read = |row: &sqlx::postgres::PgRow| -> Result<Finding, sqlx::Error> {
        let (kind, name): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        Ok(hanging(&kind, &name, database))
    };
    rows.and_then(|rows| rows.iter().map(read).collect())
        .map_err(|source| PgError::Query { doing, source })
}

fn hanging(kind: &str, name: &str, database: &str) -> Finding {
    let text = super::database::literal(name);
    match kind {
        "slot" => Finding::problem(
            "swap",
            format!("logical replication slot {name} stays with the database that is there now"),
            format!(
                "in {database}, once its consumer is stopped: SELECT pg_drop_replication_slot({text}); or restore with --mode in-place"
            ),
        ),
        "subscription" => Finding::problem(
            "swap",
            format!("subscription {name} stays with the database that is there now"),
            format!("in {database}: DROP SUBSCRIPTION {};", identifier(name)),
        ),
        _ => Finding::problem(
            "swap",
            format!("transaction {name} is prepared and not ended"),
            format!("in {database}: COMMIT PREPARED {text}; or ROLLBACK PREPARED {text};"),
        ),
    }
}

/// Whether the database may be swapped by this role.
///
/// # Errors
/// The server refuses.
pub async fn may_swap(
    maintenance: &mut Session,
    database: &str,
) -> Result<Option<Finding>, PgError> {
    if MAINTENANCE.contains(&database) {
        return Ok(Some(Finding::problem(
            "swap",
            format!("whoever renames a database has to be in {database} meanwhile"),
            "restore with --mode in-place".to_owned(),
        )));
    }
    let doing = "look at the role's rights";
    let sql = "SELECT r.rolsuper OR r.rolcreatedb, pg_catalog.pg_has_role(d.datdba, 'USAGE'), \
            pg_catalog.pg_get_userbyid(d.datdba)::text \
        FROM pg_catalog.pg_roles r, pg_catalog.pg_database d WHERE r.rolname = current_user AND d.datname = $1";
    let row = sqlx::query(sql)
        .persistent(false)
        .bind(database)
        .fetch_optional(&mut maintenance.inner)
        .await;
    let query = |source| PgError::Query { doing, source };
    let Some(row) = row.map_err(query)? else {
        return Ok(None);
    };
    let (creates, owns) = (
        row.try_get(0).map_err(query)?,
        row.try_get(1).map_err(query)?,
    );
    let owner: String = row.try_get(2).map_err(query)?;
    let role = identifier(maintenance.connection().role());
    Ok(match (creates, owns) {
        (true, true) => None,
        (false, _) => Some(Finding::problem(
            "swap",
            format!("role {role} may not create databases"),
            format!("as a superuser: ALTER ROLE {role} CREATEDB; or restore with --mode in-place"),
        )),
        (true, false) => Some(Finding::problem(
            "swap",
            format!("role {role} may not rename {database}, which {owner} owns"),
            format!("as a superuser: GRANT {} TO {role};", identifier(&owner)),
        )),
    })
}

/// Whether our catalog lives in the database: a swap would leave it, and the jobs that run, with the old one.
///
/// # Errors
/// The database cannot be looked into.
pub async fn holds_catalog(database: &Connection) -> Result<Option<Finding>, PgError> {
    let mut session = Session::connect(database).await?;
    let schemas = catalog_schemas(&mut session).await;
    session.close().await;
    Ok(schemas?.first().map(|schema| {
        Finding::problem(
            "swap",
            format!("pgseal's own catalog is in the database (schema {schema}), and would stay with the one that is there now"),
            "set CATALOG_DATABASE_URL to another database and run pgseal migrate, or restore with --mode in-place",
        )
    }))
}
