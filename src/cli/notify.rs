//! `pgseal notify`.

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use futures_util::future::join_all;
use serde::Serialize;
use time::OffsetDateTime;

use super::Context;
use super::exit::{ChannelsFailed, UsageError};
use super::output::{counted, moment, table};
use crate::catalog::{Catalog, Undelivered};
use crate::config::{self, ConfigError, NotifyArgs};
use crate::model::event::{Event, EventKind, Facts};
use crate::model::explanation::explain;
use crate::model::ids::Uid;
use crate::model::target::{TARGET_DEFAULT, TargetName};
use crate::notify::{Channel, Notifier};

const TEST_HELP: &str = "\
Examples:
  pgseal notify test
  pgseal notify test --channel email

Channels are set by BACKUP_SMTP_URL (with BACKUP_NOTIFY_FROM and BACKUP_NOTIFY_TO), BACKUP_NOTIFY_WEBHOOK_URL (with \
BACKUP_NOTIFY_WEBHOOK_SECRET), BACKUP_NOTIFY_SLACK_URL and BACKUP_PING_URL. A dead man's switch gets the test as a line of \
its log, which counts as no backup. Exit code 1: a channel did not take it; 5: none is set.";

const LIST_HELP: &str = "\
What waits is tried again, later each time, and given up after three days. Events are remembered for 90 days.";

/// The list is for people: whoever has more than this has one cause for all of them.
const LIST_MAX: u32 = 100;

/// Try the channels for notifications, and see what they did not take
#[derive(Args, Debug)]
pub(super) struct NotifyCommandArgs {
    #[command(subcommand)]
    command: NotifyCommand,
}

#[derive(Debug, Subcommand)]
enum NotifyCommand {
    /// Send a test through every channel, and say what came of it
    #[command(after_help = TEST_HELP)]
    Test(Box<TestArgs>),
    /// List the service's notifications that wait or were given up, newest first
    #[command(after_help = LIST_HELP)]
    List,
}

#[derive(Args, Debug)]
struct TestArgs {
    /// Only this channel; may be repeated
    #[arg(long = "channel", value_name = "CHANNEL", value_parser = PossibleValuesParser::new(Channel::NAMES))]
    channels: Vec<String>,
    #[command(flatten)]
    notify: NotifyArgs,
}

/// What came of a test.
#[derive(Serialize)]
struct Tested {
    channel: String,
    /// Of which target the test was.
    target: String,
    to: String,
    event_id: String,
    error: Option<String>,
}

/// A line of the list.
#[derive(Serialize)]
struct Line {
    event_id: String,
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
    event: String,
    target: String,
    channel: String,
    state: String,
    attempts: u32,
    #[serde(with = "time::serde::rfc3339::option")]
    next_at: Option<OffsetDateTime>,
    error: Option<String>,
}

impl NotifyCommandArgs {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<()> {
        match self.command {
            NotifyCommand::Test(arguments) => arguments.run(context).await,
            NotifyCommand::List => list(context).await,
        }
    }
}

impl TestArgs {
    async fn run(self, context: &Context) -> anyhow::Result<()> {
        let targets = context.settings.targets()?;
        let notifier = self.notify.notifier(&targets)?;
        let is_wanted = |channel: &Channel| {
            self.channels.is_empty() || self.channels.iter().any(|name| name == channel.name())
        };
        let channels: Vec<(String, &Channel)> = notifier.named().collect();
        if channels.is_empty() {
            return Err(ConfigError::Notify(
                "no channel is set\nhint: pgseal notify test --help names the settings".to_owned(),
            )
            .into());
        }
        let channels: Vec<_> = channels
            .into_iter()
            .filter(|(_, channel)| is_wanted(channel))
            .collect();
        for name in &self.channels {
            if !channels.iter().any(|(_, channel)| channel.name() == name) {
                return Err(UsageError(format!("the channel {name} is not set")).into());
            }
        }
        let now = (context.clock)();
        let trials = trials(&notifier, channels, &targets.names(), now);
        let tested = join_all(trials.into_iter().map(async |(name, event, channel)| {
            Tested {
                channel: name,
                target: event.target.clone(),
                to: channel.describe(),
                event_id: event.id.to_string(),
                error: channel
                    .send(&event, now)
                    .await
                    .err()
                    .map(|error| explain(&error)),
            }
        }))
        .await;
        context.output.print(&tested, || {
            tested
                .iter()
                .map(Tested::text)
                .collect::<Vec<_>>()
                .join("\n")
        })?;
        match tested
            .iter()
            .filter(|tested| tested.error.is_some())
            .count()
        {
            0 => Ok(()),
            failed => Err(ChannelsFailed(failed).into()),
        }
    }
}

