//! Who did what: the audit, which only grows, and the keys of requests that may be sent twice.
//!
//! [`Catalog::acting`] gives a catalog that records an act in the very transaction that carries it out. What was
//! refused, or touches the catalog not at all, is recorded by [`Catalog::record`].

use std::time::Duration;

use sqlx::postgres::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::rows::Task;
use super::{Catalog, CatalogError, Slice, seconds};
use crate::model::digest::Sha256;
use crate::model::ids::BackupId;

/// How long a request's key is remembered: whoever sends it again does so within hours.
const KEY_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// What an act ended in when it was carried out, or will be.
pub const ACCEPTED: &str = "accepted";

/// What somebody does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Act {
    /// Who: the token's subject.
    pub subject: String,
    /// What, as `backup.delete`.
    pub action: &'static str,
    /// The address that the request came from.
    pub origin: String,
    /// Which request it was.
    pub request_id: Uuid,
    /// Its key, where it may be sent twice.
    pub key: Option<RequestKey>,
}

/// What makes two requests the same one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestKey {
    /// As the client sent it, 1 to 255 characters.
    pub key: String,
    /// The digest of what was asked for: another request under the same key is a mistake.
    pub digest: Sha256,
}

/// What is known of a request's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KnownKey {
    /// The same request made this backup.
    Same(BackupId),
    /// Another request has it.
    Other,
}

/// One line of the audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRow {
    /// Its number.
    pub id: i64,
    /// When, by the database's clock.
    pub at: OffsetDateTime,
    /// Who.
    pub subject: String,
    /// What.
    pub action: String,
    /// To which backup.
    pub backup_id: Option<i64>,
    /// To which restore.
    pub restore_id: Option<i64>,
    /// From where.
    pub origin: String,
    /// In which request.
    pub request_id: Uuid,
    /// What came of it.
    pub outcome: String,
}

/// Which lines of the audit are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// By whom.
    pub subject: Option<String>,
    /// What.
    pub action: Option<String>,
    /// To which backup.
    pub backup_id: Option<i64>,
}

impl Catalog {
    /// The same catalog, which records this act together with what it changes.
    #[must_use]
    pub fn acting(&self, act: Act) -> Self {
        Self {
            act: Some(std::sync::Arc::new(act)),
            ..self.clone()
        }
    }

