//! Slack's incoming webhooks, and what takes the same messages: Mattermost, Rocket.Chat, Discord behind `/slack`.

use super::address::HttpAddress;
use super::error::NotifyError;
use super::http::{Http, Message};
use super::text;
use crate::model::event::Event;

/// A chat room. Whoever has its URL may write there, so that all of it is a secret.
#[derive(Debug)]
pub struct Slack {
    http: Http,
    address: HttpAddress,
}

impl Slack {
    /// The room at this address.
    #[must_use]
    pub fn new(address: HttpAddress) -> Self {
        Self {
            http: Http::default(),
            address,
        }
    }

    pub(super) fn describe(&self) -> String {
        format!("the chat at {}", self.address.host())
    }

    pub(super) async fn send(&self, event: &Event) -> Result<(), NotifyError> {
        let written = format!(
            "*{}*\n{}",
            escaped(&text::subject(event)),
            escaped(&text::text(event))
        );
        let message = Message {
            url: self.address.url(),
            host: self.address.host(),
            headers: Vec::new(),
            content_type: "application/json",
            body: serde_json::json!({ "text": written }).to_string(),
        };
        self.http.post(message).await
    }
}

/// What would be a mention or a link, as text (<https://docs.slack.dev/messaging/formatting-message-text>).
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
