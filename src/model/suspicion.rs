//! Whether a backup that is whole may be one of the wrong database, or of one that was emptied.

use std::collections::{BTreeMap, BTreeSet};

use time::OffsetDateTime;

use super::counted::counted;
use super::ids::Uid;
use super::kind::BackupKind;
use super::manifest::Manifest;
use super::summary::Summary;

/// Databases with so few rows lose half of them every day.
const ROWS_MIN: u64 = 100;
/// An archive of that size is little more than its own list.
const BYTES_MIN: u64 = 64 << 10;

/// How large a database was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measure {
    /// Bytes of the archive.
    pub plain_bytes: u64,
    /// Tables whose data is in it.
    pub tables: u64,
    /// Their rows; `None` where they were not counted.
    pub rows: Option<u64>,
}

/// What backups can be compared with each other: the same target, database and left out tables.
pub type Comparable = (String, String, Vec<String>);

/// A backup among those of its store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measured {
    /// Which.
    pub uid: Uid,
    /// Why it was made.
    pub kind: BackupKind,
    /// What it can be compared with.
    pub of: Comparable,
    /// When.
    pub at: OffsetDateTime,
    /// How large it is.
    pub measure: Measure,
}

impl From<&Manifest> for Measured {
    fn from(manifest: &Manifest) -> Self {
        Self::from(&manifest.summary())
    }
}

impl From<&Summary> for Measured {
    fn from(summary: &Summary) -> Self {
        let (target, database) = (summary.target.clone(), summary.database.clone());
        Self {
            uid: summary.uid,
            kind: summary.kind,
            of: (target, database, summary.excluded_table_data.clone()),
            at: summary.started_at,
            measure: Measure {
                plain_bytes: summary.plain_bytes,
                tables: summary.table_count as u64,
                rows: summary.row_count,
            },
        }
    }
}

/// What is strange about a backup, beside the one before it: a fifth of the tables gone, or half of the rows or bytes.
#[must_use]
pub fn suspicion(now: &Measure, before: &Measure) -> Option<String> {
    if now.tables.saturating_mul(5) < before.tables.saturating_mul(4) {
        return Some(format!(
            "it has {}, the one before had {}",
            counted(now.tables, "table"),
            before.tables
        ));
    }
    let rows = now.rows.zip(before.rows);
    let rows = rows.filter(|(now, before)| *before >= ROWS_MIN && *now < before / 2);
    if let Some((now, before)) = rows {
        return Some(format!("it has {now} rows, the one before had {before}"));
    }
    let is_small = before.plain_bytes >= BYTES_MIN && now.plain_bytes < before.plain_bytes / 2;
    is_small.then(|| {
        format!(
            "its archive has {} bytes, the one before had {}",
            now.plain_bytes, before.plain_bytes
        )
    })
}

/// The suspicious ones among a store's backups, each with its reason. Each is compared with the one before it that was
/// not suspicious, so that a second small one does not make the first look right; somebody's word does.
#[must_use]
pub fn suspicious(backups: &[Measured], accepted: &BTreeSet<Uid>) -> BTreeMap<Uid, String> {
    let mut oldest_first: Vec<&Measured> = backups
        .iter()
        // A safety backup is of what is about to be replaced, which may be broken already.
        .filter(|backup| backup.kind != BackupKind::PreRestore)
        .collect();
    oldest_first.sort_by_key(|backup| (backup.at, backup.uid));
    let mut last_good: BTreeMap<&Comparable, Measure> = BTreeMap::new();
    let mut found = BTreeMap::new();
    for backup in oldest_first {
        let before = last_good.get(&backup.of);
        let strange = before.and_then(|before| suspicion(&backup.measure, before));
        match strange.filter(|_| !accepted.contains(&backup.uid)) {
            Some(reason) => {
                found.insert(backup.uid, reason);
            }
            None => {
                last_good.insert(&backup.of, backup.measure);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const BEFORE: Measure = Measure {
        plain_bytes: 1 << 30,
        tables: 10,
        rows: Some(1_000_000),
    };

    #[test]
    fn what_is_far_smaller_is_suspicious_and_what_changed_a_little_is_not() {
        let strange = |change: fn(&mut Measure)| {
            let mut now = BEFORE;
            change(&mut now);
            suspicion(&now, &BEFORE)
        };
        assert_eq!(strange(|_| {}), None);
        assert_eq!(strange(|now| now.tables = 8), None);
        assert_eq!(strange(|now| now.rows = Some(500_000)), None);
        assert_eq!(strange(|now| now.rows = None), None);
        assert!(strange(|now| now.tables = 7).unwrap().contains("7 tables"));
        assert!(
            strange(|now| now.rows = Some(499_999))
                .unwrap()
                .contains("499999 rows")
        );
        assert!(
            strange(|now| now.plain_bytes = 1 << 28)
                .unwrap()
                .contains("bytes")
        );
        assert!(strange(|now| now.tables = 0).is_some());
        let grown = Measure {
            tables: 500,
            rows: Some(9_000_000_000),
            plain_bytes: 1 << 50,
        };
        assert_eq!(suspicion(&grown, &BEFORE), None);
    }

    /// Row 134: a second backup of an emptied database vouches for nothing; somebody's word does.
    #[test]
    fn small_ones_stay_suspicious_until_somebody_accepts_one() {
        let at = datetime!(2026-05-01 02:00 UTC);
        let backup = |day: i64, tables: u64, kind| Measured {
            uid: Uid::new(at + time::Duration::days(day)),
            kind,
            of: ("default".to_owned(), "shop".to_owned(), Vec::new()),
            at: at + time::Duration::days(day),
            measure: Measure { tables, ..BEFORE },
        };
        let scheduled = |day, tables| backup(day, tables, BackupKind::Scheduled);
        let backups = [
            scheduled(3, 1),
            scheduled(0, 10),
            backup(1, 0, BackupKind::PreRestore),
            scheduled(2, 1),
            scheduled(4, 10),
        ];
        let found = suspicious(&backups, &BTreeSet::new());
        let of = |backup: &Measured| found.contains_key(&backup.uid);
        assert_eq!(
            backups.each_ref().map(of),
            [true, false, false, true, false]
        );
        let accepted = BTreeSet::from([backups[3].uid]);
        assert!(suspicious(&backups, &accepted).is_empty());
    }
}
