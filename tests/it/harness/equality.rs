//! Whether two databases are the same: by their schema dumps, and by a digest of every table's rows, every sequence and
//! every large object. Never by an exit code.

use std::collections::BTreeMap;

use super::postgres::Postgres;
use super::text;

/// Everything about a database that a backup must bring back.
#[derive(PartialEq, Eq)]
pub struct Content {
    schema: String,
    facts: BTreeMap<String, String>,
}

impl Content {
    /// Reads a database.
    pub fn of(server: &Postgres, database: &str) -> Self {
        let schema = text(
            server
                .client("pg_dump", database)
                .args(["--schema-only", "--no-comments"])
                .arg("--no-sync"),
        );
        let comments = text(
            server
                .client("pg_dump", database)
                .args(["--schema-only", "--no-sync"]),
        );
        let facts = server.psql(database, FACTS);
        let fact = |line: &str| {
            let (name, value) = line
                .split_once('\u{1}')
                .unwrap_or_else(|| panic!("no fact: {line:?}"));
            (name.to_owned(), value.to_owned())
        };
        Self {
            schema: without_tokens(&schema) + &without_tokens(&comments),
            facts: facts.lines().map(fact).collect(),
        }
    }

    /// Takes over the other's encoding and locale: a backup without a manifest does not know them.
    pub fn accept_locale(&mut self, other: &Self) {
        for (name, value) in other
            .facts
            .iter()
            .filter(|(name, _)| name.starts_with("database "))
        {
            self.facts.insert(name.clone(), value.clone());
        }
    }

    /// Keeps what every version of PostgreSQL says in the same way: rows, sequences and large objects.
    pub fn without_dialect(mut self) -> Self {
        self.schema.clear();
        self.facts
            .retain(|name, _| !name.starts_with("extension ") && !name.starts_with("database "));
        self
    }

    /// Rows of all tables, as they were counted here; materialized views are filled anew and have none of their own.
    pub fn rows(&self) -> u64 {
        let rows = |(name, value): (&String, &String)| {
            let counted = name.strip_prefix("table ").is_some();
            counted.then(|| value.split(' ').next()?.parse::<u64>().ok())?
        };
        self.facts.iter().filter_map(rows).sum()
    }

    /// What differs first; `None` where nothing does.
    pub fn difference(&self, other: &Self) -> Option<String> {
        for (name, value) in &self.facts {
            match other.facts.get(name) {
                None => return Some(format!("{name} is missing")),
                Some(theirs) if theirs != value => {
                    return Some(format!("{name}: {value} became {theirs}"));
                }
                Some(_) => {}
            }
        }
        if let Some(name) = other
            .facts
            .keys()
            .find(|name| !self.facts.contains_key(*name))
        {
            return Some(format!("{name} is new"));
        }
        let lines = self.schema.lines().zip(other.schema.lines());
        if let Some((one, two)) = lines.into_iter().find(|(one, two)| one != two) {
            return Some(format!("schema: {one:?} became {two:?}"));
        }
        (self.schema != other.schema).then(|| "schema: one is longer".to_owned())
    }
}

/// Panics with the first difference.
pub fn assert_same(before: &Content, after: &Content) {
    if let Some(difference) = before.difference(after) {
        panic!("the databases differ: {difference}");
    }
}

/// pg_dump's `\restrict` lines carry a random token.
fn without_tokens(schema: &str) -> String {
    let random = |line: &&str| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict");
    schema
        .lines()
        .filter(random)
        .fold(String::new(), |text, line| text + line + "\n")
}

/// One line a fact: name, the control character 1, value. Rows are compared as a multiset: by count, and by the sum of
/// their hashes, so that order does not matter and doubles do.
const FACTS: &str = r"
CREATE FUNCTION pg_temp.digest(relation regclass) RETURNS text LANGUAGE plpgsql AS $$
DECLARE answer text;
BEGIN
  EXECUTE format('SELECT count(*) || '' rows, '' || coalesce(sum((''x'' || substr(md5(row_of_the_table::text), 1, 15))::bit(60)::bigint), 0)
                  FROM ONLY %s row_of_the_table', relation) INTO answer;
  RETURN answer;
END $$;
CREATE FUNCTION pg_temp.position(sequence regclass) RETURNS text LANGUAGE plpgsql AS $$
DECLARE answer text;
BEGIN
  EXECUTE format('SELECT last_value || '' '' || is_called FROM %s', sequence) INTO answer;
  RETURN answer;
END $$;
SET extra_float_digits = 3; SET timezone = 'UTC'; SET datestyle = 'ISO'; SET intervalstyle = 'postgres'; SET search_path = pg_catalog;
-- Names may hold line breaks.
SELECT replace(replace(fact, e'\r', '\r'), e'\n', '\n') FROM (
SELECT CASE c.relkind WHEN 'm' THEN 'materialized view ' ELSE 'table ' END || c.oid::regclass || e'\x01' || pg_temp.digest(c.oid)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE (c.relkind = 'r' OR c.relkind = 'm' AND c.relispopulated) AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
UNION ALL
SELECT 'sequence ' || s.oid::regclass || e'\x01' || pg_temp.position(s.oid)
  FROM pg_class s JOIN pg_namespace n ON n.oid = s.relnamespace WHERE s.relkind = 'S' AND n.nspname !~ '^pg_'
UNION ALL
SELECT 'large object ' || oid || e'\x01' || md5(lo_get(oid)) || ' ' || pg_get_userbyid(lomowner) || ' ' ||
  coalesce(lomacl::text, '') || ' ' || coalesce(obj_description(oid, 'pg_largeobject'), '')
  FROM pg_largeobject_metadata
UNION ALL
SELECT 'extension ' || extname || e'\x01' || extversion FROM pg_extension
UNION ALL
SELECT 'database ' || k || e'\x01' || coalesce(v, '') FROM pg_database d,
  LATERAL (VALUES ('encoding', pg_encoding_to_char(d.encoding)), ('collate', d.datcollate), ('ctype', d.datctype),
    -- Before 15 there is no provider, and the locale's column has had two names.
    ('provider', to_jsonb(d) ->> 'datlocprovider'),
    ('locale', coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale'))) f(k, v)
  WHERE d.datname = current_database()
) facts(fact)
";
