//! Telling what happened, beside the jobs: a job's verdict stands before anybody is told, and waits for nobody.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use crate::catalog::{Catalog, CatalogError, Delivery, Failed, Route};
use crate::model::event::Event;
use crate::model::explanation::explain;
use crate::model::target::TargetName;
use crate::notify::{Channel, Notifier, SEND_WITHIN};

/// How often the outbox is looked into: whoever is told of a failure three seconds later is told at once.
const INTERVAL: Duration = Duration::from_secs(3);
/// How long a delivery is ours: longer than any try may take, with what the catalog needs around it.
const LEASE: Duration = Duration::from_secs(3 * SEND_WITHIN.as_secs());
/// How long a process that ends waits for a server that it is talking to.
const END_WITHIN: Duration = Duration::from_secs(5);
/// How often what is old is forgotten.
const CLEAN_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// What is to be told, and to whom. Several may send at once: each delivery is claimed by one of them.
pub struct Outbox {
    /// Where events are written down.
    pub catalog: Catalog,
    /// Who hears of them.
    pub notifier: Notifier,
    /// The targets' databases, which events of what came to nothing do not name.
    pub databases: BTreeMap<TargetName, String>,
    /// What time it is, for signatures.
    pub clock: fn() -> OffsetDateTime,
}

impl Outbox {
    /// Sends what is due until `end`.
    pub async fn keep(&self, end: &CancellationToken) {
        let mut cleaned: Option<Instant> = None;
        loop {
            self.deliver_due(end).await;
            if cleaned.is_none_or(|at| at.elapsed() >= CLEAN_INTERVAL) {
                cleaned = Some(Instant::now());
                if let Err(error) = self.catalog.clean_outbox().await {
                    tracing::warn!(%error, "Housekeeping: old notifications");
                }
            }
            let pause = tokio::time::sleep(INTERVAL);
            if end.run_until_cancelled(pause).await.is_none() {
                break;
            }
        }
    }

    /// Everything that is due now; a channel that fails is left until its next try.
    pub async fn deliver_due(&self, end: &CancellationToken) {
        let routes = |event: &Event| {
            let channels = self.notifier.channels_for(event);
            channels
                .map(|(name, channel)| Route {
                    channel: name,
                    supersedes: channel.has_state(),
                })
                .collect()
        };
        loop {
            match self.catalog.route_events(routes).await {
                Ok(0) => break,
                Ok(_) if end.is_cancelled() => return,
                Ok(_) => {}
                // Housekeeping says that it does not answer.
                Err(error) => return tracing::debug!(%error, "The outbox cannot be read"),
            }
        }
        let channels: Vec<_> = self.notifier.named().collect();
        let channels = channels.iter();
        join_all(channels.map(|(name, channel)| self.empty(name, channel, end))).await;
    }

    /// Sends what a channel has to send, until it fails or there is nothing left.
    async fn empty(&self, name: &str, channel: &Channel, end: &CancellationToken) {
        while !end.is_cancelled() {
            let claimed = self.catalog.claim_delivery(name, LEASE);
            let sent = match claimed.await {
                Ok(Some(delivery)) => self.send(channel, delivery, end).await,
                Ok(None) => return,
                Err(error) => Err(error),
            };
            match sent {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    return tracing::warn!(%error, channel = name, "The outbox cannot be written");
                }
            }
        }
    }

    /// One try. Whether the channel took it.
    async fn send(
        &self,
        channel: &Channel,
        mut delivery: Delivery,
        end: &CancellationToken,
    ) -> Result<bool, CatalogError> {
        let event = &mut delivery.event;
        if event.facts.database.is_none() {
            // What came to nothing has no manifest that would say it.
            let target = TargetName::parse(&event.target).ok();
            event.facts.database = target.and_then(|target| self.databases.get(&target).cloned());
        }
        let patience = async {
            end.cancelled().await;
            tokio::time::sleep(END_WITHIN).await;
        };
        let sent = tokio::select! {
            sent = channel.send(&delivery.event, (self.clock)()) => sent,
            // Sent or not: another one sends it when the lease has passed.
            () = patience => return Ok(false),
        };
        let (id, kind) = (delivery.event.id, delivery.event.kind);
        let name = &delivery.channel;
        let Err(error) = sent else {
            if !self.catalog.delivered(&delivery).await? {
                tracing::warn!(event.id = %id, channel = name,
                    "Notification was sent after its lease had passed, and may be sent once more");
            }
            tracing::info!(event.id = %id, event.kind = %kind, channel = name, "Notification sent");
            return Ok(true);
        };
        let reason = explain(&error);
        match self.catalog.not_delivered(&delivery, &reason).await? {
            Failed::GivenUp => {
                tracing::error!(event.id = %id, event.kind = %kind, channel = name, reason,
                "Notification given up after days; pgseal notify list shows it");
            }
            Failed::Again | Failed::Lost => {
                tracing::warn!(event.id = %id, event.kind = %kind, channel = name,
                attempt = delivery.attempt, reason, "Notification not sent, tried again later");
            }
        }
        Ok(false)
    }
}
