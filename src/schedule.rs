//! When something is due: a cron expression, in a time zone with its own summer time.
//!
//! A slot is a moment that the expression names. Which zone a machine is in does not matter, nor does its clock: whoever
//! asks says what time it is. Around a change of the clocks it is as Vixie cron does it: what names a time of day runs once
//! a day, also on the day that has this time twice or not at all, and what repeats goes on repeating.

use std::fmt;
use std::time::Duration;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use time::OffsetDateTime;

/// When something is due.
#[derive(Clone, Debug)]
pub struct Schedule {
    expression: String,
    zone: String,
    cron: Cron,
    rules: TimeZone,
}

/// Why a schedule cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ScheduleError {
    /// It is no cron expression.
    #[error(
        "{0:?} is no schedule\nhint: minute, hour, day of the month, month, day of the week, as 30 2 * * * for half past two every night"
    )]
    Expression(String, #[source] croner::errors::CronError),
    /// It names no moment at all, as the 30th of February.
    #[error("the schedule {0:?} is never due")]
    Never(String),
    /// Nobody knows such a time zone.
    #[error("{0:?} is no time zone\nhint: an IANA name, as Europe/Berlin or UTC")]
    Zone(String, #[source] jiff::Error),
}

/// A time zone, for its calendar.
#[derive(Clone, Debug)]
pub struct Zone(TimeZone);

/// How late a schedule is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overdue {
    /// The newest slot whose time to be done has passed.
    pub slot: OffsetDateTime,
    /// What was done last, if anything ever was.
    pub last: Option<OffsetDateTime>,
}

impl Schedule {
    /// Reads an expression of five fields, or one as `@daily`, and the name of a time zone.
    ///
    /// # Errors
    /// Either cannot be read, or nothing is ever due.
    pub fn parse(expression: &str, zone: &str) -> Result<Self, ScheduleError> {
        let parser = CronParser::builder()
            .seconds(Seconds::Disallowed)
            .year(Year::Disallowed)
            .build();
        let cron = parser.parse(expression);
        let cron = cron.map_err(|error| ScheduleError::Expression(expression.to_owned(), error))?;
        let Zone(rules) = Zone::parse(zone)?;
        let schedule = Self {
            expression: expression.to_owned(),
            zone: zone.to_owned(),
            cron,
            rules,
        };
        // The 29th of February comes within eight years, what does not come then never does.
        match schedule.next_slot(OffsetDateTime::UNIX_EPOCH) {
            Some(_) => Ok(schedule),
            None => Err(ScheduleError::Never(expression.to_owned())),
        }
    }

    /// The newest slot that is not after `now`.
    #[must_use]
    pub fn last_slot(&self, now: OffsetDateTime) -> Option<OffsetDateTime> {
        let at = self.cron.find_previous_occurrence(&self.zoned(now)?, true);
        at.ok().and_then(|at| moment(&at))
    }

    /// The first slot after `now`.
    #[must_use]
    pub fn next_slot(&self, now: OffsetDateTime) -> Option<OffsetDateTime> {
        let at = self.cron.find_next_occurrence(&self.zoned(now)?, false);
        at.ok().and_then(|at| moment(&at))
    }

    /// Whether a slot passed without its work being done within `patience`. What began at `since` owes nothing before.
    #[must_use]
    pub fn overdue(
        &self,
        last: Option<OffsetDateTime>,
        since: Option<OffsetDateTime>,
        now: OffsetDateTime,
        patience: Duration,
    ) -> Option<Overdue> {
        let slot = self.last_slot(now - patience)?;
        // Before the first backup nobody can tell an old schedule from one of this minute, unless it was written down.
        let owed = last.or(since).is_some_and(|begun| begun < slot);
        let began = since.is_none_or(|since| since < slot);
        (owed && began).then_some(Overdue { slot, last })
    }

    /// The expression as it was given.
    #[must_use]
    pub fn expression(&self) -> &str {
        &self.expression
    }

    /// The time zone's name.
    #[must_use]
    pub fn zone(&self) -> &str {
        &self.zone
    }

    fn zoned(&self, at: OffsetDateTime) -> Option<Zoned> {
        // Slots are whole seconds, and a fraction of one must not hide the slot that just came.
        let at = Timestamp::from_second(at.unix_timestamp()).ok()?;
        Some(at.to_zoned(self.rules.clone()))
    }
}

impl Zone {
    /// Reads an IANA name.
    ///
    /// # Errors
    /// Nobody knows such a time zone.
    pub fn parse(name: &str) -> Result<Self, ScheduleError> {
        let rules = TimeZone::get(name);
        rules
            .map(Self)
            .map_err(|error| ScheduleError::Zone(name.to_owned(), error))
    }

    /// When the month began that a moment is in.
    #[must_use]
    pub fn month_start(&self, now: OffsetDateTime) -> OffsetDateTime {
        let start = || {
            let at = Timestamp::from_second(now.unix_timestamp()).ok()?;
            let first = at.to_zoned(self.0.clone()).first_of_month().ok()?;
            moment(&first.start_of_day().ok()?)
        };
        // Of a year that no calendar has: then everything counts.
        start().unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ({})", self.expression, self.zone)
    }
}

