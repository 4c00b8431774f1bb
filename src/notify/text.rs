//! What a person reads of an event, on a phone: a short subject, a few lines, what is wrong, and what to do next.
//!
//! Names, labels and errors come from databases and users: no line break, no control character and no character that
//! changes the direction of what follows gets from them into a line of ours. Pure.

use indicatif::HumanBytes;
use time::UtcOffset;
use time::macros::format_description;

use crate::model::counted::counted;
use crate::model::event::{Event, EventKind};

/// A name in a subject is cut here; PostgreSQL's own have at most 63 bytes.
const NAME_CHARS_MAX: usize = 64;
/// A stage has a word or two.
const STAGE_CHARS_MAX: usize = 40;
/// An error is cut here: a phone's screen, twice.
const ERROR_CHARS_MAX: usize = 1200;
/// Hints are one line each; the first ones are the nearest to the cause.
const HINT_CHARS_MAX: usize = 300;
const HINTS_MAX: usize = 3;

/// One line, as a subject.
#[must_use]
pub fn subject(event: &Event) -> String {
    format!("pgseal: {}", title(event))
}

/// A few lines, without the subject.
#[must_use]
pub fn text(event: &Event) -> String {
    let mut lines = facts(event);
    let (said, hints) = error(event);
    if !said.is_empty() {
        lines.push(String::new());
        lines.push(said);
    }
    if hints.is_empty() {
        lines.extend(next_step(event).map(|step| format!("\nnext: {step}")));
    } else {
        lines.push(String::new());
        lines.extend(hints.iter().map(|hint| format!("next: {hint}")));
    }
    lines.join("\n")
}

/// What happened, in a few words.
pub(super) fn title(event: &Event) -> String {
    let name = one_line(event.subject(), NAME_CHARS_MAX);
    let at = match &event.facts.stage {
        Some(stage) => format!(" at {}", one_line(stage, STAGE_CHARS_MAX)),
        None => String::new(),
    };
    match event.kind {
        EventKind::BackupStarted => format!("backup of {name} started"),
        EventKind::BackupCompleted if event.facts.recovered_from.is_some() => {
            format!("backup of {name} is complete again")
        }
        EventKind::BackupCompleted => format!("backup of {name} is complete"),
        EventKind::BackupFailed => format!("backup of {name} FAILED{at}"),
        EventKind::BackupOverdue => format!("backup of {name} is OVERDUE"),
        EventKind::BackupSuspicious => format!("backup of {name} is SUSPICIOUS"),
        EventKind::BackupCorrupt => {
            let health = event.facts.health.as_deref().unwrap_or("CORRUPT");
            format!("backup of {name} is {health}")
        }
        EventKind::BackupLost => format!("backup of {name} is LOST"),
        EventKind::RestoreStarted => format!("restore of {name} started"),
        EventKind::RestoreCompleted => format!("restore of {name} is complete"),
        EventKind::RestoreFailed => format!("restore of {name} FAILED{at}"),
        EventKind::RestoreRolledBack => format!("restore of {name} was rolled back"),
        EventKind::ProofFailed => format!("proof of {name} FAILED"),
        EventKind::ProofUnverifiable => format!("proof of {name} is UNVERIFIABLE"),
        EventKind::ProofOverdue => format!("proof of {name} is OVERDUE"),
        EventKind::PruneFrozen => format!("pruning of {name} is FROZEN"),
        EventKind::PruneFailed => format!("pruning of {name} FAILED"),
        EventKind::CopyFailed => format!("the second copy of {name} FAILED"),
        EventKind::Test => "a test, nothing happened".to_owned(),
    }
}

