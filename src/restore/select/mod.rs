//! `--table` and `--schema`: what a person means by them, read from what the archive's entries depend on. Pure.
//!
//! A table comes with its rows, indexes, constraints, defaults, owned sequences, triggers, rules, policies, comments and
//! grants, and a partitioned one with its partitions. What these need (types, functions, a parent table) comes along where
//! the target does not have it, a sequence with its value. Nothing else is touched.

mod partition;

use std::collections::{BTreeMap, BTreeSet};

pub(super) use self::partition::listed;
use super::named::{Named, of_entry, of_live, of_membership};
use crate::pg::inspect::Live;
use crate::pg::{Toc, TocEntry, one_line};

/// Names that are offered for one that does not fit.
const NEAR_MAX: usize = 5;
/// What may be named by `--table`.
const RELATIONS: &[&str] = &[
    "TABLE",
    "FOREIGN TABLE",
    "VIEW",
    "MATERIALIZED VIEW",
    "SEQUENCE",
];
/// What every archive begins with, and nothing works without.
const PREAMBLE: &[&str] = &["ENCODING", "STDSTRINGS", "SEARCHPATH"];
/// What belongs to the one thing that it depends on.
const PARTS: &[&str] = &[
    "ACL",
    "COMMENT",
    "INDEX",
    "INDEX ATTACH",
    "MATERIALIZED VIEW DATA",
    "ROW SECURITY",
    "SECURITY LABEL",
    "SEQUENCE",
    "SEQUENCE OWNED BY",
    "SEQUENCE SET",
    "STATISTICS",
    "STATISTICS DATA",
    "TABLE DATA",
];
/// What is named `TABLE NAME`, and belongs to that table though it may depend on others.
const NAMED_BY_TABLE: &[&str] = &[
    "CHECK CONSTRAINT",
    "CONSTRAINT",
    "DEFAULT",
    "FK CONSTRAINT",
    "POLICY",
    "RULE",
    "TRIGGER",
];

/// What somebody chose, by exact names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// `schema.name`, each as it is: without quotes.
    pub tables: Vec<String>,
    /// Schemas.
    pub schemas: Vec<String>,
}

impl Selection {
    /// Whether nothing was chosen, so that everything is meant.
    #[must_use]
    pub const fn is_everything(&self) -> bool {
        self.tables.is_empty() && self.schemas.is_empty()
    }

    pub(super) fn names(&self) -> Vec<String> {
        let schemas = self.schemas.iter().map(|schema| format!("schema {schema}"));
        self.tables.iter().cloned().chain(schemas).collect()
    }
}

/// What a selection comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Picked {
    /// Numbers of the entries.
    pub(super) entries: BTreeSet<u32>,
    /// Tables whose rows come: schema and name.
    pub(super) tables: BTreeSet<(String, String)>,
    /// Foreign keys that are left out, because the table that they point to is neither chosen nor there.
    pub(super) without: Vec<String>,
    /// Foreign keys that point to tables that are there, and were not chosen.
    pub(super) outward: Vec<String>,
    /// Needed, not chosen, and not there: made, and tables among them without rows.
    pub(super) along: Vec<String>,
    /// Materialized views that are filled from such tables, and the tables.
    pub(super) hollow: Vec<(String, Vec<String>)>,
    /// Indexes and keys of partitions whose parent stays, by number: it gives them to a partition that it gets.
    pub(super) inherited: BTreeMap<u32, String>,
    /// What such an index is beside that, as a replica identity: statements that make it so again.
    pub(super) unmarked: Vec<String>,
}

/// Why nothing could be picked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotPicked {
    /// No such thing in the backup.
    #[error("the backup has no {sort} {name}{}", nearby(near))]
    NoSuch {
        /// `table` or `schema`.
        sort: &'static str,
        /// What was asked for.
        name: String,
        /// Names that are like it.
        near: Vec<String>,
    },
    /// The list was recorded by an older program.
    #[error(
        "the backup's recorded list does not say what belongs to a table\nhint: restore the whole backup with --mode new, and copy the tables from there"
    )]
    NoDependencies,
}

