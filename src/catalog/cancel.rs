//! Ending a job that somebody does not want any more.

use super::audit::ACCEPTED;
use super::ending::{Dependent, dependents_in};
use super::read::{backup_in, restore_in};
use super::rows::{JobStatus, Task};
use super::{Catalog, CatalogError};

/// What came of a request to cancel a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// Nobody had begun it, and nobody will.
    AtOnce {
        /// The restores that waited behind it, as they are now.
        dependents: Vec<Dependent>,
    },
    /// Somebody runs it, and hears of it with the next renewal.
    Requested,
    /// It had ended before.
    Ended(JobStatus),
    /// There is no such row.
    Missing,
}

impl Catalog {
    /// Cancels a job on behalf of `by`: at once where nobody runs it, else by telling whoever does.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn cancel(&self, task: Task, by: &str) -> Result<Cancelled, CatalogError> {
        let doing = "cancel the job";
        let mut transaction = self.begin(doing).await?;
        // The first request stays recorded: a second one changes nothing.
        let status = match task {
            Task::Backup(id) => {
                sqlx::query_scalar!(
                    "UPDATE pgseal.backups SET \
                        status = CASE status WHEN 'running' THEN status ELSE 'cancelled' END, \
                        finished_at = CASE status WHEN 'running' THEN NULL ELSE clock_timestamp() END, \
                        cancel_requested_at = coalesce(cancel_requested_at, clock_timestamp()), \
                        cancel_requested_by = coalesce(cancel_requested_by, $2) \
                     WHERE id = $1 AND status IN ('pending', 'running') RETURNING status",
                    id.get(),
                    by
                )
                .fetch_optional(&mut *transaction)
                .await
            }
            Task::Restore(id) => {
                sqlx::query_scalar!(
                    "UPDATE pgseal.restores SET \
                        status = CASE status WHEN 'running' THEN status ELSE 'cancelled' END, \
                        finished_at = CASE status WHEN 'running' THEN NULL ELSE clock_timestamp() END, \
                        cancel_requested_at = coalesce(cancel_requested_at, clock_timestamp()), \
                        cancel_requested_by = coalesce(cancel_requested_by, $2) \
                     WHERE id = $1 AND status IN ('waiting', 'pending', 'running') RETURNING status",
                    id.get(),
                    by
                )
                .fetch_optional(&mut *transaction)
                .await
            }
        };
        let cancelled = match (status.map_err(self.failed(doing))?.as_deref(), task) {
            (Some("running"), _) => Cancelled::Requested,
            (Some(_), Task::Backup(id)) => Cancelled::AtOnce {
                dependents: dependents_in(&mut transaction, id).await?,
            },
            (Some(_), Task::Restore(_)) => Cancelled::AtOnce {
                dependents: Vec::new(),
            },
            (None, task) => {
                let status = match task {
                    Task::Backup(id) => backup_in(&mut transaction, id)
                        .await?
                        .map(|row| row.job.status),
                    Task::Restore(id) => restore_in(&mut transaction, id)
                        .await?
                        .map(|row| row.job.status),
                };
                status.map_or(Cancelled::Missing, Cancelled::Ended)
            }
        };
        if matches!(cancelled, Cancelled::AtOnce { .. } | Cancelled::Requested) {
            self.record_here(&mut transaction, task, ACCEPTED).await?;
        }
        transaction.commit().await.map_err(self.failed(doing))?;
        Ok(cancelled)
    }
}
