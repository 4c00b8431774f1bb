//! What the jobs do: a backup, a restore, a verification. Each is the same runbook that the command line runs.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::copy::Second;
use super::safety::{self, Made};
use super::supervise::{Reason, Running, Supervised};
use super::{Stop, Worker};
use crate::backup::{BackupRequest, Stages};
use crate::catalog::{
    BackupRow, Claim, Compared, Ended, Health, JobStatus, Lease, OfJob, RestoreFacts, RestoreMode,
    RestoreRow, Task,
};
use crate::dispatch::BackupWanted;
use crate::model::connection::Connection;
use crate::model::explanation::explain;
use crate::model::ids::{BackupId, RestoreId};
use crate::model::kept::{KeptAs, KeptRecord, LandingId};
use crate::model::kind::BackupKind;
use crate::model::manifest::{Manifest, Requested};
use crate::model::object_key::ObjectKey;
use crate::model::target::{TARGET_DEFAULT, TargetName};
use crate::progress::Progress;
use crate::queue::consumer::{Ending as Told, Taken};
use crate::queue::value::Value;
use crate::restore::plan::{PlanId, Way, Wishes};
use crate::restore::{
    self, LOCK_WAIT_DEFAULT, Mode, RestoreError, RestoreRequest, Restored, Safety,
};
use crate::vault::{Limits, Selector, VaultError, Which};

/// A job whose target is busy is looked at again after so long.
const BUSY_PAUSE: Duration = Duration::from_secs(10);

/// How a job ended, for Redis.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Ending {
    /// It returned this.
    Success(Value),
    /// It failed for good.
    Failed(String),
    /// It failed, and is tried again.
    Retry(String),
    /// Somebody ended it.
    Stopped(String),
    /// The worker ends; another one does it.
    GivenBack,
    /// Something else of the same target runs; it comes again.
    Delayed(Duration),
    /// Nobody here may say: whoever settles the row tells Redis.
    Lost,
}

impl Ending {
    /// One word for logs.
    pub(super) const fn word(&self) -> &'static str {
        match self {
            Self::Success(_) => "success",
            Self::Failed(_) => "failed",
            Self::Retry(_) => "retry",
            Self::Stopped(_) => "stopped",
            Self::GivenBack => "given back",
            Self::Delayed(_) => "delayed",
            Self::Lost => "lost",
        }
    }

    /// A failure, tried again if its producer wanted that.
    pub(super) fn or_retry(self, taken: &Taken) -> Self {
        match self {
            Self::Failed(text) if taken.hash.retries_left.is_some_and(|left| left > 0) => {
                Self::Retry(text)
            }
            other => other,
        }
    }

    /// What Redis is told; `None`: nothing.
    pub(super) fn told(self) -> Option<Told> {
        Some(match self {
            Self::Success(value) => Told::Success(value),
            Self::Failed(text) => Told::FailedFinally(text),
            Self::Retry(text) => Told::Failed(text),
            Self::Stopped(text) => Told::Stopped(text),
            Self::GivenBack => Told::Requeued,
            Self::Delayed(pause) => Told::Delayed(pause),
            Self::Lost => return None,
        })
    }
}

impl Worker {
    /// Makes a backup.
    pub(super) async fn run_backup(
        &self,
        taken: &Taken,
        id: Option<BackupId>,
        stop: &Stop,
    ) -> Ending {
        let id = match id {
            Some(id) => id,
            None => match self.own_row(taken).await {
                Ok(id) => id,
                Err(ending) => return ending,
            },
        };
        let lease = match self.claim(taken, Task::Backup(id)).await {
            Ok(lease) => lease,
            Err(ending) => return ending,
        };
        let row = match self.dispatch.catalog.backup(id).await {
            Ok(Some(row)) => row,
            Ok(None) => return Ending::Lost,
            Err(error) => return self.failed(taken, &lease, "prepare", explain(&error)).await,
        };
        let (connection, stages) = match self.target(&row.target) {
            Ok(target) => target,
            Err(text) => return self.failed(taken, &lease, "prepare", text).await,
        };
        let request = backup_request(connection, &row, &lease);
        let progress = Arc::new(Progress::default());
        let running = Running {
            taken,
            lease: Some(&lease),
            limit: lease.time_limit,
            progress: &progress,
            cancel: CancellationToken::new(),
        };
        let cancel = running.cancel.clone();
        let work = Box::pin(safety::make(&stages, &request, &progress, &cancel));
        let supervised = self.supervise(running, stop, work).await;
        let stage = progress.read().stage;
        match supervised {
            Supervised::Done(Ok(made)) | Supervised::Ended(_, Some(Ok(made))) => {
                self.backup_made(id, &lease, &made).await
            }
            Supervised::Done(Err(error)) => {
                self.failed(taken, &lease, &stage, explain(&error)).await
            }
            Supervised::Ended(reason, _) => self.ended(taken, &lease, reason, &stage).await,
            Supervised::Panicked(said) => self.failed(taken, &lease, &stage, panicked(&said)).await,
        }
    }

