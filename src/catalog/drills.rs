//! Drills: which backup is tried next, what that fetches, and when a target was last proved.
//!
//! What a drill will fetch is written down before its first byte, under one lock for all of them: however many workers
//! decide at once, a month's sum stays within what is allowed. A trial that died has fetched all of it, for all that
//! anybody knows.

use sqlx::postgres::PgConnection;
use time::OffsetDateTime;

use super::{Catalog, CatalogError};
use crate::model::drill::{Choice, Drillable, next};
use crate::model::ids::BackupId;
use crate::model::kind::BackupKind;
use crate::model::moment::moment;
use crate::model::proof::Verdict;

/// A slot whose drill was asked for, and what else a slot without one may be waiting for.
const ASKED: &str = "asked for";
const OVER_BUDGET: &str = "over budget";
const NO_BACKUP: &str = "no backup";

/// What pg_restore said may be long; the backup's own row has all of it.
const REASON_CHARS_MAX: usize = 1000;

/// How much may be fetched in a month.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrillBudget {
    /// So many bytes.
    pub bytes: u64,
    /// From this moment on.
    pub since: OffsetDateTime,
}

/// The slot that a drill is for.
#[derive(Clone, Copy, Debug)]
pub struct DrillSlot<'a> {
    /// What its schedule is called.
    pub schedule: &'a str,
    /// When it was due.
    pub at: OffsetDateTime,
}

/// Which backup is to be tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DrillChoice {
    /// This one; what it fetches counts from now on.
    Backup(BackupId),
    /// There is none.
    NoBackup,
    /// The cheapest fetches more than this month has left.
    TooDear {
        /// What it fetches.
        bytes: u64,
        /// What is left.
        left: u64,
        /// Whether nobody has said so of this slot.
        is_news: bool,
    },
    /// Somebody was quicker.
    Settled,
}

/// A drill that begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BegunDrill {
    /// It may, and counts under this number.
    Begun(i64),
    /// It was begun before, and another try fetches more than this month has left.
    TooDear {
        /// What it fetches.
        bytes: u64,
        /// What is left.
        left: u64,
    },
}

