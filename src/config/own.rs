//! What a target of the targets' file has of its own; what it does not say is as the service's settings have it.
//!
//! Nothing of a value is repeated in an error: what stands in the file may be secret.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use secrecy::SecretString;

use super::ConfigError;
use super::environment::first_line;
use super::operate::{OwnSchedule, RetentionArgs, due};
use crate::model::target::TargetName;

/// A target's own settings.
#[derive(Clone, Debug, Default)]
pub(super) struct Own {
    pub(super) schedule: OwnSchedule,
    pub(super) retention: RetentionArgs,
    pub(super) notify: OwnNotify,
}

/// Who hears of a target.
#[derive(Clone, Debug, Default)]
pub(super) struct OwnNotify {
    pub(super) to: Vec<String>,
    pub(super) webhook: OwnSecret,
    pub(super) webhook_secret: OwnSecret,
    pub(super) slack: OwnSecret,
    pub(super) ping: OwnSecret,
}

/// A secret: here, or in the first line of a file.
#[derive(Clone, Debug, Default)]
pub(super) struct OwnSecret {
    here: Option<SecretString>,
    file: Option<PathBuf>,
}

impl Own {
    /// Every setting that a target may have.
    pub(super) const KEYS: [&str; 23] = [
        "url",
        "url_file",
        "schedule",
        "schedule_timezone",
        "overdue_minutes",
        "drill_schedule",
        "proof_max_age_days",
        "retention_days",
        "keep_last",
        "keep_daily",
        "keep_weekly",
        "keep_monthly",
        "keep_yearly",
        "keep_within",
        "notify_to",
        "notify_webhook_url",
        "notify_webhook_url_file",
        "notify_webhook_secret",
        "notify_webhook_secret_file",
        "notify_slack_url",
        "notify_slack_url_file",
        "ping_url",
        "ping_url_file",
    ];

    /// Takes a setting: what its value is instead of what it has to be, where it is.
    pub(super) fn set(&mut self, key: &str, text: &str) -> Result<(), String> {
        let (schedule, retention) = (&mut self.schedule, &mut self.retention);
        let notify = &mut self.notify;
        let secret = || Some(SecretString::from(text));
        let file = || Some(PathBuf::from(text));
        match key {
            "schedule" => schedule.schedule = Some(text.to_owned()),
            "schedule_timezone" => schedule.timezone = Some(text.to_owned()),
            "overdue_minutes" => schedule.overdue_minutes = Some(number(text, 43_200)?),
            "drill_schedule" => schedule.drill_schedule = Some(text.to_owned()),
            "proof_max_age_days" => schedule.proof_max_age_days = Some(number(text, 36_525)?),
            "retention_days" => retention.retention_days = Some(by_kind(text)?),
            "keep_last" => retention.keep_last = Some(by_kind(text)?),
            "keep_daily" => retention.keep_daily = Some(by_kind(text)?),
            "keep_weekly" => retention.keep_weekly = Some(by_kind(text)?),
            "keep_monthly" => retention.keep_monthly = Some(by_kind(text)?),
            "keep_yearly" => retention.keep_yearly = Some(by_kind(text)?),
            "keep_within" => retention.keep_within = Some(by_kind(text)?),
            "notify_to" => notify.to = text.split(',').map(|to| to.trim().to_owned()).collect(),
            "notify_webhook_url" => notify.webhook.here = secret(),
            "notify_webhook_url_file" => notify.webhook.file = file(),
            "notify_webhook_secret" => notify.webhook_secret.here = secret(),
            "notify_webhook_secret_file" => notify.webhook_secret.file = file(),
            "notify_slack_url" => notify.slack.here = secret(),
            "notify_slack_url_file" => notify.slack.file = file(),
            "ping_url" => notify.ping.here = secret(),
            "ping_url_file" => notify.ping.file = file(),
            _ => return Err("no setting".to_owned()),
        }
        Ok(())
    }

    /// What only all of them together tell.
    pub(super) fn check(&self) -> Result<(), String> {
        let zone = self.schedule.timezone.as_deref().unwrap_or("UTC");
        let schedules = [
            ("schedule", &self.schedule.schedule),
            ("drill_schedule", &self.schedule.drill_schedule),
        ];
        for (key, expression) in schedules {
            let expression = expression.as_deref();
            // One that is well with UTC is wrong by its zone.
            if expression.is_some_and(|expression| due(expression, "UTC").is_err()) {
                return Err(format!(
                    "{key} is no cron expression, as 30 2 * * *, nor never"
                ));
            }
        }
        if due("0 0 * * *", zone).is_err() {
            return Err("schedule_timezone is no time zone, as Europe/Berlin".to_owned());
        }
        let notify = &self.notify;
        for (key, secret) in [
            ("notify_webhook_url", &notify.webhook),
            ("notify_webhook_secret", &notify.webhook_secret),
            ("notify_slack_url", &notify.slack),
            ("ping_url", &notify.ping),
        ] {
            if secret.here.is_some() && secret.file.is_some() {
                return Err(format!("{key} and {key}_file are both set"));
            }
        }
        if notify.webhook_secret.is_set() && !notify.webhook.is_set() {
            return Err("notify_webhook_secret is set and notify_webhook_url is not".to_owned());
        }
        Ok(())
    }
}

impl OwnSecret {
    const fn is_set(&self) -> bool {
        self.here.is_some() || self.file.is_some()
    }

    /// What it is.
    pub(super) fn read(
        &self,
        key: &str,
        target: &TargetName,
    ) -> Result<Option<SecretString>, ConfigError> {
        match (&self.here, &self.file) {
            (Some(here), _) => Ok(Some(here.clone())),
            (None, Some(file)) => read_file(key, target, file).map(Some),
            (None, None) => Ok(None),
        }
    }
}

fn read_file(key: &str, target: &TargetName, file: &Path) -> Result<SecretString, ConfigError> {
    first_line(&format!("{key}_file of target {target}"), file)
}

fn number(text: &str, max: u32) -> Result<u32, String> {
    let number = text.parse().ok();
    number
        .filter(|number| (1..=max).contains(number))
        .ok_or_else(|| format!("no whole number from 1 to {max}"))
}

fn by_kind<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| {
        "none: a number for all kinds, or others by kind, as 7,manual=30; days may be forever"
            .to_owned()
    })
}
