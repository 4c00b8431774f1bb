//! The job that restores a backup for trial.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::supervise::{Reason, Running, Supervised};
use super::tasks::{Ending, dict, number, panicked};
use super::{Stop, Worker};
use crate::catalog::{BegunDrill, CatalogError, DrillChoice, Task};
use crate::model::explanation::explain;
use crate::model::ids::BackupId;
use crate::model::proof::Verdict;
use crate::model::target::TargetName;
use crate::pg::inspect::Depth;
use crate::progress::{FETCH, Progress};
use crate::queue::consumer::Taken;
use crate::queue::value::Value;
use crate::restore::{self, DrillRequest, Drilled, RestoreError};
use crate::vault::{Limits, Selector, Which};

/// How a trial without a verdict ended.
const NO_VERDICT: &str = "no verdict";
const GIVEN_BACK: &str = "given back";
const STOPPED: &str = "stopped";

impl Worker {
    /// Restores a backup for trial, and writes the verdict into its row.
    pub(super) async fn run_drill(
        &self,
        taken: &Taken,
        id: Option<BackupId>,
        stop: &Stop,
    ) -> Ending {
        let (id, drill) = match self.begin_drill(taken, id).await {
            Ok(begun) => begun,
            Err(ending) => return ending,
        };
        let progress = Arc::new(Progress::default());
        let running = Running::without_row(taken, self.dispatch.time_limit, &progress);
        let cancel = running.cancel.clone();
        let work = Box::pin(async {
            let drilling = Box::pin(self.drill(id, &progress, &cancel));
            let drilled = self.pinned(taken, id, drilling).await;
            drilled.map_err(|error| explain(&error))?
        });
        let (ending, outcome) = match self.supervise(running, stop, work).await {
            Supervised::Done(Ok(drilled)) | Supervised::Ended(_, Some(Ok(drilled))) => {
                let ending = self.drilled(taken, id, &drilled).await;
                (ending, drilled.verdict.as_str())
            }
            Supervised::Done(Err(text)) => (Ending::Failed(text).or_retry(taken), NO_VERDICT),
            Supervised::Ended(Reason::ShuttingDown, _) => (Ending::GivenBack, GIVEN_BACK),
            Supervised::Ended(Reason::TimeLimit(limit), _) => {
                let text = format!("the drill took longer than {} s", limit.as_secs());
                (Ending::Failed(text).or_retry(taken), NO_VERDICT)
            }
            Supervised::Ended(..) => (Ending::Stopped("Job stopped by user".to_owned()), STOPPED),
            Supervised::Panicked(said) => {
                (Ending::Failed(panicked(&said)).or_retry(taken), NO_VERDICT)
            }
        };
        let catalog = &self.dispatch.catalog;
        if let Err(error) = catalog
            .end_drill(drill, outcome, progress.has_been_at(FETCH))
            .await
        {
            tracing::warn!(reason = explain(&error), backup.id = %id, "The drill counts as one that fetched its backup");
        }
        ending
    }

    /// The backup that was named, else the one whose turn it is; what it fetches counts before it is fetched.
    async fn begin_drill(
        &self,
        taken: &Taken,
        id: Option<BackupId>,
    ) -> Result<(BackupId, i64), Ending> {
        let failed = |error: CatalogError| Ending::Failed(explain(&error)).or_retry(taken);
        let catalog = &self.dispatch.catalog;
        let now = catalog.now().await.map_err(failed)?;
        let (budget, job) = (self.drills.budget(now), Some(taken.job_id.as_str()));
        let id = if let Some(id) = id {
            id
        } else {
            let targets: Vec<&str> = self.targets.keys().map(TargetName::as_str).collect();
            let chosen = catalog.choose_drill(&targets, budget, None, job).await;
            match chosen.map_err(failed)? {
                DrillChoice::Backup(id) => id,
                DrillChoice::TooDear { bytes, left, .. } => {
                    return Err(over_budget(bytes, left));
                }
                DrillChoice::NoBackup | DrillChoice::Settled => {
                    let text = "there is no complete backup that a drill could try";
                    return Err(Ending::Failed(text.to_owned()).or_retry(taken));
                }
            }
        };
        if catalog
            .open_drill(taken.job_id.as_str())
            .await
            .map_err(failed)?
            .is_none()
        {
            // Not one that was chosen: somebody asked for it.
            self.name_request(Task::Backup(id), Some("backup.drill"))
                .await;
        }
        match catalog.begin_drill(id, budget, job).await.map_err(failed)? {
            BegunDrill::Begun(drill) => Ok((id, drill)),
            BegunDrill::TooDear { bytes, left } => Err(over_budget(bytes, left)),
        }
    }

    async fn drill(
        &self,
        id: BackupId,
        progress: &Arc<Progress>,
        cancel: &CancellationToken,
    ) -> Result<Drilled, String> {
        let server = self.drill_server.clone().ok_or(
            "no server for drills is named here\nhint: set BACKUP_DRILL_DATABASE_URL for the worker",
        )?;
        let key = self.object_key(id).await?;
        let found = self.stages.vault.find_either(&Selector::Key(key)).await;
        let request = DrillRequest {
            found: found.map_err(|error| explain(&error))?,
            server,
            depth: Depth::Number,
            limits: Limits::default(),
        };
        let drilled = restore::drill(&self.stages, request, progress, cancel).await;
        drilled.map_err(|error: RestoreError| explain(&error))
    }

    async fn drilled(&self, taken: &Taken, id: BackupId, drilled: &Drilled) -> Ending {
        let catalog = &self.dispatch.catalog;
        let row = match catalog.backup(id).await {
            Ok(Some(row)) => row,
            Ok(None) => return Ending::Failed(format!("backup {id} is gone")),
            Err(error) => return Ending::Failed(explain(&error)).or_retry(taken),
        };
        if let Some(uid) = row.uid {
            let proof = drilled.proof(uid);
            if let Err(error) = catalog.record_proof(id, &proof).await {
                return Ending::Failed(explain(&error)).or_retry(taken);
            }
        }
        let reason = drilled.reason.clone().unwrap_or_default();
        tracing::info!(backup.id = %id, backup.name = drilled.backup, verdict = drilled.verdict.as_str(),
            seconds = drilled.took.as_secs_f64(), reason, "Backup was drilled");
        if drilled.copy == Which::Second {
            // Whether the first one is damaged or was only away, reading it finds out.
            if let Err(error) = self.dispatch.verify(id, self.now()).await {
                tracing::warn!(%error, backup.id = %id, "Nobody looks at the first copy");
            }
        }
        if drilled.verdict == Verdict::Failed {
            // Its object may be whole all the same: that is what a verification finds out.
            return Ending::Failed(format!("the drill FAILED: {reason}"));
        }
        Ending::Success(dict(&[
            ("backup_id", Value::Int(id.get())),
            ("verdict", Value::Text(drilled.verdict.as_str().to_owned())),
            ("seconds", Value::Float(drilled.took.as_secs_f64())),
            (
                "warnings",
                Value::List(drilled.warnings.iter().cloned().map(Value::Text).collect()),
            ),
        ]))
    }
}

/// That the month's bytes are used up is no failure of anything.
fn over_budget(bytes: u64, left: u64) -> Ending {
    tracing::warn!(
        bytes,
        bytes_left = left,
        "No drill: it would fetch more than BACKUP_DRILL_MONTHLY_BYTES has left this month"
    );
    Ending::Success(dict(&[
        ("backup_id", Value::None),
        ("verdict", Value::None),
        ("status", Value::Text("over budget".to_owned())),
        ("bytes", number(bytes)),
        ("bytes_left", number(left)),
    ]))
}
