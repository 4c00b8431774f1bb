//! The API: what administrators and their front ends ask for. It reads the catalog, enqueues, and hands sealed objects
//! out; it never dumps and never restores.
//!
//! ```text
//! request -> its id, the log, problems as documents -> CORS -> time, number -> token, rate -> handler -> catalog, queue
//! ```
//!
//! Every path that is not on [`OPEN`] needs an administrator's token: a route that somebody forgets is closed. Routes and
//! their documentation are one thing (`utoipa`), so that neither can be without the other.

mod audit;
mod auth;
mod backups;
mod check;
mod downloads;
mod events;
mod extract;
mod health;
mod json;
mod limits;
mod metrics;
mod openapi;
mod problem;
mod recent;
mod records;
mod restores;
mod router;
mod schedule;
mod serve;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::http::StatusCode;
use time::OffsetDateTime;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub use auth::{KeyError, Signature, TokenRules, Tokens, mint};
pub use check::{CheckError, check};
pub use openapi::document;
pub use router::OPEN;
pub use serve::serve;

use self::problem::Problem;
use crate::catalog::{BackupFilter, BackupRow, RestoreFilter};
use crate::dispatch::{Dispatch, Drills, Outbox, Timetable};
use crate::model::connection::Connection;
use crate::model::target::TargetName;
use crate::store::Store;
use crate::vault::Vault;

/// What the API is made of.
pub struct Parts {
    /// The catalog and the queue.
    pub dispatch: Dispatch,
    /// The store and what opens manifests.
    pub vault: Vault,
    /// Every target that is configured.
    pub targets: BTreeMap<TargetName, Target>,
    /// When targets are backed up without anybody asking.
    pub timetables: Vec<Timetable>,
    /// When their backups are tried, and what that may fetch.
    pub drills: Drills,
    /// What is to be told, and to whom, also where every worker is gone. `None`: there are no channels here, and who has some
    /// tells it.
    pub outbox: Option<Outbox>,
    /// Who is believed.
    pub tokens: Tokens,
    /// How strict it is.
    pub rules: Rules,
}

/// A configured target.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its database's name.
    pub database: String,
    /// What restores into it are confirmed by: the database's name, behind the target's where several databases have it.
    pub confirmed_by: String,
    /// Where it is; plans look at it, and change nothing.
    pub connection: Connection,
}

/// How strict the API is.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Whether every restore has to be confirmed.
    pub confirmation: Confirmation,
    /// Origins whose pages may call it.
    pub origins: Vec<String>,
    /// Requests a second by one subject.
    pub requests_per_second: u32,
    /// The one clock.
    pub clock: fn() -> OffsetDateTime,
}

/// Whether every restore has to be confirmed by the database's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmation {
    /// Only one without a safety backup.
    Optional,
    /// Every one.
    Required,
}

/// The API as it runs.
struct Api {
    parts: Parts,
    rates: limits::Rates,
    backup_totals: Arc<recent::Recent<BackupFilter, u64>>,
    restore_totals: Arc<recent::Recent<RestoreFilter, u64>>,
    readiness: recent::Recent<(), health::Readiness>,
    metrics: recent::Recent<(), Arc<str>>,
    requests: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    /// Streams end when the service does.
    ending: CancellationToken,
}

impl Api {
    fn new(parts: Parts, ending: CancellationToken) -> Self {
        Self {
            rates: limits::Rates::new(parts.rules.requests_per_second),
            backup_totals: Arc::new(recent::Recent::new(recent::TOTAL_AGE_MAX)),
            restore_totals: Arc::new(recent::Recent::new(recent::TOTAL_AGE_MAX)),
            readiness: recent::Recent::new(recent::READINESS_AGE_MAX),
            metrics: recent::Recent::new(recent::METRICS_AGE_MAX),
            requests: Arc::new(Semaphore::new(limits::REQUESTS_MAX)),
            streams: Arc::new(Semaphore::new(limits::STREAMS_MAX)),
            ending,
            parts,
        }
    }

    /// What is told of a backup.
    fn record(&self, row: BackupRow) -> records::BackupRecord {
        let second = self.parts.vault.second.as_ref().map(Store::describe);
        records::BackupRecord::of(row, second.as_deref())
    }

    /// The target of this name. Only what is configured can be backed up or restored into.
    fn target(&self, name: &str) -> Result<(&TargetName, &Target), Problem> {
        let found = TargetName::parse(name).ok();
        let found = found.and_then(|name| self.parts.targets.get_key_value(&name));
        found.ok_or_else(|| {
            Problem::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "target_unknown",
                "No target of that name is configured.",
            )
        })
    }

    fn now(&self) -> OffsetDateTime {
        (self.parts.rules.clock)()
    }

    /// What was counted may be different now.
    async fn forget_totals(&self) {
        self.backup_totals.forget().await;
        self.restore_totals.forget().await;
    }
}
