//! What an administrator should know of a restore before it, and of the part that is the restore's own doing behind it, too.

use super::Way;
use super::compare::Changes;
use super::look::Subject;
use crate::restore::caution;
use crate::restore::select::Picked;

/// What is known of the backup, whatever is done with it.
pub(super) fn of_backup(subject: Subject<'_>) -> Vec<String> {
    match subject.manifest {
        Some(manifest) => manifest.warnings.clone(),
        None => vec![
            "the backup is foreign: without a manifest nothing is known of its roles, extensions, locale and rows"
                .to_owned(),
        ],
    }
}

/// What the restore leaves out, takes away, or makes without rows.
pub(super) fn of_restore(
    subject: Subject<'_>,
    picked: Option<&Picked>,
    (database, way): (&str, Way),
    changes: &Changes,
) -> Vec<String> {
    let mut warnings = subject.manifest.map_or_else(Vec::new, |manifest| {
        caution::of_content(manifest, database, way, picked.is_some())
    });
    if way == Way::InPlace {
        if !changes.lost.is_empty() {
            warnings.push(format!(
                "{} objects that are not in the backup are dropped with what they hang on",
                changes.lost.len()
            ));
        }
        for (publication, statements) in &changes.unpublished {
            warnings.push(format!(
                "what is dropped leaves publication {publication}, and the backup does not put it back; once the restore is done, run: {}",
                statements.join(" ")
            ));
        }
    }
    if let Some(picked) = picked {
        warnings.extend(of_selection(subject, picked));
    }
    warnings
}

fn of_selection(subject: Subject<'_>, picked: &Picked) -> Vec<String> {
    let mut warnings = Vec::new();
    for key in &picked.without {
        warnings.push(format!(
            "{key} is left out: the table that it points to is not selected"
        ));
    }
    for key in &picked.outward {
        warnings.push(format!(
            "{key} points to a table that is not selected: its rows have to be there already"
        ));
    }
    if !picked.along.is_empty() {
        warnings.push(format!(
            "made along, because what is selected needs it, a table without its rows: {}",
            picked.along.join(", ")
        ));
    }
    if !picked.inherited.is_empty() {
        let inherited: Vec<&str> = picked.inherited.values().map(String::as_str).collect();
        warnings.push(format!(
            "made as the parent table has it now, and not as the backup does: {}",
            inherited.join(", ")
        ));
    }
    if !picked.unmarked.is_empty() {
        warnings.push(format!(
            "none of that is a replica identity or clustered on any more; once the restore is done, and with the names that these indexes have then, run: {}",
            picked.unmarked.join(" ")
        ));
    }
    for (view, tables) in &picked.hollow {
        warnings.push(format!(
            "{view} is filled from tables without rows: {}",
            tables.join(", ")
        ));
    }
    let blobs = subject
        .manifest
        .map_or(0, |manifest| manifest.large_objects);
    if blobs > 0 {
        warnings.push(format!(
            "{blobs} large objects are left out: they belong to no table"
        ));
    }
    warnings
}