    /// The row of a job that carries no id: a manual backup of the default target, by whoever enqueued it.
    async fn own_row(&self, taken: &Taken) -> Result<BackupId, Ending> {
        let wanted = BackupWanted {
            target: TARGET_DEFAULT.to_owned(),
            kind: BackupKind::Manual,
            requested_by: "queue".to_owned(),
            labels: std::collections::BTreeMap::new(),
            excluded_table_data: Vec::new(),
        };
        let mut requested = self.dispatch.backup_requested(wanted, &taken.job_id);
        requested.queue = taken.queue.to_string();
        requested.attempts_max = 1 + taken.hash.retries_left.unwrap_or(0);
        // Ten thousand of them at once are no ten thousand backups.
        let asked_at = taken.hash.enqueued_at.max(taken.hash.created_at);
        let catalog = &self.dispatch.catalog;
        match catalog.backup_of_job(&requested, asked_at).await {
            Ok(OfJob::Its(row)) => Ok(row.id),
            Ok(OfJob::FulfilledBy(row)) => {
                tracing::info!(job.id = %taken.job_id, backup.id = %row.id,
                    "Worker makes no further backup: this one was begun after the job was enqueued");
                Err(Ending::Success(made_value(&row)))
            }
            Ok(OfJob::Awaits(other)) => {
                tracing::info!(job.id = %taken.job_id, backup.id = %other,
                    "Worker waits for another backup, which is what this job wants");
                Err(Ending::Delayed(BUSY_PAUSE))
            }
            Err(error) if error.is_transient() => Err(Ending::GivenBack),
            Err(error) => Err(Ending::Failed(explain(&error)).or_retry(taken)),
        }
    }

    /// The database of a row's target, and what its backups are made with: each target has a folder of its own.
    fn target(&self, name: &str) -> Result<(Connection, Stages), String> {
        let found = TargetName::parse(name).ok();
        let found = found.and_then(|name| self.targets.get_key_value(&name));
        let (name, connection) = found.ok_or_else(|| self.unknown_target(name))?;
        let mut stages = self.stages.clone();
        let layout = stages.vault.layout.of_target(name);
        stages.vault.layout = layout.map_err(|error| explain(&error))?;
        Ok((connection.clone(), stages))
    }

    fn unknown_target(&self, target: &str) -> String {
        let known: Vec<&str> = self.targets.keys().map(TargetName::as_str).collect();
        format!(
            "no target is called {target} here; there are: {}\nhint: DATABASE_URL names the target {TARGET_DEFAULT}, the file that BACKUP_TARGETS_FILE names has the others; every worker of a queue needs the same ones",
            known.join(", ")
        )
    }

    /// The backup exists; what remains is to say so.
    async fn backup_made(&self, id: BackupId, lease: &Lease, made: &Made) -> Ending {
        let manifest = &made.manifest;
        let told = self
            .until_told(lease, async || self.record_made(lease, made).await)
            .await;
        match told {
            // The restore that waited for it is pending now; its job is released with ours.
            Some(Ended::Done { .. }) => {
                tracing::info!(backup.id = %id, backup.name = manifest.name, plain_bytes = manifest.plain_bytes,
                    sealed_bytes = manifest.sealed_bytes, tables = manifest.tables.len(), rows = manifest.row_count(),
                    "Backup is complete");
                // What follows is about the first store.
                if made.place == Which::First {
                    self.after_backup(id, manifest).await;
                }
                Ending::Success(backup_value(id, manifest))
            }
            Some(Ended::Lost) => {
                self.take_back_without_dump(made).await;
                Ending::Lost
            }
            None => {
                tracing::warn!(backup.id = %id, backup.name = manifest.name,
                    "Backup is complete, but the catalog could not be told: its row is settled from the manifest later");
                Ending::Lost
            }
        }
    }

