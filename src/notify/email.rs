//! E-mail. The only file that names the library for it.

use std::fmt;
use std::time::{Duration, SystemTime};

use lettre::address::AddressError as MailboxError;
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, Message};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Tokio1Executor};
use secrecy::ExposeSecret as _;

use super::address::{SmtpAddress, SmtpSecurity};
use super::error::NotifyError;
use super::text;
use crate::model::event::Event;

/// How long the server may take for one answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);

/// Mail boxes, and the server that takes mail for them.
pub struct Email {
    server: SmtpAddress,
    from: Mailbox,
    to: Vec<Mailbox>,
}

impl Email {
    /// From whom and to whom, as `NAME <BOX@HOST>` or `BOX@HOST`.
    ///
    /// # Errors
    /// One of them is no address.
    pub fn new(server: SmtpAddress, from: &str, to: &[String]) -> Result<Self, MailboxError> {
        Ok(Self {
            server,
            from: from.trim().parse()?,
            to: to
                .iter()
                .map(|to| to.trim().parse())
                .collect::<Result<_, _>>()?,
        })
    }

    pub(super) fn describe(&self) -> String {
        let to: Vec<String> = self.to.iter().map(|to| to.email.to_string()).collect();
        format!("{} by the mail server {}", to.join(", "), self.server.host)
    }

    /// Tells an event to all boxes in one message. A server that refuses one of them refuses the message.
    pub(super) async fn send(&self, event: &Event) -> Result<(), NotifyError> {
        let message = self.message(event)?;
        let transport = self.transport()?;
        let sent = transport.send(message).await;
        sent.map(drop).map_err(|error| self.failed(&error))
    }

    fn transport(&self) -> Result<AsyncSmtpTransport<Tokio1Executor>, NotifyError> {
        let server = &self.server;
        let tls = match server.security {
            SmtpSecurity::None => Tls::None,
            SmtpSecurity::Tls => Tls::Wrapper(self.tls()?),
            SmtpSecurity::StartTls => Tls::Required(self.tls()?),
        };
        let builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(server.host.as_str())
            .port(server.port)
            .tls(tls)
            .timeout(Some(ANSWER_WITHIN));
        let builder = match &server.credentials {
            None => builder,
            Some((user, password)) => builder.credentials(Credentials::new(
                user.clone(),
                password.expose_secret().to_owned(),
            )),
        };
        Ok(builder.build())
    }

    fn tls(&self) -> Result<TlsParameters, NotifyError> {
        TlsParameters::new(self.server.host.clone()).map_err(|error| self.failed(&error))
    }

    fn message(&self, event: &Event) -> Result<Message, NotifyError> {
        let raw =
            |name, value: String| HeaderValue::new(HeaderName::new_from_ascii_str(name), value);
        let mut message = Message::builder()
            .from(self.from.clone())
            .subject(text::subject(event))
            .date(SystemTime::from(event.at))
            // The same in each try: a mail server that knows it already may drop the second one.
            .message_id(Some(format!("<{}@pgseal.invalid>", event.id)))
            // RFC 3834: nobody's holiday greeting is wanted.
            .raw_header(raw("Auto-Submitted", "auto-generated".to_owned()))
            .raw_header(raw("X-Pgseal-Event", event.kind.to_string()))
            .header(ContentType::TEXT_PLAIN);
        for to in &self.to {
            message = message.to(to.clone());
        }
        let body = text::text(event) + "\n";
        message
            .body(body)
            .map_err(|error| NotifyError::Message(error.to_string()))
    }

    /// What the server said, unless it repeats the password.
    fn failed(&self, error: &lettre::transport::smtp::Error) -> NotifyError {
        let mut why = error.to_string();
        let mut next = std::error::Error::source(error);
        while let Some(cause) = next {
            let said = cause.to_string();
            if !why.contains(&said) {
                why = format!("{why}: {said}");
            }
            next = cause.source();
        }
        if let Some((user, password)) = &self.server.credentials {
            for secret in [password.expose_secret(), user.as_str()] {
                if !secret.is_empty() {
                    why = why.replace(secret, "[redacted]");
                }
            }
        }
        let hint = match self.server.security {
            SmtpSecurity::StartTls if why.contains("STARTTLS") => {
                "\nhint: smtps:// begins with TLS; ?tls=none does without on a network you trust"
            }
            _ => "",
        };
        NotifyError::Mail {
            to: self.server.host.clone(),
            why: text::one_line(&why, 500) + hint,
        }
    }
}

impl fmt::Debug for Email {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Email({})", self.describe())
    }
}
