//! `--table` and `--schema`: what a person means by them, judged by the content of what comes back.

use crate::harness::cli::Pgseal;
use crate::harness::fixture;
use crate::harness::postgres::{Database, Postgres};

fn backed_up(prefix: &str) -> (Database<'static>, Pgseal) {
    let database = Postgres::shared().database_from(prefix, &fixture("life.sql"), &[]);
    let mut pgseal = Pgseal::new();
    pgseal.set("DATABASE_URL", &database.url);
    pgseal.ok(&["backup"]);
    (database, pgseal)
}

/// What belongs to a table, in words that do not depend on the rest of the database.
const ORDERS: &str = "SELECT md5(string_agg(o::text, ' ' ORDER BY id)) FROM shop.orders o
    UNION ALL SELECT string_agg(indexdef, ' ' ORDER BY indexdef) FROM pg_indexes WHERE tablename = 'orders'
    UNION ALL SELECT string_agg(pg_get_triggerdef(t.oid), ' ' ORDER BY tgname) FROM pg_trigger t
        WHERE tgrelid = 'shop.orders'::regclass AND NOT tgisinternal
    UNION ALL SELECT string_agg(pg_get_expr(adbin, adrelid), ' ' ORDER BY adnum) FROM pg_attrdef WHERE adrelid = 'shop.orders'::regclass
    UNION ALL SELECT last_value || ' ' || pg_get_serial_sequence('shop.orders', 'id') FROM shop.orders_id_seq
    UNION ALL SELECT relacl::text FROM pg_class WHERE oid = 'shop.orders'::regclass
    UNION ALL SELECT string_agg(conname, ' ' ORDER BY conname) FROM pg_constraint WHERE conrelid = 'shop.orders'::regclass AND contype <> 'f'";

#[test]
fn a_table_comes_into_a_new_database_with_all_that_belongs_to_it() {
    let (source, pgseal) = backed_up("table_new");
    let copy = Postgres::shared().name("table_copy");
    let arguments = [
        "restore",
        "latest",
        "--to",
        &copy.url,
        "--mode",
        "new",
        "--table",
        "shop.orders",
    ];
    let restored = pgseal.json(&arguments);
    assert_eq!(restored["tables_compared"], 1);
    let told = restored["warnings"].to_string();
    let key = "FK CONSTRAINT shop.orders orders_customer_id_fkey is left out";
    assert!(
        told.contains(key) && told.contains("3 large objects are left out"),
        "{told}"
    );
    assert!(
        told.contains("made along, because what is selected needs it"),
        "{told}"
    );
    assert_eq!(copy.psql(ORDERS), source.psql(ORDERS));
    let relations = "SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class WHERE relnamespace = 'shop'::regnamespace AND relkind IN ('r', 'v', 'S', 'm')";
    assert_eq!(copy.psql(relations), "orders orders_id_seq");
    let copy = Postgres::shared().name("table_copy");
    let text = pgseal.ok(&[
        "restore",
        "latest",
        "--to",
        &copy.url,
        "--mode",
        "new",
        "--table",
        "shop.orders",
        "--plan",
    ]);
    assert!(text.contains(key), "{text}");
    let made = text.lines().find(|line| line.starts_with("made: "));
    let made = made.unwrap_or_else(|| panic!("{text}"));
    assert!(
        !made.contains("customers") && !made.contains("animals"),
        "{made}"
    );
    assert!(text.contains("3 large objects are left out"), "{text}");
}

/// Only what was chosen is dropped; the rest stays, with what was written since.
#[test]
fn a_table_is_put_back_in_place_and_nothing_else() {
    let (source, pgseal) = backed_up("table_in_place");
    let before = source.psql(ORDERS);
    source.psql(
        "DROP MATERIALIZED VIEW shop.per_customer CASCADE; DROP VIEW shop.paid; \
         DELETE FROM shop.orders WHERE id > 5; INSERT INTO shop.animals VALUES ('newt', 4)",
    );
    let restored = pgseal.json(&[
        "restore",
        "latest",
        "--to",
        &source.url,
        "--table",
        "shop.orders",
    ]);
    assert_eq!(restored["mode"], "in-place");
    assert_eq!(source.psql(ORDERS), before);
    assert_eq!(
        source.psql("SELECT count(*) FROM shop.animals WHERE name = 'newt'"),
        "1"
    );
    // A foreign key to a table that was not selected, and is there, comes back too.
    assert_eq!(
        source.psql("SELECT count(*) FROM pg_constraint WHERE conrelid = 'shop.orders'::regclass AND contype = 'f'"),
        "1"
    );
}

