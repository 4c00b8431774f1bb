//! Column types, and values of each: ordinary ones, and the ends of what it can hold.

use super::dice::Dice;
use crate::harness::postgres::quoted_text;

/// A column's type, and how a value of it is made.
#[derive(Clone)]
pub struct Kind {
    pub sql: String,
    make: Make,
}

#[derive(Clone)]
enum Make {
    /// One of these, as texts.
    OneOf(&'static [&'static str]),
    /// What a function draws, as an expression.
    By(fn(&mut Dice) -> String),
    /// One of the schema's own labels.
    Label(Vec<String>),
    /// A row of a number, a text and a label.
    Row(Vec<String>),
    /// An array of another kind.
    Array(Box<Kind>),
}

impl Kind {
    fn one_of(sql: &str, choice: &'static [&'static str]) -> Self {
        Self {
            sql: sql.to_owned(),
            make: Make::OneOf(choice),
        }
    }

    fn by(sql: &str, make: fn(&mut Dice) -> String) -> Self {
        Self {
            sql: sql.to_owned(),
            make: Make::By(make),
        }
    }

    pub fn label(sql: &str, labels: &[String]) -> Self {
        Self {
            sql: sql.to_owned(),
            make: Make::Label(labels.to_vec()),
        }
    }

    pub fn row(sql: &str, labels: &[String]) -> Self {
        Self {
            sql: sql.to_owned(),
            make: Make::Row(labels.to_vec()),
        }
    }

    pub fn amount(sql: &str) -> Self {
        Self::by(sql, |dice| {
            format!("{}.{:02}", dice.up_to(9999), dice.up_to(99))
        })
    }

    pub fn array_of(kind: &Self) -> Self {
        Self {
            sql: format!("{}[]", kind.sql),
            make: Make::Array(Box::new(kind.clone())),
        }
    }

    /// An expression of this type; sometimes null.
    pub fn value(&self, dice: &mut Dice) -> String {
        if dice.chance(12) {
            return "NULL".to_owned();
        }
        let value = match &self.make {
            Make::OneOf(choice) => quoted_text(dice.one_of(choice)),
            Make::By(make) => make(dice),
            Make::Label(labels) => labels[dice.up_to(labels.len() - 1)].clone(),
            Make::Row(labels) => {
                let label = &labels[dice.up_to(labels.len() - 1)];
                format!("ROW({}, {}, {label})", dice.up_to(99), dice.text())
            }
            Make::Array(kind) => {
                let values: Vec<String> = (0..dice.up_to(4)).map(|_| kind.value(dice)).collect();
                format!("ARRAY[{}]", values.join(", "))
            }
        };
        format!("({value})::{}", self.sql)
    }
}

