//! An archive's list, read entry by entry: kind, schema, name, owner, and what each depends on.
//!
//! pg_restore prints these words side by side, and names may hold spaces. So schemas are told apart by the archive's own
//! `SCHEMA` entries, owners by the roles that are known, and what is left is the name. Line breaks inside names stand as
//! spaces there, which [`one_line`] does to a name that is compared with one of these.

use std::collections::{BTreeMap, BTreeSet};

/// What pg_dump calls the entries, as far as one name begins another, or has several words.
const KINDS: &[&str] = &[
    "ACCESS METHOD",
    "ACL LANGUAGE",
    "ACL",
    "AGGREGATE",
    "BLOB COMMENTS",
    "BLOB METADATA",
    "BLOB",
    "BLOBS",
    "CAST",
    "CHECK CONSTRAINT",
    "COLLATION",
    "COMMENT",
    "CONSTRAINT",
    "CONVERSION",
    "DATABASE PROPERTIES",
    "DATABASE",
    "DEFAULT ACL",
    "DEFAULT",
    "DOMAIN",
    "ENCODING",
    "EVENT TRIGGER",
    "EXTENSION",
    "FK CONSTRAINT",
    "FOREIGN DATA WRAPPER",
    "FOREIGN TABLE",
    "FUNCTION",
    "INDEX ATTACH",
    "INDEX",
    "LARGE OBJECT",
    "MATERIALIZED VIEW DATA",
    "MATERIALIZED VIEW",
    "OPERATOR CLASS",
    "OPERATOR FAMILY",
    "OPERATOR",
    "POLICY",
    "PROCEDURAL LANGUAGE",
    "PROCEDURE",
    "PUBLICATION TABLES IN SCHEMA",
    "PUBLICATION TABLE",
    "PUBLICATION",
    "ROW SECURITY",
    "RULE",
    "SCHEMA",
    "SEARCHPATH",
    "SECURITY LABEL",
    "SEQUENCE OWNED BY",
    "SEQUENCE SET",
    "SEQUENCE",
    "SERVER",
    "SHELL TYPE",
    "STATISTICS DATA",
    "STATISTICS",
    "STDSTRINGS",
    "SUBSCRIPTION TABLE",
    "SUBSCRIPTION",
    "TABLE ATTACH",
    "TABLE DATA",
    "TABLE",
    "TEXT SEARCH CONFIGURATION",
    "TEXT SEARCH DICTIONARY",
    "TEXT SEARCH PARSER",
    "TEXT SEARCH TEMPLATE",
    "TRANSFORM",
    "TRIGGER",
    "TYPE",
    "USER MAPPING",
    "VIEW",
];

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TocEntry {
    /// The archive's number for it.
    pub dump_id: u32,
    /// What it is, as pg_dump calls it: `TABLE`, `FK CONSTRAINT`.
    pub kind: String,
    /// The schema that it is in; `None` for what is in none.
    pub schema: Option<String>,
    /// Its name, as pg_dump writes it: a function's with its arguments, a constraint's behind its table's.
    pub tag: String,
    /// Who owns it; empty where nobody does.
    pub owner: String,
    /// The entries that it needs, and a few that are in no list.
    pub depends_on: Vec<u32>,
    /// The line, as it stands in the list.
    pub line: String,
}

impl TocEntry {
    /// `TABLE public.orders`, for people.
    #[must_use]
    pub fn title(&self) -> String {
        match &self.schema {
            Some(schema) => format!("{} {schema}.{}", self.kind, self.tag),
            None => format!("{} {}", self.kind, self.tag),
        }
    }
}

/// A list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Toc {
    /// Its entries, in its order.
    pub entries: Vec<TocEntry>,
    /// Whether it says what depends on what. A list that an older program recorded does not.
    pub has_dependencies: bool,
}

impl Toc {
    /// Reads a list. `roles` and `schemas` are known ones; those that the list names itself need not be among them.
    #[must_use]
    pub fn read(list: &str, roles: &[String], schemas: &[String]) -> Self {
        let roles: BTreeSet<String> = roles.iter().map(|role| one_line(role)).collect();
        let mut lines: Vec<Line<'_>> = Vec::new();
        let mut has_dependencies = false;
        for text in list.lines() {
            if let Some(numbers) = text.strip_prefix(";\tdepends on:") {
                has_dependencies = true;
                if let Some(line) = lines.last_mut() {
                    line.depends_on = numbers
                        .split_whitespace()
                        .filter_map(|number| number.parse().ok())
                        .collect();
                }
            } else if !text.starts_with(';') {
                lines.extend(Line::read(text));
            }
        }
        let mut known: BTreeSet<String> = schemas.iter().map(|schema| one_line(schema)).collect();
        known.insert("public".to_owned());
        for line in &lines {
            if let Some(rest) = line.words.strip_prefix("SCHEMA - ") {
                known.insert(without_owner(rest, &roles).0.to_owned());
            }
        }
        let by_number: BTreeMap<u32, &str> = lines
            .iter()
            .filter_map(|line| {
                let name = line.words.strip_prefix("SCHEMA - ")?;
                Some((line.dump_id, without_owner(name, &roles).0))
            })
            .collect();
        let entries = lines
            .iter()
            .map(|line| line.entry(&roles, &known, &by_number))
            .collect();
        Self {
            entries,
            has_dependencies,
        }
    }

    /// The entries of a kind.
    pub fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a TocEntry> {
        self.entries.iter().filter(move |entry| entry.kind == kind)
    }

    /// Everybody who owns an entry.
    #[must_use]
    pub fn owners(&self) -> BTreeSet<&str> {
        let owners = self.entries.iter().map(|entry| entry.owner.as_str());
        owners.filter(|owner| !owner.is_empty()).collect()
    }
}