fn nearby(near: &[String]) -> String {
    if near.is_empty() {
        return String::from("\nhint: pgseal show BACKUP lists its tables");
    }
    format!("\nhint: it has {}", near.join(", "))
}

/// Picks the entries. `live` is what the target has, where it is there.
///
/// # Errors
/// A name is not in the backup.
pub(super) fn pick(
    toc: &Toc,
    selection: &Selection,
    live: Option<&Live>,
) -> Result<Picked, NotPicked> {
    if !toc.has_dependencies {
        return Err(NotPicked::NoDependencies);
    }
    let there = live.map(present).unwrap_or_default();
    let mut picking = Picking::new(toc, there);
    for name in &selection.tables {
        picking.table(name)?;
    }
    for name in &selection.schemas {
        picking.schema(name)?;
    }
    picking.parts();
    picking.leave_to_parents(live);
    picking.needs();
    Ok(picking.finish())
}

fn present(live: &Live) -> BTreeSet<Named<'_>> {
    let memberships = live.memberships.iter().map(of_membership);
    live.objects
        .iter()
        .map(of_live)
        .chain(memberships)
        .collect()
}

struct Picking<'a> {
    toc: &'a Toc,
    there: BTreeSet<Named<'a>>,
    by_number: BTreeMap<u32, &'a TocEntry>,
    /// What attaches a table or an index, by the numbers of both sides: there may be thousands.
    attaches: BTreeMap<u32, Vec<&'a TocEntry>>,
    picked: Picked,
    /// Those that are only needed.
    along: BTreeSet<u32>,
    /// Those that were named, or hang on one that was: all of their parts come.
    whole: BTreeSet<u32>,
}

impl<'a> Picking<'a> {
    fn new(toc: &'a Toc, there: BTreeSet<Named<'a>>) -> Self {
        let by_number = toc.entries.iter().map(|entry| (entry.dump_id, entry));
        let mut attaches: BTreeMap<u32, Vec<&TocEntry>> = BTreeMap::new();
        for attach in toc
            .of_kind("TABLE ATTACH")
            .chain(toc.of_kind("INDEX ATTACH"))
        {
            for on in &attach.depends_on {
                attaches.entry(*on).or_default().push(attach);
            }
        }
        let preamble = toc
            .entries
            .iter()
            .filter(|entry| PREAMBLE.contains(&entry.kind.as_str()));
        let picked = Picked {
            entries: preamble.map(|entry| entry.dump_id).collect(),
            ..Picked::default()
        };
        Self {
            toc,
            there,
            by_number: by_number.collect(),
            attaches,
            picked,
            along: BTreeSet::new(),
            whole: BTreeSet::new(),
        }
    }

    fn table(&mut self, name: &str) -> Result<(), NotPicked> {
        let relations = || {
            self.toc
                .entries
                .iter()
                .filter(|entry| RELATIONS.contains(&entry.kind.as_str()))
        };
        let full = |entry: &TocEntry| {
            let schema = entry.schema.as_deref().unwrap_or_default();
            format!("{schema}.{}", entry.tag)
        };
        let wanted = one_line(name);
        let found: Vec<u32> = relations()
            .filter(|entry| full(entry) == wanted)
            .map(|entry| entry.dump_id)
            .collect();
        if found.is_empty() {
            return Err(NotPicked::NoSuch {
                sort: "table",
                name: name.to_owned(),
                near: near(name, relations().map(full)),
            });
        }
        self.whole.extend(found);
        Ok(())
    }

    fn schema(&mut self, name: &str) -> Result<(), NotPicked> {
        let wanted = one_line(name);
        let inside: Vec<u32> = self
            .toc
            .entries
            .iter()
            .filter(|entry| entry.schema.as_deref() == Some(&wanted))
            .map(|entry| entry.dump_id)
            .collect();
        let own = self.toc.of_kind("SCHEMA").find(|entry| entry.tag == wanted);
        if inside.is_empty() && own.is_none() {
            let schemas: BTreeSet<&str> = self
                .toc
                .entries
                .iter()
                .filter_map(|entry| entry.schema.as_deref())
                .collect();
            return Err(NotPicked::NoSuch {
                sort: "schema",
                name: name.to_owned(),
                near: near(name, schemas.into_iter().map(str::to_owned)),
            });
        }
        // A schema that stays is still in its publications, and cannot be put into them twice.
        let stays = |number: &u32| {
            let entry = self.by_number.get(number);
            entry.is_some_and(|entry| {
                entry.kind == "PUBLICATION TABLES IN SCHEMA" && self.is_there(entry)
            })
        };
        let parts: Vec<u32> = inside.into_iter().filter(|part| !stays(part)).collect();
        self.whole.extend(parts);
        // Its own entry would drop it, with whatever somebody else put there.
        if let Some(own) = own.filter(|own| !self.is_there(own)) {
            self.whole.insert(own.dump_id);
        }
        Ok(())
    }

