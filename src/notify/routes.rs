//! Which event goes where. Pure.

use super::{Channel, Notifier, OwnChannel, ping};
use crate::model::event::{Event, EventKind, Gravity};
use crate::model::kind::BackupKind;
use crate::model::target::TargetName;

/// Who hears of what went as it should.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Success {
    /// Programs: the webhook and the dead man's switch.
    #[default]
    Programs,
    /// Everybody.
    Everybody,
}

impl Notifier {
    /// The channels that an event is for, each with the name that deliveries have.
    pub fn channels_for(&self, event: &Event) -> impl Iterator<Item = (String, &Channel)> {
        let own = self.own.iter().filter(|own| own.target == event.target);
        let has_own = |channel: &&Channel| {
            let mut own = self.own.iter().filter(|own| own.target == event.target);
            !own.any(|own| own.channel.name() == channel.name())
        };
        let common = self.channels.iter().filter(has_own);
        let common = common.map(|channel| (channel.name().to_owned(), channel));
        common
            .chain(own.map(OwnChannel::named))
            .filter(|(_, channel)| is_for(channel, event, self.success))
    }

    /// Whether one switch hears of several targets: a backup of one would hide that another's is missing.
    #[must_use]
    pub fn shares_a_switch(&self, targets: &[TargetName]) -> bool {
        let is_ping = |channel: &Channel| matches!(channel, Channel::Ping(_));
        let is_common = |channel: &Channel| is_ping(channel) && !channel.is_for_each_target();
        let has_none_of_its_own = |target: &&TargetName| {
            let mut own = self.own.iter().filter(|own| is_ping(&own.channel));
            !own.any(|own| own.target == target.as_str())
        };
        let sharing = targets.iter().filter(has_none_of_its_own).count();
        sharing > 1 && self.channels.iter().any(is_common)
    }

    /// All channels, each with the name that deliveries have.
    pub fn named(&self) -> impl Iterator<Item = (String, &Channel)> {
        let common = self.channels.iter();
        common
            .map(|channel| (channel.name().to_owned(), channel))
            .chain(self.own.iter().map(OwnChannel::named))
    }
}

impl OwnChannel {
    fn named(&self) -> (String, &Channel) {
        let name = format!("{}:{}", self.channel.name(), self.target);
        (name, &self.channel)
    }
}

impl Channel {
    /// Whether an older event of the same target means nothing once there is a newer one: a switch has a state, and a
    /// failure that arrives late would undo the success after it.
    #[must_use]
    pub const fn has_state(&self) -> bool {
        matches!(self, Self::Ping(_))
    }
}

fn is_for(channel: &Channel, event: &Event, success: Success) -> bool {
    match channel {
        Channel::Ping(_) => {
            // What is made before a restore says nothing about the schedule.
            let made_before_a_restore =
                event.facts.backup_kind.as_deref() == Some(BackupKind::PreRestore.as_str());
            ping::ending(event.kind).is_some() && !made_before_a_restore
        }
        Channel::Webhook(_) => true,
        Channel::Email(_) | Channel::Slack(_) => match event.kind.gravity() {
            Gravity::Alarm | Gravity::Notice => true,
            Gravity::Routine => {
                // Whoever was told that backups fail hears when they do not any more.
                let is_wanted =
                    success == Success::Everybody || event.facts.recovered_from.is_some();
                is_wanted && event.kind == EventKind::BackupCompleted
            }
        },
    }
}