    /// Who settled the row meanwhile may have taken this backup's dump for that of a dead worker; its manifest is then no
    /// backup's. Otherwise it is a backup, whoever has the row.
    async fn take_back_without_dump(&self, made: &Made) {
        let manifest = &made.manifest;
        let vault = self.stages.vault.with(made.place);
        let Ok(key) = ObjectKey::parse(&manifest.object_key) else {
            return;
        };
        if !matches!(vault.store.head(&key).await, Ok(None)) {
            return tracing::warn!(
                backup.name = manifest.name,
                "Backup is complete, but its row is another worker's by now: it will be adopted as a backup of its own"
            );
        }
        if let Err(error) = vault.delete_here(&key).await {
            tracing::warn!(%error, backup.name = manifest.name, "Backup left a manifest without a dump behind");
        }
    }

    /// Carries a restore out.
    pub(super) async fn run_restore(&self, taken: &Taken, id: RestoreId, stop: &Stop) -> Ending {
        let lease = match self.claim(taken, Task::Restore(id)).await {
            Ok(lease) => lease,
            Err(ending) => return ending,
        };
        let row = match self.dispatch.catalog.restore(id).await {
            Ok(Some(row)) => row,
            Ok(None) => return Ending::Lost,
            Err(error) => return self.failed(taken, &lease, "prepare", explain(&error)).await,
        };
        let progress = Arc::new(Progress::default());
        let running = Running {
            taken,
            lease: Some(&lease),
            limit: lease.time_limit,
            progress: &progress,
            cancel: CancellationToken::new(),
        };
        let cancel = running.cancel.clone();
        // Finding the backup may take a store's bad half hour, so that is part of what is vouched for.
        let work = Box::pin(async {
            if row.mode == RestoreMode::Rollback {
                return self.roll_back(&row, &progress).await;
            }
            let asked = cancel.run_until_cancelled(self.restore_request(&row)).await;
            let request = asked.ok_or(Unrestored::Interrupted)?;
            let request = request.map_err(Unrestored::Failed)?;
            // A safety backup of its own lies with the target's other ones.
            let (_, stages) = self.target(&row.target).map_err(Unrestored::Failed)?;
            let restored = restore::run(&stages, request, &progress, &cancel).await;
            restored.map_err(Unrestored::from)
        });
        let supervised = self.supervise(running, stop, work).await;
        let stage = progress.read().stage;
        match supervised {
            Supervised::Done(Ok(restored)) | Supervised::Ended(_, Some(Ok(restored))) => {
                self.restored(&row, &lease, &restored).await
            }
            Supervised::Ended(reason, Some(Err(Unrestored::Interrupted))) => {
                self.ended(taken, &lease, reason, &stage).await
            }
            Supervised::Done(Err(error)) | Supervised::Ended(_, Some(Err(error))) => {
                self.failed(taken, &lease, &stage, error.text()).await
            }
            // It was dropped. What it may have committed must not be done once more, over what was written since.
            Supervised::Ended(Reason::LeaseLost, None) => Ending::Lost,
            Supervised::Ended(_, None) => {
                let text = format!(
                    "it was told to end and did not in time, at the stage: {stage}; whether the target was replaced is not known\nhint: look at the target; the safety backup, if there is one, has what was there before"
                );
                self.failed(taken, &lease, &stage, text).await
            }
            Supervised::Panicked(said) => self.failed(taken, &lease, &stage, panicked(&said)).await,
        }
    }

    /// What the row means: which backup, into what, and which safety backup was made for it.
    async fn restore_request(&self, row: &RestoreRow) -> Result<RestoreRequest, String> {
        let (to, _) = self.target(&row.target)?;
        let way = match row.mode {
            RestoreMode::InPlace => Way::InPlace,
            RestoreMode::Swap => Way::Swap,
            RestoreMode::New => Way::New,
            RestoreMode::Auto => Way::Auto,
            RestoreMode::Rollback => return Err("a rollback restores no backup".to_owned()),
        };
        let plan = match &row.choices.plan_id {
            Some(id) => Some(PlanId::parse(id).ok_or_else(|| format!("{id} is no plan's id"))?),
            None => None,
        };
        let key = self.object_key(row.backup_id).await?;
        let found = self.stages.vault.find_either(&Selector::Key(key)).await;
        let safety = match row.safety_backup_id {
            Some(safety) => Safety::Made(self.object_key(safety).await?),
            None => Safety::Skip,
        };
        Ok(RestoreRequest {
            found: found.map_err(|error| explain(&error))?,
            to,
            target: TargetName::parse(&row.target).unwrap_or_default(),
            mode: Mode::of(way),
            safety,
            limits: Limits::default(),
            wishes: Wishes::of(way, &row.choices),
            plan,
            lock_wait: LOCK_WAIT_DEFAULT,
        })
    }

