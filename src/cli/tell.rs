//! Telling what a command did, where no catalog has an outbox for it: once, as well as it can be, and never at the cost of
//! the command's own verdict.

use std::time::Duration;

use futures_util::future::join_all;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use super::Context;
use crate::config::NotifyArgs;
use crate::model::event::{Event, EventKind, Facts};
use crate::model::explanation::explain;
use crate::model::ids::Uid;
use crate::model::target::TargetName;
use crate::notify::Notifier;

/// Whoever was told to end waits no longer than this for servers.
const END_WITHIN: Duration = Duration::from_secs(5);

/// Who is told.
pub(super) struct Teller {
    notifier: Notifier,
    target: TargetName,
    cancel: CancellationToken,
    clock: fn() -> OffsetDateTime,
}

impl Teller {
    /// Those that the settings name. Settings that cannot be read keep nobody from making a backup.
    pub(super) fn of(arguments: &NotifyArgs, target: &TargetName, context: &Context) -> Self {
        let notifier = arguments.notifier().unwrap_or_else(|error| {
            tracing::warn!(reason = explain(&error), "Nobody is notified");
            Notifier::default()
        });
        Self {
            notifier,
            target: target.clone(),
            cancel: context.cancel.clone(),
            clock: context.clock,
        }
    }

    /// Tells an event to all that it is for, at once and once.
    pub(super) async fn tell(&self, kind: EventKind, facts: Facts) {
        let now = (self.clock)();
        let event = Event {
            id: Uid::new(now),
            at: now,
            kind,
            target: self.target.to_string(),
            facts,
        };
        let sent = self.notifier.channels_for(&event).map(async |channel| {
            if let Err(error) = channel.send(&event, now).await {
                let reason = explain(&error);
                tracing::warn!(channel = channel.name(), event.kind = %kind, reason, "Notification not sent");
            }
        });
        let patience = async {
            self.cancel.cancelled().await;
            tokio::time::sleep(END_WITHIN).await;
        };
        tokio::select! {
            _ = join_all(sent) => {}
            () = patience => tracing::warn!(event.kind = %kind, "Notification not sent: the command was told to end"),
        }
    }

    /// As [`Self::tell`], beside something else, which alone ends.
    pub(super) async fn tell_on<T>(&self, kind: EventKind, facts: &Facts) -> T {
        self.tell(kind, facts.clone()).await;
        std::future::pending().await
    }
}
