//! What runs unattended: when backups are due, and how long they are kept.

use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use clap::Args;

use super::ConfigError;
use crate::dispatch::Budget;
use crate::model::kind::BackupKind;
use crate::model::policy::{Policy, Rules};
use crate::schedule::{Schedule, ScheduleError, Zone};

/// What the original kept where nobody said anything.
const RETENTION_DAYS_DEFAULT: u32 = 30;
/// A hundred years: what is longer is a slip.
const DAYS_MAX: u32 = 36_525;
const DAY: Duration = Duration::from_hours(24);

const TIMEZONE: &str = "BACKUP_SCHEDULE_TIMEZONE";

/// The word for a schedule that is never due, where a target is to have none.
pub(super) const NEVER: &str = "never";

/// When backups are due, and when they are tried.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Schedule")]
pub struct ScheduleArgs {
    /// When backups are due, as a cron expression: 30 2 * * * is half past two every night [default: never]
    #[arg(long, env = "BACKUP_SCHEDULE", value_name = "CRON")]
    schedule: Option<String>,
    /// The time zone of the schedules, with its summer time: an IANA name
    #[arg(
        long,
        env = "BACKUP_SCHEDULE_TIMEZONE",
        value_name = "ZONE",
        default_value = "UTC"
    )]
    schedule_timezone: String,
    /// A backup that is not complete so many minutes after it was due is overdue
    #[arg(long, env = "BACKUP_OVERDUE_MINUTES", value_name = "MINUTES", default_value_t = 120, value_parser = minutes(), hide_short_help = true)]
    overdue_minutes: u32,
    /// When a backup is restored for trial, as a cron expression: 0 4 * * SUN is every Sunday at four [default: never]
    #[arg(
        long,
        env = "BACKUP_DRILL_SCHEDULE",
        value_name = "CRON",
        hide_short_help = true
    )]
    drill_schedule: Option<String>,
    /// What drills may fetch in a calendar month, all targets together: 50GB, 512MiB [default: anything]
    #[arg(
        long,
        env = "BACKUP_DRILL_MONTHLY_BYTES",
        value_name = "SIZE",
        hide_short_help = true
    )]
    drill_monthly_bytes: Option<ByteSize>,
    /// A target whose last proof is older is overdue [default: once two slots of its drill schedule have passed]
    #[arg(long, env = "BACKUP_PROOF_MAX_AGE_DAYS", value_name = "DAYS", value_parser = days(), hide_short_help = true)]
    proof_max_age_days: Option<u32>,
}

fn minutes() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=43_200)
}

fn days() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=i64::from(DAYS_MAX))
}

/// What a target's own schedule settings say; the rest is as the service's.
#[derive(Clone, Debug, Default)]
pub(super) struct OwnSchedule {
    pub(super) schedule: Option<String>,
    pub(super) timezone: Option<String>,
    pub(super) overdue_minutes: Option<u32>,
    pub(super) drill_schedule: Option<String>,
    pub(super) proof_max_age_days: Option<u32>,
}

/// When a target's backups are due.
#[derive(Clone, Debug)]
pub enum Due {
    /// Nobody said anything.
    Unsaid,
    /// Never.
    Never,
    /// By this schedule.
    By(Schedule),
}

impl Due {
    /// The schedule, if there is one.
    #[must_use]
    pub fn schedule(self) -> Option<Schedule> {
        match self {
            Self::By(schedule) => Some(schedule),
            Self::Unsaid | Self::Never => None,
        }
    }
}

impl ScheduleArgs {
    /// The same, with what a target has of its own.
    pub(super) fn with(&self, own: &OwnSchedule) -> Self {
        let or = |own: &Option<String>, all: &Option<String>| own.clone().or_else(|| all.clone());
        Self {
            schedule: or(&own.schedule, &self.schedule),
            schedule_timezone: own
                .timezone
                .clone()
                .unwrap_or_else(|| self.schedule_timezone.clone()),
            overdue_minutes: own.overdue_minutes.unwrap_or(self.overdue_minutes),
            drill_schedule: or(&own.drill_schedule, &self.drill_schedule),
            drill_monthly_bytes: self.drill_monthly_bytes,
            proof_max_age_days: own.proof_max_age_days.or(self.proof_max_age_days),
        }
    }

    /// When backups are due.
    ///
    /// # Errors
    /// It is no cron expression, or the time zone is none.
    pub fn due(&self) -> Result<Due, ConfigError> {
        self.parse(self.schedule.as_deref(), "BACKUP_SCHEDULE")
    }

    /// When they are tried.
    ///
    /// # Errors
    /// As [`ScheduleArgs::due`].
    pub fn drills_due(&self) -> Result<Due, ConfigError> {
        self.parse(self.drill_schedule.as_deref(), "BACKUP_DRILL_SCHEDULE")
    }