    /// Undoes an earlier restore by the database that it set aside. That takes a moment, and nothing interrupts it.
    async fn roll_back(
        &self,
        row: &RestoreRow,
        progress: &Progress,
    ) -> Result<Restored, Unrestored> {
        progress.start_stage("swap the databases back");
        let undone = match row.undoes {
            Some(id) => self.dispatch.catalog.restore(id).await,
            None => Ok(None),
        };
        let undone = undone.map_err(|error| Unrestored::Failed(explain(&error)))?;
        let id = undone
            .and_then(|undone| undone.kept_database)
            .and_then(|name| LandingId::parse(name.rsplit('_').next()?));
        let id = id.ok_or_else(|| {
            Unrestored::Failed("the restore that is to be undone set no database aside".to_owned())
        })?;
        progress.set_finishing(true);
        let (to, _) = self.target(&row.target).map_err(Unrestored::Failed)?;
        let done = restore::rollback(&to, Some(&id), Some(KeptAs::Before), self.now()).await;
        progress.set_finishing(false);
        let done = done.map_err(|error| Unrestored::Failed(explain(&error)))?;
        Ok(Restored {
            backup: done.back.backup,
            database: done.database,
            mode: Mode::Swap,
            mode_reason: "the database that was set aside has its name back".to_owned(),
            compared: None,
            plain_bytes: 0,
            safety_backup: None,
            kept: done.kept,
            warnings: Vec::new(),
        })
    }

    pub(super) async fn object_key(&self, id: BackupId) -> Result<ObjectKey, String> {
        let row = self.dispatch.catalog.backup(id).await;
        let row = row.map_err(|error| explain(&error))?;
        let key = row
            .filter(|row| row.job.status == JobStatus::Completed)
            .and_then(|row| row.object_key);
        let key = key.ok_or_else(|| format!("backup {id} is not complete in the catalog"))?;
        ObjectKey::parse(&key).map_err(|error| explain(&error))
    }

    async fn restored(&self, row: &RestoreRow, lease: &Lease, restored: &Restored) -> Ending {
        let facts = RestoreFacts {
            database: restored.database.clone(),
            kept_database: restored.kept.as_ref().map(KeptRecord::name),
            compared: restored.compared.map(|(tables, rows)| Compared {
                tables: u32::try_from(tables).unwrap_or(u32::MAX),
                rows,
            }),
            plain_bytes: restored.plain_bytes,
            warnings: restored.warnings.clone(),
        };
        let told = self
            .until_told(lease, async || {
                self.dispatch.catalog.complete_restore(lease, &facts).await
            })
            .await;
        if let Some(Ended::Done { .. }) = told {
            let (tables, rows) = restored.compared.unzip();
            tracing::info!(restore.id = %row.id, backup.id = %row.backup_id, database = restored.database,
                plain_bytes = restored.plain_bytes, tables, rows, "Restore is complete");
            return Ending::Success(restore_value(row, restored));
        }
        tracing::error!(restore.id = %row.id, database = restored.database,
            "Restore is complete, but the catalog could not be told");
        Ending::Lost
    }

