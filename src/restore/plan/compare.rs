//! An archive's list against what a database holds: what a restore in place replaces, makes, leaves alone, takes with it,
//! and what would end it. Pure.
//!
//! `pg_restore --clean` drops in the list's order from its end, each object by itself and without CASCADE. So an object
//! ends the restore when it is still there while something that it hangs on is dropped: because no entry drops it, or
//! because its own entry stands further up.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::clear::{Cause, Clearing};
use super::{Blocker, Item};
use crate::pg::inspect::{Fixed, Hold, Live, LiveObject, ObjectId};
use crate::pg::{Toc, one_line};
use crate::restore::named::{Named, of_entry, of_live, of_membership};
use crate::restore::select::Picked;

/// What stands inside the definition of a table or a view, unless pg_dump had to take it out; no object of its own.
const INLINE: &[&str] = &["DEFAULT", "CHECK CONSTRAINT"];
/// What has one namespace, so that two of one name cannot be there.
const RELATIONS: &[&str] = &[
    "TABLE",
    "FOREIGN TABLE",
    "VIEW",
    "MATERIALIZED VIEW",
    "SEQUENCE",
    "INDEX",
    "TYPE",
];
const ROUTINES: &[&str] = &["FUNCTION", "PROCEDURE", "AGGREGATE"];
/// Entries that `--clean` drops nothing for.
const DROPS_NOTHING: &[&str] = &[
    "ACL",
    "ACL LANGUAGE",
    "BLOB COMMENTS",
    "BLOB METADATA",
    "BLOBS",
    "COMMENT",
    "DATABASE",
    "DATABASE PROPERTIES",
    "DEFAULT ACL",
    "ENCODING",
    "INDEX ATTACH",
    "MATERIALIZED VIEW DATA",
    "PUBLICATION TABLE",
    "PUBLICATION TABLES IN SCHEMA",
    "ROW SECURITY",
    "SEARCHPATH",
    "SECURITY LABEL",
    "SEQUENCE OWNED BY",
    "SEQUENCE SET",
    "STATISTICS DATA",
    "STDSTRINGS",
    "TABLE ATTACH",
    "TABLE DATA",
];

/// What becomes of everything.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Dropped, and made anew from the backup.
    pub(super) replaced: Vec<Item>,
    /// In the backup alone.
    pub(super) created: Vec<Item>,
    /// In the database alone, and left alone.
    pub(super) survivors: Vec<Item>,
    /// In the database alone, and dropped with what they hang on.
    pub(super) lost: Vec<Item>,
    /// What is taken out of publications, and not put back: statements that do, by publication.
    pub(super) unpublished: BTreeMap<String, Vec<String>>,
    /// What would end the restore.
    pub(super) blockers: Vec<Blocker>,
    /// How many objects are dropped, with all that follows them; each takes a lock.
    pub(super) dropped: usize,
}

