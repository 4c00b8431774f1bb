//! Rows are counted inside the one transaction of a load in place, so that a load that brought too few is rolled back, and
//! nobody can write between the load and the count.
//!
//! Only pg_restore has that transaction. So it is given a few entries more than the archive has, right behind the last rows:
//! each counts a table, and fails where the number is not the manifest's. They stand in front of the archive's own table of
//! contents, whose form has been the same since PostgreSQL 11 (`WriteHead`, `WriteToc` in pg_backup_archiver.c): a number
//! of entries, then the entries. A list that pg_restore works by says when each of them is carried out.

use std::collections::BTreeSet;

use super::toc::{Toc, one_line};
use crate::model::manifest::TableFacts;

/// How a failed check begins what it says; no server translates it.
const SAYS: &str = "pgseal counted: ";
/// What it says between the two numbers.
const BUT: &str = " rows, the backup ";
/// What such an entry is called among the others.
const KIND: &str = "ROW COUNT";
/// So far behind the numbers in the list: a few entries have one and are not listed.
const NUMBERS_APART: u32 = 1 << 16;
/// An archive's head is a few hundred bytes, and three names of any length.
const HEAD_BYTES_MAX: usize = 1 << 20;

/// One statement that fails where rows are missing.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Check {
    table: String,
    sql: String,
}

/// What is counted in a load's transaction, and what is not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowChecks {
    checks: Vec<Check>,
    /// Tables that are counted.
    pub tables: usize,
    /// Rows that they have to have, in all.
    pub rows: u64,
    /// Tables of extensions, which count by a condition of theirs, and those whose names need an encoding.
    pub unchecked: Vec<TableFacts>,
}

impl RowChecks {
    /// The checks of tables with recorded rows, of a database of this encoding. `None`: the archive's form is not known, and
    /// cannot be added to.
    #[must_use]
    pub fn of(recorded: &[TableFacts], encoding: &str, toc: &Toc, list: &str) -> Option<Self> {
        if !is_known_form(list) {
            return None;
        }
        let names = |kind| -> BTreeSet<(&str, &str)> {
            toc.of_kind(kind)
                .filter_map(|entry| Some((entry.schema.as_deref()?, entry.tag.as_str())))
                .collect()
        };
        let (made, attached) = (names("TABLE"), names("TABLE ATTACH"));
        let mut found = Self::default();
        let mut of_partitions: Option<u64> = None;
        for facts in recorded {
            let Some(rows) = facts.rows else { continue };
            let (schema, name) = (one_line(&facts.schema), one_line(&facts.name));
            let key = (schema.as_str(), name.as_str());
            // pg_restore's session speaks the encoding of the dump.
            let is_plain = encoding == "UTF8" || (schema.is_ascii() && name.is_ascii());
            if !made.contains(&key) || !is_plain {
                found.unchecked.push(facts.clone());
                continue;
            }
            found.tables += 1;
            found.rows += rows;
            if attached.contains(&key) {
                // The same rows may lie in other partitions: hashes of an enum's values depend on their object ids.
                *of_partitions.get_or_insert(0) += rows;
                found.checks.push(adding(facts));
            } else {
                found.checks.push(exact(facts, rows));
            }
        }
        if let Some(rows) = of_partitions {
            found.checks.push(Check {
                table: "partitions".to_owned(),
                sql: failing(
                    "all partitions together",
                    "max(current_setting('pgseal.partition_rows')::bigint)",
                    rows,
                    "(VALUES (1)) AS one",
                ),
            });
        }
        Some(found)
    }

    /// What a check that failed found, out of what pg_restore said.
    #[must_use]
    pub fn found_in(stderr: &str) -> Option<String> {
        stderr.match_indices(SAYS).find_map(|(at, _)| {
            let said = &stderr[at + SAYS.len()..];
            let (before, after) = said.split_once(BUT)?;
            let recorded = after.split(|c: char| !c.is_ascii_digit()).next()?;
            // The statement itself, which pg_restore shows too, has no number there.
            let is_found = before.ends_with(|c: char| c.is_ascii_digit()) && !recorded.is_empty();
            is_found.then(|| format!("{before}{BUT}{recorded}"))
        })
    }

