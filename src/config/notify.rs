//! Who hears of what happened.
//!
//! - `BACKUP_SMTP_URL`, `BACKUP_NOTIFY_WEBHOOK_URL`, `BACKUP_NOTIFY_WEBHOOK_SECRET`, `BACKUP_NOTIFY_SLACK_URL` and
//!   `BACKUP_PING_URL` are secrets: each comes from its variable, or from the file that `…_FILE` names.

use clap::builder::BoolishValueParser;
use clap::{Args, ValueEnum};
use secrecy::SecretString;

use super::environment::{every_name_is_known, secret};
use super::own::OwnNotify;
use super::{ConfigError, Targets};
use crate::model::target::TargetName;
use crate::notify::{
    AddressError, Channel, Email, HttpAddress, Notifier, OwnChannel, Ping, PlainText, Slack,
    SmtpAddress, Success, Webhook,
};

/// Who hears of what happened.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Notifications")]
#[expect(
    clippy::struct_field_names,
    reason = "the fields are the flags' names, which stand beside other commands' own"
)]
pub struct NotifyArgs {
    /// Who sends the e-mails that BACKUP_SMTP_URL's server takes
    #[arg(
        long,
        env = "BACKUP_NOTIFY_FROM",
        value_name = "ADDRESS",
        hide_short_help = true
    )]
    notify_from: Option<String>,
    /// Who gets them, separated by commas
    #[arg(
        long,
        env = "BACKUP_NOTIFY_TO",
        value_name = "ADDRESSES",
        value_delimiter = ',',
        hide_short_help = true
    )]
    notify_to: Vec<String>,
    /// Who hears of backups that went well; of everything else, everybody does
    #[arg(
        long,
        env = "BACKUP_NOTIFY_SUCCESS",
        value_name = "WHO",
        default_value = "programs",
        hide_short_help = true
    )]
    notify_success: SuccessArg,
    /// Allow notifications without TLS to another machine
    #[arg(long, env = "BACKUP_NOTIFY_ALLOW_PLAIN", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new(), hide_short_help = true)]
    notify_allow_plain: Option<bool>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum SuccessArg {
    /// The webhook and the dead man's switch
    Programs,
    /// E-mail and chat too
    All,
}

impl NotifyArgs {
    /// The channels that are set, and those that targets have of their own.
    ///
    /// # Errors
    /// Half of one is missing, or an address cannot be read.
    pub fn notifier(&self, targets: &Targets) -> Result<Notifier, ConfigError> {
        every_name_is_known()?;
        let channels = [self.email()?, self.webhook()?, self.slack()?, self.ping()?];
        let mut own = Vec::new();
        for (target, settings) in targets.own() {
            own.extend(self.own(target, &settings.notify)?);
        }
        Ok(Notifier {
            channels: channels.into_iter().flatten().collect(),
            own,
            success: match self.notify_success {
                SuccessArg::Programs => Success::Programs,
                SuccessArg::All => Success::Everybody,
            },
        })
    }

    fn email(&self) -> Result<Option<Channel>, ConfigError> {
        const VARIABLE: &str = "BACKUP_SMTP_URL";
        let half = |text: &str| Err(ConfigError::Notify(text.to_owned()));
        let from = self.notify_from.as_ref().filter(|from| !from.is_empty());
        let to: Vec<String> = self
            .notify_to
            .iter()
            .map(|to| to.trim().to_owned())
            .filter(|to| !to.is_empty())
            .collect();
        let (url, from) = match (secret(VARIABLE, None)?, from, to.is_empty()) {
            (None, None, true) => return Ok(None),
            (Some(url), Some(from), false) => (url, from),
            (None, _, _) => {
                return half(
                    "BACKUP_NOTIFY_FROM or BACKUP_NOTIFY_TO is set, and no mail server is\nhint: set BACKUP_SMTP_URL, as smtps://USER:PASSWORD@HOST:465",
                );
            }
            (Some(_), _, _) => {
                return half(
                    "BACKUP_SMTP_URL is set, and half of who writes to whom is missing\nhint: set both BACKUP_NOTIFY_FROM and BACKUP_NOTIFY_TO",
                );
            }
        };
        let server = SmtpAddress::parse(&url, self.plain()).map_err(wrong(VARIABLE))?;
        match Email::new(server, from, &to) {
            Ok(email) => Ok(Some(Channel::Email(email))),
            Err(error) => half(&format!(
                "BACKUP_NOTIFY_FROM or BACKUP_NOTIFY_TO holds what is no e-mail address: {error}\nhint: backups@example.com, or Backups <backups@example.com>"
            )),
        }
    }