    /// Proves a backup, and writes what came out into its row.
    pub(super) async fn run_verify(&self, taken: &Taken, id: BackupId, stop: &Stop) -> Ending {
        self.name_request(Task::Backup(id), Some("backup.verify"))
            .await;
        let key = match self.object_key(id).await {
            Ok(key) => key,
            Err(text) => return Ending::Failed(text).or_retry(taken),
        };
        let progress = Arc::new(Progress::default());
        let running = Running::without_row(taken, self.dispatch.time_limit, &progress);
        let cancel = running.cancel.clone();
        let verifying = cancel.run_until_cancelled(self.verify_either(id, &key, &progress));
        let work = Box::pin(self.pinned(taken, id, verifying));
        let (verified, of_second) = match self.supervise(running, stop, work).await {
            Supervised::Done(Ok(Some(verified))) => verified,
            Supervised::Done(Err(error)) => return Ending::Failed(explain(&error)).or_retry(taken),
            Supervised::Ended(Reason::ShuttingDown, _) => return Ending::GivenBack,
            Supervised::Ended(Reason::TimeLimit(limit), _) => {
                let text = format!("the verification took longer than {} s", limit.as_secs());
                return Ending::Failed(text).or_retry(taken);
            }
            Supervised::Panicked(said) => return Ending::Failed(panicked(&said)).or_retry(taken),
            Supervised::Done(Ok(None)) | Supervised::Ended(..) => {
                return Ending::Stopped("Job stopped by user".to_owned());
            }
        };
        let (health, reason) = match &verified {
            Ok(()) if self.is_suspicious(id).await => {
                return verified_value(id, Health::Suspicious);
            }
            Ok(()) => (Health::Ok, None),
            Err(VaultError::Lost(_) | VaultError::NotFound { .. }) => {
                (Health::Lost, verified.as_ref().err())
            }
            // Damage, or a passphrase that is not named any more: only another copy's manifest tells them apart, and a good
            // backup must not be taken for a damaged one.
            Err(error @ VaultError::SealedManifest { .. })
                if !matches!(of_second, Some(Second::Whole(_))) =>
            {
                return Ending::Failed(explain(error)).or_retry(taken);
            }
            Err(error @ VaultError::PlainDigest { .. }) => (Health::Altered, Some(error)),
            Err(error) if error.is_verdict() => (Health::Corrupt, Some(error)),
            // Nothing is known: the row stays as it is.
            Err(error) => return Ending::Failed(explain(error)).or_retry(taken),
        };
        let reason = reason.map(|error| match &of_second {
            Some(Second::Whole(of_second) | Second::Worse(of_second)) => {
                format!("{}\n{of_second}", explain(error))
            }
            None => explain(error),
        });
        let marked = self
            .dispatch
            .catalog
            .record_verification(id, health, reason.as_deref())
            .await;
        match (marked, reason) {
            (Err(error), _) => Ending::Failed(explain(&error)).or_retry(taken),
            (Ok(()), Some(reason)) => Ending::Failed(reason),
            (Ok(()), None) => verified_value(id, Health::Ok),
        }
    }

    /// Whether a backup looks wrong for another reason than its bytes, which a verification says nothing about.
    async fn is_suspicious(&self, id: BackupId) -> bool {
        let row = self.dispatch.catalog.backup(id).await;
        matches!(row, Ok(Some(row)) if row.health == Health::Suspicious)
    }

    /// What came of the first copy; and where it is at fault, what is to be said of the second.
    async fn verify_either(
        &self,
        id: BackupId,
        key: &ObjectKey,
        progress: &Arc<Progress>,
    ) -> (Result<(), VaultError>, Option<Second>) {
        let verified = self.verify(key, progress).await;
        let of_second = match &verified {
            // What every copy has is not mended by another one.
            Err(error) if error.is_verdict() && !error.is_of_content() => {
                self.look_at_second(id, key).await
            }
            _ => None,
        };
        (verified, of_second)
    }

    async fn verify(&self, key: &ObjectKey, progress: &Arc<Progress>) -> Result<(), VaultError> {
        let vault = &self.stages.vault;
        let entry = vault.find(&Selector::Key(key.clone())).await?;
        let fetched = vault.fetch(entry, progress).await?;
        let proof = vault.verify(&fetched, &self.stages.clients, Limits::default(), progress);
        proof.await.map(drop)
    }