/// Compares. `order` has the entries' numbers as `--clean` has them, in the list's order; what is `picked` may have partitions,
/// with which their inherited indexes go and come; `role` restores.
pub(super) fn compare(
    toc: &Toc,
    order: &[u32],
    picked: Option<&Picked>,
    live: &Live,
    role: &str,
) -> Changes {
    let places: HashMap<u32, usize> = order.iter().enumerate().map(|(at, id)| (*id, at)).collect();
    let archived: HashMap<Named<'_>, usize> = toc
        .entries
        .iter()
        .filter(|entry| !DROPS_NOTHING.contains(&entry.kind.as_str()))
        .filter_map(|entry| Some((of_entry(entry), *places.get(&entry.dump_id)?)))
        .fold(HashMap::new(), |mut all, (key, place)| {
            let known = all.entry(key).or_insert(place);
            *known = place.max(*known);
            all
        });
    let graph = Graph::new(live, &archived);
    let mut changes = Changes {
        dropped: graph.dropped_at.len(),
        ..Changes::default()
    };
    let inherited: HashSet<Named<'_>> = toc
        .entries
        .iter()
        .filter(|entry| picked.is_some_and(|picked| picked.inherited.contains_key(&entry.dump_id)))
        .map(of_entry)
        .collect();
    let present: HashSet<Named<'_>> = live.objects.iter().map(of_live).collect();
    for object in &live.objects {
        let item = Item::of_live(object);
        if archived.contains_key(&of_live(object)) {
            if !is_inline(object) {
                changes.replaced.push(item);
            }
        } else if is_inline(object) || is_everywhere(object) {
        } else if !graph.dropped_at.contains_key(&object.id) {
            changes.survivors.push(item);
        } else if inherited.contains(&of_live(object)) {
            changes.replaced.push(item);
        } else {
            changes.lost.push(item);
        }
    }
    changes.take_memberships(toc, &places, live, &graph);
    let mut seen = BTreeSet::new();
    for entry in &toc.entries {
        let kind = entry.kind.as_str();
        let is_part = DROPS_NOTHING.contains(&kind) || INLINE.contains(&kind);
        let is_view = kind == "RULE" && entry.tag.ends_with(" _RETURN");
        let is_object = !(is_part || is_view || kind == "BLOB");
        let is_made = is_object && places.contains_key(&entry.dump_id);
        if is_made && !present.contains(&of_entry(entry)) && seen.insert(of_entry(entry)) {
            changes.created.push(Item::of_entry(entry));
        }
    }
    changes.blockers = blockers(toc, live, &graph, &archived, role);
    changes
}

impl Changes {
    /// Whatever is in a publication leaves it with its table, and comes back where the archive puts it there.
    fn take_memberships(
        &mut self,
        toc: &Toc,
        places: &HashMap<u32, usize>,
        live: &Live,
        graph: &Graph<'_>,
    ) {
        let put_back: HashSet<Named<'_>> = toc
            .entries
            .iter()
            .filter(|entry| places.contains_key(&entry.dump_id))
            .map(of_entry)
            .collect();
        for membership in &live.memberships {
            let named = of_membership(membership);
            if !graph.dropped_at.contains_key(&membership.id) || put_back.contains(&named) {
                continue;
            }
            self.lost.push(Item::of_membership(membership));
            self.unpublished
                .entry(membership.publication.clone())
                .or_default()
                .push(membership.sql());
        }
    }
}

fn is_inline(object: &LiveObject) -> bool {
    INLINE.contains(&object.kind.as_str())
        || object.kind == "RULE" && object.tag.ends_with(" _RETURN")
}

/// Every database has it, and an archive only where it was changed.
fn is_everywhere(object: &LiveObject) -> bool {
    object.kind == "SCHEMA" && object.tag == "public"
}

/// What hangs on what, and when it goes.
pub(super) struct Graph<'a> {
    pub(super) objects: HashMap<ObjectId, &'a LiveObject>,
    /// Who keeps it from being dropped.
    pub(super) kept_by: HashMap<ObjectId, Vec<ObjectId>>,
    /// What goes with it.
    pub(super) followers: HashMap<ObjectId, Vec<ObjectId>>,
    /// What it goes with.
    follows: HashMap<ObjectId, Vec<ObjectId>>,
    /// The place of the entry that drops it, or that with which it goes; from the end of the list, the first.
    pub(super) dropped_at: HashMap<ObjectId, usize>,
}

impl<'a> Graph<'a> {
    fn new(live: &'a Live, archived: &HashMap<Named<'_>, usize>) -> Self {
        let mut graph = Self {
            objects: live
                .objects
                .iter()
                .map(|object| (object.id, object))
                .collect(),
            kept_by: HashMap::new(),
            followers: HashMap::new(),
            follows: HashMap::new(),
            dropped_at: HashMap::new(),
        };
        for (object, on, hold) in &live.holds {
            match hold {
                Hold::Keeps => graph.kept_by.entry(*on).or_default().push(*object),
                Hold::Follows => {
                    graph.followers.entry(*on).or_default().push(*object);
                    graph.follows.entry(*object).or_default().push(*on);
                }
            }
        }
        let mut dropped: Vec<(usize, ObjectId)> = live
            .objects
            .iter()
            .filter_map(|object| Some((*archived.get(&of_live(object))?, object.id)))
            .collect();
        dropped.sort_unstable();
        // The last of the list goes first, and takes with it what follows it.
        for (place, id) in dropped.into_iter().rev() {
            for gone in graph.with_followers(id) {
                graph.dropped_at.entry(gone).or_insert(place);
            }
        }
        graph
    }

