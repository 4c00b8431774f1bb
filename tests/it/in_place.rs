//! Restores in place against databases that changed since: what ends pg_restore is found before, with the SQL that
//! clears it; and once that was run, the restore succeeds.
//!
//! Each case is seen to end pg_restore by itself first, so that the check is about something real.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::harness::cli::Pgseal;
use crate::harness::equality::{Content, assert_same};
use crate::harness::postgres::{Database, Postgres};
use crate::harness::somebody::{Somebody, until};

const SHOP: &str = "CREATE SCHEMA shop;
    CREATE TABLE shop.customers (id serial PRIMARY KEY, name text);
    CREATE TABLE orders (id serial PRIMARY KEY, customer integer REFERENCES shop.customers, total numeric);
    CREATE VIEW totals AS SELECT customer, sum(total) AS total FROM orders GROUP BY 1;
    INSERT INTO shop.customers (name) SELECT 'c' || i FROM generate_series(1, 20) i;
    INSERT INTO orders (customer, total) SELECT 1 + i % 20, i FROM generate_series(1, 100) i;";

/// A database with a backup, that `change` was done to since.
struct Changed {
    server: &'static Postgres,
    database: Database<'static>,
    pgseal: Pgseal,
    before: Content,
}

fn changed(prefix: &str, more: &str, change: &str) -> Changed {
    let server = Postgres::shared();
    let database = server.create_database(prefix);
    database.psql(&format!("{SHOP} {more}"));
    let before = Content::of(server, &database.name);
    let mut pgseal = Pgseal::new();
    pgseal.set("DATABASE_URL", &database.url);
    pgseal.ok(&["backup"]);
    if !change.is_empty() {
        database.psql(change);
    }
    Changed {
        server,
        database,
        pgseal,
        before,
    }
}

impl Changed {
    /// The archive by stock tools, as a restore in place loads it, but without any look before: whether it went well.
    fn plain_pg_restore(&self) -> bool {
        let dump = self.pgseal.file("plain.dump");
        self.pgseal
            .ok(&["fetch", "latest", "--output", dump.to_str().unwrap()]);
        let mut command: Command = self.server.client("pg_restore", &self.database.name);
        let output = command
            .args(["--clean", "--if-exists", "--single-transaction"])
            .args(["--exit-on-error", "--dbname", &self.database.name])
            .arg(&dump)
            .output()
            .unwrap();
        output.status.success()
    }

    fn plan(&self) -> serde_json::Value {
        let run = self.pgseal.run(&[
            "restore",
            "latest",
            "--to",
            &self.database.url,
            "--mode",
            "in-place",
            "--plan",
            "--json",
        ]);
        serde_json::from_slice(&run.stdout).unwrap_or_else(|_| panic!("{run}"))
    }

    /// The whole way: it ends pg_restore, it is refused with nothing begun, its SQL is run, and it succeeds. `apart` takes
    /// away what was moved out of the way, after its content was looked at.
    fn is_refused_and_cleared(&self, object: &str, apart: &str) {
        assert!(!self.plain_pg_restore(), "pg_restore minds it not");
        let (stored, there) = (
            self.pgseal.stored(),
            Content::of(self.server, &self.database.name),
        );
        let said = self.pgseal.fails(
            5,
            &[
                "restore",
                "latest",
                "--to",
                &self.database.url,
                "--mode",
                "in-place",
            ],
        );
        assert!(said.contains(object), "{said}");
        assert_same(&there, &Content::of(self.server, &self.database.name));
        assert_eq!(self.pgseal.stored(), stored, "no safety backup was made");
        let plan = self.plan();
        assert_eq!(plan["is_possible"], false);
        for blocker in plan["blockers"].as_array().unwrap() {
            for statement in blocker["sql"].as_array().unwrap() {
                let statement = statement.as_str().unwrap();
                assert!(said.contains(statement), "{statement} is printed: {said}");
                self.database.psql(statement);
            }
        }
        let cleared = self.plan();
        assert_eq!(cleared["is_possible"], true, "{cleared:#}");
        let restored = self.pgseal.json(&[
            "restore",
            "latest",
            "--to",
            &self.database.url,
            "--mode",
            "in-place",
        ]);
        assert_eq!(restored["mode"], "in-place");
        if !apart.is_empty() {
            self.database.psql(apart);
        }
        assert_same(&self.before, &Content::of(self.server, &self.database.name));
    }
}