    fn webhook(&self) -> Result<Option<Channel>, ConfigError> {
        const SECRET: &str = "BACKUP_NOTIFY_WEBHOOK_SECRET";
        let url = self.address("BACKUP_NOTIFY_WEBHOOK_URL")?;
        let secret = secret(SECRET, None)?;
        let Some(url) = url else {
            return match secret {
                None => Ok(None),
                Some(_) => Err(ConfigError::Notify(format!(
                    "{SECRET} is set and no webhook is\nhint: set BACKUP_NOTIFY_WEBHOOK_URL"
                ))),
            };
        };
        match Webhook::new(url, secret.as_ref()) {
            Ok(webhook) => Ok(Some(Channel::Webhook(webhook))),
            Err(_) => Err(ConfigError::Notify(format!(
                "{SECRET} begins with whsec_ and goes on with what is no base64\nhint: whsec_ and what openssl rand -base64 32 prints"
            ))),
        }
    }

    fn slack(&self) -> Result<Option<Channel>, ConfigError> {
        let address = self.address("BACKUP_NOTIFY_SLACK_URL")?;
        Ok(address.map(|address| Channel::Slack(Slack::new(address))))
    }

    fn ping(&self) -> Result<Option<Channel>, ConfigError> {
        const VARIABLE: &str = "BACKUP_PING_URL";
        let ping = secret(VARIABLE, None)?.map(|url| Ping::new(url, self.plain()));
        let ping = ping.transpose().map_err(wrong(VARIABLE))?;
        Ok(ping.map(Channel::Ping))
    }

    /// What a target has of its own. Its mails go by the service's server.
    fn own(&self, target: &TargetName, own: &OwnNotify) -> Result<Vec<OwnChannel>, ConfigError> {
        let wrong = |key: &str, source: AddressError| ConfigError::Address {
            variable: format!("{key} of target {target}"),
            source,
        };
        let address = |key: &str, url: Option<SecretString>| {
            let parsed = url.map(|url| HttpAddress::parse(&url, self.plain()));
            parsed.transpose().map_err(|source| wrong(key, source))
        };
        let mut channels = Vec::new();
        if !own.to.is_empty() {
            let here = Self {
                notify_to: own.to.clone(),
                ..self.clone()
            };
            channels.extend(here.email()?);
        }
        let url = own.webhook.read("notify_webhook_url", target)?;
        if let Some(url) = address("notify_webhook_url", url)? {
            let secret = own.webhook_secret.read("notify_webhook_secret", target)?;
            let webhook = Webhook::new(url, secret.as_ref()).map_err(|_| {
                ConfigError::Notify(format!(
                    "notify_webhook_secret of target {target} begins with whsec_ and goes on with what is no base64"
                ))
            })?;
            channels.push(Channel::Webhook(webhook));
        }
        let url = own.slack.read("notify_slack_url", target)?;
        let slack = address("notify_slack_url", url)?;
        channels.extend(slack.map(|address| Channel::Slack(Slack::new(address))));
        if let Some(url) = own.ping.read("ping_url", target)? {
            let ping = Ping::new(url, self.plain());
            channels.push(Channel::Ping(
                ping.map_err(|source| wrong("ping_url", source))?,
            ));
        }
        let own = channels.into_iter().map(|channel| OwnChannel {
            target: target.to_string(),
            channel,
        });
        Ok(own.collect())
    }

    fn address(&self, variable: &'static str) -> Result<Option<HttpAddress>, ConfigError> {
        let parse = |url: SecretString| HttpAddress::parse(&url, self.plain());
        let address = secret(variable, None)?.map(parse);
        address.transpose().map_err(wrong(variable))
    }

    fn plain(&self) -> PlainText {
        if self.notify_allow_plain == Some(true) {
            PlainText::Allowed
        } else {
            PlainText::Refused
        }
    }
}

fn wrong(variable: &'static str) -> impl Fn(AddressError) -> ConfigError {
    move |source| ConfigError::Address {
        variable: variable.to_owned(),
        source,
    }
}
