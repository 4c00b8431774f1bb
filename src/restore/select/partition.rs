//! Partitions of parents that stay: what the parent holds on to goes and comes with the partition.

use std::collections::{BTreeMap, BTreeSet};

use super::{PARTS, Picking};
use crate::pg::inspect::{Live, LiveObject, MarkedIndex, ObjectId};
use crate::pg::{Toc, TocEntry, one_line};
use crate::restore::named::{Named, of_entry, of_live};

/// What a partition may have of its parent.
const INDEXES: &[&str] = &["INDEX", "CONSTRAINT"];

impl<'a> Picking<'a> {
    /// Takes out what a parent that stays holds on to, by the backup or by now: PostgreSQL drops no index and no key of a
    /// partition that is attached to its parent's. They go with the partition, and it gets them again when it is attached.
    pub(super) fn leave_to_parents(&mut self, live: Option<&Live>) {
        self.inherit(&live.map(held).unwrap_or_default());
        let hangs_on_inherited = |entry: &&TocEntry| {
            PARTS.contains(&entry.kind.as_str())
                && entry.depends_on.iter().any(|on| self.is_inherited(*on))
        };
        let goes = |number: &u32| {
            let entry = self.by_number.get(number);
            self.is_inherited(*number) || entry.is_some_and(hangs_on_inherited)
        };
        let stays = self.picked.entries.iter().copied();
        self.picked.entries = stays.filter(|number| !goes(number)).collect();
        let marks = live.into_iter().flat_map(|live| &live.marked_indexes);
        let lost = marks.filter(|mark| self.is_mark_of_inherited(mark));
        self.picked.unmarked = lost.map(|mark| mark.sql.clone()).collect();
    }

    /// Finds them, from the outermost parent inwards.
    fn inherit(&mut self, held: &BTreeMap<Named<'_>, Vec<Named<'_>>>) {
        let mut open = self.indexes_of_reattached();
        loop {
            let going: BTreeSet<Named<'_>> = open.iter().copied().map(of_entry).collect();
            let is_held = |index: &&TocEntry| {
                let mut parents = held.get(&of_entry(index)).into_iter().flatten();
                parents.any(|parent| !going.contains(parent))
                    || self.is_attached_to_what_stays(index)
            };
            let (more, rest): (Vec<&TocEntry>, Vec<&TocEntry>) =
                open.into_iter().partition(is_held);
            if more.is_empty() {
                break;
            }
            let titled = more.iter().map(|index| (index.dump_id, index.title()));
            self.picked.inherited.extend(titled);
            open = rest;
        }
    }

    /// The indexes and keys of those partitions that the backup attaches again.
    fn indexes_of_reattached(&self) -> Vec<&'a TocEntry> {
        let whole = self.whole.iter();
        let whole = whole.filter_map(|number| self.by_number.get(number).copied());
        let is_reattached = |table: &TocEntry| {
            let mut attaches = self.attached(table.dump_id, "TABLE ATTACH");
            attaches.any(|attach| {
                self.whole.contains(&attach.dump_id)
                    && attach.schema == table.schema
                    && attach.tag == table.tag
            })
        };
        whole
            .filter(|entry| INDEXES.contains(&entry.kind.as_str()))
            .filter(|index| self.tables_of(index).any(is_reattached))
            .collect()
    }

    fn is_mark_of_inherited(&self, mark: &MarkedIndex) -> bool {
        let inherited = self.picked.inherited.keys();
        let mut inherited = inherited.filter_map(|number| self.by_number.get(number));
        inherited.any(|index| {
            index.schema.as_deref() == Some(&one_line(&mark.schema))
                && self.is_called(index, &one_line(&mark.name))
        })
    }

    pub(super) fn is_inherited(&self, number: u32) -> bool {
        self.picked.inherited.contains_key(&number)
    }

    /// Whether the backup attaches an index or a key to one that is not made anew.
    fn is_attached_to_what_stays(&self, index: &TocEntry) -> bool {
        let attaches = self.attached(index.dump_id, "INDEX ATTACH");
        let attaches = attaches
            .filter(|attach| attach.schema == index.schema && self.is_called(index, &attach.tag));
        let others = attaches.flat_map(|attach| &attach.depends_on);
        let mut parents = others
            .filter(|on| **on != index.dump_id)
            .filter_map(|on| self.by_number.get(on))
            .filter(|on| INDEXES.contains(&on.kind.as_str()));
        parents.any(|parent| {
            self.is_inherited(parent.dump_id)
                || !self.whole.contains(&parent.dump_id) && self.is_there(parent)
        })
    }

    fn tables_of(&self, part: &TocEntry) -> impl Iterator<Item = &'a TocEntry> {
        let entries = part.depends_on.iter();
        let entries = entries.filter_map(|on| self.by_number.get(on).copied());
        entries.filter(|on| on.kind == "TABLE")
    }

    /// The name of an index or a key, which stands behind its table's in a key's entry. Names may hold spaces.
    fn is_called(&self, index: &TocEntry, name: &str) -> bool {
        let mut tables = self.tables_of(index);
        index.tag == name && index.kind == "INDEX"
            || tables.any(|table| index.tag == format!("{} {name}", table.tag))
    }
}

/// Of each index and key of a partition, those of its parent that hold it.
fn held(live: &Live) -> BTreeMap<Named<'_>, Vec<Named<'_>>> {
    let indexes = live
        .objects
        .iter()
        .filter(|object| INDEXES.contains(&object.kind.as_str()));
    let indexes: BTreeMap<ObjectId, &LiveObject> =
        indexes.map(|object| (object.id, object)).collect();
    let mut held: BTreeMap<Named<'_>, Vec<Named<'_>>> = BTreeMap::new();
    for (object, on, _hold) in &live.holds {
        if let (Some(index), Some(parent)) = (indexes.get(object), indexes.get(on)) {
            let parents = held.entry(of_live(index)).or_default();
            parents.push(of_live(parent));
        }
    }
    held
}

/// The archive's list, with these entries alone. A partition whose parent stays is attached behind the rows, which would be new
/// ones to the parent's triggers, and behind its own indexes, whose names PostgreSQL may choose for those that it makes.
#[must_use]
pub(in crate::restore) fn listed(toc: &Toc, entries: &BTreeSet<u32>) -> String {
    const FIRST: &[&str] = &["CONSTRAINT", "INDEX", "TABLE DATA"];
    let lines = toc.entries.iter();
    let mut lines: Vec<&TocEntry> = lines
        .filter(|entry| entries.contains(&entry.dump_id))
        .collect();
    let stay = toc.of_kind("TABLE").map(|table| table.dump_id);
    let stay: BTreeSet<u32> = stay.filter(|table| !entries.contains(table)).collect();
    let waits = |entry: &&TocEntry| {
        entry.kind == "TABLE ATTACH" && entry.depends_on.iter().any(|on| stay.contains(on))
    };
    let is_first = |entry: &&TocEntry| FIRST.contains(&entry.kind.as_str());
    if let Some(last) = lines.iter().rposition(is_first) {
        let behind = lines.split_off(last + 1);
        let (waiting, first): (Vec<&TocEntry>, Vec<&TocEntry>) = lines.into_iter().partition(waits);
        lines = [first, waiting, behind].concat();
    }
    lines
        .into_iter()
        .map(|entry| format!("{}\n", entry.line))
        .collect()
}