fn facts(event: &Event) -> Vec<String> {
    let facts = &event.facts;
    let mut lines = Vec::new();
    let utc = event.at.to_offset(UtcOffset::UTC);
    let at = utc.format(format_description!(
        "[year]-[month]-[day] [hour]:[minute] UTC"
    ));
    let mut when = at.unwrap_or_default();
    if let Some(seconds) = facts.seconds {
        when += &format!(", took {}", duration(seconds));
    }
    if let Some(attempt) = facts.attempt.filter(|attempt| *attempt > 1) {
        when += &format!(", try {attempt}");
    }
    lines.push(when);
    if let Some(restore) = facts.restore_id {
        lines.push(format!("restore {restore}"));
    }
    match (facts.backup_id, facts.backup_name()) {
        (Some(id), Some(name)) => lines.push(format!("backup {id}: {}", one_line(name, 200))),
        (Some(id), None) => lines.push(format!("backup {id}")),
        (None, Some(name)) => lines.push(format!("backup {}", one_line(name, 200))),
        (None, None) => {}
    }
    if event.target != event.subject() {
        lines.push(format!(
            "target {}",
            one_line(&event.target, NAME_CHARS_MAX)
        ));
    }
    let size = [
        facts
            .sealed_bytes
            .map(|bytes| format!("{} stored", HumanBytes(bytes))),
        facts
            .plain_bytes
            .map(|bytes| format!("{} dumped", HumanBytes(bytes))),
        facts.tables.map(|tables| counted(tables, "table")),
        facts.rows.map(|rows| counted(rows, "row")),
    ];
    let size: Vec<String> = size.into_iter().flatten().collect();
    if !size.is_empty() {
        lines.push(size.join(", "));
    }
    if let Some(warnings @ 1..) = facts.warnings {
        let warnings = counted(warnings, "warning");
        lines.push(format!("{warnings}: pgseal show names them"));
    }
    lines
}

/// The error without its hints, cut, and the hints.
fn error(event: &Event) -> (String, Vec<String>) {
    let mut said = Vec::new();
    let mut hints = Vec::new();
    for line in event.facts.error.as_deref().unwrap_or_default().lines() {
        match line.trim_start().strip_prefix("hint: ") {
            Some(hint) if hints.len() < HINTS_MAX => hints.push(one_line(hint, HINT_CHARS_MAX)),
            Some(_) => {}
            None => said.push(one_line(line, ERROR_CHARS_MAX)),
        }
    }
    (cut(said.join("\n").trim_end(), ERROR_CHARS_MAX), hints)
}

fn next_step(event: &Event) -> Option<String> {
    let step = match event.kind {
        EventKind::BackupFailed => "pgseal doctor looks at everything that a backup needs",
        EventKind::BackupOverdue => "does a worker run? pgseal worker --check, on its machine",
        EventKind::BackupSuspicious => "pgseal list: compare its size and tables with older ones",
        EventKind::BackupCorrupt if event.facts.health.is_some() => {
            "make a new backup; no copy of this one is any better"
        }
        EventKind::BackupCorrupt | EventKind::BackupLost => {
            "make a new backup, and find out who changes objects in the store"
        }
        EventKind::RestoreFailed => match event.facts.safety_backup_id {
            Some(id) => return Some(format!("backup {id} has what was there before")),
            None => "look at the target before you try again",
        },
        EventKind::ProofFailed => "pgseal verify, and a new backup",
        EventKind::ProofUnverifiable => {
            "the reason says what is missing; pgseal doctor looks at the server for drills and its role"
        }
        EventKind::ProofOverdue => "pgseal drill tries the backup whose turn it is",
        EventKind::PruneFrozen => "look at the newest backups; nothing is deleted until then",
        EventKind::CopyFailed => {
            "the backup itself is complete; a worker tries the copy again, as pgseal copy does"
        }
        EventKind::PruneFailed => "pgseal prune tries again, and says what the store refuses",
        EventKind::BackupStarted
        | EventKind::BackupCompleted
        | EventKind::RestoreStarted
        | EventKind::RestoreCompleted
        | EventKind::RestoreRolledBack
        | EventKind::Test => return None,
    };
    Some(step.to_owned())
}

fn duration(seconds: f64) -> String {
    let whole = std::time::Duration::try_from_secs_f64(seconds)
        .unwrap_or_default()
        .as_secs();
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, 0, _) => format!("{:.1} s", seconds.max(0.0)),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