/// Every type that each server has.
pub fn kinds() -> Vec<Kind> {
    let of = Kind::one_of;
    vec![
        of("smallint", &["-32768", "0", "32767"]),
        of("integer", &["-2147483648", "-1", "0", "2147483647"]),
        of(
            "bigint",
            &["-9223372036854775808", "0", "9223372036854775807"],
        ),
        of(
            "numeric",
            &[
                "NaN",
                "Infinity",
                "-Infinity",
                "0",
                "-0.0",
                "1e-1000",
                "1e1000",
                "-123456789.987654321000",
                "0.10",
            ],
        ),
        Kind::by("numeric(12, 4)", |dice| {
            format!("{}.{:04}", dice.up_to(9_999_999), dice.up_to(9999))
        }),
        of(
            "real",
            &[
                "-0",
                "NaN",
                "Infinity",
                "-Infinity",
                "1.17549435e-38",
                "3.4028235e38",
                "0.1",
            ],
        ),
        of(
            "double precision",
            &[
                "-0",
                "NaN",
                "Infinity",
                "-Infinity",
                "2.2250738585072014e-308",
                "1.7976931348623157e308",
                "0.1",
                "4.9e-324",
            ],
        ),
        Kind::by("text", Dice::text),
        Kind::by("character varying(4000)", |dice| {
            quoted_text(&dice.pieces(20))
        }),
        Kind::by("character(6)", |dice| {
            quoted_text(dice.one_of(&["", "a", "ä  b", "123456"]))
        }),
        Kind::by("name", |dice| quoted_text(&dice.pieces(3))),
        of("\"char\"", &["", "a", "\\"]),
        Kind::by("bytea", |dice| {
            let bytes: String = (0..dice.up_to(40))
                .map(|_| format!("{:02x}", dice.up_to(255)))
                .collect();
            quoted_text(&format!("\\x{bytes}"))
        }),
        of("boolean", &["t", "f"]),
        of(
            "date",
            &[
                "infinity",
                "-infinity",
                "4713-01-01 BC",
                "0001-12-31 BC",
                "2024-02-29",
                "5874897-12-31",
            ],
        ),
        of(
            "timestamp",
            &[
                "infinity",
                "-infinity",
                "4713-01-01 00:00:00 BC",
                "2024-02-29 23:59:59.999999",
                "294276-12-31 23:59:59.999999",
            ],
        ),
        of(
            "timestamp with time zone",
            &[
                "infinity",
                "-infinity",
                "4713-01-02 00:00:00+00 BC",
                "2024-03-31 02:30:00+01",
                "294276-12-31 23:59:59.999999+00",
            ],
        ),
        of("time", &["00:00", "24:00:00", "23:59:59.999999"]),
        of(
            "time with time zone",
            &["00:00+15:59", "24:00:00-15:59", "12:34:56.789+00"],
        ),
        of(
            "interval",
            &[
                "0",
                "-178000000 years",
                "1 year -2 months 3 days -04:05:06.789",
                "1 mon -1 day",
                "00:00:00.000001",
            ],
        ),
        Kind::by("uuid", |dice| {
            quoted_text(&format!("{:016x}{:016x}", dice.bits(), dice.bits()))
        }),
        of(
            "inet",
            &[
                "0.0.0.0/0",
                "192.0.2.1/24",
                "::1",
                "2001:db8::ff/64",
                "::ffff:192.0.2.1",
            ],
        ),
        of("cidr", &["0.0.0.0/0", "192.0.2.0/24", "2001:db8::/32"]),
        of("macaddr", &["08:00:2b:01:02:03", "ff:ff:ff:ff:ff:ff"]),
        of("macaddr8", &["08:00:2b:01:02:03:04:05"]),
        of(
            "json",
            &[
                "null",
                "{\"b\": 1,  \"a\":[1, 2.50,null], \"a\": \"twice\"}",
                "[]",
                "\"\\u00e4\\n\"",
                "1e400",
            ],
        ),
        of(
            "jsonb",
            &[
                "null",
                "{\"b\": 1,  \"a\":[1, 2.50,null], \"c\": {\"deep\": [[[]]]}}",
                "[]",
                "\"\\u00e4\\n🐘\"",
                "1e400",
            ],
        ),
        of(
            "integer[]",
            &[
                "{}",
                "{1,NULL,3}",
                "[0:1][-1:1]={{1,2,3},{4,NULL,6}}",
                "[-5:-3]={1,2,3}",
                "{{{1},{2}}}",
            ],
        ),
        of(
            "text[]",
            &[
                "{}",
                "{\"\",NULL,\"NULL\",\"a,b\",\"{}\",\"\\\"q\\\"\",\"\\\\\"}",
                "[3:4]={a,\"b\nc\"}",
            ],
        ),
        of(
            "int4range",
            &["empty", "[1,10)", "(,5]", "(,)", "[2147483646,2147483647)"],
        ),
        of("numrange", &["empty", "[1.5,2.5]", "(,0)", "[0.10,0.100]"]),
        of(
            "tstzrange",
            &[
                "empty",
                "[\"2020-01-01 00:00:00+00\",infinity)",
                "(-infinity,\"2020-01-01 00:00:00+00\"]",
            ],
        ),
        of("int4multirange", &["{}", "{[1,2), [5,)}", "{(,)}"]),
        of("bit(7)", &["0000000", "1111111", "1010101"]),
        of("bit varying", &["", "1", "010101010101010101"]),
        of("tsvector", &["", "fat:1A cat:2B", "'it''s':3 'ä':1,2"]),
        of("tsquery", &["", "fat & (cat | !rat)", "a <-> b"]),
        of(
            "money",
            &["-92233720368547758.08", "0", "92233720368547758.07"],
        ),
        of("point", &["(0,0)", "(-1.5,2e10)", "(NaN,Infinity)"]),
        of("line", &["{1,2,3}", "{0,1,0}"]),
        of("lseg", &["[(0,0),(1,1)]"]),
        of("box", &["(1,1),(0,0)", "(2,3),(-1,-1)"]),
        of("path", &["[(0,0),(1,1),(2,0)]", "((0,0),(1,1))"]),
        of("polygon", &["((0,0),(1,1),(2,0))"]),
        of("circle", &["<(0,0),1.25>"]),
        of("pg_lsn", &["0/0", "16/B374D848"]),
        of("oid", &["0", "4294967295"]),
        of("regtype", &["integer", "timestamp with time zone"]),
        of("jsonpath", &["$.a[*] ? (@.b > 1)", "strict $"]),
    ]
}

/// The one that only some servers were built with.
pub fn xml() -> Kind {
    Kind::one_of(
        "xml",
        &["<a b=\"c\">d &amp; e</a>", "text only", "<!-- c --><r/>"],
    )
}