fn moment(at: &Zoned) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(at.timestamp().as_second()).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;

    fn slots(schedule: &Schedule, from: OffsetDateTime, count: usize) -> Vec<OffsetDateTime> {
        let next = |at: &OffsetDateTime| schedule.next_slot(*at);
        std::iter::successors(schedule.next_slot(from), next)
            .take(count)
            .collect()
    }

    /// Row 50: neither left out nor twice. In Berlin 02:30 is not there on 2026-03-29, and there twice on 2026-10-25.
    #[test]
    fn a_time_of_day_comes_once_a_day_when_the_clocks_change() {
        let nightly = Schedule::parse("30 2 * * *", "Europe/Berlin").unwrap();
        let spring = slots(&nightly, datetime!(2026-03-27 12:00 UTC), 3);
        assert_eq!(
            spring,
            [
                datetime!(2026-03-28 01:30 UTC),
                // The clocks go from 02:00 to 03:00, which is 01:00 UTC: at once afterwards.
                datetime!(2026-03-29 01:00 UTC),
                datetime!(2026-03-30 00:30 UTC),
            ]
        );
        let autumn = slots(&nightly, datetime!(2026-10-23 12:00 UTC), 3);
        assert_eq!(
            autumn,
            [
                datetime!(2026-10-24 00:30 UTC),
                datetime!(2026-10-25 00:30 UTC),
                datetime!(2026-10-26 01:30 UTC),
            ]
        );
    }

    #[test]
    fn what_repeats_goes_on_when_the_clocks_change() {
        let hourly = Schedule::parse("0 * * * *", "Europe/Berlin").unwrap();
        for day in [
            datetime!(2026-03-28 20:30 UTC),
            datetime!(2026-10-24 20:30 UTC),
        ] {
            let found = slots(&hourly, day, 10);
            let apart = found.windows(2).map(|two| two[1] - two[0]);
            assert!(
                apart.into_iter().all(|apart| apart == time::Duration::HOUR),
                "{found:?}"
            );
        }
    }

    #[test]
    fn a_month_begins_by_its_zone_s_calendar() {
        let start = |zone: &str, now| Zone::parse(zone).unwrap().month_start(now);
        // In Berlin it is March already.
        let now = datetime!(2026-02-28 23:30 UTC);
        assert_eq!(start("Europe/Berlin", now), datetime!(2026-02-28 23:00 UTC));
        assert_eq!(start("UTC", now), datetime!(2026-02-01 00:00 UTC));
        // The clocks changed since.
        let now = datetime!(2026-03-31 12:00 UTC);
        assert_eq!(start("Europe/Berlin", now), datetime!(2026-02-28 23:00 UTC));
    }

    #[test]
    fn what_is_no_schedule_is_refused() {
        for wrong in [
            "",
            "x",
            "0 0 * *",
            "0 0 0 * * *",
            "61 * * * *",
            "0 0 30 2 *",
        ] {
            assert!(
                Schedule::parse(wrong, "UTC").is_err(),
                "{wrong:?} was taken"
            );
        }
        assert!(Schedule::parse("@daily", "UTC").is_ok());
        assert!(Schedule::parse("@daily", "Europe/Atlantis").is_err());
        assert!(Schedule::parse("0 0 29 2 *", "UTC").is_ok());
    }

    /// Row 136, the arithmetic of it.
    #[test]
    fn a_slot_without_its_work_is_overdue_once_patience_is_over() {
        let nightly = Schedule::parse("0 2 * * *", "UTC").unwrap();
        let hour = Duration::from_secs(3600);
        let late = |last, since, now| nightly.overdue(last, since, now, hour);
        let (yesterday, today) = (
            datetime!(2026-05-01 02:04 UTC),
            datetime!(2026-05-02 02:00 UTC),
        );
        assert_eq!(
            late(Some(yesterday), None, datetime!(2026-05-02 02:59 UTC)),
            None
        );
        let overdue = Overdue {
            slot: today,
            last: Some(yesterday),
        };
        assert_eq!(
            late(Some(yesterday), None, datetime!(2026-05-02 03:01 UTC)),
            Some(overdue)
        );
        // Done, although late.
        assert_eq!(
            late(
                Some(datetime!(2026-05-02 02:50 UTC)),
                None,
                datetime!(2026-05-02 03:01 UTC)
            ),
            None
        );
        // A schedule of this minute owes nothing; one that never did anything since yesterday does.
        assert_eq!(late(None, None, datetime!(2026-05-02 03:01 UTC)), None);
        assert_eq!(
            late(
                None,
                Some(datetime!(2026-05-02 02:30 UTC)),
                datetime!(2026-05-02 03:01 UTC)
            ),
            None
        );
        assert!(late(None, Some(yesterday), datetime!(2026-05-02 03:01 UTC)).is_some());
        // One that was set up this noon does not miss the night before.
        assert_eq!(
            late(
                Some(yesterday),
                Some(datetime!(2026-05-02 12:00 UTC)),
                datetime!(2026-05-02 12:01 UTC)
            ),
            None
        );
    }

    proptest! {
        /// Backward and forward are one line: whatever is due last was due next at its time, and nothing lies between.
        #[test]
        fn no_slot_is_missed_or_made_up(
            minutes in 0_i64..2 * 366 * 24 * 60,
            expression in prop::sample::select(vec!["30 2 * * *", "*/7 * * * *", "15 1-3 * * *", "0 0 1 * *", "0 3 * * SUN"]),
            zone in prop::sample::select(vec!["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"]),
        ) {
            let schedule = Schedule::parse(expression, zone).unwrap();
            let now = datetime!(2026-01-01 00:00:30 UTC) + time::Duration::minutes(minutes);
            let last = schedule.last_slot(now).unwrap();
            let next = schedule.next_slot(now).unwrap();
            prop_assert!(last <= now && now < next);
            prop_assert_eq!(schedule.next_slot(last), Some(next), "from {}", last);
            prop_assert_eq!(schedule.last_slot(last), Some(last));
        }
    }
}
