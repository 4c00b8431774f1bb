//! What somebody wants to hear of although no row's change of state tells it: into the outbox.

use std::time::Duration;

use sqlx::PgConnection;
use time::OffsetDateTime;

use super::outbox::{OnceSince, tell_in};
use super::{Catalog, CatalogError};
use crate::model::alert::Alert;
use crate::model::event::{EventKind, Facts};

/// What is still so is told again after a day, and not with every look.
const AGAIN: OnceSince = OnceSince {
    within: Duration::from_hours(24),
    moment: None,
};
/// An outage is told once a day, also where the day's slot is found missing some hours earlier than the day before.
const OVERDUE_AGAIN_AFTER: Duration = Duration::from_hours(20);

impl Catalog {
    /// Says an alert in the log, and puts it into the outbox for whoever is notified.
    ///
    /// # Errors
    /// The catalog fails.
    pub async fn record_event(&self, alert: &Alert) -> Result<(), CatalogError> {
        log(alert);
        let doing = "record an event";
        let mut transaction = self.begin(doing).await?;
        let told = tell_of(&mut transaction, alert).await;
        told.map_err(self.failed(doing))?;
        transaction.commit().await.map_err(self.failed(doing))
    }
}

pub(super) fn log(alert: &Alert) {
    // What a server said may be long, and is in the event.
    let said = alert.to_string();
    let said = said.lines().next().unwrap_or_default();
    tracing::warn!(
        event = alert.name(),
        target = alert.target(),
        "Attention: {said}"
    );
}

/// Puts an alert into the outbox, in the transaction of the change that it tells of. Whether it is news there.
pub(super) async fn tell_of(
    session: &mut PgConnection,
    alert: &Alert,
) -> Result<bool, sqlx::Error> {
    let (kind, once_since) = match alert {
        // Each slot that is missed is remembered, and an outage is one.
        Alert::BackupOverdue { target, .. } => {
            let since = OnceSince {
                within: OVERDUE_AGAIN_AFTER,
                moment: last_complete(session, target).await?,
            };
            (EventKind::BackupOverdue, Some(since))
        }
        // What is due is remembered, so that it comes once.
        Alert::ProofOverdue { .. } => (EventKind::ProofOverdue, None),
        // A trigger tells of each backup whose health changes.
        Alert::BackupSuspicious { .. } => return Ok(false),
        Alert::RetentionHeld { .. } => (EventKind::PruneFrozen, Some(AGAIN)),
        Alert::DeletionFailed { .. } => (EventKind::PruneFailed, Some(AGAIN)),
    };
    let facts = Facts {
        error: Some(alert.to_string()),
        ..Facts::default()
    };
    tell_in(session, kind, alert.target(), &facts, once_since).await
}

/// When a scheduled backup of a target was complete last: an outage that was told before that is over.
async fn last_complete(
    session: &mut PgConnection,
    target: &str,
) -> Result<Option<OffsetDateTime>, sqlx::Error> {
    let last = sqlx::query_scalar!(
        "SELECT max(finished_at) FROM pgseal.backups WHERE target = $1 AND kind = 'scheduled' AND status = 'completed'",
        target
    );
    last.fetch_one(session).await
}
