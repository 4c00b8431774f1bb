//! Telling people and programs what happened: by e-mail, to a webhook, to Slack, and by pings to a dead man's switch.
//!
//! ```text
//! event --routes--> which channels --text--> what a person reads --channel--> a server that the settings name
//! ```
//!
//! A channel sends once and says what came of that; who tries again, and when, is the outbox's business (`catalog`).
//! Addresses come from settings alone, no redirect is followed, what a server answers beyond its status is not read, and
//! no address is ever printed beyond its host.

mod address;
mod email;
mod error;
mod http;
mod ping;
mod routes;
mod slack;
mod text;
mod webhook;

use std::time::Duration;

use time::OffsetDateTime;

pub use address::{AddressError, HttpAddress, PlainText, SmtpAddress};
pub use email::Email;
pub use error::NotifyError;
pub use http::Http;
pub use ping::Ping;
pub use routes::Success;
pub use slack::Slack;
pub use text::{subject, text};
pub use webhook::Webhook;

use crate::model::event::Event;

/// A server that has not taken an event within this time is as good as one that is down.
pub const SEND_WITHIN: Duration = Duration::from_secs(20);

/// The channels that the settings name.
#[derive(Debug, Default)]
pub struct Notifier {
    /// Those of every target, each kind at most once.
    pub channels: Vec<Channel>,
    /// Those that a target has instead.
    pub own: Vec<OwnChannel>,
    /// Who hears of what went as it should.
    pub success: Success,
}

/// A channel that one target has of its own.
#[derive(Debug)]
pub struct OwnChannel {
    /// The target's name.
    pub target: String,
    /// Takes the place of the common one of its kind.
    pub channel: Channel,
}

/// A way to tell something.
#[derive(Debug)]
pub enum Channel {
    /// To people's mail boxes.
    Email(Email),
    /// To a program of the user's own.
    Webhook(Webhook),
    /// To a chat room of Slack's, or of what takes the same messages.
    Slack(Slack),
    /// To a dead man's switch.
    Ping(Ping),
}

impl Channel {
    /// The names that channels have, in the settings' order.
    pub const NAMES: [&str; 4] = ["email", "webhook", "slack", "ping"];

    /// Its name, as the catalog records it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Email(_) => Self::NAMES[0],
            Self::Webhook(_) => Self::NAMES[1],
            Self::Slack(_) => Self::NAMES[2],
            Self::Ping(_) => Self::NAMES[3],
        }
    }

    /// Where it leads; no secret.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Email(email) => email.describe(),
            Self::Webhook(webhook) => webhook.describe(),
            Self::Slack(slack) => slack.describe(),
            Self::Ping(ping) => ping.describe(),
        }
    }

    /// Whether it is another one for each target.
    #[must_use]
    pub fn is_for_each_target(&self) -> bool {
        matches!(self, Self::Ping(ping) if ping.is_for_each_target())
    }

    /// Tells an event, once.
    ///
    /// # Errors
    /// The server cannot be reached, is too slow, or did not take it.
    pub async fn send(&self, event: &Event, now: OffsetDateTime) -> Result<(), NotifyError> {
        let sent = async {
            match self {
                Self::Email(email) => email.send(event).await,
                Self::Webhook(webhook) => webhook.send(event, now).await,
                Self::Slack(slack) => slack.send(event).await,
                Self::Ping(ping) => ping.send(event).await,
            }
        };
        match tokio::time::timeout(SEND_WITHIN, sent).await {
            Ok(sent) => sent,
            Err(_) => Err(NotifyError::TooSlow {
                to: self.describe(),
                seconds: SEND_WITHIN.as_secs(),
            }),
        }
    }
}
