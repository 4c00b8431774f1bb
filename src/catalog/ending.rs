//! How jobs end: by whoever holds the lease, or by whoever finds that it has passed.
//!
//! Each ending is one transaction with what follows from it for the restores that wait behind a safety backup; the
//! schema's triggers do that, and the ids come back from here so that the queue hears of it.

use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::rows::{JobStatus, Task};
use super::{Catalog, CatalogError, Lease, counted, counted_small};
use crate::model::ids::{BackupId, RestoreId};
use crate::model::manifest::Manifest;

/// How a job ends that is not complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// For good.
    Failed {
        /// At which stage.
        stage: String,
        /// Why; no secret.
        error: String,
    },
    /// For this try. Where no try is left, or somebody wants it cancelled, it ends for good all the same.
    Retried {
        /// At which stage.
        stage: String,
        /// Why; no secret.
        error: String,
    },
    /// Not at all: whoever had it must stop, and another one begins anew. It costs no try.
    GivenBack,
    /// Somebody wanted it.
    Cancelled,
}

/// How somebody without the lease ends a job whose lease has passed.
#[derive(Clone, Debug, PartialEq)]
pub enum Settlement<'a> {
    /// It came to nothing.
    Ended(Ending),
    /// Its manifest was found: a backup, which only its worker could not record any more.
    Completed(&'a Manifest),
    /// The same, in the second store alone.
    CompletedInSecond(&'a Manifest, InSecond<'a>),
}

/// A backup that was made in the second store, because the first could not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InSecond<'a> {
    /// The second store; `None`: it is there, and nobody has read it back yet.
    pub read_back_from: Option<&'a str>,
    /// Why it is not in the first one.
    pub reason: &'a str,
}

/// What came of an ending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It is recorded.
    Done {
        /// What the job is now: of a retry, whether there is one.
        status: JobStatus,
        /// The restores that waited behind it, as they are now.
        dependents: Vec<Dependent>,
    },
    /// The lease was lost, or has not passed yet: nothing was changed.
    Lost,
}

/// A restore that waited behind a safety backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dependent {
    /// Which.
    pub restore: RestoreId,
    /// Its job's id.
    pub job_id: String,
    /// Its queue.
    pub queue: String,
    /// What it is now: pending, failed, or still waiting.
    pub status: JobStatus,
    /// Why it failed, where it did.
    pub error: Option<String>,
}

/// What a restore has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreFacts {
    /// The database that has the data now.
    pub database: String,
    /// What was there before, under its name of now.
    pub kept_database: Option<String>,
    /// What was compared.
    pub compared: Option<Compared>,
    /// Bytes of the archive.
    pub plain_bytes: u64,
    /// What an administrator should know.
    pub warnings: Vec<String>,
}

/// What was compared with a manifest after a restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compared {
    /// Tables, or trees of partitions.
    pub tables: u32,
    /// Their rows.
    pub rows: u64,
}

/// Who ends a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// Whoever has the lease.
    Holder,
    /// Somebody else, once the lease has passed.
    Settler,
}

impl Catalog {
    /// Records a backup that is complete, with everything that its manifest says.
    ///
    /// It may be called again after an error: where the first call's commit arrived after all, the row says so by the
    /// manifest's uid, and that is a success.
    ///
    /// # Errors
    /// The catalog fails; whether the row is complete is not known then, and another call finds out.
    pub async fn complete_backup(
        &self,
        lease: &Lease,
        manifest: &Manifest,
    ) -> Result<Ended, CatalogError> {
        self.complete_backup_in(lease, manifest, None).await
    }

    /// As [`Catalog::complete_backup`]; `Some`: it is in the second store alone, which the row says from the first moment on.
    ///
    /// # Errors
    /// As [`Catalog::complete_backup`].
    pub async fn complete_backup_in(
        &self,
        lease: &Lease,
        manifest: &Manifest,
        in_second: Option<InSecond<'_>>,
    ) -> Result<Ended, CatalogError> {
        let ended = self
            .completed((lease.task, lease.token), manifest, in_second, By::Holder)
            .await;
        match ended {
            Ok(Ended::Lost) => Ok(self
                .already(lease.task, manifest)
                .await?
                .unwrap_or(Ended::Lost)),
            Err(error) if error.is_transient() => match self.already(lease.task, manifest).await {
                Ok(Some(done)) => Ok(done),
                Ok(None) | Err(_) => Err(error),
            },
            ended => ended,
        }
    }