#[test]
fn a_partitioned_table_comes_with_its_partitions() {
    let (source, pgseal) = backed_up("table_tree");
    let copy = Postgres::shared().name("tree_copy");
    pgseal.ok(&[
        "restore",
        "latest",
        "--to",
        &copy.url,
        "--mode",
        "new",
        "--table",
        "shop.measurements",
    ]);
    let rows = "SELECT tableoid::regclass, count(*), sum(value) FROM shop.measurements GROUP BY 1 ORDER BY tableoid::regclass::text";
    assert_eq!(copy.psql(rows), source.psql(rows));
    let keys = "SELECT count(*) FROM pg_constraint WHERE contype = 'p' AND conrelid::regclass::text LIKE 'shop.measurements%'";
    assert_eq!(copy.psql(keys), source.psql(keys));
}

#[test]
fn a_schema_with_an_odd_name_comes_alone() {
    let (source, pgseal) = backed_up("schema_new");
    let copy = Postgres::shared().name("schema_copy");
    pgseal.ok(&[
        "restore",
        "latest",
        "--to",
        &copy.url,
        "--mode",
        "new",
        "--schema",
        "Größe & Gewicht",
    ]);
    let table = "SELECT * FROM \"Größe & Gewicht\".\"select\"";
    assert_eq!(copy.psql(table), source.psql(table));
    assert_eq!(
        copy.psql("SELECT count(*) FROM pg_namespace WHERE nspname = 'shop'"),
        "0"
    );
}

#[test]
fn a_name_that_does_not_fit_names_those_that_nearly_do() {
    let (_source, pgseal) = backed_up("table_near");
    let copy = Postgres::shared().name("near_copy");
    let fails = |what: [&str; 2]| {
        let arguments = [
            "restore", "latest", "--to", &copy.url, "--mode", "new", what[0], what[1],
        ];
        pgseal.fails(5, &arguments)
    };
    let said = fails(["--table", "orders"]);
    assert!(
        said.contains("has no table orders") && said.contains("it has shop.orders"),
        "{said}"
    );
    let said = fails(["--schema", "Shop"]);
    assert!(
        said.contains("has no schema Shop") && said.contains("it has shop"),
        "{said}"
    );
    assert!(!copy.exists());
}

/// A sequence that the table draws from and does not own is made along where it is gone, with its value; one that is there
/// stays as it is.
#[test]
fn a_sequence_that_is_made_along_goes_on_where_it_was() {
    let database = Postgres::shared().create_database("shared_sequence");
    database.psql(
        "CREATE SEQUENCE shared; CREATE TABLE us (id bigint PRIMARY KEY DEFAULT nextval('shared'), v text); \
         INSERT INTO us (v) VALUES ('a'), ('b'), ('c')",
    );
    let mut pgseal = Pgseal::new();
    pgseal.set("DATABASE_URL", &database.url);
    pgseal.ok(&["backup"]);
    let to = database.url.clone();
    let restore = || {
        pgseal.ok(&["restore", "latest", "--to", &to, "--table", "public.us"]);
        database.psql("INSERT INTO us (v) VALUES ('d') RETURNING id")
    };
    database.psql("DROP TABLE us; DROP SEQUENCE shared");
    assert_eq!(restore(), "4");
    database.psql("SELECT setval('shared', 40)");
    assert_eq!(restore(), "41");
}

/// A materialized view of a table that is not selected, and not there, comes without rows. A plan says so, and whoever
/// restores without one is told by the result.
#[test]
fn a_materialized_view_of_a_table_without_rows_is_named() {
    let database = Postgres::shared().create_database("hollow");
    database.psql(
        "CREATE TABLE them AS SELECT generate_series(1, 3) i; CREATE VIEW middle AS SELECT i FROM them; \
         CREATE MATERIALIZED VIEW seen AS SELECT i FROM middle; CREATE TABLE beside ()",
    );
    let mut pgseal = Pgseal::new();
    pgseal.set("DATABASE_URL", &database.url);
    pgseal.ok(&["backup"]);
    let copy = Postgres::shared().name("hollow_copy");
    let arguments = ["restore", "latest", "--to", &copy.url, "--mode", "new"];
    let arguments = [&arguments[..], &["--table", "public.seen"]].concat();
    let hollow =
        "MATERIALIZED VIEW public.seen is filled from tables without rows: TABLE public.them";
    let along = "made along, because what is selected needs it, a table without its rows: TABLE public.them, VIEW public.middle";
    let plan = pgseal.json(&[&arguments[..], &["--plan"]].concat());
    let made = plan["created"]["first"].as_array().unwrap();
    let made: Vec<&str> = made
        .iter()
        .filter_map(|made| made["name"].as_str())
        .collect();
    assert_eq!(made, ["seen", "them", "middle"]);
    let text = pgseal.ok(&arguments);
    for told in [plan["warnings"].to_string(), text] {
        assert!(told.contains(hollow) && told.contains(along), "{told}");
    }
    assert_eq!(copy.psql("SELECT count(*) FROM seen"), "0");
}