/// Row 119: a new view on an old table.
#[test]
fn a_new_view_on_an_old_table_is_named() {
    let changed = changed(
        "new_view",
        "",
        "CREATE VIEW big AS SELECT * FROM orders WHERE total > 50; CREATE VIEW bigger AS SELECT * FROM big WHERE total > 90",
    );
    changed.is_refused_and_cleared("VIEW public.big", "");
}

/// Row 119: a new foreign key to an old table.
#[test]
fn a_new_foreign_key_to_an_old_table_is_named() {
    let changed = changed(
        "new_key",
        "",
        "CREATE TABLE notes (id integer, orders integer REFERENCES orders); INSERT INTO notes VALUES (1, 1)",
    );
    changed.is_refused_and_cleared("FK CONSTRAINT public.notes", "DROP TABLE notes");
}

#[test]
fn a_new_table_in_a_dumped_schema_is_moved_with_its_rows() {
    let changed = changed(
        "new_table",
        "",
        "CREATE TABLE shop.visits (id serial PRIMARY KEY, at integer); CREATE INDEX ON shop.visits (at); \
         INSERT INTO shop.visits (at) VALUES (7), (8)",
    );
    changed.is_refused_and_cleared(
        "TABLE shop.visits",
        "SELECT 1 / (count(*) = 2)::integer FROM pgseal_kept.visits; DROP SCHEMA pgseal_kept CASCADE",
    );
}

#[test]
fn a_renamed_serial_column_is_named() {
    let changed = changed("renamed", "", "ALTER TABLE orders RENAME id TO number");
    changed.is_refused_and_cleared("RENAME COLUMN \"number\" TO \"id\"", "");
}

#[test]
fn a_view_that_became_a_table_is_moved() {
    let changed = changed(
        "became",
        "",
        "DROP VIEW totals; CREATE TABLE totals (customer integer, total numeric); INSERT INTO totals VALUES (1, 2)",
    );
    changed.is_refused_and_cleared(
        "TABLE public.totals",
        "SELECT 1 / (count(*) = 1)::integer FROM pgseal_kept.totals; DROP SCHEMA pgseal_kept CASCADE",
    );
}

/// The index goes with its table, but its extension was put into a schema that is dropped.
#[test]
fn an_index_that_needs_a_new_extension_is_named() {
    let changed = changed(
        "new_extension",
        "",
        "CREATE EXTENSION pg_trgm SCHEMA shop; CREATE INDEX by_name ON shop.customers USING gin (name shop.gin_trgm_ops)",
    );
    changed.is_refused_and_cleared(
        "EXTENSION pg_trgm",
        "DROP EXTENSION pg_trgm; DROP SCHEMA IF EXISTS pgseal_kept",
    );
}

#[test]
fn an_event_trigger_is_disabled_first() {
    let changed = changed(
        "event",
        "",
        "CREATE SCHEMA guard; CREATE FUNCTION guard.no() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not here'; END $$; \
         CREATE EVENT TRIGGER no_drops ON sql_drop EXECUTE FUNCTION guard.no()",
    );
    changed.is_refused_and_cleared(
        "EVENT TRIGGER no_drops",
        "DROP EVENT TRIGGER no_drops; DROP SCHEMA guard CASCADE",
    );
}

#[test]
fn a_subscription_is_dropped_first() {
    let changed = changed(
        "subscribed",
        "CREATE SUBSCRIPTION news CONNECTION 'dbname=nowhere host=127.0.0.1 port=1' PUBLICATION p WITH (connect = false)",
        "",
    );
    changed.is_refused_and_cleared("SUBSCRIPTION news", "");
    changed
        .database
        .psql("ALTER SUBSCRIPTION news SET (slot_name = NONE); DROP SUBSCRIPTION news");
}

