//! A plan as a tired person reads it: the verdict first, then what is lost, then what is in the way with the SQL that
//! clears it, then the rest.

use std::fmt::Write as _;

use super::{Blocker, Items, Plan, Way};
use crate::model::counted::counted;
use crate::model::moment::moment;

/// So many names stand in the text; JSON has them all.
const NAMES_MAX: usize = 10;

pub(super) fn text(plan: &Plan) -> String {
    let mut text = String::new();
    head(&mut text, plan);
    changes(&mut text, plan);
    text.push_str(&hindrances(plan));
    surroundings(&mut text, plan);
    for warning in &plan.warnings {
        line(&mut text, "warning", warning);
    }
    if plan.is_possible {
        let _written = write!(
            text,
            "\nNothing was changed. To carry this plan out and no other: the same command with --plan-id {} instead of --plan",
            plan.id
        );
    } else {
        text.push_str("\nNothing was changed. This restore would be refused.");
    }
    text
}

/// What stands in the way, alone.
pub(super) fn refusal(plan: &Plan) -> String {
    hindrances(plan).trim_end().to_owned()
}

fn head(text: &mut String, plan: &Plan) {
    let verdict = if plan.is_possible {
        "would be carried out"
    } else {
        "WOULD BE REFUSED"
    };
    let _written = writeln!(
        text,
        "Plan {}: restore {} into {} on {}: {verdict}",
        plan.id, plan.from.backup, plan.to.database, plan.to.server
    );
    line(
        text,
        "mode",
        &format!("{} ({})", plan.mode.as_str(), plan.mode_reason),
    );
    let from = &plan.from;
    let made = match (&from.database, from.snapshot_at) {
        (Some(database), Some(at)) => format!("of {database} at {}", moment(at)),
        _ => "nobody recorded of what and when".to_owned(),
    };
    let rows = from
        .rows
        .map_or_else(String::new, |rows| format!(", {}", counted(rows, "row")));
    let tables = counted(from.tables as u64, "table");
    let objects = counted(from.large_objects, "large object");
    line(
        text,
        "backup",
        &format!("{made}, {tables}{rows}, {objects}"),
    );
    if !plan.selected.is_empty() {
        line(text, "only", &plan.selected.join(", "));
    }
    let to = &plan.to;
    let there = if to.exists {
        format!(
            "{}, {} MB, {} open connections",
            to.database,
            to.size_bytes >> 20,
            to.connections
        )
    } else {
        format!("{}, which does not exist yet", to.database)
    };
    line(text, "target", &there);
}

fn changes(text: &mut String, plan: &Plan) {
    let (replaced, survivors, lost) = match plan.mode {
        Way::Swap => (
            "replaced",
            "not in the backup; only the old database keeps them",
            "not in the backup; only the old database keeps them",
        ),
        _ => (
            "dropped and made anew",
            "not in the backup; they stay as they are (survivors)",
            "NOT IN THE BACKUP AND DROPPED with what they hang on",
        ),
    };
    items(text, replaced, &plan.replaced);
    items(text, "made", &plan.created);
    items(text, survivors, &plan.survivors);
    items(text, lost, &plan.lost);
}

fn items(text: &mut String, what: &str, items: &Items) {
    if items.total == 0 {
        return;
    }
    let mut names: Vec<String> = items
        .first
        .iter()
        .take(NAMES_MAX)
        .map(ToString::to_string)
        .collect();
    if items.total > names.len() {
        names.push(format!("and {} more", items.total - names.len()));
    }
    line(
        text,
        what,
        &format!("{}: {}", items.total, names.join(", ")),
    );
}

fn hindrances(plan: &Plan) -> String {
    let mut text = String::new();
    for obstacle in &plan.obstacles {
        let _written = writeln!(
            text,
            "in the way: {}\n  remedy: {}",
            obstacle.found, obstacle.remedy
        );
    }
    for Blocker {
        object,
        reason,
        sql,
    } in &plan.blockers
    {
        let _written = writeln!(text, "in the way: {object}: {reason}");
        for statement in sql {
            let _written = writeln!(text, "  {statement}");
        }
    }
    for entry in &plan.left_out {
        let accepted = if plan.left_out_accepted {
            "left out"
        } else {
            "would be left out"
        };
        let _written = writeln!(text, "{accepted}: {} ({})", entry.entry, entry.reason);
    }
    text
}

fn surroundings(text: &mut String, plan: &Plan) {
    let (from, to) = (&plan.from, &plan.to);
    let versions = match (&from.server_version, from.archive_major) {
        (Some(server), Some(client)) => {
            format!(
                "PostgreSQL {server} by pg_dump {client}, into PostgreSQL {}",
                to.server_version
            )
        }
        (_, Some(client)) => format!("by pg_dump {client}, into PostgreSQL {}", to.server_version),
        _ => format!("into PostgreSQL {}", to.server_version),
    };
    line(text, "versions", &versions);
    if !plan.roles.missing.is_empty() {
        line(text, "missing roles", &plan.roles.missing.join(", "));
    }
    for extension in &plan.extensions {
        let offered = extension.offered.as_deref().unwrap_or("not available");
        let note = if extension.offered.as_ref() == Some(&extension.recorded) {
            String::new()
        } else {
            format!(", the server has {offered}")
        };
        line(
            text,
            "extension",
            &format!("{} {}{note}", extension.name, extension.recorded),
        );
    }
    for difference in &plan.locale_differences {
        line(text, "locale", difference);
    }
    for (what, names) in [
        ("logical slots", &to.logical_slots),
        ("subscriptions", &to.subscriptions),
        ("prepared", &to.prepared_transactions),
    ] {
        if !names.is_empty() {
            line(text, what, &names.join(", "));
        }
    }
    let free = plan.space.free_bytes.map_or_else(
        || "how much is free cannot be seen from here".to_owned(),
        |free| format!("{} MB are free", free >> 20),
    );
    line(
        text,
        "space",
        &format!(
            "about {} MB more on the server while it runs; {free}",
            plan.space.needed_bytes >> 20
        ),
    );
    if let Some(locks) = &plan.locks {
        line(
            text,
            "locks",
            &format!("about {} of {}", locks.needed, locks.free),
        );
    }
    line(
        text,
        "time",
        &format!(
            "about {} s, without the safety backup; an estimate from {}",
            plan.estimated_seconds, plan.estimate_basis
        ),
    );
}

fn line(text: &mut String, what: &str, value: &str) {
    let _written = writeln!(text, "{what}: {value}");
}
