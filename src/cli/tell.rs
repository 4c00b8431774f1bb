//! Telling what a command did: as well as it can be, for some seconds, and never at the cost of the command's own verdict.
//! What a channel does not take then is left to the service's workers, where there is a catalog with an outbox for it.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use super::Context;
use super::service::catalog_if_there;
use crate::catalog::Route;
use crate::config::NotifyArgs;
use crate::model::event::{Event, EventKind, Facts};
use crate::model::explanation::explain;
use crate::model::ids::Uid;
use crate::model::target::TargetName;
use crate::notify::{Channel, Notifier};

/// Whoever was told to end waits no longer than this for servers.
const END_WITHIN: Duration = Duration::from_secs(5);
/// The pauses between two tries: the first, doubled each time. None is begun later than the last moment.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const TRY_WITHIN: Duration = Duration::from_secs(8);
/// A catalog that does not answer is none.
const CATALOG_WITHIN: Duration = Duration::from_secs(5);

/// Who is told.
pub(super) struct Teller {
    notifier: Notifier,
    target: TargetName,
    cancel: CancellationToken,
    clock: fn() -> OffsetDateTime,
    /// Whether dead man's switches are told too.
    switches: bool,
}

/// A channel that did not take an event, and why.
struct Untold<'a> {
    name: &'a str,
    channel: &'a Channel,
    reason: String,
}

impl Teller {
    /// Those that the settings name. Settings that cannot be read keep nobody from making a backup.
    pub(super) fn of(arguments: &NotifyArgs, target: &TargetName, context: &Context) -> Self {
        let targets = context.settings.targets();
        let notifier = targets.and_then(|targets| arguments.notifier(&targets));
        let notifier = notifier.unwrap_or_else(|error| {
            tracing::warn!(reason = explain(&error), "Nobody is notified");
            Notifier::default()
        });
        Self {
            notifier,
            target: target.clone(),
            cancel: context.cancel.clone(),
            clock: context.clock,
            switches: true,
        }
    }

    /// The same, but for switches: of a target that there is not, nobody has one.
    pub(super) fn without_switches(self) -> Self {
        Self {
            switches: false,
            ..self
        }
    }

    /// Tells an event to all that it is for, at once.
    pub(super) async fn tell(&self, kind: EventKind, facts: Facts) {
        let now = (self.clock)();
        let event = Event {
            id: Uid::new(now),
            at: now,
            kind,
            target: self.target.to_string(),
            facts,
        };
        let channels = self.notifier.channels_for(&event);
        let channels: Vec<(String, &Channel)> = channels
            .filter(|(_, channel)| self.switches || !channel.has_state())
            .collect();
        let patience = async {
            self.cancel.cancelled().await;
            tokio::time::sleep(END_WITHIN).await;
        };
        let told = async {
            let sent = channels
                .iter()
                .map(|(name, channel)| self.send(&event, name, channel));
            let untold: Vec<Untold<'_>> = join_all(sent).await.into_iter().flatten().collect();
            if !untold.is_empty() {
                self.hand_over(&event, &untold).await;
            }
        };
        tokio::select! {
            () = told => {}
            () = patience => tracing::warn!(event.kind = %kind, "Notification not sent: the command was told to end"),
        }
    }

    /// As [`Self::tell`], beside something else, which alone ends.
    pub(super) async fn tell_on<T>(&self, kind: EventKind, facts: &Facts) -> T {
        self.tell(kind, facts.clone()).await;
        std::future::pending().await
    }

    /// Tries for some seconds; what came of it, where nothing did.
    async fn send<'a>(
        &self,
        event: &Event,
        name: &'a str,
        channel: &'a Channel,
    ) -> Option<Untold<'a>> {
        let started = Instant::now();
        let mut pause = PAUSE_FIRST;
        loop {
            let error = channel.send(event, (self.clock)()).await.err()?;
            if started.elapsed() + pause > TRY_WITHIN {
                let reason = explain(&error);
                return Some(Untold {
                    name,
                    channel,
                    reason,
                });
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }

    /// Leaves what was not told to the service, if there is one.
    async fn hand_over(&self, event: &Event, untold: &[Untold<'_>]) {
        let routes = untold.iter().map(|untold| Route {
            channel: untold.name.to_owned(),
            supersedes: untold.channel.has_state(),
        });
        let handed = async {
            let Some(catalog) = catalog_if_there().await? else {
                return Ok(false);
            };
            catalog.tell_by(event, routes).await?;
            Ok::<_, anyhow::Error>(true)
        };
        let is_handed = match tokio::time::timeout(CATALOG_WITHIN, handed).await {
            Ok(Ok(is_handed)) => is_handed,
            Ok(Err(error)) => {
                tracing::debug!(reason = explain(error.as_ref()), "No outbox");
                false
            }
            Err(_) => false,
        };
        let left_to = if is_handed {
            "Notification not sent; it is left to the workers"
        } else {
            "Notification not sent"
        };
        for one in untold {
            let (channel, reason) = (one.name, &one.reason);
            tracing::warn!(channel, event.kind = %event.kind, reason, "{left_to}");
        }
    }
}