    fn is_there(&self, entry: &TocEntry) -> bool {
        self.there.contains(&of_entry(entry)) || entry.kind == "SCHEMA" && entry.tag == "public"
    }

    /// Adds what belongs to what is picked, until nothing is added any more: a comment on an index on a partition.
    fn parts(&mut self) {
        loop {
            let more: Vec<u32> = self
                .toc
                .entries
                .iter()
                .filter(|entry| !self.whole.contains(&entry.dump_id) && self.is_part(entry))
                .map(|entry| entry.dump_id)
                .collect();
            if more.is_empty() {
                break;
            }
            self.whole.extend(more);
        }
        let whole = self.whole.clone();
        let keys = whole.iter().filter_map(|number| self.by_number.get(number));
        let keys: Vec<&TocEntry> = keys.copied().collect();
        for entry in keys {
            if entry.kind == "FK CONSTRAINT" {
                self.foreign_key(entry);
            } else {
                self.picked.entries.insert(entry.dump_id);
            }
        }
    }

    fn is_part(&self, entry: &TocEntry) -> bool {
        let on = |kinds: &[&str]| {
            let whole = entry.depends_on.iter().filter(|on| self.whole.contains(on));
            let entries = whole.filter_map(|on| self.by_number.get(on));
            let mut fitting =
                entries.filter(|on| kinds.is_empty() || kinds.contains(&on.kind.as_str()));
            fitting.next().copied()
        };
        match entry.kind.as_str() {
            // A partition of a table that was chosen.
            "TABLE" | "FOREIGN TABLE" => {
                self.attached(entry.dump_id, "TABLE ATTACH").any(|attach| {
                    attach.schema == entry.schema
                        && attach.tag == entry.tag
                        && attach
                            .depends_on
                            .iter()
                            .any(|parent| *parent != entry.dump_id && self.whole.contains(parent))
                })
            }
            "TABLE ATTACH" => {
                let tables = entry.depends_on.iter();
                let mut tables = tables.filter_map(|on| self.by_number.get(on));
                let has = |table: &&TocEntry| self.whole.contains(&table.dump_id);
                let own =
                    |table: &&TocEntry| table.tag == entry.tag && table.schema == entry.schema;
                on(&["TABLE", "FOREIGN TABLE"]).is_some()
                    && tables.all(|table| has(table) || !own(table) && self.is_there(table))
            }
            "INDEX ATTACH" => {
                let needs = entry
                    .depends_on
                    .iter()
                    .filter_map(|on| self.by_number.get(on));
                let mut needs = needs.filter(|on| on.kind != "SCHEMA");
                needs.all(|on| self.whole.contains(&on.dump_id)) && on(&[]).is_some()
            }
            // On its own table; a foreign key depends on the other one, too.
            kind if NAMED_BY_TABLE.contains(&kind) => {
                let tables = entry.depends_on.iter().filter(|on| self.whole.contains(on));
                let mut tables = tables.filter_map(|on| self.by_number.get(on));
                tables.any(|table| {
                    table.schema == entry.schema
                        && RELATIONS.contains(&table.kind.as_str())
                        && entry
                            .tag
                            .strip_prefix(table.tag.as_str())
                            .is_some_and(|rest| rest.starts_with(' '))
                })
            }
            "SEQUENCE" => on(&["TABLE", "FOREIGN TABLE"]).is_some(),
            kind if PARTS.contains(&kind) => on(&[]).is_some(),
            _ => false,
        }
    }

