//! Times and lifetimes as rq writes them. Its readers take nothing else, and end where they find it.

use std::fmt;

use time::format_description::StaticFormatDescription;
use time::macros::format_description;
use time::{Duration, OffsetDateTime, PrimitiveDateTime};

/// A second of a date; its fraction has exactly six digits, which Python's `%f` needs.
const SECOND: StaticFormatDescription =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]");
/// Python knows microseconds.
const FRACTION_DIGITS_MAX: usize = 6;
const NANOSECONDS_IN_MICROSECOND: u32 = 1000;

/// A job may wait and run so long, in rq's defaults.
pub const TIMEOUT_DEFAULT: Lifetime = Lifetime::Seconds(180);
/// How long the result of a job without `result_ttl` is kept.
pub const RESULT_TTL_DEFAULT: Lifetime = Lifetime::Seconds(500);
/// How long a failed job without `failure_ttl` is kept: a year.
pub const FAILURE_TTL_DEFAULT: Lifetime = Lifetime::Seconds(365 * 24 * 60 * 60);

/// A date as it stands in hashes: `2026-11-23T22:21:26.535286Z`.
#[must_use]
pub fn date(at: OffsetDateTime) -> String {
    let utc = at.to_offset(time::UtcOffset::UTC);
    let second = utc
        .format(SECOND)
        .expect("the parts of a date always format");
    format!("{second}.{:06}Z", utc.microsecond())
}

/// Reads a date, with at most six digits of a fraction, as rq does.
#[must_use]
pub fn parse_date(text: &str) -> Option<OffsetDateTime> {
    let text = text.strip_suffix('Z')?;
    let (second, microsecond) = match text.split_once('.') {
        Some((second, fraction)) => (second, microseconds(fraction)?),
        None => (text, 0),
    };
    let second = PrimitiveDateTime::parse(second, SECOND).ok()?.assume_utc();
    second
        .replace_nanosecond(microsecond * NANOSECONDS_IN_MICROSECOND)
        .ok()
}

/// Unix seconds as executions have them: `1795472527.475878`.
#[must_use]
pub fn seconds(at: OffsetDateTime) -> String {
    format!("{}.{:06}", at.unix_timestamp(), at.microsecond())
}

/// Reads Unix seconds; digits beyond microseconds are dropped.
#[must_use]
pub fn parse_seconds(text: &str) -> Option<OffsetDateTime> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let fraction = fraction.get(..FRACTION_DIGITS_MAX).unwrap_or(fraction);
    if !whole.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let at = OffsetDateTime::from_unix_timestamp(whole.parse().ok()?).ok()?;
    at.checked_add(Duration::microseconds(microseconds(fraction)?.into()))
}

/// The digits behind a point, one to six of them.
fn microseconds(fraction: &str) -> Option<u32> {
    let digits = fraction.bytes().all(|byte| byte.is_ascii_digit());
    if !digits || fraction.is_empty() || fraction.len() > FRACTION_DIGITS_MAX {
        return None;
    }
    format!("{fraction:0<6}").parse().ok()
}

/// How long something may run or is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// So many seconds; a result that is kept for none is not written at all.
    Seconds(u32),
    /// Without an end: `-1`.
    Forever,
}

impl Lifetime {
    /// Reads a whole number of seconds, or `-1`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "-1" => Some(Self::Forever),
            text => text.parse().ok().map(Self::Seconds),
        }
    }

    /// The score in a registry of what is kept so long from `now` on: Unix seconds, or `+inf`.
    #[must_use]
    pub fn score(self, now: OffsetDateTime) -> String {
        match self {
            Self::Seconds(seconds) => (now.unix_timestamp() + i64::from(seconds)).to_string(),
            Self::Forever => "+inf".to_owned(),
        }
    }
}

impl fmt::Display for Lifetime {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seconds(seconds) => fmt::Display::fmt(seconds, formatter),
            Self::Forever => formatter.pad("-1"),
        }
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn a_date_has_six_digits_and_utc() {
        let at = datetime!(2026-11-23 23:21:26.535286999 +01:00);
        assert_eq!(date(at), "2026-11-23T22:21:26.535286Z");
        assert_eq!(
            date(datetime!(2026-01-02 03:04:05 UTC)),
            "2026-01-02T03:04:05.000000Z"
        );
    }

    #[test]
    fn dates_with_up_to_six_digits_are_read() {
        let second = datetime!(2026-11-23 22:21:26 UTC);
        for (text, nanosecond) in [
            ("2026-11-23T22:21:26Z", 0),
            ("2026-11-23T22:21:26.5Z", 500_000_000),
            ("2026-11-23T22:21:26.535286Z", 535_286_000),
        ] {
            let expected = second.replace_nanosecond(nanosecond).unwrap();
            assert_eq!(parse_date(text), Some(expected), "{text}");
        }
        for bad in [
            "",
            "Z",
            "2026-11-23T22:21:26.535286123Z",
            "2026-11-23T22:21:26.535286+00:00",
            "2026-11-23T22:21:26.Z",
            "2026-11-23T22:21:26.-5Z",
            "2026-11-23 22:21:26Z",
            "2026-13-23T22:21:26Z",
            "2026-11-23T22:21:61Z",
            "now",
            "1795472527",
        ] {
            assert_eq!(parse_date(bad), None, "{bad}");
        }
    }

    #[test]
    fn executions_have_unix_seconds() {
        let at = datetime!(2026-11-23 22:22:07.475878 UTC);
        assert_eq!(seconds(at), format!("{}.475878", at.unix_timestamp()));
        assert_eq!(parse_seconds(&seconds(at)), Some(at));
        // Python prints a float as short as it can, or longer than microseconds.
        let half = datetime!(1970-01-01 00:00:01.5 UTC);
        assert_eq!(parse_seconds("1.5"), Some(half));
        assert_eq!(parse_seconds("1.5000001"), Some(half));
        assert_eq!(parse_seconds("1"), Some(datetime!(1970-01-01 00:00:01 UTC)));
        for bad in [
            "",
            ".5",
            "1.",
            "-1.5",
            "+1",
            "nan",
            "1e9",
            "99999999999999",
            "1.ä",
        ] {
            assert_eq!(parse_seconds(bad), None, "{bad}");
        }
    }

    #[test]
    fn lifetimes_are_whole_seconds_or_forever() {
        for (text, lifetime) in [
            ("180", TIMEOUT_DEFAULT),
            ("31536000", FAILURE_TTL_DEFAULT),
            ("0", Lifetime::Seconds(0)),
            ("-1", Lifetime::Forever),
        ] {
            assert_eq!(Lifetime::parse(text), Some(lifetime));
            assert_eq!(lifetime.to_string(), text);
        }
        for bad in ["", "180.0", "3m", "-2", "99999999999", "inf"] {
            assert_eq!(Lifetime::parse(bad), None, "{bad}");
        }
        let now = datetime!(1970-01-01 00:01:40.9 UTC);
        assert_eq!(RESULT_TTL_DEFAULT.score(now), "600");
        assert_eq!(Lifetime::Forever.score(now), "+inf");
    }
}
