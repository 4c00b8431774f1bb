//! A database that does not exist yet is created, filled, compared, and only then named: mode `new`, and what `swap`
//! begins with.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::compare::{analyze, compare};
use super::{Loaded, Proven, RestoreError, load, roles};
use crate::backup::Stages;
use crate::model::connection::Connection;
use crate::model::ids::Uid;
use crate::model::kept::{KeptRecord, LandingId};
use crate::model::manifest::DatabaseFacts;
use crate::pg::inspect::{self, Depth, Renaming, Session};
use crate::pg::{LoadMode, PgError};
use crate::progress::Progress;

/// A server that went away in the middle may be back in so many tries, one a second, and lets what was made be dropped.
const DROP_TRIES: u32 = 15;

/// Fills a database under a working name, and gives it its name once its rows are the recorded ones.
pub(super) async fn run(
    proven: &Proven,
    stages: &Stages,
    progress: &Arc<Progress>,
    cancel: &CancellationToken,
) -> Result<Loaded, RestoreError> {
    let facts = proven.fetched.manifest().map(|manifest| &manifest.database);
    let mut working = Working::create(proven, facts, None, stages, progress).await?;
    let filled = working
        .fill(proven, Depth::Number, stages, progress, cancel)
        .await;
    let named = match filled {
        Ok(loaded) => {
            progress.start_stage("name the database");
            let named = working.take_name(proven.to.database(), None).await;
            named.map(|()| loaded).map_err(RestoreError::New)
        }
        Err(error) => Err(error),
    };
    working.end(named).await
}

/// A database that is being filled, under a working name and with the record of what it is.
pub(super) struct Working<'a> {
    pub(super) maintenance: Session,
    pub(super) record: KeptRecord,
    name: String,
    to: Connection,
    facts: Option<&'a DatabaseFacts>,
    warnings: Vec<String>,
}

impl<'a> Working<'a> {
    /// Creates it, empty, as `facts` describe it.
    pub(super) async fn create(
        proven: &Proven,
        facts: Option<&'a DatabaseFacts>,
        safety_backup: Option<String>,
        stages: &Stages,
        progress: &Progress,
    ) -> Result<Self, RestoreError> {
        progress.start_stage("create the database");
        let mut maintenance = inspect::maintenance_session(&proven.to)
            .await
            .map_err(RestoreError::New)?;
        let now = (stages.clock)();
        let id = LandingId::of(Uid::new(now));
        let mut record = KeptRecord::new(id, proven.to.database(), proven.fetched.name(), now);
        record.safety_backup = safety_backup;
        let name = record.name();
        let warning = inspect::create_database(&mut maintenance, &name, facts)
            .await
            .map_err(RestoreError::New)?;
        let mut working = Self {
            to: proven.to.with_database(&name),
            maintenance,
            name,
            record,
            facts,
            warnings: Vec::from_iter(warning),
        };
        let recorded =
            inspect::write_record(&mut working.maintenance, &working.name, &working.record).await;
        match recorded {
            Ok(()) => Ok(working),
            Err(error) => working.end(Err(RestoreError::New(error))).await,
        }
    }

    /// Loads into it, compares, and gives it the properties that no archive holds.
    pub(super) async fn fill(
        &mut self,
        proven: &Proven,
        depth: Depth,
        stages: &Stages,
        progress: &Arc<Progress>,
        cancel: &CancellationToken,
    ) -> Result<Loaded, RestoreError> {
        let filled = async {
            progress.start_stage("load");
            let loaded = load(proven, LoadMode::New(&self.to), stages, progress).await;
            let (plain_bytes, warnings) = loaded.map_err(RestoreError::LoadNew)?;
            self.warnings.extend(warnings);
            let given = roles::hand_over(&self.to, &proven.plan).await;
            self.warnings.extend(given.map_err(RestoreError::New)?);
            progress.start_stage("compare the rows");
            let compared = compare(&self.to, proven.counted().as_ref(), depth)
                .await
                .map_err(RestoreError::New)?;
            let compared = compared.map_err(RestoreError::CountsNew)?;
            self.warnings.extend(analyze(&self.to, progress).await);
            if let Some(facts) = self.facts {
                progress.start_stage("apply the database's properties");
                let warnings =
                    inspect::apply_properties(&mut self.maintenance, &self.name, facts).await;
                self.warnings.extend(warnings);
            }
            Ok(Loaded {
                compared,
                plain_bytes,
                safety_backup: self.record.safety_backup.clone(),
                kept: None,
                warnings: std::mem::take(&mut self.warnings),
            })
        };
        let filled = cancel.run_until_cancelled(filled).await;
        filled.unwrap_or_else(|| Err(RestoreError::Interrupted(self.record.safety_backup.clone())))
    }

    /// Makes it the database `name`, which another one may give up in the same moment.
    pub(super) async fn take_name(
        &mut self,
        name: &str,
        from: Option<Renaming<'_>>,
    ) -> Result<(), PgError> {
        let own = Renaming {
            from: &self.name,
            to: name,
            comment: self.facts.and_then(|facts| facts.comment.as_deref()),
        };
        let renamings: Vec<Renaming<'_>> = from.into_iter().chain([own]).collect();
        inspect::rename_together(&mut self.maintenance, &renamings).await
    }

    /// Closes what is done; of what failed, drops what was made.
    pub(super) async fn end<T>(
        mut self,
        outcome: Result<T, RestoreError>,
    ) -> Result<T, RestoreError> {
        if outcome.is_err() {
            self.drop().await;
        }
        self.maintenance.close().await;
        outcome
    }

    /// What is being filled, under its working name.
    pub(super) const fn database(&self) -> &Connection {
        &self.to
    }

    /// Drops what was only a trial.
    pub(super) async fn discard(mut self) {
        self.drop().await;
        self.maintenance.close().await;
    }

    async fn drop(&mut self) {
        for attempt in 1..=DROP_TRIES {
            let error = match inspect::drop_database(&mut self.maintenance, &self.name).await {
                Ok(()) => return,
                Err(error) => error,
            };
            if attempt == DROP_TRIES || error.is_refusal() {
                tracing::warn!(%error, database = self.name,
                    "Restore left its unfinished database behind: pgseal kept drop removes it");
                return;
            }
            // The session may have ended with what failed.
            tokio::time::sleep(Duration::from_secs(1)).await;
            match inspect::maintenance_session(&self.to).await {
                Ok(session) => self.maintenance = session,
                Err(error) => tracing::debug!(%error, "the server does not answer yet"),
            }
        }
    }
}