    /// A list of some of the archive's entries, with the checks behind the last rows.
    pub(super) fn in_list(&self, list: &str, archive_list: &str) -> String {
        let first = first_number(archive_list);
        let lines = (first..).zip(&self.checks);
        let checks: String = lines
            .map(|(number, check)| format!("{number}; 0 0 {KIND} - {} \n", one_line(&check.table)))
            .collect();
        let is_rows = |line: &str| {
            let words = line.splitn(4, ' ').nth(3).unwrap_or_default();
            ["TABLE DATA ", "BLOBS ", "SEQUENCE SET "]
                .iter()
                .any(|kind| words.starts_with(kind))
        };
        let lines: Vec<&str> = list.lines().collect();
        let behind = lines
            .iter()
            .rposition(|line| is_rows(line))
            .map_or(lines.len(), |at| at + 1);
        let text =
            |lines: &[&str]| -> String { lines.iter().map(|line| format!("{line}\n")).collect() };
        text(&lines[..behind]) + &checks + &text(&lines[behind..])
    }

    /// What puts them into the archive as it passes.
    pub(super) fn splice(&self, archive_list: &str) -> Splice {
        let first = first_number(archive_list);
        Splice {
            head: Vec::new(),
            entries: (first..).zip(self.checks.clone()).collect(),
            is_done: self.checks.is_empty(),
        }
    }
}

fn first_number(archive_list: &str) -> u32 {
    let number = |line: &str| line.split_once("; ")?.0.parse::<u32>().ok();
    archive_list.lines().filter_map(number).max().unwrap_or(0) + NUMBERS_APART
}

/// The custom form, in the versions that pg_dump 11 to 18 write.
fn is_known_form(list: &str) -> bool {
    let head = |name: &str| {
        let mut lines = list.lines().take_while(|line| line.starts_with(';'));
        lines.find_map(|line| line.trim_start_matches([';', ' ']).strip_prefix(name))
    };
    head("Format: ") == Some("CUSTOM")
        && head("Dump Version: ").is_some_and(|version| {
            ["1.13-", "1.14-", "1.15-", "1.16-"]
                .iter()
                .any(|known| version.starts_with(known))
        })
}

fn sql_name(facts: &TableFacts) -> String {
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    format!("{}.{}", quoted(&facts.schema), quoted(&facts.name))
}

fn title(facts: &TableFacts) -> String {
    one_line(&format!("{}.{}", facts.schema, facts.name))
}

fn exact(facts: &TableFacts, rows: u64) -> Check {
    Check {
        table: title(facts),
        sql: failing(
            &title(facts),
            "count(*)",
            rows,
            &format!("ONLY {}", sql_name(facts)),
        ),
    }
}

/// Adds a partition's rows to those of the others.
fn adding(facts: &TableFacts) -> Check {
    Check {
        table: title(facts),
        sql: format!(
            "SELECT pg_catalog.set_config('pgseal.partition_rows', \
                (coalesce(nullif(pg_catalog.current_setting('pgseal.partition_rows', true), ''), '0')::bigint + count(*))::text, true) \
             FROM ONLY {};",
            sql_name(facts)
        ),
    }
}

/// A text that is no number cannot be read as one, and the server shows the text: so it needs no language but SQL.
fn failing(what: &str, count: &str, rows: u64, from: &str) -> String {
    let text = |text: &str| {
        let text = text.replace('\\', "\\\\").replace('\'', "''");
        format!("E'{text}'")
    };
    format!(
        "SELECT CASE WHEN {count} = {rows} THEN 0 ELSE ({} || {count} || {})::integer END FROM {from};",
        text(&format!("{SAYS}{what} has ")),
        text(&format!("{BUT}{rows}")),
    )
}

/// Passes an archive on, with entries more than it has.
#[derive(Debug)]
pub(super) struct Splice {
    /// What came so far, until the number of entries is among it.
    head: Vec<u8>,
    entries: Vec<(u32, Check)>,
    is_done: bool,
}

/// The bytes are no archive of the form that its own list says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct UnknownForm;

impl Splice {
    /// What is to be written for the next bytes; `None`: just these.
    pub(super) fn pass(&mut self, bytes: &[u8]) -> Result<Option<Vec<u8>>, UnknownForm> {
        if self.is_done {
            return Ok(None);
        }
        self.head.extend_from_slice(bytes);
        let Some(place) = Place::find(&self.head)? else {
            return if self.head.len() < HEAD_BYTES_MAX {
                Ok(Some(Vec::new()))
            } else {
                Err(UnknownForm)
            };
        };
        self.is_done = true;
        let mut spliced = self.head[..place.at].to_vec();
        let more = i64::try_from(self.entries.len()).map_err(|_| UnknownForm)?;
        place.form.put_int(&mut spliced, place.count + more);
        for (number, check) in &self.entries {
            place.form.put_entry(&mut spliced, *number, check);
        }
        spliced.extend_from_slice(&self.head[place.end..]);
        self.head = Vec::new();
        Ok(Some(spliced))
    }
}

