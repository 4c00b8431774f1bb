//! Taking over the table of backups of the service that was there before.
//!
//! A CSV file with a header: `id, type, storage_key, checksum, size, created_at, status`, in any order, other columns
//! beside them. Objects keep their numbers; each one is fetched and its digest compared before anything is written.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use serde::Serialize;
use time::format_description::BorrowedFormatItem;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};

use super::{BackupAt, BadLine, ReconcileError, at};
use crate::catalog::{Catalog, Health, ImportedBackup, JobStatus};
use crate::model::digest::Sha256;
use crate::model::ids::BackupId;
use crate::model::kind::BackupKind;
use crate::model::object_key::ObjectKey;
use crate::vault::Vault;

const COLUMNS: [&str; 7] = [
    "id",
    "type",
    "storage_key",
    "checksum",
    "size",
    "created_at",
    "status",
];
/// The service that was there before had one database.
const TARGET: &str = "default";

/// What was taken over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// Lines that are backups.
    pub lines: u64,
    /// Those that are new to the catalog.
    pub new: u64,
    /// Complete backups whose object is what was recorded.
    pub whole: u64,
    /// Complete backups whose object is something else.
    pub corrupt: Vec<BackupAt>,
    /// Complete backups whose object is not there.
    pub lost: Vec<BackupAt>,
    /// Backups that were never complete.
    pub incomplete: u64,
}

/// Takes over what a CSV file lists: all of it or, after an error, nothing. A second run changes nothing.
///
/// # Errors
/// A line cannot be read, or names a number or an object that belongs to another backup; the store or the catalog fails.
pub async fn import(
    table: impl Read,
    vault: &Vault,
    catalog: &Catalog,
) -> Result<Imported, ReconcileError> {
    let mut backups = read(table)?;
    let mut imported = Imported {
        lines: backups.len() as u64,
        ..Imported::default()
    };
    for backup in &mut backups {
        if backup.status != JobStatus::Completed {
            imported.incomplete += 1;
            continue;
        }
        judge(backup, vault).await?;
        let named = || at(backup.id, backup.object_key.as_deref().unwrap_or_default());
        match backup.health {
            Health::Lost => imported.lost.push(named()),
            Health::Corrupt | Health::Altered => imported.corrupt.push(named()),
            Health::Ok | Health::Suspicious => imported.whole += 1,
        }
    }
    imported.new = catalog.import(&backups).await?;
    Ok(imported)
}

/// Fetches a backup's object and compares it with what was recorded.
async fn judge(backup: &mut ImportedBackup, vault: &Vault) -> Result<(), ReconcileError> {
    let key = backup.object_key.as_deref().map(ObjectKey::parse);
    let Some(Ok(key)) = key else {
        return Ok(());
    };
    let (health, reason) = match vault.digest_object(&key).await? {
        None => (
            Health::Lost,
            Some("its object was not in the store when it was taken over".to_owned()),
        ),
        Some((bytes, _)) if Some(bytes) != backup.sealed_bytes => (
            Health::Corrupt,
            Some(format!(
                "its object had {bytes} bytes when it was taken over"
            )),
        ),
        Some((_, digest)) if Some(digest) != backup.sealed_sha256 => (
            Health::Corrupt,
            Some(format!(
                "its object had the SHA-256 {digest} when it was taken over"
            )),
        ),
        Some(_) => (Health::Ok, None),
    };
    backup.health = health;
    backup.reason = reason;
    Ok(())
}

fn read(table: impl Read) -> Result<Vec<ImportedBackup>, BadLine> {
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .from_reader(table);
    let header = reader.headers().map_err(|error| malformed(&error))?;
    // A spreadsheet puts a byte order mark before the first name.
    let places: BTreeMap<String, usize> = header
        .iter()
        .enumerate()
        .map(|(place, name)| (name.trim_start_matches('\u{feff}').to_lowercase(), place))
        .collect();
    if let Some(missing) = COLUMNS.iter().find(|name| !places.contains_key(**name)) {
        return Err(BadLine {
            line: 1,
            what: format!(
                "the header has no column {missing}; it must have {}",
                COLUMNS.join(", ")
            ),
        });
    }
    let mut backups = Vec::new();
    let (mut ids, mut keys) = (BTreeSet::new(), BTreeSet::new());
    for record in reader.records() {
        let record = record.map_err(|error| malformed(&error))?;
        let line = record.position().map_or(0, csv::Position::line);
        let value = |name: &str| places.get(name).and_then(|place| record.get(*place));
        let backup = backup(line, |name| value(name).unwrap_or_default())
            .map_err(|what| BadLine { line, what })?;
        let twice = |what: String| BadLine { line, what };
        if !ids.insert(backup.id) {
            return Err(twice(format!("id {} was on an earlier line", backup.id)));
        }
        if let (Some(key), JobStatus::Completed) = (&backup.object_key, backup.status) {
            if !keys.insert(key.clone()) {
                return Err(twice(format!("storage_key {key} was on an earlier line")));
            }
        }
        backups.push(backup);
    }
    Ok(backups)
}

