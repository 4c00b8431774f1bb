//! The catalog: every SQL statement on pgseal's own tables, in schema `pgseal`.
//!
//! The bucket is the truth about backups, the catalog about jobs. What must never be true of a job is impossible in
//! the schema itself (`migrations/`), so that no program has to remember it: the arrows between states, one running
//! job for a target, a lease for whatever runs. A lease's token fences: whoever lost it changes nothing any more.
//!
//! Times are by the database's clock alone, except those that a manifest says. Every statement is checked against the
//! schema when this is compiled; `./dev sqlx` keeps what that needs in `.sqlx`.

mod adopt;
mod audit;
mod cancel;
mod copies;
mod deletion;
mod drills;
mod ending;
mod error;
mod events;
mod lease;
mod listing;
mod migrate;
mod outbox;
mod pins;
mod read;
mod request;
mod retained;
mod rows;
mod slots;

use std::sync::Arc;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{Connection as _, Executor as _, Postgres, Transaction};

pub use adopt::{Adopted, ImportedBackup, KnownObject};
pub use audit::{ACCEPTED, Act, AuditFilter, AuditRow, KnownKey, RequestKey};
pub use cancel::Cancelled;
pub use copies::{Again, AtFault};
pub use deletion::{LastGood, Needed};
pub use drills::{BegunDrill, DrillBudget, DrillChoice, DrillSlot};
pub use ending::{Compared, Dependent, Ended, Ending, InSecond, RestoreFacts, Settlement};
pub use error::CatalogError;
use error::is_lost_connection;
pub use lease::{Claim, Lease, Renewed, Report};
pub use listing::{BackupFilter, LastSuccess, RestoreFilter, Slice, Statistics};
pub use migrate::{CreateDatabase, Migrated, migrate};
pub use outbox::{Delivery, Failed, Route, Undelivered, Waiting};
pub use request::{BackupRequested, OfJob, RestoreRequested, Safety};
pub use retained::RetainedRow;
pub use rows::{
    Active, BackupRow, CopyState, Deletion, Health, JobFacts, JobStatus, Origin, PendingJob,
    ProofState, RestoreMode, RestoreRow, RunningJob, Task,
};
pub use slots::Slot;

use crate::model::connection::Connection;
use crate::reach::{self, ReachError};

/// A process does one job at a time and says so every few seconds; the rest is reading.
const CONNECTIONS_MAX: u32 = 4;
/// How long a statement waits for a connection. A lease is renewed several times before it ends, so that one such wait
/// does not cost it.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
/// A filter that is not set is none in the plan either: so each plan is made for its values, which costs less than a
/// wrong one. Nothing here reads or writes more than some thousand rows; what takes longer hangs.
const SESSION_SETTINGS: &str = "SET statement_timeout = '30s'; SET lock_timeout = '10s'; \
    SET idle_in_transaction_session_timeout = '60s'; SET search_path = pg_catalog; \
    SET plan_cache_mode = force_custom_plan";

/// The catalog, open and in a form that this program knows. Clones share its connections.
#[derive(Clone)]
pub struct Catalog {
    pool: PgPool,
    connection: Connection,
    /// What is recorded beside each change.
    act: Option<Arc<Act>>,
}

impl Catalog {
    /// Opens the catalog.
    ///
    /// # Errors
    /// It cannot be reached; or its form is not exactly the one that this program knows, older or newer.
    pub async fn open(connection: &Connection) -> Result<Self, CatalogError> {
        let options = answering(connection)
            .await
            .map_err(|error| migrate::no_database(connection, error))?;
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS_MAX)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .after_connect(|session, _| {
                Box::pin(async move {
                    session
                        .execute(sqlx::raw_sql(SESSION_SETTINGS))
                        .await
                        .map(drop)
                })
            })
            .connect_lazy_with(options);
        let catalog = Self {
            pool,
            connection: connection.clone(),
            act: None,
        };
        let mut session = catalog.session("open the catalog").await?;
        migrate::require_known_form(&mut session, &catalog.describe()).await?;
        Ok(catalog)
    }

    /// Whether it answers.
    ///
    /// # Errors
    /// It does not.
    pub async fn ping(&self) -> Result<(), CatalogError> {
        let doing = "ask whether the catalog is there";
        let mut session = self.session(doing).await?;
        session.ping().await.map_err(self.failed(doing))
    }

    /// Role, hosts and database; never the password.
    #[must_use]
    pub fn describe(&self) -> String {
        self.connection.to_string()
    }

    /// Ends its connections; whoever still waits for one gets an error.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// A connection of the pool. Where the URL names several hosts and the one that answered is gone, the others are
    /// tried.
    async fn session(&self, doing: &'static str) -> Result<PoolConnection<Postgres>, CatalogError> {
        let first = match self.pool.acquire().await {
            Ok(session) => return Ok(session),
            Err(error) => error,
        };
        if self.connection.hosts().len() < 2 || matches!(first, sqlx::Error::PoolClosed) {
            return Err(self.failed(doing)(first));
        }
        self.pool
            .set_connect_options(answering(&self.connection).await?);
        self.pool.acquire().await.map_err(self.failed(doing))
    }

    async fn begin(
        &self,
        doing: &'static str,
    ) -> Result<Transaction<'static, Postgres>, CatalogError> {
        let session = self.session(doing).await?;
        Transaction::begin(session, None)
            .await
            .map_err(self.failed(doing))
    }

    /// What a failed statement is called.
    fn failed(&self, doing: &'static str) -> impl Fn(sqlx::Error) -> CatalogError + use<'_> {
        move |source| {
            if is_lost_connection(&source) {
                let to = self.describe();
                return CatalogError::Unreachable { doing, to, source };
            }
            CatalogError::Query { doing, source }
        }
    }
}

/// How to reach the first host that answers and is of the wanted kind.
async fn answering(connection: &Connection) -> Result<PgConnectOptions, ReachError> {
    let mut last = None;
    for single in reach::candidates(connection) {
        let mut session = match reach::open(&single).await {
            Ok(session) => session,
            Err(error) => {
                last = Some(error);
                continue;
            }
        };
        let wanted = reach::is_wanted(&mut session, &single).await;
        // It was only asked; whether it hears that we go does not matter.
        let _ended = session.close().await;
        match wanted {
            Ok(true) => return reach::options(&single),
            Ok(false) => {}
            Err(source) => last = Some(reach::refused(&single, source)),
        }
    }
    Err(last.unwrap_or_else(|| ReachError::unwanted(connection)))
}

/// As the catalog counts; what is beyond its numbers is beyond anything that exists.
fn counted(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// As [`counted`], for columns of 32 bits.
fn counted_small(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// A duration as `make_interval` takes it.
const fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}
