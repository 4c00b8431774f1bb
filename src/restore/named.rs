//! What a thing is called on both sides, as an archive's list has it: its kind, its schema, its name.

use crate::pg::inspect::{LiveObject, Membership};
use crate::pg::{TocEntry, one_line};

pub(super) type Named<'a> = (&'a str, Option<String>, String);

/// Of an archive.
pub(super) fn of_entry(entry: &TocEntry) -> Named<'_> {
    (&entry.kind, entry.schema.clone(), entry.tag.clone())
}

/// In a database.
pub(super) fn of_live(object: &LiveObject) -> Named<'_> {
    let schema = object.schema.as_deref().map(one_line);
    (&object.kind, schema, one_line(&object.tag))
}

/// In a publication there.
pub(super) fn of_membership(membership: &Membership) -> Named<'_> {
    let schema = Some(one_line(&membership.schema));
    (&membership.kind, schema, one_line(&membership.tag))
}