    /// It, and what goes with it.
    pub(super) fn with_followers(&self, id: ObjectId) -> Vec<ObjectId> {
        let (mut all, mut seen, mut at) = (vec![id], HashSet::from([id]), 0);
        while let Some(next) = all.get(at).copied() {
            at += 1;
            for follower in self.followers.get(&next).into_iter().flatten() {
                if seen.insert(*follower) {
                    all.push(*follower);
                }
            }
        }
        all
    }

    /// The nearest object that has a name in SQL.
    pub(super) fn named(&self, id: ObjectId) -> Option<&'a LiveObject> {
        let (mut next, mut seen) = (vec![id], HashSet::new());
        while let Some(id) = next.pop() {
            match self.objects.get(&id) {
                // A view's own rule is the view.
                Some(object) if !(object.kind == "RULE" && is_inline(object)) => {
                    return Some(object);
                }
                _ if seen.insert(id) => next.extend(self.follows.get(&id).into_iter().flatten()),
                _ => {}
            }
        }
        None
    }

    /// What it goes with, as far up as that is not dropped by itself.
    fn root(&self, object: &'a LiveObject) -> &'a LiveObject {
        let mut root = object;
        // A chain is as long as an index, a constraint, a partition and their tables; the bound is for a broken catalog.
        for _ in 0..100 {
            let up = self.follows.get(&root.id).into_iter().flatten();
            let mut up = up.filter(|id| !self.dropped_at.contains_key(*id));
            match up.find_map(|id| self.named(*id)) {
                Some(next) if next.id != root.id => root = next,
                _ => break,
            }
        }
        root
    }
}

fn blockers(
    toc: &Toc,
    live: &Live,
    graph: &Graph<'_>,
    archived: &HashMap<Named<'_>, usize>,
    role: &str,
) -> Vec<Blocker> {
    let mut clearing = Clearing::new(graph);
    let renamed = columns(toc, live, &mut clearing);
    for (object, on, hold) in &live.holds {
        let Some(drops) = (*hold == Hold::Keeps)
            .then(|| graph.dropped_at.get(on))
            .flatten()
        else {
            continue;
        };
        let is_gone = graph
            .dropped_at
            .get(object)
            .is_some_and(|gone| gone >= drops);
        let (Some(named), Some(base)) = (graph.named(*object), graph.named(*on)) else {
            continue;
        };
        if is_gone || renamed.contains(&named.id) || named.id == base.id {
            continue;
        }
        if base.kind == "SCHEMA" {
            clearing.add(graph.root(named), Cause::InSchema(base));
        } else {
            clearing.add(named, Cause::HangsOn(base));
        }
    }
    for object in &live.objects {
        let others = [RELATIONS, ROUTINES];
        let group = others
            .iter()
            .find(|group| group.contains(&object.kind.as_str()));
        let was = group
            .into_iter()
            .flat_map(|group| group.iter())
            .find(|kind| {
                **kind != object.kind
                    && archived.contains_key(&(
                        **kind,
                        object.schema.as_deref().map(one_line),
                        one_line(&object.tag),
                    ))
            });
        if let Some(was) = was {
            clearing.add(object, Cause::WasA(was));
        }
    }
    for object in &live.objects {
        let is_archived = archived.contains_key(&of_live(object));
        match object.kind.as_str() {
            "EVENT TRIGGER" if !is_archived && !object.is_disabled => {
                clearing.add(object, Cause::Fires);
            }
            "SUBSCRIPTION" => clearing.add(object, Cause::Subscribes),
            _ => {}
        }
    }
    owners(live, archived, role, &mut clearing);
    clearing.finish()
}