    /// Records a restore that is complete.
    ///
    /// # Errors
    /// As [`Catalog::complete_backup`]; the row tells by its status whether the commit arrived.
    pub async fn complete_restore(
        &self,
        lease: &Lease,
        facts: &RestoreFacts,
    ) -> Result<Ended, CatalogError> {
        let doing = "record the complete restore";
        let mut session = self.session(doing).await?;
        let updated = sqlx::query!(
            "UPDATE pgseal.restores SET status = 'completed', lease_token = NULL, lease_worker = NULL, lease_until = NULL, \
                finished_at = clock_timestamp(), stage = NULL, error_stage = NULL, error = NULL, database = $3, \
                compared_tables = $4, compared_rows = $5, plain_bytes = $6, warnings = $7, kept_database = $8 \
             WHERE id = $1 AND status = 'running' AND lease_token = $2",
            lease.task.number(),
            lease.token,
            facts.database,
            facts
                .compared
                .map(|compared| counted_small(compared.tables as usize)),
            facts.compared.map(|compared| counted(compared.rows)),
            counted(facts.plain_bytes),
            &facts.warnings,
            facts.kept_database,
        );
        let updated = updated.execute(&mut *session).await;
        let done = updated.map_err(self.failed(doing))?.rows_affected() > 0;
        Ok(if done {
            Ended::Done {
                status: JobStatus::Completed,
                dependents: Vec::new(),
            }
        } else {
            Ended::Lost
        })
    }

    /// Records that a job ended without being complete.
    ///
    /// # Errors
    /// The catalog fails; a second call then finds the lease lost where the first one's commit arrived.
    pub async fn end(&self, lease: &Lease, ending: &Ending) -> Result<Ended, CatalogError> {
        self.ended(lease.task, lease.token, ending, By::Holder)
            .await
    }

    /// Ends a job whose lease, told by its token, has passed by the database's clock.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn settle_expired(
        &self,
        task: Task,
        token: Uuid,
        how: &Settlement<'_>,
    ) -> Result<Ended, CatalogError> {
        match how {
            Settlement::Ended(ending) => self.ended(task, token, ending, By::Settler).await,
            Settlement::Completed(manifest) => {
                self.completed((task, token), manifest, None, By::Settler)
                    .await
            }
            Settlement::CompletedInSecond(manifest, in_second) => {
                self.completed((task, token), manifest, Some(*in_second), By::Settler)
                    .await
            }
        }
    }

    async fn completed(
        &self,
        (task, token): (Task, Uuid),
        manifest: &Manifest,
        in_second: Option<InSecond<'_>>,
        by: By,
    ) -> Result<Ended, CatalogError> {
        let doing = "record the complete backup";
        let Task::Backup(id) = task else {
            return Ok(Ended::Lost);
        };
        let mut transaction = self.begin(doing).await?;
        let updated = update_completed(&mut transaction, id, token, manifest, by).await;
        if updated.map_err(self.failed(doing))? == 0 {
            return Ok(Ended::Lost);
        }
        if let Some(in_second) = in_second {
            let updated = update_in_second(&mut transaction, id, in_second).await;
            updated.map_err(self.failed(doing))?;
        }
        let dependents = dependents_in(&mut transaction, id).await?;
        transaction.commit().await.map_err(self.failed(doing))?;
        Ok(Ended::Done {
            status: JobStatus::Completed,
            dependents,
        })
    }

    /// Whether the row is complete already, by this very manifest.
    async fn already(
        &self,
        task: Task,
        manifest: &Manifest,
    ) -> Result<Option<Ended>, CatalogError> {
        let Task::Backup(id) = task else {
            return Ok(None);
        };
        let row = self.backup(id).await?;
        let is_so = row.is_some_and(|row| {
            row.job.status == JobStatus::Completed && row.uid == Some(manifest.uid)
        });
        if !is_so {
            return Ok(None);
        }
        let mut session = self.session("read the restores behind a backup").await?;
        Ok(Some(Ended::Done {
            status: JobStatus::Completed,
            dependents: dependents_in(&mut session, id).await?,
        }))
    }

    async fn ended(
        &self,
        task: Task,
        token: Uuid,
        ending: &Ending,
        by: By,
    ) -> Result<Ended, CatalogError> {
        let doing = "record the end of a job";
        let mut transaction = self.begin(doing).await?;
        let how = How::of(ending, token, by);
        let status = match task {
            Task::Backup(_) => end_backup(&mut transaction, task, &how).await,
            Task::Restore(_) => end_restore(&mut transaction, task, &how).await,
        };
        let Some(status) = status.map_err(self.failed(doing))? else {
            return Ok(Ended::Lost);
        };
        let status = JobStatus::parse(&status).ok_or(CatalogError::Row {
            table: "job",
            id: task.number(),
            column: "status",
        })?;
        let dependents = match task {
            Task::Backup(id) if status.is_ended() => dependents_in(&mut transaction, id).await?,
            Task::Backup(_) | Task::Restore(_) => Vec::new(),
        };
        transaction.commit().await.map_err(self.failed(doing))?;
        Ok(Ended::Done { status, dependents })
    }
}