    /// Records an act that nothing else in the catalog goes with.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn record(
        &self,
        act: &Act,
        about: Option<Task>,
        outcome: &str,
    ) -> Result<(), CatalogError> {
        let mut session = self.session("record an act").await?;
        record_in(&mut session, act, about, outcome).await
    }

    /// Records the act that this catalog is for, if it is for one.
    pub(super) async fn record_here(
        &self,
        session: &mut PgConnection,
        about: Task,
        outcome: &str,
    ) -> Result<(), CatalogError> {
        let Some(act) = &self.act else { return Ok(()) };
        if let (Some(key), Task::Backup(id)) = (&act.key, about) {
            take_key(session, &act.subject, key, id).await?;
        }
        record_in(session, act, Some(about), outcome).await
    }

    /// Which request asked for a task: the one that made its row or, of a job without one, the newest of this action.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn request_of(
        &self,
        task: Task,
        action: Option<&str>,
    ) -> Result<Option<Uuid>, CatalogError> {
        const MADE_BY: [&str; 3] = ["backup.create", "backup.restore", "restore.rollback"];
        let doing = "look for the request of a job";
        let (backup, restore) = match task {
            Task::Backup(id) => (Some(id.get()), None),
            Task::Restore(id) => (None, Some(id.get())),
        };
        let actions: Vec<&str> = action.map_or_else(|| MADE_BY.to_vec(), |action| vec![action]);
        let mut session = self.session(doing).await?;
        let id = sqlx::query_scalar!(
            "SELECT request_id FROM pgseal.audit WHERE outcome = $4 AND action = ANY($3) \
                AND (backup_id = $1 OR restore_id = $2 \
                OR restore_id IN (SELECT r.id FROM pgseal.restores r WHERE r.safety_backup_id = $1)) ORDER BY id DESC LIMIT 1",
            backup,
            restore,
            &actions as &[&str],
            ACCEPTED
        );
        let id = id.fetch_optional(&mut *session).await;
        id.map_err(self.failed(doing))
    }

    /// Whether a request was made before, under its key.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn known_key(
        &self,
        subject: &str,
        key: &RequestKey,
    ) -> Result<Option<KnownKey>, CatalogError> {
        let doing = "look for a request's key";
        let mut session = self.session(doing).await?;
        let row = sqlx::query!(
            "SELECT digest, backup_id FROM pgseal.idempotency_keys \
             WHERE subject = $1 AND key = $2 AND expires_at > clock_timestamp()",
            subject,
            key.key
        );
        let row = row.fetch_optional(&mut *session).await;
        let Some(row) = row.map_err(self.failed(doing))? else {
            return Ok(None);
        };
        let same = BackupId::new(row.backup_id).filter(|_| row.digest == key.digest.0);
        Ok(Some(same.map_or(KnownKey::Other, KnownKey::Same)))
    }

    /// A slice of the audit, newest first.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn audit(
        &self,
        filter: &AuditFilter,
        slice: Slice,
    ) -> Result<Vec<AuditRow>, CatalogError> {
        let doing = "read the audit";
        let mut session = self.session(doing).await?;
        let rows = sqlx::query_as!(
            AuditRow,
            "SELECT id, at, subject, action, backup_id, restore_id, origin, request_id, outcome FROM pgseal.audit \
             WHERE ($1::text IS NULL OR subject = $1) AND ($2::text IS NULL OR action = $2) \
                AND ($3::bigint IS NULL OR backup_id = $3) \
             ORDER BY id DESC LIMIT $4 OFFSET $5",
            filter.subject,
            filter.action,
            filter.backup_id,
            slice.limit,
            slice.offset
        );
        let rows = rows.fetch_all(&mut *session).await;
        rows.map_err(self.failed(doing))
    }

    /// How many lines of the audit there are.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn count_audit(&self, filter: &AuditFilter) -> Result<u64, CatalogError> {
        let doing = "count the audit";
        let mut session = self.session(doing).await?;
        let count = sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM pgseal.audit
            WHERE ($1::text IS NULL OR subject = $1) AND ($2::text IS NULL OR action = $2)
                AND ($3::bigint IS NULL OR backup_id = $3)"#,
            filter.subject,
            filter.action,
            filter.backup_id
        );
        let count = count.fetch_one(&mut *session).await;
        Ok(count.map_err(self.failed(doing))?.unsigned_abs())
    }
}

async fn record_in(
    session: &mut PgConnection,
    act: &Act,
    about: Option<Task>,
    outcome: &str,
) -> Result<(), CatalogError> {
    let doing = "record an act";
    let (backup, restore) = match about {
        Some(Task::Backup(id)) => (Some(id.get()), None),
        Some(Task::Restore(id)) => (None, Some(id.get())),
        None => (None, None),
    };
    sqlx::query!(
        "INSERT INTO pgseal.audit (subject, action, backup_id, restore_id, origin, request_id, outcome) \
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        act.subject,
        act.action,
        backup,
        restore,
        act.origin,
        act.request_id,
        outcome
    )
    .execute(session)
    .await
    .map(drop)
    .map_err(|source| CatalogError::Query { doing, source })
}

async fn take_key(
    session: &mut PgConnection,
    subject: &str,
    key: &RequestKey,
    backup: BackupId,
) -> Result<(), CatalogError> {
    let doing = "remember a request's key";
    let failed = |source| CatalogError::Query { doing, source };
    sqlx::query!("DELETE FROM pgseal.idempotency_keys WHERE expires_at <= clock_timestamp()")
        .execute(&mut *session)
        .await
        .map_err(failed)?;
    let taken = sqlx::query!(
        "INSERT INTO pgseal.idempotency_keys (subject, key, digest, backup_id, expires_at) \
         VALUES ($1, $2, $3, $4, clock_timestamp() + make_interval(secs => $5)) ON CONFLICT DO NOTHING",
        subject,
        key.key,
        key.digest.0.as_slice(),
        backup.get(),
        seconds(KEY_LIFETIME)
    );
    let taken = taken.execute(session).await.map_err(failed)?;
    if taken.rows_affected() == 0 {
        return Err(CatalogError::KeyTaken);
    }
    Ok(())
}