/// Row 121: what is not in the backup survives, and the plan names it; what hangs on what is replaced goes, and is named.
#[test]
fn survivors_and_losses_are_named() {
    let changed = changed(
        "survivors",
        "",
        "CREATE TABLE later AS SELECT 1 AS one; CREATE FUNCTION later() RETURNS integer LANGUAGE sql AS 'SELECT 1'; \
         CREATE INDEX by_total ON orders (total)",
    );
    let plan = changed.plan();
    assert_eq!(plan["is_possible"], true, "{plan:#}");
    let names = |sort: &str| -> Vec<String> {
        let first = plan[sort]["first"].as_array().unwrap();
        let named = |item: &serde_json::Value| {
            format!("{} {}", item["kind"], item["name"]).replace('"', "")
        };
        first.iter().map(named).collect()
    };
    assert_eq!(names("survivors"), ["FUNCTION later()", "TABLE later"]);
    assert_eq!(names("lost"), ["INDEX by_total"]);
    let text = changed.pgseal.ok(&[
        "restore",
        "latest",
        "--to",
        &changed.database.url,
        "--mode",
        "in-place",
        "--plan",
    ]);
    assert!(
        text.contains("(survivors): 2: FUNCTION public.later(), TABLE public.later"),
        "{text}"
    );
    changed.pgseal.ok(&[
        "restore",
        "latest",
        "--to",
        &changed.database.url,
        "--mode",
        "in-place",
    ]);
    assert_eq!(changed.database.psql("SELECT one FROM later"), "1");
    changed
        .database
        .psql("DROP TABLE later; DROP FUNCTION later()");
    assert_same(
        &changed.before,
        &Content::of(changed.server, &changed.database.name),
    );
}

/// Whatever is in a publication leaves it when its table is dropped. What the backup does not put back is named, with the
/// statement that does, in the plan and in the result.
#[test]
fn tables_that_leave_their_publications_are_named() {
    const PUBLISHED: &str = "SELECT pubname, schemaname, tablename, attnames, rowfilter FROM pg_publication_tables ORDER BY 1, 2, 3";
    let changed = changed(
        "published",
        "CREATE PUBLICATION old FOR TABLE orders; CREATE PUBLICATION schemas FOR TABLES IN SCHEMA shop",
        "ALTER PUBLICATION old ADD TABLE shop.customers (id, name) WHERE (id > 3); \
         CREATE PUBLICATION \"new one\" FOR TABLE orders (id, total) WHERE (total > 5); \
         CREATE PUBLICATION \"whole shop\" FOR TABLES IN SCHEMA shop",
    );
    let to = changed.database.url.clone();
    let run = |selected: &[&str], more: &[&str]| {
        let always = ["restore", "latest", "--to", &to, "--mode", "in-place"];
        changed.pgseal.json(&[&always, selected, more].concat())
    };
    let published = changed.database.psql(PUBLISHED);
    let new_orders = "ALTER PUBLICATION \"new one\" ADD TABLE ONLY public.orders (id, total) WHERE ((total > (5)::numeric));";
    let new_shop = "ALTER PUBLICATION \"whole shop\" ADD TABLES IN SCHEMA shop;";
    let old_customers =
        "ALTER PUBLICATION old ADD TABLE ONLY shop.customers (id, name) WHERE ((id > 3));";
    let old_orders = "ALTER PUBLICATION old ADD TABLE ONLY public.orders;";
    let (whole, table, schema): (&[&str], &[&str], &[&str]) = (
        &[],
        &["--table", "public.orders", "--table", "public.totals"],
        &["--schema", "shop", "--schema", "public"],
    );
    for (selected, statements) in [
        (whole, vec![new_orders, new_shop, old_customers]),
        (table, vec![new_orders, old_orders]),
        (schema, vec![new_orders, old_customers]),
    ] {
        let plan = run(selected, &["--plan"]);
        assert_eq!(plan["lost"]["total"], statements.len(), "{plan:#}");
        let lost = plan["lost"].to_string();
        assert!(lost.contains("PUBLICATION TABLE"), "{lost}");
        let restored = run(selected, &[]);
        for told in [&plan, &restored] {
            let told = told["warnings"].as_array().unwrap();
            let told: Vec<&str> = told.iter().map(|told| told.as_str().unwrap()).collect();
            let told = told.join("\n");
            for statement in &statements {
                assert!(told.contains(statement), "{statement}: {told}");
            }
            assert_eq!(told.matches(" ADD TABLE").count(), statements.len());
        }
        assert_ne!(changed.database.psql(PUBLISHED), published);
        changed.database.psql(&statements.join(" "));
        assert_eq!(changed.database.psql(PUBLISHED), published, "{selected:?}");
    }
}