impl Catalog {
    /// Chooses the backup of these targets that is to be tried next, and counts what it will fetch; for a slot, once.
    /// The newest that nobody has tried, else in turn. A safety backup has its turn where there is nothing else: what is
    /// restored in need is another.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn choose_drill(
        &self,
        targets: &[&str],
        budget: Option<DrillBudget>,
        slot: Option<DrillSlot<'_>>,
        job_id: Option<&str>,
    ) -> Result<DrillChoice, CatalogError> {
        let doing = "choose a backup for a drill";
        let mut transaction = self.begin(doing).await?;
        let chosen = choose_in(&mut transaction, targets, budget, slot, job_id).await?;
        transaction.commit().await.map_err(self.failed(doing))?;
        Ok(chosen)
    }

    /// Begins a drill. What was counted when it was chosen does not count again; each further try of a job does, and
    /// must fit.
    ///
    /// # Errors
    /// [`CatalogError::NoSuchBackup`]. Or the catalog fails.
    pub async fn begin_drill(
        &self,
        id: BackupId,
        budget: Option<DrillBudget>,
        job_id: Option<&str>,
    ) -> Result<BegunDrill, CatalogError> {
        let doing = "begin a drill";
        let failed = self.failed(doing);
        let mut transaction = self.begin(doing).await?;
        lock(&mut transaction).await.map_err(&failed)?;
        let counted = sqlx::query_scalar!(
            "UPDATE pgseal.drills SET begun_at = clock_timestamp() WHERE id = (SELECT min(id) FROM pgseal.drills \
                WHERE job_id = $1 AND backup_id = $2 AND begun_at IS NULL) RETURNING id",
            job_id,
            id.get()
        );
        let counted = counted.fetch_optional(&mut *transaction).await;
        if let Some(drill) = counted.map_err(&failed)? {
            transaction.commit().await.map_err(&failed)?;
            return Ok(BegunDrill::Begun(drill));
        }
        let row = sqlx::query!(
            r#"SELECT coalesce(sealed_bytes, 0) AS "bytes!",
                EXISTS (SELECT FROM pgseal.drills WHERE job_id = $2) AS "is_again!"
            FROM pgseal.backups WHERE id = $1"#,
            id.get(),
            job_id
        );
        let row = row
            .fetch_optional(&mut *transaction)
            .await
            .map_err(&failed)?;
        let row = row.ok_or(CatalogError::NoSuchBackup(id))?;
        let bytes = row.bytes.unsigned_abs();
        if let Some(budget) = budget.filter(|_| row.is_again) {
            let left = left(&mut transaction, budget).await.map_err(&failed)?;
            if bytes > left {
                return Ok(BegunDrill::TooDear { bytes, left });
            }
        }
        let drill = sqlx::query_scalar!(
            "INSERT INTO pgseal.drills (backup_id, target, job_id, bytes, begun_at) \
             SELECT id, target, $2, coalesce(sealed_bytes, 0), clock_timestamp() FROM pgseal.backups WHERE id = $1 RETURNING id",
            id.get(),
            job_id
        );
        let drill = drill.fetch_one(&mut *transaction).await.map_err(&failed)?;
        transaction.commit().await.map_err(&failed)?;
        Ok(BegunDrill::Begun(drill))
    }

    /// Records how a drill ended, and that it fetched nothing, where it did not come so far.
    ///
    /// # Errors
    /// The catalog fails; then it counts as one that fetched.
    pub async fn end_drill(
        &self,
        drill: i64,
        outcome: &str,
        has_fetched: bool,
    ) -> Result<(), CatalogError> {
        let doing = "record how a drill ended";
        let mut session = self.session(doing).await?;
        let ended = sqlx::query!(
            "UPDATE pgseal.drills SET ended_at = clock_timestamp(), outcome = $2, bytes = CASE WHEN $3 THEN bytes ELSE 0 END \
             WHERE id = $1 AND ended_at IS NULL",
            drill,
            outcome,
            has_fetched
        );
        let ended = ended.execute(&mut *session).await;
        ended.map(drop).map_err(self.failed(doing))
    }

    /// The backup whose drill a job is, unless that drill ended.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn open_drill(&self, job_id: &str) -> Result<Option<BackupId>, CatalogError> {
        let doing = "look for a drill that has not ended";
        let mut session = self.session(doing).await?;
        let id = sqlx::query_scalar!(
            "SELECT backup_id FROM (SELECT backup_id, ended_at FROM pgseal.drills WHERE job_id = $1 ORDER BY id DESC LIMIT 1) d \
             WHERE ended_at IS NULL",
            job_id
        );
        let id = id.fetch_optional(&mut *session).await;
        Ok(id.map_err(self.failed(doing))?.and_then(BackupId::new))
    }

    /// How many bytes drills have fetched since then, or are about to.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn drill_bytes(&self, since: OffsetDateTime) -> Result<u64, CatalogError> {
        let doing = "count what drills fetched";
        let mut session = self.session(doing).await?;
        spent(&mut session, since).await.map_err(self.failed(doing))
    }

    /// What has become of a schedule's newest slot: the verdict, or how far it is.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn drill_state(&self, schedule: &str) -> Result<Option<String>, CatalogError> {
        let doing = "look what became of a drill's slot";
        let mut session = self.session(doing).await?;
        let state = sqlx::query_scalar!(
            r#"SELECT CASE WHEN d.ended_at IS NOT NULL THEN d.outcome WHEN d.begun_at IS NOT NULL THEN 'running'
                ELSE coalesce(s.outcome, 'waits') END AS "state!"
            FROM pgseal.schedule_slots s LEFT JOIN LATERAL (
                SELECT ended_at, begun_at, outcome FROM pgseal.drills WHERE job_id = s.job_id ORDER BY id DESC LIMIT 1) d ON true
            WHERE s.schedule = $1 ORDER BY s.slot DESC LIMIT 1"#,
            schedule
        );
        let state = state.fetch_optional(&mut *session).await;
        state.map_err(self.failed(doing))
    }

    /// When a drill last proved a backup of a target.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn last_proof(&self, target: &str) -> Result<Option<OffsetDateTime>, CatalogError> {
        let doing = "look for the last proof";
        let mut session = self.session(doing).await?;
        let last = sqlx::query_scalar!(
            "SELECT max(proof_at) FROM pgseal.backups WHERE target = $1 AND proof = 'PROVEN'",
            target
        );
        let last = last.fetch_one(&mut *session).await;
        last.map_err(self.failed(doing))
    }

    /// What the newest drill of a target came to, where that is later than its last proof.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn unproved_because(&self, target: &str) -> Result<Option<String>, CatalogError> {
        let doing = "look for the last drill";
        let mut session = self.session(doing).await?;
        let newest = sqlx::query!(
            "SELECT proof, proof_reason, proof_at FROM pgseal.backups WHERE target = $1 AND proof_at IS NOT NULL \
             ORDER BY proof_at DESC LIMIT 1",
            target
        );
        let newest = newest.fetch_optional(&mut *session).await;
        let newest = newest.map_err(self.failed(doing))?;
        let unproved = newest.filter(|newest| newest.proof != Verdict::Proven.as_str());
        Ok(unproved.map(|unproved| {
            let at = unproved.proof_at.map(moment).unwrap_or_default();
            let reason = unproved.proof_reason.unwrap_or_default();
            let reason: String = reason.chars().take(REASON_CHARS_MAX).collect();
            format!("the last drill, of {at}, was {}: {reason}", unproved.proof)
        }))
    }

    /// Since when a rule is kept, by its name and its words: since this moment, where nobody knew it.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn rule_since(
        &self,
        name: &str,
        rule: &str,
        zone: &str,
    ) -> Result<OffsetDateTime, CatalogError> {
        let doing = "ask since when a rule holds";
        let mut session = self.session(doing).await?;
        sqlx::query!(
            "INSERT INTO pgseal.schedules (name, expression, zone) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            name,
            rule,
            zone
        )
        .execute(&mut *session)
        .await
        .map_err(self.failed(doing))?;
        let since = sqlx::query_scalar!(
            "SELECT since FROM pgseal.schedules WHERE name = $1 AND expression = $2 AND zone = $3",
            name,
            rule,
            zone
        );
        let since = since.fetch_one(&mut *session).await;
        since.map_err(self.failed(doing))
    }
}

