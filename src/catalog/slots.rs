//! The slots of schedules: which were seen, what was asked for, which came to nothing.
//!
//! What time it is says the database alone: workers whose clocks differ find the same slots.

use time::OffsetDateTime;

use super::audit::ACCEPTED;
use super::events::{log, tell_of};
use super::read::backup_in;
use super::request::{BackupRequested, insert_backup, require_idle};
use super::rows::{BackupRow, Task};
use super::{Catalog, CatalogError};
use crate::model::alert::Alert;
use crate::model::ids::BackupId;
use crate::schedule::Schedule;

/// A schedule's newest slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// When it was due.
    pub at: OffsetDateTime,
    /// What was asked for; `None`: it waits.
    pub backup: Option<BackupId>,
    /// The job that a drill's slot has.
    pub job: Option<String>,
}

impl Catalog {
    /// Writes the slot down that a schedule had last, unless somebody did. Slots between that one and the one before
    /// are left out: what was missed is made up for once. The newest slot; `None`: nothing was due yet.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn note_slot(
        &self,
        name: &str,
        schedule: &Schedule,
        slot: OffsetDateTime,
    ) -> Result<Option<Slot>, CatalogError> {
        let doing = "note what is due";
        let mut transaction = self.begin(doing).await?;
        sqlx::query!(
            "INSERT INTO pgseal.schedules (name, expression, zone) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            name,
            schedule.expression(),
            schedule.zone()
        )
        .execute(&mut *transaction)
        .await
        .map_err(self.failed(doing))?;
        // What lies ahead was noted by a clock that was wrong, and would hide the slot when it comes. What is a year old
        // tells nobody anything.
        sqlx::query!(
            "DELETE FROM pgseal.schedule_slots WHERE schedule = $1 AND (slot > clock_timestamp() + interval '1 minute' \
                OR slot < clock_timestamp() - interval '400 days')",
            name
        )
        .execute(&mut *transaction)
        .await
        .map_err(self.failed(doing))?;
        sqlx::query!(
            "INSERT INTO pgseal.schedule_slots (schedule, slot) SELECT $1, $4::timestamptz WHERE \
                $4::timestamptz > (SELECT since FROM pgseal.schedules WHERE name = $1 AND expression = $2 AND zone = $3) \
                AND $4::timestamptz <= clock_timestamp() \
                AND NOT EXISTS (SELECT FROM pgseal.schedule_slots WHERE schedule = $1 AND slot >= $4::timestamptz) \
             ON CONFLICT DO NOTHING",
            name,
            schedule.expression(),
            schedule.zone(),
            slot
        )
        .execute(&mut *transaction)
        .await
        .map_err(self.failed(doing))?;
        let newest = sqlx::query!(
            "SELECT slot, backup_id, job_id FROM pgseal.schedule_slots WHERE schedule = $1 ORDER BY slot DESC LIMIT 1",
            name
        );
        let newest = newest.fetch_optional(&mut *transaction).await;
        let newest = newest.map_err(self.failed(doing))?;
        transaction.commit().await.map_err(self.failed(doing))?;
        Ok(newest.map(|row| Slot {
            at: row.slot,
            backup: row.backup_id.and_then(BackupId::new),
            job: row.job_id,
        }))
    }

    /// Asks for the backup of a slot, once: `None` where somebody did already.
    ///
    /// # Errors
    /// [`CatalogError::TargetBusy`]: the target has a job that has not ended, and the slot waits. Or the catalog fails.
    pub async fn request_of_slot(
        &self,
        name: &str,
        slot: OffsetDateTime,
        request: &BackupRequested,
    ) -> Result<Option<BackupRow>, CatalogError> {
        let doing = "ask for the backup of a slot";
        let mut transaction = self.begin(doing).await?;
        let open = sqlx::query_scalar!(
            "SELECT slot FROM pgseal.schedule_slots WHERE schedule = $1 AND slot = $2 AND backup_id IS NULL FOR UPDATE",
            name,
            slot
        );
        let open = open.fetch_optional(&mut *transaction).await;
        if open.map_err(self.failed(doing))?.is_none() {
            return Ok(None);
        }
        require_idle(&mut transaction, &request.target).await?;
        let id = insert_backup(&mut transaction, request).await?;
        sqlx::query!(
            "UPDATE pgseal.schedule_slots SET backup_id = $3 WHERE schedule = $1 AND slot = $2",
            name,
            slot,
            id.get()
        )
        .execute(&mut *transaction)
        .await
        .map_err(self.failed(doing))?;
        let row = backup_in(&mut transaction, id).await?;
        self.record_here(&mut transaction, Task::Backup(id), ACCEPTED)
            .await?;
        transaction.commit().await.map_err(self.failed(doing))?;
        Ok(row)
    }

    /// When a schedule was first seen; `None`: never.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn schedule_since(
        &self,
        name: &str,
        schedule: &Schedule,
    ) -> Result<Option<OffsetDateTime>, CatalogError> {
        let doing = "ask since when a schedule holds";
        let mut session = self.session(doing).await?;
        let since = sqlx::query_scalar!(
            "SELECT since FROM pgseal.schedules WHERE name = $1 AND expression = $2 AND zone = $3",
            name,
            schedule.expression(),
            schedule.zone()
        );
        let since = since.fetch_optional(&mut *session).await;
        since.map_err(self.failed(doing))
    }

    /// When the newest complete scheduled backup of a target was asked for.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn last_scheduled(
        &self,
        target: &str,
    ) -> Result<Option<OffsetDateTime>, CatalogError> {
        let doing = "look for the last scheduled backup";
        let mut session = self.session(doing).await?;
        let last = sqlx::query_scalar!(
            "SELECT max(created_at) FROM pgseal.backups WHERE target = $1 AND kind = 'scheduled' AND status = 'completed'",
            target
        );
        let last = last.fetch_one(&mut *session).await;
        last.map_err(self.failed(doing))
    }

    /// Writes down that nothing came of a slot in time, and tells of it where nobody did before, nor lately of an earlier slot of
    /// the same outage. Both or neither: who ends between the two would have told nobody, and kept everyone else from it.
    ///
    /// # Errors
    /// The catalog fails; whoever looks next tells of it.
    pub async fn note_overdue(
        &self,
        name: &str,
        slot: OffsetDateTime,
        alert: &Alert,
    ) -> Result<(), CatalogError> {
        let doing = "note what is overdue";
        let mut transaction = self.begin(doing).await?;
        let noted = sqlx::query!(
            "INSERT INTO pgseal.schedule_slots AS s (schedule, slot, overdue_at) VALUES ($1, $2, clock_timestamp()) \
             ON CONFLICT (schedule, slot) DO UPDATE SET overdue_at = excluded.overdue_at WHERE s.overdue_at IS NULL",
            name,
            slot
        );
        let noted = noted.execute(&mut *transaction).await;
        if noted.map_err(self.failed(doing))?.rows_affected() == 0 {
            return Ok(());
        }
        let told = tell_of(&mut transaction, alert).await;
        let is_news = told.map_err(self.failed(doing))?;
        transaction.commit().await.map_err(self.failed(doing))?;
        if is_news {
            log(alert);
        }
        Ok(())
    }
}
