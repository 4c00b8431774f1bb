//! A dead man's switch, as healthchecks.io has them: it alerts when it hears nothing. The URL itself is success, with
//! `/start`, `/fail` and `/log` behind it for the rest.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::SecretString;

use super::address::{AddressError, HttpAddress, PlainText};
use super::error::NotifyError;
use super::http::{Http, Message};
use super::text;
use crate::model::event::{Event, EventKind};

/// Stands in the URL for the target's name.
const PLACEHOLDER: &str = "{target}";

/// A switch for each target, or one for all.
#[derive(Debug)]
pub struct Ping {
    http: Http,
    template: SecretString,
    plain: PlainText,
    host: String,
}

impl Ping {
    /// The switch at this address, in which `{target}` stands for a target's name.
    ///
    /// # Errors
    /// It is no address.
    pub fn new(template: SecretString, plain: PlainText) -> Result<Self, AddressError> {
        let host = address(&template, "default", "", plain)?.host().to_owned();
        Ok(Self {
            http: Http::default(),
            template,
            plain,
            host,
        })
    }

    /// Whether each target has a switch of its own.
    pub(super) fn is_for_each_target(&self) -> bool {
        use secrecy::ExposeSecret as _;
        self.template.expose_secret().contains(PLACEHOLDER)
    }

    pub(super) fn describe(&self) -> String {
        format!("the dead man's switch at {}", self.host)
    }

    pub(super) async fn send(&self, event: &Event) -> Result<(), NotifyError> {
        let Some(ending) = ending(event.kind) else {
            return Ok(());
        };
        let address = address(&self.template, &event.target, ending, self.plain)?;
        let message = Message {
            url: address.url(),
            host: address.host(),
            headers: Vec::new(),
            content_type: "text/plain; charset=utf-8",
            body: format!("{}\n{}", text::subject(event), text::text(event)),
        };
        self.http.post(message).await
    }
}

/// What stands behind the URL for this event; `None`: it is none of the switch's business.
pub(super) const fn ending(kind: EventKind) -> Option<&'static str> {
    match kind {
        EventKind::BackupStarted => Some("/start"),
        EventKind::BackupCompleted => Some(""),
        EventKind::BackupFailed | EventKind::BackupSuspicious => Some("/fail"),
        // It must not count as a backup.
        EventKind::Test => Some("/log"),
        _ => None,
    }
}

fn address(
    template: &SecretString,
    target: &str,
    ending: &str,
    plain: PlainText,
) -> Result<HttpAddress, AddressError> {
    use secrecy::ExposeSecret as _;
    let target = utf8_percent_encode(target, NON_ALPHANUMERIC).to_string();
    let url = template
        .expose_secret()
        .trim()
        .replace(PLACEHOLDER, &target);
    let (path, query) = match url.split_once('?') {
        Some((path, query)) => (path, format!("?{query}")),
        None => (url.as_str(), String::new()),
    };
    let url = format!("{}{ending}{query}", path.trim_end_matches('/'));
    HttpAddress::parse(&url.into(), plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_and_endings_go_into_the_path() {
        let of = |template: &str, target, ending| {
            let address = address(&template.into(), target, ending, PlainText::Refused);
            address.unwrap().url().to_owned()
        };
        assert_eq!(
            of("https://hc/uuid", "shop", "/fail"),
            "https://hc/uuid/fail"
        );
        assert_eq!(of("https://hc/uuid/", "shop", ""), "https://hc/uuid");
        assert_eq!(
            of("https://hc/key/{target}?create=1", "a/../b c", "/start"),
            "https://hc/key/a%2F%2E%2E%2Fb%20c/start?create=1"
        );
    }
}