async fn choose_in(
    session: &mut PgConnection,
    targets: &[&str],
    budget: Option<DrillBudget>,
    slot: Option<DrillSlot<'_>>,
    job_id: Option<&str>,
) -> Result<DrillChoice, CatalogError> {
    let doing = "choose a backup for a drill";
    let failed = |source| CatalogError::Query { doing, source };
    lock(session).await.map_err(failed)?;
    if let Some(slot) = slot {
        if !take_slot(session, slot).await.map_err(failed)? {
            return Ok(DrillChoice::Settled);
        }
    }
    let left = match budget {
        Some(budget) => Some(left(session, budget).await.map_err(failed)?),
        None => None,
    };
    let (ids, backups) = drillable(session, targets).await?;
    let (choice, outcome) = match next(&backups, left) {
        Choice::Newest(backup) | Choice::InTurn(backup) => {
            let id = ids[&backup.key];
            sqlx::query!(
                "INSERT INTO pgseal.drills (backup_id, target, job_id, bytes) \
                 SELECT id, target, $2, coalesce(sealed_bytes, 0) FROM pgseal.backups WHERE id = $1",
                id.get(),
                job_id
            )
            .execute(&mut *session)
            .await
            .map_err(failed)?;
            (DrillChoice::Backup(id), ASKED)
        }
        Choice::NoBackup => (DrillChoice::NoBackup, NO_BACKUP),
        Choice::TooDear { bytes, left } => {
            let is_news = slot.is_none();
            let choice = DrillChoice::TooDear {
                bytes,
                left,
                is_news,
            };
            (choice, OVER_BUDGET)
        }
    };
    let Some(slot) = slot else { return Ok(choice) };
    let (id, job_id) = match &choice {
        DrillChoice::Backup(id) => (Some(id.get()), job_id),
        _ => (None, None),
    };
    let noted = sqlx::query!(
        "UPDATE pgseal.schedule_slots SET backup_id = $3, job_id = $4, outcome = $5 \
         WHERE schedule = $1 AND slot = $2 AND outcome IS DISTINCT FROM $5",
        slot.schedule,
        slot.at,
        id,
        job_id,
        outcome
    );
    let noted = noted.execute(session).await.map_err(failed)?;
    let is_news = noted.rows_affected() > 0;
    Ok(match choice {
        DrillChoice::TooDear { bytes, left, .. } => DrillChoice::TooDear {
            bytes,
            left,
            is_news,
        },
        other => other,
    })
}

