//! Row 122: owners and grantees that the target server does not have are made, mapped or left out, as chosen.

use crate::harness::cli::Pgseal;
use crate::harness::postgres::{Database, Postgres, quoted};

/// A backup that needs two roles which are gone by now: an owner, and one that something is granted to.
fn without_roles(prefix: &str) -> (Database<'static>, Pgseal, [String; 2]) {
    let server = Postgres::shared();
    let database = server.create_database(prefix);
    let roles = ["owner", "reader"].map(|part| format!("{prefix} {part}"));
    let [owner, reader] = roles.each_ref().map(|role| quoted(role));
    database.psql(&format!(
        "CREATE ROLE {owner}; CREATE ROLE {reader}; CREATE SCHEMA s AUTHORIZATION {owner}; \
         CREATE TABLE s.t AS SELECT generate_series(1, 9) i; ALTER TABLE s.t OWNER TO {owner}; \
         CREATE FUNCTION s.f(integer) RETURNS integer LANGUAGE sql AS 'SELECT $1'; ALTER FUNCTION s.f(integer) OWNER TO {owner}; \
         GRANT SELECT ON s.t TO {reader}; ALTER ROLE {reader} IN DATABASE {} SET work_mem TO '7MB'",
        database.name
    ));
    let mut pgseal = Pgseal::new();
    pgseal.set("DATABASE_URL", &database.url);
    pgseal.ok(&["backup"]);
    database.psql(&format!(
        "REASSIGN OWNED BY {owner} TO postgres; DROP OWNED BY {reader}; DROP OWNED BY {owner}; DROP ROLE {owner}; DROP ROLE {reader}"
    ));
    (database, pgseal, roles)
}

const OWNERS: &str = "SELECT string_agg(DISTINCT pg_get_userbyid(o), ' ') FROM (SELECT relowner FROM pg_class WHERE relnamespace = 's'::regnamespace \
    UNION SELECT proowner FROM pg_proc WHERE pronamespace = 's'::regnamespace UNION SELECT nspowner FROM pg_namespace WHERE nspname = 's') x(o)";

fn exists(role: &str) -> bool {
    let sql = format!("SELECT count(*) FROM pg_roles WHERE rolname = '{role}'");
    Postgres::shared().psql("postgres", &sql) == "1"
}

fn gone(database: &Database<'_>, roles: &[String]) {
    for role in roles.iter().map(|role| quoted(role)) {
        database.psql(&format!(
            "REASSIGN OWNED BY {role} TO postgres; DROP OWNED BY {role}"
        ));
        Postgres::shared().psql("postgres", &format!("DROP ROLE {role}"));
    }
}

#[test]
fn missing_roles_are_refused_with_the_choices() {
    let (database, pgseal, [owner, reader]) = without_roles("refused");
    let copy = Postgres::shared().name("refused_copy");
    for (to, mode) in [
        (&copy.url, "new"),
        (&database.url, "swap"),
        (&database.url, "in-place"),
    ] {
        let run = pgseal.run(&["restore", "latest", "--to", to, "--mode", mode, "--plan"]);
        let text = String::from_utf8(run.stdout).unwrap();
        assert_eq!(run.code, 5, "{text}");
        for word in [
            &owner,
            &reader,
            "--create-missing-roles",
            "--map-role",
            "--skip-missing-owners",
        ] {
            assert!(text.contains(word), "{word}: {text}");
        }
    }
    assert!(!copy.exists());
}

/// A slip in a role's name is no role that the server has.
#[test]
fn a_mapped_role_that_the_backup_does_not_name_is_named() {
    let database = Postgres::shared().create_database("unnamed");
    database.psql("CREATE TABLE t ()");
    let mut pgseal = Pgseal::new();
    pgseal.set("DATABASE_URL", &database.url);
    pgseal.ok(&["backup"]);
    let copy = Postgres::shared().name("unnamed_copy");
    let arguments = ["restore", "latest", "--to", &copy.url, "--mode", "new"];
    let said = |map: &str| pgseal.fails(5, &[&arguments[..], &["--map-role", map]].concat());
    let slip = said("nosuch=postgres");
    assert!(slip.contains("does not name nosuch"), "{slip}");
    assert!(!slip.contains("it has nosuch"), "{slip}");
    let present = said("postgres=postgres");
    assert!(present.contains("and it has postgres"), "{present}");
}

