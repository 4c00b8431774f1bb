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
use crate::pg::inspect::{self, Backend, Depth, Renaming, Session};
use crate::pg::{LoadMode, PgError};
use crate::progress::Progress;

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
            let database = proven.to.database();
            // From here on no signal ends it: it takes a moment, and is done or not done.
            progress.set_finishing(true);
            let named = working.take_name(database, None).await;
            progress.set_finishing(false);
            match named {
                Ok(()) => Ok(loaded),
                Err(source @ PgError::Unanswered { .. }) => Err(RestoreError::NewUnknown {
                    database: database.to_owned(),
                    source,
                }),
                Err(source) => Err(RestoreError::New(source)),
            }
        }
        Err(error) => Err(error),
    };
    working.end(named).await
}

/// A database that is being filled, under a working name and with the record of what it is.
pub(super) struct Working<'a> {
    pub(super) maintenance: Session,
    pub(super) record: KeptRecord,
    /// The server's process of `maintenance`, which may go on when the connection is lost.
    backend: Backend,
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
        let maintenance = inspect::maintenance_session(&proven.to).await;
        let mut maintenance = maintenance.map_err(RestoreError::New)?;
        let backend = Backend::of(&mut maintenance).await;
        let backend = backend.map_err(RestoreError::New)?;
        let now = (stages.clock)();
        let id = LandingId::of(Uid::new(now));
        let mut record = KeptRecord::new(id, proven.to.database(), proven.fetched.name(), now);
        record.safety_backup = safety_backup;
        let name = record.name();
        let mut working = Self {
            to: proven.to.with_database(&name),
            maintenance,
            record,
            backend,
            name,
            facts,
            warnings: Vec::new(),
        };
        match inspect::create_database(&mut working.maintenance, &working.name, facts).await {
            Ok(warning) => working.warnings.extend(warning),
            // It is another one's, or the server made none.
            Err(error) if matches!(error, PgError::DatabaseExists(_)) || error.is_refusal() => {
                working.maintenance.close().await;
                return Err(RestoreError::New(error));
            }
            // The answer was lost, and it may have been made all the same.
            Err(error) => return working.end(Err(RestoreError::New(error))).await,
        }
        match inspect::write_record(&mut working.maintenance, &working.name, &working.record).await
        {
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
            let to = self.speaking_plainly().await;
            let loaded = load(proven, LoadMode::New(&to), None, stages, progress).await;
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
                let facts = inspect::given_to(facts, &proven.plan.roles.mapped);
                let becomes = proven.to.database();
                let applied =
                    inspect::apply_properties(&mut self.maintenance, &self.name, becomes, &facts);
                self.warnings.extend(applied.await);
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

    /// A drill judges by what pg_restore says; where this role may, it has the server say it untranslated.
    async fn speaking_plainly(&mut self) -> Connection {
        match inspect::language(&mut self.maintenance).await {
            Ok(language) if language.may_be_set && !language.is_plain() => {
                self.to.with_server_setting("lc_messages", "C")
            }
            _ => self.to.clone(),
        }
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

    /// Closes what is done; of what failed, drops what was made. Of what nobody knows, nothing is touched.
    pub(super) async fn end<T>(
        mut self,
        outcome: Result<T, RestoreError>,
    ) -> Result<T, RestoreError> {
        if outcome.as_ref().is_err_and(|error| !error.is_unknown()) {
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
        for attempt in 1..=inspect::ANSWER_TRIES {
            let error = match inspect::drop_database(&mut self.maintenance, &self.name).await {
                Ok(()) => return,
                Err(error) => error,
            };
            if attempt == inspect::ANSWER_TRIES || error.is_refusal() {
                tracing::warn!(%error, database = self.name,
                    "Restore left its unfinished database behind: pgseal kept drop removes it");
                return;
            }
            // The session may have ended with what failed, and the server may still be at what it was told.
            tokio::time::sleep(Duration::from_secs(1)).await;
            if let Err(error) = self.reconnect().await {
                tracing::debug!(%error, "the server does not answer yet");
            }
        }
    }

    async fn reconnect(&mut self) -> Result<(), PgError> {
        let mut session = inspect::maintenance_session(&self.to).await?;
        self.backend.end(&mut session).await?;
        self.backend = Backend::of(&mut session).await?;
        self.maintenance = session;
        Ok(())
    }
}