/// Whoever drops something has to own it. One finding for each owner.
fn owners(
    live: &Live,
    archived: &HashMap<Named<'_>, usize>,
    role: &str,
    clearing: &mut Clearing<'_, '_>,
) {
    let mut seen = BTreeSet::new();
    for object in &live.objects {
        let Some(owner) = object.owner.as_ref().filter(|_| !object.is_ours) else {
            continue;
        };
        if archived.contains_key(&of_live(object)) && seen.insert(owner.clone()) {
            clearing.others(object, owner, role);
        }
    }
}

/// The default of a column that is there, by `TABLE COLUMN`.
fn default_of(live: &Live, schema: &str, tag: &str) -> Option<ObjectId> {
    let default = live.objects.iter().find(|object| {
        object.kind == "DEFAULT"
            && object.schema.as_deref() == Some(schema)
            && one_line(&object.tag) == tag
    });
    default.map(|default| default.id)
}

/// `ALTER TABLE … ALTER COLUMN … DROP DEFAULT` ends where the column has another name by now, or is no default's any
/// more. Returns the defaults that the clearing takes care of.
fn columns<'a>(toc: &Toc, live: &'a Live, clearing: &mut Clearing<'_, 'a>) -> HashSet<ObjectId> {
    let mut cared_for = HashSet::new();
    let tables: HashMap<(String, String), &LiveObject> = live
        .objects
        .iter()
        .filter(|object| RELATIONS.contains(&object.kind.as_str()))
        .filter_map(|object| {
            Some((
                (one_line(object.schema.as_deref()?), one_line(&object.tag)),
                object,
            ))
        })
        .collect();
    let archived: HashSet<(&str, &str)> = toc
        .entries
        .iter()
        .filter(|entry| matches!(entry.kind.as_str(), "TABLE" | "FOREIGN TABLE" | "VIEW"))
        .filter_map(|entry| Some((entry.schema.as_deref()?, entry.tag.as_str())))
        .collect();
    let with_default: HashSet<(&str, &str)> = toc
        .of_kind("DEFAULT")
        .filter_map(|entry| Some((entry.schema.as_deref()?, entry.tag.as_str())))
        .collect();
    for entry in toc.of_kind("DEFAULT") {
        let Some(schema) = entry.schema.as_deref() else {
            continue;
        };
        // Table and column are two words, each of which may have spaces.
        let split = entry.tag.match_indices(' ').find_map(|(at, _)| {
            let (table, column) = (&entry.tag[..at], &entry.tag[at + 1..]);
            archived
                .contains(&(schema, table))
                .then_some((table, column))
        });
        let Some((table, column)) = split else {
            continue;
        };
        let Some(object) = tables.get(&(schema.to_owned(), table.to_owned())) else {
            continue;
        };
        let there = live.columns.get(&object.id).map_or(&[][..], Vec::as_slice);
        if let Some(known) = there.iter().find(|known| one_line(&known.name) == column) {
            match known.fixed {
                Some(Fixed::Identity) => clearing.add(object, Cause::IsIdentity(column.to_owned())),
                Some(Fixed::Expression) => {
                    clearing.add(object, Cause::IsExpression(column.to_owned()));
                }
                None => {}
            }
        } else {
            let renamed = there.iter().find(|known| {
                let tag = format!("{table} {}", known.name);
                known.draws_from.is_some() && !with_default.contains(&(schema, tag.as_str()))
            });
            let default = renamed.and_then(|renamed| {
                let tag = format!("{table} {}", renamed.name);
                default_of(live, schema, &tag)
            });
            cared_for.extend(default);
            clearing.add(
                object,
                Cause::NoColumn {
                    column: column.to_owned(),
                    renamed: renamed.map(|column| column.name.clone()),
                },
            );
        }
    }
    cared_for
}
