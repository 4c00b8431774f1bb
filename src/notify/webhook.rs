//! A webhook: the event as JSON, signed as Standard Webhooks wants it (<https://www.standardwebhooks.com>), so that
//! receivers can check it by a library.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::{ExposeSecret as _, SecretSlice, SecretString};
use serde::Serialize;
use sha2::Sha256;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::address::HttpAddress;
use super::error::NotifyError;
use super::http::{Http, Message};
use super::text;
use crate::model::event::{Event, Facts};

/// The form of the body. A later one only adds fields; a change of what is there is another number.
const FORMAT: u32 = 1;
/// Before a secret that is base64.
const SECRET_PREFIX: &str = "whsec_";

/// A program of the user's own.
#[derive(Debug)]
pub struct Webhook {
    http: Http,
    address: HttpAddress,
    key: Option<SecretSlice<u8>>,
}

/// The body.
#[derive(Serialize)]
struct Body<'a> {
    version: u32,
    id: String,
    r#type: &'static str,
    timestamp: String,
    target: &'a str,
    title: String,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    #[serde(flatten)]
    facts: &'a Facts,
    #[serde(skip_serializing_if = "Option::is_none")]
    backup_name: Option<&'a str>,
}

impl Webhook {
    /// A webhook that signs with `secret`, where there is one.
    ///
    /// # Errors
    /// The secret begins as if it were base64, and is not.
    pub fn new(
        address: HttpAddress,
        secret: Option<&SecretString>,
    ) -> Result<Self, base64::DecodeError> {
        let key = match secret.map(|secret| secret.expose_secret().trim()) {
            None => None,
            Some(text) => Some(match text.strip_prefix(SECRET_PREFIX) {
                Some(encoded) => STANDARD.decode(encoded)?.into(),
                None => text.as_bytes().to_vec().into(),
            }),
        };
        Ok(Self {
            http: Http::default(),
            address,
            key,
        })
    }

    /// Whether receivers can tell our messages from others'.
    #[must_use]
    pub const fn is_signed(&self) -> bool {
        self.key.is_some()
    }

    pub(super) fn describe(&self) -> String {
        let signed = if self.is_signed() { "" } else { ", unsigned" };
        format!("the webhook at {}{signed}", self.address.host())
    }

    pub(super) async fn send(&self, event: &Event, now: OffsetDateTime) -> Result<(), NotifyError> {
        let id = event.id.to_string();
        let body = body(event)?;
        let timestamp = now.unix_timestamp();
        let mut headers = vec![
            ("webhook-id", id.clone()),
            ("webhook-timestamp", timestamp.to_string()),
        ];
        if let Some(key) = &self.key {
            let signature = signature(key.expose_secret(), &id, timestamp, &body);
            headers.push(("webhook-signature", signature));
        }
        let message = Message {
            url: self.address.url(),
            host: self.address.host(),
            headers,
            content_type: "application/json",
            body,
        };
        self.http.post(message).await
    }
}

fn body(event: &Event) -> Result<String, NotifyError> {
    let failed = |error: &dyn std::fmt::Display| NotifyError::Message(error.to_string());
    let body = Body {
        version: FORMAT,
        id: event.id.to_string(),
        r#type: event.kind.as_str(),
        timestamp: event.at.format(&Rfc3339).map_err(|error| failed(&error))?,
        target: &event.target,
        title: text::title(event),
        data: Data {
            facts: &event.facts,
            backup_name: event.facts.backup_name(),
        },
    };
    serde_json::to_string(&body).map_err(|error| failed(&error))
}

/// The time is part of what is signed, so that nobody can send an old message again.
fn signature(key: &[u8], id: &str, timestamp: i64, body: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(format!("{id}.{timestamp}.{body}").as_bytes());
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification's own libraries.
    #[test]
    fn signatures_are_those_of_the_specification() {
        let key = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let id = "msg_p5jXN8AQM9LWM0D4loKWxJek";
        let signature = signature(&key, id, 1_614_265_330, r#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }
}