    /// The right to carry a row's task out, or how a job without it ends.
    async fn claim(&self, taken: &Taken, task: Task) -> Result<Lease, Ending> {
        self.name_request(task, None).await;
        let claim = self
            .dispatch
            .catalog
            .claim(task, self.name.as_str(), self.times.lease)
            .await;
        match claim {
            Ok(Claim::Taken(lease)) => Ok(lease),
            Ok(Claim::Missing) => Err(Ending::Failed(format!(
                "the catalog has no {task}\nhint: it is asked for by the API or by pgseal enqueue, which make the row first"
            ))),
            // It runs under this very job, or its worker died a moment ago: once that is settled, it may be our turn.
            Ok(Claim::NotPending(JobStatus::Running)) => Err(Ending::Delayed(self.times.lease)),
            Ok(Claim::NotPending(JobStatus::Completed)) => Err(Ending::Success(dict(&[
                (id_name(task), Value::Int(task.number())),
                ("status", Value::Text("completed".to_owned())),
            ]))),
            Ok(Claim::NotPending(status)) => Err(Ending::Failed(format!(
                "{task} is {status} in the catalog, so this job did nothing\nhint: ask for a new one"
            ))),
            Ok(Claim::Busy(active)) => {
                tracing::info!(%active, "Job waits: something else of its target runs");
                Err(Ending::Delayed(BUSY_PAUSE))
            }
            Err(error) if error.is_transient() => Err(Ending::GivenBack),
            Err(error) => Err(Ending::Failed(explain(&error)).or_retry(taken)),
        }
    }
}

const fn id_name(task: Task) -> &'static str {
    match task {
        Task::Backup(_) => "backup_id",
        Task::Restore(_) => "restore_id",
    }
}

/// Why there is no restore.
enum Unrestored {
    /// It was told to end, and did nothing to the target.
    Interrupted,
    /// This.
    Failed(String),
}

impl Unrestored {
    fn text(self) -> String {
        match self {
            Self::Interrupted => "it was interrupted".to_owned(),
            Self::Failed(text) => text,
        }
    }
}

impl From<RestoreError> for Unrestored {
    fn from(error: RestoreError) -> Self {
        if error.is_interruption() {
            Self::Interrupted
        } else {
            // One that came too late says what became of the target; that must not be lost.
            Self::Failed(explain(&error))
        }
    }
}

fn backup_request(connection: Connection, row: &BackupRow, lease: &Lease) -> BackupRequest {
    BackupRequest {
        connection,
        target: row.target.clone(),
        kind: row.kind,
        labels: row.labels.clone(),
        exclude_table_data: row.excluded_table_data.clone(),
        requested: Some(Requested {
            backup_id: row.id,
            attempt: lease.attempt,
            requested_by: row.requested_by.clone(),
        }),
    }
}

pub(super) fn panicked(said: &str) -> String {
    format!("a part of pgseal panicked: {said}\nhint: please report this; nothing was completed")
}

/// What `run_backup` returns.
fn backup_value(id: BackupId, manifest: &Manifest) -> Value {
    let text = |text: &str| Value::Text(text.to_owned());
    dict(&[
        ("backup_id", Value::Int(id.get())),
        ("status", text("completed")),
        ("storage_key", text(&manifest.object_key)),
        ("size", number(manifest.sealed_bytes)),
        ("checksum", text(&manifest.sealed_sha256.to_string())),
    ])
}

/// The same, of a backup that another job made.
fn made_value(row: &BackupRow) -> Value {
    let text = |text: Option<String>| text.map_or(Value::None, Value::Text);
    dict(&[
        ("backup_id", Value::Int(row.id.get())),
        ("status", text(Some(row.job.status.to_string()))),
        ("storage_key", text(row.object_key.clone())),
        ("size", row.sealed_bytes.map_or(Value::None, number)),
        (
            "checksum",
            text(row.sealed_sha256.map(|digest| digest.to_string())),
        ),
    ])
}

/// What `run_verify` returns.
fn verified_value(id: BackupId, health: Health) -> Ending {
    Ending::Success(dict(&[
        ("backup_id", Value::Int(id.get())),
        ("health", Value::Text(health.to_string())),
    ]))
}

/// What `run_restore` returns.
fn restore_value(row: &RestoreRow, restored: &Restored) -> Value {
    let safety = row.safety_backup_id;
    dict(&[
        ("restore_id", Value::Int(row.id.get())),
        ("status", Value::Text("completed".to_owned())),
        ("backup_id", Value::Int(row.backup_id.get())),
        (
            "safety_backup_id",
            safety.map_or(Value::None, |id| Value::Int(id.get())),
        ),
        ("database", Value::Text(restored.database.clone())),
    ])
}

pub(super) fn number(number: u64) -> Value {
    Value::Int(i64::try_from(number).unwrap_or(i64::MAX))
}

pub(super) fn dict(pairs: &[(&str, Value)]) -> Value {
    let pair = |(name, value): &(&str, Value)| (Value::Text((*name).to_owned()), value.clone());
    Value::Dict(pairs.iter().map(pair).collect())
}