    fn parse(&self, expression: Option<&str>, setting: &'static str) -> Result<Due, ConfigError> {
        let Some(expression) = expression else {
            return Ok(Due::Unsaid);
        };
        let due = due(expression, &self.schedule_timezone);
        due.map_err(|source| ConfigError::Schedule {
            setting: match source {
                ScheduleError::Zone(..) => TIMEZONE,
                _ => setting,
            },
            source,
        })
    }

    /// What drills may fetch in a month.
    ///
    /// # Errors
    /// The time zone is none.
    pub fn budget(&self) -> Result<Option<Budget>, ConfigError> {
        let Some(ByteSize(bytes)) = self.drill_monthly_bytes else {
            return Ok(None);
        };
        let zone =
            Zone::parse(&self.schedule_timezone).map_err(|source| ConfigError::Schedule {
                setting: TIMEZONE,
                source,
            })?;
        Ok(Some(Budget { bytes, zone }))
    }

    /// How old the last proof may be, where somebody says so.
    #[must_use]
    pub fn proof_age_max(&self) -> Option<Duration> {
        self.proof_max_age_days.map(|days| DAY * days)
    }

    /// How long after it was due a backup is overdue.
    #[must_use]
    pub const fn overdue_after(&self) -> Duration {
        Duration::from_secs(self.overdue_minutes as u64 * 60)
    }
}

/// Reads a schedule, or the word for none.
pub(super) fn due(expression: &str, zone: &str) -> Result<Due, ScheduleError> {
    if expression == NEVER {
        return Ok(Due::Never);
    }
    Schedule::parse(expression, zone).map(Due::By)
}

/// How long backups are kept. Each takes a number for all kinds, and others by kind: 7, or 7,manual=30, or manual=30.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Retention")]
pub struct RetentionArgs {
    /// Backups that are older go; or forever [default: 30 where no other rule is set]
    #[arg(long, env = "BACKUP_RETENTION_DAYS", value_name = "DAYS")]
    pub(super) retention_days: Option<ByKind<Days>>,
    /// So many of the newest stay
    #[arg(long, env = "BACKUP_KEEP_LAST", value_name = "N")]
    pub(super) keep_last: Option<ByKind<u32>>,
    /// The newest of each day stays, for so many days that have one
    #[arg(long, env = "BACKUP_KEEP_DAILY", value_name = "N")]
    pub(super) keep_daily: Option<ByKind<u32>>,
    /// The newest of each week stays, for so many weeks
    #[arg(long, env = "BACKUP_KEEP_WEEKLY", value_name = "N")]
    pub(super) keep_weekly: Option<ByKind<u32>>,
    /// The newest of each month stays, for so many months
    #[arg(long, env = "BACKUP_KEEP_MONTHLY", value_name = "N")]
    pub(super) keep_monthly: Option<ByKind<u32>>,
    /// The newest of each year stays, for so many years
    #[arg(long, env = "BACKUP_KEEP_YEARLY", value_name = "N")]
    pub(super) keep_yearly: Option<ByKind<u32>>,
    /// Those of so many days before the newest one stay
    #[arg(long, env = "BACKUP_KEEP_WITHIN", value_name = "DAYS")]
    pub(super) keep_within: Option<ByKind<Days>>,
}

impl RetentionArgs {
    /// The same, with what a target has of its own.
    pub(super) fn with(&self, own: &Self) -> Self {
        fn or<T: Clone>(own: Option<&ByKind<T>>, service: Option<&ByKind<T>>) -> Option<ByKind<T>> {
            own.or(service).cloned()
        }
        Self {
            retention_days: or(own.retention_days.as_ref(), self.retention_days.as_ref()),
            keep_last: or(own.keep_last.as_ref(), self.keep_last.as_ref()),
            keep_daily: or(own.keep_daily.as_ref(), self.keep_daily.as_ref()),
            keep_weekly: or(own.keep_weekly.as_ref(), self.keep_weekly.as_ref()),
            keep_monthly: or(own.keep_monthly.as_ref(), self.keep_monthly.as_ref()),
            keep_yearly: or(own.keep_yearly.as_ref(), self.keep_yearly.as_ref()),
            keep_within: or(own.keep_within.as_ref(), self.keep_within.as_ref()),
        }
    }

    /// The rules of every kind.
    #[must_use]
    pub fn policy(&self) -> Policy {
        Policy {
            manual: self.rules(Some(BackupKind::Manual)),
            scheduled: self.rules(Some(BackupKind::Scheduled)),
            pre_restore: self.rules(Some(BackupKind::PreRestore)),
            foreign: self.rules(None),
        }
    }

