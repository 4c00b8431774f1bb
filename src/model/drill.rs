//! Which backup is restored for trial next.

use time::OffsetDateTime;

/// A backup that could be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drillable {
    /// The sealed dump's key.
    pub key: String,
    /// When it was made.
    pub made_at: OffsetDateTime,
    /// When it was last proven, or found wanting.
    pub tried_at: Option<OffsetDateTime>,
    /// What fetching it costs, in bytes.
    pub sealed_bytes: u64,
}

/// Which one it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice<'a> {
    /// The newest one, which nobody has tried yet.
    Newest(&'a Drillable),
    /// Its turn has come: of all that are kept, nobody has tried it for longest.
    InTurn(&'a Drillable),
    /// There is none.
    NoBackup,
    /// Whatever could be tried costs more than what is left of this month's bytes.
    TooDear {
        /// What the cheapest of them costs.
        bytes: u64,
        /// What is left.
        left: u64,
    },
}

/// The backup to try next: the newest, unless it was tried; then in turn, those that were never tried before the others,
/// and the older before the newer. What does not fit into `bytes_left` gives way to the next one that does, so that one
/// large old backup does not end all trials.
#[must_use]
pub fn next<'a>(backups: &'a [Drillable], bytes_left: Option<u64>) -> Choice<'a> {
    let fits = |backup: &&'a Drillable| bytes_left.is_none_or(|left| backup.sealed_bytes <= left);
    let newest = backups
        .iter()
        .max_by_key(|backup| (backup.made_at, &backup.key));
    let Some(newest) = newest else {
        return Choice::NoBackup;
    };
    if newest.tried_at.is_none() && fits(&newest) {
        return Choice::Newest(newest);
    }
    let in_turn = backups
        .iter()
        .filter(fits)
        // `None` comes before every moment.
        .min_by_key(|backup| (backup.tried_at, backup.made_at, &backup.key));
    match (in_turn, bytes_left) {
        (Some(backup), _) => Choice::InTurn(backup),
        (None, left) => Choice::TooDear {
            bytes: backups
                .iter()
                .map(|backup| backup.sealed_bytes)
                .min()
                .unwrap_or(0),
            left: left.unwrap_or(u64::MAX),
        },
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const START: OffsetDateTime = datetime!(2026-05-01 02:00 UTC);

    fn days(count: i64) -> OffsetDateTime {
        START + time::Duration::days(count)
    }

    fn backup(day: i64, tried: Option<i64>, sealed_bytes: u64) -> Drillable {
        Drillable {
            key: format!("day-{day}"),
            made_at: days(day),
            tried_at: tried.map(days),
            sealed_bytes,
        }
    }

    #[test]
    fn the_newest_comes_first_and_then_everyone_in_turn() {
        let mut backups: Vec<_> = (0..5).map(|day| backup(day, None, 10)).collect();
        let mut order = Vec::new();
        for trial in 0..8 {
            // A new one comes between the trials, once.
            if trial == 3 {
                backups.push(backup(5, None, 10));
            }
            let key = match next(&backups, None) {
                Choice::Newest(backup) | Choice::InTurn(backup) => backup.key.clone(),
                other => panic!("{other:?}"),
            };
            let chosen = backups.iter_mut().find(|backup| backup.key == key);
            chosen.unwrap().tried_at = Some(days(10 + trial));
            order.push(key);
        }
        let expected = [4, 0, 1, 5, 2, 3, 4, 0].map(|day| format!("day-{day}"));
        assert_eq!(order, expected);
    }

    #[test]
    fn no_trial_costs_more_than_is_left() {
        let backups = [
            backup(0, None, 90),
            backup(1, Some(9), 20),
            backup(2, None, 50),
        ];
        assert_eq!(next(&backups, Some(100)), Choice::Newest(&backups[2]));
        assert_eq!(next(&backups, Some(40)), Choice::InTurn(&backups[1]));
        assert_eq!(
            next(&backups, Some(19)),
            Choice::TooDear {
                bytes: 20,
                left: 19
            }
        );
        assert_eq!(next(&[], Some(19)), Choice::NoBackup);
    }
}
