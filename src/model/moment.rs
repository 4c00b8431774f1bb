//! A moment as a person reads it, wherever one stands in a text.

use time::macros::format_description;
use time::{OffsetDateTime, UtcOffset};

/// To the second, in UTC: `2026-11-27 06:19:00 UTC`.
#[must_use]
pub fn moment(moment: OffsetDateTime) -> String {
    let utc = moment.to_offset(UtcOffset::UTC);
    utc.format(format_description!(
        "[year]-[month]-[day] [hour]:[minute]:[second] UTC"
    ))
    .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_in_utc_without_fractions() {
        let at = time::macros::datetime!(2026-11-27 07:19:00.25 +01:00);
        assert_eq!(moment(at), "2026-11-27 06:19:00 UTC");
    }
}