/// How an archive writes numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Form {
    minor: u8,
    int_bytes: usize,
    offset_bytes: usize,
}

/// Where an archive says how many entries it has.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    form: Form,
    at: usize,
    end: usize,
    count: i64,
}

impl Place {
    /// `None`: that comes with the next bytes.
    fn find(head: &[u8]) -> Result<Option<Self>, UnknownForm> {
        const FIXED: usize = 11;
        let Some(fixed) = head.get(..FIXED) else {
            return Ok(None);
        };
        let form = Form {
            minor: fixed[6],
            int_bytes: fixed[8].into(),
            offset_bytes: fixed[9].into(),
        };
        let is_known = &fixed[..5] == b"PGDMP"
            && fixed[5] == 1
            && (13..=16).contains(&form.minor)
            && (1..=8).contains(&form.int_bytes)
            && (1..=8).contains(&form.offset_bytes)
            && fixed[10] == 1;
        if !is_known {
            return Err(UnknownForm);
        }
        let mut reader = Reader {
            bytes: head,
            at: FIXED,
            form,
        };
        Ok(reader.place())
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    form: Form,
}

impl Reader<'_> {
    fn place(&mut self) -> Option<Place> {
        // How it is compressed; then the moment, in seven numbers; then the database's name and two versions.
        if self.form.minor >= 15 {
            self.skip(1)?;
        } else {
            self.int()?;
        }
        for _ in 0..7 {
            self.int()?;
        }
        for _ in 0..3 {
            let length = self.int()?;
            self.skip(usize::try_from(length).unwrap_or(0))?;
        }
        let at = self.at;
        let count = self.int()?;
        Some(Place {
            form: self.form,
            at,
            end: self.at,
            count,
        })
    }

    fn skip(&mut self, bytes: usize) -> Option<()> {
        self.at = self.at.checked_add(bytes)?;
        (self.at <= self.bytes.len()).then_some(())
    }

    /// A sign, then the number from its lowest byte.
    fn int(&mut self) -> Option<i64> {
        let from = self.at;
        self.skip(1 + self.form.int_bytes)?;
        let bytes = &self.bytes[from..self.at];
        let number = bytes[1..]
            .iter()
            .rev()
            .fold(0_i64, |number, byte| (number << 8) | i64::from(*byte));
        Some(if bytes[0] == 0 { number } else { -number })
    }
}

impl Form {
    fn put_int(self, into: &mut Vec<u8>, number: i64) {
        into.push(u8::from(number < 0));
        into.extend_from_slice(&number.unsigned_abs().to_le_bytes()[..self.int_bytes]);
    }

    fn put_text(self, into: &mut Vec<u8>, text: Option<&str>) {
        match text {
            Some(text) => {
                self.put_int(into, i64::try_from(text.len()).unwrap_or(i64::MAX));
                into.extend_from_slice(text.as_bytes());
            }
            None => self.put_int(into, -1),
        }
    }