    fn rules(&self, kind: Option<BackupKind>) -> Rules {
        let count = |by_kind: &Option<ByKind<u32>>| of(by_kind.as_ref(), kind).unwrap_or(0);
        let days = of(self.retention_days.as_ref(), kind);
        let rules = Rules {
            age_max: None,
            within: of(self.keep_within.as_ref(), kind).and_then(Days::duration),
            last: count(&self.keep_last),
            daily: count(&self.keep_daily),
            weekly: count(&self.keep_weekly),
            monthly: count(&self.keep_monthly),
            yearly: count(&self.keep_yearly),
        };
        match days {
            // Whatever else is said: nothing goes.
            Some(Days(None)) => Rules::default(),
            Some(days) => Rules {
                age_max: days.duration(),
                ..rules
            },
            None if rules.keep_all() => Rules {
                age_max: Some(DAY * RETENTION_DAYS_DEFAULT),
                ..rules
            },
            None => rules,
        }
    }
}

/// Whether a command line has rules of retention, beside what the environment says.
#[must_use]
pub fn are_rules_typed(matches: &clap::ArgMatches) -> bool {
    let arguments = RetentionArgs::augment_args(clap::Command::default());
    let ids: Vec<_> = arguments.get_arguments().map(clap::Arg::get_id).collect();
    let typed = Some(clap::parser::ValueSource::CommandLine);
    ids.iter()
        .any(|id| matches.value_source(id.as_str()) == typed)
}

/// A number of days, or `forever`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Days(Option<u32>);

impl Days {
    fn duration(self) -> Option<Duration> {
        self.0.map(|days| DAY * days)
    }
}

impl FromStr for Days {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "forever" {
            return Ok(Self(None));
        }
        let days = text
            .parse()
            .ok()
            .filter(|days| (1..=DAYS_MAX).contains(days));
        let days =
            days.ok_or_else(|| format!("a number of days from 1 to {DAYS_MAX}, or forever"))?;
        Ok(Self(Some(days)))
    }
}

/// A value for all kinds, and those of single kinds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ByKind<T> {
    all: Option<T>,
    of: Vec<(BackupKind, T)>,
}

/// What is said for a kind; foreign objects have none.
fn of<T: Copy>(by_kind: Option<&ByKind<T>>, kind: Option<BackupKind>) -> Option<T> {
    let by_kind = by_kind?;
    let named = by_kind.of.iter().find(|(named, _)| Some(*named) == kind);
    named.map(|(_, value)| *value).or(by_kind.all)
}

impl<T: FromStr> FromStr for ByKind<T>
where
    T::Err: ToString,
{
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let value = |text: &str| text.trim().parse::<T>().map_err(|error| error.to_string());
        let mut by_kind = Self {
            all: None,
            of: Vec::new(),
        };
        for part in text.split(',') {
            match part.split_once('=') {
                None if by_kind.all.is_some() => {
                    return Err("one number for all kinds, and KIND=NUMBER for others".to_owned());
                }
                None => by_kind.all = Some(value(part)?),
                Some((kind, number)) => {
                    let known = BackupKind::ALL
                        .into_iter()
                        .find(|known| known.as_str() == kind.trim());
                    let known = known.ok_or_else(|| {
                        format!("{kind:?} is none of manual, scheduled, pre_restore")
                    })?;
                    by_kind.of.push((known, value(number)?));
                }
            }
        }
        Ok(by_kind)
    }
}

#[cfg(test)]
mod tests {
    use clap::{FromArgMatches as _, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        retention: RetentionArgs,
    }

    fn policy(arguments: &[&str]) -> Policy {
        let line = ["line"].iter().chain(arguments);
        let command = <Line as clap::CommandFactory>::command();
        // Not what the machine's variables say.
        let command = command.mut_args(|argument| argument.env(None));
        let matches = command.get_matches_from(line);
        Line::from_arg_matches(&matches).unwrap().retention.policy()
    }

    #[test]
    fn thirty_days_are_kept_where_nobody_says_anything() {
        let thirty = Rules {
            age_max: Some(DAY * 30),
            ..Rules::default()
        };
        let all = Policy {
            manual: thirty,
            scheduled: thirty,
            pre_restore: thirty,
            foreign: thirty,
        };
        assert_eq!(policy(&[]), all);
        let seven = Rules {
            last: 7,
            ..Rules::default()
        };
        let scheduled = policy(&["--keep-last", "scheduled=7"]);
        assert_eq!(
            scheduled,
            Policy {
                scheduled: seven,
                ..all
            }
        );
    }

    #[test]
    fn each_kind_has_rules_of_its_own() {
        let policy = policy(&[
            "--retention-days",
            "60,manual=forever",
            "--keep-daily",
            "7,manual=3,pre_restore=1",
        ]);
        assert_eq!(policy.manual, Rules::default());
        assert_eq!(
            policy.scheduled,
            Rules {
                age_max: Some(DAY * 60),
                daily: 7,
                ..Rules::default()
            }
        );
        assert_eq!(policy.pre_restore.daily, 1);
        assert_eq!(policy.foreign, policy.scheduled);
    }

    #[test]
    fn slips_are_refused() {
        for wrong in ["", "0", "-1", "99999", "x", "7,8", "nightly=3", "manual="] {
            assert!(
                wrong.parse::<ByKind<Days>>().is_err(),
                "{wrong:?} was taken"
            );
        }
    }
}
