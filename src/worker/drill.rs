//! The job that restores a backup for trial.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::supervise::{Reason, Running, Supervised};
use super::tasks::{Ending, dict, panicked};
use super::{Stop, Worker};
use crate::model::explanation::explain;
use crate::model::ids::BackupId;
use crate::model::proof::Verdict;
use crate::pg::inspect::Depth;
use crate::progress::Progress;
use crate::queue::consumer::Taken;
use crate::queue::value::Value;
use crate::restore::{self, DrillRequest, Drilled, RestoreError};
use crate::vault::{Limits, Selector};

impl Worker {
    /// Restores a backup for trial, and writes the verdict into its row.
    pub(super) async fn run_drill(
        &self,
        taken: &Taken,
        id: Option<BackupId>,
        stop: &Stop,
    ) -> Ending {
        let id = match self.drilled_backup(id).await {
            Ok(id) => id,
            Err(text) => return Ending::Failed(text).or_retry(taken),
        };
        let progress = Arc::new(Progress::default());
        let running = Running {
            taken,
            lease: None,
            limit: Some(self.dispatch.time_limit),
            progress: &progress,
            cancel: CancellationToken::new(),
        };
        let cancel = running.cancel.clone();
        let work = self.drill(id, &progress, &cancel);
        match self.supervise(running, stop, work).await {
            Supervised::Done(Ok(drilled)) | Supervised::Ended(_, Some(Ok(drilled))) => {
                self.drilled(taken, id, &drilled).await
            }
            Supervised::Done(Err(text)) => Ending::Failed(text).or_retry(taken),
            Supervised::Ended(Reason::ShuttingDown, _) => Ending::GivenBack,
            Supervised::Ended(Reason::TimeLimit(limit), _) => {
                Ending::Failed(format!("the drill took longer than {} s", limit.as_secs()))
                    .or_retry(taken)
            }
            Supervised::Ended(..) => Ending::Stopped("Job stopped by user".to_owned()),
            Supervised::Panicked(said) => Ending::Failed(panicked(&said)).or_retry(taken),
        }
    }

    /// The one that was named, else the one whose turn it is.
    async fn drilled_backup(&self, id: Option<BackupId>) -> Result<BackupId, String> {
        if let Some(id) = id {
            return Ok(id);
        }
        let next = self.dispatch.catalog.next_to_prove().await;
        next.map_err(|error| explain(&error))?
            .ok_or_else(|| "there is no complete backup that a drill could try".to_owned())
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
        if drilled.verdict == Verdict::Failed {
            // Its object may be whole all the same: that is what a verification finds out.
            return Ending::Failed(format!("the drill FAILED: {reason}"));
        }
        Ending::Success(dict(&[
            ("backup_id", Value::Int(id.get())),
            ("verdict", Value::Text(drilled.verdict.as_str().to_owned())),
            ("seconds", Value::Float(drilled.took.as_secs_f64())),
        ]))
    }
}
