//! How long backups are kept: what an operator says, for each kind.

use std::fmt;
use std::time::Duration;

use super::kind::BackupKind;

/// The rules of one kind's backups. One that any of them keeps is kept; where there is none, all are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// What is older goes; counted from now.
    pub age_max: Option<Duration>,
    /// Those of so long before the newest one stay; counted from that, so that a pause deletes nothing.
    pub within: Option<Duration>,
    /// So many of the newest stay.
    pub last: u32,
    /// The newest of each of so many days that have one; days, weeks, months and years are those of UTC.
    pub daily: u32,
    /// The newest of each of so many weeks, from Monday on.
    pub weekly: u32,
    /// The newest of each of so many months.
    pub monthly: u32,
    /// The newest of each of so many years.
    pub yearly: u32,
}

impl Rules {
    /// Whether nothing is ever to go.
    #[must_use]
    pub fn keep_all(&self) -> bool {
        *self == Self::default()
    }
}

/// The rules of every kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Of those that somebody asked for.
    pub manual: Rules,
    /// Of those that a timer asked for.
    pub scheduled: Rules,
    /// Of safety backups, once they are released.
    pub pre_restore: Rules,
    /// Of objects that somebody else put into the store; only their age counts.
    pub foreign: Rules,
}

impl Policy {
    /// The rules of one kind.
    #[must_use]
    pub const fn of(&self, kind: BackupKind) -> &Rules {
        match kind {
            BackupKind::Manual => &self.manual,
            BackupKind::Scheduled => &self.scheduled,
            BackupKind::PreRestore => &self.pre_restore,
        }
    }
}

impl fmt::Display for Rules {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.keep_all() {
            return formatter.write_str("all");
        }
        let days = |duration: Duration| duration.as_secs() / (24 * 60 * 60);
        let mut words = Vec::new();
        words.extend(self.age_max.map(|age| format!("{} days", days(age))));
        words.extend(
            self.within
                .map(|within| format!("within {} days", days(within))),
        );
        let counted = [
            ("last", self.last),
            ("daily", self.daily),
            ("weekly", self.weekly),
            ("monthly", self.monthly),
            ("yearly", self.yearly),
        ];
        let counted = counted.iter().filter(|(_, number)| *number > 0);
        words.extend(counted.map(|(word, number)| format!("{number} {word}")));
        formatter.write_str(&words.join(", "))
    }
}