/// What the application writes in the moment of the commit is no loss: the rows were counted before.
#[test]
fn writes_right_behind_the_commit_are_no_difference() {
    let changed = changed("hammered", "", "DELETE FROM orders WHERE id > 50");
    let stop = AtomicBool::new(false);
    let restored = std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    // A table that is not there for a moment is no reason to stop.
                    let mut psql = changed.server.client("psql", &changed.database.name);
                    let hammer = "INSERT INTO orders (total) VALUES (-1); DELETE FROM orders WHERE id = (SELECT min(id) FROM orders WHERE total >= 0 AND id <= 30)";
                    let mut arguments = vec!["-Xq"];
                    for _ in 0..20 {
                        arguments.extend(["-c", hammer]);
                    }
                    let _output = psql.args(arguments).output().unwrap();
                }
            });
        }
        let run = changed.pgseal.run(&[
            "restore",
            "latest",
            "--to",
            &changed.database.url,
            "--mode",
            "in-place",
            "--json",
        ]);
        // It is not over before somebody has written behind the restore.
        let written = "SELECT count(*) FROM orders WHERE total < 0 OR id <= 30";
        until("a write behind the commit", || {
            run.code != 0 || changed.database.psql(written) != "30"
        });
        stop.store(true, Ordering::Relaxed);
        run
    });
    assert_eq!(restored.code, 0, "{restored}");
    let restored: serde_json::Value = serde_json::from_slice(&restored.stdout).unwrap();
    assert_eq!(restored["rows_compared"], 120);
    // What nobody deleted since is there.
    let kept = "SELECT count(*) FROM orders WHERE total >= 0 AND id > 30";
    assert_eq!(changed.database.psql(kept), "70");
}

/// A plan is carried out only while the database is the one that it was made for.
#[test]
fn a_plan_that_is_not_true_any_more_stops() {
    let changed = changed("planned", "", "");
    let url = &changed.database.url;
    let plan = changed.plan();
    let id = plan["id"].as_str().unwrap();
    assert_eq!(changed.plan()["id"], id, "the same look gives the same id");
    changed
        .database
        .psql("INSERT INTO orders (total) VALUES (1)");
    assert_eq!(changed.plan()["id"], id, "rows are no part of a plan");
    changed.database.psql("CREATE TABLE newcomer ()");
    let arguments = [
        "restore",
        "latest",
        "--to",
        url,
        "--mode",
        "in-place",
        "--plan-id",
        id,
    ];
    let said = changed.pgseal.fails(5, &arguments);
    assert!(
        said.contains("another plan by now")
            && said.contains("the objects that are replaced")
            && said.contains("newcomer"),
        "{said}"
    );
    assert_eq!(changed.database.psql("SELECT count(*) FROM orders"), "101");
    changed.database.psql("DROP TABLE newcomer");
    changed.pgseal.ok(&arguments);
    assert_same(
        &changed.before,
        &Content::of(changed.server, &changed.database.name),
    );
}