/// Whether a slot is still open. What earlier slots asked for and nobody began is not fetched any more.
async fn take_slot(session: &mut PgConnection, slot: DrillSlot<'_>) -> Result<bool, sqlx::Error> {
    let open = sqlx::query_scalar!(
        "SELECT slot FROM pgseal.schedule_slots WHERE schedule = $1 AND slot = $2 AND job_id IS NULL FOR UPDATE",
        slot.schedule,
        slot.at
    );
    if open.fetch_optional(&mut *session).await?.is_none() {
        return Ok(false);
    }
    sqlx::query!(
        "DELETE FROM pgseal.drills d USING pgseal.schedule_slots s WHERE s.schedule = $1 AND s.slot < $2 \
            AND d.job_id = s.job_id AND d.begun_at IS NULL",
        slot.schedule,
        slot.at
    )
    .execute(&mut *session)
    .await?;
    // What is a year old bounds no month.
    sqlx::query!(
        "DELETE FROM pgseal.drills WHERE counted_at < clock_timestamp() - interval '400 days'"
    )
    .execute(session)
    .await?;
    Ok(true)
}

/// What one decides, the next one sees.
async fn lock(session: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtextextended('pgseal.drills', 0))")
        .fetch_one(session)
        .await
        .map(drop)
}

async fn left(session: &mut PgConnection, budget: DrillBudget) -> Result<u64, sqlx::Error> {
    let spent = spent(session, budget.since).await?;
    Ok(budget.bytes.saturating_sub(spent))
}

async fn spent(session: &mut PgConnection, since: OffsetDateTime) -> Result<u64, sqlx::Error> {
    let spent = sqlx::query_scalar!(
        r#"SELECT least(coalesce(sum(bytes), 0), 9223372036854775807)::bigint AS "bytes!"
        FROM pgseal.drills WHERE counted_at >= $1"#,
        since
    );
    spent.fetch_one(session).await.map(i64::unsigned_abs)
}

type Ids = std::collections::BTreeMap<String, BackupId>;

/// The backups that could be tried. One that was fetched and came to no verdict was tried as well: it must not be the
/// only one that ever is.
async fn drillable(
    session: &mut PgConnection,
    targets: &[&str],
) -> Result<(Ids, Vec<Drillable>), CatalogError> {
    let doing = "choose a backup for a drill";
    let rows = sqlx::query!(
        r#"SELECT id, object_key AS "object_key!", created_at, coalesce(sealed_bytes, 0) AS "sealed_bytes!",
            kind = $2 AS "is_safety!",
            greatest(proof_at, (SELECT max(d.counted_at) FROM pgseal.drills d WHERE d.backup_id = b.id AND d.bytes > 0)) AS tried_at
        FROM pgseal.backups b WHERE target = ANY($1) AND status = 'completed' AND health = 'ok' AND deletion = 'kept'
            AND uid IS NOT NULL"#,
        targets as &[&str],
        BackupKind::PreRestore.as_str()
    );
    let rows = rows.fetch_all(session).await;
    let rows = rows.map_err(|source| CatalogError::Query { doing, source })?;
    let all_safety = rows.iter().all(|row| row.is_safety);
    let (mut ids, mut backups) = (Ids::new(), Vec::new());
    for row in rows {
        let Some(id) = BackupId::new(row.id).filter(|_| all_safety || !row.is_safety) else {
            continue;
        };
        ids.insert(row.object_key.clone(), id);
        backups.push(Drillable {
            key: row.object_key,
            made_at: row.created_at,
            tried_at: row.tried_at,
            sealed_bytes: row.sealed_bytes.unsigned_abs(),
        });
    }
    Ok((ids, backups))
}