    fn put_entry(self, into: &mut Vec<u8>, number: u32, check: &Check) {
        /// `SECTION_DATA`.
        const SECTION: i64 = 3;
        /// `K_OFFSET_NO_DATA`.
        const NO_DATA: u8 = 3;
        self.put_int(into, number.into());
        // No data of its own, of no catalog's table.
        self.put_int(into, 0);
        for text in ["0", "0", &check.table, KIND] {
            self.put_text(into, Some(text));
        }
        self.put_int(into, SECTION);
        self.put_text(into, Some(&check.sql));
        // Nothing to drop or to copy, and in no schema or tablespace.
        for _ in 0..4 {
            self.put_text(into, None);
        }
        if self.minor >= 14 {
            self.put_text(into, None);
        }
        if self.minor >= 16 {
            self.put_int(into, 0);
        }
        // Nobody's, without object ids, and it needs nothing.
        self.put_text(into, Some(""));
        self.put_text(into, Some("false"));
        self.put_text(into, None);
        into.push(NO_DATA);
        into.resize(into.len() + self.offset_bytes, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = ";     Dump Version: 1.14-0\n;     Format: CUSTOM\n\
        1; 1259 1 TABLE public t postgres\n2; 1259 2 TABLE public p1 postgres\n3; 0 0 TABLE ATTACH public p1 postgres\n\
        4; 0 1 TABLE DATA public t postgres\n5; 0 2 TABLE DATA public p1 postgres\n6; 2606 3 CONSTRAINT public t t_pkey postgres\n";

    fn table(name: &str, rows: u64) -> TableFacts {
        TableFacts {
            schema: "public".to_owned(),
            name: name.to_owned(),
            rows: Some(rows),
            digest: None,
        }
    }

    fn checks() -> RowChecks {
        let toc = Toc::read(LIST, &[], &[]);
        let recorded = [table("t", 7), table("p1", 2), table("of_extension", 1)];
        RowChecks::of(&recorded, "UTF8", &toc, LIST).unwrap()
    }

    #[test]
    fn tables_of_the_archive_are_counted_behind_the_rows() {
        let checks = checks();
        assert_eq!((checks.tables, checks.rows), (2, 9));
        assert_eq!(checks.unchecked, [table("of_extension", 1)]);
        let list = checks.in_list(LIST, LIST);
        let numbers: Vec<_> = list
            .lines()
            .filter_map(|line| Some(line.split_once("; ")?.0))
            .filter(|number| !number.is_empty())
            .collect();
        assert_eq!(
            numbers,
            ["1", "2", "3", "4", "5", "65542", "65543", "65544", "6"]
        );
        let tar = LIST.replace("CUSTOM", "TAR");
        assert_eq!(RowChecks::of(&[], "UTF8", &Toc::default(), &tar), None);
        let later = LIST.replace("1.14", "1.17");
        assert_eq!(RowChecks::of(&[], "UTF8", &Toc::default(), &later), None);
    }

    #[test]
    fn what_a_check_found_is_told_from_its_statement() {
        let sql = exact(&table("o'r has \\", 100), 100).sql;
        let said = format!(
            "pg_restore: error: could not execute query: FEHLER:  ungültig: »pgseal counted: public.o'r has \\ has 90 rows, the backup 100«\nCommand was: {sql}"
        );
        assert_eq!(
            RowChecks::found_in(&said).unwrap(),
            "public.o'r has \\ has 90 rows, the backup 100"
        );
        assert_eq!(RowChecks::found_in(&sql), None);
        assert_eq!(RowChecks::found_in("something else"), None);
    }

    fn archive(minor: u8) -> Vec<u8> {
        let form = Form {
            minor,
            int_bytes: 4,
            offset_bytes: 8,
        };
        let mut bytes = [b"PGDMP".as_slice(), &[1, minor, 0, 4, 8, 1]].concat();
        if minor >= 15 {
            bytes.push(0);
        } else {
            form.put_int(&mut bytes, -1);
        }
        for number in [1, 2, 3, 4, 5, 126, 0] {
            form.put_int(&mut bytes, number);
        }
        for text in ["shop", "15.18", "15.18"] {
            form.put_text(&mut bytes, Some(text));
        }
        form.put_int(&mut bytes, 6);
        bytes.extend_from_slice(b"its own entries");
        bytes
    }

    #[test]
    fn entries_go_in_front_wherever_the_bytes_are_cut() {
        for minor in 13..=16 {
            let archive = archive(minor);
            let whole = checks().splice(LIST).pass(&archive).unwrap().unwrap();
            assert!(whole.ends_with(b"its own entries"));
            let place = Place::find(&whole).unwrap().unwrap();
            assert_eq!(place.count, 9);
            for cut in 0..archive.len() {
                let mut splice = checks().splice(LIST);
                let mut passed = Vec::new();
                for piece in [&archive[..cut], &archive[cut..]] {
                    let put = splice.pass(piece).unwrap();
                    passed.extend(put.unwrap_or_else(|| piece.to_vec()));
                }
                assert_eq!(passed, whole, "{minor}: {cut}");
            }
        }
        for strange in [
            b"PGDMQ\x01\x0e\x00\x04\x08\x01",
            b"PGDMP\x01\x11\x00\x04\x08\x01",
        ] {
            assert_eq!(checks().splice(LIST).pass(strange), Err(UnknownForm));
        }
    }
}