/// Text of somebody else's as part of a line of ours.
pub(super) fn one_line(text: &str, chars_max: usize) -> String {
    let clean: String = text
        .chars()
        .map(|c| if is_harmless(c) { c } else { ' ' })
        .collect();
    cut(&clean, chars_max)
}

fn is_harmless(c: char) -> bool {
    // Separators of lines, and what changes the direction of the text behind it (UAX #9).
    let is_odd = matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !c.is_control() && !is_odd
}

fn cut(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        Some((at, _)) => format!("{}[...]", &text[..at]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::event::Facts;
    use crate::model::ids::Uid;
    use time::macros::datetime;

    fn event(kind: EventKind, facts: Facts) -> Event {
        let at = datetime!(2026-11-26 02:03:04 UTC);
        Event {
            id: Uid::new(at),
            at,
            kind,
            target: "default".to_owned(),
            facts,
        }
    }

    #[test]
    fn a_failure_says_what_and_where_and_what_to_do() {
        let failed = event(
            EventKind::BackupFailed,
            Facts {
                database: Some("shop".to_owned()),
                backup_id: Some(17),
                seconds: Some(75.2),
                attempt: Some(2),
                stage: Some("dump".to_owned()),
                error: Some("pg_dump failed\n  because: no luck\nhint: try again".to_owned()),
                ..Facts::default()
            },
        );
        insta::assert_snapshot!(format!("{}\n\n{}", subject(&failed), text(&failed)), @r"
        pgseal: backup of shop FAILED at dump

        2026-11-26 02:03 UTC, took 1 min 15 s, try 2
        backup 17
        target default

        pg_dump failed
          because: no luck

        next: try again
        ");
    }

    #[test]
    fn a_success_says_how_much() {
        let done = event(
            EventKind::BackupCompleted,
            Facts {
                database: Some("shop".to_owned()),
                object_key: Some(
                    "backups/prod/2026/11/backup_manual_20261126_020304.dump.gpg".to_owned(),
                ),
                seconds: Some(2.26),
                plain_bytes: Some(2_000_000),
                sealed_bytes: Some(500_000),
                tables: Some(12),
                rows: Some(12_345),
                ..Facts::default()
            },
        );
        insta::assert_snapshot!(format!("{}\n\n{}", subject(&done), text(&done)), @r"
        pgseal: backup of shop is complete

        2026-11-26 02:03 UTC, took 2.3 s
        backup backup_manual_20261126_020304
        target default
        488.28 KiB stored, 1.91 MiB dumped, 12 tables, 12,345 rows
        ");
    }

    #[test]
    fn names_and_errors_of_others_stay_inside_their_lines() {
        let hostile = event(
            EventKind::BackupFailed,
            Facts {
                database: Some("shop\r\nBcc: everybody@example.com\u{202e}".to_owned()),
                stage: Some("dump\n\nbody".to_owned()),
                error: Some(format!(
                    "{}\u{1b}[2J\nhint: {}",
                    "x".repeat(100_000),
                    "y".repeat(9000)
                )),
                ..Facts::default()
            },
        );
        let (subject, text) = (subject(&hostile), text(&hostile));
        assert_eq!(subject.lines().count(), 1);
        assert!(
            subject.contains("shop  Bcc: everybody@example.com  FAILED"),
            "{subject}"
        );
        assert!(!text.contains(['\u{1b}', '\r', '\u{202e}']));
        assert!(text.len() < 2000 && text.contains("\nnext: yyy"), "{text}");
    }

    #[test]
    fn every_kind_has_a_title_and_every_alarm_a_next_step() {
        use crate::model::event::Gravity;
        for kind in EventKind::ALL {
            let event = event(*kind, Facts::default());
            assert!(title(&event).len() < 60, "{}", title(&event));
            assert_eq!(
                text(&event).contains("next: "),
                kind.gravity() == Gravity::Alarm,
                "{kind}"
            );
        }
    }
}