/// What an application makes in the place of a table that the load had made is no sign that the load was committed.
#[test]
fn a_table_that_somebody_else_makes_is_no_commit() {
    let waits = "CREATE TABLE lost (i integer); INSERT INTO lost VALUES (1);
        CREATE MATERIALIZED VIEW waits AS SELECT pg_advisory_xact_lock(42)::text AS w, id FROM shop.customers";
    let changed = changed(
        "elsewhere",
        waits,
        "DROP TABLE lost; UPDATE orders SET total = 0",
    );
    let mut holder = Somebody::enter(changed.server, &changed.database, "holder");
    holder.says("SELECT pg_advisory_lock(42);");
    let advisory = |granted: &str| {
        let sql = format!(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 42 AND {granted} \
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        );
        changed.database.psql(&sql) != "0"
    };
    until("the lock that the load will wait for", || {
        advisory("granted")
    });
    let to = changed.database.url.clone();
    let arguments = [
        "restore",
        "latest",
        "--to",
        &to,
        "--mode",
        "in-place",
        "--lock-wait",
        "10",
    ];
    let restoring = changed.pgseal.start(&arguments);
    until("the load at the end of its transaction", || {
        advisory("NOT granted")
    });
    let mut application = Somebody::enter(changed.server, &changed.database, "application");
    application.says("CREATE TABLE IF NOT EXISTS lost (i integer);");
    let run = restoring.wait();
    assert_eq!(run.code, 1, "{run}");
    assert!(run.stderr.contains("nothing was changed"), "{run}");
    until("the application's table", || application.is_idle());
    let there = "SELECT (SELECT count(*) FROM lost), (SELECT sum(total) FROM orders)";
    assert_eq!(changed.database.psql(there), "0|0");
}

/// pg_restore takes lock_timeout back, so somebody else has to look.
#[test]
fn whoever_blocks_a_load_is_named_and_nothing_is_changed() {
    let changed = changed("blocked", "", "UPDATE orders SET total = 0");
    let there = Content::of(changed.server, &changed.database.name);
    let mut holder = changed
        .server
        .client("psql", &changed.database.name)
        .args([
            "-X",
            "-q",
            "-c",
            "BEGIN; LOCK TABLE orders IN ACCESS SHARE MODE; SELECT pg_sleep(60)",
        ])
        .spawn()
        .unwrap();
    let locked = "SELECT count(*) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation WHERE c.relname = 'orders' AND l.mode = 'AccessShareLock'";
    while changed.database.psql(locked) == "0" {
        std::thread::sleep(Duration::from_millis(20));
    }
    let pid = changed.database.psql(
        "SELECT l.pid FROM pg_locks l JOIN pg_class c ON c.oid = l.relation WHERE c.relname = 'orders' AND l.mode = 'AccessShareLock'",
    );
    let said = changed.pgseal.fails(
        1,
        &[
            "restore",
            "latest",
            "--to",
            &changed.database.url,
            "--mode",
            "in-place",
            "--lock-wait",
            "1",
        ],
    );
    assert!(
        said.contains(&format!("server process {pid}"))
            && said.contains(&format!("pg_terminate_backend({pid})")),
        "{said}"
    );
    assert!(
        said.contains("nothing was changed") && said.contains("backup_pre_restore"),
        "{said}"
    );
    // The server has let go of everything too, although whoever blocked is still there.
    let left = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'pgseal\\_load\\_%' AND datname = current_database()";
    assert_eq!(changed.database.psql(left), "0");
    changed
        .database
        .psql("SET statement_timeout = '5s'; SELECT count(*) FROM orders");
    changed
        .database
        .psql(&format!("SELECT pg_terminate_backend({pid})"));
    let _ended = holder.wait();
    assert_same(&there, &Content::of(changed.server, &changed.database.name));
    changed.pgseal.ok(&[
        "restore",
        "latest",
        "--to",
        &changed.database.url,
        "--mode",
        "in-place",
    ]);
    assert_same(
        &changed.before,
        &Content::of(changed.server, &changed.database.name),
    );
}