fn malformed(error: &csv::Error) -> BadLine {
    BadLine {
        line: error.position().map_or(1, csv::Position::line),
        what: match error.kind() {
            csv::ErrorKind::UnequalLengths {
                expected_len, len, ..
            } => format!("it has {len} fields, the header has {expected_len}"),
            csv::ErrorKind::Utf8 { .. } => "it is not UTF-8".to_owned(),
            _ => "it cannot be read".to_owned(),
        },
    }
}

fn backup<'a>(line: u64, value: impl Fn(&str) -> &'a str) -> Result<ImportedBackup, String> {
    let id = value("id").parse().ok().and_then(BackupId::new);
    let (status, reason) = status(value("status"))?;
    let complete = status == JobStatus::Completed;
    let key = value("storage_key");
    let object_key = (!key.is_empty()).then(|| key.to_owned());
    let checksum = value("checksum");
    let digest = checksum.strip_prefix("sha256:").unwrap_or(checksum);
    let (size, sha256) = (value("size"), digest.to_lowercase().parse::<Sha256>().ok());
    let sealed_bytes = size.parse::<u64>().ok();
    if complete && ObjectKey::parse(key).is_err() {
        return Err("storage_key is no name of an object, which a completed backup has".to_owned());
    }
    if sealed_bytes.is_none() && (complete || !size.is_empty()) {
        return Err("size is no number of bytes".to_owned());
    }
    if sha256.is_none() && (complete || !checksum.is_empty()) {
        return Err("checksum is no SHA-256 of 64 hex digits".to_owned());
    }
    Ok(ImportedBackup {
        line,
        id: id.ok_or("id is no whole number from 1 on")?,
        target: TARGET.to_owned(),
        kind: kind(value("type"))?,
        status,
        object_key,
        sealed_bytes,
        sealed_sha256: sha256,
        created_at: moment(value("created_at"))
            .ok_or("created_at is no time, such as 2026-01-31T02:00:00Z")?,
        health: Health::Ok,
        reason,
    })
}

/// One spelling for the many that services have.
fn plain(word: &str) -> String {
    word.to_lowercase().replace(['-', ' '], "_")
}

fn kind(word: &str) -> Result<BackupKind, String> {
    match plain(word).as_str() {
        "manual" | "on_demand" | "adhoc" | "ad_hoc" => Ok(BackupKind::Manual),
        "scheduled" | "schedule" | "automatic" | "auto" | "cron" | "daily" | "weekly"
        | "monthly" => Ok(BackupKind::Scheduled),
        "pre_restore" | "prerestore" | "safety" => Ok(BackupKind::PreRestore),
        _ => Err("type is none of manual, scheduled and pre_restore".to_owned()),
    }
}

/// The status, and why it failed where it did. What had not ended there never will.
fn status(word: &str) -> Result<(JobStatus, Option<String>), String> {
    let word = plain(word);
    let failed = |why: &str| (JobStatus::Failed, Some(why.to_owned()));
    match word.as_str() {
        "completed" | "complete" | "success" | "successful" | "succeeded" | "done" | "finished"
        | "ok" => Ok((JobStatus::Completed, None)),
        "failed" | "failure" | "error" => Ok(failed("it failed in the service that made it")),
        "cancelled" | "canceled" | "aborted" => Ok((JobStatus::Cancelled, None)),
        "pending" | "queued" | "running" | "started" | "in_progress" => {
            Ok(failed("it had not ended when it was taken over"))
        }
        _ => Err("status is none of completed, failed, cancelled, pending and running".to_owned()),
    }
}