/// The tests of channels, all of one event's id: a target's own channel, and a switch that each target has, are tried with an
/// event of that target.
fn trials<'a>(
    notifier: &Notifier,
    channels: Vec<(String, &'a Channel)>,
    targets: &[TargetName],
    now: OffsetDateTime,
) -> Vec<(String, Event, &'a Channel)> {
    let id = Uid::new(now);
    let of = |target: &str| Event {
        id,
        at: now,
        kind: EventKind::Test,
        target: target.to_owned(),
        facts: Facts::default(),
    };
    let mut trials = Vec::new();
    for (name, channel) in channels {
        if let Some((_, target)) = name.split_once(':') {
            let event = of(target);
            trials.push((name, event, channel));
        } else if channel.is_for_each_target() {
            let has_own = |target: &&TargetName| {
                let mut own = notifier.own.iter();
                own.any(|own| own.target == target.as_str() && own.channel.name() == name)
            };
            let without = targets.iter().filter(|target| !has_own(target));
            trials.extend(without.map(|target| (name.clone(), of(target.as_str()), channel)));
        } else {
            trials.push((name, of(TARGET_DEFAULT), channel));
        }
    }
    trials
}

impl Tested {
    fn text(&self) -> String {
        let (word, why) = match &self.error {
            None => ("sent", String::new()),
            Some(error) => (
                "FAILED",
                format!("\n{:9}{}", "", error.replace('\n', "\n         ")),
            ),
        };
        let of = match self.target.as_str() {
            TARGET_DEFAULT => String::new(),
            _ if self.channel.contains(':') => String::new(),
            target => format!(" of {target}"),
        };
        format!("{word:7}  {}{of}: {}{why}", self.channel, self.to)
    }
}

async fn list(context: &Context) -> anyhow::Result<()> {
    let (connection, _) = config::catalog_address()?;
    let catalog = Catalog::open(&connection).await?;
    let lines: Vec<Line> = catalog
        .undelivered(LIST_MAX)
        .await?
        .into_iter()
        .map(Line::from)
        .collect();
    context.output.print(&lines, || {
        if lines.is_empty() {
            return "Every notification was sent".to_owned();
        }
        let header = ["AT", "EVENT", "TARGET", "CHANNEL", "STATE", "TRIES"];
        let mut text = table(header, lines.iter().map(Line::cells), 5);
        for line in &lines {
            if let Some(error) = &line.error {
                let (event, channel) = (&line.event, &line.channel);
                text += &format!("\n{event} by {channel}: {error}");
            }
        }
        text + &format!("\n{} not sent", counted(lines.len() as u64, "notification"))
    })
}

impl Line {
    fn cells(&self) -> [String; 6] {
        let state = match self.next_at {
            Some(at) => format!("{} until {}", self.state, moment(at)),
            None => self.state.clone(),
        };
        [
            moment(self.at),
            self.event.clone(),
            self.target.clone(),
            self.channel.clone(),
            state,
            self.attempts.to_string(),
        ]
    }
}

impl From<Undelivered> for Line {
    fn from(row: Undelivered) -> Self {
        Self {
            event_id: row.event_id.to_string(),
            at: row.at,
            event: row.kind,
            target: row.target,
            channel: row.channel,
            state: row.status,
            attempts: row.attempts,
            next_at: row.next_at,
            error: row.error,
        }
    }
}