    fn attached(&self, on: u32, kind: &'static str) -> impl Iterator<Item = &'a TocEntry> {
        let attaches = self.attaches.get(&on).into_iter().flatten().copied();
        attaches.filter(move |attach| attach.kind == kind)
    }

    fn foreign_key(&mut self, entry: &TocEntry) {
        let tables = entry
            .depends_on
            .iter()
            .filter_map(|on| self.by_number.get(on));
        let others: Vec<&TocEntry> = tables
            .copied()
            .filter(|on| on.kind == "TABLE" && !self.whole.contains(&on.dump_id))
            .collect();
        if others.is_empty() {
            self.picked.entries.insert(entry.dump_id);
        } else if others.iter().all(|table| self.is_there(table)) {
            self.picked.entries.insert(entry.dump_id);
            self.picked.outward.push(entry.title());
        } else {
            self.picked.without.push(entry.title());
        }
    }

    /// Adds what is needed and not there. Of a table that is only needed, the rows stay behind; a sequence that began anew
    /// would give numbers that are in the rows already.
    fn needs(&mut self) {
        let mut open: Vec<u32> = self.picked.entries.iter().copied().collect();
        while let Some(number) = open.pop() {
            let Some(entry) = self.by_number.get(&number) else {
                continue;
            };
            for on in &entry.depends_on {
                let Some(needed) = self.by_number.get(on) else {
                    continue;
                };
                let is_made = self.picked.entries.contains(on) || self.is_inherited(*on);
                // A foreign key waits for the parent's indexes to be whole; those of a parent that stays are.
                if is_made || needed.kind == "INDEX ATTACH" || self.is_there(needed) {
                    continue;
                }
                self.picked.entries.insert(*on);
                self.along.insert(*on);
                self.picked.along.push(needed.title());
                open.push(*on);
                if needed.kind == "SEQUENCE" {
                    self.picked.entries.extend(self.value_of(*on));
                }
            }
        }
    }

    fn value_of(&self, sequence: u32) -> impl Iterator<Item = u32> + use<'a> {
        let values = self.toc.of_kind("SEQUENCE SET");
        values
            .filter(move |value| value.depends_on.contains(&sequence))
            .map(|value| value.dump_id)
    }

    /// Tables without rows that a view reads, by way of other views or not.
    fn rowless(&self, view: &TocEntry) -> Vec<String> {
        let (mut open, mut seen) = (view.depends_on.clone(), BTreeSet::new());
        let mut found = BTreeSet::new();
        while let Some(number) = open.pop() {
            let Some(entry) = self.by_number.get(&number) else {
                continue;
            };
            // What a view reads that is there already, has what it has.
            if !self.picked.entries.contains(&number) || !seen.insert(number) {
                continue;
            }
            match entry.kind.as_str() {
                "TABLE" if self.along.contains(&number) => {
                    found.insert(entry.title());
                }
                "VIEW" | "MATERIALIZED VIEW" | "RULE" => open.extend(&entry.depends_on),
                _ => {}
            }
        }
        found.into_iter().collect()
    }

    fn finish(mut self) -> Picked {
        let views = self.toc.of_kind("MATERIALIZED VIEW");
        let views = views.filter(|view| self.picked.entries.contains(&view.dump_id));
        let hollow = views.map(|view| (view.title(), self.rowless(view)));
        self.picked.hollow = hollow.filter(|(_, tables)| !tables.is_empty()).collect();
        let data = self.toc.of_kind("TABLE DATA");
        let data = data.filter(|entry| self.picked.entries.contains(&entry.dump_id));
        self.picked.tables = data
            .filter_map(|entry| Some((entry.schema.clone()?, entry.tag.clone())))
            .collect();
        self.picked.along.sort();
        self.picked.without.sort();
        self.picked.outward.sort();
        self.picked
    }
}

/// Names that somebody may have meant: the same in another schema or case first, then by their distance.
fn near(wanted: &str, names: impl Iterator<Item = String>) -> Vec<String> {
    let bare = |name: &str| {
        let name = name.to_lowercase();
        name.rsplit_once('.')
            .map_or(name.clone(), |(_, table)| table.to_owned())
    };
    let lower = wanted.to_lowercase();
    let mut rated: Vec<(usize, String)> = names
        .map(|name| {
            let rating = if bare(&name) == bare(wanted) {
                0
            } else {
                distance(&lower, &name.to_lowercase())
                    .min(distance(&bare(wanted), &bare(&name)) + 1)
            };
            (rating, name)
        })
        .filter(|(rating, _)| *rating <= 1 + wanted.chars().count() / 3)
        .collect();
    rated.sort();
    rated.dedup();
    rated.truncate(NEAR_MAX);
    rated.into_iter().map(|(_, name)| name).collect()
}