#[test]
fn missing_roles_are_made() {
    let (database, pgseal, roles) = without_roles("made");
    let restored = pgseal.json(&[
        "restore",
        "latest",
        "--to",
        &database.url,
        "--mode",
        "in-place",
        "--create-missing-roles",
    ]);
    assert!(
        restored["warnings"]
            .to_string()
            .contains(&format!("role {} was made", roles[0]))
    );
    assert_eq!(database.psql(OWNERS), roles[0]);
    let logins = "SELECT count(*) FROM pg_roles WHERE rolcanlogin AND rolname LIKE 'made %'";
    assert_eq!(database.psql(logins), "0");
    let granted = format!(
        "SELECT has_table_privilege('{}', 's.t', 'SELECT')",
        roles[1]
    );
    assert_eq!(database.psql(&granted), "t");
    gone(&database, &roles);
}

#[test]
fn missing_roles_are_mapped() {
    let (database, pgseal, roles) = without_roles("mapped");
    let server = Postgres::shared();
    server.psql(
        "postgres",
        "CREATE ROLE mapped_new; CREATE ROLE mapped_reads",
    );
    let maps = [
        format!("{}=mapped_new", roles[0]),
        format!("{}=mapped_reads", roles[1]),
    ];
    let copy = server.name("mapped_copy");
    let with = |to: &str, mode: &'static str| {
        let arguments = [
            "restore",
            "latest",
            "--to",
            to,
            "--mode",
            mode,
            "--map-role",
            &maps[0],
            "--map-role",
            &maps[1],
        ];
        pgseal.run(&arguments)
    };
    let refused = with(&database.url, "in-place");
    assert_eq!(refused.code, 5, "{refused}");
    assert!(
        refused.stderr.contains("--mode swap or --mode new"),
        "{refused}"
    );
    let done = with(&copy.url, "new");
    assert_eq!(done.code, 0, "{done}");
    assert_eq!(copy.psql(OWNERS), "mapped_new");
    assert!(!exists(&roles[0]), "nothing names it any more");
    assert_eq!(
        copy.psql("SELECT has_table_privilege('mapped_reads', 's.t', 'SELECT')"),
        "t"
    );
    let mut left = vec!["mapped_new".to_owned(), "mapped_reads".to_owned()];
    left.extend(exists(&roles[1]).then(|| roles[1].clone()));
    gone(&copy, &left);
}

/// The database itself is one of the things that a role owns, is granted, or has settings in.
#[test]
fn the_databases_own_roles_are_mapped() {
    let server = Postgres::shared();
    let database = server.create_database("owned");
    let name = quoted(&database.name);
    server.psql(
        "postgres",
        &format!(
            "CREATE ROLE \"owned by\"; CREATE ROLE \"owned reads\"; CREATE ROLE owned_new; CREATE ROLE owned_reads; \
             ALTER DATABASE {name} OWNER TO \"owned by\"; REVOKE CONNECT ON DATABASE {name} FROM PUBLIC; \
             GRANT CONNECT ON DATABASE {name} TO \"owned reads\" WITH GRANT OPTION; \
             ALTER ROLE \"owned reads\" IN DATABASE {name} SET work_mem TO '7MB'"
        ),
    );
    let mut pgseal = Pgseal::new();
    pgseal.set("DATABASE_URL", &database.url);
    pgseal.ok(&["backup"]);
    database.psql(&format!(
        "ALTER DATABASE {name} OWNER TO postgres; DROP OWNED BY \"owned reads\"; DROP ROLE \"owned reads\"; DROP ROLE \"owned by\""
    ));
    let copy = server.name("owned_copy");
    let restored = pgseal.json(&[
        "restore",
        "latest",
        "--to",
        &copy.url,
        "--mode",
        "new",
        "--map-role",
        "owned by=owned_new",
        "--map-role",
        "owned reads=owned_reads",
    ]);
    let told = restored["warnings"].to_string();
    assert!(!told.contains("ALTER DATABASE"), "{told}");
    assert!(!told.contains("not applied"), "{told}");
    let facts = "SELECT pg_get_userbyid(datdba) || ' ' || has_database_privilege('owned_reads', oid, 'CONNECT WITH GRANT OPTION') \
        FROM pg_database WHERE datname = current_database()";
    assert_eq!(copy.psql(facts), "owned_new true");
    let settings = "SELECT setrole::regrole || ' ' || array_to_string(setconfig, ' ') FROM pg_db_role_setting \
        WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())";
    assert_eq!(copy.psql(settings), "owned_reads work_mem=7MB");
    for role in ["owned by", "owned reads"] {
        assert!(!exists(role), "nothing names {role} any more");
    }
    gone(&copy, &["owned_new".to_owned(), "owned_reads".to_owned()]);
}