/// An ending as the statements take it.
struct How<'a> {
    token: Uuid,
    /// The status where no try is left, and of an ending that is none.
    otherwise: &'static str,
    /// Whether another try may follow.
    again: bool,
    /// Tries that it does not cost.
    tries_back: i32,
    stage: Option<&'a str>,
    error: Option<&'a str>,
    expired_only: bool,
}

impl<'a> How<'a> {
    fn of(ending: &'a Ending, token: Uuid, by: By) -> Self {
        let (otherwise, again, tries_back, said) = match ending {
            Ending::Failed { stage, error } => ("failed", false, 0, Some((stage, error))),
            Ending::Retried { stage, error } => ("failed", true, 0, Some((stage, error))),
            Ending::GivenBack => ("failed", true, 1, None),
            Ending::Cancelled => ("cancelled", false, 0, None),
        };
        Self {
            token,
            otherwise,
            again,
            tries_back,
            stage: said.map(|(stage, _)| stage.as_str()),
            error: said.map(|(_, error)| error.as_str()),
            expired_only: by == By::Settler,
        }
    }
}

/// One statement for every ending of a backup: what follows from the row's own columns is decided where they are.
async fn end_backup(
    session: &mut PgConnection,
    task: Task,
    how: &How<'_>,
) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar!(
        "UPDATE pgseal.backups b SET status = n.status, \
            attempt = b.attempt + (n.status = 'pending')::integer, \
            attempts_max = b.attempts_max + CASE n.status WHEN 'pending' THEN $5::integer ELSE 0 END, \
            lease_token = NULL, lease_worker = NULL, lease_until = NULL, \
            error_stage = coalesce($6, b.error_stage), error = coalesce($7, b.error), \
            uid = CASE n.status WHEN 'pending' THEN NULL ELSE b.uid END, \
            object_key = CASE n.status WHEN 'pending' THEN NULL ELSE b.object_key END, \
            started_at = CASE n.status WHEN 'pending' THEN NULL ELSE b.started_at END, \
            finished_at = CASE n.status WHEN 'pending' THEN NULL ELSE clock_timestamp() END \
         FROM (SELECT id, CASE WHEN NOT $4 THEN $3 WHEN cancel_requested_at IS NOT NULL THEN 'cancelled' \
                WHEN attempt < attempts_max + $5 THEN 'pending' ELSE $3 END AS status \
            FROM pgseal.backups WHERE id = $1 AND status = 'running' AND lease_token = $2 \
                AND (NOT $8 OR lease_until <= clock_timestamp()) FOR UPDATE) n \
         WHERE b.id = n.id RETURNING b.status",
        task.number(),
        how.token,
        how.otherwise,
        how.again,
        how.tries_back,
        how.stage,
        how.error,
        how.expired_only,
    )
    .fetch_optional(session)
    .await
}

/// As [`end_backup`], for a restore.
async fn end_restore(
    session: &mut PgConnection,
    task: Task,
    how: &How<'_>,
) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar!(
        "UPDATE pgseal.restores b SET status = n.status, \
            attempt = b.attempt + (n.status = 'pending')::integer, \
            attempts_max = b.attempts_max + CASE n.status WHEN 'pending' THEN $5::integer ELSE 0 END, \
            lease_token = NULL, lease_worker = NULL, lease_until = NULL, \
            error_stage = coalesce($6, b.error_stage), error = coalesce($7, b.error), \
            started_at = CASE n.status WHEN 'pending' THEN NULL ELSE b.started_at END, \
            finished_at = CASE n.status WHEN 'pending' THEN NULL ELSE clock_timestamp() END \
         FROM (SELECT id, CASE WHEN NOT $4 THEN $3 WHEN cancel_requested_at IS NOT NULL THEN 'cancelled' \
                WHEN attempt < attempts_max + $5 THEN 'pending' ELSE $3 END AS status \
            FROM pgseal.restores WHERE id = $1 AND status = 'running' AND lease_token = $2 \
                AND (NOT $8 OR lease_until <= clock_timestamp()) FOR UPDATE) n \
         WHERE b.id = n.id RETURNING b.status",
        task.number(),
        how.token,
        how.otherwise,
        how.again,
        how.tries_back,
        how.stage,
        how.error,
        how.expired_only,
    )
    .fetch_optional(session)
    .await
}

