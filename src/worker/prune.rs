//! What goes, after a scheduled backup; and what looks wrong, after any.

use std::sync::Arc;

use super::supervise::{Reason, Running, Supervised};
use super::tasks::{Ending, dict, number, panicked};
use super::{Stop, Worker};
use crate::catalog::Health;
use crate::model::alert::Alert;
use crate::model::explanation::explain;
use crate::model::ids::BackupId;
use crate::model::kind::BackupKind;
use crate::model::manifest::Manifest;
use crate::model::suspicion::{Measured, suspicion};
use crate::model::target::TargetName;
use crate::progress::Progress;
use crate::queue::consumer::Taken;
use crate::queue::value::Value;
use crate::retention::{Plan, Pruned, Retention, RetentionError, Wishes};

impl Worker {
    /// After a backup is complete: its copy is asked for, whether it looks wrong, and what may go now that there is a new one. None of it changes
    /// how the backup ended.
    pub(super) async fn after_backup(&self, id: BackupId, manifest: &Manifest) {
        self.ask_for_copy(id).await;
        if manifest.kind == BackupKind::PreRestore {
            return;
        }
        if let Err(reason) = self.look_for_suspicion(id, manifest).await {
            tracing::warn!(backup.id = %id, reason, "Nobody can say whether the backup looks wrong");
        }
        if manifest.kind == BackupKind::Scheduled {
            if let Err(error) = self.dispatch.prune(self.now()).await {
                tracing::warn!(
                    reason = explain(&error),
                    "Retention waits for the next scheduled backup"
                );
            }
        }
    }

    async fn look_for_suspicion(&self, id: BackupId, manifest: &Manifest) -> Result<(), String> {
        let catalog = &self.dispatch.catalog;
        let before = catalog.measure_before(id).await;
        let before = before.map_err(|error| explain(&error))?;
        let now = Measured::from(manifest).measure;
        let Some(reason) = before.and_then(|before| suspicion(&now, &before)) else {
            return Ok(());
        };
        let marked = catalog
            .mark_health(id, Health::Suspicious, Some(&reason))
            .await;
        marked.map_err(|error| explain(&error))?;
        let event = Alert::BackupSuspicious {
            target: manifest.target.clone(),
            backup: id,
            reason,
        };
        let recorded = catalog.record_event(&event).await;
        recorded.map_err(|error| explain(&error))
    }

    /// Deletes what no rule keeps.
    pub(super) async fn run_prune(&self, taken: &Taken, stop: &Stop) -> Ending {
        let progress = Arc::new(Progress::default());
        let running = Running::without_row(taken, self.dispatch.time_limit, &progress);
        let cancel = running.cancel.clone();
        // It can be left between any two steps: the rows say what is not done.
        let work = cancel.run_until_cancelled(Box::pin(self.prune()));
        let done = match self.supervise(running, stop, work).await {
            Supervised::Done(Some(Ok(done))) => done,
            Supervised::Done(Some(Err(error))) => {
                return Ending::Failed(explain(&error)).or_retry(taken);
            }
            Supervised::Ended(Reason::ShuttingDown, _) => return Ending::GivenBack,
            Supervised::Ended(Reason::TimeLimit(limit), _) => {
                let text = format!(
                    "retention took longer than {} s; the next run goes on",
                    limit.as_secs()
                );
                return Ending::Failed(text).or_retry(taken);
            }
            Supervised::Panicked(said) => return Ending::Failed(panicked(&said)).or_retry(taken),
            Supervised::Done(None) | Supervised::Ended(..) => {
                return Ending::Stopped("Job stopped by user".to_owned());
            }
        };
        for (target, plan, pruned) in &done {
            self.tell_of_retention(target, plan, pruned).await;
        }
        let failed: Vec<_> = done
            .iter()
            .flat_map(|(.., pruned)| &pruned.failed)
            .collect();
        if let Some((key, reason)) = failed.first() {
            let text = format!(
                "{} backups could not be deleted; {key}: {reason}",
                failed.len()
            );
            return Ending::Failed(text).or_retry(taken);
        }
        let held: Vec<_> = done.iter().filter(|(_, plan, _)| plan.is_held()).collect();
        if !held.is_empty() {
            let reasons = held
                .iter()
                .map(|(target, plan, _)| format!("{target}: {}", plan.held.join("; ")));
            let reasons: Vec<String> = reasons.collect();
            return Ending::Failed(format!("nothing was deleted of {}", reasons.join("; of ")));
        }
        let sum = |count: fn(&Pruned) -> u64| done.iter().map(|(.., pruned)| count(pruned)).sum();
        Ending::Success(dict(&[
            ("deleted", number(sum(|pruned| pruned.deleted.len() as u64))),
            ("versions", number(sum(|pruned| pruned.versions))),
            ("status", Value::Text("completed".to_owned())),
        ]))
    }

    /// One target after the other, each by what is in its own folder.
    async fn prune(&self) -> Result<Vec<(TargetName, Plan, Pruned)>, RetentionError> {
        let mut done = Vec::new();
        for target in self.targets.keys() {
            let retention = self.retention(target)?;
            let plan = retention.plan(Wishes::default()).await?;
            let pruned = retention.carry_out(&plan).await?;
            done.push((target.clone(), plan, pruned));
        }
        Ok(done)
    }

    async fn tell_of_retention(&self, target: &TargetName, plan: &Plan, pruned: &Pruned) {
        let said = match pruned.deleted.len() {
            0 => "Retention deleted nothing",
            _ => "Retention deleted backups",
        };
        tracing::info!(
            %target,
            deleted = ?pruned.deleted,
            versions = pruned.versions,
            needed = ?pruned.needed,
            locked = ?pruned.locked,
            "{said}"
        );
        let target = || target.to_string();
        let mut events: Vec<Alert> = pruned
            .failed
            .iter()
            .map(|(key, reason)| Alert::DeletionFailed {
                target: target(),
                key: key.clone(),
                reason: reason.clone(),
            })
            .collect();
        if plan.is_held() {
            events.push(Alert::RetentionHeld {
                target: target(),
                reasons: plan.held.clone(),
            });
        }
        for event in &events {
            if let Err(error) = self.dispatch.catalog.record_event(event).await {
                tracing::warn!(reason = explain(&error), %event, "An event could not be written down");
            }
        }
    }

    /// Goes on with deletions that were interrupted.
    pub(super) async fn go_on_deleting(&self) {
        let mut pruned = Pruned::default();
        for target in self.targets.keys() {
            let went_on = async { self.retention(target)?.go_on(&mut pruned).await };
            if let Err(error) = went_on.await {
                tracing::warn!(
                    reason = explain(&error),
                    %target,
                    "Housekeeping: deletions that are not done"
                );
            }
        }
        for (key, reason) in &pruned.failed {
            tracing::warn!(key, reason, "Housekeeping: a backup cannot be deleted yet");
        }
        if !pruned.deleted.is_empty() {
            tracing::info!(deleted = ?pruned.deleted, "Housekeeping went on with deletions");
        }
    }

    fn retention(&self, target: &TargetName) -> Result<Retention, RetentionError> {
        Ok(Retention {
            vault: self.stages.vault.of_target(target)?,
            catalog: Some(self.dispatch.catalog.clone()),
            target: target.to_string(),
            // Without rules nothing goes.
            policy: self.policies.get(target).copied().unwrap_or_default(),
            clock: self.stages.clock,
        })
    }
}