/// RFC 3339, or as PostgreSQL and Python print times; without a zone, UTC is meant.
fn moment(text: &str) -> Option<OffsetDateTime> {
    const WITHOUT_ZONE: [&[BorrowedFormatItem<'static>]; 2] = [
        format_description!(
            version = 2,
            "[year]-[month]-[day] [hour]:[minute]:[second].[subsecond]"
        ),
        format_description!(version = 2, "[year]-[month]-[day] [hour]:[minute]:[second]"),
    ];
    if !text.is_ascii() {
        return None;
    }
    let text = text.trim().replacen('T', " ", 1);
    let (clock, zone) = match text.find(['+', 'Z']).or_else(|| negative_zone(&text)) {
        Some(place) => text.split_at(place),
        None => (text.as_str(), "Z"),
    };
    let zone = match zone.len() {
        // `+00`, as PostgreSQL prints it.
        3 => format!("{zone}:00"),
        5 => format!("{}:{}", &zone[..3], &zone[3..]),
        _ => zone.to_owned(),
    };
    let clock = WITHOUT_ZONE
        .iter()
        .find_map(|format| PrimitiveDateTime::parse(clock.trim(), format).ok())?;
    // Read in two steps, because a zone alone is read by none of the library's formats.
    let zone = OffsetDateTime::parse(&format!("2000-01-01T00:00:00{zone}"), &Rfc3339).ok()?;
    Some(clock.assume_offset(zone.offset()))
}

/// Where a zone west of Greenwich begins: at a minus behind the time.
fn negative_zone(text: &str) -> Option<usize> {
    let time = text.find(':')?;
    text[time..].find('-').map(|place| time + place)
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn times_are_read_as_services_print_them() {
        for (text, expected) in [
            ("2026-01-31T02:00:00Z", datetime!(2026-01-31 02:00 UTC)),
            ("2026-01-31 02:00:00", datetime!(2026-01-31 02:00 UTC)),
            (
                "2026-01-31 02:00:00.5",
                datetime!(2026-01-31 02:00:00.5 UTC),
            ),
            ("2026-01-31 02:00:00+00", datetime!(2026-01-31 02:00 UTC)),
            (
                "2026-01-31T02:00:00.25+0530",
                datetime!(2026-01-31 02:00:00.25 +05:30),
            ),
            (
                "2026-01-31T02:00:00-03:00",
                datetime!(2026-01-31 02:00 -03:00),
            ),
        ] {
            assert_eq!(moment(text), Some(expected), "{text}");
        }
        for wrong in [
            "",
            "yesterday",
            "2026-01-31",
            "2026-13-31 02:00:00",
            "2026-01-31 02:00:00é",
        ] {
            assert_eq!(moment(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_bad_line_is_named() {
        let header = "status,id,type,storage_key,checksum,size,created_at,extra\n";
        let digest = "ab".repeat(32);
        let good = format!("completed,7,manual,a/b.gpg,sha256:{digest},10,2026-01-31 02:00:00,x\n");
        let read_text = |text: &str| read(text.as_bytes());
        let [read_good] = read_text(&format!("\u{feff}{header}{good}"))
            .unwrap()
            .try_into()
            .unwrap();
        assert_eq!((read_good.id.get(), read_good.sealed_bytes), (7, Some(10)));
        for (from, to, said) in [
            ("completed", "sleeping", "status"),
            (",7,", ",0,", "id"),
            ("manual", "hourly?", "type"),
            ("a/b.gpg", "../b.gpg", "storage_key"),
            (",10,", ",ten,", "size"),
            ("sha256:", "md5:", "checksum"),
            ("2026-01-31 02:00:00", "late", "created_at"),
            (",x", "", "fields"),
        ] {
            let text = format!(
                "{header}{good}{}",
                good.replace(",7,", ",8,").replace("b.gpg", "c.gpg")
            );
            let line = text.lines().nth(2).unwrap();
            let broken = text.replace(
                line,
                &line
                    .replace(",8,", ",7,")
                    .replace("c.gpg", "b.gpg")
                    .replacen(from, to, 1),
            );
            let error = read_text(&broken).unwrap_err();
            assert_eq!(error.line, 3, "{broken}");
            assert!(error.what.contains(said), "{}: {said}", error.what);
        }
        let twice = format!("{header}{good}{good}");
        assert!(read_text(&twice).unwrap_err().what.contains("earlier line"));
        assert!(
            read_text("id,type\n")
                .unwrap_err()
                .what
                .contains("storage_key")
        );
    }
}