async fn update_in_second(
    session: &mut PgConnection,
    id: BackupId,
    in_second: InSecond<'_>,
) -> Result<(), sqlx::Error> {
    let updated = sqlx::query!(
        "UPDATE pgseal.backups SET health = 'lost', health_reason = $2, health_at = clock_timestamp(), \
            copy_state = CASE WHEN $3::text IS NULL THEN 'none' ELSE 'confirmed' END, copy_place = $3, \
            copy_at = CASE WHEN $3 IS NOT NULL THEN clock_timestamp() END, \
            copy_sha256 = CASE WHEN $3 IS NOT NULL THEN sealed_sha256 END WHERE id = $1",
        id.get(),
        in_second.reason,
        in_second.read_back_from
    );
    updated.execute(session).await.map(drop)
}

async fn update_completed(
    session: &mut PgConnection,
    id: BackupId,
    token: Uuid,
    manifest: &Manifest,
    by: By,
) -> Result<u64, sqlx::Error> {
    let updated = sqlx::query!(
        r#"UPDATE pgseal.backups SET status = 'completed', lease_token = NULL, lease_worker = NULL, lease_until = NULL,
            finished_at = clock_timestamp(), stage = NULL, error_stage = NULL, error = NULL, uid = $4, object_key = $5,
            store_version_id = $6, database = $7, server_version = $8, pg_dump_version = $9, pgseal_version = $10,
            compression = $11, plain_bytes = $12, plain_sha256 = $13, sealed_bytes = $14, sealed_sha256 = $15,
            tables = $16, "rows" = $17, large_objects = $18, warnings = $19, snapshot_at = $20, stored_at = $21,
            labels = $22, excluded_table_data = $23
        WHERE id = $1 AND status = 'running' AND lease_token = $2 AND (NOT $3 OR lease_until <= clock_timestamp())"#,
        id.get(),
        token,
        by == By::Settler,
        Uuid::from(manifest.uid),
        manifest.object_key,
        manifest.store_version_id,
        manifest.database.name,
        manifest.versions.server,
        manifest.versions.pg_dump,
        manifest.versions.pgseal,
        manifest.compression,
        counted(manifest.plain_bytes),
        manifest.plain_sha256.0.as_slice(),
        counted(manifest.sealed_bytes),
        manifest.sealed_sha256.0.as_slice(),
        counted_small(manifest.tables.len()),
        manifest.row_count().map(counted),
        counted(manifest.large_objects),
        &manifest.warnings,
        manifest.started_at,
        manifest.finished_at,
        serde_json::json!(manifest.labels),
        &manifest.excluded_table_data,
    );
    Ok(updated.execute(session).await?.rows_affected())
}

/// The restores behind a backup that has just ended.
pub(super) async fn dependents_in(
    session: &mut PgConnection,
    backup: BackupId,
) -> Result<Vec<Dependent>, CatalogError> {
    let doing = "read the restores behind a backup";
    let rows = sqlx::query!(
        "SELECT id, job_id, queue, status, error FROM pgseal.restores WHERE safety_backup_id = $1 ORDER BY id",
        backup.get()
    );
    let rows = rows.fetch_all(session).await;
    let rows = rows.map_err(|source| CatalogError::Query { doing, source })?;
    rows.into_iter()
        .map(|row| {
            let strange = |column| CatalogError::Row {
                table: "restore",
                id: row.id,
                column,
            };
            Ok(Dependent {
                restore: RestoreId::new(row.id).ok_or_else(|| strange("id"))?,
                job_id: row.job_id.clone(),
                queue: row.queue.clone(),
                status: JobStatus::parse(&row.status).ok_or_else(|| strange("status"))?,
                error: row.error.clone(),
            })
        })
        .collect()
}
