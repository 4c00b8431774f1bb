//! A partition alone, put back into a parent that stays and holds on to its indexes and keys.

use serde_json::Value;

use crate::harness::cli::Pgseal;
use crate::harness::postgres::{Database, MAJORS, Postgres};
use crate::majors::pgseal_with;

/// A table by months, one month in parts itself; names as PostgreSQL chooses them, names of somebody's own, and one that it would
/// choose for another. Each row that is new to it is noted.
const TABLES: &str = "
    CREATE TABLE town (id int PRIMARY KEY); INSERT INTO town VALUES (1); CREATE TABLE fired (i int);
    CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN INSERT INTO public.fired VALUES (1); RETURN NEW; END$$;
    CREATE TABLE m (id int, at int, town int REFERENCES town, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
    CREATE INDEX odd_name ON m (town);
    CREATE TABLE \"m 1\" PARTITION OF m FOR VALUES FROM (1) TO (100) PARTITION BY RANGE (id);
    CREATE TABLE leaf PARTITION OF \"m 1\" FOR VALUES FROM (1) TO (100);
    CREATE UNIQUE INDEX of_its_own ON leaf (id); CREATE INDEX later ON leaf (at); COMMENT ON INDEX leaf_town_idx IS 'inherited';
    CREATE TABLE other (id int NOT NULL, at int NOT NULL, town int, CONSTRAINT \"other key\" PRIMARY KEY (id, at));
    CREATE INDEX \"its town\" ON other (town); ALTER TABLE m ATTACH PARTITION other FOR VALUES FROM (100) TO (200);
    CREATE INDEX other_town_idx ON other (at); ALTER TABLE other REPLICA IDENTITY USING INDEX \"other key\";
    INSERT INTO m SELECT i, i * 10, 1 FROM generate_series(1, 15) i;
    CREATE TRIGGER t AFTER INSERT ON m FOR EACH ROW EXECUTE FUNCTION fire()";

/// A foreign key to it.
const REF: &str = "CREATE TABLE ref (id int, at int, FOREIGN KEY (id, at) REFERENCES m); INSERT INTO ref VALUES (12, 120)";

const ROWS: &str =
    "SELECT string_agg(id || ' ' || at || ' ' || tableoid::regclass, ', ' ORDER BY id) FROM m";

/// Keys, indexes by what they are, and what hangs on what: without the names that PostgreSQL chooses.
const SHAPE: &str = "
    SELECT concat_ws(' ', conrelid::regclass, contype, pg_get_constraintdef(oid)) FROM pg_constraint WHERE contype IN ('p', 'f') AND conrelid >= 16384
    UNION ALL SELECT concat_ws(' ', indrelid::regclass, indkey, indisunique, EXISTS (SELECT FROM pg_inherits WHERE inhrelid = indexrelid)) FROM pg_index
        WHERE indrelid >= 16384 AND indrelid::regclass::text !~ '^pg_toast'
    UNION ALL SELECT inhrelid::regclass || ' < ' || inhparent::regclass FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid AND c.relkind IN ('r', 'p')
    UNION ALL SELECT tgrelid::regclass || ' ' || tgname FROM pg_trigger WHERE tgname = 't' ORDER BY 1";

fn restore(pgseal: &Pgseal, to: &Database<'_>, tables: &[&str]) -> Value {
    let mut all = vec!["restore", "latest", "--to", &to.url, "--mode", "in-place"];
    all.extend(tables.iter().flat_map(|table| ["--table", *table]));
    pgseal.json(&all)
}

fn backed_up(major: u32, more: &str) -> (Database<'static>, Pgseal) {
    let source = Postgres::shared_of(major).create_database("partitions");
    source.psql(TABLES);
    source.psql(more);
    let mut pgseal = pgseal_with(&[major]);
    pgseal.set("DATABASE_URL", &source.url);
    pgseal.ok(&["backup"]);
    (source, pgseal)
}

/// Row 168: rows and shape are as before, the others' rows stay as they are, and nothing fires for rows that the parent only
/// gets back.
#[test]
fn a_partition_is_put_back_into_the_parent_that_is_there() {
    for major in MAJORS {
        let (source, pgseal) = backed_up(major, "");
        let (rows, shape) = (source.psql(ROWS), source.psql(SHAPE));
        source.psql("INSERT INTO fired VALUES (0)");
        for (broken, table) in [
            ("DELETE FROM leaf WHERE id < 5", "public.m 1"),
            ("DELETE FROM leaf WHERE id < 5", "public.leaf"),
            ("DROP TABLE \"m 1\"", "public.m 1"),
        ] {
            source.psql(broken);
            let restored = restore(&pgseal, &source, &[table]);
            assert_eq!(source.psql(ROWS), rows, "PostgreSQL {major}");
            assert_eq!(source.psql(SHAPE), shape, "PostgreSQL {major}");
            let told = restored["warnings"].to_string();
            assert!(
                told.contains("made as the parent table has it now"),
                "{told}"
            );
            assert!(
                !told.contains("are dropped") && !told.contains("made along"),
                "{told}"
            );
        }
        assert_eq!(source.psql("SELECT count(*) FROM fired"), "1");
    }
}

/// Names of one's own go with what they are; what PostgreSQL would choose for those may be taken. A replica identity is said, with
/// what makes it one.
#[test]
fn indexes_of_one_s_own_go_and_come_beside_the_parent_s() {
    for major in MAJORS {
        let (source, pgseal) = backed_up(major, REF);
        let (rows, shape) = (source.psql(ROWS), source.psql(SHAPE));
        source.psql(
            "ALTER TABLE ref DROP CONSTRAINT ref_id_at_fkey; DELETE FROM other WHERE id = 15",
        );
        let restored = restore(&pgseal, &source, &["public.other", "public.ref"]);
        assert_eq!(source.psql(ROWS), rows, "PostgreSQL {major}");
        assert_eq!(source.psql(SHAPE), shape, "PostgreSQL {major}");
        let own = "SELECT count(*) FROM pg_index WHERE indexrelid = 'other_town_idx'::regclass AND NOT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = indexrelid)";
        assert_eq!(source.psql(own), "1");
        let told = restored["warnings"].to_string();
        let mark = "ALTER TABLE ONLY public.other REPLICA IDENTITY USING INDEX ";
        assert!(
            told.contains(mark) && !told.contains("made along"),
            "{told}"
        );
    }
}

/// An index that stood alone when the backup was made, and was taken by its parent's since: the parent has it, so it comes with
/// the partition.
#[test]
fn what_the_parent_took_since_stays_the_parent_s() {
    let (source, pgseal) = backed_up(MAJORS[0], "");
    source.psql("CREATE INDEX m_at ON m (at)");
    let (rows, shape) = (source.psql(ROWS), source.psql(SHAPE));
    source.psql("DELETE FROM leaf WHERE id < 5");
    restore(&pgseal, &source, &["public.leaf"]);
    assert_eq!(source.psql(ROWS), rows);
    assert_eq!(source.psql(SHAPE), shape);

    // A foreign key to the parent brings no partition back that is gone.
    source.psql(REF);
    pgseal.ok(&["backup"]);
    source.psql("DROP TABLE ref, \"m 1\"");
    restore(&pgseal, &source, &["public.ref"]);
    assert_eq!(source.psql("SELECT * FROM ref"), "12|120");
    let key = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'ref'::regclass AND contype = 'f' AND conparentid = 0";
    assert_eq!(
        source.psql(key),
        "FOREIGN KEY (id, at) REFERENCES m(id, at)"
    );
    assert_eq!(source.psql("SELECT to_regclass('leaf') IS NULL"), "t");
}