/// How many letters have to be added, taken away or changed (Levenshtein).
fn distance(one: &str, two: &str) -> usize {
    let two: Vec<char> = two.chars().collect();
    let mut row: Vec<usize> = (0..=two.len()).collect();
    for (index, letter) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (column, other) in two.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[two.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "1; 0 0 ENCODING - ENCODING \n\
        10; 0 0 SCHEMA - shop o\n\
        11; 0 0 TYPE shop state o\n;\tdepends on: 10\n\
        20; 0 0 TABLE shop orders o\n;\tdepends on: 11 10\n\
        21; 0 0 SEQUENCE shop orders_id_seq o\n;\tdepends on: 10 20\n\
        22; 0 0 SEQUENCE OWNED BY shop orders_id_seq o\n;\tdepends on: 21\n\
        23; 0 0 TABLE shop customers o\n;\tdepends on: 10\n\
        24; 0 0 DEFAULT shop orders id o\n;\tdepends on: 20 21\n\
        25; 0 0 TABLE DATA shop orders o\n;\tdepends on: 20\n\
        26; 0 0 TABLE DATA shop customers o\n;\tdepends on: 23\n\
        27; 0 0 SEQUENCE SET shop orders_id_seq o\n;\tdepends on: 21\n\
        28; 0 0 CONSTRAINT shop customers customers_pkey o\n;\tdepends on: 23\n\
        29; 0 0 CONSTRAINT shop orders orders_pkey o\n;\tdepends on: 20\n\
        30; 0 0 FK CONSTRAINT shop orders orders_customer_fkey o\n;\tdepends on: 20 28 23\n\
        31; 0 0 COMMENT shop TABLE orders o\n;\tdepends on: 20\n";

    fn numbers(selection: &Selection, live: Option<&Live>) -> (Vec<u32>, Picked) {
        let toc = Toc::read(LIST, &["o".to_owned()], &[]);
        let picked = pick(&toc, selection, live).unwrap();
        (picked.entries.iter().copied().collect(), picked)
    }

    fn tables(names: &[&str]) -> Selection {
        Selection {
            tables: names.iter().map(|name| (*name).to_owned()).collect(),
            schemas: Vec::new(),
        }
    }

    #[test]
    fn a_table_comes_with_what_belongs_to_it_and_what_it_needs() {
        let (entries, picked) = numbers(&tables(&["shop.orders"]), None);
        assert_eq!(entries, [1, 10, 11, 20, 21, 22, 24, 25, 27, 29, 31]);
        assert_eq!(
            picked.without,
            ["FK CONSTRAINT shop.orders orders_customer_fkey"]
        );
        assert_eq!(picked.along, ["SCHEMA shop", "TYPE shop.state"]);
        assert_eq!(picked.tables.len(), 1);
    }

    #[test]
    fn both_ends_of_a_foreign_key_bring_it() {
        let (entries, picked) = numbers(&tables(&["shop.orders", "shop.customers"]), None);
        assert!(entries.contains(&30) && picked.without.is_empty());
        let schema = Selection {
            schemas: vec!["shop".to_owned()],
            ..Selection::default()
        };
        assert_eq!(numbers(&schema, None).0.len(), 15);
    }

    #[test]
    fn names_that_do_not_fit_name_those_that_nearly_do() {
        let toc = Toc::read(LIST, &["o".to_owned()], &[]);
        let error = |name: &str| pick(&toc, &tables(&[name]), None).unwrap_err().to_string();
        assert!(error("orders").contains("hint: it has shop.orders"));
        assert!(error("shop.Order").contains("hint: it has shop.orders"));
        assert!(error("public.customers").contains("shop.customers"));
        assert!(error("xyz").contains("pgseal show"));
    }
}