/// A line, cut as far as its numbers go.
struct Line<'a> {
    dump_id: u32,
    words: &'a str,
    text: &'a str,
    depends_on: Vec<u32>,
}

impl<'a> Line<'a> {
    /// `3456; 0 16403 TABLE DATA public orders postgres`: number, catalog's table, object id, then words.
    fn read(text: &'a str) -> Option<Self> {
        let (number, rest) = text.split_once("; ")?;
        let mut parts = rest.splitn(3, ' ');
        let (_catalog, _oid, words) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Self {
            dump_id: number.parse().ok()?,
            words,
            text,
            depends_on: Vec::new(),
        })
    }

    fn entry(
        &self,
        roles: &BTreeSet<String>,
        schemas: &BTreeSet<String>,
        by_number: &BTreeMap<u32, &str>,
    ) -> TocEntry {
        let (kind, rest) = kind_of(self.words);
        // What it depends on names its schema for certain; a known name in front is the next best.
        let certain = self.depends_on.iter().filter_map(|number| {
            let schema = *by_number.get(number)?;
            Some((schema, rest.strip_prefix(schema)?.strip_prefix(' ')?))
        });
        let likely = schemas.iter().filter_map(|schema| {
            Some((
                schema.as_str(),
                rest.strip_prefix(schema.as_str())?.strip_prefix(' ')?,
            ))
        });
        let longest = |(schema, _): &(&str, &str)| schema.len();
        let (schema, rest) = match rest.strip_prefix("- ") {
            Some(rest) => (None, rest),
            None => match certain.max_by_key(longest).or(likely.max_by_key(longest)) {
                Some((schema, rest)) => (Some(schema), rest),
                None => rest
                    .split_once(' ')
                    .map_or((None, rest), |(schema, rest)| (Some(schema), rest)),
            },
        };
        let (tag, owner) = without_owner(rest, roles);
        TocEntry {
            dump_id: self.dump_id,
            kind: kind.to_owned(),
            schema: schema.map(str::to_owned),
            tag: tag.to_owned(),
            owner: owner.to_owned(),
            depends_on: self.depends_on.clone(),
            line: self.text.to_owned(),
        }
    }
}

fn kind_of(words: &str) -> (&str, &str) {
    let known = KINDS.iter().filter_map(|kind| {
        let rest = words.strip_prefix(kind)?.strip_prefix(' ')?;
        Some((&words[..kind.len()], rest))
    });
    known
        .max_by_key(|(kind, _)| kind.len())
        .or_else(|| words.split_once(' '))
        .unwrap_or((words, ""))
}

/// The owner stands last. Nobody owns an entry that ends in a space, unless there is a role whose name does.
fn without_owner<'a>(rest: &'a str, roles: &BTreeSet<String>) -> (&'a str, &'a str) {
    let known = roles.iter().filter_map(|role| {
        let tag = rest.strip_suffix(role.as_str())?.strip_suffix(' ')?;
        Some((tag, &rest[tag.len() + 1..]))
    });
    known
        .max_by_key(|(_, owner)| owner.len())
        .or_else(|| Some((rest.strip_suffix(' ')?, "")))
        .or_else(|| rest.rsplit_once(' '))
        .unwrap_or((rest, ""))
}

/// A name as a list has it: on one line.
#[must_use]
pub fn one_line(name: &str) -> String {
    name.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = ";     Dumped by pg_dump version: 15.18\n\
        1; 0 0 ENCODING - ENCODING \n\
        13; 2615 17585 SCHEMA - Größe & Gewicht the owner\n\
        15; 2615 17584 SCHEMA - shop postgres\n\
        16; 2615 17584 SCHEMA - shop two postgres\n\
        ;\tdepends on: 15\n\
        20; 1259 1 TABLE shop two words postgres\n\
        ;\tdepends on: 15\n\
        21; 1259 1 TABLE shop two words the owner\n\
        ;\tdepends on: 16 99\n\
        22; 2606 2 FK CONSTRAINT shop two words words_fkey the owner\n\
        23; 1255 3 FUNCTION public f(integer, text) stranger\n\
        24; 0 0 ACL - SCHEMA shop postgres\n\
        25; 0 0 COMMENT - EXTENSION hstore \n\
        26; 1 1 NOVELTY public n postgres\n";

    #[test]
    fn names_with_spaces_are_read() {
        let roles = ["postgres".to_owned(), "the owner".to_owned()];
        let toc = Toc::read(LIST, &roles, &[]);
        assert!(toc.has_dependencies);
        let read: Vec<_> = toc
            .entries
            .iter()
            .map(|entry| (entry.dump_id, entry.title(), entry.owner.as_str()))
            .collect();
        let expected = [
            (1, "ENCODING ENCODING", ""),
            (13, "SCHEMA Größe & Gewicht", "the owner"),
            (15, "SCHEMA shop", "postgres"),
            (16, "SCHEMA shop two", "postgres"),
            (20, "TABLE shop.two words", "postgres"),
            (21, "TABLE shop two.words", "the owner"),
            (22, "FK CONSTRAINT shop two.words words_fkey", "the owner"),
            (23, "FUNCTION public.f(integer, text)", "stranger"),
            (24, "ACL SCHEMA shop", "postgres"),
            (25, "COMMENT EXTENSION hstore", ""),
            (26, "NOVELTY public.n", "postgres"),
        ];
        let expected = expected.map(|(id, title, owner)| (id, title.to_owned(), owner));
        assert_eq!(read, expected);
        assert_eq!(toc.entries[5].depends_on, [16, 99]);
    }
}