#[test]
fn missing_roles_are_left_out() {
    let (database, pgseal, roles) = without_roles("skipped");
    let copy = Postgres::shared().name("skipped_copy");
    for (to, mode) in [(&copy, "new"), (&database, "in-place")] {
        let restored = pgseal.json(&[
            "restore",
            "latest",
            "--to",
            &to.url,
            "--mode",
            mode,
            "--skip-missing-owners",
        ]);
        assert!(
            restored["warnings"]
                .to_string()
                .contains("all grants were left out"),
            "{restored}"
        );
        // Of a new one, with the name that it has by now.
        let setting = format!("IN DATABASE \\\"{}\\\" SET", to.name);
        assert_eq!(
            restored["warnings"].to_string().contains(&setting),
            mode == "new",
            "{restored}"
        );
        assert_eq!(to.psql(OWNERS), "postgres");
        assert_eq!(
            to.psql("SELECT relacl IS NULL FROM pg_class WHERE oid = 's.t'::regclass"),
            "t"
        );
        assert!(roles.iter().all(|role| !exists(role)));
    }
}

/// What says a role's name itself cannot be left out: that is found before anything is loaded, and making the role helps.
#[test]
fn a_policy_for_a_missing_role_is_found_before() {
    let server = Postgres::shared();
    let source = server.create_database("bound");
    server.psql(
        "postgres",
        "CREATE ROLE bound_tenant; CREATE ROLE \"bound far\"",
    );
    source.psql(
        "CREATE TABLE t (i int); CREATE TABLE plain AS SELECT 1 AS one; ALTER TABLE t ENABLE ROW LEVEL SECURITY; \
         CREATE POLICY p ON t TO bound_tenant USING (true); CREATE TABLE open (i int); CREATE POLICY all_in ON open USING (true); \
         CREATE FOREIGN DATA WRAPPER w; CREATE SERVER far FOREIGN DATA WRAPPER w; CREATE USER MAPPING FOR \"bound far\" SERVER far",
    );
    let mut pgseal = Pgseal::new();
    pgseal.set("DATABASE_URL", &source.url);
    pgseal.ok(&["backup"]);
    source.psql("DROP POLICY p ON t; DROP FOREIGN DATA WRAPPER w CASCADE");
    server.psql("postgres", "DROP ROLE bound_tenant, \"bound far\"");
    let stored = pgseal.stored();
    let copy = server.name("bound_copy");
    let into = |more: &[&'static str]| {
        let mut all = vec!["restore", "latest", "--to", &copy.url, "--mode", "new"];
        all.extend(more);
        all
    };
    let said = pgseal.fails(5, &into(&["--skip-missing-owners"]));
    assert!(
        said.contains("policies or user mappings name bound far, bound_tenant, whom"),
        "{said}"
    );
    assert!(said.contains("--create-missing-roles"), "{said}");
    assert_eq!(pgseal.stored(), stored);
    assert!(!server.databases().contains(&copy.name));
    // A part that names no such role needs none.
    pgseal.ok(&into(&["--skip-missing-owners", "--table", "public.plain"]));
    assert_eq!(copy.psql("SELECT * FROM plain"), "1");
    server.psql("postgres", &format!("DROP DATABASE {}", copy.name));
    pgseal.ok(&into(&["--create-missing-roles"]));
    let policy =
        "SELECT polname || ' ' || polroles::regrole[]::text FROM pg_policy WHERE polname = 'p'";
    assert_eq!(copy.psql(policy), "p {bound_tenant}");
    gone(&copy, &["bound_tenant".to_owned(), "bound far".to_owned()]);
}

/// A restore that fails takes the roles back that it made.
#[test]
fn roles_of_a_restore_that_failed_go_again() {
    let (_database, mut pgseal, roles) = without_roles("undone");
    let clients = crate::harness::cli::clients(
        None,
        Some(
            "case \"$*\" in *--dbname*) cat > /dev/null; exit 1;; *) exec \"$REAL\" \"$@\";; esac",
        ),
    );
    pgseal.with_clients(clients.path());
    let copy = Postgres::shared().name("undone_copy");
    let arguments = [
        "restore",
        "latest",
        "--to",
        &copy.url,
        "--mode",
        "new",
        "--create-missing-roles",
    ];
    let said = pgseal.fails(1, &arguments);
    assert!(said.contains("load the backup"), "{said}");
    assert!(roles.iter().all(|role| !exists(role)));
}
